"""Crops of encoded images, made on the host: which part of an image, and that part at the size of a view.

Where a random crop lies is a function of (seed, step, place in the batch, crop) and of the image's size alone, so a
batch is the same for any number of workers and hosts, and after resume. This module imports neither JAX nor tfds, so
that worker processes start quickly.
"""

import math
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
from PIL import Image

from sdclr_jax.data import decoding
from sdclr_jax.data.decoding import BadImage
from sdclr_jax.data.images import Encoded
from sdclr_jax.errors import UserError
from sdclr_jax.records import encoder

INTERPOLATIONS = {name: Image.Resampling[name.upper()] for name in encoder.INTERPOLATIONS}  # all antialiased
ATTEMPTS = 10  # boxes tried before the whole image is taken, as in torchvision
UNIFORMS = 2 * ATTEMPTS + 2  # uniform numbers that a box takes

_IN_A_ROW = 100  # unreadable images passed over before it is the folder, not an image, that is held to be gone


class RandomCrops(NamedTuple):
    """`count` crops of each image by torchvision's RandomResizedCrop, `size` pixels square."""

    count: int
    size: int
    scale: tuple[float, float]  # share of the image's area, from and to
    ratio: tuple[float, float]  # width over height, from and to
    seed: int
    first: int = 0  # number of the first of these crops, where there are others of the image
    interpolation: str = "bicubic"

    @property
    def reads_outside(self) -> bool:
        """What lies outside of a crop must not show at its borders."""
        return False

    def boxes(self, height: int, width: int, step: int, place: int) -> np.ndarray:
        """Float64 [count, 4] = top, left, height, width in whole pixels, for the image at a place of a step's batch."""
        u = np.stack([uniform(self.seed, step, place, self.first + crop) for crop in range(self.count)])
        return random_boxes(u, height, width, self.scale, self.ratio).astype(np.float64)


class CentreCrop(NamedTuple):
    """The middle `size` pixels square of the image, resized so that its shorter side has `resize` pixels.

    As torchvision's Resize and CenterCrop, in one resampling of the part that is kept.
    """

    size: int
    resize: int
    count: int = 1
    interpolation: str = "bicubic"

    @property
    def reads_outside(self) -> bool:
        """The pixels next to the crop are in the resized image, too."""
        return True

    def boxes(self, height: int, width: int, step: int = 0, place: int = 0) -> np.ndarray:
        """Float64 [1, 4] = top, left, height, width in pixels of the image."""
        shorter = min(height, width)
        # torchvision cuts the longer side to whole pixels, and rounds the corner to even.
        sides = np.array([[self.resize * side // shorter for side in (height, width)]], np.float64)
        pixel = np.array([[height, width]], np.float64) / sides
        return np.concatenate([np.round((sides - self.size) / 2) * pixel, self.size * pixel], axis=1)


Crops = RandomCrops | CentreCrop


def uniform(seed: int, step: int, place: int, crop: int) -> np.ndarray:
    """The uniform numbers float64 [22] in 0..1 that decide one box.

    From raw words of a counter-based generator, addressed rather than drawn in turn: NumPy keeps these the same from
    version to version, but not what `Generator` makes of them.
    """
    words = np.random.Philox(key=np.array([seed, 0], np.uint64), counter=[0, crop, place, step]).random_raw(UNIFORMS)
    return (words >> np.uint64(11)) * 2.0**-53


def random_boxes(u, height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float]):
    """Boxes int32 [B, 4] = top, left, height, width in pixels, from uniform numbers [B, 22]; torchvision's rule.

    The first of ten boxes (area uniform in `scale` times the image's, logarithm of width over height uniform in that of
    `ratio`, sides rounded) that fits into the image, anywhere in it; if none fits, the largest central box in `ratio`.
    Of NumPy or of JAX, as `u` is: the one rule for images on the host and on the device.
    """
    xp = u.__array_namespace__()
    area = height * width * (scale[0] + (scale[1] - scale[0]) * u[:, :ATTEMPTS])
    low, high = map(math.log, ratio)
    aspect = xp.exp(low + (high - low) * u[:, ATTEMPTS : 2 * ATTEMPTS])
    sides = xp.round(xp.sqrt(xp.stack([area / aspect, area * aspect], axis=2)))  # [B, 10, 2], height and width
    whole = xp.asarray([[height, width]], dtype=u.dtype)
    fits = ((sides >= 1) & (sides <= whole[None])).all(axis=2)
    first = xp.argmax(fits, axis=1)[:, None, None]
    central = (min(height, max(round(width / ratio[0]), 1)), min(width, max(round(height * ratio[1]), 1)))
    found = fits.any(axis=1)[:, None]
    box = xp.where(found, xp.take_along_axis(sides, first, axis=1)[:, 0], xp.asarray([central], dtype=u.dtype))
    room = whole - box
    corner = xp.floor(xp.where(found, u[:, 2 * ATTEMPTS :] * (room + 1), room / 2))
    return xp.concatenate([corner, box], axis=1).astype(xp.int32)


def cut(
    data: bytes, crops: Sequence[Crops], step: int, place: int, gray_range: tuple[float, ...] = ()
) -> list[np.ndarray]:
    """The crops of one encoded image, uint8 [count, size, size, 3] for each of `crops`, antialiased.

    A JPEG of which even the smallest box is twice the size of a view or more is decoded at a half, a quarter or an
    eighth of its size, as long as no box falls below the size of its view: a photograph from a telephone then takes a
    fraction of the time.

    Raises:
        BadImage, OSError: as `decoding.decode`, whose argument `gray_range` is.
    """

    @cache
    def boxes(height: int, width: int) -> list[np.ndarray]:
        return [c.boxes(height, width, step, place) for c in crops]

    def scale(height: int, width: int) -> int:
        room = min(b[:, 2:].min() / c.size for b, c in zip(boxes(height, width), crops, strict=True))
        return decoding.smaller(room)

    found = decoding.decode(data, gray_range, scale)
    return [
        np.stack([np.asarray(_resized(found.image, box, c)) for box in (b + [[*found.before, 0, 0]]) / found.scale])
        for b, c in zip(boxes(found.height, found.width), crops, strict=True)
    ]


def _resized(image: Image.Image, box: np.ndarray, crops: Crops) -> Image.Image:
    top, left, height, width = box.tolist()
    box = (left, top, min(left + width, image.width), min(top + height, image.height))
    if not crops.reads_outside:
        outer = (math.floor(box[0]), math.floor(box[1]), math.ceil(box[2]), math.ceil(box[3]))
        image = image.crop(outer)
        box = (box[0] - outer[0], box[1] - outer[1], box[2] - outer[0], box[3] - outer[1])
    return image.resize((crops.size, crops.size), INTERPOLATIONS[crops.interpolation], box)


class Unreadable(NamedTuple):
    """An image that another one was taken for."""

    name: str
    reason: str


def fill(
    out: Sequence[np.ndarray], encoded: Encoded, row: int, crops: Sequence[Crops], step: int, place: int
) -> list[Unreadable]:
    """Write what `cut` gives of an image, or of the next one of the set that can be read, to the arrays `out`.

    Returns what was passed over. Raises UserError after a hundred in a row, or where there are no images.
    """
    if not len(encoded):
        raise UserError("there are no images to crop: see that the data set is still there")
    passed = []
    for candidate in range(row, row + min(_IN_A_ROW, len(encoded))):
        candidate %= len(encoded)
        try:
            views = cut(encoded.read(candidate), crops, step, place, encoded.gray_range)
        except (OSError, BadImage) as error:
            reason = error.strerror if isinstance(error, OSError) else None
            passed.append(Unreadable(encoded.name(candidate), reason or str(error)))
        else:
            for there, made in zip(out, views, strict=True):
                there[...] = made
            return passed
    raise UserError(
        f"{len(passed)} images in a row cannot be read, the last one {passed[-1].name} ({passed[-1].reason}): see that "
        "the data set is still there"
    )
