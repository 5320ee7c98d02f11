"""Self-damaging contrastive learning, and two-branch self-supervised methods around it, in JAX and Flax.

    import sdclr_jax

    config = sdclr_jax.config("digits_lt:sdclr", epochs=20)
    run = sdclr_jax.pretrain(config, "runs/sdclr")  # or sdclr_jax.load("runs/sdclr") of one that is there
    features = run.encode(images)                   # uint8 [N, H, W, C], paths or PIL images -> float32 [N, D]
    results = sdclr_jax.evaluate(run)

Each function is imported when it is first used, so that `import sdclr_jax` takes no time.
"""

import importlib
import importlib.util
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sdclr_jax.api.config import config
    from sdclr_jax.api.evaluate import evaluate
    from sdclr_jax.api.exemplars import exemplars
    from sdclr_jax.api.export import export
    from sdclr_jax.api.import_weights import import_weights
    from sdclr_jax.api.load import Run, load
    from sdclr_jax.api.photos import photos
    from sdclr_jax.api.pretrain import pretrain
    from sdclr_jax.api.report import report
    from sdclr_jax.errors import ArgumentError, Diverged, Stopped, UserError

if importlib.util.find_spec("fcntl") is None:  # Windows has no such locks
    raise ImportError("sdclr_jax runs on Linux and macOS only: on Windows, install it in WSL 2")

__version__ = "0.1.0"
__all__ = [
    "ArgumentError",
    "Diverged",
    "Run",
    "Stopped",
    "UserError",
    "config",
    "evaluate",
    "exemplars",
    "export",
    "import_weights",
    "load",
    "photos",
    "pretrain",
    "report",
]

# Where a name is; of the others the file in `api` has the function's own name.
_HOMES = {"Run": "api.load"} | dict.fromkeys(("ArgumentError", "Diverged", "Stopped", "UserError"), "errors")


def __getattr__(name: str):
    if name not in __all__:
        raise AttributeError(f"module 'sdclr_jax' has no attribute {name!r}")
    importlib.import_module("sdclr_jax.compiler").set_flags()
    return getattr(importlib.import_module(f"sdclr_jax.{_HOMES.get(name, f'api.{name}')}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
