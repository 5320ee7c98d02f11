"""Nearest neighbours on frozen features, by cosine: their weighted vote (Wu et al., CVPR 2018, section 3.4), and who
they are. No training, one pass."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike, Float, Integer, Num

from sdclr_jax.data.targets import as_targets
from sdclr_jax.errors import ArgumentError
from sdclr_jax.evaluation.features import in_batches, unit


def predict(
    train_features: Float[ArrayLike, "N D"],
    train_labels: Integer[ArrayLike, "N ..."],
    test_features: Float[ArrayLike, "M D"],
    *,
    num_classes: int,
    k: int = 200,
    temperature: float = 0.1,
    batch_size: int = 256,
) -> Num[np.ndarray, "M ..."]:
    """What the `k` most similar training images of each test image vote for.

    A neighbour's vote weighs exp(cosine / temperature), or 1 where the temperature is infinite. Features are [N, D] and
    [M, D], of any length: they are normalised here. Ties go to the earlier training image, then to the lower class.
    Memory is `batch_size` * N similarities.

    Args:
        train_labels: int [N], classes; or 0 and 1, [N, A], attributes.
        num_classes: how many classes or attributes there are.

    Returns:
        The class of each test image, int32 [M]; of attributes, the share of the vote for each, float32 [M, A].

    Raises:
        ArgumentError: `k` is not in 1..N, or `temperature` not positive.
    """
    if not 1 <= k <= len(train_features):
        raise ArgumentError("k", f"is {k}: it must be from 1 to {len(train_features)}, the number of training images")
    if temperature <= 0:
        raise ArgumentError("temperature", f"is {temperature}: it must be above 0")
    targets = as_targets(train_labels, num_classes)
    train, votes = unit(jnp.asarray(train_features, jnp.float32)), jnp.asarray(targets.one_hot(np.float32))
    decided = partial(_decided, train, votes, k=k, temperature=temperature, kind=type(targets))
    return in_batches(decided, np.asarray(test_features, np.float32), batch_size)


class Neighbours(NamedTuple):
    """The images nearest to each image, nearest first and without itself."""

    rows: np.ndarray  # int32 [N, k]
    distances: np.ndarray  # float32 [N, k], 1 - cosine


def neighbours(features: Float[ArrayLike, "N D"], k: int, *, batch_size: int = 256) -> Neighbours:
    """The `k` nearest other images of each of the `features` [N, D], which may be of any length.

    The earlier of two equally near images comes first. Memory is `batch_size` * N similarities. Raises ArgumentError
    where `k` is not in 0..N-1.
    """
    if not 0 <= k < len(features):
        raise ArgumentError("k", f"is {k}: it must be from 0 to {len(features) - 1}, the number of other images")
    cosines, rows = jax.device_get(_nearest(unit(jnp.asarray(features)), k=k, batch_size=batch_size))
    return Neighbours(rows, 1 - cosines)


@partial(jax.jit, static_argnames=("k", "batch_size"))
def _nearest(images: jax.Array, *, k: int, batch_size: int) -> tuple[jax.Array, jax.Array]:
    """Cosines and rows [N, k] of the nearest others of the unit `images` [N, D]."""

    def of_one(row: jax.Array) -> tuple[jax.Array, jax.Array]:
        cosines = jnp.dot(images, images[row], precision="highest")
        return tuple(jax.lax.top_k(cosines.at[row].set(-jnp.inf), k))

    return jax.lax.map(of_one, jnp.arange(len(images)), batch_size=batch_size)


@partial(jax.jit, static_argnames="k")
def _vote(train: jax.Array, votes: jax.Array, test: jax.Array, *, k: int, temperature: float) -> jax.Array:
    """Shares [B, C] of the vote on `test` [B, D], given unit `train` [N, D] and its `votes` [N, C]; with an infinite
    temperature numbers of votes, which are counted whole, so that equal ones are a tie in whatever order they are
    summed."""
    cosines, neighbours = jax.lax.top_k(jnp.dot(unit(test), train.T, precision="highest"), k)
    # Softmax gives the weights over their sum: the same classes win and no temperature overflows. (Nor is `cosines`
    # sliced for its maximum: XLA on CPU would then sort whole rows, thirty times slower.)
    weights = jnp.where(jnp.isinf(temperature), 1.0, jax.nn.softmax(cosines / temperature, axis=1))
    return jnp.einsum("bk,bkc->bc", weights, votes[neighbours], precision="highest")


@partial(jax.jit, static_argnames=("k", "kind"))
def _decided(train: jax.Array, votes: jax.Array, test: jax.Array, *, k: int, temperature: float, kind) -> jax.Array:
    return kind.decide(_vote(train, votes, test, k=k, temperature=temperature))
