"""From a config to the objects that evaluate its run."""

import pathlib
from collections.abc import Callable

import numpy as np
from ml_collections import ConfigDict

from sdclr_jax.data.images import Encoded, as_images
from sdclr_jax.data.subsets import longtail
from sdclr_jax.errors import ArgumentError, UserError, renamed
from sdclr_jax.evaluation import protocols as evaluation
from sdclr_jax.evaluation.frozen import FrozenEncoder
from sdclr_jax.evaluation.frozen_features import FrozenFeatures
from sdclr_jax.evaluation.online import OnlineProbe
from sdclr_jax.evaluation.protocols import Protocol
from sdclr_jax.evaluation.pruning_probe import RATES, PruningProbe
from sdclr_jax.evaluation.views import ProbeViews
from sdclr_jax.parallel import Shardings
from sdclr_jax.recipes.encoders import model_of_encoder
from sdclr_jax.recipes.examples import Data
from sdclr_jax.recipes.images import centre_crop, plain_view, probe_crops, shared_batch_size
from sdclr_jax.recipes.methods import method, network
from sdclr_jax.recipes.sizes import check_evaluated
from sdclr_jax.trees import Tree

PARTS = ("probe_train", "few_shot", "validation", "long_tail")  # subsets whose labels protocols see
_NO_VALIDATION = (
    ", as no class has five to train on, of which a fifth would be kept: add images, or put some into `val` and some "
    "into `test`"
)

_SGD = {"learning_rate": "sgd_learning_rate", "batch_size": "sgd_batch_size", "augment": "augment"}
_FINE_TUNING = {name: f"fine_tune_{name}" for name in ("batch_size", "learning_rate", "head_learning_rate")}
# Settings of protocols that config.evaluate has fields for; protocols of their authors have none.
FIELDS: dict[str, dict[str, str]] = {
    "linear_full": _SGD | {"epochs": "full_epochs", "drops": "full_drops"},
    "linear_few_shot": _SGD | {"epochs": "few_shot_epochs", "drops": "few_shot_drops"},
    "logistic": {"l2_tried": "logistic_l2"},
    "knn": {"k": "knn_k", "temperature": "knn_temperature"},
    "fine_tune_1": _FINE_TUNING,
    "fine_tune_10": _FINE_TUNING,
}
FINE_TUNE_EPOCHS = ("fine_tune_1", "fine_tune_10")  # whose epochs are the values of one field


def frozen_encoder(config: ConfigDict, shardings: Shardings) -> FrozenEncoder:
    """The encoder as evaluation sees it."""
    with renamed({"batch_size": "evaluate.batch_size"}):
        return FrozenEncoder(
            network(config).encoder,
            mean=config.views.mean,
            std=config.views.std,
            crop=centre_crop(config),
            batch_size=config.evaluate.batch_size,
            workers=config.data.workers,
            shardings=shardings,
        )


def probe_views(config: ConfigDict, images: np.ndarray | Encoded) -> ProbeViews:
    """Views that probes are trained on, of images of this kind."""
    return ProbeViews(
        mean=config.views.mean,
        std=config.views.std,
        padding=config.evaluate.padding,
        flip=config.evaluate.flip,
        crops=None if as_images(images).is_decoded else probe_crops(config),
        workers=config.data.workers,
        seed=config.seed,
    )


def frozen_features(
    config: ConfigDict, variables: Tree, data: Data, shardings: Shardings, folder: pathlib.Path | None = None
) -> FrozenFeatures:
    """The data set under the encoder with these variables; features are kept in `folder`.

    Raises:
        UserError: there is no memory for a batch of the images.
    """
    check_evaluated(config, data.train.images)
    return FrozenFeatures(
        frozen_encoder(config, shardings),
        variables,
        data.train,
        data.test,
        {part: getattr(data.subsets, part) for part in PARTS},
        views=probe_views(config, data.train.images),
        seed=config.seed,
        folder=folder,
        model=model_of_encoder(config),
    )


def groups(config: ConfigDict, data: Data) -> tuple[str, ...]:
    """many, medium or few for each class."""
    return longtail.groups(data.subsets.train_counts, config.data.groups)


def protocol(config: ConfigDict, name: str) -> Protocol:
    """A protocol with the config's settings."""
    settings = {argument: config.evaluate[field] for argument, field in FIELDS.get(name, {}).items()}
    if name in FINE_TUNE_EPOCHS:
        settings["epochs"] = config.evaluate.fine_tune_epochs[FINE_TUNE_EPOCHS.index(name)]
    return evaluation.PROTOCOLS[name].replace(**settings)


def protocols(config: ConfigDict, data: Data) -> dict[str, Protocol]:
    """The protocols of `evaluate.protocols` that are defined for the data set, in the order of the table.

    Raises:
        UserError: none is left; a class has fewer labelled images than one asks for; there are no test or validation
            images.
    """
    in_order = sorted(config.evaluate.protocols, key=[*evaluation.PROTOCOLS].index)
    wanted = {name: protocol(config, name) for name in in_order}
    for name, each in wanted.items():
        if each.train not in PARTS:
            raise UserError(f"the protocol {name} trains on {each.train!r}: it must be one of {', '.join(PARTS)}")
    if not len(data.subsets.validation):
        raise UserError(f"{config.data.name} has no images for validation{_NO_VALIDATION}")
    if "knn" in wanted and config.evaluate.knn_k > (labelled := len(data.subsets.probe_train)):
        raise UserError(
            f"evaluate.knn_k is {config.evaluate.knn_k}: there are {labelled} labelled images to choose neighbours from"
        )
    with renamed({"protocols": "evaluate.protocols", "test": f"the test part of {config.data.name}"}):
        return evaluation.suited(
            wanted, lambda part: data.part(part).targets, data.test.targets, data.train.class_names
        )


def protocol_arguments(name: str) -> dict[str, str]:
    """The fields that a protocol's arguments come from, for `errors.renamed`."""
    named = {argument: f"evaluate.{field}" for argument, field in FIELDS.get(name, {}).items()}
    others = {
        "l2": "evaluate.logistic_l2",
        "labels": "the labels of test or validation images",
        "validation_labels": "the labels of validation images",
    }
    return named | others


def online_probe(config: ConfigDict, data: Data, shardings: Shardings) -> OnlineProbe:
    """What is measured of a run with `evaluate.every` above 0: neighbours and a fast linear probe.

    Raises:
        UserError: the images have no labels, those for validation have no attribute, or there is no memory for a batch
            of them.
    """
    c = config.evaluate
    if not data.train.class_names:
        raise UserError(
            f"evaluate.every is {c.every}, but {config.data.name} has no labels to measure by while pretraining: "
            "set it to 0"
        )
    train, validation = data.part("probe_train"), data.part("validation")
    if not len(validation.ids):
        raise UserError(
            f"evaluate.every is {c.every}, but {config.data.name} has no images for validation{_NO_VALIDATION}, or set "
            "it to 0"
        )
    if validation.targets.has_attributes and not validation.labels.any():
        raise UserError(
            f"evaluate.every is {c.every}, but no validation image of {config.data.name} has an attribute to measure "
            "by while pretraining: set it to 0"
        )
    check_evaluated(config, data.train.images)
    count = min(len(train.labels), c.live_images)
    neighbours = protocol(config, "knn")
    return OnlineProbe(
        frozen_encoder(config, shardings),
        # Evenly spaced over all of them, which may lie class by class.
        train.take(np.arange(count) * len(train.labels) // count),
        validation,
        groups=groups(config, data),
        protocols={"knn": neighbours.replace(k=min(neighbours.k, count)), "probe": protocol(config, "ridge")},
    )


def check_against(config: ConfigDict, against: str, rates: tuple[float, ...] | None = None) -> None:
    """Raises UserError where the run has no sparse branch to hold against, or one of another rate.

    Args:
        config: of the run.
        against: one of `evaluation.pruning_probe.AGAINST`.
        rates: those that were asked for; None where none was.
    """
    if against != "sparse":
        return
    if not method(config, steps_per_epoch=1).damaged:
        raise UserError(f"against is 'sparse': {config.method} has no sparse branch, so take 'recalibrated'")
    if rates not in (None, (own := config.prune.rate,)):
        raise ArgumentError("rates", f"is {rates}: the sparse branch has one rate, {own:g}, so leave this out")


def pruning_probe(
    config: ConfigDict,
    pixels: Callable[[np.ndarray], np.ndarray],
    size: int,
    *,
    rates: tuple[float, ...] | None,
    pairs: int,
    against: str,
    shardings: Shardings,
    progress: bool = False,
) -> PruningProbe:
    """What pruning changes in a run's network, on its own views; arguments as those of `PruningProbe`. Without rates,
    those are cut that its sparse branch has, where it is held against that, or else `RATES`."""
    check_against(config, against, rates)
    built = method(config, steps_per_epoch=1)
    two_views = {view for pair in config.pairs for _, view in pair} == {0, 1}
    return PruningProbe(
        built.network,
        built.branches,
        plain_view=plain_view(config),
        make_views=built.make_views,
        pixels=pixels,
        size=size,
        rates=(config.prune.rate,) if against == "sparse" else rates or RATES,
        pairs=pairs,
        against=against,
        batch_size=shared_batch_size(config, size, shardings),
        seed=config.seed,
        temperature=config.objective.temperature if config.objective.name == "nt_xent" and two_views else None,
        shardings=shardings,
        progress=progress,
    )
