"""Paths in a bucket, which answer to the methods of `pathlib.Path`.

A bucket has no folders, only names with slashes: a folder is there as long as an object is below it. An object is
written whole or not at all, and cannot be appended to.
"""

import contextlib
import errno
import functools
import importlib.util
import io
import json
import logging
import os
import pathlib
import stat
import types
from collections.abc import Iterator
from typing import Any, NamedTuple
from urllib.parse import quote

from etils.epath.gpath import PosixGPath

from sdclr_jax.errors import UserError, first_line

SCHEME = "gs://"
_NO_CREDENTIALS = "no credentials that it accepts; `gcloud auth application-default login` gives some"
_FORBIDDEN = "the credentials do not allow it"
_CONNECT, _SILENCE, _REQUEST = 20, 60, 300  # seconds: to reach the server; until it says something; of a request in all


class Answer(NamedTuple):
    """What the server says of an object."""

    about: dict[str, Any]  # https://cloud.google.com/storage/docs/json_api/v1/objects
    date: str  # the server's clock, as in the header Date


class BucketPath(PosixGPath):
    """A path in a bucket. Everything else of this process that opens it, orbax for one, does so by these methods.

    What goes wrong is an OSError that says so in a few words, as of a file on a disk.

    >>> path = BucketPath("gs://bucket/runs/sdclr") / "config.json"
    >>> str(path), path.parent.name, path.absolute() == path
    ('gs://bucket/runs/sdclr/config.json', 'sdclr', True)
    """

    @property
    def bucket(self) -> str:
        return self.parts[2]

    @property
    def key(self) -> str:
        """Name of the object in its bucket."""
        return "/".join(self.parts[3:])

    def absolute(self) -> "BucketPath":
        return self

    def resolve(self, strict: bool = False) -> "BucketPath":
        return self

    def expanduser(self) -> "BucketPath":
        return self

    def exists(self) -> bool:
        return self._type() != ""

    def is_dir(self) -> bool:
        return self._type() == "directory"

    def is_file(self) -> bool:
        return self._type() == "file"

    def _type(self) -> str:
        try:
            return self._info()["type"]
        except FileNotFoundError:
            return ""

    def _info(self) -> dict[str, Any]:
        with self._asked():
            return _filesystem().info(str(self))

    def stat(self) -> types.SimpleNamespace:
        found = self._info()
        size, changed = found["size"], found["mtime"].timestamp() if "mtime" in found else 0.0
        is_folder = found["type"] == "directory"
        as_on_disk = {"st_size": size, "st_mtime": changed, "st_mode": stat.S_IFDIR if is_folder else stat.S_IFREG}
        return types.SimpleNamespace(is_directory=is_folder, length=size, mtime=int(changed), **as_on_disk)

    def iterdir(self) -> Iterator["BucketPath"]:
        """What is in a folder; nothing where there is no such folder."""
        try:
            with self._asked():
                found = _filesystem().ls(str(self), detail=True)
        except FileNotFoundError:
            found = []
        names = {entry["name"].rstrip("/").removeprefix(self._name()).strip("/") for entry in found}
        yield from (self / name for name in sorted(names - {""}))

    def glob(self, pattern: str) -> Iterator["BucketPath"]:
        with self._asked():
            found = _filesystem().glob(f"{self}/{pattern}")
        yield from (type(self)(SCHEME + name) for name in found)

    def rglob(self, pattern: str) -> Iterator["BucketPath"]:
        """Objects below a folder, at any depth, whose names fit."""
        yield from (path for path in map(self.__truediv__, self.below()) if path.match(pattern))

    def below(self) -> dict[str, dict[str, Any]]:
        """All objects below a folder: what the server says of each, by its name there."""
        try:
            with self._asked():
                found = _filesystem().find(str(self), detail=True)
        except FileNotFoundError:
            return {}
        start = self._name() + "/"
        return {
            name.removeprefix(start): about
            for name, about in found.items()
            if name.startswith(start) and not name.endswith("/")
        }

    def _name(self) -> str:
        return str(self).removeprefix(SCHEME)

    def open(self, mode: str = "r", *, encoding: str | None = None, **options: Any) -> Any:
        """The object in memory, to be read."""
        if mode not in ("r", "rb"):
            raise ValueError(f"{self} cannot be opened with mode {mode!r}: an object is written whole, by write_bytes")
        content = io.BytesIO(self.read_bytes())
        return content if mode == "rb" else io.TextIOWrapper(content, encoding=encoding or "utf-8", **options)

    def read_bytes(self) -> bytes:
        with self._asked():
            return _filesystem().cat_file(str(self))

    def write_bytes(self, data: bytes) -> int:
        with self._asked():
            _filesystem().pipe_file(str(self), bytes(data))
        return len(data)

    def write_text(self, data: str, encoding: str | None = None, errors: str | None = None) -> int:
        self.write_bytes(data.encode(encoding or "utf-8", errors or "strict"))
        return len(data)

    def touch(self, mode: int = 0o666, exist_ok: bool = True) -> None:
        self.write_bytes(b"")

    def take(self, path: pathlib.Path) -> None:
        """Write the object to a file of this machine."""
        with self._asked():
            _filesystem().get_file(str(self), str(path))

    def put(self, path: pathlib.Path) -> None:
        """Write a file of this machine to the object."""
        with self._asked():
            _filesystem().put_file(str(path), str(self))

    def mkdir(self, mode: int | None = None, parents: bool = False, exist_ok: bool = False) -> None:
        if not exist_ok and self.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(self))

    def unlink(self, missing_ok: bool = False) -> None:
        try:
            with self._asked():
                _filesystem().rm_file(str(self))
        except FileNotFoundError:
            if not missing_ok:
                raise

    def rmtree(self, missing_ok: bool = False) -> None:
        try:
            with self._asked():
                _filesystem().rm(str(self), recursive=True)
        except FileNotFoundError:
            if not missing_ok:
                raise

    def rename(self, target: str | os.PathLike) -> "BucketPath":
        """Move an object, or a folder object by object: another process may see half of it."""
        moved = {SCHEME + name: f"{target}/{name.removeprefix(self._name() + '/')}" for name in self._objects()}
        for source, place in ({str(self): str(target)} if self.is_file() else moved).items():
            with self._asked():
                _filesystem().mv_file(source, place)
        return type(self)(target)

    replace = rename

    def _objects(self) -> list[str]:
        return [f"{self._name()}/{name}" for name in self.below()]

    def about(self) -> Answer:
        """What the server says of the object at this moment, and by which clock."""
        return self._said(*self._call("GET", "b/{}/o/{}", self.bucket, self.key))

    def read_of(self, generation: str) -> bytes:
        """The content of a generation of the object.

        Raises:
            FileExistsError: it has another one by now.
        """
        return self._call("GET", "b/{}/o/{}", self.bucket, self.key, alt="media", ifGenerationMatch=generation)[1]

    def write_over(self, content: bytes, generation: str) -> Answer:
        """Write the object where it is of that generation still; 0 is where there is none.

        Raises:
            FileExistsError: it is of another one.
        """
        upload = _filesystem().base.replace("/storage/", "/upload/storage/") + f"b/{quote(self.bucket)}/o"
        given = {"uploadType": "media", "name": self.key, "ifGenerationMatch": generation}
        return self._said(*self._call("POST", upload, data=content, **given))

    def mark(self, text: str, generation: str) -> None:
        """Say something of an object of that generation, which the server notes with the time.

        Raises:
            FileExistsError: it is of another one.
        """
        content = {"metadata": {"mark": text}}
        self._call("PATCH", "b/{}/o/{}", self.bucket, self.key, json=content, ifGenerationMatch=generation)

    def remove_of(self, generation: str) -> None:
        """Remove an object of that generation.

        Raises:
            FileExistsError: it is of another one.
        """
        self._call("DELETE", "b/{}/o/{}", self.bucket, self.key, ifGenerationMatch=generation)

    def check(self) -> None:
        """Refuse a bucket that is not there, or may not be looked at, read, and written; nothing stays written.

        Raises:
            OSError: says why.
        """
        with contextlib.suppress(FileNotFoundError):
            list(self.iterdir())
        try:
            self._call("GET", "b/{}", self.bucket)
        except FileNotFoundError:
            raise FileNotFoundError(errno.ENOENT, f"there is no bucket {SCHEME}{self.bucket}", str(self)) from None
        except PermissionError as error:
            why = f"{error.strerror}; the role roles/storage.legacyBucketReader on {SCHEME}{self.bucket} lacks"
            raise PermissionError(error.errno, why, str(self)) from error
        probe = self / f".sdclr_jax_{os.urandom(8).hex()}"
        probe.write_bytes(b"")
        probe.unlink()

    def _call(self, *request: str, **given: Any) -> tuple[Any, bytes]:
        """Headers and content of an answer."""
        with self._asked():
            return _filesystem().call(*request, **given)

    def _said(self, headers: Any, content: bytes) -> Answer:
        return Answer(json.loads(content), headers["Date"])

    @contextlib.contextmanager
    def _asked(self) -> Iterator[None]:
        """What gcsfs raises inside becomes an OSError with a reason."""
        try:
            yield
        except (FileNotFoundError, FileExistsError) as error:
            number = errno.ENOENT if isinstance(error, FileNotFoundError) else errno.EEXIST
            raise type(error)(number, os.strerror(number), str(self)) from error
        except Exception as error:
            code = getattr(error, "code", None)
            if code in (401, 403) or "Forbidden" in str(error):
                why = _NO_CREDENTIALS if code == 401 else _FORBIDDEN
                raise PermissionError(errno.EACCES, why, str(self)) from error
            raise OSError(errno.EIO, f"the bucket does not answer: {first_line(error)}", str(self)) from error


def path(address: str) -> BucketPath:
    """The path of an address.

    Raises:
        UserError: no address of a bucket, or the packages that reach one are missing.
    """
    found = BucketPath(address)
    if not address.removeprefix(SCHEME).partition("/")[0]:
        raise UserError(f"{address} names no bucket: write {SCHEME}BUCKET/FOLDER")
    if ".." in found.parts:
        raise UserError(f"{address} has .. in it, which means nothing in a bucket: write the address out")
    if not _installed():
        raise UserError(f"{address} is in a bucket, and gcsfs is not installed: pip install gcsfs google-cloud-storage")
    return found


def _installed() -> bool:
    return importlib.util.find_spec("gcsfs") is not None


@functools.cache
def _filesystem() -> Any:
    # Else gcsfs asks another server, by gRPC, of what kind each bucket is, and waits for it.
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    import aiohttp
    import gcsfs

    for name in ("gcsfs", "google.auth"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # what they say there is raised, too
    waits = aiohttp.ClientTimeout(total=_REQUEST, sock_connect=_CONNECT, sock_read=_SILENCE)
    # Lists are not kept, since other processes write to the bucket.
    return gcsfs.GCSFileSystem(use_listings_cache=False, session_kwargs={"timeout": waits})
