"""Swapped prediction of codes, the loss of SwAV (Caron et al., NeurIPS 2020, arXiv:2006.09882, Eq. 1 to 5)."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from sdclr_jax.errors import ArgumentError
from sdclr_jax.objectives.base import Objective
from sdclr_jax.objectives.queue import push
from sdclr_jax.objectives.vectors import at_least_float32, check_above_0, check_alike, matmul, unit


def sinkhorn(scores: Float[ArrayLike, "N K"], epsilon: float = 0.05, iterations: int = 3) -> Float[Array, "N K"]:
    """Soft assignment of samples to prototypes in which each prototype gets about the same share of the batch.

    Starts from exp(scores / epsilon); each iteration first divides every prototype by its sum over the batch, then
    every sample by its sum over the prototypes. (The paper's 1/K and 1/N are constants that the next division takes
    out again.)

    Args:
        scores: cosines of samples and prototypes, [N, K].
        epsilon: the smaller, the harder the assignment.
        iterations: 1 or more.

    Returns:
        Codes [N, K], float32 at least; those of a sample sum to 1.

    Raises:
        ArgumentError: the scores are not [N, K], or of one row or one prototype, whose codes are the same whatever the
            scores; there is no iteration; or epsilon is not above 0.

    >>> scores = np.array([[0.9, 0.1], [0.8, 0.2]], np.float32)  # both samples prefer the first prototype
    >>> np.asarray(sinkhorn(scores, epsilon=0.2, iterations=50)).round(2)  # and each prototype gets one of them
    array([[0.62, 0.38],
           [0.38, 0.62]], dtype=float32)
    """
    check_alike(rows=2, scores=scores)
    if np.shape(scores)[1] < 2:
        raise ArgumentError("scores", f"is {list(np.shape(scores))}: all have the same code of one prototype alone")
    if iterations < 1:
        raise ArgumentError("iterations", f"is {iterations}: it must be at least 1")
    check_above_0(epsilon=epsilon)

    def divide(_, logs):
        return jax.nn.log_softmax(jax.nn.log_softmax(logs, axis=0), axis=1)

    # On logarithms: exp(1 / 0.05) is near 5e8, and of scores that are not cosines it overflows.
    return jnp.exp(jax.lax.fori_loop(0, iterations, divide, at_least_float32(scores) / epsilon))


def swav(
    scores_a: Float[ArrayLike, "N K"],
    scores_b: Float[ArrayLike, "N K"],
    temperature: float = 0.1,
    epsilon: float = 0.05,
    iterations: int = 3,
) -> Float[Array, ""]:
    """Cross-entropy of each view's prototype probabilities with the other view's codes, mean of both and the batch.

    With p = softmax(scores / T) and q = sinkhorn(scores), a constant to the gradient:

        loss = mean_i -( sum_k q_b[i, k] log p_a[i, k] + sum_k q_a[i, k] log p_b[i, k] ) / 2

    Args:
        scores_a, scores_b: cosines of the two views' samples with the prototypes, [N, K] each; row i of both is the
            same image.
        temperature: T > 0.
        epsilon, iterations: of `sinkhorn`.

    Returns:
        A scalar, float32 at least whatever the type of the scores.

    Raises:
        ArgumentError: the shapes are not [N, K] and alike, T is not above 0, or as `sinkhorn`.

    >>> scores = np.array([[1.0, -1.0], [-1.0, 1.0]], np.float32)
    >>> round(float(swav(scores, scores, temperature=1.0)), 3)  # codes are 0 and 1: log(1 + exp(-2))
    0.127
    """
    check_alike(scores_a=scores_a, scores_b=scores_b)

    def predict(scores, other):
        return cross_entropy(scores, sinkhorn(jax.lax.stop_gradient(other), epsilon, iterations), temperature)

    return (predict(scores_a, scores_b) + predict(scores_b, scores_a)) / 2


def cross_entropy(
    scores: Float[ArrayLike, "N K"], codes: Float[ArrayLike, "N K"], temperature: float
) -> Float[Array, ""]:
    """Of softmax(scores / T) with the codes, both [N, K], mean over the batch (Eq. 2)."""
    check_alike(scores=scores, codes=codes)
    check_above_0(temperature=temperature)
    log_probabilities = jax.nn.log_softmax(at_least_float32(scores) / temperature, axis=1)
    return -jnp.mean(jnp.sum(codes * log_probabilities, axis=1))


def objective(temperature: float, epsilon: float, iterations: int, queue: int, queue_start_steps: int) -> Objective:
    """One side predicts the other's codes; with a pair for each direction the mean of both is `swav`.

    The codes are over the batch and, if `queue` is not 0, that many of the side's last projections, which few images a
    step and many prototypes need (section 4.4). As published, these count once all are from `queue_start_steps` or
    later.
    """

    def init(key, b):
        return {"queue": jnp.zeros((queue, b.projection.shape[-1])), "steps": jnp.int32(0)} if queue else None

    def codes_of(state, b):
        scores = jax.lax.stop_gradient(_scores(b.projection, b.prototypes))
        if not queue:
            return sinkhorn(scores, epsilon, iterations)
        earlier = jax.lax.stop_gradient(_scores(state["queue"], b.prototypes))
        recent = state["steps"] - queue_start_steps >= -(-queue // len(scores))
        return jnp.where(
            recent,
            sinkhorn(jnp.concatenate([earlier, scores]), epsilon, iterations)[queue:],
            sinkhorn(scores, epsilon, iterations),
        )

    def loss(state, a, b, key):
        return cross_entropy(_scores(a.projection, a.prototypes), codes_of(state, b), temperature)

    def update(state, b):
        return {"queue": push(state["queue"], b.projection), "steps": state["steps"] + 1} if queue else state

    return Objective(init, loss, update)


def _scores(projection: jax.Array, prototypes: jax.Array | None) -> jax.Array:
    """Cosines of [N, P] with prototypes [P, K] of unit length: [N, K]."""
    if prototypes is None:
        raise ArgumentError("prototypes", "is None: swav compares images by their prototypes, so it needs 2 or more")
    if prototypes.shape[1] < 2:
        raise ArgumentError("prototypes", f"is {list(prototypes.shape)}: all images have the same code of one alone")
    return matmul(unit(projection), at_least_float32(prototypes))
