"""Small copies of a folder's images: squares to train on quickly, and a few pixels of each whole picture to compare."""

import io
import pathlib
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from PIL import Image

from sdclr_jax.data import crops, decoding, images
from sdclr_jax.errors import UserError
from sdclr_jax.progress import bar

_ROUNDING = 2.0  # gray levels between two copies of one picture, mean
_MARK = ".sdclr_jax_copies"  # a file of a folder of copies, which says that `write` may replace what is there


class Copies(NamedTuple):
    """What is kept in memory of each image."""

    squares: np.ndarray  # uint8 [N, S, S, 3], the middle of each, as the evaluation sees it
    thumbnails: np.ndarray  # uint8 [N, s, s, 3], the whole of each, squeezed into a square
    sizes: np.ndarray  # int32 [N, 2], height and width
    bytes: np.ndarray  # int64 [N], of the files


def make(encoded: images.Encoded, square: int, thumbnail: int, progress: bool = False) -> Copies:
    """Decode each image once, on all cores.

    Args:
        encoded: N images.
        square, thumbnail: sides in pixels.
        progress: whether to draw a bar on the standard error.

    Raises:
        UserError: an image cannot be read, or there is no memory for so many.
    """
    count = len(encoded)
    try:
        squares = np.empty((count, square, square, 3), np.uint8)
        thumbnails = np.empty((count, thumbnail, thumbnail, 3), np.uint8)
    except MemoryError as error:
        raise UserError(f"{count} images of {square} x {square} pixels do not fit into memory: give fewer") from error
    sizes, weights = np.empty((count, 2), np.int32), np.empty(count, np.int64)
    middle = crops.CentreCrop(size=square, resize=square)

    def fraction(height: int, width: int) -> int:
        return decoding.smaller(min(height, width) / (2 * thumbnail))

    def look(row: int) -> None:
        try:
            data = encoded.read(row)
            ((cropped,),) = crops.cut(data, [middle], step=0, place=0, gray_range=encoded.gray_range)
            decoded = decoding.decode(data, encoded.gray_range, scale=fraction)
            sizes[row] = decoded.height, decoded.width
            whole = decoded.image.resize((thumbnail, thumbnail), Image.Resampling.BICUBIC)
        except (OSError, decoding.BadImage) as error:
            raise encoded.unread(row, error) from error
        squares[row], thumbnails[row], weights[row] = cropped, np.asarray(whole), len(data)

    with bar("small copies", count, progress, unit="image") as shown, ThreadPoolExecutor() as pool:
        try:
            for _ in pool.map(look, range(count)):
                shown.update()
        finally:
            pool.shutdown(cancel_futures=True)
    return Copies(squares, thumbnails, sizes, weights)


def write(squares: np.ndarray, names: list[str], folder: pathlib.Path) -> None:
    """The squares as PNG files of these names, which keep their endings: what reads images goes by their content. What
    has such a name in the folder is replaced, so a caller first asks whether it `is_marked`.

    Raises:
        UserError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _MARK).touch()  # first: a process may be killed before it has written all
        for square, name in zip(squares, names, strict=True):
            file = io.BytesIO()
            Image.fromarray(square).save(file, "png")
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(file.getvalue())
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{folder} cannot be written ({reason}): make room and permission there") from error


def is_marked(folder: pathlib.Path) -> bool:
    """Whether `write` has begun to write copies to a folder; versions before 29 November 2026 have left no mark."""
    return (folder / _MARK).is_file()


def names(folder: pathlib.Path) -> set[str]:
    """Of the files that `write` has written to a folder; none where there is no such folder."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != _MARK)
    return {path.relative_to(folder).as_posix() for path in files}


def is_same(square: np.ndarray, path: pathlib.Path) -> bool:
    """Whether a square uint8 [S, S, 3] shows the picture of a file of `write`, but for what two decoders differ in."""
    try:
        with Image.open(path) as image:
            before = np.asarray(image.convert("RGB"), np.int16)
    except OSError:
        return False
    return before.shape == square.shape and float(np.abs(before - square).mean()) < _ROUNDING
