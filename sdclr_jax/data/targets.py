"""What labels say of an image: one class, or any number of attributes. How each is learnt, predicted and scored."""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING

import numpy as np

from sdclr_jax.errors import ArgumentError

if TYPE_CHECKING:  # worker processes import this file, and start in a tenth of the time without JAX
    import jax


class Targets(abc.ABC):
    """The labels of N images, in C classes or attributes; `as_targets` makes the right kind.

    What a classifier says of an image is a row of scores [C], the higher the likelier; `decide` makes predictions of
    these, which `per_class` and `score` compare with the labels.
    """

    metric: str  # what `per_class` gives
    has_attributes: bool

    def __init__(self, labels: np.ndarray, num_classes: int):
        self.labels, self.num_classes = np.asarray(labels), num_classes

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: np.ndarray) -> Targets:
        """The targets of these rows, int [M]."""
        return type(self)(self.labels[rows], self.num_classes)

    @abc.abstractmethod
    def one_hot(self, dtype: type = np.float64) -> np.ndarray:
        """[N, C], 1 where an image has the class or attribute and else 0."""

    @abc.abstractmethod
    def per_class(self, predictions: np.ndarray) -> np.ndarray:
        """Score of each class or attribute, float64 [C]; NaN for one that no image has."""

    @abc.abstractmethod
    def score(self, predictions: np.ndarray) -> float:
        """One score of all predictions, by which validation images choose."""

    @staticmethod
    @abc.abstractmethod
    def decide(scores: jax.Array) -> jax.Array:
        """Predictions from scores [B, C], of JAX or of NumPy."""

    @staticmethod
    @abc.abstractmethod
    def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
        """What a linear classifier minimises, from logits [B, C] and labels of B images."""

    @staticmethod
    @abc.abstractmethod
    def curvature(num_classes: int) -> float:
        """The second derivative of `cross_entropy` by one logit where all are 0."""


class Classes(Targets):
    """One class an image: labels int [N]. Predictions are classes, int [N]; scores are accuracies."""

    metric = "accuracy"
    has_attributes = False

    def one_hot(self, dtype: type = np.float64) -> np.ndarray:
        return np.eye(self.num_classes, dtype=dtype)[self.labels]

    def per_class(self, predictions: np.ndarray) -> np.ndarray:
        totals = np.bincount(self.labels, minlength=self.num_classes)
        right = np.bincount(self.labels[np.asarray(predictions) == self.labels], minlength=self.num_classes)
        return np.divide(right, totals, out=np.full(self.num_classes, np.nan), where=totals > 0)

    def score(self, predictions: np.ndarray) -> float:
        return float(np.mean(np.asarray(predictions) == self.labels))

    @staticmethod
    def decide(scores: jax.Array) -> jax.Array:
        """The class of the highest score, the lowest class on ties: int [B]."""
        return scores.argmax(axis=1)

    @staticmethod
    def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
        """Mean over the rows whose label is not -1: one-hot, such a row is zero and drops out."""
        import jax
        import jax.numpy as jnp

        targets = jax.nn.one_hot(labels, logits.shape[1])
        return -jnp.sum(targets * jax.nn.log_softmax(logits)) / jnp.sum(targets)

    @staticmethod
    def curvature(num_classes: int) -> float:
        return 1 / num_classes  # of many classes, but for a factor


class Attributes(Targets):
    """Any number of attributes an image: labels 0 or 1, [N, C]. Predictions are how likely each attribute is, [N, C];
    scores are average precisions."""

    metric = "average_precision"
    has_attributes = True

    def one_hot(self, dtype: type = np.float64) -> np.ndarray:
        return self.labels.astype(dtype)

    def per_class(self, predictions: np.ndarray) -> np.ndarray:
        """The sum over thresholds of the recall gained times the precision there, no interpolation; images of one score
        come in together. It is scikit-learn's.

        Raises:
            ArgumentError: no image has any attribute.
        """
        from sklearn.metrics import average_precision_score  # takes a second, which accuracies need not wait for

        has_images = self.labels.any(axis=0)
        if not has_images.any():
            raise ArgumentError("labels", "give no image any attribute, so there is no average precision")
        found = np.full(self.num_classes, np.nan)
        found[has_images] = average_precision_score(
            self.labels[:, has_images], predictions[:, has_images], average=None
        )
        return found

    def score(self, predictions: np.ndarray) -> float:
        """Mean over the attributes that an image has."""
        return float(np.nanmean(self.per_class(predictions)))

    @staticmethod
    def decide(scores: jax.Array) -> jax.Array:
        """The scores as they are."""
        return scores

    @staticmethod
    def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
        """Sum over the attributes of the mean over the rows."""
        import jax.numpy as jnp
        import optax

        targets = labels.astype(jnp.float32)
        return jnp.sum(jnp.mean(optax.sigmoid_binary_cross_entropy(logits, targets), axis=0))

    @staticmethod
    def curvature(num_classes: int) -> float:
        return 1 / 4


def are_attributes(labels: np.ndarray) -> bool:
    """Whether labels say which attributes an image has, 0 and 1 [N, C], and not which class it is of, int [N].

    >>> are_attributes(np.array([[0, 1], [1, 1]]))
    True
    """
    return np.ndim(labels) > 1


def as_targets(labels: np.ndarray, num_classes: int) -> Targets:
    """The targets that `labels` are: `Classes` where they are int [N], `Attributes` where they are 0 and 1, [N, C].

    >>> as_targets(np.array([0, 2, 1]), 3).metric
    'accuracy'
    """
    return (Attributes if are_attributes(labels) else Classes)(labels, num_classes)


def labels_of(name: str, labels: np.ndarray, num_classes: int, rows: int) -> Targets:
    """`as_targets`, of labels that are known to be of these classes and of so many images.

    Args:
        name: what the caller calls the labels.
        labels: int [N], or 0 and 1 [N, C].
        num_classes: C.
        rows: N.

    Raises:
        ArgumentError: another shape or type, or a label that no class has.

    >>> labels_of("labels", np.array([0, 2, 1]), 3, rows=3).metric
    'accuracy'
    >>> labels_of("labels", np.array([1, 3, 2]), 3, rows=3)
    Traceback (most recent call last):
    sdclr_jax.errors.ArgumentError: labels go from 1 to 3: they must be from 0 to 2, as there are 3 classes
    """
    labels = np.asarray(labels)
    most = 1 if are_attributes(labels) else num_classes - 1
    if labels.shape not in ((rows,), (rows, num_classes)) or labels.dtype.kind not in "iub":
        raise ArgumentError(
            name,
            f"have shape {list(labels.shape)} of {labels.dtype}: give whole numbers, [{rows}] for classes, or "
            f"[{rows}, {num_classes}] for attributes",
        )
    if labels.size and not 0 <= labels.min() <= labels.max() <= most:
        kind = "attributes are 0 or 1" if are_attributes(labels) else f"there are {num_classes} classes"
        raise ArgumentError(name, f"go from {labels.min()} to {labels.max()}: they must be from 0 to {most}, as {kind}")
    return as_targets(labels, num_classes)
