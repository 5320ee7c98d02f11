"""From a config to its encoder, and what describes it."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from sdclr_jax.models import RESNETS
from sdclr_jax.records import EncoderRecord, View


def encoder(model: Mapping[str, Any]) -> nn.Module:
    """The encoder of a config's `model`: (views [B, H, W, C], train) -> features [B, D]."""
    return RESNETS[model["name"]](stem=model["stem"], width=model["width"], dtype=jnp.dtype(model["dtype"]))


def encoder_record(config: ConfigDict, image_shape: tuple[int, ...], *, encoded: bool) -> EncoderRecord:
    """What encoder.json says of a run on images [N, H, W, C].

    Args:
        config: the run's.
        image_shape: as `recipes.image_shape` gives it.
        encoded: whether the images are decoded when they are needed, so that the evaluation sees their middle.
    """
    crop = config.evaluate.crop
    height, width, channels = (crop, crop, 3) if encoded else image_shape[1:]
    return EncoderRecord(
        model=config.model.to_dict(),
        view=View(height=height, width=width, channels=channels),
        mean=tuple(map(float, config.views.mean)),
        std=tuple(map(float, config.views.std)),
        resize=config.evaluate.resize if encoded else None,
        crop=crop if encoded else None,
        features=_width(encoder(config.model), (1, height, width, channels)),
    )


def _width(module: nn.Module, view: tuple[int, ...]) -> int:
    key, views = jax.eval_shape(lambda: jax.random.key(0)), jax.ShapeDtypeStruct(view, jnp.float32)
    return jax.eval_shape(lambda key, views: module.init_with_output(key, views, train=False)[0], key, views).shape[1]
