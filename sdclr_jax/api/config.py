"""A config by name, with fields of one's own."""

import os
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from sdclr_jax import recipes, records


def config(name: str | os.PathLike, overrides: Mapping[str, Any] | None = None, **fields: Any) -> ConfigDict:
    """The config "NAME:METHOD" of this package, or of a file "FILE.py:METHOD", with some fields changed.

    Fields are given as keywords or as a mapping, in which names may be dotted. `configs/base.py` has every field with
    its default, its bounds and what it means; `sdclr config NAME:METHOD` prints them. A field that the method does not
    read is warned of, as `prune.rate` of one without a sparse branch.

    >>> c = config("digits_lt:sdclr", {"prune.rate": 0.7}, epochs=2, optimizer={"warmup_epochs": 1})
    >>> c.method, c.prune.rate, c.epochs, c.optimizer.warmup_epochs
    ('sdclr', 0.7, 2, 1)
    >>> config("digits_lt:sdclr", epoch=2)
    Traceback (most recent call last):
    sdclr_jax.errors.UserError: there is no field epoch: the nearest is epochs

    Raises:
        UserError: there is no such config, method or field; or a value of another type than the field's.
    """
    made = recipes.load(name)
    named: set[str] = set()
    for given in (overrides or {}, fields):
        recipes.override(made, given)
        named |= records.flat(given).keys()
    recipes.warn_of_unread(made, sorted(named & recipes.fields(made).keys()))
    return made
