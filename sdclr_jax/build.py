"""From a config to objects: the only reader of a config's fields, and the place where bad values are refused."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from sdclr_jax import branches, pruning
from sdclr_jax.data import augment, batches, lists, longtail, sources
from sdclr_jax.data.sources import Examples
from sdclr_jax.errors import UserError
from sdclr_jax.models import RESNETS, STEMS, Network, Projector
from sdclr_jax.objectives import OBJECTIVES
from sdclr_jax.optim import OPTIMIZERS
from sdclr_jax.parallel import Shardings
from sdclr_jax.train import Method, State

VIEWS = {"digits": augment.digits_view, "simclr": augment.simclr_view}
SUBSETS = ("long_tail", "balanced", "probe_train")
DTYPES = ("float32", "bfloat16")


def check(config: ConfigDict) -> None:
    """Refuse what can be seen to be wrong without reading data.

    Raises:
        UserError: names the field, its value and what is accepted.
    """
    for field, value, known in (
        ("objective.name", config.objective.name, OBJECTIVES),
        ("model.name", config.model.name, RESNETS),
        ("model.stem", config.model.stem, STEMS),
        ("model.dtype", config.model.dtype, DTYPES),
        ("optimizer.name", config.optimizer.name, OPTIMIZERS),
        ("data.name", config.data.name, sources.DATASETS),
        ("data.subset", config.data.subset, SUBSETS),
        ("data.groups", config.data.groups, longtail.GROUP_RULES),
        ("views.name", config.views.name, VIEWS),
        ("prune.norms", config.prune.norms, ("private", "shared")),
    ):
        if value not in known:
            raise UserError(f"unknown {field} {value!r}: known are {', '.join(sorted(known))}")
    for field, value, low in (
        ("epochs", config.epochs, 1),
        ("batch_size", config.batch_size, 2),
        ("seed", config.seed, 0),
        ("log_every", config.log_every, 1),
        ("checkpoint_every", config.checkpoint_every, 1),
        ("keep_every", config.keep_every, 0),
        ("prune.every", config.prune.every, 0),
        ("model.width", config.model.width, 1),
        ("projector.layers", config.projector.layers, 1),
        ("projector.hidden", config.projector.hidden, 1),
        ("projector.out", config.projector.out, 1),
        ("optimizer.weight_decay", config.optimizer.weight_decay, 0),
        ("optimizer.warmup_epochs", config.optimizer.warmup_epochs, 0),
        ("evaluate.batch_size", config.evaluate.batch_size, 1),
        ("evaluate.sgd_batch_size", config.evaluate.sgd_batch_size, 1),
        ("evaluate.full_epochs", config.evaluate.full_epochs, 1),
        ("evaluate.few_shot_epochs", config.evaluate.few_shot_epochs, 1),
        ("evaluate.knn_k", config.evaluate.knn_k, 1),
        ("evaluate.padding", config.evaluate.padding, 0),
    ):
        if not value >= low:
            raise UserError(f"{field} is {value}: it must be at least {low}")
    for field, value in (
        ("objective.temperature", config.objective.temperature),
        ("optimizer.learning_rate", config.optimizer.learning_rate),
        ("evaluate.knn_temperature", config.evaluate.knn_temperature),
    ):
        if not value > 0:
            raise UserError(f"{field} is {value}: it must be above 0")
    rate, random_rate = config.prune.rate, config.prune.random_rate
    if not 0 <= rate < 1:
        raise UserError(f"prune.rate is {rate}: it must be at least 0 and below 1")
    if not 0 <= random_rate < 1 - rate:
        raise UserError(f"prune.random_rate is {random_rate}: it must be at least 0 and below 1 - prune.rate")
    if config.optimizer.warmup_epochs >= config.epochs:
        raise UserError(
            f"optimizer.warmup_epochs is {config.optimizer.warmup_epochs}: it must be below epochs, {config.epochs}"
        )
    for branch, view in (side for pair in config.pairs for side in pair):
        if branch not in branches.BRANCHES or view not in (0, 1):
            raise UserError(
                f"pairs names branch {branch!r} and view {view!r}: branches are {', '.join(branches.BRANCHES)}, "
                "views 0 and 1"
            )


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
    side = config.views.get("size", train.images.shape[1])
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
    return Data(train, test, subsets, sources.provenance(c.name, data_dir))


def network(config: ConfigDict) -> Network:
    """The encoder and its projector."""
    dtype = jnp.dtype(config.model.dtype)
    encoder = RESNETS[config.model.name](stem=config.model.stem, width=config.model.width, dtype=dtype)
    head = config.projector
    return Network(encoder, Projector(head.layers, head.hidden, head.out, dtype=dtype))


def views(config: ConfigDict):
    """(key, uint8 images [B, H, W, C]) -> two float views [B, h, w, C], in one computation."""
    view = partial(VIEWS[config.views.name], **{k: v for k, v in config.views.items() if k != "name"})

    def two_views(key: jax.Array, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        # Both views of an image in neighbouring rows: a batch split over devices is not moved between them.
        both = view(key, jnp.repeat(images, 2, axis=0)).reshape(len(images), 2, *_view_shape(config, images.shape)[1:])
        return both[:, 0], both[:, 1]

    return two_views


def _view_shape(config: ConfigDict, image_shape: tuple[int, ...]) -> tuple[int, int, int, int]:
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


class Run(NamedTuple):
    """What `pretrain` needs: the method, its batches and the numbers of the schedule."""

    method: Method
    batches: batches.Resident
    view_shape: tuple[int, int, int, int]  # [1, h, w, C]
    total_steps: int
    refresh_every: int  # steps
    checkpoint_every: int  # steps
    keep_every: int  # steps; 0 for none

    def abstract_state(self, shardings: Shardings) -> State:
        """Shapes, types and shardings of the state, which is what restoring one takes."""
        shapes = jax.eval_shape(
            self.method.init, jax.ShapeDtypeStruct((), jnp.uint32), jax.ShapeDtypeStruct(self.view_shape, jnp.float32)
        )
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=shardings.replicated), shapes)


def run(config: ConfigDict, images: np.ndarray, shardings: Shardings) -> Run:
    """Put a pretraining run together on images uint8 [N, H, W, C]."""
    source = batches.Resident(images, config.batch_size, config.seed, shardings)
    epoch = source.steps_per_epoch
    c = config.optimizer
    optimizer = OPTIMIZERS[c.name](
        learning_rate=c.learning_rate,
        momentum=c.momentum,
        weight_decay=c.weight_decay,
        warmup_steps=c.warmup_epochs * epoch,
        total_steps=config.epochs * epoch,
        final_learning_rate=c.final_learning_rate,
    )
    names = {branch for pair in config.pairs for branch, _ in pair}
    objective = OBJECTIVES[config.objective.name](**{k: v for k, v in config.objective.items() if k != "name"})
    method = Method(
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
    return Run(
        method=method,
        batches=source,
        view_shape=_view_shape(config, images.shape),
        total_steps=config.epochs * epoch,
        refresh_every=config.prune.every or epoch,
        checkpoint_every=config.checkpoint_every * epoch,
        keep_every=config.keep_every * epoch,
    )
