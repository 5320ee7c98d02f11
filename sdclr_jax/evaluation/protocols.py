"""Every protocol of `sdclr evaluate`, by name: which images probe a frozen encoder, how, and after whom."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from sdclr_jax import recipes, records
from sdclr_jax.data.subsets import longtail
from sdclr_jax.errors import UserError
from sdclr_jax.evaluation import features, finetune, finetuning, knn, probe
from sdclr_jax.evaluation.frozen import encoder_variables
from sdclr_jax.evaluation.frozen_features import FrozenFeatures, Labelled


class Found(NamedTuple):
    """What a protocol measured: a score a class, how it did on validation images, and what it chose by them."""

    per_class: np.ndarray  # float64 [C], NaN where a class has no score
    validation_score: float | None = None
    chosen: dict = {}


class Protocol(NamedTuple):
    train: str  # the part of the training images whose labels it sees
    measure: Callable[[FrozenFeatures, Labelled, dict], Found]
    settings: Callable[[ConfigDict], dict]  # of config.evaluate; all that it does but for what validation chooses
    says: str  # in a few words, for help and reports
    of_attributes: bool = False  # whether it is defined where an image has attributes


def _sgd(frozen: FrozenFeatures, train: Labelled, settings: dict) -> Found:
    with frozen.features_of(train) as features_of:
        fitted = probe.sgd(
            features_of,
            train.labels,
            frozen.validation.features,
            frozen.validation.labels,
            num_classes=frozen.num_classes,
            epochs=settings["epochs"],
            drops=settings["drops"],
            learning_rate=settings["learning_rate"],
            batch_size=settings["batch_size"],
            seed=frozen.config.seed,
        )
    predictions = probe.predict(frozen.test.features, fitted.kernel, fitted.bias)
    chosen = frozen.augmentation() | {"best_epoch": fitted.best_epoch}
    return Found(frozen.per_class(predictions), fitted.validation_accuracy, chosen)


def _sgd_settings(c: ConfigDict, epochs: int, drops: tuple[int, ...]) -> dict:
    return {
        "epochs": epochs,
        "drops": list(drops),
        "learning_rate": c.sgd_learning_rate,
        "momentum": probe.MOMENTUM,
        "weight_decay": 0.0,
        "batch_size": c.sgd_batch_size,
    }


def _logistic(frozen: FrozenFeatures, train: Labelled, settings: dict) -> Found:
    fitted = probe.logistic(
        train.features,
        train.labels,
        frozen.validation.features,
        frozen.validation.labels,
        num_classes=frozen.num_classes,
        l2=settings["l2_tried"],
    )
    predict = probe.logits if frozen.has_attributes else probe.predict
    predictions = predict(frozen.test.features, fitted.kernel, fitted.bias)
    best = fitted.best._asdict()
    return Found(frozen.per_class(predictions), best.pop("validation_score"), best)


def _neighbours(frozen: FrozenFeatures, train: Labelled, settings: dict) -> Found:
    given = train.features, train.labels, frozen.test.features
    vote = {"k": settings["k"], "temperature": settings.get("temperature", math.inf)}
    if frozen.has_attributes:
        return Found(frozen.per_class(knn.share(*given, **vote)))
    return Found(frozen.per_class(knn.predict(*given, num_classes=frozen.num_classes, **vote)))


def _adam(frozen: FrozenFeatures, train: Labelled, settings: dict) -> Found:
    fit = {name: settings[name] for name in ("epochs", "batch_size", "learning_rate", "final_learning_rate")}
    per_class = []
    for draw, rows in enumerate(_draws(frozen, train, settings)):
        drawn = train.take(rows)
        weights = probe.adam(
            drawn.features,
            drawn.labels,
            num_classes=frozen.num_classes,
            seed=frozen.config.seed + draw,
            weight_decay=settings["weight_decay"],
            **fit,
        )
        per_class.append(frozen.per_class(probe.predict(frozen.test.features, *weights)))
    all_of_draws = [float(np.mean(scored)) for scored in per_class]
    return Found(np.mean(per_class, axis=0), chosen={"images": len(drawn.labels), "all_of_draws": all_of_draws})


def _draws(frozen: FrozenFeatures, train: Labelled, settings: dict) -> list[np.ndarray]:
    """Rows of each draw of so many images a class; all rows, once, where all are trained on."""
    if settings["images_per_class"] == "all":
        return [np.arange(len(train.labels))]
    counts = np.full(frozen.num_classes, settings["images_per_class"])
    draws = range(1, settings["draws"] + 1)  # the authors' lists are numbered from 1 as well
    return [longtail.first_of_classes(train.labels, None, counts, seed) for seed in draws]


def _adam_settings(images_per_class: int | str, draws: int = 5) -> dict:
    return {
        "images_per_class": images_per_class,
        "draws": draws,
        "optimizer": "adam",
        "epochs": 500,
        "batch_size": 1000,
        "learning_rate": 1e-2,
        "final_learning_rate": 1e-6,
        "weight_decay": 5e-6,
    }


def _svm(frozen: FrozenFeatures, train: Labelled, settings: dict) -> Found:
    from sklearn.svm import LinearSVC  # takes a second, which other protocols need not wait for

    if settings["images_per_class"] == "of_rarest":
        fewest = np.bincount(train.labels, minlength=frozen.num_classes).min()
        counts = np.full(frozen.num_classes, fewest)
        train = train.take(longtail.first_of_classes(train.labels, None, counts, frozen.config.seed))
    fitted = LinearSVC(C=settings["C"], loss=settings["loss"], max_iter=10_000, random_state=frozen.config.seed)
    fitted.fit(np.asarray(features.unit(train.features)), train.labels)
    predictions = fitted.predict(np.asarray(features.unit(frozen.test.features)))
    chosen = {"images": len(train.labels), "iterations": int(np.max(fitted.n_iter_))}
    return Found(frozen.per_class(predictions), chosen=chosen)


def _svm_settings(images_per_class: str) -> dict:
    return {"images_per_class": images_per_class, "features": "unit", "C": 1.0, "loss": "squared_hinge"}


def _fine_tuned(frozen: FrozenFeatures, train: Labelled, settings: dict) -> Found:
    fitted, taken = finetuning.fine_tune(
        frozen.config,
        frozen.variables,
        frozen.encoder,
        frozen.shardings,
        train.examples,
        frozen.decoded_validation,
        settings,
    )
    tuned = frozen.encoder.features(encoder_variables(fitted.variables), frozen.test.examples.images)
    predictions = probe.predict(tuned, fitted.kernel, fitted.bias)
    return Found(frozen.per_class(predictions), fitted.validation_accuracy, taken)


def _fine_tune_settings(c: ConfigDict, share: float, epochs: int) -> dict:
    return {
        "share": share,
        "epochs": epochs,
        "batch_size": c.fine_tune_batch_size,
        "learning_rate": c.fine_tune_learning_rate,
        "head_learning_rate": c.fine_tune_head_learning_rate,
        "momentum": finetune.MOMENTUM,
        "nesterov": True,
        "weight_decay": 0.0,
    }


# The first two are of Jiang et al., ICML 2021 (supplement). `bcl` is Zhou et al., ICML 2022, after their eval_cifar.py
# and test.py; `ts` is Kukleva et al., ICLR 2023, after their notebooks, but for features of the training images, which
# they take of random crops and flips, and we of the images as they are. `fine_tune` is Chen et al., ICML 2020, appendix
# B.5.
PROTOCOLS = {
    "linear_full": Protocol(
        "probe_train",
        _sgd,
        lambda c: _sgd_settings(c, c.full_epochs, c.full_drops),
        "linear, all labels: SGD on crops and flips",
    ),
    "linear_few_shot": Protocol(
        "few_shot",
        _sgd,
        lambda c: _sgd_settings(c, c.few_shot_epochs, c.few_shot_drops),
        "linear, few labels: SGD on crops and flips",
    ),
    "logistic": Protocol(
        "probe_train",
        _logistic,
        lambda c: {"l2_tried": list(c.logistic_l2)},
        "logistic regression on fixed features, to its minimum",
        of_attributes=True,
    ),
    "knn": Protocol(
        "probe_train",
        _neighbours,
        lambda c: {"k": c.knn_k, "temperature": c.knn_temperature},
        "weighted nearest neighbours among all labelled images",
        of_attributes=True,
    ),
    "bcl_full": Protocol(
        "probe_train", _adam, lambda c: _adam_settings("all", draws=1), "linear on fixed features, all labels: Adam"
    ),
    "bcl_100_shot": Protocol(
        "probe_train", _adam, lambda c: _adam_settings(100), "the same, 100 labels a class, mean of five draws"
    ),
    "bcl_50_shot": Protocol(
        "probe_train", _adam, lambda c: _adam_settings(50), "the same, 50 labels a class, mean of five draws"
    ),
    "bcl_10_shot": Protocol(
        "probe_train", _adam, lambda c: _adam_settings(10), "the same, 10 labels a class, mean of five draws"
    ),
    "ts_knn_1": Protocol(
        "long_tail", _neighbours, lambda c: {"k": 1, "vote": "majority"}, "the nearest neighbour in the long tail"
    ),
    "ts_knn_10": Protocol(
        "long_tail", _neighbours, lambda c: {"k": 10, "vote": "majority"}, "ten nearest neighbours in the long tail"
    ),
    "ts_few_shot": Protocol(
        "long_tail",
        _svm,
        lambda c: _svm_settings("of_rarest"),
        "linear SVM, of each class as many labels as the rarest has",
    ),
    "ts_long_tail": Protocol(
        "long_tail", _svm, lambda c: _svm_settings("all"), "linear SVM on the long tail with its labels"
    ),
    "fine_tune_1": Protocol(
        "probe_train",
        _fine_tuned,
        lambda c: _fine_tune_settings(c, 0.01, c.fine_tune_epochs[0]),
        "the whole encoder fine-tuned on 1 % of the labels",
    ),
    "fine_tune_10": Protocol(
        "probe_train",
        _fine_tuned,
        lambda c: _fine_tune_settings(c, 0.1, c.fine_tune_epochs[1]),
        "the same on 10 % of the labels",
    ),
}


def check_names(config: ConfigDict) -> None:
    """Refuse an unknown protocol, as soon as a run is started.

    Raises:
        UserError: lists the known ones.
    """
    for name in config.evaluate.protocols:
        if name not in PROTOCOLS:
            raise UserError(f"unknown evaluate.protocols {name!r}: known are {', '.join(PROTOCOLS)}")


def chosen(config: ConfigDict, data: recipes.Data) -> dict[str, Protocol]:
    """The protocols of `evaluate.protocols`, in the order of the table; those of classes alone only where there are
    classes.

    Raises:
        UserError: an unknown protocol; none that is left; a class with fewer labelled images than one asks for, or
            without test images.
    """
    check_names(config)
    wanted = config.evaluate.protocols
    attributes = data.test.labels.ndim == 2
    found = {name: p for name, p in PROTOCOLS.items() if name in wanted and (p.of_attributes or not attributes)}
    if not found:
        of_attributes = ", ".join(name for name, p in PROTOCOLS.items() if p.of_attributes)
        raise UserError(
            f"evaluate.protocols is {wanted}, of which none is defined for {config.data.name}"
            f"{', whose images have attributes' if attributes else ''}: give one or more of "
            f"{of_attributes if attributes else ', '.join(PROTOCOLS)}"
        )
    if not attributes:
        tested = np.bincount(data.test.labels, minlength=len(data.train.class_names))
        if empty := [name for name, count in zip(data.train.class_names, tested, strict=True) if not count]:
            raise UserError(
                f"{config.data.name} has no test images of {', '.join(empty)}, so a mean over its classes is not "
                "defined: put some among its test images, or leave the class out"
            )
    for name, protocol in found.items():
        needed = protocol.settings(config.evaluate).get("images_per_class")
        if not isinstance(needed, int):
            continue
        counts = np.bincount(data.part(protocol.train).labels, minlength=len(data.train.class_names))
        if (fewest := counts.min()) < needed:
            raise UserError(
                f"{name} trains on {needed} images of each class, and the smallest has {fewest} in {protocol.train}: "
                "leave it out of evaluate.protocols"
            )
    return found


def measure(name: str, protocol: Protocol, frozen: FrozenFeatures) -> dict:
    """What results.json says of a protocol: settings, and scores by class and group."""
    train = frozen.parts[protocol.train]
    settings = protocol.settings(frozen.config.evaluate)
    found = protocol.measure(frozen, train, settings)
    metric = "average_precision" if frozen.has_attributes else "accuracy"
    return {
        "metric": metric,
        "settings": {"train": protocol.train, "images": len(train.labels)} | settings | found.chosen,
        "per_class": [None if np.isnan(x) else float(x) for x in found.per_class],
        **records.summary(found.per_class, frozen.groups),
        f"validation_{metric}": found.validation_score,
    }
