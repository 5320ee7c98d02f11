"""What a run writes while it trains: metrics.jsonl, warnings.jsonl and TensorBoard's events."""

import contextlib
import json
import logging
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary

from sdclr_jax import files, processes, records
from sdclr_jax.errors import UserError
from sdclr_jax.records import names
from sdclr_jax.run.growing import Growing

LOG = logging.getLogger(__name__)
Line = dict[str, float | None]  # None is what cannot be measured, null in the file


class Metrics:
    """metrics.jsonl, warnings.jsonl and TensorBoard events, continued after `step`; later lines are dropped.

    Args:
        workdir: the run's folder.
        step: that of the checkpoint which the run goes on from.
        notes: what `notes` gave when that checkpoint was saved.
        still_held: raises UserError where another process holds the folder by now; nothing is published then.

    Attributes:
        seconds: spent on training before this process.
        lost: sentences on lines that were written, and are gone.
    """

    def __init__(
        self,
        workdir: pathlib.Path,
        step: int,
        notes: Mapping[str, Any] | None = None,
        still_held: Callable[[], None] = lambda: None,
    ):
        notes = notes or {}
        self._grown, self.lost = Growing(workdir, still_held), []
        self._folder = self._grown.at
        written = records.read_metrics(workdir / names.METRICS, ("step", "seconds"))
        kept = _cut(self._folder / names.METRICS, written, step)
        warned = _cut(self._folder / names.WARNINGS, records.read_warnings(workdir / names.WARNINGS), step)
        self._warned = {line.get("cause") for line in warned}
        self._files = {}
        for name, lines in {names.METRICS: kept, names.WARNINGS: warned}.items():
            self._files[name] = _Written(len(lines), _size(self._folder / name))
            expected = notes.get(name, len(lines))
            if len(lines) < expected:
                self.lost.append(f"{name} has {len(lines)} of the {expected} lines that were written up to step {step}")
        if step and names.METRICS not in notes and (last := kept[-1]["step"] if kept else 0) != step:
            self.lost.append(f"{names.METRICS} has no lines of the steps after {last}, up to {step}")
        self._start_events(step)
        self.seconds = notes.get("seconds", kept[-1]["seconds"] if kept else 0.0)
        self._now = self.seconds

    def notes(self) -> dict[str, Any]:
        """What belongs to a checkpoint of this step: how many lines there are, and the seconds."""
        return {name: file.lines for name, file in self._files.items()} | {"seconds": self._now}

    def write(self, line: Line) -> list[str]:
        """Add a line.

        Returns:
            Sentences on what was written before and is gone now, most often none.

        Raises:
            UserError: the disk is full, or the run's folder is gone.
        """
        lost = self._append(names.METRICS, line)
        self._now = line["seconds"]
        values = {name: value for name, value in line.items() if name != "step" and value is not None}
        summary = Summary(value=[Summary.Value(tag=name, simple_value=value) for name, value in values.items()])
        try:
            if not self._events_path.exists():
                lost.append(f"{names.TENSORBOARD} was removed while the run trained, and is begun again")
                self._close_events()
                self._start_events(line["step"] - 1)
            self._events.write_event(Event(wall_time=time.time(), step=line["step"], summary=summary))
            self._events.flush()
        except OSError as error:
            raise _unwritable(self._folder / names.TENSORBOARD, error) from error
        return lost

    def warn(self, line: Mapping[str, Any], cause: str, message: str) -> bool:
        """Write down a warning that a line of metrics gives rise to; False if the run has been warned of that cause."""
        if cause in self._warned:
            return False
        self._warned.add(cause)
        self._append(names.WARNINGS, {"step": line["step"], "epoch": line["epoch"], "cause": cause, "message": message})
        return True

    def _append(self, name: str, line: dict[str, Any]) -> list[str]:
        """Add a line to a file; returns a sentence where the file is not what it was after the line before."""
        path, written, lost = self._folder / name, self._files[name], []
        try:
            if _size(path) != written.bytes:
                lost = [f"{name} was removed or changed while the run trained, so lines before may be missing"]
            with path.open("ab") as file:
                file.write((json.dumps(line, allow_nan=False) + "\n").encode())
            self._files[name] = _Written(written.lines + 1, _size(path))
        except OSError as error:
            raise _unwritable(path, error) from error
        return lost

    def _start_events(self, step: int) -> None:
        folder = self._folder / names.TENSORBOARD
        try:
            folder.mkdir(exist_ok=True)
            # Not tensorboardX's SummaryWriter: its thread dies of a full disk, and its caller then waits for ever.
            self._events = EventsWriter(str(folder / "events"))
            start = SessionLog(status=SessionLog.START)  # what was written of this step and later ones is void
            self._events.write_event(Event(wall_time=time.time(), step=step + 1, session_log=start))
            self._events.flush()
        except OSError as error:
            raise _unwritable(folder, error) from error
        self._events_path = max(folder.glob("events*"), key=lambda path: path.stat().st_mtime_ns)

    def publish(self) -> None:
        """See that all lines are where a later process finds them: before a checkpoint that they belong to.

        Raises:
            UserError: the run is in a bucket that cannot be written, or that another process holds by now.
        """
        self._grown.publish()

    def close(self) -> None:
        self._close_events()
        try:
            self._grown.close()
        except UserError as error:  # what checkpoints cover is there
            LOG.warning("the last lines of metrics are lost: %s", error)

    def _close_events(self) -> None:
        with contextlib.suppress(OSError):  # each line is on the disk, or `write` has said why not
            self._events.close()


class _Unwritten(Metrics):
    """Of a process that is not the main one."""

    def __init__(self):
        self.seconds, self.lost = 0.0, []

    def notes(self) -> dict[str, Any]:
        return {}

    def write(self, line: Line) -> list[str]:
        return []

    def warn(self, line: Mapping[str, Any], cause: str, message: str) -> bool:
        return False

    def publish(self) -> None:
        pass

    def close(self) -> None:
        pass


def opened(workdir: pathlib.Path, step: int, notes: Mapping[str, Any], still_held: Callable[[], None]) -> Metrics:
    """The metrics of a run, continued after `step`; of several processes only the main one writes."""
    return Metrics(workdir, step, notes, still_held) if processes.is_main() else _Unwritten()


class _Written(NamedTuple):
    """A file as this process has left it."""

    lines: int
    bytes: int


def _size(path: pathlib.Path) -> int:
    """Bytes in a file, 0 without one."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _unwritable(path: pathlib.Path, error: OSError) -> UserError:
    return UserError(
        f"{path} cannot be written ({error.strerror or error}): make room and permission there; the same command then "
        "goes on from the last checkpoint"
    )


def _cut(path: pathlib.Path, lines: list[dict[str, Any]], step: int) -> list[dict[str, Any]]:
    """Write to a file those of its lines up to `step`, whole or not at all, and return them."""
    kept = [line for line in lines if line["step"] <= step]
    if not (lines or path.exists()):
        return kept
    files.write(path, "".join(json.dumps(line) + "\n" for line in kept).encode())
    return kept
