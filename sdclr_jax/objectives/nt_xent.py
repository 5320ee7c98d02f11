"""NT-Xent, the loss of SimCLR (Chen et al., ICML 2020, Eq. 1) and of SDCLR (Jiang et al., ICML 2021, Eq. 1)."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from sdclr_jax.objectives.base import Objective, stateless
from sdclr_jax.objectives.vectors import check_above_0, check_alike, matmul, unit


def nt_xent(z_a: Float[ArrayLike, "N D"], z_b: Float[ArrayLike, "N D"], temperature: float) -> Float[Array, ""]:
    """Normalised, temperature-scaled cross-entropy over all 2N - 2 negatives, mean over the 2N anchors.

    With u the 2N embeddings at unit length, and j(i) the other view of i:

        loss = mean_i -log( exp(u_i . u_j(i) / T) / sum_{k != i} exp(u_i . u_k / T) )

    Args:
        z_a, z_b: embeddings of the two views, [N, D] each; row i of both is the same image.
        temperature: T > 0.

    Returns:
        A scalar, float32 at least whatever the type of the embeddings.

    Raises:
        ArgumentError: the shapes are not [N, D] and alike, N is 1, which leaves no negative, or T is not above 0.

    >>> z = np.eye(2, dtype=np.float32)
    >>> round(float(nt_xent(z, z, temperature=0.5)), 3)  # log(1 + 2 / exp(2))
    0.24
    """
    return jnp.mean(nt_xent_per_image(z_a, z_b, temperature))


def nt_xent_per_image(
    z_a: Float[ArrayLike, "N D"], z_b: Float[ArrayLike, "N D"], temperature: float
) -> Float[Array, " N"]:
    """The loss of each image, [N]: the mean over its two anchors, whose mean over the images is `nt_xent`."""
    check_alike(rows=2, z_a=z_a, z_b=z_b)
    check_above_0(temperature=temperature)
    a, b = unit(z_a), unit(z_b)
    u = jnp.concatenate([a, b])
    log_sums = _log_sums(u, jnp.arange(len(u)), u, temperature)
    return jnp.mean(log_sums.reshape(2, -1), axis=0) - jnp.sum(a * b, axis=1) / temperature


def nt_xent_chunked(
    z_a: Float[ArrayLike, "N D"], z_b: Float[ArrayLike, "N D"], temperature: float, chunk: int = 1024
) -> Float[Array, ""]:
    """`nt_xent` that holds `chunk` of the 2N rows of the similarity matrix at a time, for large batches.

    The backward pass computes each block again instead of remembering it. `chunk` need not divide 2N.

    >>> z_a, z_b = np.random.default_rng(0).normal(size=(2, 6, 3)).astype(np.float32)
    >>> bool(jnp.allclose(nt_xent_chunked(z_a, z_b, 0.2, chunk=5), nt_xent(z_a, z_b, 0.2)))
    True
    """
    check_alike(rows=2, z_a=z_a, z_b=z_b)
    check_above_0(temperature=temperature, chunk=chunk)
    a, b = unit(z_a), unit(z_b)
    u = jnp.concatenate([a, b])
    chunk = min(chunk, len(u))
    blocks = -(-len(u) // chunk)
    padded = jnp.pad(u, ((0, chunk * blocks - len(u)), (0, 0)))
    # A block takes rows from the whole length: of a batch split over devices it is split alike, in less than half the
    # scratch of blocks of neighbours.
    rows = padded.reshape(chunk, blocks, -1).swapaxes(0, 1)
    anchors = jnp.arange(chunk * blocks).reshape(chunk, blocks).T

    @partial(jax.checkpoint, prevent_cse=False)
    def block(anchors_and_rows):
        anchors, rows = anchors_and_rows
        return jnp.sum(jnp.where(anchors < len(u), _log_sums(rows, anchors, u, temperature), 0))

    total = jnp.sum(jax.lax.map(block, (anchors, rows)))
    return total / len(u) - jnp.mean(jnp.sum(a * b, axis=1)) / temperature


def _log_sums(rows: jax.Array, anchors: jax.Array, u: jax.Array, temperature: float) -> jax.Array:
    """log sum_{k != anchor} exp(row . u_k / T) for each of `rows`, the rows of `u` of index `anchors`."""
    logits = matmul(rows, u.T) / temperature
    own = anchors[:, None] == jnp.arange(len(u))[None, :]
    return jax.nn.logsumexp(jnp.where(own, -jnp.inf, logits), axis=1)


def objective(temperature: float, chunk: int = 0) -> Objective:
    """NT-Xent on the projections, with `chunk` rows of the similarity matrix at a time; 0 is the whole matrix."""
    loss = partial(nt_xent_chunked, chunk=chunk) if chunk else nt_xent
    return stateless(lambda a, b: loss(a.projection, b.projection, temperature))
