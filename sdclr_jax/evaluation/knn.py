"""Weighted nearest neighbours on frozen features (Wu et al., CVPR 2018, section 3.4): no training, one pass."""

from functools import partial

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

    A neighbour's vote weighs exp(cosine / temperature). Features are [N, D] and [M, D], of any length: they are
    normalised here. Ties go to the earlier training image, then to the lower class. Memory is `batch_size` * N
    similarities. Raises UserError where `k` is not in 1..N or `temperature` is not positive.
    """
    if not 1 <= k <= len(train_features):
        raise UserError(
            f"evaluate.knn_k is {k}, but neighbours come from {len(train_features)} training images: "
            f"set it between 1 and {len(train_features)}."
        )
    if temperature <= 0:
        raise UserError(f"evaluate.knn_temperature is {temperature}: set it above 0.")
    train = unit(jnp.asarray(train_features, jnp.float32))
    votes = jax.nn.one_hot(np.asarray(train_labels, np.int32), num_classes)
    vote = partial(_vote, train, votes, k=k, temperature=temperature)
    return in_batches(vote, np.asarray(test_features, np.float32), batch_size)


@partial(jax.jit, static_argnames="k")
def _vote(train: jax.Array, votes: jax.Array, test: jax.Array, *, k: int, temperature: float) -> jax.Array:
    """Classes [B] of `test` [B, D], given unit `train` [N, D] and its one-hot `votes` [N, C]."""
    cosines, neighbours = jax.lax.top_k(jnp.dot(unit(test), train.T, precision="highest"), k)
    # Softmax gives the weights over their sum: the same classes win and no temperature overflows. (Nor is `cosines`
    # sliced for its maximum: XLA on CPU would then sort whole rows, thirty times slower.)
    weights = jax.nn.softmax(cosines / temperature, axis=1)
    return jnp.argmax(jnp.einsum("bk,bkc->bc", weights, votes[neighbours], precision="highest"), axis=1)
