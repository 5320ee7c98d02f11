"""Small pictures of images, for pages."""

import logging

import numpy as np
from PIL import Image

from sdclr_jax.data.decoding import BadImage
from sdclr_jax.data.images import Encoded, Images, as_images
from sdclr_jax.errors import printable

SIDE = 64  # pixels at most
_GREY = 128
LOG = logging.getLogger(__name__)


def make(images: np.ndarray | Encoded, rows: np.ndarray) -> np.ndarray:
    """Thumbnails of these rows, uint8 [M, side, side, 3], each whole and centred on grey; `side` is that of the
    largest of them, and at most `SIDE`. An image that cannot be read any more is all grey, which a warning tells."""
    small, lost = [], []
    for row in rows.tolist():  # a page may have thousands: each is shrunk before the next one is decoded
        try:
            small.append(_thumbnail(as_images(images), row))
        except (OSError, BadImage) as error:
            small.append(Image.new("RGB", (1, 1), (_GREY,) * 3))
            lost.append(f"{as_images(images).name(row)} ({getattr(error, 'strerror', None) or error})")
    if lost:
        said = f"images of the page cannot be read any more, and are grey: {len(lost)}, such as {lost[0]}"
        LOG.warning("%s", printable(said))
    side = max(max(picture.size) for picture in small)
    thumbnails = np.full((len(small), side, side, 3), _GREY, np.uint8)
    for thumbnail, picture in zip(thumbnails, small, strict=True):
        left, top = (side - picture.width) // 2, (side - picture.height) // 2
        thumbnail[top : top + picture.height, left : left + picture.width] = np.asarray(picture)
    return thumbnails


def _thumbnail(images: Images, row: int) -> Image.Image:
    picture = images.picture(row, SIDE)
    picture.thumbnail((SIDE, SIDE))
    return picture
