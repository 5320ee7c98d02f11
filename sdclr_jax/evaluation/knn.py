"""Nearest neighbours on frozen features: their weighted vote (Wu et al., CVPR 2018, section 3.4). No training, one
pass."""

import numpy as np
from jaxtyping import ArrayLike, Float, Integer, Num
from scipy import special

from sdclr_jax.data.targets import Targets, labels_of
from sdclr_jax.errors import ArgumentError
from sdclr_jax.evaluation.neighbours import nearest
from sdclr_jax.parallel import Shardings

_VOTES = 2**22  # numbers of a block of votes: [rows, C], or [rows, k, C] of attributes


def predict(
    train_features: Float[ArrayLike, "N D"],
    train_labels: Integer[ArrayLike, "N ..."],
    test_features: Float[ArrayLike, "M D"],
    *,
    num_classes: int,
    k: int = 200,
    temperature: float = 0.1,
    shardings: Shardings | None = None,
) -> Num[np.ndarray, "M ..."]:
    """What the `k` most similar training images of each test image vote for.

    A neighbour's vote weighs exp(cosine / temperature), or 1 where the temperature is infinite. Features are [N, D] and
    [M, D], of any length. Ties go to the earlier training image, then to the lower class. Memory beyond the features is
    8 bytes for each of M * k neighbours, whatever the number of classes.

    Args:
        train_labels: int [N], classes; or 0 and 1, [N, A], attributes.
        num_classes: how many classes or attributes there are.
        shardings: the devices that search, as in `neighbours.nearest`.

    Returns:
        The class of each test image, int32 [M]; of attributes, the share of the vote for each, float32 [M, A].

    Raises:
        ArgumentError: `k` is not in 1..N, `temperature` not positive, or the labels are not those of N images and of
            these classes.
    """
    if not 1 <= k <= len(train_features):
        raise ArgumentError("k", f"is {k}: it must be from 1 to {len(train_features)}, the number of training images")
    if temperature <= 0:
        raise ArgumentError("temperature", f"is {temperature}: it must be above 0")
    targets = labels_of("train_labels", train_labels, num_classes, len(train_features))
    rows, cosines = nearest(train_features, test_features, k, shardings=shardings)
    size = max(1, _VOTES // (num_classes * (k if targets.has_attributes else 1)))
    decided = [
        targets.decide(_shares(targets, rows[i : i + size], cosines[i : i + size], temperature))
        for i in range(0, len(rows), size)
    ]
    return np.concatenate(decided).astype(np.float32 if targets.has_attributes else np.int32)


def _shares(targets: Targets, rows: np.ndarray, cosines: np.ndarray, temperature: float) -> np.ndarray:
    """Shares float64 [B, C] of the vote of neighbours, rows and cosines [B, k]; with an infinite temperature numbers of
    votes, which are counted whole, so that equal ones are a tie in whatever order they are summed."""
    labels, classes = targets.labels[rows], targets.num_classes
    # Softmax gives the weights over their sum: the same classes win and no temperature overflows.
    weights = np.ones(rows.shape) if np.isinf(temperature) else special.softmax(cosines / np.float64(temperature), 1)
    if targets.has_attributes:
        return np.einsum("bk,bkc->bc", weights, labels)
    place = np.arange(len(rows))[:, None] * classes + labels
    return np.bincount(place.ravel(), weights.ravel(), len(rows) * classes).reshape(-1, classes)
