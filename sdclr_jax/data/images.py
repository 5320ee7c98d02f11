"""Encoded images of any size and kind: where they lie, and how each becomes eight-bit red, green and blue.

`Examples.images` is either one array, where all images have one size and fit in memory, or `Encoded`: images that are
decoded when they are asked for. This module imports neither JAX nor tfds, so that worker processes start quickly.
"""

import abc
import hashlib
import io
import os
import pathlib
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageOps


class BadImage(ValueError):
    """An image that cannot be decoded; its message says why, in a few words."""


class Images(abc.ABC):
    """What both kinds of images can do, so that few need to know which they have; `as_images` makes one of an array."""

    is_decoded: bool  # whether pixels lie in memory, all images of one size

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def shape(self, size: int) -> tuple[int, int, int]:
        """[H, W, C] of one image as it is batched; where images are decoded, `size` is the side of their crops."""

    @abc.abstractmethod
    def digest(self) -> str:
        """SHA-256 of what identifies these images, in order. No image is read from a disk: one that lies there is
        identified by the name of its file, the file's size, and the time of its last change."""

    @abc.abstractmethod
    def picture(self, row: int) -> Image.Image:
        """One image, whole, RGB."""


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

    def picture(self, row: int) -> Image.Image:
        pixels = self.array[row]
        return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).convert("RGB")


class Encoded(Images):
    """Images as encoded bytes, read when asked for. Small to pickle: workers are sent the whole object once."""

    is_decoded = False

    @abc.abstractmethod
    def __getitem__(self, rows: np.ndarray) -> "Encoded":
        """The images of these rows, int [M], in that order; nothing is read."""

    @abc.abstractmethod
    def read(self, row: int) -> bytes:
        """The encoded bytes of one image. Raises OSError where they cannot be had."""

    @abc.abstractmethod
    def name(self, row: int) -> str:
        """What a person would look for: a path, or an id."""

    def shape(self, size: int) -> tuple[int, int, int]:
        return (size, size, 3)

    def picture(self, row: int) -> Image.Image:
        return rgb(opened(self.read(row)))


class Files(Encoded):
    """Files below a folder; `paths` str [N] are relative to `root`."""

    def __init__(self, root: pathlib.Path | str, paths: np.ndarray):
        self.root, self.paths = pathlib.Path(root), np.asarray(paths, str)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, rows: np.ndarray) -> "Files":
        return Files(self.root, self.paths[rows])

    def read(self, row: int) -> bytes:
        return (self.root / self.paths[row]).read_bytes()

    def name(self, row: int) -> str:
        return str(self.root / self.paths[row])

    def digest(self) -> str:
        """Where the folder lies is no part of it."""
        total = hashlib.sha256()
        with ThreadPoolExecutor() as threads:  # a disk in the network answers many questions at once
            for path, stamp in zip(self.paths, threads.map(stamp_of, map(self.name, range(len(self)))), strict=True):
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


def opened(data: bytes) -> Image.Image:
    """The image, its header read and its pixels not yet, so that its size is known at little cost.

    Raises:
        BadImage: not an image, or one of a size that no photograph has.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return Image.open(io.BytesIO(data))
        except Exception as error:  # Pillow's readers raise a type of their own for each kind of damage
            raise BadImage(_reason(error)) from error


class Layout(NamedTuple):
    """Of an opened image as `rgb` will show it, against how it is stored."""

    height: int
    width: int
    reversed: tuple[bool, bool]  # whether the first row, and the first column, is the last one that is stored


def layout(image: Image.Image) -> Layout:
    """Known before the pixels are read, where the image's kind allows that.

    Raises:
        BadImage: damaged.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
        except Exception as error:  # as above
            raise BadImage(_reason(error)) from error
    height, width = (image.width, image.height) if orientation in (5, 6, 7, 8) else (image.height, image.width)
    return Layout(height, width, (orientation in (3, 4, 7, 8), orientation in (2, 3, 6, 7)))


def rgb(image: Image.Image) -> Image.Image:
    """An opened image as it is meant to be seen: upright, RGB, eight bits, transparent parts on white, the first frame
    of an animation, CMYK and grey converted, 16-bit grey scaled.

    Raises:
        BadImage: truncated, damaged, or pixels that are floating-point numbers without a known range.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            image.load()
            ImageOps.exif_transpose(image, in_place=True)  # else it copies one that is upright, too
            if image.mode.startswith("I"):  # 16-bit grey; Pillow's own conversion to 8 bits clips it at 255
                return Image.fromarray((np.asarray(image).clip(0, 65535) // 257).astype(np.uint8)).convert("RGB")
            if image.mode == "F":
                raise BadImage("floating-point pixels")
            if image.has_transparency_data:
                image = image.convert("RGBA")
                white = Image.new("RGBA", image.size, "white")
                return Image.alpha_composite(white, image).convert("RGB")
            return image if image.mode == "RGB" else image.convert("RGB")
        except BadImage:
            raise
        except Exception as error:  # as above
            raise BadImage(_reason(error)) from error


def _reason(error: Exception) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        return "not an image of a known format"
    return (str(error) or type(error).__name__).splitlines()[0]
