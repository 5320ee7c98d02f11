"""Kinds of protocols: what is fitted to frozen features, and how it is scored. The settings of a
kind are its fields; protocols.py has those with a name."""

import abc
import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

from sdclr_jax.data.subsets import longtail
from sdclr_jax.errors import ArgumentError
from sdclr_jax.evaluation import features, finetuning, knn, probe
from sdclr_jax.evaluation.frozen_features import Labelled, Splits


class Found(NamedTuple):
    """What a protocol measured."""

    per_class: np.ndarray  # float64 [C], NaN where a class has no score
    validation_score: float | None = None  # of what was chosen by validation images
    found: dict[str, Any] = {}  # what it chose by them or drew, and how its fit ended; fit for JSON
    settings: dict[str, Any] = {}  # of `Protocol.settings`, those that follow from the images


@dataclass(frozen=True, kw_only=True)
class Protocol(abc.ABC):
    """A protocol with its settings, which are its fields; the defaults are the published ones."""

    train: str = "probe_train"  # the part of the training images whose labels it sees
    says: str = ""  # in a few words, for help and reports
    of_attributes: bool = False  # whether it is defined where an image has attributes
    constants: ClassVar[dict[str, Any]] = {}  # what it does that is no field
    chooses: ClassVar[bool] = False  # whether validation images of attributes choose something
    shared: ClassVar[bool] = False  # whether all processes measure it together; else process 0 does, on its devices

    @abc.abstractmethod
    def measure(self, splits: Splits) -> Found:
        """Learn from `splits.train`, choose by `splits.validation` where there is something to choose, and score on
        `splits.test`."""

    def settings(self) -> dict[str, Any]:
        """All that it does but for what validation chooses, fit for JSON."""
        of_all = {field.name for field in dataclasses.fields(Protocol)}
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in of_all}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()} | self.constants

    @property
    def needs(self) -> int:
        """The training images that each class must have."""
        return 0

    @property
    def least_present(self) -> int:
        """The classes that there must be images of to train on."""
        return 0

    @property
    def least_classes(self) -> int:
        """The classes that there must be."""
        return 0

    def replace(self, **settings: Any) -> "Protocol":
        """The same with other settings."""
        return dataclasses.replace(self, **settings)


@dataclass(frozen=True, kw_only=True)
class LinearSgd(Protocol):
    """`probe.sgd` on features of random views, or on fixed ones."""

    epochs: int = 30
    drops: tuple[int, ...] = (10, 20)
    learning_rate: float = 30.0
    batch_size: int = 128
    augment: bool = True  # whether new views are made at each step
    choose_every: int = 1  # the epoch is chosen among every so many
    choose_top: int = 1  # by validation images whose class is among so many of highest score
    constants: ClassVar = {"momentum": probe.MOMENTUM, "weight_decay": 0.0}

    def settings(self) -> dict[str, Any]:
        """Without `augment`, which `measure` says in its turn; and how an epoch is chosen where it is not among all of
        them by accuracy."""
        left_out = {"augment"} | {name for name in ("choose_every", "choose_top") if getattr(self, name) == 1}
        return {name: value for name, value in super().settings().items() if name not in left_out}

    @property
    def least_classes(self) -> int:
        return self.choose_top + 1 if self.choose_top > 1 else 0

    def measure(self, splits: Splits) -> Found:
        if not (self.augment and splits.frozen):
            return self._fit(splits, probe.cached(splits.train.features), {"augment": False})
        with splits.frozen.features_of_views(splits.train, self.batch_size) as features_of:
            return self._fit(splits, features_of, splits.frozen.views.settings())

    def _fit(self, splits: Splits, features_of: Callable, settings: dict[str, Any]) -> Found:
        fitted = probe.sgd(
            features_of,
            splits.train.labels,
            splits.validation.features,
            splits.validation.labels,
            num_classes=splits.train.targets.num_classes,
            epochs=self.epochs,
            drops=self.drops,
            learning_rate=self.learning_rate,
            batch_size=self.batch_size,
            choose_every=self.choose_every,
            choose_top=self.choose_top,
            seed=splits.seed,
        )
        per_class = _linear(splits.test, fitted.kernel, fitted.bias)
        return Found(per_class, fitted.validation_accuracy, {"best_epoch": fitted.best_epoch}, settings)


@dataclass(frozen=True, kw_only=True)
class Logistic(Protocol):
    """`probe.logistic`."""

    l2_tried: tuple[float, ...] = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
    of_attributes: bool = True
    chooses: ClassVar[bool] = True

    def measure(self, splits: Splits) -> Found:
        train, validation = splits.train, splits.validation
        fitted = probe.logistic(
            train.features,
            train.labels,
            validation.features,
            validation.labels,
            num_classes=train.targets.num_classes,
            l2=self.l2_tried,
        )
        best = fitted.best._asdict()
        return Found(_linear(splits.test, fitted.kernel, fitted.bias), best.pop("validation_score"), best)


@dataclass(frozen=True, kw_only=True)
class Ridge(Protocol):
    """`probe.ridge`: one cheap fit without a search, so that a curve of it shows the encoder."""

    l2: float = 1e-2  # on standardised features
    of_attributes: bool = True

    def measure(self, splits: Splits) -> Found:
        train = splits.train
        fitted = probe.ridge(train.features, train.labels, num_classes=train.targets.num_classes, l2=self.l2)
        return Found(_linear(splits.test, *fitted))


@dataclass(frozen=True, kw_only=True)
class Neighbours(Protocol):
    """`knn.predict`."""

    k: int = 200
    temperature: float = 0.1  # infinite: each neighbour has one vote
    of_attributes: bool = True
    shared: ClassVar = True

    def settings(self) -> dict[str, Any]:
        return {"k": self.k} | ({"vote": "majority"} if math.isinf(self.temperature) else super().settings())

    def measure(self, splits: Splits) -> Found:
        train, test = splits.train, splits.test
        predictions = knn.predict(
            train.features,
            train.labels,
            test.features,
            num_classes=train.targets.num_classes,
            k=self.k,
            temperature=self.temperature,
            shardings=splits.shardings,
        )
        return Found(test.targets.per_class(predictions))


@dataclass(frozen=True, kw_only=True)
class LinearAdam(Protocol):
    """`probe.adam`, the mean over several draws of a few images a class."""

    images_per_class: int | None = None  # None: all, once
    draws: int = 5
    epochs: int = 500
    batch_size: int = 1000
    learning_rate: float = 1e-2
    final_learning_rate: float = 1e-6
    weight_decay: float = 5e-6
    constants: ClassVar = {"optimizer": "adam"}

    def settings(self) -> dict[str, Any]:
        return super().settings() | {"images_per_class": self.images_per_class or "all"}

    @property
    def needs(self) -> int:
        return self.images_per_class or 0

    def measure(self, splits: Splits) -> Found:
        settings = ("epochs", "batch_size", "learning_rate", "final_learning_rate", "weight_decay")
        fit = {name: getattr(self, name) for name in settings}
        per_class = []
        for draw, drawn in enumerate(self._draws(splits.train)):
            weights = probe.adam(
                drawn.features,
                drawn.labels,
                num_classes=drawn.targets.num_classes,
                seed=splits.seed + draw,
                **fit,
            )
            per_class.append(_linear(splits.test, *weights))
        all_of_draws = [float(np.nanmean(scored)) for scored in per_class]
        return Found(np.mean(per_class, axis=0), found={"images": len(drawn.labels), "all_of_draws": all_of_draws})

    def _draws(self, train: Labelled) -> list[Labelled]:
        if self.images_per_class is None:
            return [train]
        seeds = range(1, self.draws + 1)  # the authors' lists are numbered from 1 as well
        return [_first_of_classes(train, self.images_per_class, seed) for seed in seeds]


@dataclass(frozen=True, kw_only=True)
class LinearSvm(Protocol):
    """scikit-learn's LinearSVC on features of length 1."""

    balanced: bool = False  # whether each class has as many images as the rarest
    C: float = 1.0
    loss: str = "squared_hinge"
    constants: ClassVar = {"features": "unit"}

    @property
    def needs(self) -> int:
        return int(self.balanced)

    @property
    def least_present(self) -> int:
        return 2

    def settings(self) -> dict[str, Any]:
        settings = super().settings()
        return {"images_per_class": "of_rarest" if settings.pop("balanced") else "all"} | settings

    def measure(self, splits: Splits) -> Found:
        from sklearn.svm import LinearSVC  # takes a second, which other protocols need not wait for

        train, test = splits.train, splits.test
        if self.balanced:
            fewest = np.bincount(train.labels, minlength=train.targets.num_classes).min()
            train = _first_of_classes(train, fewest, splits.seed)
        fitted = LinearSVC(C=self.C, loss=self.loss, max_iter=10_000, random_state=splits.seed)
        fitted.fit(np.asarray(features.unit(train.features)), train.labels)
        predictions = fitted.predict(np.asarray(features.unit(test.features)))
        found = {"images": len(train.labels), "iterations": int(np.max(fitted.n_iter_))}
        return Found(test.targets.per_class(predictions), found=found)


@dataclass(frozen=True, kw_only=True)
class FineTuning(Protocol):
    """`finetuning.fit` on a share of the labels; it takes `splits.frozen`, where encoder and images come from."""

    share: float = 0.01
    epochs: int = 60
    batch_size: int = 64
    learning_rate: float = 0.05  # for a batch of 256, in proportion to it
    head_learning_rate: float = 0.05  # the same
    constants: ClassVar = {"momentum": finetuning.MOMENTUM, "nesterov": True, "weight_decay": 0.0}

    def measure(self, splits: Splits) -> Found:
        if splits.frozen is None:
            raise ArgumentError("splits", "has features alone: fine-tuning takes `splits.frozen`, with the encoder")
        frozen, encoder = splits.frozen, splits.frozen.encoder
        train = finetuning.share(splits.train.examples, self.share, splits.seed)
        batch_size = min(self.batch_size, len(train.labels))
        scale = batch_size / finetuning.RATES_ARE_FOR
        rates = {name: getattr(self, name) * scale for name in ("learning_rate", "head_learning_rate")}
        with frozen.views.views_of(train.images, batch_size, encoder.shardings) as views_of:
            fitted = finetuning.fit(
                encoder.encoder,
                frozen.variables,
                views_of,
                train.labels,
                lambda tuned: encoder.features(tuned, frozen.decoded_validation),
                splits.validation.labels,
                num_classes=splits.train.targets.num_classes,
                epochs=self.epochs,
                batch_size=batch_size,
                seed=splits.seed,
                **rates,
            )
        tuned = encoder.features(fitted.variables, splits.test.examples.images)
        per_class = _linear(splits.test._replace(features=tuned), fitted.kernel, fitted.bias)
        drawn = {"images": len(train.labels), "list": longtail.list_hash(train.ids)}
        found = drawn | {"best_epoch": fitted.best_epoch}
        settings = {"batch_size": batch_size} | rates | frozen.views.settings()
        return Found(per_class, fitted.validation_accuracy, found, settings)


def _linear(test: Labelled, kernel: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Score of each class by a linear classifier."""
    return test.targets.per_class(test.targets.decide(probe.logits(test.features, kernel, bias)))


def _first_of_classes(train: Labelled, count: int, seed: int) -> Labelled:
    """So many images of each class, as the seed draws them."""
    counts = np.full(train.targets.num_classes, count)
    return train.take(longtail.first_of_classes(train.labels, None, counts, seed))
