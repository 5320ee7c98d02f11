"""Scores per group of classes, and how balanced they are (Jiang et al., ICML 2021, section 4.1).

A score of a class is a share, 0 to 1, as `data/targets.py` gives it; reports print them in per cent.
"""

from collections.abc import Sequence

import numpy as np

from sdclr_jax.errors import ArgumentError

GROUPS = ("many", "medium", "few")


def summary(per_class: np.ndarray, groups: Sequence[str]) -> dict[str, float | None]:
    """Mean over all classes, mean over the classes of each group, and the groups' spread, as plain floats.

    `per_class` is [C], `groups` names 'many', 'medium' or 'few' for each class. `all` is the mean over the classes, not
    over the groups. `std`, the paper's balancedness, is the population standard deviation of the group means. A class
    whose score is NaN is left out of every mean. A group without classes, or with none but such, is None and left out
    of `std`; with fewer than two groups `std` is None too.
    """
    per_class, groups = np.asarray(per_class, np.float64), np.asarray(groups)
    if per_class.shape != groups.shape or not set(groups.tolist()) <= set(GROUPS):
        raise ArgumentError("groups", f"is {groups}: it must be one of {GROUPS} for each of {len(per_class)} classes")
    scored = ~np.isnan(per_class)
    means = {
        name: float(per_class[rows].mean()) if (rows := scored & (groups == name)).any() else None for name in GROUPS
    }
    present = [mean for mean in means.values() if mean is not None]
    std = float(np.std(present)) if len(present) > 1 else None
    return {"all": float(per_class[scored].mean()), **means, "std": std}
