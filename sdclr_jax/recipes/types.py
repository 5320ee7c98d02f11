"""Whether a config is a tree of fields, each of its type: a file, or a user's own code, may give anything."""

from typing import Any

from ml_collections import ConfigDict

from sdclr_jax.errors import UserError, shortened
from sdclr_jax.recipes.configs import base, declared

_WORDS = {bool: "true or false", str: "text", tuple: "several values"}


def check_types(config: ConfigDict) -> None:
    """Refuse groups that are no groups, values that are, and values of another type than the field's default.

    Raises:
        UserError: names the field and what it must be.
    """
    if not isinstance(config, ConfigDict):
        raise UserError(f"the config is {_shown(config)}: give a ConfigDict, as sdclr_jax.config makes it")
    for name, value in config.items():
        is_group = isinstance(value, ConfigDict)
        if name in base.FIELDS and isinstance(base.FIELDS[name], dict) != is_group:
            raise UserError(f"{name} is {_shown(value)}: it must be {'a value' if is_group else 'a group of fields'}")
        for inner, each in value.items() if is_group else ():
            if isinstance(each, ConfigDict):
                raise UserError(f"{name}.{inner} is {_shown(each)}: it must be a value")
    for group in base.KINDS:
        if group in config:
            check_type(f"{group}.name", config[group].get("name", ""), "")
    for name, field in declared(config).items():
        group, _, inner = name.rpartition(".")
        there = config.get(group, {}) if group else config
        if inner in there and str(field.accepted)[:1] not in "([":  # those with bounds are checked with them
            check_type(name, there[inner], field.default)


def check_type(name: str, value: Any, default: Any) -> None:
    """Raises UserError where a value is of another type than a field's default."""
    if not isinstance(value, type(default)):
        raise UserError(f"{name} is {_shown(value)}: it must be {_WORDS[type(default)]}")


def _shown(value: Any) -> str:
    return " ".join(shortened(value.to_dict() if isinstance(value, ConfigDict) else repr(value)).split())
