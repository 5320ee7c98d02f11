"""Nearest neighbours among features by cosine: an exact search, block by block on the devices.

    rows, similarities = neighbours(features, 10)               # the others most like each image
    rows, similarities = nearest(train_features, features, 10)  # of other images

Memory on a device is bounded by the block sizes, whatever the number of images; time grows with the product of the two
numbers, shared by the devices.
"""

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike, Float

from sdclr_jax import parallel
from sdclr_jax.errors import ArgumentError
from sdclr_jax.evaluation.features import unit
from sdclr_jax.parallel import Shardings
from sdclr_jax.progress import progressed

# Images that are compared at once: so many queries a device with so many others, 64 MiB of similarities.
QUERIES, OTHERS = 256, 65_536
KEPT_BYTES = 2**30  # of the others on each device; more of them are sent for each block of queries


class Neighbours(NamedTuple):
    """The images nearest to each of M images, nearest first; the earlier of two equally near ones comes first."""

    rows: np.ndarray  # int32 [M, k]
    similarities: np.ndarray  # float32 [M, k], cosines


def neighbours(
    features: Float[ArrayLike, "N D"],
    k: int,
    *,
    shardings: Shardings | None = None,
    queries: int = QUERIES,
    others: int = OTHERS,
) -> Neighbours:
    """The `k` nearest other images of each image, without itself.

    Args:
        features: of any length.
        k: from 0 to N - 1.
        shardings: the devices that share the work; None is those of this process. Where they are of several processes,
            each of them calls this with all features, and gets all neighbours.
        queries, others: images that a device compares at once, with how many others.

    Raises:
        ArgumentError: `k` is out of its bounds.

    >>> rows, similarities = neighbours(np.array([[1.0, 0.0], [2.0, 0.1], [0.0, 1.0]]), 1)
    >>> rows.tolist()
    [[1], [0], [1]]
    """
    if not 0 <= k < len(features):
        raise ArgumentError("k", f"is {k}: it must be from 0 to {len(features) - 1}, the number of other images")
    features = np.asarray(features, np.float32)
    return _search(features, features, k, shardings, queries, others, itself=True)


def nearest(
    among: Float[ArrayLike, "N D"],
    features: Float[ArrayLike, "M D"],
    k: int,
    *,
    shardings: Shardings | None = None,
    queries: int = QUERIES,
    others: int = OTHERS,
) -> Neighbours:
    """The `k` images of `among` that are nearest to each image of `features`; else as `neighbours`.

    Raises:
        ArgumentError: `k` is not in 1..N.
    """
    if not 1 <= k <= len(among):
        raise ArgumentError("k", f"is {k}: it must be from 1 to {len(among)}, the number of images to choose from")
    among, features = np.asarray(among, np.float32), np.asarray(features, np.float32)
    return _search(among, features, k, shardings, queries, others, itself=False)


def _search(
    among: np.ndarray,
    features: np.ndarray,
    k: int,
    shardings: Shardings | None,
    queries: int,
    others: int,
    *,
    itself: bool,
) -> Neighbours:
    """`itself`: whether both are the same images, of which none is its own neighbour."""
    shardings = shardings or parallel.shardings(jax.local_devices())
    devices = shardings.batch.mesh.size
    batch = parallel.shareable(min(queries * devices, len(features)), shardings.batch)
    size = min(max(others, k), len(among))  # at least k, so that any block has as many to give
    place = jax.jit(unit, out_shardings=shardings.replicated)
    gather = jax.jit(_same, out_shardings=shardings.replicated)  # to each process
    everywhere = np.arange(batch)

    def blocks() -> Iterator[tuple[int, jax.Array]]:
        for start in range(0, len(among), size):
            yield start, place(parallel.replicate(_filled(among[start : start + size], size), shardings.replicated))

    kept = list(blocks()) if among.nbytes <= KEPT_BYTES else None

    def split(rows: np.ndarray) -> jax.Array:
        return parallel.split(rows, everywhere, batch, shardings.batch)

    found = Neighbours(np.empty((len(features), k), np.int32), np.empty((len(features), k), np.float32))
    if not k:
        return found
    for first in range(0, len(features), batch):
        progressed()
        of = split(_filled(features[first : first + batch], batch))
        best = split(np.zeros((batch, k), np.int32)), split(np.full((batch, k), -np.inf, np.float32))
        for start, block in kept or blocks():
            best = _better(best, of, first, block, start, len(among), itself=itself)
        for all_, rows in zip(found, jax.device_get(gather(best)), strict=True):
            all_[first : first + batch] = rows[: len(features) - first]
    return found


@partial(jax.jit, static_argnames="itself")
def _better(
    best: tuple[jax.Array, jax.Array],
    queries: jax.Array,
    first: int,
    block: jax.Array,
    start: int,
    total: int,
    *,
    itself: bool,
) -> tuple[jax.Array, jax.Array]:
    """The best of those known, rows and cosines [Q, k], and of a `block` [B, D] of unit features whose rows begin at
    `start`, for `queries` [Q, D], whose own rows begin at `first`."""
    k = best[0].shape[1]
    rows = start + jnp.arange(len(block))
    out = rows[None] >= total  # what fills up the last block
    if itself:
        out |= rows[None] == first + jnp.arange(len(queries))[:, None]
    cosines = jnp.where(out, -jnp.inf, jnp.dot(unit(queries), block.T, precision="highest"))
    # Those known come first: on ties the earlier one stays.
    near, places = jax.lax.top_k(cosines, k)
    near, rows = jnp.concatenate([best[1], near], axis=1), jnp.concatenate([best[0], rows[places]], axis=1)
    near, places = jax.lax.top_k(near, k)
    return jnp.take_along_axis(rows, places, axis=1), near


def _same(x: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
    return x


def _filled(rows: np.ndarray, size: int) -> np.ndarray:
    return np.pad(rows, [(0, size - len(rows)), (0, 0)])
