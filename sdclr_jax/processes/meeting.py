"""Processes wait for each other at a place that has a name, and bring texts to it."""

import contextlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax

from sdclr_jax.errors import Lost, UserError
from sdclr_jax.joining.rollcall import differs
from sdclr_jax.processes import failing, store
from sdclr_jax.processes.store import MEET, count, is_main

_PIECE = 2**20  # of a text that is given to all
_met: dict[str, int] = {}  # how often a place of a call was come to: a key is written once
_shared = False  # whether all processes do the same now
_waits = False  # whether this one waits for what another one does, however long that takes


def waits() -> bool:
    """Whether this process waits on purpose, so that it does not stand still."""
    return _waits


def is_shared() -> bool:
    """Whether several processes do now the same, side by side, so that each can do a part of it."""
    return _shared and count() > 1


@contextlib.contextmanager
def all_do_the_same(do: bool) -> Iterator[None]:
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
        UserError: another process has failed.
        Lost: one has not come, and has done nothing for `MEET` seconds.
    """
    global _waits
    if count() == 1:
        return [text]
    before: dict[int, str] | None = None  # how far each of the others had come
    (at, times), until, pause = _come_to(place), time.monotonic() + MEET, 0.002
    folder = f"{at}/{times}"
    store.client().key_value_set(f"{folder}/{jax.process_index()}", text)
    _waits = patient
    try:
        while True:
            if said := failing.failures():
                raise failing.error_of(said)
            brought = store.all_in(folder)
            if len(brought) == count():
                if is_main() and times > 1:  # all have read what was brought before
                    store.client().key_value_delete(f"{at}/{times - 1}/")
                return [brought[i] for i in range(count())]
            if before is None:
                before = store.steps()
            if time.monotonic() > until and not patient:
                missing, now = [i for i in range(count()) if i not in brought], store.steps()
                if all(now.get(i) == before.get(i) for i in missing):
                    named = ", ".join(map(str, missing))
                    raise Lost(f"process {named} has not come to '{place}' in {MEET} s: see what it says")
                before, until = now, time.monotonic() + MEET  # it may have more to read than this one
            time.sleep(store.pause(pause))
            pause = min(2 * pause, 0.05)
    finally:
        _waits = False


def _come_to(place: str) -> tuple[str, int]:
    """The name in the store of a place of this call, and how often it was come to, with this time."""
    at = f"{store.root()}/{place}"
    _met[at] = _met.get(at, 0) + 1
    return at, _met[at]


@contextlib.contextmanager
def first(place: str) -> Iterator[bool]:
    """Process 0 goes in first, to do what one of them does, and gets True. The others get False, have nothing to do
    inside, and wait at the end until it is done, however long it takes, as long as it lives."""
    with all_do_the_same(False):
        yield is_main()
    exchange(place, patient=True)


def of_first(place: str, make: Callable[[], str]) -> str:
    """The text that process 0 makes, in all of them; the others wait for it, as in `first`."""
    if count() == 1:
        return make()
    with all_do_the_same(False):
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
    (at, times), given = _come_to(f"{place} given"), 0
    folder = f"{at}/{times}"
    for given, text in enumerate(texts, 1):
        store.client().key_value_set(f"{folder}/{jax.process_index()}/{given}", text)
    for number, total in enumerate(exchange(place, str(given), patient=True)):
        for i in range(1, int(total) + 1):
            yield store.client().blocking_key_value_get(f"{folder}/{number}/{i}", 60_000)
    exchange(f"{place} read")
    if is_main():
        store.client().key_value_delete(f"{folder}/")


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
