"""Features kept on disk, so that the next evaluation of an encoder starts where the last one had them."""

import contextlib
import hashlib
import io
import json
from collections.abc import Callable
from typing import Any

import numpy as np

from sdclr_jax import files, processes
from sdclr_jax.errors import UserError

_HASH = hashlib.sha256
_SIZE = _HASH().digest_size  # bytes at the end of a file: the hash of its name and of all bytes before
_CHUNK = 2**20  # bytes that are hashed at once


def features(
    folder: files.Path, key: dict[str, Any], extract: Callable[[], np.ndarray], *, together: bool = False
) -> np.ndarray:
    """The float32 [N, D] that `folder` holds under `key`, or what `extract()` gives, which it holds from then on.

    `key` is what the features are a function of, anything that JSON writes. A file is a plain `.npy` array, followed by
    a SHA-256 of its name and content. A file that does not match its hash is not used: the features are extracted
    again, and the file is replaced. A folder that cannot be written, or a full disk, only costs the next evaluation its
    time. With `together` all processes call this, and extract together where one of them does not see the file.
    """
    path = folder / f"{_HASH(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]}.npy"
    found = None
    with contextlib.suppress(OSError, ValueError):  # there is none, or it is damaged
        found = _read(path)
    everywhere = not together or all(processes.exchange("kept features", "" if found is None else "seen"))
    if found is not None and everywhere:
        return found
    found = extract()
    if together and not processes.is_main():
        return found
    with contextlib.suppress(UserError), files.replacing(path) as part, part.open("w+b") as file:
        np.save(file, found, allow_pickle=False)
        digest = _digest(path.name, file, file.tell())
        file.write(digest)
    return found


def _read(path: files.Path) -> np.ndarray:
    """The array in a file. Nothing of it is interpreted before its hash is known to be right."""
    with path.open("rb") as file:
        size = file.seek(0, io.SEEK_END) - _SIZE
        if size < 0 or _digest(path.name, file, size) != file.read():
            raise ValueError(f"{path} is damaged")
        file.seek(0)
        return np.load(file, allow_pickle=False)


def _digest(name: str, file: io.BufferedRandom | io.BufferedReader, size: int) -> bytes:
    """The hash of a file's name and its first `size` bytes, behind which the file then stands."""
    file.seek(0)
    total = _HASH(f"{name}\n".encode())
    while size:
        chunk = file.read(min(size, _CHUNK))
        if not chunk:
            raise ValueError("the file became shorter while it was read")
        total.update(chunk)
        size -= len(chunk)
    return total.digest()
