"""NT-Xent, the loss of SimCLR (Chen et al., ICML 2020, Eq. 1) and of SDCLR (Jiang et al., ICML 2021, Eq. 1)."""

import jax
import jax.numpy as jnp

from sdclr_jax.objectives.base import Objective, stateless


def nt_xent(z_a: jax.Array, z_b: jax.Array, temperature: float) -> jax.Array:
    """Normalised, temperature-scaled cross-entropy over all 2N - 2 negatives, mean over the 2N anchors.

    With u the 2N embeddings at unit length, and j(i) the other view of i:

        loss = mean_i -log( exp(u_i . u_j(i) / T) / sum_{k != i} exp(u_i . u_k / T) )

    Args:
        z_a, z_b: embeddings of the two views, [N, D] each; row i of both is the same image.
        temperature: T > 0.

    Returns:
        A scalar, float32 at least whatever the type of the embeddings.
    """
    z = jnp.concatenate([z_a, z_b])
    z = z if z.dtype == jnp.float64 else z.astype(jnp.float32)
    # The floor keeps value and gradient finite at a zero vector; it is the square of torch's 1e-12.
    u = z * jax.lax.rsqrt(jnp.maximum(jnp.sum(z * z, axis=1, keepdims=True), 1e-24))
    logits = jnp.matmul(u, u.T, precision=jax.lax.Precision.HIGHEST) / temperature
    anchors = jnp.arange(len(z))
    positives = logits[anchors, jnp.roll(anchors, len(z_a))]
    others = jnp.where(jnp.eye(len(z), dtype=bool), -jnp.inf, logits)
    return jnp.mean(jax.nn.logsumexp(others, axis=1) - positives)


def objective(temperature: float) -> Objective:
    """NT-Xent on the projections."""
    return stateless(lambda a, b: nt_xent(a.projection, b.projection, temperature))
