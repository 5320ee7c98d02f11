"""From a config to objects: the only reader of a config's fields, and the place where bad values are refused."""

from sdclr_jax.recipes.checks import check, read
from sdclr_jax.recipes.configs import fields, load, load_with_sources, override
from sdclr_jax.recipes.examples import Data, data
from sdclr_jax.recipes.identity import check_same_run, identity, located, note_places
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
    "check_same_run",
    "data",
    "fields",
    "identity",
    "image_shape",
    "load",
    "load_with_sources",
    "located",
    "method",
    "network",
    "note_places",
    "override",
    "plain_view",
    "probe_crops",
    "probe_view",
    "read",
    "try_step",
    "view_shape",
    "views",
]
