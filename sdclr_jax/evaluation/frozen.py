"""A frozen encoder: features of images as they are, without augmentation."""

import copy
from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, closing
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from sdclr_jax import branches, parallel, processes
from sdclr_jax.data import augment, batches
from sdclr_jax.data.crops import CentreCrop
from sdclr_jax.data.images import Encoded, as_images
from sdclr_jax.errors import ArgumentError
from sdclr_jax.evaluation import features
from sdclr_jax.parallel import Shardings
from sdclr_jax.progress import bar, progressed
from sdclr_jax.trees import Tree

KEPT_BYTES = 2**30  # a set: 7,133 images of 224 x 224


def dense(state: Any) -> Tree:
    """The network's variables that the dense branch of a training state reads."""
    return branches.variables(branches.BRANCHES["dense"], state.params, state.stats, mask=None)


def encoder_variables(variables: Tree) -> Tree:
    """The encoder's own variables among a network's: what is evaluated of `dense(state)`."""
    return {kind: modules["encoder"] for kind, modules in variables.items() if "encoder" in modules}


class FrozenEncoder:
    """An encoder as a function of its variables, compiled once for all of them.

    With several processes each of them takes part, knows all images, and gets all features.

    Args:
        encoder: Flax module, (views [B, h, w, C], train) -> features [B, D].
        mean, std: one number a channel; images become (image / 255 - mean) / std.
        crop: what is seen of encoded images; images that are one array are seen whole.
        batch_size: images a step; made larger where the devices cannot share it.
        workers: processes that decode encoded images; 0 decodes in this one, -1 is one a core.
        shardings: how arrays lie on the devices.

    Raises:
        ArgumentError: `batch_size` is below 1.
    """

    def __init__(
        self,
        encoder: nn.Module,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        crop: CentreCrop,
        batch_size: int,
        workers: int,
        shardings: Shardings,
    ):
        def encode(variables: Tree, images: jax.Array) -> jax.Array:
            return encoder.apply(variables, augment.plain(images, mean=mean, std=std), False)

        if batch_size < 1:
            raise ArgumentError("batch_size", f"is {batch_size}: it must be at least 1")
        self.encoder, self.shardings = encoder, shardings
        self._encode = jax.jit(encode, out_shardings=shardings.replicated)
        self._crop, self._workers, self._mean, self._std = crop, workers, list(mean), list(std)
        self._batch_size = parallel.shareable(batch_size, shardings.batch)
        self._places = parallel.places(self._batch_size, shardings.batch)  # of a batch, what this process decodes

    def here(self) -> "FrozenEncoder":
        """The same on the devices of this process alone, for what one process does while others wait."""
        if processes.count() == 1:
            return self
        encoder, shardings = copy.copy(self), parallel.shardings(jax.local_devices())
        encoder.shardings = shardings
        encoder._encode = jax.jit(self._encode.__wrapped__, out_shardings=shardings.replicated)
        encoder._batch_size = parallel.shareable(self._batch_size, shardings.batch)
        encoder._places = np.arange(encoder._batch_size)
        return encoder

    def features(self, variables: Tree, images: np.ndarray | Encoded, *, progress: bool = False) -> np.ndarray:
        """Features of every image, in order.

        Args:
            variables: the encoder's, {"params": ..., "batch_stats": ...}; the latter only where it has any.
            images: uint8 [N, H, W, C]; or N encoded ones, which are decoded, and of which `crop` is seen.
            progress: whether to draw a bar on the standard error.

        Returns:
            float32 [N, D].

        Raises:
            UserError: an image cannot be read, or a feature is not finite.
        """
        if not len(images):
            return self._no_features(variables, images)
        with self._batches(images, self._places) as seen, bar("features", len(images), progress, unit="image") as shown:
            counts = (min(self._batch_size, len(images) - start) for start in range(0, len(images), self._batch_size))
            shares = zip(seen, counts, strict=True)
            return features.extract(partial(self._of_batch, variables), shares, len(self._places), done=shown.update)

    def seen(self, images: np.ndarray | Encoded) -> dict[str, Any]:
        """What the encoder is given of these images, fit for JSON: with its variables and the images all that features
        depend on."""
        c = self._crop
        cropped = {"resize": c.resize, "crop": c.size, "interpolation": c.interpolation}
        cropped = {} if as_images(images).is_decoded else cropped
        return {"mean": self._mean, "std": self._std} | cropped

    def decoded(self, images: np.ndarray | Encoded) -> np.ndarray | Encoded:
        """The same images for `features` of one encoder after another: what is seen of encoded images is decoded now
        and kept, uint8 [N, S, S, 3], unless it is more than `KEPT_BYTES`. Raises UserError where one cannot be read."""
        size = self._crop.size
        if as_images(images).is_decoded or len(images) * size * size * 3 > KEPT_BYTES:
            return images
        kept, end = np.empty((len(images), size, size, 3), np.uint8), 0
        with self._batches(images) as crops:
            for batch in crops:
                progressed()
                kept[end : end + len(batch)] = batch
                end += len(batch)
        return kept

    def _batches(
        self, images: np.ndarray | Encoded, places: np.ndarray | None = None
    ) -> AbstractContextManager[Generator[np.ndarray, None, None]]:
        """Batches of what is seen of the images, of each the rows at `places`. Closed, its processes end, whatever went
        wrong with what they made."""
        return closing(batches.in_order(images, self._crop, self._batch_size, self._workers, places))

    def _of_batch(self, variables: Tree, images: np.ndarray) -> jax.Array:
        progressed()
        batch = parallel.split(images, self._places, self._batch_size, self.shardings.batch)
        return self._encode(variables, batch)

    def _no_features(self, variables: Tree, images: np.ndarray | Encoded) -> np.ndarray:
        shape = as_images(images).shape(self._crop.size)
        batch = jax.ShapeDtypeStruct((self._batch_size, *shape), jnp.uint8)
        return np.empty((0, jax.eval_shape(self._encode, variables, batch).shape[1]), np.float32)
