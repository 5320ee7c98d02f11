"""From a config to objects: the only reader of a config's fields, and the place where bad values are refused."""

from sdclr_jax.recipes.checks import check, fields, read
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
from sdclr_jax.recipes.models import choose_encoder, encoder

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
    "fields",
    "image_shape",
    "method",
    "network",
    "plain_view",
    "probe_crops",
    "probe_view",
    "read",
    "try_step",
    "view_shape",
    "views",
]
