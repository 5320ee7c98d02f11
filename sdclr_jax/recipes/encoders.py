"""The encoder of a config: `config.model` holds its name, the weights it starts from, and the fields that its row of
`models.ENCODERS` has."""

import inspect
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from sdclr_jax.data import sources
from sdclr_jax.errors import UserError, renamed, shortened
from sdclr_jax.models import ENCODERS, Encoder
from sdclr_jax.records import EncoderRecord, View
from sdclr_jax.trees import Tree

# Fields of `config.model` that say nothing of the encoder itself: the file that it starts from, what is in that, and
# how the backward pass goes.
COMMON = {"start": "", "start_sha256": "", "remat": False}

DTYPES = ("float32", "bfloat16")  # that networks compute in
IMPORTED = "imported"  # the method of a run of weights that another program trained


def choose_encoder(config: ConfigDict, name: str) -> None:
    """Make `config.model` that of the encoder `name`, with all of its fields.

    The fields of the encoder that the config has already stay as they are; those that are not there get their defaults.
    With another encoder, a field that both have with the same default keeps its value (`stem`, from one ResNet to
    another); all others get their defaults (`width`, from a ResNet to a ViT), and those of the old one go.
    """
    old = config.get("model", {}).get("name")
    if not {old, name} <= ENCODERS.keys():
        return  # `check` says so
    defaults, kept = COMMON | encoder_fields(name), dict(config.model)
    if name != old:
        before = COMMON | encoder_fields(old)
        kept = {field: x for field, x in kept.items() if field in defaults and before.get(field) == defaults[field]}
    with config.unlocked():
        config.model = ConfigDict({"name": name} | defaults | kept | {"name": name})


def encoder_fields(name: str) -> dict[str, Any]:
    """The fields of an encoder with their defaults, as a config writes them.

    Raises:
        UserError: it lacks the field `dtype`, or a field lacks a default.
    """
    parameters = inspect.signature(ENCODERS[name]).parameters.values()
    flax_own = ("parent", "name")
    defaults = {p.name: p.default for p in parameters if p.name not in (*flax_own, *COMMON)}
    if "dtype" not in defaults:
        raise UserError(f"the encoder {name} has no field dtype: give its class `dtype: Any = jnp.float32`")
    if bare := [field for field, default in defaults.items() if default is inspect.Parameter.empty]:
        raise UserError(f"the encoder {name} has the field {bare[0]} without a default: give it one")
    return defaults | {"dtype": jnp.dtype(defaults["dtype"]).name}


def encoder(model: Mapping[str, Any]) -> Encoder:
    """The encoder of a config's `model`: its name, and its own fields, as far as they are not the defaults.

    Raises:
        UserError: names the field that it does not have, or whose value it does not accept.
    """
    name, fields = model["name"], {field: x for field, x in model.items() if field not in ("name", *COMMON)}
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
    for field, value in fields.items():
        kind = type(known[field])
        if not (type(value) is kind or known[field] is None or (kind is float and type(value) is int)):
            raise UserError(f"model.{field} is {shortened(repr(value))}: it must be of the type of {known[field]!r}")
    dtype = fields.get("dtype", known["dtype"])
    if dtype not in DTYPES:  # float16 takes a scaled loss
        raise UserError(f"unknown model.dtype {shortened(repr(dtype))}: known are {', '.join(DTYPES)}")
    fields["dtype"] = jnp.dtype(dtype)
    if model.get("remat"):
        if "remat" not in inspect.signature(ENCODERS[name]).parameters:
            raise UserError(
                f"model.remat is true, and {name} has no field for it: give its class one, or set it to false"
            )
        fields["remat"] = True
    with renamed(names_of_fields(model)):
        made = ENCODERS[name](**fields)
    if not isinstance(made, Encoder):
        raise UserError(f"the encoder {name} is no sdclr_jax.models.Encoder: make its class a subclass of that")
    return made


def names_of_fields(model: Mapping[str, Any]) -> dict[str, str]:
    """What a config calls the arguments of its encoder, for `errors.renamed`."""
    name = model["name"]
    of_class = {
        "prunable": f"{name}.prunable",
        "features": f"the features that {name} makes",
        "variables": f"the variables of {name}",
    }
    return {field: f"model.{field}" for field in encoder_fields(name)} | of_class


def model_of_encoder(config: ConfigDict) -> dict[str, Any]:
    """Name and fields of a config's encoder, as far as they say what it is."""
    return {field: value for field, value in config.model.to_dict().items() if field not in COMMON}


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
        model=model_of_encoder(config),
        view=View(height=height, width=width, channels=channels),
        mean=tuple(map(float, config.views.mean)),
        std=tuple(map(float, config.views.std)),
        resize=config.evaluate.resize if encoded else None,
        crop=crop if encoded else None,
        features=_abstract(config.model, (height, width, channels))[0].shape[1],
        gray_range=tuple(map(float, config.data.gray_range)) if any(config.data.gray_range) else (),
        interpolation=config.evaluate.interpolation,
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
