"""Features of images, in batches of one shape."""

from collections import deque
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from sdclr_jax.errors import UserError

# Batches dispatched before the oldest is fetched: the device need not wait for the host, nor hold more than these.
_IN_FLIGHT = 2


def unit(features: jax.Array) -> jax.Array:
    """The rows of [N, D] at length 1, float32; a zero vector stays zero."""
    features = features.astype(jnp.float32)
    return features / jnp.maximum(jnp.linalg.norm(features, axis=1, keepdims=True), 1e-12)


def in_batches(function: Callable[[np.ndarray], jax.Array], rows: np.ndarray, batch_size: int) -> np.ndarray:
    """Apply a row-wise `function`, [batch_size, ...] -> [batch_size, ...], to `rows` [N, ...]; returns [N, ...].

    The last batch is filled up with zeros, so a jitted function compiles once, and what it gives for them is dropped.
    """
    running, fetched = deque(), []
    for start in range(0, len(rows), batch_size):
        batch = rows[start : start + batch_size]
        missing = batch_size - len(batch)
        if missing:
            batch = np.pad(batch, [(0, missing)] + [(0, 0)] * (batch.ndim - 1))
        running.append(function(batch))
        if len(running) > _IN_FLIGHT:
            fetched.append(np.asarray(running.popleft()))
    fetched.extend(np.asarray(batch) for batch in running)
    return np.concatenate(fetched)[: len(rows)]


def extract(encode: Callable[[np.ndarray], jax.Array], images: np.ndarray, batch_size: int) -> np.ndarray:
    """Features of every image, once each and in order: float32 [N, D].

    `encode` is a jitted function, uint8 [batch_size, H, W, C] -> [batch_size, D], in which no image depends on another
    (batch norm with its running statistics); how it spreads a batch over devices is its own affair. `images` is uint8
    [N, H, W, C]. Raises UserError where there are no images or where a feature is not finite.
    """
    if batch_size < 1:
        raise UserError(f"evaluate.batch_size is {batch_size}: set it to 1 or more.")
    if not len(images):
        raise UserError("There are no images to extract features from: check data.name and data.subset.")
    features = in_batches(encode, images, batch_size).astype(np.float32)
    if not np.isfinite(features).all():
        # Every probe would still give a number for these, near chance, and look like a result.
        raise UserError(
            "The encoder's features are not finite, so its pretraining diverged: lower optimizer.learning_rate and "
            "pretrain again."
        )
    return features
