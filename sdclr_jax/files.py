"""Files that are written whole or not at all, files that are read, and paths as a person writes them.

A path is a `pathlib.Path`, or a `buckets.paths.BucketPath`, which answers to the same methods. On a disk a file takes
its name when all of it is there; an object of a bucket is put there in one piece.
"""

import contextlib
import errno
import fcntl
import os
import pathlib
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, BinaryIO, TypeGuard

from sdclr_jax.errors import Unreadable, UserError, shortened

if TYPE_CHECKING:
    from pathlib import Path  # for a type checker, a path in a bucket is one on a disk

    from sdclr_jax.buckets.paths import BucketPath
else:
    Path = pathlib.PurePath

_PART, _PATH = 255, 3900  # bytes: of a name in most file systems; of 4,096 of a path, with room for what is below it
_LEFT_BEHIND = 3600  # seconds after which a scratch folder that nobody holds was left by a killed process
_LARGE = ("preparing", "downloading")  # purposes of folders of gigabytes, in the folder of prepared data
_tidied: set[tuple[pathlib.Path, str]] = set()  # folders and prefixes that this process has looked through


@contextlib.contextmanager
def scratch(folder: pathlib.Path, purpose: str) -> Iterator[pathlib.Path]:
    """A new folder in `folder`, which is removed in the end, with those of this purpose that killed processes have left
    there. It is held by a lock as long as its process lives, however that ends.

    Raises:
        OSError: `folder` cannot be written.
    """
    prefix = f".sdclr_jax-{purpose}-"  # a name that nobody gives to a folder of their own, since old ones are removed
    if (folder, prefix) not in _tidied:
        _tidied.add((folder, prefix))
        _tidy(folder, prefix)
        if purpose.startswith(_LARGE):  # as older versions called them
            _tidy(folder, f".{purpose}-")
    with tempfile.TemporaryDirectory(prefix=prefix, dir=folder) as made:
        held = _held(pathlib.Path(made))
        try:
            yield pathlib.Path(made)
        finally:
            if held is not None:
                os.close(held)


def on_this_machine() -> contextlib.AbstractContextManager[pathlib.Path]:
    """A scratch folder for what goes to a bucket."""
    return scratch(pathlib.Path(tempfile.gettempdir()), "sending")


def _tidy(folder: pathlib.Path, prefix: str) -> None:
    """Remove what killed processes have left: nobody holds it, as far as one can see from here, and it is old."""
    with contextlib.suppress(OSError):
        for path in folder.glob(f"{prefix}*"):
            about = path.stat()
            ours_and_old = about.st_uid == os.getuid() and time.time() - about.st_mtime > _LEFT_BEHIND
            if ours_and_old and (held := _held(path)) is not None:
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
        if in_bucket(path):
            with on_this_machine() as folder:
                part = folder / path.name
                yield part
                path.put(part)
            return
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not path.parent.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
        # A folder of its own: another process may write the same file, on another machine under the same process id.
        with scratch(path.parent, "writing") as folder:
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
            raise _larger(most)
    except BaseException:
        file.close()
        raise
    return file


def read(path: str | os.PathLike, most: int) -> bytes:
    """All of a file that `opened` opens, and so raises what that does."""
    with opened(path, most) as file:
        # Python makes room for as many bytes as it is asked for, and this machine may not have room for `most`.
        room = os.fstat(file.fileno()).st_size + 1
        data = file.read(room)
        while len(data) == room <= most:  # the file has grown, or its file system does not tell its size
            data += file.read(room)
            room *= 2
    if len(data) > most:
        raise _larger(most)
    return data


def _larger(most: int) -> OSError:
    return OSError(errno.EFBIG, f"larger than {most:,} bytes")


def content(path: Path, most: int = 2**30) -> bytes:
    """`read`, where what hinders it is said in a sentence.

    Raises:
        FileNotFoundError: there is no such file.
        Unreadable: it cannot be read, is none of data, or has more than `most` bytes.
    """
    try:
        return _object(path, most) if in_bucket(path) else read(path, most)
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(path) from None
    except OSError as error:
        raise Unreadable(
            f"{path} cannot be read ({error.strerror or error}), which says nothing of its content: put a file of data "
            "there that this user may read"
        ) from error


def _object(path: "BucketPath", most: int) -> bytes:
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if path.stat().st_size > most:
        raise _larger(most)
    return path.read_bytes()


def as_text(path: str | os.PathLike) -> str:
    """A path as text that a file of UTF-8 can hold: names on a disk are bytes, and what is not UTF-8 is written out.

    >>> as_text("M\\udcfcnchen/1.png")
    'M\\\\xfcnchen/1.png'
    """
    return os.fsencode(path).decode(errors="backslashreplace")


def in_bucket(path: Any) -> "TypeGuard[BucketPath]":
    """Whether a path lies in a bucket."""
    return not isinstance(path, pathlib.Path) and "://" in str(path)


def expanded(path: str | os.PathLike) -> Path:
    """A path with the home folder in place of `~`, or an address in a bucket.

    Raises:
        UserError: it is no path; there is no such home folder; the path, or a part of it, is longer than file systems
            allow; or it is an address of another kind than gs://BUCKET/FOLDER, or gcsfs is missing.

    >>> expanded("runs/sdclr"), in_bucket(expanded("runs/sdclr"))
    (PosixPath('runs/sdclr'), False)
    """
    if not isinstance(path, str | os.PathLike):
        given = " ".join(shortened(repr(path), 60).split())
        raise UserError(f"{given} is no path: give text or a pathlib.Path")
    text = os.fspath(path)
    _check_length(text)
    if scheme := re.match(r"([a-z][a-z0-9+.-]+):/(/?)", text, re.IGNORECASE):
        if scheme[0] == "gs://":
            from sdclr_jax.buckets import paths  # which the others need not wait for

            return paths.path(text)
        if scheme[1] in ("gs", "s3") or scheme[2]:
            raise UserError(
                f"{text} cannot be used: of addresses only gs://BUCKET/FOLDER is known; mount another bucket as a "
                "folder, and give that"
            )
    try:
        return pathlib.Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(f"{path} begins with a home folder that is not known: write the path out") from error


def _check_length(given: str) -> None:
    if "\0" in given:
        raise UserError("a path has a character of number 0 in it: write it without")
    parts = [part for part in given.split("/") if len(os.fsencode(part)) > _PART]
    if parts:
        size = len(os.fsencode(parts[0]))
        raise UserError(f"the path {_start(given)} has a part of {size} bytes: it may have {_PART} at most")
    if (size := len(os.fsencode(os.path.abspath(given)))) > _PATH:
        raise UserError(f"the path {_start(given)} has {size} bytes: it may have {_PATH} at most, for what is below it")


def _start(path: str) -> str:
    return path if len(path) <= 60 else f"{path[:60]}…"


def on_disk(path: str | os.PathLike, what: str) -> Path:
    """`expanded`, for what is read from a disk only.

    Args:
        path: as a person writes it.
        what: names it in the sentence that refuses a bucket.

    Raises:
        UserError: as `expanded`, and where the path lies in a bucket.
    """
    found = expanded(path)
    if in_bucket(found):
        raise UserError(
            f"{found} is in a bucket, and {what} a disk only: copy it to one, or mount the bucket as a folder"
        )
    return found


def copied(folder: str | os.PathLike) -> Path:
    """`expanded`, for a small folder that is read from a disk: one of a bucket is copied to the disk of this machine.

    Raises:
        UserError: as `expanded`, or the bucket cannot be read.
    """
    found = expanded(folder)
    if in_bucket(found):
        from sdclr_jax.buckets import copies

        copies.fetch(found)
        return copies.place(found)
    return found


def check_writable(folder: Path) -> None:
    """Refuse a folder in which nothing could be written; it need not exist yet, and nothing stays written.

    Raises:
        UserError: it is read-only, or a file; or its bucket is not there, or may not be written.
    """
    if in_bucket(folder):
        try:
            folder.check()
        except OSError as error:
            raise UserError(
                f"{folder} cannot be written ({error.strerror}): see that the bucket is there and you may write it"
            ) from error
        if folder.is_file():
            raise UserError(f"{folder} cannot be written: it is a file")
        return
    existing = nearest(folder)
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(f"{folder} cannot be written: {existing} is {'read-only' if existing.is_dir() else 'a file'}")


def nearest(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists; in a bucket each exists."""
    return folder if in_bucket(folder) else next(p for p in (folder, *folder.absolute().parents) if p.exists())


@contextlib.contextmanager
def locked(path: Path) -> Iterator[Callable[[], None]]:
    """Hold a lock while the context lasts; gives what to call before something is written, which raises UserError where
    another process holds it by now.

    On a disk the system lets go of it when the process ends, however it ends. In a bucket it is an object, whose owner
    is followed when it shows no sign of life.

    Raises:
        UserError: another process holds it, or its folder cannot be written.
    """
    if in_bucket(path):
        from sdclr_jax.buckets.lock import Lock

        with contextlib.ExitStack() as stack:
            try:
                held = stack.enter_context(Lock(path))
            except OSError as error:
                raise UserError(f"{path.parent} cannot be written: {error.strerror or error}") from error
            yield held.check
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w")
    except OSError as error:
        raise UserError(f"{path.parent} cannot be written: {error}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"another process is training in {path.parent}: wait for it or give another --workdir"
            ) from None
        except OSError as error:  # as of a network disk without a service of locks
            raise UserError(
                f"{path.parent} is on a disk that knows no locks ({error.strerror or error}): mount it with locks, or "
                "give a --workdir on another disk"
            ) from error
        yield lambda: None
