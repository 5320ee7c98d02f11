"""Batches of images on the device, the same interface for every way to get them there.

Step n's rows are a function of (seed, n): each epoch is a permutation drawn from (seed, epoch), cut into whole
batches; the images left over in one epoch come up in others. So there is nothing to save, and resume is exact.
"""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from sdclr_jax import parallel
from sdclr_jax.errors import UserError
from sdclr_jax.parallel import Shardings


def rows(size: int, batch_size: int, seed: int, step: int) -> np.ndarray:
    """Indices [batch_size] of the images of a step, out of `size`."""
    epoch, place = divmod(step, size // batch_size)
    order = np.random.default_rng((seed, epoch)).permutation(size)
    return order[place * batch_size : (place + 1) * batch_size]


class Resident:
    """A set small enough to live on the devices as uint8.

    Args:
        images: uint8 [N, H, W, C] on the host.
        batch_size: images a step over all devices.
        seed: of the order.
        shardings: how arrays lie on the devices.

    Raises:
        UserError: the batch is larger than the set, or cannot be split evenly over the devices.
    """

    def __init__(self, images: np.ndarray, batch_size: int, seed: int, shardings: Shardings):
        if not 2 <= batch_size <= len(images):
            raise UserError(
                f"batch_size is {batch_size}, but the subset has {len(images)} images: set batch_size to at least 2 "
                f"and at most {len(images)}, or take a larger subset with data.n_max, data.imbalance or data.subset"
            )
        devices = shardings.batch.mesh.size
        if batch_size % devices:
            raise UserError(f"batch_size is {batch_size}, which {devices} devices cannot share: make it a multiple")
        self._size, self._batch_size, self._seed, self._shardings = len(images), batch_size, seed, shardings
        self._images = parallel.replicate(images, shardings.replicated)
        self._take = jax.jit(lambda images, rows: jnp.take(images, rows, axis=0), out_shardings=shardings.batch)
        self.steps_per_epoch = self._size // batch_size

    def from_step(self, step: int) -> Iterator[jax.Array]:
        """Batches [batch_size, H, W, C], split over the devices, of this step and those after it, without end."""
        while True:
            picked = rows(self._size, self._batch_size, self._seed, step).astype(np.int32)
            yield self._take(self._images, parallel.replicate(picked, self._shardings.replicated))
            step += 1
