"""Files that are written whole or not at all, files that are read, and paths as a person writes them."""

import contextlib
import errno
import fcntl
import os
import pathlib
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from typing import BinaryIO

from sdclr_jax.errors import Unreadable, UserError

_PART, _PATH = 255, 3900  # bytes: of a name in most file systems; of 4,096 of a path, with room for what is below it
_LEFT_BEHIND = 3600  # seconds after which a scratch folder that nobody holds was left by a killed process
_tidied: set[tuple[pathlib.Path, str]] = set()  # folders and prefixes that this process has looked through


@contextlib.contextmanager
def scratch(folder: pathlib.Path, prefix: str) -> Iterator[pathlib.Path]:
    """A new folder in `folder`, which is removed in the end, with those that killed processes have left there.

    Its name begins with `prefix`. It is held by a lock as long as its process lives, however that ends.

    Raises:
        OSError: `folder` cannot be written.
    """
    if (folder, prefix) not in _tidied:
        _tidied.add((folder, prefix))
        _tidy(folder, prefix)
    with tempfile.TemporaryDirectory(prefix=prefix, dir=folder) as made:
        held = _held(pathlib.Path(made))
        try:
            yield pathlib.Path(made)
        finally:
            if held is not None:
                os.close(held)


def _tidy(folder: pathlib.Path, prefix: str) -> None:
    """Remove what killed processes have left: nobody holds it, as far as one can see from here, and it is old."""
    with contextlib.suppress(OSError):
        for path in folder.glob(f"{prefix}*"):
            if time.time() - path.stat().st_mtime > _LEFT_BEHIND and (held := _held(path)) is not None:
                os.close(held)
                shutil.rmtree(path, ignore_errors=True)


def _held(folder: pathlib.Path) -> int | None:
    """An open and locked folder; None where another process holds it, or the disk knows no locks."""
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(file)
        return None
    return file


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
        with scratch(path.parent, ".writing-") as folder:
            part = folder / path.name
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


def content(path: pathlib.Path, most: int = 2**30) -> bytes:
    """`read`, where what hinders it is said in a sentence.

    Raises:
        FileNotFoundError: there is no such file.
        Unreadable: it cannot be read, is none of data, or has more than `most` bytes.
    """
    try:
        return read(path, most)
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(path) from None
    except OSError as error:
        raise Unreadable(
            f"{path} cannot be read ({error.strerror or error}), which says nothing of its content: put a file of data "
            "there that this user may read"
        ) from error


def expanded(path: str | os.PathLike) -> pathlib.Path:
    """A path with the home folder in place of `~`.

    Raises:
        UserError: there is no such home folder; or the path, or a part of it, is longer than file systems allow.
    """
    given = os.fspath(path)
    if "\0" in given:
        raise UserError("a path has a character of number 0 in it: write it without")
    parts = [part for part in given.split("/") if len(os.fsencode(part)) > _PART]
    if parts:
        size = len(os.fsencode(parts[0]))
        raise UserError(f"the path {_start(given)} has a part of {size} bytes: it may have {_PART} at most")
    if (size := len(os.fsencode(os.path.abspath(given)))) > _PATH:
        raise UserError(f"the path {_start(given)} has {size} bytes: it may have {_PATH} at most, for what is below it")
    try:
        return pathlib.Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(f"{path} begins with a home folder that is not known: write the path out") from error


def _start(path: str) -> str:
    return path if len(path) <= 60 else f"{path[:60]}…"
