"""The loss of VICReg (Bardes et al., ICLR 2022, arXiv:2105.04906, Eq. 1 to 6), as its authors' code weighs it."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from sdclr_jax.objectives import vectors
from sdclr_jax.objectives.base import Objective, stateless


def vicreg(
    z_a: Float[ArrayLike, "N D"],
    z_b: Float[ArrayLike, "N D"],
    invariance: float = 25.0,
    variance: float = 25.0,
    covariance: float = 1.0,
) -> Float[Array, ""]:
    """Views alike (invariance), every dimension spread out (variance), no two dimensions alike (covariance).

    With C the covariance over N - 1 of a view's N embeddings of D numbers:

        s = mean over images and dimensions of (z_a - z_b)^2
        v(z) = 1/D sum_d max(0, 1 - sqrt(C[d, d] + 1e-4))
        c(z) = 1/D sum_{d != e} C[d, e]^2
        loss = invariance * s + variance * (v(z_a) + v(z_b)) / 2 + covariance * (c(z_a) + c(z_b))

    The published results are with this form. In the paper's text s is not divided by D and v not by 2
    (https://github.com/facebookresearch/vicreg/issues/8).

    Args:
        z_a, z_b: embeddings of the two views, [N, D] each, N >= 2; row i of both is the same image.
        invariance, variance, covariance: weights of the three terms.

    Returns:
        A scalar, float32 at least whatever the type of the embeddings.

    Raises:
        ArgumentError: the shapes are not [N, D] and alike, or N is 1.

    >>> z = np.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]], np.float32)
    >>> round(float(vicreg(z, z)), 3)  # the views agree, each dimension varies enough, and no two are alike
    0.0
    >>> round(float(vicreg(z, z + 0.5)), 3)  # 25 * 0.5 ** 2
    6.25
    """
    vectors.check_alike(rows=2, z_a=z_a, z_b=z_b)
    difference = vectors.at_least_float32(z_a) - vectors.at_least_float32(z_b)
    covariances = [vectors.covariance(z) for z in (z_a, z_b)]
    spread = sum(_variance_term(c) for c in covariances) / 2
    overlap = sum(_covariance_term(c) for c in covariances)
    return invariance * jnp.mean(difference**2) + variance * spread + covariance * overlap


def _variance_term(matrix: jax.Array) -> jax.Array:
    return jnp.mean(jnp.maximum(1 - jnp.sqrt(jnp.diagonal(matrix) + 1e-4), 0))


def _covariance_term(matrix: jax.Array) -> jax.Array:
    diagonal = jnp.eye(len(matrix), dtype=bool)
    return jnp.sum(jnp.where(diagonal, 0, matrix**2)) / len(matrix)


def objective(invariance: float, variance: float, covariance: float) -> Objective:
    """VICReg on the projections, which its authors call the expander's embeddings."""
    return stateless(lambda a, b: vicreg(a.projection, b.projection, invariance, variance, covariance))
