"""Features kept on disk, so that the next evaluation of an encoder starts where the last one had them."""

import contextlib
import hashlib
import json
import os
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np


def features(folder: pathlib.Path, key: dict[str, Any], extract: Callable[[], np.ndarray]) -> np.ndarray:
    """The float32 [N, D] that `folder` holds under `key`, or what `extract()` gives, which it holds from then on.

    `key` is what the features are a function of, anything that JSON writes. Files are plain `.npy` arrays; one that is
    damaged is made anew. A folder that cannot be written, or a full disk, costs the next evaluation its time, no more.
    """
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]
    path = folder / f"{name}.npy"
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):  # there is none, or only a part of one
        found = extract()
    part = folder / f".{name}.{os.getpid()}.part"
    try:
        folder.mkdir(exist_ok=True)
        with open(part, "wb") as file:
            np.save(file, found, allow_pickle=False)
        os.replace(part, path)
    except OSError:
        with contextlib.suppress(OSError):
            part.unlink()
    return found
