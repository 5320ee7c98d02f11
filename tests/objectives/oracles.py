"""The objectives as their papers write them, in loops of plain NumPy, and the table of cases they are held against.

The gradient of an oracle is taken by the complex step, f(x + ih).imag / h: no difference of two near numbers is in it,
so it is exact to rounding. What a paper holds constant is `stopped`: its real part.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import numpy as np

from sdclr_jax import objectives

stopped = np.real


def gradients(paper: Callable, arrays: list[np.ndarray]) -> list[np.ndarray]:
    step = 1e-100
    found = []
    for side, array in enumerate(arrays):
        gradient = np.zeros(array.shape)
        for index in np.ndindex(array.shape):
            moved = [x.astype(np.complex128) for x in arrays]
            moved[side][index] += 1j * step
            gradient[index] = np.imag(paper(*moved)) / step
        found.append(gradient)
    return found


def cosine(x, y):
    product = np.sqrt(x @ x) * np.sqrt(y @ y)
    return x @ y / product if product else product


def nt_xent(z_a, z_b, temperature):
    """Chen et al. 2020, Eq. 1, mean over the 2N anchors."""
    z = np.concatenate([z_a, z_b])
    n = len(z_a)
    total = 0.0
    for i in range(2 * n):
        similar = [np.exp(cosine(z[i], z[k]) / temperature) for k in range(2 * n)]
        total += -np.log(similar[(i + n) % (2 * n)] / (sum(similar) - similar[i]))
    return total / (2 * n)


def info_nce(query, key, queue, temperature):
    """He et al. 2020, Eq. 1; neither the keys nor the queue receive gradient."""
    key, queue = stopped(key), stopped(queue)
    total = 0.0
    for q, positive in zip(query, key, strict=True):
        right = np.exp(cosine(q, positive) / temperature)
        total += -np.log(right / (right + sum(np.exp(cosine(q, k) / temperature) for k in queue)))
    return total / len(query)


def byol(prediction, target):
    """Grill et al. 2020, Eq. 2."""
    return sum(2 - 2 * cosine(q, z) for q, z in zip(prediction, stopped(target), strict=True)) / len(prediction)


def simsiam(prediction, projection):
    """Chen and He 2021, Eq. 1."""
    return sum(-cosine(p, z) for p, z in zip(prediction, stopped(projection), strict=True)) / len(prediction)


def sinkhorn(scores, epsilon, iterations):
    """Caron et al. 2020, appendix A: Q is [K, N]; rows are prototypes and come first."""
    q = np.exp(scores / epsilon).T
    q = q / q.sum()
    prototypes, samples = q.shape
    for _ in range(iterations):
        for k in range(prototypes):
            q[k] = q[k] / q[k].sum() / prototypes
        for n in range(samples):
            q[:, n] = q[:, n] / q[:, n].sum() / samples
    return (q * samples).T


def swav(scores_a, scores_b, temperature=0.1, epsilon=0.05, iterations=3):
    """Caron et al. 2020, Eq. 1 and 2; half of it, so that it is a mean over the two."""
    total = 0.0
    for scores, other in ((scores_a, scores_b), (scores_b, scores_a)):
        codes = sinkhorn(stopped(other), epsilon, iterations)
        for n in range(len(scores)):
            powers = np.exp(scores[n] / temperature)
            for k in range(scores.shape[1]):
                total += -codes[n, k] * np.log(powers[k] / powers.sum())
    return total / len(scores_a) / 2


def barlow_twins(z_a, z_b, redundancy=0.0051):
    """Zbontar et al. 2021, Eq. 1 and 2, on embeddings that batch norm (biased variance, 1e-5) has standardised."""
    n, dimensions = z_a.shape
    a, b = np.zeros_like(z_a), np.zeros_like(z_b)
    for z, standardised in ((z_a, a), (z_b, b)):
        for d in range(dimensions):
            mean = z[:, d].sum() / n
            variance = ((z[:, d] - mean) ** 2).sum() / n
            standardised[:, d] = (z[:, d] - mean) / np.sqrt(variance + 1e-5)
    total = 0.0
    for i in range(dimensions):
        for j in range(dimensions):
            c = sum(a[m, i] * b[m, j] for m in range(n)) / n
            total += (1 - c) ** 2 if i == j else redundancy * c**2
    return total


def unbiased_covariance(z):
    n, dimensions = z.shape
    mean = z.sum(axis=0) / n
    matrix = np.zeros((dimensions, dimensions), z.dtype)
    for row in z:
        for i in range(dimensions):
            for j in range(dimensions):
                matrix[i, j] += (row[i] - mean[i]) * (row[j] - mean[j]) / (n - 1)
    return matrix


def whiten(z, shrinkage=0.0):
    """Ermolov et al. 2021, section 3: W (z - mean) with W the inverse of the Cholesky factor of the covariance."""
    n, dimensions = z.shape
    s = (1 - shrinkage) * unbiased_covariance(z) + shrinkage * np.eye(dimensions)
    factor = np.zeros_like(s)
    for j in range(dimensions):
        factor[j, j] = np.sqrt(s[j, j] - sum(factor[j, k] ** 2 for k in range(j)))
        for i in range(j + 1, dimensions):
            factor[i, j] = (s[i, j] - sum(factor[i, k] * factor[j, k] for k in range(j))) / factor[j, j]
    white = np.zeros_like(z)
    mean = z.sum(axis=0) / n
    for m in range(n):
        for i in range(dimensions):
            known = sum(factor[i, k] * white[m, k] for k in range(i))
            white[m, i] = (z[m, i] - mean[i] - known) / factor[i, i]
    return white


def wmse(z_a, z_b, shrinkage=0.0):
    """Ermolov et al. 2021: squared distances of whitened embeddings at unit length; gradient to both."""
    pairs = zip(whiten(z_a, shrinkage), whiten(z_b, shrinkage), strict=True)
    return sum(2 - 2 * cosine(a, b) for a, b in pairs) / len(z_a)


def vicreg(z_a, z_b, invariance=25.0, variance=25.0, covariance=1.0):
    """Bardes et al. 2022, Eq. 1 to 6, with the mean square and the half on each variance term of the authors' code."""
    n, dimensions = z_a.shape
    loss = 0.0
    for a, b in zip(z_a, z_b, strict=True):
        loss += invariance * ((a - b) ** 2).sum() / n / dimensions
    for z in (z_a, z_b):
        matrix = unbiased_covariance(z)
        for i in range(dimensions):
            gap = 1 - np.sqrt(matrix[i, i] + 1e-4)
            loss += variance * (gap if gap.real > 0 else 0) / dimensions / 2
            for j in range(dimensions):
                loss += covariance * matrix[i, j] ** 2 / dimensions if i != j else 0
    return loss


class Case(NamedTuple):
    """An objective with its settings, its oracle, its value at all-zero inputs, and what does not change it."""

    objective: Callable
    paper: Callable
    zeros: float
    unchanged_by: tuple[str, ...] = ()
    queue: bool = False


def case(name, *, zeros, unchanged_by=(), paper=None, queue=False, **settings):
    """`settings` go to both, `chunk` to the objective alone."""
    shared = {k: v for k, v in settings.items() if k != "chunk"}
    return Case(
        partial(getattr(objectives, name), **settings),
        partial(paper or globals()[name], **shared),
        zeros,
        unchanged_by,
        queue,
    )


N, D, QUEUE = 8, 3, 16  # a row a device
NT = {"zeros": np.log(2 * N - 1), "unchanged_by": ("swap", "row scale")}
CASES = {
    "nt_xent": case("nt_xent", temperature=0.2, **NT),
    # 5 does not divide the 16 rows
    "nt_xent_chunked": case("nt_xent_chunked", temperature=0.5, chunk=5, paper=nt_xent, **NT),
    "info_nce": case("info_nce", temperature=0.2, zeros=np.log(1 + QUEUE), unchanged_by=("row scale",), queue=True),
    "byol": case("byol", zeros=2.0, unchanged_by=("row scale",)),
    "simsiam": case("simsiam", zeros=0.0, unchanged_by=("row scale",)),
    "swav": case("swav", zeros=np.log(D), unchanged_by=("swap", "common shift")),
    "swav settings": case("swav", temperature=0.3, epsilon=0.2, iterations=2, zeros=np.log(D), unchanged_by=("swap",)),
    "barlow_twins": case("barlow_twins", zeros=D, unchanged_by=("swap", "column scale")),
    "barlow_twins redundancy": case("barlow_twins", redundancy=0.5, zeros=D, unchanged_by=("swap", "column scale")),
    "wmse": case("wmse", zeros=2.0, unchanged_by=("swap", "column scale")),
    "wmse shrinkage": case("wmse", shrinkage=0.2, zeros=2.0, unchanged_by=("swap", "common shift")),
    "vicreg": case("vicreg", zeros=25 * 0.99, unchanged_by=("swap", "common shift")),
    "vicreg weights": case(
        "vicreg", invariance=0.5, variance=2.0, covariance=3.0, zeros=2 * 0.99, unchanged_by=("swap", "common shift")
    ),
}
# Compiled once for each type and sharding of the inputs.
COMPILED = {
    name: jax.jit(jax.value_and_grad(c.objective, argnums=tuple(range(2 + c.queue)))) for name, c in CASES.items()
}


def inputs(name: str, seed: int = 0, dtype=np.float64) -> list[np.ndarray]:
    """Two views that have something to do with each other, and a queue where the objective has one."""
    rng = np.random.default_rng(seed)
    a = rng.standard_normal((N, D))
    b = a + rng.standard_normal((N, D))
    arrays = [0.8 * a, 0.8 * b] + ([rng.standard_normal((QUEUE, D))] if CASES[name].queue else [])
    return [x.astype(dtype) for x in arrays]
