"""From a config to objects: the only reader of a config's fields, and the place where bad values are refused."""

from sdclr_jax.recipes.checks import check, read
from sdclr_jax.recipes.configs import fields, load, load_with_sources, override
from sdclr_jax.recipes.encoders import choose_encoder, encoder, encoder_record, encoder_record_of_config, encoder_shapes
from sdclr_jax.recipes.evaluation import frozen_encoder, probe_images
from sdclr_jax.recipes.examples import Data, data
from sdclr_jax.recipes.images import (
    about_probe_view,
    batches,
    centre_crop,
    image_shape,
    plain_view,
    probe_crops,
    probe_view,
    view_shape,
    views,
)
from sdclr_jax.recipes.methods import abstract_state, method, network, try_step

__all__ = [
    "about_probe_view",
    "Data",
    "abstract_state",
    "batches",
    "centre_crop",
    "check",
    "choose_encoder",
    "data",
    "encoder",
    "encoder_record",
    "encoder_record_of_config",
    "encoder_shapes",
    "fields",
    "frozen_encoder",
    "image_shape",
    "load",
    "load_with_sources",
    "method",
    "network",
    "override",
    "plain_view",
    "probe_crops",
    "probe_images",
    "probe_view",
    "read",
    "try_step",
    "view_shape",
    "views",
]
