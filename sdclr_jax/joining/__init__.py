"""The start of a process among others: who they are, a roll call, and the line to process 0, where the store is."""

import atexit
import contextlib
import os
import threading

import jax
from jax._src import distributed  # whether a process has joined has no public door

from sdclr_jax.errors import Lost, UserError, first_line
from sdclr_jax.joining import cluster, rollcall
from sdclr_jax.joining.line import Line, end_at_once

LIMIT = 300  # seconds until all have started
_JAX = 180  # seconds for JAX to join processes that have all answered the roll call
_line: Line | None = None  # of a process other than 0 that has joined


def join() -> None:
    """Join the processes of a cluster (TPU pod, Slurm, MPI), or those that JAX_COORDINATOR_ADDRESS (host:port of
    process 0), JAX_NUM_PROCESSES and JAX_PROCESS_ID name; where there is none of these, this process is alone.

    Says for whom it waits, for `SDCLR_JOIN_SECONDS` at most, 300 by default. A process that has joined stays so.

    Raises:
        UserError: the three variables are not whole; or, in each process, the same sentence: one has come twice, or has
            another Python, JAX or number of processes.
        Lost: in each process: one has not come; or has gone again, before JAX joined them.
    """
    global _line
    limit = _limit()
    if distributed.global_state.client is not None or (place := cluster.find(limit)) is None:
        return
    rollcall.answer(place, limit)
    line = Line(place.address) if place.number else None
    waiting = threading.Timer(_JAX, _jax_waits, [place])
    waiting.daemon = True
    waiting.start()
    try:
        jax.distributed.initialize(
            line.address if line else place.address,
            place.count,
            place.number,
            place.devices,
            cluster_detection_method="deactivate",
            initialization_timeout=_JAX + 5,
            shutdown_timeout_seconds=15,
        )
    except Exception as error:  # such as a port that something else has taken since
        raise Lost(
            f"{place}: JAX cannot join the processes ({type(error).__name__}: {first_line(error)}): mend that, and "
            "start all again"
        ) from error
    finally:
        waiting.cancel()
    if line:
        line.watch()
        atexit.register(line.release)  # before JAX takes its leave of process 0, which may then end first
        _line = line


def asking(limit: float) -> contextlib.AbstractContextManager:
    """Inside, something is asked of process 0 that it answers at once; where it is silent for `limit` seconds, it
    stands still, and this process ends with a sentence."""
    return _line.asking(limit) if _line else contextlib.nullcontext()


def release() -> None:
    """Let process 0 end: this process ends too."""
    if _line:
        _line.release()


def _limit() -> int:
    given = os.environ.get("SDCLR_JOIN_SECONDS") or str(LIMIT)
    if not given.isdecimal() or not 1 <= int(given) <= 86_400:
        raise UserError(f"the environment has SDCLR_JOIN_SECONDS={given}: it must be a number of seconds, 1 to 86400")
    return int(given)


def _jax_waits(place: cluster.Place) -> None:
    end_at_once(
        f"{place}: all processes had come, and JAX has not joined them in {_JAX} s: one has ended since; start all "
        "again",
        Lost.status,
    )
