"""Pictures that look like photographs to a codec, made on the spot."""

import io

import numpy as np
from PIL import ExifTags, Image


def photo(width: int, height: int, seed: int = 0) -> Image.Image:
    """Smooth coloured noise with a little grain."""
    rng = np.random.default_rng(seed)
    picture = sum(
        np.asarray(
            Image.fromarray(rng.integers(0, 256, (cells, cells, 3), np.uint8)).resize((width, height), 3), np.float32
        )
        / (2 + i)
        for i, cells in enumerate((3, 7, 19))
    )
    grain = rng.normal(0, 3, (height, width, 3))
    return Image.fromarray(np.clip(picture * 0.9 + grain, 0, 255).astype(np.uint8))


def jpeg(image: Image.Image, quality: int = 90, orientation: int = 1, **options) -> bytes:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return encoded(image, "JPEG", quality=quality, exif=exif, **options)


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()
