"""Long-tailed subsets of a balanced data set, and the classes' groups many, medium and few.

The exponential profile and the subsets are those of Jiang et al., Self-Damaging Contrastive Learning, ICML 2021,
Section 4.1; the groups by counts are those of Liu et al., Large-Scale Long-Tailed Recognition in an Open World
(OLTR), CVPR 2019.
"""

import hashlib
import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from sdclr_jax.errors import UserError

GROUPS = ("many", "medium", "few")
GROUP_RULES = ("thirds", "counts")


def class_counts(n_max: int, imbalance: float, num_classes: int) -> np.ndarray:
    """Images of each class, most frequent first: floor(n_max * imbalance ** (-k / (num_classes - 1))), class k.

    Args:
        n_max: images of the most frequent class, at least 1.
        imbalance: n_max over the images of the rarest class, at least 1; at 1 all classes are equal.
        num_classes: C, at least 1.

    Returns:
        int64 [C], descending.

    Raises:
        UserError: an argument out of range, or a class left without an image.
    """
    if n_max < 1:
        raise UserError(f"data.n_max must be at least 1 image, but is {n_max}.")
    if not 1 <= imbalance < math.inf:
        raise UserError(f"data.imbalance must be a number of at least 1, but is {imbalance}.")
    exact = n_max * float(imbalance) ** (-np.arange(num_classes) / max(num_classes - 1, 1))
    # Where the formula gives a whole number, floats may stay a hair below it: 100 * 32 ** -0.4 is 24.999999999999996.
    counts = np.floor(exact * (1 + 1e-12)).astype(np.int64)
    if counts[-1] < 1:
        raise UserError(
            f"data.imbalance {imbalance} with data.n_max {n_max} leaves class {np.argmin(counts > 0)} of "
            f"{num_classes}, by frequency from 0, without an image; lower data.imbalance or raise data.n_max."
        )
    return counts


class Subsets(NamedTuple):
    """Who trains on what. Index arrays into the training examples are int64, ascending and without repeats."""

    long_tail: np.ndarray  # pretraining: the exponential profile over `class_order`
    balanced: np.ndarray  # pretraining: as many images as long_tail, spread evenly
    few_shot: np.ndarray  # labelled images of the few-shot probe, the same number a class
    probe_train: np.ndarray  # labelled images of the full probe: all but validation
    validation: np.ndarray  # for choosing the probe, the same number a class, in no other subset
    class_order: np.ndarray  # int64 [C], class labels, most frequent class of long_tail first
    train_counts: np.ndarray  # int64 [C], images in long_tail, by class label


def draw(
    labels: np.ndarray,
    *,
    num_classes: int,
    n_max: int,
    imbalance: float,
    validation_per_class: int,
    few_shot_per_class: int,
    seed: int,
) -> Subsets:
    """The subsets of one split seed (Jiang et al., Section 4.1), a function of the arguments alone.

    The seed puts the classes in an order, and the images of each class. Validation takes the last images of a class,
    the other subsets the first ones, as many as they need: the authors' published lists overlap in the same way. So
    no subset but probe_train depends on the size of another, a more imbalanced long tail lies within a less
    imbalanced one, and of each class the few-shot images lie within long_tail, or hold all it has.

    Args:
        labels: int [N], in the order of the examples' ids.
        num_classes: C; labels are 0..C-1.
        n_max, imbalance: see `class_counts`.
        validation_per_class: at least 1.
        few_shot_per_class: at least 1.
        seed: at least 0.

    Raises:
        UserError: an argument out of range, or a class with too few images.
    """
    for field, value, least in (
        ("data.validation_per_class", validation_per_class, 1),
        ("data.few_shot_per_class", few_shot_per_class, 1),
        ("data.split", seed, 0),
    ):
        if value < least:
            raise UserError(f"{field} must be at least {least}, but is {value}.")

    counts = class_counts(n_max, imbalance, num_classes)
    class_order = _permutation(num_classes, seed, 0)
    train_counts = counts[np.argsort(class_order)]  # the inverse permutation: each class's rank
    each, rest = divmod(counts.sum(), num_classes)
    balanced_counts = np.full(num_classes, each)
    balanced_counts[class_order[:rest]] += 1

    parts = {name: [] for name in ("long_tail", "balanced", "few_shot", "probe_train", "validation")}
    for c in range(num_classes):
        images = np.flatnonzero(labels == c)
        images = images[_permutation(len(images), seed, 1, c)]
        usable = len(images) - validation_per_class
        for field, need in (
            ("data.n_max", max(train_counts[c], balanced_counts[c])),
            ("data.few_shot_per_class", few_shot_per_class),
        ):
            if need > usable:
                raise UserError(
                    f"Class {c} has {len(images)} training images and needs {need + validation_per_class}, "
                    f"{validation_per_class} of them for validation; lower {field} or data.validation_per_class."
                )
        parts["long_tail"].append(images[: train_counts[c]])
        parts["balanced"].append(images[: balanced_counts[c]])
        parts["few_shot"].append(images[:few_shot_per_class])
        parts["probe_train"].append(images[:usable])
        parts["validation"].append(images[usable:])
    subsets = {name: np.sort(np.concatenate(images)) for name, images in parts.items()}
    return Subsets(**subsets, class_order=class_order, train_counts=train_counts)


def _permutation(n: int, seed: int, *stream: int) -> np.ndarray:
    """0..n-1 in an order of (seed, stream) alone; streams do not depend on each other.

    It sorts raw random words, since NumPy keeps those the same from version to version, but not what `Generator`
    makes of them.
    """
    words = np.random.PCG64(np.random.SeedSequence(seed, spawn_key=stream)).random_raw(n)
    return np.argsort(words, kind="stable").astype(np.int64)


def groups(counts: np.ndarray, rule: str) -> tuple[str, ...]:
    """The group of each class by its number of training images: "many", "medium" or "few".

    Args:
        counts: int [C], images in the long tail by class label (`Subsets.train_counts`).
        rule: "thirds" (Jiang et al. on CIFAR): classes sorted by count, ties by label, cut into three parts of which
            the first ones are larger by one where C is no multiple of three, so 4, 3, 3 of ten; or "counts" (Liu et
            al., and Jiang et al. on ImageNet): many above 100 images, medium from 20 to 100, few below 20. A group
            may be empty.

    Returns:
        C names, by class label.

    Raises:
        UserError: unknown rule.
    """
    counts = np.asarray(counts)
    if rule == "thirds":
        names = np.empty(len(counts), object)
        for name, part in zip(GROUPS, np.array_split(np.argsort(-counts, kind="stable"), 3), strict=True):
            names[part] = name
    elif rule == "counts":
        names = np.select([counts > 100, counts >= 20], GROUPS[:2], GROUPS[2])
    else:
        raise UserError(f"unknown data.groups {rule!r}: known are {', '.join(GROUP_RULES)}")
    return tuple(str(name) for name in names)


def list_hash(ids: Iterable[str]) -> str:
    """What names a list of examples, whatever its order: 64 hexadecimal digits.

    SHA-256 of the ids sorted by code point and joined by a newline, none at the end, in UTF-8. In a shell, with one
    id a line: `LC_ALL=C sort ids | head -c -1 | sha256sum`.
    """
    return hashlib.sha256("\n".join(sorted(ids)).encode()).hexdigest()
