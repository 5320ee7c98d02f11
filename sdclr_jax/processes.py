"""Processes of one run, on one machine or many: they start together, agree, stop at one step, and fail together.

    processes.join()                       # before any other use of JAX
    with processes.together():             # what ends one process ends all, and each says why
        processes.agree({"seed": "0"})
        while not stop.at(step, convenient=True): ...
        with processes.first("the fits") as alone:  # the others wait
            if alone: ...

They speak through the key-value store of JAX's coordinator. Every wait has a limit. With one process all of this is
nothing.
"""

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax._src import distributed  # its store has no public door

from sdclr_jax import joining, parallel, stops
from sdclr_jax.errors import Lost, Stopped, UserError, first_line
from sdclr_jax.joining import join
from sdclr_jax.joining.rollcall import differs
from sdclr_jax.stops import Interrupts, Stop, stopping_before_the_first_step

__all__ = [
    "Stop",
    "agree",
    "count",
    "exchange",
    "first",
    "gathered",
    "is_main",
    "is_shared",
    "join",
    "joined",
    "leave",
    "number",
    "of_first",
    "progressed",
    "stopping_before_the_first_step",
    "summed",
    "telling",
    "together",
]

# Seconds: until all have come to the same place or step, which may take a long compilation; until one that is not heard
# of counts as dead; between two looks at the others.
MEET, SILENCE, POLL = 1800, 30, 0.5
_PIECE = 2**20  # of a text that is given to all
_LEAVE = 5  # seconds for a process to end by itself when another has failed
_AFTER = 1  # seconds from what a process says last to its end, at most
_ROOT = "sdclr_jax"
_met: dict[str, int] = {}  # how often a place was come to: a key is written once
_connected = False  # whether it has computed with the others
_told = False  # whether it has failed, and told the others
_shared = False  # whether all processes do the same now
_done = 0  # pieces of work other than steps
_waits = False  # whether it waits for what another one does, however long that takes


def joined() -> bool:
    """Whether this process has joined others."""
    return (distributed.global_state.num_processes or 1) > 1


def count() -> int:
    """How many processes there are."""
    parallel.devices()  # which says in a sentence why there are none
    return jax.process_count()


def number() -> int:
    """Which of them this one is, from 0 on."""
    return jax.process_index()


def is_main() -> bool:
    """Whether this process is the one that writes files and shows progress."""
    return jax.process_index() == 0


def progressed() -> None:
    """Note that this process has done a piece of work other than a step; where none does any for `MEET` seconds, they
    stand still, and end."""
    global _done
    _done += 1


def is_shared() -> bool:
    """Whether several processes do now the same, side by side, so that each can do a part of it."""
    return _shared and count() > 1


@contextlib.contextmanager
def _all_do_the_same(do: bool) -> Iterator[None]:
    global _shared
    before, _shared = _shared, do
    try:
        yield
    finally:
        _shared = before


def exchange(place: str, text: str = "", *, patient: bool = False) -> list[str]:
    """Wait until every process has come to a place, and give what each has brought, in their order.

    Args:
        place: its name, the same in all.
        text: what this one brings, at most a few MB.
        patient: wait as long as all processes live, for one that may have hours of work to do before it comes.

    Raises:
        UserError: another process has failed; or one has not come in `MEET` seconds.
    """
    global _waits
    if count() == 1:
        return [text]
    _met[place] = _met.get(place, 0) + 1
    folder, until, pause = f"{_ROOT}/{place}/{_met[place]}", time.monotonic() + MEET, 0.002
    _store().key_value_set(f"{folder}/{jax.process_index()}", text)
    _waits = patient
    try:
        while True:
            if said := _failures():
                raise _error_of(said)
            brought = _all_in(folder)
            if len(brought) == count():
                if is_main() and _met[place] > 1:  # all have read what was brought before
                    _store().key_value_delete(f"{_ROOT}/{place}/{_met[place] - 1}/")
                return [brought[i] for i in range(count())]
            if time.monotonic() > until and not patient:
                missing = ", ".join(str(i) for i in range(count()) if i not in brought)
                raise UserError(f"process {missing} has not come to '{place}' in {MEET} s: see what it says")
            time.sleep(_pause(pause))
            pause = min(2 * pause, 0.05)
    finally:
        _waits = False


@contextlib.contextmanager
def first(place: str) -> Iterator[bool]:
    """Process 0 goes in first, to do what one of them does, and gets True. The others get False, have nothing to do
    inside, and wait at the end until it is done, however long it takes, as long as it lives."""
    with _all_do_the_same(False):
        yield is_main()
    exchange(place, patient=True)


def of_first(place: str, make: Callable[[], str]) -> str:
    """The text that process 0 makes, in all of them; the others wait for it, as in `first`."""
    if count() == 1:
        return make()
    with _all_do_the_same(False):
        text = make() if is_main() else ""
    return "".join(gathered(place, (text[i : i + _PIECE] for i in range(0, len(text), _PIECE))))


def gathered(place: str, texts: Iterable[str]) -> Iterator[str]:
    """All texts of all processes, those of process 0 first. Each gives any number of them, of at most a few MB each;
    the others wait as long as it lives.

    Raises:
        UserError: another process has failed.
    """
    if count() == 1:
        yield from texts
        return
    _met[place] = _met.get(place, 0) + 1
    folder, given = f"{_ROOT}/{place} given/{_met[place]}", 0
    for given, text in enumerate(texts, 1):
        _store().key_value_set(f"{folder}/{jax.process_index()}/{given}", text)
    for number, total in enumerate(exchange(place, str(given), patient=True)):
        for i in range(1, int(total) + 1):
            yield _store().blocking_key_value_get(f"{folder}/{number}/{i}", 60_000)
    exchange(f"{place} read")
    if is_main():
        _store().key_value_delete(f"{folder}/")


def summed(counts: Mapping[str, float]) -> dict[str, float]:
    """The sum over the processes of each number; all have the same names, and come here together."""
    if count() == 1 or not counts:
        return dict(counts)
    of_each = [json.loads(text) for text in exchange("sums", json.dumps(counts))]
    return {name: sum(each[name] for each in of_each) for name in counts}


def agree(facts: Mapping[str, Any]) -> None:
    """See that all processes have the same facts.

    Raises:
        UserError: in every process; names one that differs, and the fact.
    """
    first, *others = map(json.loads, exchange("agree", json.dumps({name: str(x) for name, x in facts.items()})))
    for number, other in enumerate(others, 1):
        for name in [*first, *(name for name in other if name not in first)]:
            if first.get(name) != other.get(name):
                raise UserError(differs(number, name, other.get(name), first.get(name)))


@contextlib.contextmanager
def together(*, stop: bool = False) -> Iterator[None]:
    """What ends one process inside ends all of them, also those that wait for it in a computation.

    Args:
        stop: whether Ctrl-C, SIGTERM, SIGHUP or SIGUSR1 to any of several ends all at once; else they are for `Stop`.

    Raises:
        UserError: another process has failed, or is gone.
    """
    if count() == 1:
        yield
        return
    ended = threading.Event()
    with Interrupts() if stop else contextlib.nullcontext() as interrupts:
        threading.Thread(target=_watch, args=(ended, interrupts), daemon=True).start()
        try:
            with telling():
                _connect()
                try:
                    with _all_do_the_same(True):
                        yield
                except Stopped:  # all have stopped
                    exchange("end")
                    raise
                exchange("end")
        finally:
            ended.set()


def _connect() -> None:
    """Compute something on all devices, side by side. On CPUs the first such computation fails where one process comes
    to it 30 s later than another, as after a long compilation on a busy machine; those after it wait."""
    global _connected
    if _connected:
        return
    exchange("start")
    shardings = parallel.shardings()
    size = shardings.batch.mesh.size
    ones = parallel.split(np.ones(size, np.float32), np.arange(size), size, shardings.batch)
    jax.jit(jnp.sum, out_shardings=shardings.replicated)(ones).block_until_ready()
    _connected = True


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
            while not (said := _failures()) and time.monotonic() < until:
                time.sleep(0.05)
            if said:
                raise _error_of(said) from error
            if broke_down(error):
                lost = Lost(
                    f"a computation with the other processes broke down ({first_line(error)}): one of them was "
                    "killed, or its machine is gone; start all again, and a run goes on from its last checkpoint"
                )
                _publish(lost)
                raise lost from error
        _publish(error)
        raise


def broke_down(error: Exception) -> bool:
    """Whether this is how a computation with other processes ends when one of them is gone."""
    return isinstance(error, jax.errors.JaxRuntimeError) or "Gloo" in str(error)


def leave(status: int) -> None:
    """End a failed process with this status, once the others have heard of it; JAX would wait for them, and abort."""
    sys.stdout.flush()
    sys.stderr.flush()
    joining.release()
    late = threading.Timer(3 * _LEAVE, os._exit, [status])  # the store may not answer
    late.daemon = True
    late.start()
    with contextlib.suppress(Exception):  # the store may be what has gone
        _store().key_value_set(f"{_ROOT}/left/{jax.process_index()}", "", allow_overwrite=True)
        until = time.monotonic() + _LEAVE + 5
        while is_main() and len(_all_in(f"{_ROOT}/left")) < count() and time.monotonic() < until:
            time.sleep(0.05)  # the store goes with this process
        if is_main():
            time.sleep(_AFTER)  # the others have said that they leave, and JAX aborts one that is not quite gone
    os._exit(status)


def _watch(ended: threading.Event, interrupts: Interrupts | None) -> None:
    """End this process where another has failed, while it waits for it in a computation, or where it is to stop and
    does not; process 0 looks after those that can say nothing any more."""
    beat, heard, moved = 0, {}, {}  # process -> its last beat or step, and when it came
    while not ended.wait(_pause(POLL)):
        beat += 1
        step = f"{stops.taken}.{beat if _waits else _done}"  # who waits on purpose does not stand still
        try:
            with joining.asking(SILENCE):
                _store().key_value_set(f"{_ROOT}/alive/{jax.process_index()}", f"{beat} {step}", allow_overwrite=True)
                said, alive = _failures(), _all_in(f"{_ROOT}/alive") if is_main() else {}
        except Exception as error:  # the store itself is broken
            lost = f"process 0 cannot be asked ({first_line(error)}): see what it says"
            _end(lost, Lost.status)
        if interrupts and interrupts.waited() > _LEAVE and not _told:
            _publish(KeyboardInterrupt())
            _end("stopped", 130)
        if said and not (_told or ended.wait(_LEAVE) or _told):
            _end(*_first_of(said))
        for number, value in alive.items():
            for seen, part in zip((heard, moved), value.split(), strict=True):
                if seen.get(number, ("", 0))[0] != part:
                    seen[number] = part, time.monotonic()
        if not _told and (lost := _lost(heard, moved)):  # those that have heard of its own failure have left
            _publish(lost)
            _end(str(lost), lost.status)


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


def _pause(seconds: float) -> float:
    """Between two looks into the store, which all processes share."""
    return seconds * max(1, count() / 16)


def _publish(error: BaseException) -> None:
    global _told
    if _told:
        return
    _told = True
    status = _status(error)
    text = f"{type(error).__name__}: {first_line(error)}" if status is None else str(error) or "stopped"
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
    error = UserError(sentence) if status == UserError.status else Lost(sentence)
    error.status = status
    return error


def _end(sentence: str, status: int) -> None:
    """End this process from another thread than the main one, which may wait in a computation for ever."""
    print(f"sdclr: {sentence}", file=sys.stderr, flush=True)
    leave(status)


def _all_in(folder: str) -> dict[int, str]:
    return {int(key.rpartition("/")[2]): value for key, value in _store().key_value_dir_get(f"{folder}/")}


def _store() -> Any:
    return distributed.global_state.client
