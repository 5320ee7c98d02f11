"""Pruning-identified exemplars: the images whose representation pruning changes most, and who they are.

Hooker et al., What Do Compressed Deep Neural Networks Forget?, 2019 (arXiv:1911.05248), Section 2, calls exemplars the
images on which pruned and whole networks disagree. Without labels there is no prediction to disagree on, so
disagreement is a score here, as in Jiang et al., ICML 2021, Section 3.1: the more the representation changes, the more
an image is forgotten. All functions are NumPy on the host.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float, Integer
from scipy import stats

from sdclr_jax.errors import ArgumentError
from sdclr_jax.records.exemplars import Agreement, Drift, Forgotten, GroupShare, Interval, Overlap

FRACTIONS = (0.01, 0.05, 0.1)  # of the images, those with the highest scores: the forgotten set
CONFIDENCE = 0.95  # of every interval


def size(images: int, fraction: float) -> int:
    """Images in the forgotten set: that fraction of all, rounded up."""
    return math.ceil(fraction * images - 1e-9)  # 0.07 * 100 is 7.000000000000001


def order(scores: Float[np.ndarray, " N"]) -> Integer[np.ndarray, " N"]:
    """Indices [N], the most forgotten image first; images of equal score keep their order.

    Raises:
        ArgumentError: a score is not finite, so the images cannot be ranked.
    """
    if not np.isfinite(scores).all():
        raise ArgumentError(
            "scores",
            f"are not finite for {np.count_nonzero(~np.isfinite(scores))} of {len(scores)} images, so these have no "
            "rank: the pruned network breaks down at this rate",
        )
    return np.argsort(-scores, kind="stable")


def membership(scores: Float[np.ndarray, " N"], fraction: float) -> Float[np.ndarray, " N"]:
    """How much each image [N] belongs to the forgotten set: 1 or 0, and where images tie at its border, the chance to
    be in it if ties were broken at random. The sum is `size(N, fraction)`; equal scores say nothing about anybody.
    """
    k = size(len(scores), fraction)
    border = scores[order(scores)[k - 1]]
    above, tied = scores > border, scores == border
    return np.where(above, 1.0, np.where(tied, (k - np.count_nonzero(above)) / np.count_nonzero(tied), 0.0))


def share(scores: Float[np.ndarray, " N"], member: Bool[np.ndarray, " N"], fraction: float) -> Interval:
    """Share of a group in the forgotten set; `expected` is its share in the data.

    The null model is that scores are exchangeable between images: any set of that size is as likely. The members in it
    then follow the hypergeometric distribution, which is what shuffled scores would estimate, without their noise.
    The interval is of one share; of twenty shares that mean nothing, one lies outside all the same. Nor does a share
    outside say that rarity is the reason: see `class_share`.

    Args:
        scores: [N].
        member: bool [N], the group's images.
        fraction: of the images, in the forgotten set.
    """
    k = size(len(scores), fraction)
    low, high = _chance(len(scores), int(np.count_nonzero(member)), k)
    found = float(membership(scores, fraction) @ member) / k
    return Interval(share=found, expected=float(np.mean(member)), low=low / k, high=high / k)


def class_share(
    scores: Float[np.ndarray, " N"], labels: Integer[np.ndarray, " N"], classes: Sequence[int], fraction: float
) -> Interval:
    """Share of a class's images that is forgotten, mean over a group's classes.

    The null model is that the group is any choice of as many classes. Images of one class are forgotten alike, so a
    few classes can stray far from their share by what they show and not by how rare they are: where `share` lies beyond
    chance and this within it, one run cannot distinguish the two, but several can whose classes stand in different
    orders. With few classes this interval is wide: for ten, one of 252 halves is the most forgotten.

    Args:
        scores: [N].
        labels: int [N].
        classes: the group's; those without images are left out.
        fraction: of the images, in the forgotten set.

    Returns:
        An Interval, whose `expected` is the mean over all classes.
    """
    present, of = np.unique(labels, return_inverse=True)
    rates = np.bincount(of, membership(scores, fraction)) / np.bincount(of)
    member = np.isin(present, classes)
    null = _choices(len(present), int(member.sum())) @ rates / member.sum()
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(null, tail, method="lower"), np.quantile(null, 1 - tail, method="higher")
    # Sums in another order differ in the last digit, which is not beyond chance.
    found, expected, low, high = (round(float(x), 12) for x in (rates[member].mean(), rates.mean(), low, high))
    return Interval(share=found, expected=expected, low=low, high=high)


@lru_cache
def _choices(total: int, chosen: int) -> np.ndarray:
    """Choices of so many of so many, float64 [M, total] of 0 and 1: all of them, or 2,000 random ones of more."""
    if math.comb(total, chosen) <= 2000:
        rows = np.array(list(itertools.combinations(range(total), chosen)))
    else:
        rng = np.random.default_rng(0)
        rows = np.stack([rng.permutation(total)[:chosen] for _ in range(2000)])
    choices = np.zeros((len(rows), total))
    np.put_along_axis(choices, rows, 1, axis=1)
    return choices


def shares(scores: np.ndarray, labels: np.ndarray, groups: Mapping[str, Sequence[int]]) -> tuple[Forgotten, ...]:
    """`share` and, as `by_class`, `class_share` of each group of classes at each of `FRACTIONS`.

    `groups` names the classes of each; one without an image is left out.
    """
    members = {name: np.isin(labels, classes) for name, classes in groups.items()}
    return tuple(
        Forgotten(
            fraction=fraction,
            images=size(len(scores), fraction),
            groups={
                name: GroupShare(
                    **vars(share(scores, member, fraction)),
                    by_class=class_share(scores, labels, groups[name], fraction),
                )
                for name, member in members.items()
                if member.any()
            },
        )
        for fraction in FRACTIONS
    )


def overlap(a: Float[np.ndarray, " N"], b: Float[np.ndarray, " N"], fraction: float) -> Overlap:
    """Overlap of the forgotten sets that two scorings [N] of the same images make.

    Chance is two random sets of k of N images: again hypergeometric. Jaccard grows with the shared images, so the
    borders of one interval are those of the other.
    """
    k = size(len(a), fraction)
    # Of two sets with ties at the border, the chances of an image to be in either multiply.
    shared = float(membership(a, fraction) @ membership(b, fraction))
    low, high = _chance(len(a), k, k)
    jaccard, expected, lowest, highest = (x / (2 * k - x) for x in (shared, k * k / len(a), low, high))
    return Overlap(
        fraction=fraction, images=k, shared=shared, jaccard=jaccard, expected=expected, low=lowest, high=highest
    )


def overlaps(a: np.ndarray, b: np.ndarray) -> Agreement:
    """Rank correlation (Spearman; None where one of them is constant) and `overlap` at each of `FRACTIONS`."""
    constant = np.ptp(a) == 0 or np.ptp(b) == 0
    return Agreement(
        rank_correlation=None if constant else float(stats.spearmanr(a, b).statistic),
        sets=tuple(overlap(a, b, fraction) for fraction in FRACTIONS),
    )


def _chance(images: int, marked: int, drawn: int) -> tuple[int, int]:
    """Central interval of how many marked ones a random draw without replacement holds."""
    low, high = stats.hypergeom.interval(CONFIDENCE, images, marked, drawn)
    return int(low), int(high)


def drift(a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray]) -> Drift:
    """How far two masks, bool arrays by layer, keep the same weights.

    `jaccard` is what both keep over what one or the other keeps; `chance` the same, in expected numbers, for weights
    placed at random within each layer. That null keeps the layers' densities, in which two magnitude masks of one
    network agree anyhow.
    """
    both = sum(np.count_nonzero(a[layer] & b[layer]) for layer in a)
    either = sum(np.count_nonzero(a[layer] | b[layer]) for layer in a)
    random = sum(a[layer].mean() * b[layer].mean() * a[layer].size for layer in a)
    kept = sum(np.count_nonzero(a[layer]) + np.count_nonzero(b[layer]) for layer in a)
    return Drift(jaccard=both / either, chance=float(random / (kept - random)))
