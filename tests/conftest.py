"""Strict numerics on eight CPU devices; must run before JAX is imported."""

import gc
import importlib.metadata
import os
import pathlib
import signal

from sdclr_jax import compiler

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # compiles in a third of the time
if os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] == "1":
    version = importlib.metadata.version("jaxlib")
    # Compiles in two thirds of that; and without optimizations, reductions that YNNPACK does not make are slow. Other
    # versions do not know these flags. They stand before what is given, which wins.
    flags = ["--xla_cpu_use_fusion_emitters=false"] if version.startswith("0.10.") else []
    flags += [f"{compiler.FLAG}=+reduce"] if version in compiler.NOT_FOR_YNNPACK else []
    os.environ["XLA_FLAGS"] = " ".join([*flags, os.environ.get("XLA_FLAGS", "")])
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(pathlib.Path.home() / ".cache" / "sdclr_jax" / "xla_tests"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_NUMPY_RANK_PROMOTION", "raise")
os.environ.setdefault("JAX_NUMPY_DTYPE_PROMOTION", "strict")

compiler.set_flags()  # as the commands do; it has nothing to add above

# Started in the background by a shell, or by nohup, this ignores Ctrl-C, or the end of the terminal; and so would the
# processes to which tests send it.
for name, handler in {"SIGINT": signal.default_int_handler, "SIGHUP": signal.SIG_DFL}.items():
    number = getattr(signal, name, None)  # Windows has no SIGHUP
    if number and signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, handler)

import jax
import pytest
from jaxtyping import install_import_hook
from ml_collections import ConfigDict

import tests.shapes  # noqa: F401  # the hook finds it there

CHECKED = ["sdclr_jax.objectives", "sdclr_jax.evaluation", "sdclr_jax.data.augment", "sdclr_jax.data.operations"]
install_import_hook(CHECKED, "tests.shapes.checked")
assert jax.device_count() == 8
# Tracing makes millions of small objects that live on: to look through them often is a tenth of the time.
gc.set_threshold(50_000, 20, 20)

# Those that take longest come first, so that no worker is left with them at the end.
FIRST = ("test_experiments", "test_pretrain", "test_evaluate", "test_docs", "test_processes", "test_methods")


@pytest.fixture(scope="module")
def one_trace():
    """Runs of one config share its method, and so what is traced and compiled of it; as do those that differ in fields
    which it does not read. It is made without these, so that to read one raises."""
    from sdclr_jax import recipes  # not before the hook

    made, method = {}, recipes.method
    not_read = {"seed", "evaluate", "log_every", "checkpoint_every", "collapse_every", "keep_every", "data"}

    def shared(config, *given):
        read = ConfigDict({name: value for name, value in config.items() if name not in not_read})
        key = repr((read.to_dict(), *given))
        if key not in made:
            made[key] = method(read, *given)
        return made[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipes, "method", shared)
        yield


@pytest.fixture(scope="module")
def served():
    """A server of buckets on this machine."""
    from tests import bucket

    with bucket.served() as found:
        yield found


@pytest.fixture
def cloud(served):
    """The same, empty at first and without faults at last."""
    served.objects.clear()
    yield served
    served.ahead, served.fault = 0.0, lambda method, path, name: None


def pytest_sessionfinish():
    gc.freeze()  # pytest looks for garbage five times at the end, through millions of objects


def pytest_collection_modifyitems(items):
    place = {name: i for i, name in enumerate(FIRST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(FIRST)))
