"""Features kept on disk, so that the next evaluation of an encoder starts where the last one had them."""

import contextlib
import hashlib
import json
from collections.abc import Callable
from typing import Any

import numpy as np

from sdclr_jax import files
from sdclr_jax.errors import UserError


def features(folder: files.Path, key: dict[str, Any], extract: Callable[[], np.ndarray]) -> np.ndarray:
    """The float32 [N, D] that `folder` holds under `key`, or what `extract()` gives, which it holds from then on.

    `key` is what the features are a function of, anything that JSON writes. Files are plain `.npy` arrays; one that is
    damaged is written again. A folder that cannot be written, or a full disk, only costs the next evaluation its time.
    """
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]
    path = folder / f"{name}.npy"
    try:
        with path.open("rb") as file:
            return np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError):  # there is none, or only a part of one
        found = extract()
    with contextlib.suppress(UserError), files.replacing(path) as part:
        np.save(part, found, allow_pickle=False)
    return found
