"""A frozen encoder as the protocols see it."""

import contextlib
import pathlib
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from sdclr_jax import recipes, trees
from sdclr_jax.data.examples import Examples
from sdclr_jax.data.images import Encoded, digest
from sdclr_jax.data.subsets import longtail
from sdclr_jax.evaluation import cache, probe, scores
from sdclr_jax.evaluation.frozen import encoder_variables
from sdclr_jax.parallel import Shardings


class Labelled(NamedTuple):
    """Images with their labels and the frozen encoder's features of them."""

    examples: Examples
    features: np.ndarray  # float32 [N, D]

    @property
    def labels(self) -> np.ndarray:
        return self.examples.labels

    def take(self, rows: np.ndarray) -> "Labelled":
        return Labelled(self.examples.take(rows), self.features[rows])


class FrozenFeatures:
    """The labelled images with their features, plain or of augmented views, and how their labels are scored.

    Features of images as they are come from `folder`, or are extracted once and kept there for the next evaluation.
    """

    PARTS = ("probe_train", "few_shot", "validation", "long_tail")

    def __init__(
        self, config: ConfigDict, variables: trees.Tree, data: recipes.Data, shardings: Shardings, folder: pathlib.Path
    ):
        of_encoder = encoder_variables(variables)
        self.config, self.variables, self.shardings = config, variables, shardings
        self._encoded = isinstance(data.train.images, Encoded)
        network, augmented = recipes.network(config), recipes.probe_view(config, self._encoded)

        # The variables are an argument and not a constant, so that all runs of one shape share what is compiled.
        def encode_view(variables: trees.Tree, key: jax.Array, images: jax.Array) -> jax.Array:
            return network.apply(variables, augmented(key, images), method="encode")

        self._encode_view = jax.jit(encode_view)
        self.encoder = recipes.frozen_encoder(config, shardings)
        made_from = self._made_from()

        def labelled(examples: Examples) -> Labelled:
            key = made_from | {"images": digest(examples.images)}
            return Labelled(
                examples, cache.features(folder, key, lambda: self.encoder.features(of_encoder, examples.images))
            )

        self.groups = longtail.groups(data.subsets.train_counts, config.data.groups)
        self.num_classes = len(data.train.class_names)
        # Subsets overlap: each image goes through the encoder once.
        rows = {part: getattr(data.subsets, part) for part in self.PARTS}
        union = np.unique(np.concatenate(list(rows.values())))
        train = labelled(data.train.take(union))
        self.parts = {part: train.take(np.searchsorted(union, rows[part])) for part in self.PARTS}
        self.test = labelled(data.test)

    def _made_from(self) -> dict:
        """What features are a function of, but for the images."""
        c = self.config
        seen = {"mean": list(c.views.mean), "std": list(c.views.std)}
        if self._encoded:
            seen |= {"resize": c.evaluate.resize, "crop": c.evaluate.crop}
        return {"encoder": trees.digest(self.variables), "model": c.model.to_dict(), "seen": seen}

    @property
    def validation(self) -> Labelled:
        return self.parts["validation"]

    @cached_property
    def decoded_validation(self) -> Examples:
        """For one encoder after another."""
        examples = self.validation.examples
        return examples._replace(images=self.encoder.decoded(examples.images))

    @property
    def has_attributes(self) -> bool:
        """Whether an image has any number of attributes, instead of one class."""
        return self.test.labels.ndim == 2

    @contextlib.contextmanager
    def features_of(self, train: Labelled) -> Iterator[Callable[[int, np.ndarray], jax.Array]]:
        """(step, indices) -> features of those images: of views made afresh with a key of that step, or fixed ones."""
        c, key = self.config.evaluate, jax.random.key(self.config.seed)
        if not c.augment or not (c.padding or c.flip or self._encoded):
            yield probe.cached(train.features)
            return
        with recipes.probe_images(self.config, train.examples.images, c.sgd_batch_size) as images_of:
            yield lambda step, rows: self._encode_view(
                self.variables, jax.random.fold_in(key, step), images_of(step, rows)
            )

    def augmentation(self) -> dict:
        """What `features_of` does to its images, for a protocol's settings."""
        if not self.config.evaluate.augment:
            return {"augment": False}
        return recipes.about_probe_view(self.config, self._encoded)

    def per_class(self, predictions: np.ndarray) -> np.ndarray:
        """Score of each class, or attribute, float64 [C], from predictions of the test images: classes int [N], or how
        likely each attribute is, [N, A]."""
        if self.has_attributes:
            return scores.average_precision(predictions, self.test.labels)
        return scores.per_class_accuracy(predictions, self.test.labels, self.num_classes)
