"""What makes a run this run, and what may differ from one start to the next."""

import pathlib
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from sdclr_jax.data import sources
from sdclr_jax.errors import UserError
from sdclr_jax.files import expanded
from sdclr_jax.recipes.checks import check, read
from sdclr_jax.recipes.configs import declared, fields, override
from sdclr_jax.records import TrainedOn
from sdclr_jax.records.config import free
from sdclr_jax.run import folder

# Where the images are, and what is said of them.
PLACES = ("data.name", "data.root", "data.manifest", "data.lists", "data.without")


def identity(config: ConfigDict) -> dict[str, Any]:
    """The fields that change what is learnt, all but `records.config.FREE`, by their full names.

    A field that an older version did not have counts as its default. A folder of images is that folder wherever it
    lies: the hash of the list of its images, in data.json, says whether they are the same.
    """
    values = {name: field.default for name, field in declared(config).items()} | fields(config)
    if str(values["data.name"]).startswith(sources.FOLDER):
        values["data.name"] = sources.FOLDER
    unimportant = free(values)
    return {name: value for name, value in values.items() if name not in unimportant}


def alike(config: ConfigDict) -> dict[str, Any]:
    """The fields that must be the same in all processes of a run, all but where images are and how they are read."""
    own = {*PLACES, "data.workers", "data.prefetch"}
    return {name: value for name, value in fields(config).items() if name not in own} | identity(config)


def check_same_run(before: Mapping[str, Any], config: ConfigDict) -> None:
    """Refuse a config of another identity than a run's.

    Args:
        before: the `identity` of the run.

    Raises:
        UserError: names the first field that differs.
    """
    now = identity(config)
    for name in sorted(before.keys() | now.keys()):
        if before.get(name) != now.get(name):
            raise UserError(
                f"config.{name}={now.get(name)} would make it another run: this one was trained with "
                f"{before.get(name)}; what can be overridden is what changes nothing of that: config.evaluate, "
                f"{', '.join(PLACES)}, data.workers and such"
            )


def override_free(config: ConfigDict, values: Mapping[str, Any]) -> None:
    """Set fields of a run's config, given by nested or dotted names, which change nothing of what was learnt.

    Raises:
        UserError: there is no such field, it would be another run, or a value is not accepted.
    """
    before = identity(config)
    override(config, values)
    check_same_run(before, config)
    check(config)


def located(config: ConfigDict) -> ConfigDict:
    """The config with whole paths, which lead to the same place from any folder."""
    config = config.copy_and_resolve_references()
    for name in ("model.start", *PLACES[1:]):
        if path := fields(config).get(name):
            config.update_from_flattened_dict({name: _whole(path)})
    if (path := config.data.name.removeprefix(sources.FOLDER)) not in ("", config.data.name):
        config.data.name = sources.FOLDER + _whole(path)
    return config


def _whole(path: str) -> str:
    return str(expanded(path).absolute())


def note_places(directory: pathlib.Path, config: ConfigDict, data: TrainedOn) -> str:
    """Write down where a run's images are now, where `config` says another place than its config.json.

    Args:
        data: `Data.about` the images found there.

    Returns:
        A warning where they have changed in the same place; nothing where they have not.

    Raises:
        UserError: the images in another place are not those of the run.
    """
    recorded, changed = read(directory), folder.about_other_data(directory, data)
    before, now = (fields(located(c)) for c in (recorded, config))
    moved = {name: now[name] for name in PLACES if before[name] != now[name]}
    if moved and changed:
        given = ", ".join(f"{name}={value}" for name, value in moved.items())
        raise UserError(f"{changed}, with {given}: give the place where the images of this run are")
    if moved:
        recorded.update_from_flattened_dict(moved)
        folder.write_config(directory, recorded)
    return changed
