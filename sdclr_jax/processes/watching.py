"""Each process is watched by a thread of its own, which ends it where another has failed; process 0 looks after those
that can say nothing any more."""

import contextlib
import threading
import time
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from sdclr_jax import joining, parallel, progress, stops
from sdclr_jax.errors import Lost, Stopped, first_line
from sdclr_jax.processes import failing, meeting, store
from sdclr_jax.processes.store import MEET, POLL, count, is_main
from sdclr_jax.stops import Interrupts

SILENCE = 30  # seconds until one that is not heard of counts as dead
_connected = False  # whether this process has computed with the others


@contextlib.contextmanager
def together(*, stop: bool = False) -> Iterator[None]:
    """What ends one process inside ends all of them, also those that wait for it in a computation.

    Args:
        stop: whether Ctrl-C, SIGTERM, SIGHUP or SIGUSR1 to any of several ends all at once; else they are for `Stop`.

    Raises:
        UserError: another process has failed, or is gone; or they have not joined.
    """
    if count() == 1:
        yield
        return
    store.client()
    ended = threading.Event()
    with Interrupts() if stop else contextlib.nullcontext() as interrupts:
        threading.Thread(target=_watch, args=(ended, interrupts, store.root()), daemon=True).start()
        try:
            with failing.telling():
                _connect()
                try:
                    with meeting.all_do_the_same(True):
                        yield
                except Stopped:  # all have stopped
                    meeting.exchange("end")
                    raise
                meeting.exchange("end")
                store.forget_last_call()
        finally:
            ended.set()
            store.end_call()


def _connect() -> None:
    """Compute something on all devices, side by side. On CPUs the first such computation fails where one process comes
    to it 30 s later than another, as after a long compilation on a busy machine; those after it wait."""
    global _connected
    if _connected:
        return
    meeting.exchange("start")
    shardings = parallel.shardings()
    size = shardings.batch.mesh.size
    ones = parallel.split(np.ones(size, np.float32), np.arange(size), size, shardings.batch)
    jax.jit(jnp.sum, out_shardings=shardings.replicated)(ones).block_until_ready()
    _connected = True


def _watch(ended: threading.Event, interrupts: Interrupts | None, call: str) -> None:
    """End this process where another has failed, while it waits for it in a computation, or where it is to stop and
    does not; process 0 looks after those that can say nothing any more."""
    beat, heard, moved = 0, {}, {}  # process -> its last beat or step, and when it came
    while not ended.wait(store.pause(POLL)):
        beat += 1
        # One that waits on purpose does not stand still.
        step = f"{stops.taken}.{beat if meeting.waits() else progress.done}"
        try:
            with joining.asking(SILENCE):
                store.client().key_value_set(
                    f"{call}/alive/{jax.process_index()}", f"{beat} {step}", allow_overwrite=True
                )
                said, alive = failing.failures(), store.all_in(f"{call}/alive") if is_main() else {}
        except Exception as error:  # the store itself is broken
            lost = f"process 0 cannot be asked ({first_line(error)}): see what it says"
            failing.end(lost, Lost.status)
        if interrupts and interrupts.waited() > failing.LEAVE and not failing.told():
            failing.publish(KeyboardInterrupt())
            failing.end("stopped", 130)
        if said and not (failing.told() or ended.wait(failing.LEAVE) or failing.told()):
            failing.end(*failing.first_of(said))
        for number, value in alive.items():
            for seen, part in zip((heard, moved), value.split(), strict=True):
                if seen.get(number, ("", 0))[0] != part:
                    seen[number] = part, time.monotonic()
        if failing.told() or ended.is_set():  # those that have heard of its own failure have left
            continue
        if lost := _lost(heard, moved):
            failing.publish(lost)
            failing.end(str(lost), lost.status)


def _lost(heard: dict[int, tuple[str, float]], moved: dict[int, tuple[str, float]]) -> Lost | None:
    now = time.monotonic()
    for number, (_, since) in heard.items():
        if now - since > SILENCE:
            return Lost(
                f"process {number} has not been heard of for {SILENCE} s: it was killed, or its machine is gone; start "
                "all again, and a run goes on from its last checkpoint"
            )
    if moved and all(now - since > MEET for _, since in moved.values()):
        number, (step, _) = min(moved.items(), key=lambda item: int(item[1][0].partition(".")[0]))
        return Lost(
            f"no process has done a step for {MEET} s, and process {number} is at step {step}: see what it does"
        )
    return None
