"""The groups of classes, and what is said of a score by class (Jiang et al., ICML 2021, section 4.1)."""

from collections.abc import Sequence

import numpy as np

GROUPS = ("many", "medium", "few")  # by number of training images
SUMMARY = ("all", *GROUPS, "std")  # what `summary` gives


def summary(per_class: Sequence[float] | np.ndarray, groups: Sequence[str]) -> dict[str, float | None]:
    """Mean over all classes, mean over the classes of each group, and the groups' spread, as plain floats.

    A class whose score is NaN is left out of every mean. A group without classes, or with none but such, is None and
    left out of `std`; with fewer than two groups `std` is None too.

    Args:
        per_class: [C].
        groups: 'many', 'medium' or 'few' for each class.

    Returns:
        `all`, the mean over the classes, not over the groups; `many`, `medium` and `few`; and `std`, the paper's
        balancedness, the population standard deviation of the group means.

    Raises:
        ValueError: another number of groups than of classes, or an unknown group.

    >>> summary([0.5, 0.75, 1.0], ["many", "many", "few"])
    {'all': 0.75, 'many': 0.625, 'medium': None, 'few': 1.0, 'std': 0.1875}
    """
    per_class, groups = np.asarray(per_class, np.float64), np.asarray(groups)
    if per_class.shape != groups.shape or not set(groups.tolist()) <= set(GROUPS):
        raise ValueError(f"groups must give one of {GROUPS} for each of {len(per_class)} classes, not {groups}")
    scored = ~np.isnan(per_class)
    means = {
        name: float(per_class[rows].mean()) if (rows := scored & (groups == name)).any() else None for name in GROUPS
    }
    present = [mean for mean in means.values() if mean is not None]
    std = float(np.std(present)) if len(present) > 1 else None
    return {"all": float(per_class[scored].mean()), **means, "std": std}
