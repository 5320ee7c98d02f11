"""Scores per class or attribute and per group, and how balanced they are (Jiang et al., ICML 2021, section 4.1).

Of classes the score is accuracy, of attributes, of which an image may have any number, average precision. Both are
shares, 0 to 1; printing them in per cent is for whoever reports them.
"""

import numpy as np

from sdclr_jax.errors import UserError


def per_class_accuracy(
    predictions: np.ndarray, labels: np.ndarray, num_classes: int, *, all_classes: bool = True
) -> np.ndarray:
    """Share of each class's images that are predicted right: float64 [num_classes].

    `predictions` and `labels` are int [N]. Where a class has no image its accuracy, and with it every mean over the
    classes, is undefined: raises UserError, or with `all_classes` False gives NaN for it.
    """
    labels = np.asarray(labels)
    totals = np.bincount(labels, minlength=num_classes)
    if all_classes and not totals.all():
        empty = np.flatnonzero(totals == 0).tolist()
        raise UserError(f"Classes {empty} have no test images to score: check the test split of data.name.")
    right = np.bincount(labels[np.asarray(predictions) == labels], minlength=num_classes)
    return np.divide(right, totals, out=np.full(num_classes, np.nan), where=totals > 0)


def average_precision(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Average precision of each attribute: float64 [A], NaN for one that no image has, since it has no precision.

    The sum over thresholds of the recall gained times the precision there, no interpolation; images of one score come
    in together. It is scikit-learn's. `scores` is [N, A], the higher the likelier; `targets` is 0 or 1, [N, A].
    Raises UserError where no attribute has an image.
    """
    from sklearn.metrics import average_precision_score  # takes a second, which accuracies need not wait for

    targets = np.asarray(targets)
    has_images = targets.any(axis=0)
    if not has_images.any():
        raise UserError("No image has any of the attributes, so there is no average precision: check data.name.")
    found = np.full(targets.shape[1], np.nan)
    found[has_images] = average_precision_score(targets[:, has_images], scores[:, has_images], average=None)
    return found
