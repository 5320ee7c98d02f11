"""From a config to objects: the only reader of a config's fields, and the place where bad values are refused."""

import inspect
import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from sdclr_jax import branches, optim, pruning
from sdclr_jax.data import augment, labelled_lists, lists, longtail, profiles, sources
from sdclr_jax.data.examples import Examples
from sdclr_jax.data.images import Encoded
from sdclr_jax.errors import UserError
from sdclr_jax.models import LAST, RESNETS, STEMS, Head, Network, Prototypes
from sdclr_jax.objectives import OBJECTIVES
from sdclr_jax.optim import OPTIMIZERS
from sdclr_jax.parallel import Shardings
from sdclr_jax.train import Method, State

VIEWS = {"digits": augment.digits_view, "simclr": augment.simclr_view}


KNOWN = {
    "objective.name": OBJECTIVES,
    "model.name": RESNETS,
    "model.stem": STEMS,
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
    "model.width": 1,
    "projector.layers": 1,
    "projector.hidden": 1,
    "projector.out": 1,
    "predictor.layers": 0,
    "predictor.hidden": 1,
    "prototypes.count": 0,
    "prototypes.frozen_epochs": 0,
    "target.momentum": 0,
    "target.final_momentum": 0,
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
    "evaluate.batch_size": 1,
    "evaluate.sgd_batch_size": 1,
    "evaluate.padding": 0,
    "evaluate.flip": 0,
    "evaluate.full_epochs": 1,
    "evaluate.few_shot_epochs": 1,
    "evaluate.knn_k": 1,
}
ABOVE = {
    "objective.temperature": 0,
    "objective.epsilon": 0,
    "objective.scale": 0,
    "optimizer.trust_coefficient": 0,
    "optimizer.learning_rate": 0,
    "evaluate.sgd_learning_rate": 0,
    "evaluate.knn_temperature": 0,
}
BELOW = {
    "prune.rate": 1,
    "optimizer.momentum": 1,
    "target.momentum": 1 + 1e-9,
    "target.final_momentum": 1 + 1e-9,
    "objective.shrinkage": 1 + 1e-9,
    "evaluate.flip": 1 + 1e-9,
    "seed": 2**32,
}
# Where fields stand that some objectives or views do not have.
OPTIONAL = ("objective.", "views.")
MODULES = ("encoder", "projector", "predictor", "prototypes")  # of a network


def check(config: ConfigDict) -> None:
    """Refuse what can be seen to be wrong without reading data.

    Raises:
        UserError: names the field, its value and what is accepted.
    """
    try:
        _check(config)
    except (AttributeError, KeyError) as error:
        raise UserError(
            f"the config lacks a field ({error.args[0]}): start from configs/base.py, which has all"
        ) from error


def _check(config: ConfigDict) -> None:
    values = fields(config)
    for field, value in values.items():
        numbers = value if isinstance(value, tuple) else (value,)
        if any(isinstance(x, float) and not math.isfinite(x) for x in numbers):
            raise UserError(f"{field} is {value}: it must be finite")
    for field, known in KNOWN.items():
        if values[field] not in known:
            raise UserError(f"unknown {field} {values[field]!r}: known are {', '.join(sorted(known))}")
    sources.check_name(config.data.name)
    _check_objective(config)
    at_least, above, below = (
        {field: bound for field, bound in bounds.items() if field in values or not field.startswith(OPTIONAL)}
        for bounds in (AT_LEAST, ABOVE, BELOW)
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
    for module in config.optimizer.constant_rate:
        if module not in MODULES:
            raise UserError(f"optimizer.constant_rate has {module!r}: the modules are {', '.join(MODULES)}")
    if not config.evaluate.logistic_l2 or min(config.evaluate.logistic_l2) <= 0:
        raise UserError(f"evaluate.logistic_l2 is {config.evaluate.logistic_l2}: give at least one value, all above 0")
    _check_pairs(config.pairs)


def _check_objective(config: ConfigDict) -> None:
    """Refuse fields that the objective does not have, and a lack of those that it has."""
    name = config.objective.name
    known = inspect.signature(OBJECTIVES[name]).parameters
    given = _objective_fields(config, steps_per_epoch=1)
    for field in given.keys() ^ known.keys():
        said = "lacks" if field in known else "has"
        raise UserError(
            f"the config {said} objective.{field.replace('_steps', '_epochs')}: the fields of {name} are "
            f"{', '.join(k.replace('_steps', '_epochs') for k in known) or 'none'} (configs/methods.py)"
        )


def _objective_fields(config: ConfigDict, steps_per_epoch: int) -> dict[str, object]:
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


class Data(NamedTuple):
    """A data set's splits, the subsets of `train`, and what the data set and its subsets were made from."""

    train: Examples
    test: Examples
    subsets: longtail.Subsets
    provenance: dict[str, Any] | None

    def part(self, subset: str) -> Examples:
        """The examples of a subset of `train`."""
        return self.train.take(getattr(self.subsets, subset))


def data(config: ConfigDict, data_dir: str | None) -> Data:
    """Load the data set, and read its subsets from `data.lists`, or draw them where that is empty.

    Raises:
        UserError: unknown data set; lists that are not of it; a profile that the data set cannot fill; a subset that it
            does not have; a stem too coarse for its images.
    """
    c = config.data
    if c.profile != "as_is":  # before anything is read or prepared; the same call that `draw` makes below
        longtail.class_counts(c.n_max, c.imbalance, 2, c.profile, c.pareto)
    numbered = c.name in lists.DATASETS
    files = None
    if c.lists:
        files = lists.find(c.lists, c.name, c.split) if numbered else labelled_lists.find(c.lists, c.name, c.profile)
    source = sources.source(c.name, data_dir, root=c.root, manifest=c.manifest, seed=c.split)
    train, test = source.load("train"), source.load("test")
    provenance = source.provenance()
    _check_stem(config, train)
    draw = {
        "n_max": c.n_max,
        "imbalance": c.imbalance,
        "validation_per_class": c.validation_per_class,
        "few_shot_per_class": c.few_shot_per_class,
        "seed": c.split,
        "profile": c.profile,
        "pareto": c.pareto,
    }
    if files and numbered:
        subsets = lists.subsets(files, train, name=c.name, n_max=c.n_max, imbalance=c.imbalance)
    elif files:
        train, test, subsets, origins = labelled_lists.read(files, train, test, name=c.name, **draw)
        provenance = (provenance or {}) | {"subsets": origins}
    else:
        subsets = longtail.draw(train.labels, num_classes=len(train.class_names), held_out=train.held_out, **draw)
    found = Data(train, test, subsets, provenance)
    _check_subsets(config, found)
    return found


def _check_stem(config: ConfigDict, train: Examples) -> None:
    encoded = isinstance(train.images, Encoded)
    if encoded and "size" not in config.views:
        raise UserError(
            f"views.name {config.views.name!r} leaves images as large as they are, and those of {config.data.name} are "
            "of many sizes: take a views.name with a views.size, such as 'simclr'"
        )
    side = config.views.get("size", 0 if encoded else train.images.shape[1])
    if config.model.stem == "imagenet" and side < 64:
        raise UserError(
            f"model.stem is 'imagenet', which leaves {side} x {side} images of {config.data.name} with {-(-side // 4)} "
            f"x {-(-side // 4)} places after the stem: set model.stem to 'cifar'"
        )


def _check_subsets(config: ConfigDict, found: Data) -> None:
    c, names = config.data, found.train.class_names
    if (classes := sources.NUM_CLASSES.get(c.name, len(names))) != len(names):
        raise UserError(
            f"data.name is {c.name!r}, which has {classes} classes, but {len(names)} were found: set data.lists to the "
            "folder of its lists, which name the classes, or data.name to what data.root holds"
        )
    if not len(getattr(found.subsets, c.subset)):
        why = "its images have no labels" if not names else "its smallest class is too small for it"
        raise UserError(
            f"data.subset is {c.subset!r}, which {c.name} does not have, since {why}: set it to 'long_tail'"
        )
    labelled = len(found.subsets.probe_train)
    if names and not len(found.subsets.validation):
        raise UserError(f"{c.name} has no class of five images, a fifth of which would be for validation: add images")
    if names and config.evaluate.knn_k > labelled:
        raise UserError(
            f"evaluate.knn_k is {config.evaluate.knn_k}: there are {labelled} labelled images to choose neighbours from"
        )


def network(config: ConfigDict) -> Network:
    """The encoder and its heads."""
    dtype = jnp.dtype(config.model.dtype)
    encoder = RESNETS[config.model.name](stem=config.model.stem, width=config.model.width, dtype=dtype)
    projector, predictor, prototypes = config.projector, config.predictor, config.prototypes
    return Network(
        encoder,
        Head(
            projector.layers,
            projector.hidden,
            projector.out,
            hidden_norm=projector.hidden_norm,
            last=projector.last,
            dtype=dtype,
        ),
        Head(predictor.layers, predictor.hidden, projector.out, last=predictor.last, dtype=dtype)
        if predictor.layers
        else None,
        Prototypes(prototypes.count) if prototypes.count else None,
    )


def views(config: ConfigDict):
    """(key, uint8 images [B, H, W, C]) -> as many float views [B, h, w, C] as the pairs name; those of one size in one
    computation."""
    fields = {k: v for k, v in config.views.items() if k not in ("name", "small_size", "small_crop_scale")}
    count = len({view for pair in config.pairs for _, view in pair})
    small = count - 2 if config.views.get("small_size") else 0

    def alike(key: jax.Array, images: jax.Array, count: int, **fields) -> tuple[jax.Array, ...]:
        # All views of an image in neighbouring rows: a batch split over devices is not moved between them.
        rows = VIEWS[config.views.name](key, jnp.repeat(images, count, axis=0), **fields)
        rows = rows.reshape(len(images), count, *rows.shape[1:])
        return tuple(rows[:, i] for i in range(count))

    def make_views(key: jax.Array, images: jax.Array) -> tuple[jax.Array, ...]:
        made = alike(key, images, count - small, **fields)
        if small > 0:
            changed = {"size": config.views.small_size, "crop_scale": config.views.small_crop_scale}
            made += alike(jax.random.fold_in(key, 1), images, small, **fields | changed)
        return made

    return make_views


def view_shape(config: ConfigDict, image_shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """[1, h, w, C] of one view of images [N, H, W, C]."""
    size = config.views.get("size")
    height, width = (size, size) if size else image_shape[1:3]
    return (1, height, width, image_shape[3])


def plain_view(config: ConfigDict):
    """uint8 images [B, H, W, C] -> float views, nothing random, for evaluation."""
    return partial(augment.plain, mean=config.views.mean, std=config.views.std)


def probe_view(config: ConfigDict):
    """(key, uint8 images [B, H, W, C]) -> float views, with the published probe's crop and flip."""
    c = config.evaluate
    return partial(augment.probe_view, padding=c.padding, flip=c.flip, mean=config.views.mean, std=config.views.std)


def method(config: ConfigDict, steps_per_epoch: int) -> Method:
    """The method with its network, branches, views, objective and schedule."""
    total_steps = config.epochs * steps_per_epoch
    c = config.optimizer
    optimizer = OPTIMIZERS[c.name](
        learning_rate=c.learning_rate,
        momentum=c.momentum,
        weight_decay=c.weight_decay,
        decay_vectors=c.decay_vectors,
        warmup_steps=c.warmup_epochs * steps_per_epoch,
        total_steps=total_steps,
        final_learning_rate=c.final_learning_rate,
        constant_rate=c.constant_rate,
        frozen_prototype_steps=config.prototypes.frozen_epochs * steps_per_epoch if config.prototypes.count else None,
        **({"trust_coefficient": c.trust_coefficient} if c.name == "lars" else {}),
    )
    names = {branch for pair in config.pairs for branch, _ in pair}
    return Method(
        network=network(config),
        branches=branches.choose(names, config.prune.norms),
        pairs=config.pairs,
        make_views=views(config),
        objective=OBJECTIVES[config.objective.name](**_objective_fields(config, steps_per_epoch)),
        optimizer=optimizer,
        prune=lambda weights, key: pruning.magnitude_mask(
            weights, config.prune.rate, random_rate=config.prune.random_rate, key=key
        ),
        target_momentum=optim.target_momentum(
            start=config.target.momentum, end=config.target.final_momentum, total_steps=total_steps
        ),
    )


def abstract_state(config: ConfigDict, image_shape: tuple[int, ...], shardings: Shardings) -> State:
    """Shapes, types and shardings of the state of a run on images [N, H, W, C]: what restoring one takes."""
    shapes = jax.eval_shape(
        method(config, steps_per_epoch=1).init,
        jax.ShapeDtypeStruct((), jnp.uint32),
        jax.ShapeDtypeStruct(view_shape(config, image_shape), jnp.float32),
    )
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=shardings.replicated), shapes)


def try_step(config: ConfigDict, state: State, image_shape: tuple[int, ...]) -> None:
    """Trace one step from an abstract state, without running it: what only shows then is refused before anything is
    written.

    Raises:
        UserError: the fields of the views, the model or the objective do not fit each other or the images.
    """
    queue = config.objective.get("queue", 0)
    if queue >= image_shape[0]:
        raise UserError(
            f"objective.queue is {queue}, and there are {image_shape[0]} images: make it smaller, or images meet their "
            "own earlier embeddings in it"
        )
    batch = jax.ShapeDtypeStruct((config.batch_size, *image_shape[1:]), jnp.uint8)
    try:
        jax.eval_shape(method(config, steps_per_epoch=1).step, state, batch)
    except UserError:
        raise
    except (TypeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"views.name {config.views.name!r}, the model and the objective do not fit images of shape "
            f"{image_shape[1:]} or each other: {reason}"
        ) from error
