"""Which values of a config's fields are accepted, as far as can be seen without reading data."""

import inspect
import pathlib

from ml_collections import ConfigDict

from sdclr_jax import branches
from sdclr_jax.data import sources
from sdclr_jax.data.subsets import longtail, profiles
from sdclr_jax.errors import UserError
from sdclr_jax.models import ENCODERS, LAST
from sdclr_jax.objectives import OBJECTIVES
from sdclr_jax.optim import OPTIMIZERS
from sdclr_jax.recipes.images import PER_VIEW, VIEWS, view_count
from sdclr_jax.recipes.models import encoder
from sdclr_jax.run import folder

KNOWN = {
    "objective.name": OBJECTIVES,
    "model.name": ENCODERS,
    "model.dtype": ("float32", "bfloat16"),
    "projector.last": LAST,
    "predictor.last": LAST,
    "optimizer.name": OPTIMIZERS,
    "data.subset": ("long_tail", "balanced", "probe_train"),
    "data.profile": profiles.PROFILES,
    "data.groups": longtail.GROUP_RULES,
    "views.name": VIEWS,
    "prune.norms": ("private", "shared"),
}
AT_LEAST = {
    "epochs": 1,
    "batch_size": 2,
    "seed": 0,
    "log_every": 1,
    "checkpoint_every": 1,
    "keep_every": 0,
    "collapse_every": 0,
    "prune.rate": 0,
    "prune.random_rate": 0,
    "prune.every": 0,
    "projector.layers": 1,
    "projector.hidden": 1,
    "projector.out": 1,
    "predictor.layers": 0,
    "predictor.hidden": 1,
    "prototypes.count": 0,
    "prototypes.frozen_epochs": 0,
    "target.momentum": 0,
    "target.final_momentum": 0,
    "objective.chunk": 0,
    "objective.queue": 0,
    "objective.queue_start_epochs": 0,
    "objective.iterations": 1,
    "objective.redundancy": 0,
    "objective.slice_size": 0,
    "objective.repeats": 1,
    "objective.shrinkage": 0,
    "objective.invariance": 0,
    "objective.variance": 0,
    "objective.covariance": 0,
    "views.small_size": 0,
    "optimizer.momentum": 0,
    "optimizer.weight_decay": 0,
    "optimizer.warmup_epochs": 0,
    "optimizer.final_learning_rate": 0,
    "data.workers": -1,
    "data.prefetch": 1,
    "evaluate.batch_size": 1,
    "evaluate.crop": 1,
    "evaluate.sgd_batch_size": 1,
    "evaluate.padding": 0,
    "evaluate.flip": 0,
    "evaluate.full_epochs": 1,
    "evaluate.few_shot_epochs": 1,
    "evaluate.knn_k": 1,
    "evaluate.map_images": 0,
    "evaluate.fine_tune_batch_size": 2,
    "evaluate.fine_tune_learning_rate": 0,
    "evaluate.every": 0,
    "evaluate.live_images": 1,
}
ABOVE = {
    "objective.temperature": 0,
    "objective.epsilon": 0,
    "objective.scale": 0,
    "optimizer.trust_coefficient": 0,
    "optimizer.learning_rate": 0,
    "evaluate.sgd_learning_rate": 0,
    "evaluate.knn_temperature": 0,
    "evaluate.fine_tune_head_learning_rate": 0,
}
BELOW = {
    "prune.rate": 1,
    "optimizer.momentum": 1,
    "target.momentum": 1 + 1e-9,
    "target.final_momentum": 1 + 1e-9,
    "objective.shrinkage": 1 + 1e-9,
    "evaluate.flip": 1 + 1e-9,
    "seed": 2**32,
    # Compiled one after the other: of a million the first step would never come.
    "projector.layers": 101,
    "predictor.layers": 101,
    "objective.repeats": 101,
}
WORDS = ("pairs", "optimizer.constant_rate", "evaluate.protocols")  # tuples of names; all others are of numbers
COUNTS = ("evaluate.full_drops", "evaluate.few_shot_drops", "evaluate.fine_tune_epochs")  # tuples of epochs
LARGEST = 3.4e38  # in float32, which everything is computed in
# What every config has besides: any value goes, or what is accepted is seen to elsewhere.
NEEDED = (
    "method",
    "pairs",
    "projector.hidden_norm",
    "optimizer.constant_rate",
    "optimizer.decay_vectors",
    *(f"data.{name}" for name in ("name", "root", "manifest", "lists", "split", "pareto", "n_max", "imbalance")),
    *(f"data.{name}_per_class" for name in ("validation", "few_shot")),
    "views.mean",
    "views.std",
    *(f"evaluate.{name}" for name in ("protocols", "augment", "crop_scale", "resize", "logistic_l2")),
    *(f"evaluate.{name}" for name in ("full_drops", "few_shot_drops", "fine_tune_epochs")),
)
OF_SOME = ("objective.", "views.")  # where fields stand that not all objectives or views have
MODULES = ("encoder", "projector", "predictor", "prototypes")  # of a network


def check(config: ConfigDict) -> None:
    """Refuse what can be seen to be wrong without reading data.

    Raises:
        UserError: names the field, its value and what is accepted.
    """
    if missing := lacking(config):
        raise UserError(f"the config lacks {missing}: start from configs/base.py, which has all fields")
    _check(config)


def read(directory: pathlib.Path) -> ConfigDict:
    """The config of the run in a folder, which has every field that this version reads.

    Raises:
        UserError: no run there, a damaged config.json, or one that lacks a field.
    """
    config = folder.read_config(directory)
    if missing := lacking(config):
        raise UserError(
            f"{directory / 'config.json'} lacks {missing}, as that of a run of an older version does: add "
            "them there as configs/base.py has them, or pretrain again"
        )
    return config


def lacking(config: ConfigDict) -> str:
    """The fields that this version reads of any config and that this one does not have; of many the first ones."""
    values = fields(config)
    bounded = [field for field in (*KNOWN, *AT_LEAST, *ABOVE, *BELOW) if not field.startswith(OF_SOME)]
    missing = sorted({"objective.name", "views.name", *bounded, *NEEDED} - values.keys())
    return ", ".join(missing[:4]) + (f" and {len(missing) - 4} more" if len(missing) > 4 else "")


def _check(config: ConfigDict) -> None:
    values = fields(config)
    for field, value in values.items():
        numbers = value if isinstance(value, tuple) else (value,)
        if isinstance(value, tuple) and field not in WORDS and not all(isinstance(x, int | float) for x in value):
            raise UserError(f"{field} is {value}: it must be numbers, such as 1,2")
        if any(isinstance(x, float) and not abs(x) <= LARGEST for x in numbers):
            raise UserError(f"{field} is {value}: it must be finite, and no larger than {LARGEST:g}")
        if field in COUNTS and not all(isinstance(x, int) and x >= 1 for x in value):
            raise UserError(f"{field} is {value}: it must be whole numbers of epochs, each at least 1")
    for field, known in KNOWN.items():
        if values[field] not in known:
            raise UserError(f"unknown {field} {values[field]!r}: known are {', '.join(sorted(known))}")
    sources.check_name(config.data.name)
    encoder(config.model)  # which refuses fields and values that it does not have
    _check_objective(config)
    at_least, above, below = (
        {field: bound for field, bound in bounds.items() if field in values} for bounds in (AT_LEAST, ABOVE, BELOW)
    )
    for field, low in at_least.items():
        if not values[field] >= low:
            high = f" and below {BELOW[field]}" if field in BELOW else ""
            raise UserError(f"{field} is {values[field]}: it must be at least {low}{high}")
    for field, low in above.items():
        if not values[field] > low:
            raise UserError(f"{field} is {values[field]}: it must be above {low}")
    for field, high in below.items():
        if not values[field] < high:
            raise UserError(f"{field} is {values[field]}: it must be at least {AT_LEAST[field]} and below {high:g}")
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
    for module in config.optimizer.constant_rate:
        if module not in MODULES:
            raise UserError(f"optimizer.constant_rate has {module!r}: the modules are {', '.join(MODULES)}")
    if not c.logistic_l2 or min(c.logistic_l2) <= 0:
        raise UserError(f"evaluate.logistic_l2 is {c.logistic_l2}: give at least one value, all above 0")
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
    _check_pairs(config.pairs)
    count = view_count(config)
    for field in PER_VIEW:
        value = config.views.get(field, 0)
        if isinstance(value, tuple) and len(value) != count:
            raise UserError(f"views.{field} is {value}: it must be one number, or {count}, one a view")


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


def _check_pairs(pairs: tuple) -> None:
    def is_side(side):
        return len(side) == 2 and side[0] in branches.BRANCHES and isinstance(side[1], int) and side[1] >= 0

    try:
        well_formed = bool(pairs) and all(len(pair) == 2 and all(map(is_side, pair)) for pair in pairs)
    except TypeError:
        well_formed = False
    if not well_formed:
        raise UserError(
            f"pairs is {pairs}: it must be one or more pairs of (branch, view), such as "
            f"((('dense', 0), ('sparse', 1)),), of the branches {', '.join(branches.BRANCHES)} and views from 0 on"
        )
    seen = {view for pair in pairs for _, view in pair}
    if seen != set(range(len(seen))):
        raise UserError(f"pairs is {pairs}: its views are {sorted(seen)}, but they must be 0, 1 and so on without gaps")
    for a, b in pairs:
        if branches.BRANCHES[a[0]].averaged or a == b:
            why = "its first side must learn, and the target does not" if a != b else "its sides are the same"
            raise UserError(f"pairs has {(a, b)}: {why}")


def fields(config: ConfigDict, prefix: str = "") -> dict[str, object]:
    """The fields of a config by their full names, `prune.rate`."""
    named = {}
    for name, value in config.items():
        named |= fields(value, f"{prefix}{name}.") if isinstance(value, ConfigDict) else {prefix + name: value}
    return named
