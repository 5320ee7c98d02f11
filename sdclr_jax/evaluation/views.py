"""Random views of the images that a probe is trained on: the published crops and flips."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sdclr_jax.data import augment, batches
from sdclr_jax.data.crops import RandomCrops
from sdclr_jax.data.images import Encoded
from sdclr_jax.parallel import Shardings


@dataclass(frozen=True, kw_only=True)
class ProbeViews:
    """Views of images, a function of seed and step.

    Where images are one array, a view is the image shifted by at most `padding` pixels; where they are encoded, it is
    one of the random `crops`, and there is no padding.
    """

    mean: Sequence[float]  # one number a channel
    std: Sequence[float]
    padding: int = 4  # pixels around the image, from which a random crop of its size is taken
    flip: float = 0.5  # probability
    crops: RandomCrops | None = None  # of encoded images
    workers: int = 0  # processes that decode them, as of a `FrozenEncoder`
    seed: int = 0

    @property
    def are_random(self) -> bool:
        """Whether a view can differ from its image."""
        return bool(self.padding or self.flip or self.crops)

    def settings(self) -> dict[str, Any]:
        """What is done to images, as results say it."""
        cut = {"padding": self.padding}
        if self.crops:
            cut = {"crop_scale": list(self.crops.scale), "interpolation": self.crops.interpolation}
        return cut | {"flip": self.flip}

    def view(self, key: jax.Array, images: jax.Array) -> jax.Array:
        """Float views [B, h, w, C] of uint8 images [B, h, w, C], which are crops already where images are encoded."""
        padding = 0 if self.crops else self.padding
        return augment.probe_view(key, images, padding=padding, flip=self.flip, mean=self.mean, std=self.std)

    @contextlib.contextmanager
    def images_of(self, images: np.ndarray | Encoded, batch_size: int) -> Iterator[Callable[[int, np.ndarray], Any]]:
        """(step, rows [M]) -> the uint8 images [M, h, w, C] that `view` takes: images on the device, or crops of
        encoded ones. `batch_size` is the largest M."""
        given = images if self.crops else jnp.asarray(images)
        with batches.on_demand(given, self.crops, batch_size, self.workers) as images_of:
            yield images_of

    @contextlib.contextmanager
    def views_of(
        self, images: np.ndarray | Encoded, batch_size: int, shardings: Shardings
    ) -> Iterator[Callable[[int, np.ndarray], jax.Array]]:
        """(step, rows [batch_size]) -> views, the same on any number of devices."""
        key = jax.random.key(self.seed)
        split = batch_size % shardings.batch.mesh.size == 0  # else every device has all of the batch
        view = jax.jit(
            lambda step, images: self.view(jax.random.fold_in(key, step), images),
            out_shardings=shardings.batch if split else shardings.replicated,
        )
        with self.images_of(images, batch_size) as images_of:
            yield lambda step, rows: view(step, images_of(step, rows))
