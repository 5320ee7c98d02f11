"""Nearest neighbours on frozen features, by cosine: their weighted vote (Wu et al., CVPR 2018, section 3.4), and who
they are. No training, one pass."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sdclr_jax.errors import UserError
from sdclr_jax.evaluation.features import in_batches, unit


def predict(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    test_features: np.ndarray,
    *,
    k: int,
    temperature: float,
    num_classes: int,
    batch_size: int = 256,
) -> np.ndarray:
    """Class of each test image by a vote of its `k` most similar training images: int32 [M].

    A neighbour's vote weighs exp(cosine / temperature), or 1 where the temperature is infinite. Features are [N, D] and
    [M, D], of any length: they are normalised here; labels are int [N]. Ties go to the earlier training image, then to
    the lower class. Memory is `batch_size` * N similarities. Raises UserError where `k` is not in 1..N or `temperature`
    is not positive.
    """
    votes = jax.nn.one_hot(np.asarray(train_labels, np.int32), num_classes)
    return _in_batches(_winner, train_features, votes, test_features, k, temperature, batch_size)


def share(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    test_features: np.ndarray,
    *,
    k: int,
    temperature: float,
    batch_size: int = 256,
) -> np.ndarray:
    """Share of the vote of `predict` that says each test image has an attribute: float32 [M, A], 0 to 1.

    `train_labels` is 0 or 1, [N, A]; all else is as in `predict`.
    """
    votes = jnp.asarray(train_labels, jnp.float32)
    return _in_batches(_vote, train_features, votes, test_features, k, temperature, batch_size)


class Neighbours(NamedTuple):
    """The images nearest to each image, nearest first and without itself."""

    rows: np.ndarray  # int32 [N, k]
    distances: np.ndarray  # float32 [N, k], 1 - cosine


def neighbours(features: np.ndarray, k: int, *, batch_size: int = 256) -> Neighbours:
    """The `k` nearest other images of each of the `features` [N, D], which may be of any length.

    Of equally near ones the earlier comes first. Memory is `batch_size` * N similarities. Raises UserError where `k` is
    not in 0..N-1.
    """
    if not 0 <= k < len(features):
        raise UserError(f"Each of {len(features)} images has {len(features) - 1} others, not {k}: ask for fewer.")
    cosines, rows = jax.device_get(_nearest(unit(jnp.asarray(features)), k=k, batch_size=batch_size))
    return Neighbours(rows, 1 - cosines)


@partial(jax.jit, static_argnames=("k", "batch_size"))
def _nearest(images: jax.Array, *, k: int, batch_size: int) -> tuple[jax.Array, jax.Array]:
    """Cosines and rows [N, k] of the nearest others of the unit `images` [N, D]."""

    def of_one(row: jax.Array) -> tuple[jax.Array, jax.Array]:
        cosines = jnp.dot(images, images[row], precision="highest")
        return tuple(jax.lax.top_k(cosines.at[row].set(-jnp.inf), k))

    return jax.lax.map(of_one, jnp.arange(len(images)), batch_size=batch_size)


def _in_batches(function, train_features, votes, test_features, k, temperature, batch_size) -> np.ndarray:
    if not 1 <= k <= len(train_features):
        raise UserError(
            f"evaluate.knn_k is {k}, but neighbours come from {len(train_features)} training images: "
            f"set it between 1 and {len(train_features)}."
        )
    if temperature <= 0:
        raise UserError(f"evaluate.knn_temperature is {temperature}: set it above 0.")
    train = unit(jnp.asarray(train_features, jnp.float32))
    vote = partial(function, train, votes, k=k, temperature=temperature)
    return in_batches(vote, np.asarray(test_features, np.float32), batch_size)


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


@partial(jax.jit, static_argnames="k")
def _winner(train: jax.Array, votes: jax.Array, test: jax.Array, *, k: int, temperature: float) -> jax.Array:
    return jnp.argmax(_vote(train, votes, test, k=k, temperature=temperature), axis=1)
