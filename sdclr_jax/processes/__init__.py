"""Processes of one run, on one machine or many: they start together, agree, stop at one step, and fail together.

    processes.join()                       # before any other use of JAX
    with processes.together():             # what ends one process ends all, and each says why
        processes.agree({"seed": "0"})
        while not stop.at(step, convenient=True): ...
        with processes.first("the fits") as alone:  # the others wait
            if alone: ...

They speak through the key-value store of JAX's coordinator (store.py), where they meet (meeting.py), say that they have
failed (failing.py), and are watched (watching.py). Every wait has a limit, in which the others have to come further
(progress.py). With one process all of this is nothing.
"""

from sdclr_jax.joining import join
from sdclr_jax.processes.failing import broke_down, leave, telling
from sdclr_jax.processes.meeting import agree, exchange, first, gathered, is_shared, of_first, summed
from sdclr_jax.processes.store import count, is_main, joined, number
from sdclr_jax.processes.watching import together
from sdclr_jax.stops import Stop, stopping_before_the_first_step
