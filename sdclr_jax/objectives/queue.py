"""A queue of embeddings: the newest come in at the end, the oldest leave at the front."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from sdclr_jax.objectives.vectors import unit


def push(queue: Float[ArrayLike, "K D"], embeddings: Float[ArrayLike, "N D"]) -> Float[Array, "K D"]:
    """The last rows of [K, D] followed by [N, D] at unit length: [K, D]. N need not divide K."""
    return jnp.concatenate([queue, unit(jax.lax.stop_gradient(embeddings))])[-len(queue) :]
