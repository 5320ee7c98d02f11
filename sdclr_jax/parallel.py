"""Devices: one mesh, two shardings. Every computation is one `jit` on global arrays.

With the batch split over the devices and the state on each of them, batch norm and the loss are over the global
batch on any number of devices, and no collective is written by hand.
"""

from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec


class Shardings(NamedTuple):
    """How arrays lie on the devices: `replicated` (state) or `batch` (leading axis split)."""

    replicated: NamedSharding
    batch: NamedSharding


def shardings(devices: list[jax.Device] | None = None) -> Shardings:
    """Shardings over a one-axis mesh of `devices` (default: all of all processes)."""
    devices = jax.devices() if devices is None else devices
    # Auto axes: with explicit ones a product of two batch-sharded arrays raises.
    mesh = jax.make_mesh((len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=devices)
    return Shardings(NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("data")))


def shareable(batch_size: int, shardings: Shardings) -> int:
    """The batch size, as far up as the devices need to share it."""
    devices = shardings.batch.mesh.size
    return -(-batch_size // devices) * devices


def replicate(array: np.ndarray, sharding: NamedSharding) -> jax.Array:
    """The same host array, known whole to every process, on every device."""
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def places(batch_size: int, sharding: NamedSharding) -> np.ndarray:
    """Which rows of a batch the devices of this process hold, ascending."""
    held = sharding.addressable_devices_indices_map((batch_size,)).values()
    return np.unique(np.concatenate([np.arange(batch_size)[index] for index in held]))


def split(rows: np.ndarray, places: np.ndarray, batch_size: int, sharding: NamedSharding) -> jax.Array:
    """The batch [batch_size, ...] of which this process knows the `rows` [M, ...] at its `places` [M]; copies them."""

    def held(index: tuple[slice, ...]) -> np.ndarray:
        return rows[np.searchsorted(places, np.arange(batch_size)[index[0]])]  # a copy, as it has a list of indices

    return jax.make_array_from_callback((batch_size, *rows.shape[1:]), sharding, held)
