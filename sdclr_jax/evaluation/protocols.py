"""Every way to score frozen features, by name: which images it learns from, how, and after whom.

A protocol of your own is a subclass of `Protocol` and a row of `PROTOCOLS`:

    @dataclass(frozen=True, kw_only=True)
    class Centroids(Protocol):
        def measure(self, splits):
            train, test = splits.train, splits.test
            one_hot = train.targets.one_hot()  # [N, C]
            means = one_hot.T @ train.features / one_hot.sum(axis=0)[:, None]
            nearness = test.features @ means.T - (means**2).sum(axis=1) / 2  # highest where the distance is least
            return Found(test.targets.per_class(test.targets.decide(nearness)))

    PROTOCOLS["centroids"] = Centroids(says="the nearest class mean")
"""

import json
import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from sdclr_jax import records
from sdclr_jax.data.targets import Targets
from sdclr_jax.errors import ArgumentError, first_ones
from sdclr_jax.evaluation.frozen_features import Splits
from sdclr_jax.evaluation.protocol_kinds import (
    FineTuning,
    Found,
    LinearAdam,
    LinearSgd,
    LinearSvm,
    Logistic,
    Neighbours,
    Protocol,
    Ridge,
)
from sdclr_jax.records import Score

__all__ = ["PROTOCOLS", "Found", "Protocol", "measure", "suited"]
LOG = logging.getLogger(__name__)

_MAJORITY = Neighbours(train="long_tail", temperature=math.inf, of_attributes=False)

# The first two are of Jiang et al., ICML 2021 (supplement). `bcl` is Zhou et al., ICML 2022, after their eval_cifar.py
# and test.py; `ts` is Kukleva et al., ICLR 2023, after their notebooks, but for features of the training images, which
# they take of random crops and flips, and we of the images as they are. `fine_tune` is Chen et al., ICML 2020, appendix
# B.5. `ridge` is ours, for curves while a run trains. `train_cifar_*` and `train_imagenet_*` are Jiang et al. again, as
# their two scripts and the commands in cmds/shell_scrips have it: train_cifar.py moves its schedule before an epoch, so
# that the rate falls one epoch sooner; the epoch is chosen among those that are validated, on ImageNet by the five
# likeliest classes.
PROTOCOLS: dict[str, Protocol] = {
    "linear_full": LinearSgd(says="linear, all labels: SGD on crops and flips"),
    "linear_few_shot": LinearSgd(
        train="few_shot", epochs=100, drops=(40, 60), says="linear, few labels: SGD on crops and flips"
    ),
    "train_cifar_full": LinearSgd(drops=(9, 19), says="as SDCLR's train_cifar.py does linear_full"),
    "train_cifar_few_shot": LinearSgd(
        train="few_shot",
        epochs=100,
        drops=(39, 59),
        choose_every=5,
        says="as SDCLR's train_cifar.py does linear_few_shot",
    ),
    "train_imagenet_full": LinearSgd(
        batch_size=512, choose_every=2, choose_top=5, says="as SDCLR's train_imagenet.py does linear_full"
    ),
    "train_imagenet_few_shot": LinearSgd(
        train="few_shot",
        epochs=100,
        drops=(40, 60),
        batch_size=512,
        choose_every=10,
        choose_top=5,
        says="as SDCLR's train_imagenet.py does linear_few_shot",
    ),
    "logistic": Logistic(says="logistic regression on fixed features, to its minimum"),
    "knn": Neighbours(says="weighted nearest neighbours among all labelled images"),
    "bcl_full": LinearAdam(draws=1, says="linear on fixed features, all labels: Adam"),
    **{
        f"bcl_{count}_shot": LinearAdam(
            images_per_class=count, says=f"the same, {count} labels a class, mean of five draws"
        )
        for count in (100, 50, 10)
    },
    # The authors have them for classes alone.
    "ts_knn_1": _MAJORITY.replace(k=1, says="the nearest neighbour in the long tail"),
    "ts_knn_10": _MAJORITY.replace(k=10, says="ten nearest neighbours in the long tail"),
    "ts_few_shot": LinearSvm(
        train="long_tail", balanced=True, says="linear SVM, of each class as many labels as the rarest has"
    ),
    "ts_long_tail": LinearSvm(train="long_tail", says="linear SVM on the long tail with its labels"),
    "fine_tune_1": FineTuning(says="the whole encoder fine-tuned on 1 % of the labels"),
    "fine_tune_10": FineTuning(share=0.1, epochs=30, says="the same on 10 % of the labels"),
    "ridge": Ridge(says="ridge regression on fixed features, as while pretraining"),
}


def suited(
    protocols: Mapping[str, Protocol],
    train: Callable[[str], Targets],
    test: Targets,
    class_names: tuple[str, ...],
) -> dict[str, Protocol]:
    """Those of `protocols` that are defined for these images; of images with attributes not all are.

    Args:
        protocols: by name.
        train: the labels of a part of the training images, by its name.
        test: the labels of the test images.
        class_names: [C].

    Raises:
        ArgumentError: none that is left; fewer classes, or a class with fewer labelled images, than one takes; no test
            images, or none with an attribute; no validation image with one where they choose something.
    """
    found = {name: p for name, p in protocols.items() if p.of_attributes or not test.has_attributes}
    if not found:
        defined = [name for name, p in PROTOCOLS.items() if p.of_attributes or not test.has_attributes]
        images = "images with attributes" if test.has_attributes else "images of one class each"
        raise ArgumentError(
            "protocols", f"has none that is defined for {images}: give one or more of {', '.join(defined)}"
        )
    if not len(test):
        raise ArgumentError("test", "has no images, so there is nothing to score: put some of each class into it")
    if test.has_attributes and not test.labels.any():
        raise ArgumentError("test", "has no image with an attribute, so there is nothing to score: put some into it")
    if not test.has_attributes:
        tested = np.bincount(test.labels, minlength=len(class_names))
        if empty := [name for name, count in zip(class_names, tested, strict=True) if not count]:
            no_score = "no test images of %s: they have no score, and means are over the other classes"
            LOG.warning(no_score, first_ones(empty, 10))
    for name, protocol in found.items():
        if len(class_names) < protocol.least_classes:
            raise ArgumentError(
                "protocols",
                f"has {name}, which is for {protocol.least_classes} classes or more, and there are {len(class_names)}: "
                "leave it out",
            )
        if test.has_attributes and protocol.chooses and not train("validation").labels.any():
            raise ArgumentError(
                "protocols",
                f"has {name}, which chooses by validation images, and none of them has an attribute: leave it out",
            )
        if not (protocol.needs or protocol.least_present):
            continue
        counts = np.bincount(train(protocol.train).labels, minlength=len(class_names))
        if np.count_nonzero(counts) < protocol.least_present:
            raise ArgumentError(
                "protocols",
                f"has {name}, which trains on images of {protocol.least_present} classes or more, and {protocol.train} "
                f"has those of {np.count_nonzero(counts)}: leave it out",
            )
        if (fewest := counts.min()) < protocol.needs:
            raise ArgumentError(
                "protocols",
                f"has {name}, which trains on {protocol.needs} images of each class, and the smallest has {fewest} in "
                f"{protocol.train}: leave it out",
            )
    return found


def measure(name: str, protocol: Protocol, splits: Splits, groups: tuple[str, ...]) -> Score:
    """What results.json says of a protocol: its settings, what it found, and scores by class and group.

    Args:
        name: of the protocol.
        protocol: with its settings.
        splits: of the data set.
        groups: [C], 'many', 'medium' or 'few' for each class.

    Raises:
        ArgumentError: it has found what that file cannot hold.
    """
    found, metric = protocol.measure(splits), splits.test.targets.metric
    about = {"train": protocol.train, "images": len(splits.train.labels)}
    try:
        per_class = np.asarray(found.per_class, np.float64)
        said = {
            "metric": metric,
            "settings": about | protocol.settings() | found.settings | found.found,
            "found": list(found.found),
            "per_class": [None if np.isnan(x) else x for x in per_class],
            **records.summary(per_class, groups),
            f"validation_{metric}": found.validation_score,
        }
        score = records.decode(Score, json.loads(json.dumps(said, default=_plain, allow_nan=False)), name)
        score.check_groups(groups, name)
    except (TypeError, ValueError) as error:
        raise ArgumentError(
            "protocols",
            f"has {name}, and its `measure` gave what results.json cannot hold ({error}): a `Found` has a score from 0 "
            "to 1 for each class, and of what else there is what JSON knows",
        ) from error
    return score


def _plain(value: Any) -> Any:
    """A number or an array of NumPy or JAX, as JSON has it."""
    if hasattr(value, "__array__"):
        return np.asarray(value).tolist()
    raise TypeError(f"{type(value).__name__} is not known to JSON")
