"""Lists of runs: each is pretrained, then evaluated, in processes of its own, a few at a time, with a bar for each.

An experiment is a list of `Job`s handed to `run`. Started again, it goes on where it stopped: nothing runs twice, a run
that is half-written is resumed, and one that another process is at is left to it.
"""

import argparse
import contextlib
import fcntl
import functools
import json
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TextIO

import ledger
from tqdm import tqdm

from sdclr_jax import files
from sdclr_jax.errors import UserError

ROOT = pathlib.Path(__file__).parents[1]
sys.path.append(str(ROOT))  # configs/ is data beside the package, not installed with it
SDCLR = [sys.executable, "-m", "sdclr_jax.commands.main"]
STOPPED = 75  # exit status: the same command goes on


class Job(NamedTuple):
    """A run: its folder's name, config as FILE.py:METHOD in configs/, and the fields that it overrides."""

    name: str
    config: str
    fields: tuple[str, ...] = ()  # --config.FIELD=VALUE
    labels: bool = True  # whether there are any to evaluate by

    def commands(self, out: pathlib.Path | str) -> list[str]:
        """What a person types for this run; a field may name a variable of the shell, as in $LISTS."""
        config, workdir = f"--config={self.config.replace('.py', '')}", pathlib.Path(out) / self.name
        fields = [quoted(field) for field in self.fields]
        pretrain = " ".join(["sdclr pretrain", config, *fields, f"--workdir={shlex.quote(str(workdir))}"])
        return [pretrain, *([f"sdclr evaluate {shlex.quote(str(workdir))}"] if self.labels else [])]


def quoted(field: str) -> str:
    """A field as it is typed: a variable of the shell in it stays one."""
    name, _, value = field.partition("=")
    return f'{name}="{value}"' if set(value) & set(" $()'") else field


class _Stop(BaseException):
    """A scheduler asks for a stop."""


def settled(job: Job, out: pathlib.Path) -> ledger.Finished | None:
    """What is there of a job that is done, or has diverged; None where something is left to do."""
    found = ledger.read(out / job.name)
    return found if found and not left(job, out, found) else None


def left(job: Job, out: pathlib.Path, found: ledger.Finished) -> str:
    """What is left to do of a run that is there, in a word or two; '' where nothing is."""
    wanted = config_of(job)
    if _recipes().identity(_recipes().read(out / job.name)) != _recipes().identity(wanted):
        return "of another config"  # which `sdclr pretrain` refuses, with a sentence that names the fields
    if found.state == ledger.BEGUN:
        return found.state
    if found.state == ledger.OVER or not job.labels:
        return ""
    if found.state == ledger.DONE and not found.fault:
        missing = set(wanted.evaluate.protocols) - {name.partition(".")[0] for name in found.scores}
        return f"not evaluated by {', '.join(sorted(missing))}" if missing else ""
    return found.fault or "not evaluated"


def at_least_one(text: str) -> int:
    """A whole number from 1 of a command line, for argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from 1")
    return int(text)


def on_disk(text: str) -> pathlib.Path:
    """A folder or a file on a disk, of a command line, for argparse."""
    if "://" in text:
        raise argparse.ArgumentTypeError(
            f"{text} is in a bucket, and an experiment writes to a disk only: give a folder of one, or mount the bucket"
        )
    try:
        return files.expanded(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(f"{error}") from error


@functools.cache
def config_of(job: Job):
    """The resolved config of a job, which refuses fields that do not exist.

    Raises:
        UserError: there is no such field, or it has weights to start from without their hash, by which a run is known.
    """
    from sdclr_jax.commands import flags

    config = _recipes().load(str(ROOT / "configs" / job.config))
    config = flags.overridden(config, list(job.fields))
    if config.model.get("start") and not config.model.get("start_sha256"):
        raise UserError(
            f"model.start of {job.name} is {config.model.start}, and model.start_sha256 is empty: give what sha256sum "
            "says of that file, since a run is known by it"
        )
    return config


def _recipes():
    from sdclr_jax import recipes  # which takes seconds, and a first start does not need it

    return recipes


def run(jobs: list[Job], out: pathlib.Path, *, at_a_time: int = 2) -> list[pathlib.Path]:
    """Pretrain, and evaluate where there are labels, all jobs in folders below `out`; returns the folders, in order.

    A job that diverges is told, and is over. One that fails ends the program with the last lines of its log, Ctrl-C and
    a scheduler's SIGTERM or SIGUSR1 with all runs saved, the latter with status 75; so does a job that another process
    is at, once the others have ended. What is wrong ends it with a sentence.
    """
    _check_differ(jobs)
    out = out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    waiting, running, taken, there = list(jobs), {}, [], 0
    width = max(len(job.name) for job in jobs)
    with _stopped_by_scheduler() as saving:
        try:
            while waiting or running:
                for place in range(at_a_time):
                    while place not in running and waiting:
                        job = waiting.pop(0)
                        if (lock := _locked(out / f"{job.name}.lock")) is None:
                            taken.append(job.name)
                            continue
                        with contextlib.ExitStack() as unlocked:
                            unlocked.push(lock)
                            if settled(job, out):
                                there += 1
                            else:
                                running[place] = _Running(job, out, place, width, lock, alone=at_a_time == 1)
                                unlocked.pop_all()
                running = {place: job for place, job in running.items() if job.running()}
                time.sleep(0.2 if running else 0)
        except KeyboardInterrupt:
            sys.exit("\nstopped; the same command goes on from here")
        except _Stop:
            print("\nstopped; the same command goes on from here", file=sys.stderr)
            sys.exit(STOPPED)
        except UserError as error:
            sys.exit(f"{error}")
        finally:
            saving()
            for job in running.values():
                job.stop()
            for job in running.values():
                job.wait()
    if there:
        print(f"{there} of {len(jobs)} runs were there already", file=sys.stderr)
    if taken:
        print(f"{', '.join(taken)}: another process is at it; run this again when it has ended", file=sys.stderr)
        sys.exit(STOPPED)
    return [out / job.name for job in jobs]


def _check_differ(jobs: list[Job]) -> None:
    """Refuse jobs of one config under several names, such as repeats to which all one seed was given."""
    seen: dict[tuple, str] = {}
    for job in jobs:
        same = (job.config, *sorted(dict(field.partition("=")[::2] for field in job.fields).items()))
        if (first := seen.setdefault(same, job.name)) != job.name:
            sys.exit(f"{first} and {job.name} would be the same run: leave out the fields that give them one seed")


def _locked(path: pathlib.Path) -> TextIO | None:
    """A lock that is held until it is closed or this program ends, however it ends; None where another one holds it."""
    file = path.open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    except OSError as error:  # as of a network disk without a service of locks
        file.close()
        raise UserError(
            f"{path.parent} is on a disk that knows no locks ({error.strerror or error}): mount it with locks, or give "
            "an --out on another disk"
        ) from error
    return file


@contextlib.contextmanager
def _stopped_by_scheduler() -> Iterator[Callable[[], None]]:
    """Inside, the first signal of a scheduler raises `_Stop`, and later ones do nothing. This gives what to call before
    runs save: from then on no signal does anything."""
    heeded = [True]

    def stop(*_) -> None:
        if heeded:
            heeded.clear()
            raise _Stop

    before = {}
    with contextlib.suppress(ValueError):  # not the main thread, as in some notebooks
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP):
            # What nohup ignores stays so, and what a program around Python handles, as Python cannot give it back.
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                before[number] = signal.signal(number, stop)
    try:
        yield heeded.clear
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def report(directories: list[pathlib.Path], output: pathlib.Path, note: str) -> None:
    """`sdclr report` of these runs."""
    print(flush=True)
    sdclr("report", *directories, f"--output={output}", f"--note={note}")


def sdclr(*arguments: str | pathlib.Path, **options: Any) -> None:
    """A command of `sdclr` to its end; `options` are those of `subprocess.run`."""
    subprocess.run([*SDCLR, *map(str, arguments)], check=True, env=_environment(), **options)


def _environment() -> dict[str, str]:
    """In which `sdclr` is that of this clone, wherever the command was typed, and takes nothing of that folder."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return os.environ | {"PYTHONPATH": path, "PYTHONSAFEPATH": "1"}


def _ended(status: int) -> str:
    """What the exit status of a process says.

    >>> _ended(2), _ended(-9)
    ('with status 2', 'killed by SIGKILL (often: out of memory)')
    """
    if status >= 0:
        return f"with status {status}"
    name = next((known.name for known in signal.Signals if known == -status), f"signal {-status}")
    return f"killed by {name}" + " (often: out of memory)" * (name == "SIGKILL")


class _Running:
    """A job at work, and its bar, which follows the run's metrics."""

    def __init__(self, job: Job, out: pathlib.Path, place: int, width: int, lock: TextIO, *, alone: bool = True):
        """`alone`: no other run shares this machine's accelerators."""
        self._directory, self._log = out / job.name, out / f"{job.name}.log"
        self._lock = lock
        config = f"--config={ROOT / 'configs' / job.config}"
        self._commands = [
            [
                *SDCLR,
                "pretrain",
                config,
                f"--workdir={self._directory}",
                *job.fields,
                "--noprogress",
            ],
            *([[*SDCLR, "evaluate", str(self._directory)]] if job.labels else []),
        ]
        self._bar = tqdm(
            total=None, desc=f"{job.name:{width}s}", position=place, unit="epoch", bar_format="{desc}: starting",
            mininterval=0.5 if sys.stderr.isatty() else 15,
        )  # fmt: skip
        self._process = None
        self._environment = _environment()
        if not alone:  # else the first one takes three quarters of a GPU's memory
            self._environment.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
        self._next()

    def _next(self) -> None:
        with self._log.open("a") as log:
            # Ctrl-C is to reach this program alone, which then lets the runs save.
            self._process = subprocess.Popen(
                self._commands.pop(0), stdout=log, stderr=log, env=self._environment, start_new_session=True
            )

    def running(self) -> bool:
        """Follow the run; whether there is more to come."""
        self._show()
        status = self._process.poll()
        if status is None:
            return True
        if status:
            self._bar.close()
            found = ledger.read(self._directory)
            if found and found.state == ledger.OVER:
                tqdm.write(f"{self._directory.name} diverged: {self._log} says where", file=sys.stderr)
                self._lock.close()
                return False
            if status == STOPPED:
                raise _Stop
            command, end = " ".join(self._process.args), self._log.read_text()[-2000:]
            sys.exit(f"{command} failed, {_ended(status)}; {self._log} ends:\n{end}")
        if self._commands:
            self._next()
            return True
        self._bar.close()
        self._lock.close()
        return False

    def stop(self) -> None:
        """Ask the run to save and end."""
        self._bar.close()
        self._process.terminate()

    def wait(self) -> None:
        self._process.wait()
        self._lock.close()

    def _show(self) -> None:
        try:
            config = json.loads((self._directory / "config.json").read_text())
            line = json.loads((self._directory / "metrics.jsonl").read_text().splitlines()[-1])
        except (OSError, ValueError, IndexError):
            return
        if self._bar.total is None:
            self._bar.total = config["epochs"]
            self._bar.bar_format = "{desc}: {percentage:3.0f}%|{bar:20}| {elapsed}<{remaining}{postfix}"
        self._bar.set_postfix_str(
            f"loss {line['loss']:.3f}, {line['images_per_second']:.0f} images/s"
            + (", evaluating" if "evaluate" in self._process.args else ""),
            refresh=False,
        )
        self._bar.update(line["epoch"] - self._bar.n)
        if sys.stderr.isatty():  # a scheduler's log would fill up
            self._bar.refresh()


def minutes_since(began: float) -> str:
    """How long it took, and on how many cores, for the last line of an experiment."""
    return f"{(time.perf_counter() - began) / 60:.1f} minutes on {os.cpu_count()} cores"
