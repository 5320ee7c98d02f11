"""A run's folder. Other programs may rely on its names:

config.json      the resolved config, enough to run again
versions.json    commit, libraries, devices
data.json        how many images are trained on, and the SHA-256 of the list of them
metrics.jsonl    one JSON object a line, every `log_every` steps
warnings.jsonl   one JSON object a line for each cause of a warning; no file where there was none
tensorboard/     the same as event files
checkpoints/     a folder a step
results.json     what `sdclr evaluate` found
embedding.json   a map of the test images' features, from the same command
features/        of the labelled images, kept for the next evaluation
exemplars/       what `sdclr exemplars` found: the ranking, summary.json, and gallery.html
"""

import contextlib
import fcntl
import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
from collections.abc import Iterator
from typing import Any

import jax
from ml_collections import ConfigDict
from tensorboardX import SummaryWriter

import sdclr_jax
from sdclr_jax.errors import UserError

LIBRARIES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "tensorflow-datasets", "ml-collections", "numpy")


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Where to write what takes the place of a file when the context ends: whole, or not at all."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        os.replace(part, path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink()
        raise


def write_json(path: pathlib.Path, content: Any) -> None:
    """Write whole or not at all."""
    text = json.dumps(content, indent=1, allow_nan=False) + "\n"
    with replacing(path) as part:
        part.write_text(text)


def read_config(workdir: pathlib.Path) -> ConfigDict:
    """The config of the run in a folder.

    Raises:
        UserError: no run there, or a damaged config.json.
    """
    path = workdir / "config.json"
    try:
        fields = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{workdir} holds no run (no config.json): give the --workdir of an sdclr pretrain") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): put it back from a copy") from error
    if not isinstance(fields, dict):
        raise UserError(f"{path} is not an object of fields: put it back from a copy")
    return ConfigDict(_tuples(fields))


def _tuples(value: Any) -> Any:
    """JSON knows lists only; configs hold tuples."""
    if isinstance(value, dict):
        return {k: _tuples(v) for k, v in value.items()}
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value


def check(workdir: pathlib.Path, config: ConfigDict) -> None:
    """See that a run of this config may start or go on in a folder; nothing is written.

    Raises:
        UserError: the folder belongs to another run or to something else, or cannot be written.
    """
    if (workdir / "config.json").exists():
        here, given = _flat(read_config(workdir).to_dict()), _flat(_tuples(json.loads(config.to_json())))
        differing = [
            f"{field} ({here.get(field, 'absent')} there, {given.get(field, 'absent')} given)"
            for field in sorted(here.keys() | given.keys())
            if here.get(field) != given.get(field)
        ]
        if differing:
            raise UserError(
                f"{workdir} holds a run of another config: {'; '.join(differing)}: give another --workdir, "
                "or the fields of that run to go on with it"
            )
    elif workdir.is_dir() and any(workdir.iterdir()):
        raise UserError(f"{workdir} is not empty and holds no run: give a new or empty folder as --workdir")
    existing = next(p for p in (workdir, *workdir.absolute().parents) if p.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(f"{workdir} cannot be written: {existing} is {'read-only' if existing.is_dir() else 'a file'}")


def trained_on(workdir: pathlib.Path) -> dict[str, int | str] | None:
    """What a run was trained on: `images`, a number, and the `sha256` of their list; None where that is not known.

    Raises:
        UserError: a damaged data.json.
    """
    path = workdir / "data.json"
    try:
        data = json.loads(path.read_text())
        return {"images": int(data["images"]), "sha256": str(data["sha256"])}
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, TypeError, LookupError) as error:
        raise UserError(f"{path} cannot be read ({error}): put it back from a copy, or delete it") from error


def about_other_data(workdir: pathlib.Path, data: dict[str, int | str]) -> str:
    """In words how what a run was trained on differs from `data`, and nothing where it does not or is not known."""
    trained = trained_on(workdir) or data
    if trained == data:
        return ""
    then, now = (
        f"{found['images']} images (SHA-256 of their list {found['sha256'][:8]}…)" for found in (trained, data)
    )
    return f"{workdir} was trained on {then}, where its data set now has {now}"


def claim(workdir: pathlib.Path, config: ConfigDict, data: dict[str, int | str]) -> None:
    """Make the folder, and write config.json, data.json and versions.json."""
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        if not (workdir / "config.json").exists():
            write_json(workdir / "config.json", json.loads(config.to_json()))
        if not (workdir / "data.json").exists():
            write_json(workdir / "data.json", data)
        now, path = versions(), workdir / "versions.json"
        # What a run was started with stays; what a later start has otherwise stands beside it.
        first = json.loads(path.read_text()) if path.exists() else now
        write_json(path, first | {f"resumed_{k}": v for k, v in now.items() if first.get(k) != v})
    except OSError as error:
        raise UserError(f"{workdir} cannot be written: {error}") from error


@contextlib.contextmanager
def lock(workdir: pathlib.Path):
    """Hold a run's folder; the system lets go of it when the process ends, however it ends.

    Raises:
        UserError: another process trains there.
    """
    with (workdir / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"another process is training in {workdir}: wait for it or give another --workdir"
            ) from None
        yield


def _flat(fields: dict, prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in fields.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def versions() -> dict[str, str]:
    """The commit, the libraries and the hardware of this process."""
    devices = jax.devices()
    return {
        "sdclr_jax": sdclr_jax.__version__,
        "commit": _commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        **{name: importlib.metadata.version(name) for name in LIBRARIES},
        "devices": f"{len(devices)} x {devices[0].device_kind}",
        "processes": str(jax.process_count()),
        "hardware": f"{_processor()}, {os.cpu_count()} cores",
    }


def _commit() -> str:
    git = ["git", "-C", str(pathlib.Path(__file__).parent)]
    try:
        # A package installed inside some other repository is not of that repository's commit.
        subprocess.run([*git, "ls-files", "--error-unmatch", "workdir.py"], capture_output=True, check=True, timeout=10)
        # -uno: a results folder inside the clone does not make the code dirty.
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True, timeout=10)
        status = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return commit.stdout.strip() + ("-dirty" if status.stdout.strip() else "")


def _processor() -> str:
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


class Metrics:
    """metrics.jsonl, warnings.jsonl and TensorBoard events, continued after `step`: lines of later steps are dropped.

    Fields of a line that are not a function of the config (clocks) are named in `CLOCKS`.
    """

    CLOCKS = ("images_per_second", "seconds", "data_wait_seconds", "evaluation_seconds")

    def __init__(self, workdir: pathlib.Path, step: int):
        self._path, self._warnings = workdir / "metrics.jsonl", workdir / "warnings.jsonl"
        kept = _cut(self._path, read_metrics(self._path), step)
        warned = _cut(self._warnings, _read(self._warnings, ("step", "cause")), step)
        self._warned = {line["cause"] for line in warned}
        self._file = self._path.open("a")
        self._events = SummaryWriter(str(workdir / "tensorboard"), purge_step=step + 1)
        self.seconds = kept[-1]["seconds"] if kept else 0.0  # spent on training before this process

    def write(self, line: dict[str, int | float | None]) -> None:
        """Add a line; None is what cannot be measured, null in the file."""
        self._file.write(json.dumps(line, allow_nan=False) + "\n")
        self._file.flush()
        for name, value in line.items():
            if name != "step" and value is not None:
                self._events.add_scalar(name, value, line["step"])

    def warn(self, line: dict[str, int | float], cause: str, message: str) -> bool:
        """Write down a warning that a line of metrics gives rise to; False if the run has been warned of that cause."""
        if cause in self._warned:
            return False
        self._warned.add(cause)
        warning = {"step": line["step"], "epoch": line["epoch"], "cause": cause, "message": message}
        with self._warnings.open("a") as file:
            file.write(json.dumps(warning) + "\n")
        return True

    def close(self) -> None:
        self._file.close()
        self._events.close()


def read_metrics(path: pathlib.Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl, less a last one cut short by a crash; none where there is no file.

    Raises:
        UserError: another line is damaged.
    """
    return _read(path, ("step", "seconds"))


def _read(path: pathlib.Path, needed: tuple[str, ...]) -> list[dict[str, Any]]:
    lines = path.read_bytes().splitlines() if path.exists() else []
    read = []
    for number, line in enumerate(lines, start=1):
        try:
            read.append(json.loads(line))
            for field in needed:
                read[-1][field]
        except (ValueError, TypeError, LookupError) as error:
            if number < len(lines):
                raise UserError(
                    f"line {number} of {path} is damaged ({error}): mend or delete that line, or put the file back"
                ) from error
            read = read[: number - 1]
    return read


def _cut(path: pathlib.Path, lines: list[dict[str, Any]], step: int) -> list[dict[str, Any]]:
    """Keep of a file's lines those up to `step`, whole or not at all, and return them."""
    kept = [line for line in lines if line["step"] <= step]
    if not path.exists():
        return kept
    with replacing(path) as part:
        part.write_text("".join(json.dumps(line) + "\n" for line in kept))
    return kept
