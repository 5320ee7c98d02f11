"""Pictures that a caller has at hand, as encoded images: one way through decoding, resizing and cropping for all."""

import hashlib
import io
import os
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageOps

from sdclr_jax.data import images
from sdclr_jax.data.images import BadImage, Encoded
from sdclr_jax.errors import UserError

Picture = str | os.PathLike | Image.Image | np.ndarray


class Pictures(Encoded):
    """Files by their paths, PIL images, and arrays, of any size.

    The bytes of a file are its own; those of the others are BMP, which keeps every pixel.

    Args:
        pictures: paths, PIL images of any mode, and uint8 arrays [H, W, 1] or [H, W, 3].
        grayscale: whether the bytes shall be those of a grayscale image.
    """

    def __init__(self, pictures: Sequence[Picture], grayscale: bool = False):
        self._pictures, self._grayscale = pictures, grayscale

    def __len__(self) -> int:
        return len(self._pictures)

    def __getitem__(self, rows: np.ndarray) -> "Pictures":
        return Pictures([self._pictures[row] for row in rows], self._grayscale)

    def read(self, row: int) -> bytes:
        picture = self._pictures[row]
        if isinstance(picture, str | os.PathLike):
            try:
                with open(picture, "rb") as file:
                    data = file.read()
                opened = images.opened(data)
            except (OSError, BadImage) as error:
                reason = error.strerror if isinstance(error, OSError) else error
                raise UserError(f"{self.name(row)} cannot be read ({reason}): give paths of images") from error
            if not self._grayscale:
                return data
            picture = opened
        if isinstance(picture, np.ndarray):
            picture = Image.fromarray(picture[:, :, 0] if picture.shape[2] == 1 else picture)
        try:
            shown = images.rgb(picture.copy())  # the copy, as it is turned upright in place
        except BadImage:
            raise
        except Exception as error:  # of a file that is opened late, Pillow's readers raise a type of their own
            raise BadImage(str(error).splitlines()[0] if str(error) else type(error).__name__) from error
        file = io.BytesIO()
        (shown.convert("L") if self._grayscale else shown).save(file, "bmp")
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
                picture = images.rgb(images.opened(self.read(row)))
            except BadImage as error:
                raise UserError(f"{self.name(row)} cannot be read ({error}): put another image in its place") from error
            seen = ImageOps.fit(picture, (width, height), Image.Resampling.BICUBIC)
            fitted[row] = np.asarray(seen)[..., :channels]
        return fitted

    def digest(self) -> str:
        def of(picture: Picture) -> str:
            if isinstance(picture, str | os.PathLike):
                return f"{os.fspath(picture)} {images.stamp_of(picture)}"
            array = np.asarray(picture)
            return f"{array.shape} {hashlib.sha256(array.tobytes()).hexdigest()}"

        stamps = "\n".join(map(of, self._pictures))
        return hashlib.sha256(f"{self._grayscale}\n{stamps}".encode(errors="surrogateescape")).hexdigest()

    def name(self, row: int) -> str:
        picture = self._pictures[row]
        return os.fspath(picture) if isinstance(picture, str | os.PathLike) else f"image {row}"
