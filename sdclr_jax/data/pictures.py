"""Pictures that a caller has at hand, as encoded images: one way through decoding, resizing and cropping for all."""

import contextlib
import hashlib
import io
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from sdclr_jax import files
from sdclr_jax.data import decoding
from sdclr_jax.data.decoding import BadImage
from sdclr_jax.data.images import LARGEST, Encoded, stamp_of
from sdclr_jax.errors import UserError

Picture = str | os.PathLike | Image.Image | np.ndarray


class Pictures(Encoded):
    """Files by their paths, PIL images, and arrays, of any size.

    The bytes of a file are its own; those of the others are BMP, which keeps every pixel.

    Args:
        pictures: paths, PIL images of any mode, and uint8 arrays [H, W, 1] or [H, W, 3].
        grayscale: whether the bytes shall be those of a grayscale image.
        gray_range: of `decoding.decode`.
    """

    def __init__(self, pictures: Sequence[Picture], grayscale: bool = False, gray_range: tuple[float, ...] = ()):
        self._pictures, self._grayscale, self.gray_range = pictures, grayscale, gray_range

    def __getstate__(self) -> dict[str, Any]:
        """For a worker: PIL images as they are seen, since Pillow leaves out what tells white from black in a TIFF."""

        def sent(picture: Picture) -> Picture:
            if isinstance(picture, Image.Image):
                with contextlib.suppress(BadImage, OSError):  # the worker finds the same, and says it
                    return np.asarray(decoding.shown(picture, self.gray_range))
            return picture

        return self.__dict__ | {"_pictures": [sent(picture) for picture in self._pictures]}

    def __len__(self) -> int:
        return len(self._pictures)

    def __getitem__(self, rows: np.ndarray) -> "Pictures":
        return Pictures([self._pictures[row] for row in rows], self._grayscale, self.gray_range)

    def read(self, row: int) -> bytes:
        picture = self._pictures[row]
        if isinstance(picture, str | os.PathLike):
            try:
                data = files.read(os.path.expanduser(picture), LARGEST)
                if not self._grayscale:
                    decoding.identify(data)
                    return data
                image = decoding.decode(data, self.gray_range).image
            except (OSError, BadImage) as error:
                reason = error.strerror if isinstance(error, OSError) else error
                raise UserError(f"{self.name(row)} cannot be read ({reason}): give paths of images") from error
        else:
            if isinstance(picture, np.ndarray):
                picture = Image.fromarray(picture[:, :, 0] if picture.shape[2] == 1 else picture)
            image = decoding.shown(picture, self.gray_range)
        file = io.BytesIO()
        (image.convert("L") if self._grayscale else image).save(file, "bmp")
        return file.getvalue()

    def fitted(self, height: int, width: int) -> np.ndarray:
        """The largest middle of each that has this shape, resized to it: uint8 [N, height, width, 1 or 3].

        Raises:
            UserError: names the one that cannot be read.
        """
        channels = 1 if self._grayscale else 3
        fitted = np.empty((len(self), height, width, channels), np.uint8)
        for row in range(len(self)):
            try:
                picture = decoding.decode(self.read(row), self.gray_range).image
            except BadImage as error:
                raise UserError(f"{self.name(row)} cannot be read ({error}): put another image in its place") from error
            seen = ImageOps.fit(picture, (width, height), Image.Resampling.BICUBIC)
            fitted[row] = np.asarray(seen)[..., :channels]
        return fitted

    def digest(self) -> str:
        def of(picture: Picture) -> str:
            if isinstance(picture, str | os.PathLike):
                return f"{os.fspath(picture)} {stamp_of(os.path.expanduser(picture))}"
            array = np.asarray(picture)
            return f"{array.shape} {hashlib.sha256(array.tobytes()).hexdigest()}"

        stamps = "\n".join(map(of, self._pictures))
        return hashlib.sha256(f"{self._grayscale}\n{stamps}".encode(errors="surrogateescape")).hexdigest()

    def name(self, row: int) -> str:
        picture = self._pictures[row]
        return os.fspath(picture) if isinstance(picture, str | os.PathLike) else f"image {row}"
