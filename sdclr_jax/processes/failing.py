"""A process that fails tells the others why, and they end with its sentence; it does not wait for them."""

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping

import jax

from sdclr_jax import joining
from sdclr_jax.errors import Lost, Stopped, UserError, first_line, out_of_memory
from sdclr_jax.output import tell
from sdclr_jax.processes import store
from sdclr_jax.processes.store import POLL, ROOT, count, is_main

LEAVE = 5  # seconds for a process to end by itself when another has failed
_AFTER = 1  # seconds from what a process says last to its end, at most
_told = ""  # the call in which this process has failed, and told the others


def told() -> bool:
    """Whether this process has failed in this call, and told the others."""
    return _told == store.root()


@contextlib.contextmanager
def telling() -> Iterator[None]:
    """What is raised inside is told to the other processes at once; for what is inside of something whose end waits for
    them, as the end of a checkpoint does."""
    try:
        yield
    except BaseException as error:
        if count() == 1 or isinstance(error, Stopped) or (isinstance(error, SystemExit) and not error.code):
            raise
        if isinstance(error, Exception) and _status(error) is None:
            until = time.monotonic() + 4 * POLL  # it may be the echo of what another one has to say
            while not (said := failures()) and time.monotonic() < until:
                time.sleep(0.05)
            if said:
                raise error_of(said) from error
            if broke_down(error):
                lost = Lost(
                    f"a computation with the other processes broke down ({first_line(error)}): one of them was "
                    "killed, or its machine is gone; start all again, and a run goes on from its last checkpoint"
                )
                publish(lost)
                raise lost from error
        publish(error)
        raise


def broke_down(error: Exception) -> bool:
    """Whether this is how a computation with other processes ends when one of them is gone."""
    if out_of_memory(error):  # of its own machine
        return False
    return isinstance(error, jax.errors.JaxRuntimeError) or "Gloo" in str(error)


def publish(error: BaseException) -> None:
    global _told
    if told():
        return
    _told = call = store.root()
    status = _status(error)
    text = f"{type(error).__name__}: {first_line(error)}" if status is None else str(error) or "stopped"
    status = 1 if status is None else status
    with contextlib.suppress(Exception):  # the store may be what has gone
        key = f"{call}/failed/{jax.process_index()}"
        store.client().key_value_set(key, json.dumps({"text": text, "status": status}), allow_overwrite=True)
    threading.Thread(target=_do_not_wait, args=(call, text, status), daemon=True).start()


def _do_not_wait(call: str, text: str, status: int) -> None:
    """End this failed process where what it has begun waits for others that know nothing of it, or are gone."""
    until = time.monotonic() + 2 * LEAVE
    while time.monotonic() < until:
        time.sleep(POLL)
        with contextlib.suppress(Exception):
            failed = len(store.all_in(f"{call}/failed"))
            if failed == count() or (not failed and store.root() != call):
                return  # all have failed, as by one loss that is not a number, or have come to the end of a later call
    end(text, status)


def _status(error: BaseException) -> int | None:
    """The exit status of an error that has a sentence for its user, None of another."""
    return 130 if isinstance(error, KeyboardInterrupt) else getattr(error, "status", None)


def failures() -> dict[int, str]:
    found = store.all_in(f"{store.root()}/failed")
    return {number: said for number, said in found.items() if number != jax.process_index()}


def first_of(said: Mapping[int, str]) -> tuple[str, int]:
    """Sentence and exit status."""
    number = min(said)
    found = json.loads(said[number])
    text = found["text"] if found["text"].startswith("process ") else f"process {number}: {found['text']}"
    return text, found["status"]


def error_of(said: Mapping[int, str]) -> UserError | Lost:
    sentence, status = first_of(said)
    error = UserError(sentence) if status == UserError.status else Lost(sentence)
    error.status = status
    return error


def end(sentence: str, status: int) -> None:
    """End this process from another thread than the main one, which may wait in a computation for ever."""
    tell(f"sdclr: {sentence}")
    leave(status)


def leave(status: int) -> None:
    """End a failed process with this status, once the others have heard of it; JAX would wait for them, and abort."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # its reader may be gone, or it is closed
            stream.flush()
    joining.release()
    late = threading.Timer(3 * LEAVE, os._exit, [status])  # the store may not answer
    late.daemon = True
    late.start()
    with contextlib.suppress(Exception):  # the store may be what has gone
        store.client().key_value_set(f"{ROOT}/left/{jax.process_index()}", "", allow_overwrite=True)
        until = time.monotonic() + LEAVE + 5
        while is_main() and len(store.all_in(f"{ROOT}/left")) < count() and time.monotonic() < until:
            time.sleep(0.05)  # the store goes with this process
        if is_main():
            time.sleep(_AFTER)  # the others have said that they leave, and JAX aborts one that is not quite gone
    os._exit(status)
