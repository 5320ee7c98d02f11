"""An objective is three pure functions on the outputs of the branches; it owns only what is not learnt."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from sdclr_jax.errors import UserError
from sdclr_jax.models import Outputs


class Objective(NamedTuple):
    """How side `a` of a pair learns from side `b`, and what is remembered of `b`, such as a queue.

    init: (key, b) -> memory, before the first step; of `b` only the shapes are read, less the batch.
    loss: (memory, a, b, key) -> float32 scalar, the mean over the batch. `a` and `b` are the `Outputs` of the two
        sides on the whole global batch; `key` is the same for all pairs of a step.
    remember: (memory, b) -> memory, once a step, after the losses.

    Every side that others are compared with has a memory of its own.
    """

    init: Callable[[jax.Array, Outputs], Any]
    loss: Callable[[Any, Outputs, Outputs, jax.Array], jax.Array]
    remember: Callable[[Any, Outputs], Any]


def stateless(loss: Callable[[Outputs, Outputs], jax.Array]) -> Objective:
    """An objective that remembers nothing and draws nothing."""
    return Objective(lambda key, b: None, lambda memory, a, b, key: loss(a, b), lambda memory, b: memory)


def prediction(a: Outputs) -> jax.Array:
    """What the predictor made.

    Raises:
        UserError: the network has none.
    """
    if a.prediction is None:
        raise UserError("the objective compares predictions, and the network has no predictor: set predictor.layers")
    return a.prediction
