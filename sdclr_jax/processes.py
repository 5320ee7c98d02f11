"""Processes of one run, on one machine or many: they start together, agree, stop at one step, and fail together.

    processes.join()                       # before any other use of JAX
    with processes.together():             # what ends one process ends all, and each says why
        processes.agree({"seed": "0"})
        while not stop.at(step, convenient=True): ...

They speak through the key-value store of JAX's coordinator. Every wait has a limit. With one process all of this is
nothing.
"""

import contextlib
import json
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from jax._src import distributed  # its store has no public door
from jax.experimental import multihost_utils

from sdclr_jax import parallel
from sdclr_jax.errors import Lost, Stopped, UserError

# Seconds: until all have started; until all have come to the same place or step, which may take a long compilation or a
# look at a million files; until one that is not heard of counts as dead; between two looks at the others.
JOIN, MEET, SILENCE, POLL = 300, 1800, 30, 0.5
_LEAVE = 5  # seconds for a process to end by itself when another has failed
_ROOT = "sdclr_jax"
_met: dict[str, int] = {}  # how often a place was come to: a key is written once
_at = 0  # the last step of this process
_told = False  # whether it has failed, and told the others


def join() -> None:
    """Join the processes of a cluster (TPU pod, Slurm, MPI, or JAX_COORDINATOR_ADDRESS and its like); where there is
    none, this process is alone. Ends the process with a sentence where the others do not come."""
    waiting = threading.Timer(JOIN - 5, _nobody_came)
    waiting.daemon = True
    waiting.start()
    try:
        jax.distributed.initialize(initialization_timeout=JOIN, shutdown_timeout_seconds=15)
    except Exception as error:  # JAX asks Slurm, MPI, Kubernetes and clouds, each with faults of its own
        alone = isinstance(error, ValueError) and "coordinator_address" in str(error)
        if not alone:
            raise UserError(
                f"--distributed: the processes cannot be joined ({type(error).__name__}: {_first_line(error)}): see "
                "that the scheduler's variables are whole, or set JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and "
                "JAX_PROCESS_ID; one process alone needs no --distributed"
            ) from error
    finally:
        waiting.cancel()


def _nobody_came() -> None:
    sentence = (
        f"not all processes have come in {JOIN - 5} s: see that each was started, once and with its own number, and "
        "reaches the address of the first"
    )
    print(f"sdclr: {sentence}", file=sys.stderr, flush=True)
    os._exit(UserError.status)


def joined() -> bool:
    """Whether this process has joined others."""
    return (distributed.global_state.num_processes or 1) > 1


def count() -> int:
    """How many processes there are."""
    parallel.devices()  # which says in a sentence why there are none
    return jax.process_count()


def is_main() -> bool:
    """Whether this process is the one that writes files and shows progress."""
    return jax.process_index() == 0


def exchange(place: str, text: str = "") -> list[str]:
    """Wait until every process has come to a place, and give what each has brought, in their order.

    Raises:
        UserError: another process has failed; or one has not come in `MEET` seconds.
    """
    if count() == 1:
        return [text]
    _met[place] = _met.get(place, 0) + 1
    folder, until = f"{_ROOT}/{place}/{_met[place]}", time.monotonic() + MEET
    _store().key_value_set(f"{folder}/{jax.process_index()}", text)
    while True:
        if said := _failures():
            raise _error_of(said)
        brought = _all_in(folder)
        if len(brought) == count():
            return [brought[i] for i in range(count())]
        if time.monotonic() > until:
            missing = ", ".join(str(i) for i in range(count()) if i not in brought)
            raise UserError(f"process {missing} has not come to '{place}' in {MEET} s: see what it says")
        time.sleep(_pause(0.05))


def agree(facts: Mapping[str, Any]) -> None:
    """See that all processes have the same facts.

    Raises:
        UserError: in every process; names one that differs, and the fact.
    """
    first, *others = map(json.loads, exchange("agree", json.dumps({name: str(x) for name, x in facts.items()})))
    for number, other in enumerate(others, 1):
        for name in [*first, *(name for name in other if name not in first)]:
            if first.get(name) != other.get(name):
                raise UserError(
                    f"process {number} has another {name} than process 0: {other.get(name)}, not {first.get(name)}; "
                    "start all processes with the same command, code and data"
                )


@contextlib.contextmanager
def together() -> Iterator[None]:
    """What ends one process inside ends all of them, also those that wait for it in a computation.

    Raises:
        UserError: another process has failed, or is gone.
    """
    if count() == 1:
        yield
        return
    ended = threading.Event()
    threading.Thread(target=_watch, args=(ended,), daemon=True).start()
    try:
        with telling():
            try:
                yield
            except Stopped:  # all have stopped
                exchange("end")
                raise
            exchange("end")
    finally:
        ended.set()


@contextlib.contextmanager
def telling() -> Iterator[None]:
    """What is raised inside is told to the other processes at once; for what is inside of something whose end waits for
    them, as the end of a checkpoint does."""
    try:
        yield
    except BaseException as error:
        if count() == 1 or isinstance(error, Stopped):
            raise
        if isinstance(error, Exception) and _status(error) is None:
            until = time.monotonic() + 4 * POLL  # it may be the echo of what another one has to say
            while not (said := _failures()) and time.monotonic() < until:
                time.sleep(0.05)
            if said:
                raise _error_of(said) from error
            if isinstance(error, jax.errors.JaxRuntimeError) or "Gloo" in str(error):
                lost = Lost(
                    f"a computation with the other processes broke down ({_first_line(error)}): one of them was "
                    "killed, or its machine is gone; start all again to go on from the last checkpoint"
                )
                _publish(lost)
                raise lost from error
        _publish(error)
        raise


def leave(status: int) -> None:
    """End a failed process with this status, once the others have heard of it; JAX would wait for them, and abort."""
    sys.stdout.flush()
    sys.stderr.flush()
    with contextlib.suppress(Exception):  # the store may be what has gone
        _store().key_value_set(f"{_ROOT}/left/{jax.process_index()}", "", allow_overwrite=True)
        until = time.monotonic() + _LEAVE + 5
        while is_main() and len(_all_in(f"{_ROOT}/left")) < count() and time.monotonic() < until:
            time.sleep(0.05)  # the store goes with this process
    os._exit(status)


class Stop(contextlib.AbstractContextManager):
    """A stop that is asked for while a run trains, by Ctrl-C, SIGTERM, SIGHUP or SIGUSR1 to any of the processes. A
    second Ctrl-C ends this one at once.

    with Stop() as stop:
        for step in steps:
            if stop.at(step, convenient=True): ...  # save, and leave
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)

    def __init__(self):
        self.asked, self._since = False, 0.0
        self._together = count() > 1 and distributed.global_state.preemption_sync_manager is not None

    def __enter__(self):
        try:
            # Of several, JAX itself takes SIGTERM, and finds a step that all of them have still to come to.
            signals = [s for s in self.SIGNALS if s != signal.SIGTERM or not self._together]
            # What is ignored stays so: `nohup` does that.
            heeded = [s for s in signals if signal.getsignal(s) != signal.SIG_IGN]
            self._before = {s: signal.signal(s, self._ask) for s in heeded}
        except ValueError:  # not the main thread, as in some notebooks
            self._before = {}
        return self

    def _ask(self, number, frame):
        if self.asked:
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            return
        self.asked, self._since = True, time.monotonic()
        print("\nstopping; Ctrl-C again to stop without saving", file=sys.stderr)
        if self._together:
            os.kill(os.getpid(), signal.SIGTERM)

    def at(self, step: int, convenient: bool, patience: float = 20.0) -> bool:
        """Whether to stop after this step. All processes are asked after each of their steps, and say yes at the same.

        Args:
            step: its number.
            convenient: whether this is a good step to stop at; one process alone waits for such a one, and at most
                `patience` seconds.
        """
        global _at
        _at = step
        if self._together:
            return multihost_utils.reached_preemption_sync_point(step)
        return self.asked and (convenient or time.monotonic() - self._since > patience)

    def __exit__(self, *error):
        for number, handler in self._before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def stopping_before_the_first_step(patience: float = 10.0) -> Iterator[None]:
    """Inside, a stop that is asked for before the first step ends this process after `patience` seconds, and a second
    Ctrl-C at once, whatever the main thread does. Python handles signals between its own instructions, and XLA may
    compile a step for many minutes. Nothing is lost then. For commands: the program that calls is ended too.

    Does nothing where there are several processes, which stop at one step.
    """
    if count() > 1 or threading.current_thread() is not threading.main_thread():
        yield
        return
    received, sent = os.pipe()
    os.set_blocking(sent, False)
    before = signal.set_wakeup_fd(sent, warn_on_full_buffer=False)
    thread = threading.Thread(target=_stop_before_the_first_step, args=(received, patience), daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(sent)  # which ends the thread
        thread.join()
        os.close(received)


def _stop_before_the_first_step(received: int, patience: float) -> None:
    """Read the numbers of signals from a pipe until it is closed, or a first step is taken."""
    asked = None
    while not _at:
        left = None if asked is None else max(0.0, asked + patience - time.monotonic())
        if not select.select([received], [], [], left)[0]:
            if not _at:
                _end_at_once("stopped before the first step: run it again to start, or to resume", Stopped.status)
            return
        numbers = os.read(received, 100)
        if not numbers:
            return
        for number in set(numbers) & set(Stop.SIGNALS):
            if asked is not None and number == signal.SIGINT:
                _end_at_once("stopped", 130)
            asked = asked or time.monotonic()


def _end_at_once(sentence: str, status: int) -> None:
    print(f"\nsdclr: {sentence}", file=sys.stderr, flush=True)
    os._exit(status)


def _watch(ended: threading.Event) -> None:
    """End this process where another has failed, while it waits for it in a computation; process 0 looks after those
    that can say nothing any more."""
    beat, heard, moved = 0, {}, {}  # process -> its last beat or step, and when it came
    while not ended.wait(_pause(POLL)):
        beat += 1
        try:
            _store().key_value_set(f"{_ROOT}/alive/{jax.process_index()}", f"{beat} {_at}", allow_overwrite=True)
            said, alive = _failures(), _all_in(f"{_ROOT}/alive") if is_main() else {}
        except Exception as error:  # process 0, where the store is, has gone: JAX ends this one at once
            print(f"sdclr: process 0 cannot be reached ({_first_line(error)}): see what it says", file=sys.stderr)
            return
        if said and not (_told or ended.wait(_LEAVE) or _told):
            _end(*_first_of(said))
        for number, value in alive.items():
            for seen, part in zip((heard, moved), value.split(), strict=True):
                if seen.get(number, ("", 0))[0] != part:
                    seen[number] = part, time.monotonic()
        if lost := _lost(heard, moved):
            _publish(lost)
            _end(str(lost), lost.status)


def _lost(heard: dict[int, tuple[str, float]], moved: dict[int, tuple[str, float]]) -> Lost | None:
    now = time.monotonic()
    for number, (_, since) in heard.items():
        if now - since > SILENCE:
            return Lost(
                f"process {number} has not been heard of for {SILENCE} s: it was killed, or its machine is gone; start "
                "all again to go on from the last checkpoint"
            )
    if moved and all(now - since > MEET for _, since in moved.values()):
        number, (step, _) = min(moved.items(), key=lambda item: int(item[1][0]))
        return Lost(
            f"no process has done a step for {MEET} s, and process {number} is at step {step}: see what it does"
        )
    return None


def _pause(seconds: float) -> float:
    """Between two looks into the store, which all processes share."""
    return seconds * max(1, count() / 16)


def _publish(error: BaseException) -> None:
    global _told
    if _told:
        return
    _told = True
    status = _status(error)
    text = f"{type(error).__name__}: {_first_line(error)}" if status is None else str(error)
    status = 1 if status is None else status
    with contextlib.suppress(Exception):  # the store may be what has gone
        key = f"{_ROOT}/failed/{jax.process_index()}"
        _store().key_value_set(key, json.dumps({"text": text, "status": status}), allow_overwrite=True)
    threading.Thread(target=_do_not_wait, args=(text, status), daemon=True).start()


def _do_not_wait(text: str, status: int) -> None:
    """End this failed process where what it has begun waits for others that know nothing of it, or are gone."""
    until = time.monotonic() + 2 * _LEAVE
    while time.monotonic() < until:
        time.sleep(POLL)
        with contextlib.suppress(Exception):
            if len(_all_in(f"{_ROOT}/failed")) == count():
                return  # all have failed, as by one loss that is not a number, and end what they have begun
    _end(text, status)


def _status(error: BaseException) -> int | None:
    """The exit status of an error that has a sentence for its user, None of another."""
    return 130 if isinstance(error, KeyboardInterrupt) else getattr(error, "status", None)


def _failures() -> dict[int, str]:
    return {number: said for number, said in _all_in(f"{_ROOT}/failed").items() if number != jax.process_index()}


def _first_of(said: Mapping[int, str]) -> tuple[str, int]:
    """Sentence and exit status."""
    number = min(said)
    found = json.loads(said[number])
    text = found["text"] if found["text"].startswith("process ") else f"process {number}: {found['text']}"
    return text, found["status"]


def _error_of(said: Mapping[int, str]) -> UserError | Lost:
    sentence, status = _first_of(said)
    return UserError(sentence) if status == UserError.status else Lost(sentence)


def _end(sentence: str, status: int) -> None:
    """End this process from another thread than the main one, which may wait in a computation for ever."""
    print(f"sdclr: {sentence}", file=sys.stderr, flush=True)
    leave(status)


def _all_in(folder: str) -> dict[int, str]:
    return {int(key.rpartition("/")[2]): value for key, value in _store().key_value_dir_get(f"{folder}/")}


def _store() -> Any:
    return distributed.global_state.client


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:200]
