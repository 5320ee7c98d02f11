"""From a config to the objects that evaluate its run."""

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from sdclr_jax.data import batches
from sdclr_jax.data.images import Encoded
from sdclr_jax.evaluation.frozen import FrozenEncoder
from sdclr_jax.parallel import Shardings
from sdclr_jax.recipes.images import centre_crop, probe_crops
from sdclr_jax.recipes.methods import network


def frozen_encoder(config: ConfigDict, shardings: Shardings) -> FrozenEncoder:
    """The encoder as evaluation sees it."""
    return FrozenEncoder(
        network(config).encoder,
        mean=config.views.mean,
        std=config.views.std,
        crop=centre_crop(config),
        batch_size=config.evaluate.batch_size,
        workers=config.data.workers,
        shardings=shardings,
    )


def probe_images(config: ConfigDict, images: np.ndarray | Encoded, batch_size: int):
    """A context with (step, rows [M]) -> the uint8 images [M, H, W, C] that a probe's views are made of: images on the
    device, or random crops of encoded ones. `batch_size` is the largest M."""
    images = images if isinstance(images, Encoded) else jnp.asarray(images)
    return batches.on_demand(images, probe_crops(config), batch_size, config.data.workers)
