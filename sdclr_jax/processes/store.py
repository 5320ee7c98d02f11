"""Which process this is, and the store that all of them share: texts by name, in process 0."""

from typing import Any

import jax
from jax._src import distributed  # its store has no public door

from sdclr_jax import parallel
from sdclr_jax.errors import UserError

ROOT = "sdclr_jax"  # of all names in the store
_ended = 0  # how many calls of all processes have ended: they come to the same ones, in one order
# Seconds until all have come to the same place or step, which may take a long compilation; and between two looks.
MEET, POLL = 1800, 0.5


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


def root() -> str:
    """How names in the store begin in the call that is under way, or, between two calls, in the next. What was said in
    an earlier call is not heard: that a process has failed, which its caller may have caught."""
    return f"{ROOT}/{_ended}"


def end_call() -> None:
    """What is said from now on is of the next call."""
    global _ended
    _ended += 1


def forget_last_call() -> None:
    """Remove what was said in the call before this one: in process 0, once all have come to the end of this one."""
    if is_main() and _ended:
        client().key_value_delete(f"{ROOT}/{_ended - 1}/")


def all_in(folder: str) -> dict[int, str]:
    """What each process has put into a folder of the store, by number."""
    return {int(key.rpartition("/")[2]): value for key, value in client().key_value_dir_get(f"{folder}/")}


def steps() -> dict[int, str]:
    """How far each process has come, as it says with each sign of life: another text where it has come further."""
    return {number: value.partition(" ")[2] for number, value in all_in(f"{root()}/alive").items()}


def client() -> Any:
    """JAX's client of it, in one of several processes.

    Raises:
        UserError: they have not joined, as those of a TPU slice, which know of each other all the same.
    """
    if (found := distributed.global_state.client) is None:
        raise UserError(
            f"there are {jax.process_count()} processes, and they have not joined: give --distributed (in Python, call "
            "jax.distributed.initialize() first)"
        )
    return found


def pause(seconds: float) -> float:
    """Between two looks into the store, which all processes share."""
    return seconds * max(1, count() / 16)
