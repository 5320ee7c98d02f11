"""Features of images, in batches of one shape."""

from collections import deque
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from sdclr_jax.errors import ArgumentError, UserError

# Batches dispatched before the oldest is fetched: the device need not wait for the host, nor hold more than these.
_IN_FLIGHT = 2


def unit(features: Float[ArrayLike, "N D"]) -> Float[Array, "N D"]:
    """The rows of [N, D] at length 1, float32; a zero vector stays zero."""
    features = jnp.asarray(features, jnp.float32)
    return features / jnp.maximum(jnp.linalg.norm(features, axis=1, keepdims=True), 1e-12)


def extract(
    encode: Callable[[np.ndarray], jax.Array],
    batches: Iterable[tuple[np.ndarray, int]],
    held: int,
    done: Callable[[int], object] = lambda count: None,
) -> np.ndarray:
    """Features of every image, once each and in order: float32 [N, D].

    A batch that is not full is filled up with zeros, so that `encode` compiles once, and what it gives for them is
    dropped.

    Args:
        encode: a jitted function, uint8 [held, H, W, C] -> [B, D], in which no image depends on another (batch norm
            with its running statistics); how it spreads a batch over devices is its own affair.
        batches: uint8 [b, H, W, C], what this process holds of each batch, at most `held` images; and how many images
            the batch has in all processes.
        held: images of a full batch that this process holds.
        done: is told how many images a batch had, once it is encoded.

    Raises:
        ArgumentError: there are no images.
        UserError: a feature is not finite.
    """
    parts: list[np.ndarray] = []
    running: deque[tuple[jax.Array, int]] = deque()

    def fetch(most: int) -> None:
        while len(running) > most:
            encoded, count = running.popleft()
            parts.append(np.asarray(encoded)[:count])
            done(count)

    for batch, count in batches:
        if len(batch) < held:
            batch = np.pad(batch, [(0, held - len(batch))] + [(0, 0)] * (batch.ndim - 1))
        running.append((encode(batch), count))
        fetch(_IN_FLIGHT)
    fetch(0)
    if not parts:
        raise ArgumentError("batches", "has none: there are no images to extract features from")
    features = np.concatenate(parts).astype(np.float32)
    if not np.isfinite(features).all():
        # Every probe would still give a number for these, near chance, and look like a result.
        raise UserError(
            "The encoder's features are not finite: its pretraining diverged, pretrain again at a lower learning rate"
        )
    return features
