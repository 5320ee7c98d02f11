"""Signs of collapse in a batch of embeddings, without labels, and what they say (`warnings`).

Embeddings are [N, D], measured as they are, in float32; others are refused with an ArgumentError. What can be seen in N
images is bounded by N: a rank by min(N, D), the prototypes in use by N.
"""

from collections.abc import Collection, Mapping
from itertools import groupby
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from sdclr_jax.evaluation.features import unit
from sdclr_jax.objectives.vectors import check_alike

# Healthy runs below are of SimCLR, SDCLR, SwAV and VICReg on long-tailed digits, 64 to 256 dimensions, batches of 64;
# the others are of VICReg in experiments/lists/vicreg_ablation.toml.
#
# Share of an even spread's standard deviation: at 0.1 two images have a mean cosine of at least 1 - 0.1 ** 2 = 0.99.
# Healthy runs were never below 0.23 (SwAV, step 40).
POINT = 0.1
# Alignment ratio, once half of the training and 200 steps are done: a healthy start may be at 1, and BYOL was still
# above 0.8 after 120 steps. The sixteen healthy runs of docs/healthy.md, of 522 steps each, were at 0.24 to 0.71 then.
# Without the variance term it was 0.74 to 0.91 there, and 0.6 to 0.9 on digits; without the stop-gradient 0.78 to 1.
NOT_TOLD_APART, AFTER, AFTER_STEPS = 0.75, 0.5, 200
# Share of min(N, P) directions. Healthy runs were never below 0.11; without the covariance term it was 0.03 after 60
# steps.
FEW_DIRECTIONS = 0.05
# Of the prototypes that a batch could use. Images spread over a tenth of them at random still use more.
FEW_PROTOTYPES = 0.05

# What to look at first, by objective: advice on fields of the config.
_RATE = "try a lower optimizer.learning_rate or a longer optimizer.warmup_epochs"
# Both a temperature that is too high and one that is too low do it (docs/healthy.md has a run with 0.01).
_TEMPERATURE = "try another objective.temperature (published recipes have 0.07 to 0.5)"
TO_ONE_POINT = {
    "vicreg": "raise objective.variance, which keeps images apart",
    "byol": f"bring target.momentum nearer to 1, and {_RATE}",
    "simsiam": f"see that predictor.layers is above 0, and {_RATE}",
}
TO_FEW_DIRECTIONS = {
    "vicreg": "raise objective.covariance, which keeps dimensions from saying the same",
    "barlow_twins": "raise objective.redundancy, which keeps dimensions from saying the same",
    "nt_xent": f"{_TEMPERATURE}, or a larger batch_size",
    "info_nce": f"{_TEMPERATURE}, or a longer objective.queue",
}
TO_FEW_PROTOTYPES = "lower objective.epsilon or raise batch_size, so that images are shared out more evenly"
DAMAGE = "the other branches are healthy, so prune.rate is likely too high: lower it"

Pairs = tuple[tuple[tuple[str, int], tuple[str, int]], ...]


def spread(z: Float[ArrayLike, "N D"]) -> Float[Array, ""]:
    """Mean over the dimensions of the standard deviation of unit-length embeddings (Chen and He, CVPR 2021, Figure 2).

    Its largest value, 1 / sqrt(D), means directions spread evenly around the origin; 0 is a collapse to one point.

    >>> round(float(spread(np.array([[1, 0], [-1, 0], [0, 1], [0, -1]], np.float32))), 3)  # 1 / sqrt(2)
    0.707
    """
    check_alike(z=z)
    return jnp.mean(jnp.std(unit(z), axis=0))


def effective_rank(z: Float[ArrayLike, "N D"]) -> Float[Array, ""]:
    """RankMe (Garrido et al., ICML 2023, Eq. 1): exp(-sum_k p_k log p_k), from 1 to min(N, D).

    p_k = s_k / sum_j s_j + 1e-7, with s the singular values of `z`, which is not centred. Scaling `z` and rotating it
    change nothing.

    >>> [round(float(effective_rank(z)), 3) for z in (np.eye(4, dtype=np.float32), np.ones((4, 4), np.float32))]
    [4.0, 1.0]
    """
    check_alike(z=z)
    # Not from the eigenvalues of z^T z, cheap as those are: their rounding would stand for hundreds of directions.
    s = jnp.linalg.svd(z.astype(jnp.float32), compute_uv=False)
    p = s / jnp.maximum(jnp.sum(s), jnp.finfo(jnp.float32).tiny) + 1e-7
    return jnp.exp(-jnp.sum(p * jnp.log(p)))


def alignment(z_a: Float[ArrayLike, "N D"], z_b: Float[ArrayLike, "N D"]) -> Float[Array, ""]:
    """Mean squared distance of the two views of an image (Wang and Isola, ICML 2020, Section 4.1.1, alpha = 2).

    Embeddings are brought to unit length; 0 is best, 2 what unrelated directions have.

    >>> round(float(alignment(np.array([[2.0, 0.0]], np.float32), np.array([[0.0, 3.0]], np.float32))), 3)
    2.0
    """
    check_alike(z_a=z_a, z_b=z_b)
    return jnp.mean(jnp.sum((unit(z_a) - unit(z_b)) ** 2, axis=1))


def alignment_ratio(z_a: Float[ArrayLike, "N D"], z_b: Float[ArrayLike, "N D"]) -> Float[Array, ""]:
    """`alignment` over the mean squared distance of views of two images: 0 is best, at 1 a view does not tell which
    image it is of. It sees a collapse to one point also where unit length blows up what is left of it. Raises
    ArgumentError where there is one image alone.

    >>> z = np.array([[1, 0], [0, 1]], np.float32)
    >>> [round(float(alignment_ratio(z, other)), 3) for other in (z, np.ones((2, 2), np.float32))]
    [0.0, 1.0]
    """
    check_alike(rows=2, z_a=z_a, z_b=z_b)
    z_a, z_b = unit(z_a), unit(z_b)
    distances = 2 - 2 * jnp.matmul(z_a, z_b.T, precision="highest")
    different = ~jnp.eye(len(z_a), dtype=bool)
    # The floor is float32's rounding: where all is one point, all is as near as all else.
    return (alignment(z_a, z_b) + 1e-6) / (jnp.mean(distances, where=different) + 1e-6)


def uniformity(z: Float[ArrayLike, "N D"]) -> Float[Array, ""]:
    """log of the mean of exp(-2 |x - y|^2) over pairs of two images (Wang and Isola, ICML 2020, Section 4.1.2, t = 2).

    Embeddings are brought to unit length; 0 is one point, about -4 directions spread evenly in many dimensions. Raises
    ArgumentError where there is one image alone.

    >>> round(float(uniformity(np.array([[1, 0], [-1, 0]], np.float32))), 3)  # two opposite points: -2 * 2 ** 2
    -8.0
    """
    check_alike(rows=2, z=z)
    z = unit(z)
    cosines = jnp.matmul(z, z.T, precision="highest")
    similar = jnp.exp(-4 * (1 - cosines))  # |x - y|^2 = 2 - 2 x.y
    different = ~jnp.eye(len(z), dtype=bool)
    return jnp.log(jnp.mean(similar, where=different))


def prototype_usage(scores: Float[ArrayLike, "N K"]) -> Float[Array, ""]:
    """How evenly images spread over K prototypes, by the one nearest to each: `scores` [N, K] -> 1 / min(N, K) to 1.

    The perplexity exp(H) of the share of images that each prototype has, over the most that it could be.

    >>> scores = np.array([[0.9, 0.1, 0.2], [0.8, 0.0, 0.1], [0.7, 0.2, 0.3]], np.float32)  # all nearest to the first
    >>> round(float(prototype_usage(scores)), 3)
    0.333
    """
    check_alike(scores=scores)
    n, k = scores.shape
    share = jnp.mean(jax.nn.one_hot(jnp.argmax(scores, axis=1), k), axis=0)
    return jnp.exp(-jnp.sum(jax.scipy.special.xlogy(share, share))) / min(n, k)


def measure(outputs: Mapping[tuple[str, int], Any], pairs: Pairs) -> dict[str, jax.Array]:
    """All of these as named scalars, for a line of metrics.

    Args:
        outputs: (branch, view) -> `features` [N, D] and `projection` [N, P]; and `prediction` [N, P] and `prototypes`
            [P, K], or None where there are none. Views of one branch are averaged, so that branches which see one and
            two of them can be compared.
        pairs: what is compared with what, for `alignment` and its ratio, which are averaged over them: the prediction
            of the first side, where there is one, and else its projection, with the projection of the second.

    >>> from sdclr_jax.models import Outputs
    >>> z = np.eye(4, dtype=np.float32)
    >>> out = Outputs(features=z, projection=z)
    >>> found = measure({("dense", 0): out, ("sparse", 1): out}, [(("dense", 0), ("sparse", 1))])
    >>> round(float(found["alignment"]), 3), round(float(found["projection_rank/sparse"]), 3)
    (0.0, 4.0)
    """
    compared = [(_compared(outputs[a]), outputs[b].projection) for a, b in pairs]
    found = {
        measure.__name__: jnp.mean(jnp.stack([measure(z_a, z_b) for z_a, z_b in compared]))
        for measure in (alignment, alignment_ratio)
    }
    for branch, sides in groupby(sorted(outputs), key=lambda side: side[0]):
        views = [outputs[side] for side in sides]
        measures = {
            "feature_std": [spread(out.features) for out in views],
            "feature_rank": [effective_rank(out.features) for out in views],
            "projection_rank": [effective_rank(out.projection) for out in views],
            "uniformity": [uniformity(out.projection) for out in views],
            "prototype_usage": [prototype_usage(_scores(out)) for out in views if _has_prototypes(out)],
        }
        found |= {f"{name}/{branch}": jnp.mean(jnp.stack(values)) for name, values in measures.items() if values}
    return found


class Finding(NamedTuple):
    """A kind of collapse, `cause`, and the sentence for a person."""

    cause: str
    message: str


def warnings(
    line: Mapping[str, float | None],
    *,
    epochs: int,
    dimensions: int,
    images: int,
    objective: str,
    damaged: Collection[str],
) -> list[Finding]:
    """What a line of metrics says of collapse; nothing where it is healthy, or has nothing measured.

    Args:
        line: metrics by name, None for what could not be measured: `step`, `epoch`, `projection_std/BRANCH`, and what
            `measure` gives.
        epochs: of the whole training.
        dimensions: P, of the projections.
        images: N, of the batch that was measured.
        objective: its name, for the advice.
        damaged: names of the branches that read pruned weights.

    >>> line = {"step": 400, "epoch": 9.0, "projection_std/dense": 1e-5}
    >>> about = {"epochs": 10, "dimensions": 64, "images": 64, "objective": "nt_xent", "damaged": []}
    >>> [finding.cause for finding in warnings(line, **about)]
    ['one point']
    """
    even, most = dimensions**-0.5, min(dimensions, images)
    stds, ranks, usages = (_of_branches(line, m) for m in ("projection_std", "projection_rank", "prototype_usage"))
    point = {b: std for b, std in stds.items() if std < POINT * even}
    flat = {b: rank for b, rank in ranks.items() if rank < FEW_DIRECTIONS * most and b not in point}
    unused = {b: usage for b, usage in usages.items() if usage < FEW_PROTOTYPES and b not in point}
    found = []

    def find(cause: str, values: dict[str, float], what: str, advice: str) -> None:
        if set(values) <= set(damaged) and not set(stds) <= set(damaged):
            cause, advice = f"{cause}, damaged branch only", DAMAGE
        branches = f"the {' and '.join(values)} branch{'es' if len(values) > 1 else ''}"
        found.append(Finding(cause, f"the projections of {branches} {what.format(min(values.values()))}: {advice}"))

    if point:
        what = f"have collapsed to one point (standard deviation {{:.2g}}; {even:.2g} when spread evenly)"
        find("one point", point, what, TO_ONE_POINT.get(objective, _RATE))
    ratio = line.get("alignment_ratio") or 0.0
    has_learnt = line["epoch"] >= AFTER * epochs and line["step"] >= AFTER_STEPS
    if not point and has_learnt and ratio > NOT_TOLD_APART:
        message = (
            f"the projections do not distinguish images (the views of one are {ratio:.2f} times as far from each other "
            f"as from those of another): {TO_ONE_POINT.get(objective, _RATE)}"
        )
        found.append(Finding("images not distinguished", message + (", or lower prune.rate" if damaged else "")))
    if flat:
        what = f"use {{:.1f}} of {most} directions"
        find("few directions", flat, what, TO_FEW_DIRECTIONS.get(objective, _RATE))
    if unused:
        find("few prototypes", unused, "use {:.1%} of the prototypes that a batch can use", TO_FEW_PROTOTYPES)
    return found


def _of_branches(line: Mapping[str, float | None], name: str) -> dict[str, float]:
    measured = {key: value for key, value in line.items() if value is not None}
    return {key.partition("/")[2]: value for key, value in measured.items() if key.partition("/")[0] == name}


def _compared(out: Any) -> jax.Array:
    return out.projection if out.prediction is None else out.prediction


def _has_prototypes(out: Any) -> bool:
    return out.prototypes is not None


def _scores(out: Any) -> jax.Array:
    return jnp.matmul(unit(out.projection), out.prototypes, precision="highest")
