"""Files that are written whole or not at all, and paths as a person writes them."""

import contextlib
import errno
import os
import pathlib
import stat
import tempfile
from collections.abc import Iterator
from typing import BinaryIO

from sdclr_jax.errors import UserError


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Where to write what takes the place of the file `path` when the context ends, and then is on the disk; its folder
    is made where it is missing.

    Raises:
        UserError: the disk is full, or the folder cannot be written; what stood there still does.
    """
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not path.parent.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
        # A folder of its own: another process may write the same file, on another machine under the same process id.
        with tempfile.TemporaryDirectory(prefix=".writing-", dir=path.parent) as scratch:
            part = pathlib.Path(scratch) / path.name
            yield part
            with part.open("rb") as file:
                os.fsync(file.fileno())  # else the new name may outlive a power cut and the content not
            os.replace(part, path)
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error.strerror or error}): make room and permission there, or name another "
            "folder"
        ) from error


def write(path: pathlib.Path, content: bytes) -> None:
    """`replacing`, where all of the content is at hand."""
    with replacing(path) as part:
        part.write_bytes(content)


def write_changed(path: pathlib.Path, content: bytes) -> None:
    """`write`, where the file does not hold that already: so a folder that is only read is not written."""
    try:
        same = path.read_bytes() == content
    except OSError:
        same = False
    if not same:
        write(path, content)


def opened(path: str | os.PathLike, most: int) -> BinaryIO:
    """An open file to read from: one of data, of at most so many bytes. A pipe or a device is not waited for.

    Raises:
        OSError: there is none, it cannot be read, it is none of data, or it is larger; `strerror` says which.
    """
    file = os.fdopen(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)), "rb")
    try:
        status = os.fstat(file.fileno())
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a file of data", os.fspath(path))
        if status.st_size > most:
            raise OSError(errno.EFBIG, f"larger than {most:,} bytes", os.fspath(path))
    except BaseException:
        file.close()
        raise
    return file


def read(path: str | os.PathLike, most: int) -> bytes:
    """All of a file that `opened` opens, and so raises what that does."""
    with opened(path, most) as file:
        return file.read(most)


def expanded(path: str | os.PathLike) -> pathlib.Path:
    """A path with the home folder in place of `~`.

    Raises:
        UserError: there is no such home folder, or it is no path.
    """
    if "\0" in os.fspath(path):
        raise UserError(f"{os.fspath(path)!r} has a zero byte, which no path has: write it without")
    try:
        return pathlib.Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(f"{path} begins with a home folder that is not known: write the path out") from error
