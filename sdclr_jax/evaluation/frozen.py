"""The frozen encoder as evaluation sees it: features of images as they are, without augmentation."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, closing
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from sdclr_jax import branches, parallel, recipes
from sdclr_jax.data import batches
from sdclr_jax.data.examples import Examples
from sdclr_jax.data.images import Encoded
from sdclr_jax.evaluation import features
from sdclr_jax.parallel import Shardings
from sdclr_jax.train import State
from sdclr_jax.trees import Tree

KEPT_BYTES = 2**30  # a set: 7,133 images of 224 x 224


def dense(state: State) -> Tree:
    """The variables of the dense branch of a state: what is evaluated."""
    return branches.variables(branches.BRANCHES["dense"], state.params, state.stats, mask=None)


def probe_images(config: ConfigDict, images: np.ndarray | Encoded, batch_size: int):
    """A context with (step, rows [M]) -> the uint8 images [M, H, W, C] that a probe's views are made of: images on the
    device, or random crops of encoded ones. `batch_size` is the largest M."""
    images = images if isinstance(images, Encoded) else jnp.asarray(images)
    return batches.on_demand(images, recipes.probe_crops(config), batch_size, config.data.workers)


class FrozenEncoder:
    """A run's encoder as a function of its variables, compiled once for all of them.

    With several processes each of them takes part, knows all images, and gets all features.
    """

    def __init__(self, config: ConfigDict, shardings: Shardings):
        network, plain = recipes.network(config), recipes.plain_view(config)

        def encode(variables: Tree, images: jax.Array) -> jax.Array:
            return network.apply(variables, plain(images), method="encode")

        self._encode = jax.jit(encode, out_shardings=shardings.replicated)
        self._config, self._crop, self._sharding = config, recipes.centre_crop(config), shardings.batch
        self._batch_size = parallel.shareable(config.evaluate.batch_size, shardings)

    def features(self, variables: Tree, examples: Examples) -> np.ndarray:
        """Features of every image, in order: float32 [N, D]; encoded images are decoded and their middle is seen.

        `variables` are a network's, as `dense` gives them. Raises UserError where an image cannot be read, or a feature
        is not finite.
        """
        encode = partial(self._of_batch, variables)
        if not isinstance(examples.images, Encoded):
            return features.extract(encode, examples.images, self._batch_size)
        with self._crops_of(examples.images) as crops:
            return features.extract(encode, crops, self._batch_size)

    def decoded(self, examples: Examples) -> Examples:
        """The same examples for `features` of one encoder after another: what is seen of encoded images is decoded now
        and kept, uint8 [N, S, S, 3], unless it is more than `KEPT_BYTES`. Raises UserError where one cannot be read."""
        images, size = examples.images, self._crop.size
        if not isinstance(images, Encoded) or len(images) * size * size * 3 > KEPT_BYTES:
            return examples
        kept, end = np.empty((len(images), size, size, 3), np.uint8), 0
        with self._crops_of(images) as crops:
            for batch in crops:
                kept[end : end + len(batch)] = batch
                end += len(batch)
        return examples._replace(images=kept)

    def _crops_of(self, images: Encoded) -> AbstractContextManager[Iterator[np.ndarray]]:
        """Closed, its processes end, whatever went wrong with what they made."""
        return closing(batches.in_order(images, self._crop, self._batch_size, self._config.data.workers))

    def _of_batch(self, variables: Tree, images: np.ndarray) -> jax.Array:
        everywhere = np.arange(len(images))
        return self._encode(variables, parallel.split(images, everywhere, len(images), self._sharding))
