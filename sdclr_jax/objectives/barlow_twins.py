"""The loss of Barlow Twins (Zbontar et al., ICML 2021, arXiv:2103.03230, Eq. 1 and 2)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from sdclr_jax.objectives.base import Objective, stateless
from sdclr_jax.objectives.vectors import centred, check_alike, matmul


def barlow_twins(
    z_a: Float[ArrayLike, "N D"], z_b: Float[ArrayLike, "N D"], redundancy: float = 0.0051
) -> Float[Array, ""]:
    """Distance of the two views' cross-correlation matrix C from the identity, unscaled.

        C[i, j] = mean over the batch of  s(z_a)[:, i] s(z_b)[:, j]
        loss = sum_i (1 - C[i, i])^2 + redundancy * sum_{i != j} C[i, j]^2

    where s standardises each dimension over the batch as batch norm without scale and bias does: biased variance,
    1e-5 added to it. `z_a` and `z_b` are [N, D]; row i of both is the same image.

    Raises:
        ArgumentError: the shapes are not [N, D] and alike, or N is 1: a single row is its own mean.

    >>> z = np.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]], np.float32)
    >>> round(float(barlow_twins(z, z)), 3)  # C is the identity
    0.0
    >>> round(float(barlow_twins(z, z[:, ::-1], redundancy=0.01)), 3)  # dimensions exchanged: 1 + 1 + 0.01 * (1 + 1)
    2.02
    """
    check_alike(rows=2, z_a=z_a, z_b=z_b)
    correlation = matmul(_standardised(z_a).T, _standardised(z_b)) / len(z_a)
    diagonal = jnp.eye(len(correlation), dtype=bool)
    return jnp.sum(jnp.where(diagonal, (1 - correlation) ** 2, redundancy * correlation**2))


def _standardised(z: jax.Array) -> jax.Array:
    z = centred(z)
    return z * jax.lax.rsqrt(jnp.mean(z * z, axis=0, keepdims=True) + 1e-5)


def objective(redundancy: float, scale: float) -> Objective:
    """Barlow Twins on the projections, times `scale`.

    Under LARS, which leaves norms and biases unadapted, the scale is what their learning rate is less than that of
    the weights: 0.0048 / 0.2 = 0.024 in the authors' code (https://github.com/facebookresearch/barlowtwins).
    """
    return stateless(lambda a, b: scale * barlow_twins(a.projection, b.projection, redundancy))
