"""From a config to its encoder, and what describes it."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from sdclr_jax.data import sources
from sdclr_jax.models import RESNETS
from sdclr_jax.records import EncoderRecord, View
from sdclr_jax.trees import Tree


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
        features=_abstract(config.model, (height, width, channels))[0].shape[1],
    )


def encoder_record_of_config(config: ConfigDict) -> EncoderRecord:
    """The same for a run of version 0.1, which wrote no encoder.json; the name of its data set says what it was on.

    Raises:
        UserError: the data set is none that this version knows.
    """
    sources.check_name(config.data.name)
    shape = sources.SHAPES.get(config.data.name)
    return encoder_record(config, (0, *(shape or ())), encoded=shape is None)


def encoder_shapes(record: EncoderRecord) -> Tree:
    """Shapes and types of the variables of the encoder that a record describes."""
    return _abstract(record.model, (record.view.height, record.view.width, record.view.channels))[1]


def _abstract(model: Mapping[str, Any], view: tuple[int, int, int]) -> tuple[jax.ShapeDtypeStruct, Tree]:
    """Features [1, D] and variables of an encoder on one view."""
    return jax.eval_shape(
        lambda views: encoder(model).init_with_output(jax.random.key(0), views, train=False),
        jax.ShapeDtypeStruct((1, *view), jnp.float32),
    )
