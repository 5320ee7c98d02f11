"""An objective is a pair of pure functions on the outputs of two branches; it owns only what is not learnt."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from sdclr_jax.models import Outputs


class Objective(NamedTuple):
    """`init() -> state` and `apply(state, a, b) -> (loss, state)`.

    `a` and `b` are the `Outputs` of the two sides of a pair on the whole global batch; `loss` is a float32 scalar,
    the mean over the batch; `state` is what is remembered between steps without being learnt, such as a queue.
    """

    init: Callable[[], Any]
    apply: Callable[[Any, Outputs, Outputs], tuple[jax.Array, Any]]


def stateless(loss: Callable[[Outputs, Outputs], jax.Array]) -> Objective:
    """An objective that remembers nothing."""
    return Objective(init=lambda: None, apply=lambda state, a, b: (loss(a, b), state))
