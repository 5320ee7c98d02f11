"""From a config to objects: the only reader of a config's fields, and the place where bad values are refused."""

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from sdclr_jax import branches, pruning
from sdclr_jax.data import augment, lists, longtail, sources
from sdclr_jax.data.batches import Resident, Streamed
from sdclr_jax.data.crops import CentreCrop, RandomCrops
from sdclr_jax.data.images import Encoded
from sdclr_jax.data.sources import Examples
from sdclr_jax.errors import UserError
from sdclr_jax.models import RESNETS, STEMS, Network, Projector
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
    "optimizer.name": OPTIMIZERS,
    "data.name": sources.DATASETS,
    "data.subset": ("long_tail", "balanced", "probe_train"),
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
    "prune.rate": 0,
    "prune.random_rate": 0,
    "prune.every": 0,
    "model.width": 1,
    "projector.layers": 1,
    "projector.hidden": 1,
    "projector.out": 1,
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
}
ABOVE = {
    "objective.temperature": 0,
    "optimizer.learning_rate": 0,
    "evaluate.sgd_learning_rate": 0,
    "evaluate.knn_temperature": 0,
}
BELOW = {"prune.rate": 1, "optimizer.momentum": 1, "evaluate.flip": 1 + 1e-9, "seed": 2**32}


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
    for field, low in AT_LEAST.items():
        if not values[field] >= low:
            high = f" and below {BELOW[field]}" if field in BELOW else ""
            raise UserError(f"{field} is {values[field]}: it must be at least {low}{high}")
    for field, low in ABOVE.items():
        if not values[field] > low:
            raise UserError(f"{field} is {values[field]}: it must be above {low}")
    for field, high in BELOW.items():
        if not values[field] < high:
            raise UserError(f"{field} is {values[field]}: it must be at least {AT_LEAST[field]} and below {high:g}")
    if not config.prune.random_rate < 1 - config.prune.rate:
        raise UserError(f"prune.random_rate is {config.prune.random_rate}: it must be below 1 - prune.rate")
    if config.optimizer.warmup_epochs >= config.epochs:
        raise UserError(
            f"optimizer.warmup_epochs is {config.optimizer.warmup_epochs}: it must be below epochs, {config.epochs}"
        )
    c = config.evaluate
    if not c.logistic_l2 or min(c.logistic_l2) <= 0:
        raise UserError(f"evaluate.logistic_l2 is {c.logistic_l2}: give at least one value, all above 0")
    low, high = c.crop_scale if len(c.crop_scale) == 2 else (0, 0)
    if not 0 < low <= high <= 1:
        raise UserError(
            f"evaluate.crop_scale is {c.crop_scale}: it must be two numbers above 0 and at most 1, the smaller first"
        )
    if c.resize < c.crop:
        raise UserError(f"evaluate.resize is {c.resize}: it must be at least evaluate.crop, {c.crop}")
    sides = [(branch, view) for branch in branches.BRANCHES for view in (0, 1)]
    if not config.pairs or any(len(pair) != 2 or any(side not in sides for side in pair) for pair in config.pairs):
        raise UserError(
            f"pairs is {config.pairs}: it must be one or more pairs of (branch, view), such as "
            f"((('dense', 0), ('sparse', 1)),), of the branches {', '.join(branches.BRANCHES)} and the views 0 and 1"
        )


def fields(config: ConfigDict, prefix: str = "") -> dict[str, object]:
    """The fields of a config by their full names, `prune.rate`."""
    named = {}
    for name, value in config.items():
        named |= fields(value, f"{prefix}{name}.") if isinstance(value, ConfigDict) else {prefix + name: value}
    return named


class Data(NamedTuple):
    """A data set's splits, the subsets of `train`, and what the data set was made from (`sources.provenance`)."""

    train: Examples
    test: Examples
    subsets: longtail.Subsets
    provenance: dict[str, Any] | None

    def part(self, subset: str) -> Examples:
        """The examples of a subset of `train`."""
        rows = getattr(self.subsets, subset)
        images, labels, ids, names = self.train
        return Examples(images[rows], labels[rows], ids[rows], names)


def data(config: ConfigDict, data_dir: str | None) -> Data:
    """Load the data set, and read its subsets from `data.lists`, or draw them where that is empty.

    Raises:
        UserError: unknown data set; lists that are not of it; a profile that the data set cannot fill; a stem too
            coarse for its images.
    """
    c = config.data
    # Before anything is read or prepared; the same call that `draw` makes below.
    longtail.class_counts(c.n_max, c.imbalance, 2)
    files = lists.find(c.lists, c.name, c.split) if c.lists else None
    train, test = (sources.load(c.name, split, data_dir) for split in ("train", "test"))
    if isinstance(train.images, Encoded) and "size" not in config.views:
        raise UserError(
            f"views.name is {config.views.name!r}, which needs images of one size, and those of {c.name} have many: "
            "set views.name to 'simclr'"
        )
    side = config.views.get("size") or train.images.shape[1]
    if config.model.stem == "imagenet" and side < 64:
        raise UserError(
            f"model.stem is 'imagenet', which leaves {side} x {side} images of {c.name} with {-(-side // 4)} x "
            f"{-(-side // 4)} places after the stem: set model.stem to 'cifar'"
        )
    if files:
        subsets = lists.subsets(files, train, name=c.name, n_max=c.n_max, imbalance=c.imbalance)
    else:
        subsets = longtail.draw(
            train.labels,
            num_classes=len(train.class_names),
            n_max=c.n_max,
            imbalance=c.imbalance,
            validation_per_class=c.validation_per_class,
            few_shot_per_class=c.few_shot_per_class,
            seed=c.split,
        )
    if config.evaluate.knn_k > len(subsets.probe_train):
        raise UserError(
            f"evaluate.knn_k is {config.evaluate.knn_k}: there are {len(subsets.probe_train)} labelled images to "
            "choose neighbours from"
        )
    return Data(train, test, subsets, sources.provenance(c.name, data_dir))


def network(config: ConfigDict) -> Network:
    """The encoder and its projector."""
    dtype = jnp.dtype(config.model.dtype)
    encoder = RESNETS[config.model.name](stem=config.model.stem, width=config.model.width, dtype=dtype)
    head = config.projector
    return Network(encoder, Projector(head.layers, head.hidden, head.out, dtype=dtype))


def batches(config: ConfigDict, images: np.ndarray | Encoded, shardings: Shardings) -> Resident | Streamed:
    """The batches of a run: taken from images on the devices, or decoded and cropped as they are needed.

    Raises:
        UserError: batch_size does not fit the images or the devices.
    """
    if not isinstance(images, Encoded):
        return Resident(images, config.batch_size, config.seed, shardings)
    c = config.views
    crops = RandomCrops(count=2, size=c.size, scale=c.crop_scale, ratio=c.crop_ratio, seed=config.seed)
    workers = {"workers": config.data.workers, "prefetch": config.data.prefetch}
    return Streamed(images, config.batch_size, config.seed, shardings, crops=crops, **workers)


def image_shape(config: ConfigDict, images: np.ndarray | Encoded) -> tuple[int, ...]:
    """[N, H, W, C] of images, or [N, 2, S, S, 3] of the random crops that are made of encoded ones."""
    return (len(images), 2, config.views.size, config.views.size, 3) if isinstance(images, Encoded) else images.shape


def views(config: ConfigDict):
    """(key, uint8 images [B, H, W, C], or random crops [B, 2, S, S, C] of them) -> two float views [B, h, w, C], in one
    computation."""
    view = partial(VIEWS[config.views.name], **{k: v for k, v in config.views.items() if k != "name"})

    def two_views(key: jax.Array, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        # Both views of an image in neighbouring rows: a batch split over devices is not moved between them.
        if images.ndim == 5:
            both = view(key, images.reshape(-1, *images.shape[2:]), cropped=True)
        else:
            both = view(key, jnp.repeat(images, 2, axis=0))
        both = both.reshape(len(images), 2, *both.shape[1:])
        return both[:, 0], both[:, 1]

    return two_views


def view_shape(config: ConfigDict, image_shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """[1, h, w, C] of one view of images [N, H, W, C], or of crops [N, 2, S, S, C]."""
    size = config.views.get("size")
    height, width = (size, size) if size else image_shape[-3:-1]
    return (1, height, width, image_shape[-1])


def plain_view(config: ConfigDict):
    """uint8 images [B, H, W, C] -> float views, nothing random, for evaluation."""
    return partial(augment.plain, mean=config.views.mean, std=config.views.std)


def probe_view(config: ConfigDict, cropped: bool = False):
    """(key, uint8 images [B, H, W, C]) -> float views, with the published probe's crop and flip; of images that are
    random crops already, with a flip alone."""
    c = config.evaluate
    padding = 0 if cropped else c.padding
    return partial(augment.probe_view, padding=padding, flip=c.flip, mean=config.views.mean, std=config.views.std)


def centre_crop(config: ConfigDict) -> CentreCrop:
    """What is evaluated of an encoded image."""
    return CentreCrop(size=config.evaluate.crop, resize=config.evaluate.resize)


def probe_crops(config: ConfigDict) -> RandomCrops:
    """What the probe trains on of an encoded image: torchvision's RandomResizedCrop, as in the authors' code."""
    c = config.evaluate
    return RandomCrops(count=1, size=c.crop, scale=c.crop_scale, ratio=(3 / 4, 4 / 3), seed=config.seed)


def method(config: ConfigDict, steps_per_epoch: int) -> Method:
    """The method with its network, branches, views, objective and schedule."""
    c = config.optimizer
    optimizer = OPTIMIZERS[c.name](
        learning_rate=c.learning_rate,
        momentum=c.momentum,
        weight_decay=c.weight_decay,
        warmup_steps=c.warmup_epochs * steps_per_epoch,
        total_steps=config.epochs * steps_per_epoch,
        final_learning_rate=c.final_learning_rate,
    )
    names = {branch for pair in config.pairs for branch, _ in pair}
    objective = OBJECTIVES[config.objective.name](**{k: v for k, v in config.objective.items() if k != "name"})
    return Method(
        network=network(config),
        branches=branches.choose(names, config.prune.norms),
        pairs=config.pairs,
        make_views=views(config),
        objective=objective,
        optimizer=optimizer,
        prune=lambda weights, key: pruning.magnitude_mask(
            weights, config.prune.rate, random_rate=config.prune.random_rate, key=key
        ),
    )


def abstract_state(config: ConfigDict, image_shape: tuple[int, ...], shardings: Shardings) -> State:
    """Shapes, types and shardings of the state of a run on images of `image_shape`: what restoring one takes."""
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
    batch = jax.ShapeDtypeStruct((config.batch_size, *image_shape[1:]), jnp.uint8)
    try:
        jax.eval_shape(method(config, steps_per_epoch=1).step, state, batch)
    except UserError:
        raise
    except (TypeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"views.name {config.views.name!r}, the model and the objective do not fit images of shape "
            f"{image_shape[-3:]} or each other: {reason}"
        ) from error
