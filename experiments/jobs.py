"""Lists of runs: each is pretrained, then evaluated, in processes of its own, a few at a time, with a bar for each.

An experiment is a list of `Job`s handed to `run`. Started again, it goes on where it stopped: a run that is done costs
the seconds of finding that out.
"""

import json
import os
import pathlib
import subprocess
import sys
import time
from typing import NamedTuple

from tqdm import tqdm

ROOT = pathlib.Path(__file__).parents[1]
sys.path.append(str(ROOT))  # configs/ is data beside the package, not installed with it
SDCLR = [sys.executable, "-m", "sdclr_jax.commands.main"]


class Job(NamedTuple):
    """A run: its folder's name, config as FILE.py:METHOD in configs/, and the fields that it overrides."""

    name: str
    config: str
    fields: tuple[str, ...] = ()  # --config.FIELD=VALUE
    labels: bool = True  # whether there are any to evaluate by


def run(jobs: list[Job], out: pathlib.Path, *, at_a_time: int = 2) -> list[pathlib.Path]:
    """Pretrain, and evaluate where there are labels, all jobs in folders below `out`; returns the folders, in order.

    A job that fails ends the program with the last lines of its log, Ctrl-C with all runs saved.
    """
    out = out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    waiting, running = list(jobs), {}
    width = max(len(job.name) for job in jobs)
    try:
        while waiting or running:
            for place in range(at_a_time):
                if place not in running and waiting:
                    running[place] = _Running(waiting.pop(0), out, place, width)
            running = {place: job for place, job in running.items() if job.running()}
            time.sleep(0.2)
    except KeyboardInterrupt:
        sys.exit("\nstopped; the same command goes on from here")
    finally:
        for job in running.values():
            job.stop()
        for job in running.values():
            job.wait()
    return [out / job.name for job in jobs]


def report(directories: list[pathlib.Path], output: pathlib.Path, note: str) -> None:
    """`sdclr report` of these runs."""
    command = [*SDCLR, "report", *map(str, directories), f"--output={output}", f"--note={note}"]
    print(flush=True)
    subprocess.run(command, check=True, cwd=ROOT)


class _Running:
    """A job at work, and its bar, which follows the run's metrics."""

    def __init__(self, job: Job, out: pathlib.Path, place: int, width: int):
        self._directory, self._log = out / job.name, out / f"{job.name}.log"
        config = f"--config={ROOT / 'configs' / job.config}"
        self._commands = [
            [*SDCLR, "pretrain", config, f"--workdir={self._directory}", *job.fields, "--noprogress"],
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
            sys.exit(f"{' '.join(self._process.args)} failed; {self._log} ends:\n{self._log.read_text()[-2000:]}")
        if self._commands:
            self._next()
            return True
        self._bar.close()
        return False

    def stop(self) -> None:
        """Ask the run to save and end."""
        self._bar.close()
        self._process.terminate()

    def wait(self) -> None:
        self._process.wait()

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
        self._bar.refresh()


def minutes_since(began: float) -> str:
    """How long it took, and on how many cores, for the last line of an experiment."""
    return f"{(time.perf_counter() - began) / 60:.1f} minutes on {os.cpu_count()} cores"
