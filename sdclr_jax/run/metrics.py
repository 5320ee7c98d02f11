"""What a run writes while it trains: metrics.jsonl, warnings.jsonl and TensorBoard's events."""

import contextlib
import json
import logging
import pathlib
import time
from typing import Any

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary

from sdclr_jax import files, processes, records
from sdclr_jax.errors import UserError
from sdclr_jax.records import names

LOG = logging.getLogger(__name__)
Line = dict[str, float | None]  # None is what cannot be measured, null in the file


class Metrics:
    """metrics.jsonl, warnings.jsonl and TensorBoard events, continued after `step`; later lines are dropped."""

    def __init__(self, workdir: pathlib.Path, step: int):
        self._grown = files.Growing(workdir)
        self._path, self._warnings = self._grown.at / names.METRICS, self._grown.at / names.WARNINGS
        kept = _cut(self._path, read(workdir / names.METRICS), step)
        warned = _cut(self._warnings, records.lines(workdir / names.WARNINGS, ("step", "cause")), step)
        self._warned = {line["cause"] for line in warned}
        (self._grown.at / names.TENSORBOARD).mkdir(exist_ok=True)
        # Not tensorboardX's SummaryWriter: its thread dies of a full disk, and whoever writes then waits for good.
        self._events = EventsWriter(str(self._grown.at / names.TENSORBOARD / "events"))
        start = SessionLog(status=SessionLog.START)  # what was written of this step and later ones is void
        self._events.write_event(Event(wall_time=time.time(), step=step + 1, session_log=start))
        self.seconds = kept[-1]["seconds"] if kept else 0.0  # spent on training before this process

    def write(self, line: Line) -> None:
        """Add a line.

        Raises:
            UserError: the disk is full, or the folder is gone.
        """
        _append(self._path, line)
        values = {name: value for name, value in line.items() if name != "step" and value is not None}
        summary = Summary(value=[Summary.Value(tag=name, simple_value=value) for name, value in values.items()])
        try:
            self._events.write_event(Event(wall_time=time.time(), step=line["step"], summary=summary))
            self._events.flush()
        except OSError as error:
            raise _unwritable(self._path.parent / names.TENSORBOARD, error) from error

    def warn(self, line: Line, cause: str, message: str) -> bool:
        """Write down a warning that a line of metrics gives rise to; False if the run has been warned of that cause."""
        if cause in self._warned:
            return False
        self._warned.add(cause)
        warning = {"step": line["step"], "epoch": line["epoch"], "cause": cause, "message": message}
        _append(self._warnings, warning)
        return True

    def publish(self) -> None:
        """See that all lines are where a later process finds them: before a checkpoint that they belong to.

        Raises:
            UserError: the run is in a bucket that cannot be written.
        """
        self._grown.publish()

    def close(self) -> None:
        with contextlib.suppress(OSError):  # each line is on the disk, or `write` has said why not
            self._events.close()
        try:
            self._grown.close()
        except UserError as error:  # what checkpoints cover is there
            LOG.warning("the last lines of metrics are lost: %s", error)


class _Unwritten(Metrics):
    """Of a process that is not the main one."""

    def __init__(self):
        self.seconds = 0.0

    def write(self, line: Line) -> None:
        pass

    def warn(self, line: Line, cause: str, message: str) -> bool:
        return False

    def publish(self) -> None:
        pass

    def close(self) -> None:
        pass


def opened(workdir: pathlib.Path, step: int) -> Metrics:
    """The metrics of a run, continued after `step`; of several processes only the main one writes."""
    return Metrics(workdir, step) if processes.is_main() else _Unwritten()


def _append(path: pathlib.Path, line: dict[str, Any]) -> None:
    try:
        with path.open("a") as file:
            file.write(json.dumps(line, allow_nan=False) + "\n")
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(path: pathlib.Path, error: OSError) -> UserError:
    return UserError(
        f"{path} cannot be written ({error.strerror or error}): make room and permission there; the same command then "
        "goes on from the last checkpoint"
    )


def read(path: pathlib.Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl, less a last one that a crash has cut short; none where there is no file.

    Raises:
        UserError: another line is damaged.
    """
    return records.lines(path, ("step", "seconds"))


def _cut(path: pathlib.Path, lines: list[dict[str, Any]], step: int) -> list[dict[str, Any]]:
    """Write to a file those of its lines up to `step`, whole or not at all, and return them."""
    kept = [line for line in lines if line["step"] <= step]
    if not (kept or path.exists()):
        return kept
    files.write(path, "".join(json.dumps(line) + "\n" for line in kept).encode())
    return kept
