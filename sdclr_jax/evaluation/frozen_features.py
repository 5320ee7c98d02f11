"""Labelled images with the features that a frozen encoder gives them: what protocols score."""

import contextlib
import hashlib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np

from sdclr_jax import files, processes, trees
from sdclr_jax.data.examples import Examples
from sdclr_jax.data.images import Encoded, as_images
from sdclr_jax.data.targets import Targets
from sdclr_jax.evaluation import cache, probe
from sdclr_jax.evaluation.frozen import FrozenEncoder
from sdclr_jax.evaluation.views import ProbeViews
from sdclr_jax.parallel import Shardings
from sdclr_jax.trees import Tree


class Labelled(NamedTuple):
    """Features of images, and their labels."""

    features: np.ndarray  # float32 [N, D]
    targets: Targets
    examples: Examples | None = None  # the images, for protocols that need more than features of them

    @property
    def labels(self) -> np.ndarray:
        return self.targets.labels

    def take(self, rows: np.ndarray) -> "Labelled":
        return Labelled(self.features[rows], self.targets.take(rows), self.examples and self.examples.take(rows))


class Splits(NamedTuple):
    """What a protocol is given: it learns from `train`, chooses by `validation`, and is scored on `test`.

    While a run trains, validation images stand in the place of test images.
    """

    train: Labelled
    validation: Labelled
    test: Labelled
    seed: int = 0  # of all that a protocol draws
    frozen: "FrozenFeatures | None" = None  # where the features come from, for views of images and for the encoder
    shardings: Shardings | None = None  # the devices of a protocol that is `shared`; None is those of this process


class FrozenFeatures:
    """A data set under a frozen encoder: features of its labelled images as they are, and of random views of them.

    Several processes make this together; what they do with it is for one of them, on its own devices, but for protocols
    that are `shared`.

    Features of images as they are come from `folder`, or are extracted once and kept there for the next evaluation.
    Those of an encoder that is not of this package are found by the code of its file, too, and are not kept where that
    cannot be read, as in a notebook.

    Args:
        encoder: the encoder.
        variables: its variables.
        train, test: the data set.
        parts: name -> rows of `train`, int [M]; `validation` is one of them. They may overlap.
        views: of training images.
        seed: of what protocols draw.
        folder: where features are kept; None keeps none.
        model: says which encoder it is, fit for JSON: with the variables it names the features that are kept.
    """

    def __init__(
        self,
        encoder: FrozenEncoder,
        variables: Tree,
        train: Examples,
        test: Examples,
        parts: Mapping[str, np.ndarray],
        *,
        views: ProbeViews,
        seed: int = 0,
        folder: files.Path | None = None,
        model: Mapping[str, Any] | None = None,
    ):
        self.encoder, self.variables, self.views, self.seed = encoder, variables, views, seed
        self._folder, self._key = folder, {"encoder": trees.digest(variables), "model": dict(model or {})}
        if own := _own_modules(encoder.encoder):
            self._key["code"] = processes.of_first("the encoder's code", lambda: _digest_of_code(own))
            self._folder = folder if self._key["code"] else None

        # The variables are an argument and not a constant, so that all runs of one shape share what is compiled.
        def encode_view(variables: Tree, key: jax.Array, images: jax.Array) -> jax.Array:
            return encoder.encoder.apply(variables, views.view(key, images), False)

        self._encode_view = jax.jit(encode_view)
        # Parts overlap: each image goes through the encoder once.
        union = np.unique(np.concatenate(list(parts.values())))
        labelled = self._labelled(train.take(union))
        self._parts = {part: labelled.take(np.searchsorted(union, rows)) for part, rows in parts.items()}
        self.test = self._labelled(test)
        # What follows is for one process: the others wait for it.
        self.encoder, self._shardings = encoder.here(), encoder.shardings
        if processes.count() > 1:
            self.variables = jax.tree.map(np.asarray, variables)

    @property
    def seen(self) -> dict[str, Any]:
        """What the encoder is given of a test image, fit for JSON."""
        return self.encoder.seen(self.test.examples.images)

    def splits(self, part: str) -> Splits:
        """For a protocol that learns from this part of the training images."""
        return Splits(self._parts[part], self._parts["validation"], self.test, self.seed, self, self._shardings)

    def _labelled(self, examples: Examples) -> Labelled:
        return Labelled(self._features(examples.images), examples.targets, examples)

    def _features(self, images: np.ndarray | Encoded) -> np.ndarray:
        def extract() -> np.ndarray:
            return self.encoder.features(self.variables, images)

        if self._folder is None:
            return extract()
        key = self._key | {"seen": self.encoder.seen(images), "images": as_images(images).digest()}
        return cache.features(self._folder, key, extract, together=True)

    @cached_property
    def decoded_validation(self) -> np.ndarray | Encoded:
        """The validation images for one encoder after another."""
        return self.encoder.decoded(self._parts["validation"].examples.images)

    @contextlib.contextmanager
    def features_of_views(
        self, train: Labelled, batch_size: int
    ) -> Iterator[Callable[[int, np.ndarray], np.ndarray | jax.Array]]:
        """(step, rows [batch_size]) -> features [batch_size, D] of new views of those images at each step."""
        if not self.views.are_random:
            yield probe.cached(train.features)
            return
        key = jax.random.key(self.views.seed)
        with self.views.images_of(train.examples.images, batch_size) as images_of:
            yield lambda step, rows: self._encode_view(
                self.variables, jax.random.fold_in(key, step), images_of(step, rows)
            )


def _own_modules(encoder: nn.Module) -> list[str]:
    """The names of the modules of an encoder's classes, as far as they are not of this package."""
    names = {kind.__module__ for kind in type(encoder).__mro__ if issubclass(kind, nn.Module)}
    return sorted(name for name in names if name.partition(".")[0] not in ("sdclr_jax", "flax"))


def _digest_of_code(names: list[str]) -> str:
    """A hash of the code of these modules; '' where that of one cannot be read."""
    try:
        code = [inspect.getsource(sys.modules[name]) for name in names]
    except (KeyError, OSError, TypeError):
        return ""
    return hashlib.sha256(repr(code).encode()).hexdigest()
