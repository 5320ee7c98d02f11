"""Whitening and the loss of W-MSE (Ermolov et al., ICML 2021, arXiv:2007.06346, section 3)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from sdclr_jax.errors import ArgumentError
from sdclr_jax.objectives.base import Objective
from sdclr_jax.objectives.vectors import centred, check_above_0, check_alike, cosines, covariance


def whiten(z: Float[ArrayLike, "N D"], shrinkage: float = 0.0) -> Float[Array, "N D"]:
    """Embeddings with the batch mean 0 and, without shrinkage, the unbiased batch covariance I.

    With S the covariance over N - 1, and L the Cholesky factor of (1 - shrinkage) S + shrinkage I = L L^T:

        whiten(z) = L^-1 (z - mean z)

    Args:
        z: embeddings, [N, D], in groups as large as they are to be whitened in.
        shrinkage: a Python number, 0 to 1. Without it N must be larger than D; more shrinkage, steadier whitening.

    Returns:
        [N, D], float32 at least; gradients flow through mean and covariance. Where S is singular, because rows are
        the same, the directions without variance stay without.

    Raises:
        ArgumentError: `z` is not [N, D] of 2 rows or more; `shrinkage` is not from 0 to 1; or it is 0, and N is not
            larger than D.

    >>> z = np.random.default_rng(0).normal(size=(8, 2)).astype(np.float32) * [1.0, 5.0] + 3
    >>> covariance = np.cov(whiten(z.astype(np.float32)).T)
    >>> bool(np.allclose(covariance, np.eye(2), atol=1e-3))
    True
    """
    check_alike(rows=2, z=z)
    if not 0 <= shrinkage <= 1:
        raise ArgumentError("shrinkage", f"is {shrinkage}: it must be from 0 to 1")
    z = centred(z)
    rows, dimensions = z.shape
    if rows <= dimensions and shrinkage == 0:
        raise ArgumentError(
            "shrinkage",
            f"is 0, and the covariance of {rows} embeddings of {dimensions} numbers has no inverse: make the batch "
            f"larger than {dimensions}, the projection smaller than {rows}, or the shrinkage more than 0, such as 0.01",
        )
    shrunk = (1 - shrinkage) * covariance(z) + shrinkage * jnp.eye(dimensions, dtype=z.dtype)
    # Of a singular S Cholesky gives NaN: only then a diagonal as large as rounding makes S uncertain anyway.
    singular = ~jnp.all(jnp.isfinite(jnp.linalg.cholesky(jax.lax.stop_gradient(shrunk))))
    floor = 8 * jnp.finfo(z.dtype).eps * jax.lax.stop_gradient(jnp.trace(shrunk)) + 1e-24
    factor = jnp.linalg.cholesky(shrunk + jnp.where(singular, floor, 0) * jnp.eye(dimensions, dtype=z.dtype))
    return jax.scipy.linalg.solve_triangular(factor, z.T, lower=True).T


def wmse(z_a: Float[ArrayLike, "N D"], z_b: Float[ArrayLike, "N D"], shrinkage: float = 0.0) -> Float[Array, ""]:
    """Squared distance of the two views, each whitened over the batch and then at unit length, mean over the batch.

        loss = mean || v_a / |v_a| - v_b / |v_b| ||^2 = mean 2 - 2 cos(v_a, v_b),   v = whiten(z)

    Args:
        z_a, z_b: embeddings of the two views, [N, D] each; row i of both is the same image. Both receive gradient.
        shrinkage: see `whiten`.

    Returns:
        A scalar, float32 at least whatever the type of the embeddings.

    Raises:
        ArgumentError: the shapes are not [N, D] and alike, or see `whiten`.

    >>> z = np.random.default_rng(0).normal(size=(8, 2)).astype(np.float32)
    >>> bool(wmse(z, z) < 1e-5), bool(jnp.allclose(wmse(z, -z), 4))
    (True, True)
    """
    check_alike(z_a=z_a, z_b=z_b)
    return jnp.mean(2 - 2 * cosines(whiten(z_a, shrinkage), whiten(z_b, shrinkage)))


def wmse_sliced(
    z_a: Float[ArrayLike, "N D"],
    z_b: Float[ArrayLike, "N D"],
    key: PRNGKeyArray,
    slice_size: int,
    repeats: int = 1,
    shrinkage: float = 0.0,
) -> Float[Array, ""]:
    """`wmse` with the batch cut at random into slices that are whitened each by itself, mean over slices and repeats.

    The expectation over smaller batches steadies the gradient (section 3.2). Both views are cut alike; another cut is
    drawn for each repeat.

    Args:
        z_a, z_b, shrinkage: as for `wmse`.
        key: of the cuts.
        slice_size: divides the batch.
        repeats: 1 or more.

    Raises:
        ArgumentError: `slice_size` does not divide the batch, there is no repeat; and as for `wmse`.
    """
    check_alike(z_a=z_a, z_b=z_b)
    check_above_0(repeats=repeats, slice_size=slice_size)
    if len(z_a) % slice_size:
        raise ArgumentError("slice_size", f"is {slice_size}: it must divide the batch, {len(z_a)}")

    def slices(z, order):
        return z[order].reshape(-1, slice_size, z.shape[1])

    losses = jax.vmap(lambda a, b: wmse(a, b, shrinkage))
    orders = [jax.random.permutation(k, len(z_a)) for k in jax.random.split(key, repeats)]
    return jnp.mean(jnp.stack([losses(slices(z_a, order), slices(z_b, order)) for order in orders]))


def objective(slice_size: int, repeats: int, shrinkage: float) -> Objective:
    """W-MSE on the projections, whitened in slices of `slice_size`; 0 is the whole batch."""

    def loss(state, a, b, key):
        size = slice_size or len(a.projection)
        return wmse_sliced(a.projection, b.projection, key, size, repeats, shrinkage)

    return Objective(init=lambda key, b: None, loss=loss, update=lambda state, b: state)
