"""Small pictures of images, for pages."""

import numpy as np
from PIL import Image

from sdclr_jax.data import images as encoded

SIDE = 64  # pixels at most


def make(images: np.ndarray | encoded.Encoded, rows: np.ndarray) -> np.ndarray:
    """Thumbnails of these rows, uint8 [M, side, side, 3], each whole and centred on grey; `side` is that of the
    largest of them, and at most `SIDE`."""
    small = [_picture(images, row) for row in rows.tolist()]
    side = max(max(picture.size) for picture in small)
    thumbnails = np.full((len(small), side, side, 3), 128, np.uint8)
    for thumbnail, picture in zip(thumbnails, small, strict=True):
        left, top = (side - picture.width) // 2, (side - picture.height) // 2
        thumbnail[top : top + picture.height, left : left + picture.width] = np.asarray(picture)
    return thumbnails


def _picture(images: np.ndarray | encoded.Encoded, row: int) -> Image.Image:
    if isinstance(images, encoded.Encoded):
        picture = encoded.rgb(encoded.opened(images.read(row)))
    else:
        grey = images.shape[-1] == 1
        picture = Image.fromarray(images[row, ..., 0] if grey else images[row]).convert("RGB")
    picture.thumbnail((SIDE, SIDE))
    return picture
