"""How many images the classes of a long tail have, most frequent class first."""

import math

import numpy as np

from sdclr_jax.errors import ArgumentError

PROFILES = ("exponential", "pareto", "as_is")  # 'as_is': what the data set has, so nothing to compute
PARETO = (6.0, 0.43366)  # power, and scale as a share of n_max: of ImageNet-LT


def class_counts(
    n_max: int, imbalance: float, num_classes: int, profile: str = "exponential", pareto: tuple[float, float] = PARETO
) -> np.ndarray:
    """Images of each class.

    `exponential` (Jiang et al., Self-Damaging Contrastive Learning, ICML 2021, Section 4.1): class k of C has
    floor(n_max * imbalance ** (-k / (C - 1))).

    `pareto` (Liu et al., Large-Scale Long-Tailed Recognition in an Open World, CVPR 2019, Section 5.1: "ImageNet-LT
    follows Pareto distribution with power value 6"): counts at evenly spaced quantiles of the Lomax distribution, that
    of NumPy's `pareto`, cut to n_max .. n_max / imbalance. Its survival function is S(n) = (1 + n / scale) ** -power;
    class k has the n of S(n) = S(n_max) + k / (C - 1) * (S(n_max / imbalance) - S(n_max)), rounded down. The authors
    drew theirs at random and give no scale. The default scale makes 1,000 classes of 1,280 to 5 images 115,843 in all,
    for 115,846 as published; against the 100 classes of the published ImageNet-100-LT it then has 12,213 images for
    12,205, and is off by 3.0 images a class in the mean, by 45 at most, in the second class (634 for 679).

    Args:
        n_max: images of the most frequent class, at least 1.
        imbalance: n_max over the images of the rarest class, at least 1; at 1 all classes are equal.
        num_classes: C, at least 1.
        profile: 'exponential' or 'pareto'.
        pareto: power and scale, the latter as a share of n_max; both above 0.

    Returns:
        int64 [C], descending.

    Raises:
        ArgumentError: an argument out of range, or a class left without an image.
    """
    if n_max < 1:
        raise ArgumentError("n_max", f"is {n_max}: it must be at least 1 image")
    if not 1 <= imbalance < math.inf:
        raise ArgumentError("imbalance", f"is {imbalance}: it must be a number of at least 1")
    rank = np.arange(num_classes) / max(num_classes - 1, 1)
    if profile == "exponential":
        exact = n_max * float(imbalance) ** -rank
    elif profile == "pareto":
        exact = _pareto(rank, n_max, n_max / imbalance, pareto)
    else:
        raise ArgumentError("profile", f"is {profile!r}: known are {', '.join(PROFILES)}")
    # Where the formula gives a whole number, floats may stay a hair below it: 100 * 32 ** -0.4 is 24.999999999999996.
    counts = np.floor(exact * (1 + 1e-12)).astype(np.int64)
    if counts[-1] < 1:
        raise ArgumentError(
            "imbalance",
            f"is {imbalance}, which with n_max {n_max} leaves class {np.argmin(counts > 0)} of {num_classes}, by "
            "frequency from 0, without an image: lower it or raise n_max",
        )
    return counts


def _pareto(rank: np.ndarray, most: float, least: float, pareto: tuple[float, float]) -> np.ndarray:
    if len(pareto) != 2 or not all(0 < value < math.inf for value in pareto):
        raise ArgumentError("pareto", f"is {pareto}: it must be a power and a scale, both above 0")
    power, scale = pareto[0], pareto[1] * most
    top, bottom = ((1 + n / scale) ** -power for n in (most, least))
    return scale * ((top + rank * (bottom - top)) ** (-1 / power) - 1)
