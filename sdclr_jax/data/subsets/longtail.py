"""The subsets of a data set that a run trains on, and its classes' groups many, medium and few.

The subsets are those of Jiang et al., Self-Damaging Contrastive Learning, ICML 2021, Section 4.1; the groups by
counts are those of Liu et al., Large-Scale Long-Tailed Recognition in an Open World (OLTR), CVPR 2019.
"""

import hashlib
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from sdclr_jax.data.subsets.profiles import PARETO, class_counts
from sdclr_jax.data.targets import are_attributes
from sdclr_jax.errors import ArgumentError
from sdclr_jax.records import GROUPS

GROUP_RULES = ("thirds", "counts")


class Subsets(NamedTuple):
    """Who trains on what. Index arrays into the training examples are int64, ascending and without repeats."""

    long_tail: np.ndarray  # pretraining: a long-tailed profile over `class_order`
    balanced: np.ndarray  # pretraining: the same number a class, the mean of long_tail rounded down; or empty
    few_shot: np.ndarray  # labelled images of the few-shot probe, the same number a class
    probe_train: np.ndarray  # labelled images of the full probe: all but validation
    validation: np.ndarray  # for choosing the probe, in no other subset
    class_order: np.ndarray  # int64 [C], class labels, most frequent class of long_tail first
    train_counts: np.ndarray  # int64 [C], images in long_tail, by class label; of attributes, those that have it


def draw(
    labels: np.ndarray,
    *,
    num_classes: int,
    n_max: int,
    imbalance: float,
    validation_per_class: int,
    few_shot_per_class: int,
    seed: int,
    profile: str = "exponential",
    pareto: tuple[float, float] = PARETO,
    held_out: np.ndarray | None = None,
) -> Subsets:
    """The subsets of one split seed, a function of the arguments alone.

    The seed puts the classes in an order, and the images of each class. Validation takes the last images of a class,
    the other subsets the first ones, as many as they need: the authors' published lists overlap in the same way. So
    no subset but probe_train depends on the size of another, a more imbalanced long tail lies within a less
    imbalanced one, and of each class the few-shot images lie within long_tail, or hold all it has.

    With the profiles 'exponential' and 'pareto', the long tail is cut out of the data set (Jiang et al., Section 4.1).
    A frequent rank goes to the first class in the seed's order that has images enough for it.

    With 'as_is', it is what there is: all images but those for validation, which are at most a fifth of each class;
    few_shot is what there is where that is less. The balanced twin is empty where a class is too small for it.
    Attributes, and no labels, can be had with 'as_is' only. Attributes: validation and few_shot have as many images as
    classes would, chosen without regard to labels, and there is no twin. No labels: long_tail has all images but those
    for validation, which are not drawn.

    Args:
        labels: of Examples, in the order of the examples' ids.
        num_classes: C; labels of classes are 0..C-1.
        n_max, imbalance, profile, pareto: see `profiles.class_counts`; the first two are not read with 'as_is'.
        validation_per_class: at least 1.
        few_shot_per_class: at least 1.
        seed: at least 0.
        held_out: bool [N], the images for validation, in place of any drawn.

    Raises:
        ArgumentError: an argument out of range, or a class with too few images.
    """
    for argument, value, least in (
        ("validation_per_class", validation_per_class, 1),
        ("few_shot_per_class", few_shot_per_class, 1),
        ("seed", seed, 0),
    ):
        if value < least:
            raise ArgumentError(argument, f"is {value}: it must be at least {least}")
    held_out = np.zeros(len(labels), bool) if held_out is None else held_out
    if profile != "as_is" and (are_attributes(labels) or num_classes == 0):
        what = "attributes" if are_attributes(labels) else "no labels"
        raise ArgumentError("profile", f"is {profile!r}, but the images have {what}: set it to 'as_is'")
    if are_attributes(labels):
        return _of_attributes(labels, validation_per_class, few_shot_per_class, seed, held_out)
    if num_classes == 0:
        none, rows, kept = np.empty(0, np.int64), np.flatnonzero(~held_out), np.flatnonzero(held_out)
        return Subsets(rows, none, none, none, kept, class_order=none, train_counts=none)

    # Of each class: images to train on, in the seed's order; those for validation; and how many these should be.
    images, kept, keep = [], [], []
    for c, of_class in enumerate(_by_class(labels, num_classes)):
        if held_out.any():
            kept.append(of_class[held_out[of_class]])
            keep.append(len(kept[c]))
            of_class = of_class[~held_out[of_class]]
            images.append(of_class[_permutation(len(of_class), seed, 1, c)])
        else:
            of_class = of_class[_permutation(len(of_class), seed, 1, c)]
            keep.append(validation_per_class if profile != "as_is" else min(validation_per_class, len(of_class) // 5))
            usable = max(len(of_class) - keep[c], 0)
            images.append(of_class[:usable])
            kept.append(of_class[usable:])
    sizes = np.array([len(rows) for rows in images])
    order = _permutation(num_classes, seed, 0)
    if profile == "as_is":
        class_order, train_counts = order[np.argsort(-sizes[order], kind="stable")], sizes
    else:
        counts = class_counts(n_max, imbalance, num_classes, profile, pareto)
        class_order = _fitting(order, counts, sizes)
        train_counts = counts[np.argsort(class_order)]  # the inverse permutation: each class's rank
    balanced_counts = np.full(num_classes, train_counts.sum() // num_classes)
    few_shot_counts = np.full(num_classes, few_shot_per_class)
    if profile == "as_is":
        few_shot_counts = np.minimum(few_shot_counts, sizes)
        if np.any(balanced_counts > sizes):
            balanced_counts[:] = 0
    else:
        needs = np.maximum(train_counts, balanced_counts)
        _check_sizes(np.bincount(labels, minlength=num_classes), keep, needs, few_shot_per_class)

    def first(counts: np.ndarray) -> np.ndarray:
        return np.sort(np.concatenate([rows[:n] for rows, n in zip(images, counts, strict=True)]))

    return Subsets(
        long_tail=first(train_counts),
        balanced=first(balanced_counts),
        few_shot=first(few_shot_counts),
        probe_train=first(sizes),
        validation=np.sort(np.concatenate(kept)),
        class_order=class_order,
        train_counts=train_counts,
    )


def _fitting(order: np.ndarray, counts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Classes by rank: each rank's is the first one in `order` that is free and large enough.

    Ranks come with their needs descending, so a class that fits one of them fits all later ones, and taking the first
    one is safe. Where none fits, the next one in the order is taken, and is told of later.
    """
    free, chosen = order.tolist(), []
    for need in counts.tolist():
        fits = next((c for c in free if sizes[c] >= need), free[0])
        free.remove(fits)
        chosen.append(fits)
    return np.array(chosen, np.int64)


def _check_sizes(sizes: np.ndarray, keep: list[int], needs: np.ndarray, few_shot: int) -> None:
    for c, (size, validation) in enumerate(zip(sizes.tolist(), keep, strict=True)):
        for argument, need in (("n_max", needs[c]), ("few_shot_per_class", few_shot)):
            if need > size - validation:
                raise ArgumentError(
                    argument,
                    f"is too large: class {c} has {size} training images and needs {need + validation}, {validation} "
                    "of them for validation: lower it or validation_per_class",
                )


def _of_attributes(
    labels: np.ndarray, validation_per_class: int, few_shot_per_class: int, seed: int, held_out: np.ndarray
) -> Subsets:
    rows = np.flatnonzero(~held_out)
    rows = rows[_permutation(len(rows), seed, 1)]
    number = 0 if held_out.any() else min(validation_per_class * labels.shape[1], len(rows) // 5)
    usable = len(rows) - number
    train_counts = labels[rows[:usable]].sum(axis=0, dtype=np.int64)
    return Subsets(
        long_tail=np.sort(rows[:usable]),
        balanced=np.empty(0, np.int64),
        few_shot=np.sort(rows[: min(few_shot_per_class * labels.shape[1], usable)]),
        probe_train=np.sort(rows[:usable]),
        validation=np.sort(rows[usable:]) if number else np.flatnonzero(held_out),
        class_order=np.argsort(-train_counts, kind="stable"),
        train_counts=train_counts,
    )


def first_of_classes(labels: np.ndarray, among: np.ndarray | None, counts: np.ndarray, seed: int) -> np.ndarray:
    """So many images of each class, int [C], the first ones in the seed's order of those `among`, bool [N], or of all:
    rows, ascending; none at all where a class has too few."""
    parts = []
    for c, (n, rows) in enumerate(zip(counts, _by_class(labels, len(counts)), strict=True)):
        rows = rows if among is None else rows[among[rows]]
        if n > len(rows):
            return np.empty(0, np.int64)
        parts.append(rows[_permutation(len(rows), seed, 1, c)][:n])
    return np.sort(np.concatenate(parts))


def _by_class(labels: np.ndarray, num_classes: int) -> list[np.ndarray]:
    """The rows of each class, ascending."""
    return np.split(np.argsort(labels, kind="stable"), np.cumsum(np.bincount(labels, minlength=num_classes))[:-1])


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
        ArgumentError: unknown rule.
    """
    counts = np.asarray(counts)
    if rule == "thirds":
        names = np.empty(len(counts), object)
        for name, part in zip(GROUPS, np.array_split(np.argsort(-counts, kind="stable"), 3), strict=True):
            names[part] = name
    elif rule == "counts":
        names = np.select([counts > 100, counts >= 20], GROUPS[:2], GROUPS[2])
    else:
        raise ArgumentError("rule", f"is {rule!r}: known are {', '.join(GROUP_RULES)}")
    return tuple(str(name) for name in names)


def list_hash(ids: Iterable[str]) -> str:
    """What names a list of examples, whatever its order: 64 hexadecimal digits.

    SHA-256 of the ids sorted by code point and joined by a newline, none at the end, in UTF-8. In a shell, with one
    id a line: `LC_ALL=C sort ids | head -c -1 | sha256sum`.
    """
    return hashlib.sha256("\n".join(sorted(ids)).encode()).hexdigest()
