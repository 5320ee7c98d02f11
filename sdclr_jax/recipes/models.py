"""The encoder of a config: `config.model` holds its name and the fields that its row of `models.ENCODERS` has."""

import inspect
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from ml_collections import ConfigDict

from sdclr_jax.errors import UserError, renamed
from sdclr_jax.models import ENCODERS, Encoder


def choose_encoder(config: ConfigDict, name: str) -> None:
    """Make `config.model` that of the encoder `name`, with all of its fields.

    The fields of the encoder that the config has already stay as they are; those that are not there get their defaults.
    With another encoder, a field that both have with the same default keeps its value (`stem`, from one ResNet to
    another); all others get their defaults (`width`, from a ResNet to a ViT), and those of the old one go.
    """
    old = config.get("model", {}).get("name")
    if not {old, name} <= ENCODERS.keys():
        return  # `check` says so
    defaults, kept = encoder_fields(name), dict(config.model)
    if name != old:
        before = encoder_fields(old)
        kept = {field: x for field, x in kept.items() if field in defaults and before.get(field) == defaults[field]}
    with config.unlocked():
        config.model = ConfigDict({"name": name} | defaults | kept | {"name": name})


def encoder_fields(name: str) -> dict[str, Any]:
    """The fields of an encoder with their defaults, as a config writes them."""
    parameters = inspect.signature(ENCODERS[name]).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.name not in ("parent", "name")}  # those two are Flax's own
    return defaults | {"dtype": jnp.dtype(defaults["dtype"]).name}


def encoder(model: Mapping[str, Any]) -> Encoder:
    """The encoder of a config's `model`: its name, and its own fields, as far as they are not the defaults.

    Raises:
        UserError: names the field that it does not have, or whose value it does not accept.
    """
    name, fields = model["name"], {field: value for field, value in model.items() if field != "name"}
    if name not in ENCODERS:
        raise UserError(
            f"unknown model.name {name!r}: known are {', '.join(sorted(ENCODERS))}; add your own to "
            "sdclr_jax.models.ENCODERS"
        )
    known = encoder_fields(name)
    if foreign := sorted(fields.keys() - known.keys()):
        raise UserError(
            f"the config has model.{foreign[0]}, which {name} does not have: its fields are {', '.join(known)}; in a "
            f"config file write c.model = ConfigDict({{'name': {name!r}}}), with those that you change"
        )
    with renamed(names_of_fields(model)):
        return ENCODERS[name](**fields | {"dtype": jnp.dtype(fields.get("dtype", known["dtype"]))})


def names_of_fields(model: Mapping[str, Any]) -> dict[str, str]:
    """What a config calls the arguments of its encoder, for `errors.renamed`."""
    name = model["name"]
    return {field: f"model.{field}" for field in encoder_fields(name)} | {"prunable": f"{name}.prunable"}
