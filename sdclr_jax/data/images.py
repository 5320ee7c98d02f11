"""Images in memory, and encoded images of any size and kind: where they lie.

`Examples.images` is either one array, where all images have one size and fit in memory, or `Encoded`: images that are
decoded when they are asked for. This module imports neither JAX nor tfds, so that worker processes start quickly.
"""

import abc
import hashlib
import os
import pathlib

import numpy as np
from PIL import Image

from sdclr_jax import files
from sdclr_jax.data import decoding, threads
from sdclr_jax.errors import UserError, first_line
from sdclr_jax.progress import progressed

LARGEST = 2**30  # bytes of an image file


class Images(abc.ABC):
    """What both kinds of images can do, so that few need to know which they have; `as_images` makes one of an array."""

    is_decoded: bool  # whether pixels lie in memory, all images of one size

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def shape(self, size: int) -> tuple[int, int, int]:
        """[H, W, C] of one image as it is batched; where images are decoded, `size` is the side of their crops."""

    @property
    def whole_shape(self) -> tuple[int, int, int] | None:
        """[H, W, C] of each image where all have one size and are seen whole; None where they are cropped."""
        return self.shape(0) if self.is_decoded else None

    @abc.abstractmethod
    def digest(self) -> str:
        """SHA-256 of what identifies these images, in order. No image is read from a disk: one that lies there is
        identified by the name of its file, the file's size, and the time of its last change."""

    @abc.abstractmethod
    def picture(self, row: int, side: int = 0) -> Image.Image:
        """One image, whole, RGB. With a `side`, a JPEG whose longer side has more than twice as many pixels may come
        smaller, which takes a fraction of the time.

        Raises:
            BadImage, OSError: as `decoding.decode`, where images are encoded.
        """


class Pixels(Images):
    """Images that are one array, uint8 [N, H, W, C]."""

    is_decoded = True

    def __init__(self, array: np.ndarray):
        self.array = array

    def __len__(self) -> int:
        return len(self.array)

    def shape(self, size: int) -> tuple[int, int, int]:
        return self.array.shape[1:]

    def digest(self) -> str:
        return hashlib.sha256(str(self.array.shape).encode() + self.array.tobytes()).hexdigest()

    def picture(self, row: int, side: int = 0) -> Image.Image:
        pixels = self.array[row]
        return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).convert("RGB")


class Encoded(Images):
    """Images as encoded bytes, read when asked for. Small to pickle: workers are sent the whole object once."""

    is_decoded = False
    gray_range: tuple[float, ...] = ()  # of `decoding.decode`

    @abc.abstractmethod
    def __getitem__(self, rows: np.ndarray) -> "Encoded":
        """The images of these rows, int [M], in that order; nothing is read."""

    @abc.abstractmethod
    def read(self, row: int) -> bytes:
        """The encoded bytes of one image. Raises OSError where they cannot be had."""

    @abc.abstractmethod
    def name(self, row: int) -> str:
        """What a person would look for: a path, or an id."""

    def unread(self, row: int, error: Exception) -> UserError:
        """What is said of an image that could be decoded when it was looked at, and now cannot, which `error` says."""
        reason = getattr(error, "strerror", None) or first_line(error)
        return UserError(
            f"{self.name(row)} could be decoded before, and cannot be read now ({reason}): run again if it has just "
            "changed, else mend it or move it away"
        )

    def shape(self, size: int) -> tuple[int, int, int]:
        return (size, size, 3)

    def picture(self, row: int, side: int = 0) -> Image.Image:
        def scale(height: int, width: int) -> int:
            return decoding.smaller(max(height, width) / (2 * side))

        return decoding.decode(self.read(row), self.gray_range, scale if side else None).image


class Files(Encoded):
    """Files below a folder; `paths` str [N] are relative to `root`, `gray_range` is that of `decoding.decode`."""

    def __init__(self, root: pathlib.Path | str, paths: np.ndarray, gray_range: tuple[float, ...] = ()):
        self.root, self.paths, self.gray_range = pathlib.Path(root), np.asarray(paths, str), gray_range

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, rows: np.ndarray) -> "Files":
        return Files(self.root, self.paths[rows], self.gray_range)

    def read(self, row: int) -> bytes:
        return files.read(self.root / self.paths[row], LARGEST)

    def name(self, row: int) -> str:
        return str(self.root / self.paths[row])

    def digest(self) -> str:
        """Where the folder lies is no part of it."""
        total = hashlib.sha256()
        with threads.pool() as pool:  # a disk in the network answers many questions at once
            for path, stamp in zip(self.paths, pool.map(stamp_of, map(self.name, range(len(self)))), strict=True):
                progressed()
                total.update(f"{path}\n{stamp}\n".encode(errors="surrogateescape"))
        return total.hexdigest()


def stamp_of(path: pathlib.Path | str) -> str:
    """Size and time of the last change of a file; '' where there is none: to say so is for what reads it."""
    try:
        status = os.stat(path)
    except OSError:
        return ""
    return f"{status.st_size} {status.st_mtime_ns}"


def as_images(images: np.ndarray | Images) -> Images:
    """The images of an array, or of what are `Images` already."""
    return images if isinstance(images, Images) else Pixels(images)
