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
from collections.abc import Iterator
from typing import NamedTuple, TextIO

import ledger
from tqdm import tqdm

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
        fields = [_quoted(field) for field in self.fields]
        pretrain = " ".join(["sdclr pretrain", config, *fields, f"--workdir={shlex.quote(str(workdir))}"])
        return [pretrain, *([f"sdclr evaluate {shlex.quote(str(workdir))}"] if self.labels else [])]


def _quoted(field: str) -> str:
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


@functools.cache
def config_of(job: Job):
    """The resolved config of a job, which refuses fields that do not exist."""
    from sdclr_jax.commands import flags

    config = _recipes().load(str(ROOT / "configs" / job.config))
    return flags.overridden(config, list(job.fields))


def _recipes():
    from sdclr_jax import recipes  # which takes seconds, and a first start does not need it

    return recipes


def run(jobs: list[Job], out: pathlib.Path, *, at_a_time: int = 2) -> list[pathlib.Path]:
    """Pretrain, and evaluate where there are labels, all jobs in folders below `out`; returns the folders, in order.

    A job that diverges is told, and is over. One that fails ends the program with the last lines of its log, Ctrl-C and
    a scheduler's SIGTERM or SIGUSR1 with all runs saved, the latter with status 75; so does a job that another process
    is at, once the others have ended.
    """
    out = out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    waiting, running, taken, there = list(jobs), {}, [], 0
    width = max(len(job.name) for job in jobs)
    try:
        with _stopped_by_scheduler():
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
                                running[place] = _Running(job, out, place, width, lock)
                                unlocked.pop_all()
                running = {place: job for place, job in running.items() if job.running()}
                time.sleep(0.2 if running else 0)
    except KeyboardInterrupt:
        sys.exit("\nstopped; the same command goes on from here")
    except _Stop:
        print("\nstopped; the same command goes on from here", file=sys.stderr)
        sys.exit(STOPPED)
    finally:
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


def _locked(path: pathlib.Path) -> TextIO | None:
    """A lock that is held until it is closed or this program ends, however it ends; None where another one holds it."""
    file = path.open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


@contextlib.contextmanager
def _stopped_by_scheduler() -> Iterator[None]:
    def stop(*_) -> None:
        raise _Stop

    numbers = [n for n in (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP) if signal.getsignal(n) != signal.SIG_IGN]
    before = {number: signal.signal(number, stop) for number in numbers}  # what nohup ignores stays ignored
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def report(directories: list[pathlib.Path], output: pathlib.Path, note: str) -> None:
    """`sdclr report` of these runs."""
    command = [*SDCLR, "report", *map(str, directories), f"--output={output}", f"--note={note}"]
    print(flush=True)
    subprocess.run(command, check=True, cwd=ROOT)


class _Running:
    """A job at work, and its bar, which follows the run's metrics."""

    def __init__(self, job: Job, out: pathlib.Path, place: int, width: int, lock: TextIO):
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
        self._next()

    def _next(self) -> None:
        with self._log.open("a") as log:
            # Ctrl-C is to reach this program alone, which then lets the runs save.
            self._process = subprocess.Popen(
                self._commands.pop(0), stdout=log, stderr=log, cwd=ROOT, start_new_session=True
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
            sys.exit(f"{' '.join(self._process.args)} failed; {self._log} ends:\n{self._log.read_text()[-2000:]}")
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
