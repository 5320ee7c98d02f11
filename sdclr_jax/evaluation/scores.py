"""Accuracy per class and per group, and how balanced it is (Jiang et al., ICML 2021, section 4.1).

Accuracies are shares, 0 to 1; printing them in per cent is for whoever reports them.
"""

from collections.abc import Sequence

import numpy as np

from sdclr_jax.errors import UserError

GROUPS = ("many", "medium", "few")


def per_class_accuracy(predictions: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Share of each class's images that are predicted right: float64 [num_classes].

    `predictions` and `labels` are int [N]. Raises UserError where a class has no image: its accuracy, and with it every
    mean over the classes, is undefined.
    """
    labels = np.asarray(labels)
    totals = np.bincount(labels, minlength=num_classes)
    if not totals.all():
        empty = np.flatnonzero(totals == 0).tolist()
        raise UserError(f"Classes {empty} have no test images to score: check the test split of data.name.")
    right = np.bincount(labels[np.asarray(predictions) == labels], minlength=num_classes)
    return right / totals


def summary(per_class: np.ndarray, groups: Sequence[str]) -> dict[str, float | None]:
    """Mean over all classes, mean over the classes of each group, and the groups' spread, as plain floats.

    `per_class` is [C], `groups` names 'many', 'medium' or 'few' for each class. `all` is the mean over the classes, not
    over the groups. `std`, the paper's balancedness, is the population standard deviation of the group means. A group
    without classes is None and left out of `std`; with fewer than two groups `std` is None too.
    """
    per_class, groups = np.asarray(per_class, np.float64), np.asarray(groups)
    if per_class.shape != groups.shape or not set(groups.tolist()) <= set(GROUPS):
        raise ValueError(f"groups must give one of {GROUPS} for each of {len(per_class)} classes, not {groups}")
    means = {name: float(per_class[groups == name].mean()) if name in groups else None for name in GROUPS}
    present = [mean for mean in means.values() if mean is not None]
    return {"all": float(per_class.mean()), **means, "std": float(np.std(present)) if len(present) > 1 else None}
