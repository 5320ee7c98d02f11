"""Devices: one mesh, two shardings. Every computation is one `jit` on global arrays.

With the batch split over the devices and the state on each of them, batch norm and the loss are over the global
batch on any number of devices, and no collective is written by hand.
"""

import functools
import math
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from sdclr_jax import compiler
from sdclr_jax.errors import UserError, first_line, shortened
from sdclr_jax.trees import Tree

# Numbers of the smallest array that `spread` splits: of smaller ones there are many, and together they are small.
LEAST = 2**14


class Shardings(NamedTuple):
    """How arrays lie on the devices: `replicated` (state) or `batch` (leading axis split)."""

    replicated: NamedSharding
    batch: NamedSharding


def devices() -> list[jax.Device]:
    """All devices of all processes.

    Raises:
        UserError: JAX cannot use the kind of device that it is told to use.
    """
    try:
        return jax.devices()
    except (RuntimeError, AssertionError) as error:
        wanted = os.environ.get("JAX_PLATFORMS", "")
        reason = first_line(error) if str(error) else "there is none on this machine"
        raise UserError(
            f"JAX_PLATFORMS is {wanted!r}, and JAX cannot use that ({reason}): unset it, or install what it needs, "
            "such as jax[cuda13] or jax[tpu]"
        ) from error


def shardings(of: Sequence[jax.Device] | None = None) -> Shardings:
    """Shardings over a one-axis mesh of these devices (default: all of all processes). Warns where they compute wrong.

    Raises:
        UserError: as `devices`; or these are no devices, or none.
    """
    of = devices() if of is None else of
    if not (isinstance(of, Sequence) and of and all(isinstance(device, jax.Device) for device in of)):
        raise UserError(f"devices is {shortened(repr(of))}: give a list of one or more of jax.devices()")
    if of[0].platform == "cpu":
        compiler.warn_if_wrong()
    # Auto axes: with explicit ones a product of two batch-sharded arrays raises.
    mesh = jax.make_mesh((len(of),), ("data",), axis_types=(AxisType.Auto,), devices=of)
    return Shardings(NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("data")))


def spread(tree: Tree, shardings: Shardings) -> Tree:
    """Shardings of a tree of arrays, of which each device holds a share.

    An array of `LEAST` numbers or more is split along the longest of its axes that the devices divide; all others are
    whole on each device.

    Args:
        tree: arrays, or their shapes and types.
        shardings: of the run.
    """
    mesh = shardings.batch.mesh

    def of(leaf: Any) -> NamedSharding:
        axes = [axis for axis, length in enumerate(leaf.shape) if length % mesh.size == 0]
        if math.prod(leaf.shape) < LEAST or not axes:
            return shardings.replicated
        longest = max(axes, key=lambda axis: (leaf.shape[axis], axis))
        return NamedSharding(mesh, PartitionSpec(*[None] * longest, *mesh.axis_names))

    return jax.tree.map(of, tree)


def of(tree: Tree) -> Tree:
    """The shardings of a tree of arrays, or of shapes that have them."""
    return jax.tree.map(lambda leaf: leaf.sharding, tree)


def whole(tree: Tree, shardings: Shardings) -> Tree:
    """The same arrays whole on each device; all processes take part."""
    return jax.jit(lambda x: x, out_shardings=shardings.replicated)(tree)


def memory(device: jax.Device) -> int | None:
    """Bytes that a device has; None where it does not say."""
    if device.platform == "cpu":
        return host_memory()
    return (device.memory_stats() or {}).get("bytes_limit")


def host_memory() -> int | None:
    """Bytes of memory that this machine has; None where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None


def shareable(batch_size: int, sharding: NamedSharding) -> int:
    """The batch size, as far up as the devices need to share it."""
    return -(-batch_size // sharding.mesh.size) * sharding.mesh.size


def replicate(array: np.ndarray, sharding: NamedSharding) -> jax.Array:
    """The same host array, known whole to every process, on every device."""
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def places(batch_size: int, sharding: NamedSharding) -> np.ndarray:
    """Which rows of a batch the devices of this process hold, ascending; with more rows at its end where they cannot
    share it evenly, which `split` makes."""
    shared = shareable(batch_size, sharding)
    held = sharding.addressable_devices_indices_map((shared,)).values()
    found = np.unique(np.concatenate([np.arange(shared)[index] for index in held]))
    return found[found < batch_size]


def of_batch(count: int, sharding: NamedSharding) -> NamedSharding:
    """How so many images lie on the devices that share whole batches by `sharding`: split over them where each gets as
    many, else all on each, which computes with all of them. (XLA can pad the last device's share, but gradients of a
    pruned branch then differed from those of one device by 1e-2, where they agree to 1e-6 otherwise.)"""
    return sharding if count % sharding.mesh.size == 0 else NamedSharding(sharding.mesh, PartitionSpec())


def split(rows: np.ndarray, places: np.ndarray, batch_size: int, sharding: NamedSharding) -> jax.Array:
    """The batch [batch_size, ...] of which this process knows the `rows` [M, ...] at its `places` [M]; copies them.

    Where the devices cannot share it evenly, rows that mean nothing follow; `cut` takes them away.
    """
    shared = shareable(batch_size, sharding)

    def held(index: tuple[slice, ...]) -> np.ndarray:
        wanted = np.arange(shared)[index[0]]
        known = rows[np.searchsorted(places, wanted[wanted < batch_size])]  # a copy, as it has a list of indices
        missing = np.zeros((len(wanted) - len(known), *rows.shape[1:]), rows.dtype)
        return np.concatenate([known, missing]) if len(missing) else known

    return jax.make_array_from_callback((shared, *rows.shape[1:]), sharding, held)


def cut(batch: Tree, batch_size: int) -> Tree:
    """What `split` made, without the rows that follow, as `of_batch` lays it; all processes take part, at one place
    among their computations.

    So each device has what one process made of a row, even where two would have made it differently.
    """
    return jax.tree.map(lambda x: x if len(x) == batch_size else _cut(batch_size, x.sharding)(x), batch)


@functools.cache
def _cut(batch_size: int, sharding: NamedSharding) -> Any:
    return jax.jit(lambda x: x[:batch_size], out_shardings=of_batch(batch_size, sharding))
