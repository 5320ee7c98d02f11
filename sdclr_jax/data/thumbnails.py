"""Small pictures of images, for pages."""

import numpy as np

from sdclr_jax.data.images import Encoded, as_images

SIDE = 64  # pixels at most


def make(images: np.ndarray | Encoded, rows: np.ndarray) -> np.ndarray:
    """Thumbnails of these rows, uint8 [M, side, side, 3], each whole and centred on grey; `side` is that of the
    largest of them, and at most `SIDE`."""
    small = [as_images(images).picture(row) for row in rows.tolist()]
    for picture in small:
        picture.thumbnail((SIDE, SIDE))
    side = max(max(picture.size) for picture in small)
    thumbnails = np.full((len(small), side, side, 3), 128, np.uint8)
    for thumbnail, picture in zip(thumbnails, small, strict=True):
        left, top = (side - picture.width) // 2, (side - picture.height) // 2
        thumbnail[top : top + picture.height, left : left + picture.width] = np.asarray(picture)
    return thumbnails
