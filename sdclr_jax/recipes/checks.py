"""Which values of a config's fields are accepted, as far as can be seen without reading data."""

import inspect
import pathlib
import pkgutil
from typing import Any

from ml_collections import ConfigDict

from sdclr_jax import branches
from sdclr_jax.data import sources
from sdclr_jax.data.subsets import lists
from sdclr_jax.errors import UserError, first_ones, renamed, shortened
from sdclr_jax.objectives import OBJECTIVES
from sdclr_jax.recipes.configs import DECLARED, METHODS, PER_VIEW, base, declared, fields, no_field
from sdclr_jax.recipes.encoders import encoder
from sdclr_jax.recipes.images import view_count
from sdclr_jax.recipes.types import check_types
from sdclr_jax.records import names
from sdclr_jax.records.config import free
from sdclr_jax.run import folder

LARGEST = 3.4e38  # in float32, which everything is computed in
MOST_VALUES = 100  # of one field: each is looked at, tried or compiled


def check(config: ConfigDict) -> None:
    """Refuse what can be seen to be wrong without reading data.

    Raises:
        UserError: names the field, its value and what is accepted.
    """
    check_types(config)
    if missing := lacking(config):
        raise UserError(f"the config lacks {first_ones(missing, 4)}: start from configs/base.py, which has all fields")
    _check(config)


def read(directory: pathlib.Path) -> ConfigDict:
    """The config of the run in a folder, which has every field that this version reads: those that an older version did
    not have and that change nothing of what is learnt have their defaults.

    Raises:
        UserError: no run there, a damaged config.json, or one that lacks another field.
    """
    config = folder.read_config(directory)
    try:
        check_types(config)
    except UserError as error:
        raise UserError(f"{directory / names.CONFIG} is damaged ({error}): put it back from a copy") from error
    for field in set(lacking(config)) & set(free(DECLARED)):
        group, _, name = field.rpartition(".")
        inside = config.get(group) if group else config
        if isinstance(inside, ConfigDict) and name not in inside:  # else it is no config at all, which is said below
            config.update_from_flattened_dict({field: DECLARED[field].default})
    if missing := lacking(config):
        raise UserError(
            f"{directory / names.CONFIG} lacks {first_ones(missing, 4)}, as that of a run of an older version does: "
            "add them there as configs/base.py has them, or pretrain again"
        )
    known = fields(config)
    for name, field in declared(config).items():
        if name in known and not _is_like(known[name], field):
            raise UserError(
                f"{directory / names.CONFIG} cannot be used ({name} is not what it should be, like {field.default!r}): "
                "put it back from a copy"
            )
    return config


def _is_like(value: Any, field: base.Field) -> bool:
    """Whether a value is of the kind of a field's default."""
    if field.per_view and isinstance(value, tuple):
        return True
    is_switch = isinstance(field.default, bool)
    kind = (int, float) if isinstance(field.default, int | float) and not is_switch else type(field.default)
    return isinstance(value, kind) and isinstance(value, bool) == is_switch


def lacking(config: ConfigDict) -> list[str]:
    """The fields that this version reads of any config and that this one does not have."""
    of_kinds = tuple(f"{group}." for group in base.KINDS)  # which have fields of their own, and most of these defaults
    needed = {name for name in DECLARED if not name.startswith(of_kinds) or name.endswith((".name", ".mean", ".std"))}
    return sorted(needed - fields(config).keys())


def _check(config: ConfigDict) -> None:
    known = declared(config)
    for name, value in fields(config).items():
        _check_field(name, value, known.get(name, base.Field(value, None)))
    with renamed({"name": "data.name"}):
        sources.check_name(config.data.name)
    encoder(config.model)  # which refuses fields and values that it does not have
    _check_objective(config)
    if config.data.split and not (config.data.lists and config.data.name in lists.DATASETS):
        why = f"the lists of {config.data.name} have no number" if config.data.lists else "data.lists is empty"
        raise UserError(
            f"data.split is {config.data.split}, but {why}: set it to 0; to draw other lists, change data.seed"
        )
    if not config.prune.random_rate < 1 - config.prune.rate:
        raise UserError(f"prune.random_rate is {config.prune.random_rate}: it must be below 1 - prune.rate")
    if config.optimizer.warmup_epochs >= config.epochs:
        raise UserError(
            f"optimizer.warmup_epochs is {config.optimizer.warmup_epochs}: it must be below epochs, {config.epochs}"
        )
    if config.optimizer.final_learning_rate > config.optimizer.learning_rate:
        raise UserError(
            f"optimizer.final_learning_rate is {config.optimizer.final_learning_rate}: it must be at most "
            f"optimizer.learning_rate, {config.optimizer.learning_rate}, from which the rate falls to it"
        )
    c = config.evaluate
    if not c.logistic_l2:
        raise UserError("evaluate.logistic_l2 is (): give at least one value")
    low, high = c.crop_scale if len(c.crop_scale) == 2 else (0, 0)
    if not 0 < low <= high <= 1:
        raise UserError(
            f"evaluate.crop_scale is {c.crop_scale}: it must be two numbers above 0 and at most 1, the smaller first"
        )
    if 0 < c.map_images < 4:
        raise UserError(f"evaluate.map_images is {c.map_images}: a map takes at least 4 images, and 0 makes none")
    if len(c.fine_tune_epochs) != 2:
        raise UserError(f"evaluate.fine_tune_epochs is {c.fine_tune_epochs}: it must be two numbers, each at least 1")
    if c.resize < c.crop:
        raise UserError(f"evaluate.resize is {c.resize}: it must be at least evaluate.crop, {c.crop}")
    _check_pairs(config.pairs, config.prune.gradient)
    count = view_count(config)
    for field in PER_VIEW:
        value = config.views.get(field, 0)
        if isinstance(value, tuple) and len(value) != count:
            raise UserError(f"views.{field} is {value}: it must be one number, or {count}, one a view")


def is_damaged(config: ConfigDict) -> bool:
    """Whether a pair names a masked branch."""
    return any(branches.BRANCHES[branch].masked for pair in config.pairs for branch, _ in pair)


def check_new(config: ConfigDict) -> None:
    """Refuse what no run is to begin with, though one that is there may go on with it.

    Raises:
        UserError: a field that there is not, as a misspelt one in a config file; or pairs that are not those of the
            method, by whose name all tables call the run.
    """
    known, of_kinds = declared(config), tuple(f"{group}." for group in base.KINDS)  # which refuse others themselves
    for name in sorted(fields(config).keys() - known.keys()):
        if not name.startswith(of_kinds):
            raise no_field(name, known)
    _, damaged = METHODS.get(config.get("method", ""), ("", None))
    if damaged is not None and damaged != is_damaged(config):
        raise UserError(
            f"pairs has {'no' if damaged else 'a'} side of the sparse branch, and {config.method} is a method "
            f"{'with' if damaged else 'without'} one, by which all tables would call this run: choose the method by "
            "its name, or give a config file with a method of your own"
        )


def _check_field(name: str, value: object, field: base.Field) -> None:
    several = isinstance(value, tuple)
    each, shown = value if several else (value,), shortened(value)
    if len(each) > MOST_VALUES:
        raise UserError(f"{name} has {len(each)} values: it must have at most {MOST_VALUES}")
    if any(isinstance(x, int | float) and not abs(x) <= LARGEST for x in each):
        raise UserError(f"{name} is {shown}: it must be finite, and no larger than {LARGEST:g}")
    if field.accepted is None:
        return
    if isinstance(field.accepted, tuple) or ":" in field.accepted:
        known = field.accepted if isinstance(field.accepted, tuple) else pkgutil.resolve_name(field.accepted)
        for x in each:
            if x not in known:
                own = name.endswith(".name") or name == "evaluate.protocols"  # tables that a program may add to
                also = f"; add your own to {field.accepted.replace(':', '.')} first" if own else ""
                raise UserError(f"unknown {name} {shortened(repr(x))}: known are {', '.join(known)}{also}")
        return
    low, high = field.accepted[1:-1].split(", ")
    from_low, to_high = field.accepted[0] == "[", field.accepted[-1] == "]"
    whole = isinstance(field.default[0] if isinstance(field.default, tuple) else field.default, int)

    def inside(x: object) -> bool:
        number = isinstance(x, int if whole else int | float) and not isinstance(x, bool)
        above = number and (float(low) <= x if from_low else float(low) < x)
        return above and (x <= float(high) if to_high else x < float(high))

    right_kind = several == isinstance(field.default, tuple) or field.per_view
    if not right_kind or not all(map(inside, each)):
        rules = [f"{'at least' if from_low else 'above'} {low}"] if low != "-inf" else []
        rules += [f"{'at most' if to_high else 'below'} {high}"] if high != "inf" else []
        kind = (
            f"{'whole ' if whole else ''}numbers{', each ' if rules else ''}"
            if isinstance(field.default, tuple)
            else ""
        )
        raise UserError(f"{name} is {shown}: it must be {kind}{' and '.join(rules)}")


def _check_objective(config: ConfigDict) -> None:
    """Refuse fields that the objective does not have, and a lack of those that it has."""
    name = config.objective.name
    known = inspect.signature(OBJECTIVES[name]).parameters
    given = objective_fields(config, steps_per_epoch=1)
    needed = {field for field, parameter in known.items() if parameter.default is parameter.empty}
    for field in sorted(needed - given.keys()) + sorted(given.keys() - known.keys()):
        said = "lacks" if field in known else "has"
        raise UserError(
            f"the config {said} objective.{field.replace('_steps', '_epochs')}: the fields of {name} are "
            f"{', '.join(k.replace('_steps', '_epochs') for k in known) or 'none'} (configs/methods.py)"
        )


def objective_fields(config: ConfigDict, steps_per_epoch: int) -> dict[str, object]:
    """The settings of the objective, with epochs counted in steps."""
    return {
        k.replace("_epochs", "_steps"): v * steps_per_epoch if k.endswith("_epochs") else v
        for k, v in config.objective.items()
        if k != "name"
    }


def _check_pairs(pairs: tuple, gradient: bool) -> None:
    def is_side(side):
        is_two = isinstance(side, tuple) and len(side) == 2
        return is_two and side[0] in branches.BRANCHES and isinstance(side[1], int) and side[1] >= 0

    try:
        well_formed = bool(pairs) and all(len(pair) == 2 and all(map(is_side, pair)) for pair in pairs)
    except TypeError:
        well_formed = False
    if not well_formed:
        raise UserError(
            f"pairs is {shortened(pairs)}: it must be one or more pairs of (branch, view), such as "
            f"((('dense', 0), ('sparse', 1)),), of the branches {', '.join(branches.BRANCHES)} and views from 0 on"
        )
    seen = {view for pair in pairs for _, view in pair}
    if seen != set(range(len(seen))):
        raise UserError(f"pairs is {pairs}: its views are {sorted(seen)}, but they must be 0, 1 and so on without gaps")
    for a, b in pairs:
        first = branches.BRANCHES[a[0]]
        if first.averaged or first.stopped or a == b:
            why = f"its first side must learn, and the {a[0]} branch does not" if a != b else "its sides are the same"
            raise UserError(f"pairs has {(a, b)}: {why}")
        if first.masked and not gradient:
            raise UserError(
                f"pairs has {(a, b)}: its first side must learn, and with prune.gradient False the sparse branch does "
                "not: set that to True, or give other pairs"
            )
