"""Folders of a bucket on the disk of this machine, for what reads files there only."""

import base64
import contextlib
import hashlib
import json
import os
import pathlib
import shutil
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

from sdclr_jax.buckets.paths import BucketPath
from sdclr_jax.errors import UserError
from sdclr_jax.progress import progressed

ROOT = pathlib.Path("~/.cache/sdclr_jax/buckets")
_KNOWN = ".copied.json"  # the generation of each file, in the copy itself
_PART = ".copying-"  # what a scratch folder's name begins with
_LEFT_BEHIND = 24 * 3600  # seconds after which such a folder was left by a killed process
_AT_ONCE = 8


def place(folder: BucketPath) -> pathlib.Path:
    """Where the copy of a folder lies."""
    return ROOT.expanduser() / folder.bucket / folder.key


def fetch(folder: BucketPath, last: str = "") -> bool:
    """Make a folder's copy what the bucket holds now; what it has already is not read again.

    Args:
        folder: in the bucket.
        last: name of the file without which the others are not all there yet, and are left alone.

    Returns:
        Whether they are there.

    Raises:
        UserError: the bucket cannot be read, the disk cannot be written, or a file arrives damaged.
    """
    target = place(folder)
    try:
        below, known = folder.below(), _known(target)
        if last and last not in map(_base, below):
            return False
        for name in below:
            if not {"", ".", ".."}.isdisjoint(name.split("/")):
                raise OSError(f"{folder}/{name} has no place on a disk")
        stale = [name for name in below if known.get(name) != below[name]["generation"]]
        target.mkdir(parents=True, exist_ok=True)
        for left in target.rglob(f"{_PART}*"):
            with contextlib.suppress(OSError):  # another process, which copies too, has removed its own
                if time.time() - left.stat().st_mtime > _LEFT_BEHIND:
                    shutil.rmtree(left, ignore_errors=True)
        here = dict(known)

        def take(name: str) -> None:
            _take(folder / name, target / name, below[name].get("md5Hash"))
            here[name] = below[name]["generation"]
            progressed()

        try:
            with ThreadPoolExecutor(_AT_ONCE) as pool:
                list(pool.map(take, stale))
            for name in known.keys() - below.keys():
                (target / name).unlink(missing_ok=True)
                del here[name]
        finally:  # where it breaks off, the next one goes on from there
            _know(target, here)
    except OSError as error:
        raise UserError(
            f"{folder} cannot be copied to {target} ({error.strerror or error}): see to that, and run the same command "
            "again"
        ) from error
    return True


def send(folder: BucketPath, last: str) -> None:
    """Put those files of a folder's copy into the bucket that are not there.

    Args:
        folder: in the bucket.
        last: name of the file that is sent after the others.

    Raises:
        UserError: the bucket cannot be written.
    """
    source = place(folder)
    try:
        names = {path.relative_to(source).as_posix() for path in source.rglob("[!.]*") if path.is_file()}
        for name in sorted(names - folder.below().keys(), key=lambda name: _base(name) == last):
            (folder / name).put(source / name)
        _know(source, {name: about["generation"] for name, about in folder.below().items()})
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written ({error.strerror or error}): see to that, and run the same command again"
        ) from error


def _base(name: str) -> str:
    return name.rpartition("/")[2]


def _known(target: pathlib.Path) -> dict[str, str]:
    """Generation of each file that the copy has."""
    try:
        found = json.loads((target / _KNOWN).read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    found = found if isinstance(found, dict) else {}
    return {name: generation for name, generation in found.items() if (target / name).is_file()}


def _take(source: BucketPath, target: pathlib.Path, md5: str | None) -> None:
    """One file, whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=_PART, dir=target.parent) as scratch:
        part = pathlib.Path(scratch) / "part"
        source.take(part)
        with part.open("rb") as file:
            found = base64.b64encode(hashlib.file_digest(file, "md5").digest()).decode()
        if md5 and found != md5:
            raise OSError(f"{source} did not arrive as it is there")
        os.replace(part, target)


def _know(target: pathlib.Path, generations: dict[str, str]) -> None:
    """Note which generation of each file the copy has."""
    with tempfile.TemporaryDirectory(prefix=_PART, dir=target) as scratch:
        part = pathlib.Path(scratch) / "part"
        part.write_text(json.dumps(generations))
        os.replace(part, target / _KNOWN)
