"""The frozen encoder as evaluation sees it: features of images as they are, without augmentation."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from sdclr_jax import branches, build, parallel
from sdclr_jax.data import batches
from sdclr_jax.data.examples import Examples
from sdclr_jax.data.images import Encoded
from sdclr_jax.evaluation import features
from sdclr_jax.parallel import Shardings
from sdclr_jax.train import State
from sdclr_jax.trees import Tree


def dense(state: State) -> Tree:
    """The variables of the dense branch of a state: what is evaluated."""
    return branches.variables(branches.BRANCHES["dense"], state.params, state.stats, mask=None)


def probe_images(config: ConfigDict, images: np.ndarray | Encoded, batch_size: int):
    """A context with (step, rows [M]) -> the uint8 images [M, H, W, C] that a probe's views are made of: images on the
    device, or random crops of encoded ones. `batch_size` is the largest M."""
    images = images if isinstance(images, Encoded) else jnp.asarray(images)
    return batches.on_demand(images, build.probe_crops(config), batch_size, config.data.workers)


class Encoder:
    """A run's encoder as a function of its variables, compiled once for all of them.

    With several processes each of them takes part, knows all images, and gets all features.
    """

    def __init__(self, config: ConfigDict, shardings: Shardings):
        network, plain = build.network(config), build.plain_view(config)

        def encode(variables: Tree, images: jax.Array) -> jax.Array:
            return network.apply(variables, plain(images), method="encode")

        self._encode = jax.jit(encode, out_shardings=shardings.replicated)
        self._config, self._sharding = config, shardings.batch
        self._batch_size = parallel.shareable(config.evaluate.batch_size, shardings)

    def features(self, variables: Tree, examples: Examples) -> np.ndarray:
        """Features of every image, in order: float32 [N, D]; encoded images are decoded and their middle is seen.

        `variables` are a network's, as `dense` gives them. Raises UserError where an image cannot be read, or a feature
        is not finite.
        """
        images = examples.images
        if isinstance(images, Encoded):
            images = batches.in_order(
                images, build.centre_crop(self._config), self._batch_size, self._config.data.workers
            )
        return features.extract(partial(self._of_batch, variables), images, self._batch_size)

    def _of_batch(self, variables: Tree, images: np.ndarray) -> jax.Array:
        everywhere = np.arange(len(images))
        return self._encode(variables, parallel.split(images, everywhere, len(images), self._sharding))
