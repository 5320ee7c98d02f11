"""The commit, the libraries and the hardware that a run was made with: versions.json."""

import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess

import jax

import sdclr_jax

# Of a clone, folders in which a change makes the code no other: what was measured, and what is written of it.
NO_CODE = ("docs", "experiments/results")
LIBRARIES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "tensorflow-datasets", "ml-collections", "numpy")


def current() -> dict[str, str]:
    """The commit, the libraries and the hardware of this process."""
    devices = jax.devices()
    return {
        "sdclr_jax": sdclr_jax.__version__,
        "commit": commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        **{name: importlib.metadata.version(name) for name in LIBRARIES},
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""),
        "devices": f"{len(devices)} x {devices[0].device_kind}",
        "processes": str(jax.process_count()),
        "hardware": f"{_processor()}, {os.cpu_count()} cores",
    }


def alike() -> dict[str, str]:
    """What must be the same in all processes of a run: code, libraries, and the devices of each."""
    found = current()
    names = ("sdclr_jax", "commit", "python", *LIBRARIES)
    return {name: found[name] for name in names} | {
        "devices": f"{jax.local_device_count()} x {jax.local_devices()[0].device_kind} in each process"
    }


def commit() -> str:
    """Of this code: of its clone, with `-dirty` where it was changed since, or of the Git address that pip installed it
    from; else `unknown`."""
    here = pathlib.Path(__file__)
    git = ["git", "-C", str(here.parent)]
    try:
        # A package installed inside some other repository is not of that repository's commit.
        subprocess.run([*git, "ls-files", "--error-unmatch", here.name], capture_output=True, check=True, timeout=10)
        # -uno: a results folder inside the clone does not make the code dirty.
        found = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True, timeout=10)
        code = [":(top)", *(f":(top,exclude){folder}" for folder in NO_CODE)]
        status = subprocess.run(
            [*git, "status", "--porcelain", "-uno", "--", *code], capture_output=True, text=True, check=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return _installed_commit()
    return found.stdout.strip() + ("-dirty" if status.stdout.strip() else "")


def _installed_commit() -> str:
    """What pip wrote down where the package was installed from a Git address (PEP 610)."""
    try:
        written = importlib.metadata.distribution("sdclr_jax").read_text("direct_url.json")
        return json.loads(written or "{}").get("vcs_info", {}).get("commit_id", "unknown")
    except (importlib.metadata.PackageNotFoundError, ValueError, AttributeError):
        return "unknown"


def _processor() -> str:
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
