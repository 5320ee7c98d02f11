"""An objective is three pure functions on the outputs of the branches; it owns only what is not learnt."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from sdclr_jax.errors import ArgumentError
from sdclr_jax.models import Outputs


class Objective(NamedTuple):
    """How side `a` of a pair learns from side `b`, and the state that it keeps of `b`, such as a queue.

    init: (key, b) -> state, before the first step; only the shapes of `b` are read, and not its batch size.
    loss: (state, a, b, key) -> float32 scalar, the mean over the batch. `a` and `b` are the `Outputs` of the two
        sides on the whole global batch; `key` is the same for all pairs of a step.
    update: (state, b) -> state, once a step, after the losses.

    Every side that others are compared with has a state of its own.
    """

    init: Callable[[jax.Array, Outputs], Any]
    loss: Callable[[Any, Outputs, Outputs, jax.Array], jax.Array]
    update: Callable[[Any, Outputs], Any]


def stateless(loss: Callable[[Outputs, Outputs], jax.Array]) -> Objective:
    """An objective that keeps no state and draws no random numbers.

    >>> objective = stateless(lambda a, b: jnp.mean((a.projection - b.projection) ** 2))
    >>> a, b = (Outputs(features=z, projection=z) for z in jnp.array([[[1.0]], [[3.0]]]))
    >>> float(objective.loss(None, a, b, None))
    4.0
    """
    return Objective(lambda key, b: None, lambda state, a, b, key: loss(a, b), lambda state, b: state)


def prediction(a: Outputs) -> jax.Array:
    """What the predictor made.

    Raises:
        ArgumentError: the network has none.

    >>> z = jnp.ones((1, 2))
    >>> prediction(Outputs(features=z, projection=z, prediction=2 * z))
    Array([[2., 2.]], dtype=float32)
    """
    if a.prediction is None:
        raise ArgumentError("prediction", "is None: the objective compares predictions, so it needs a predictor")
    return a.prediction
