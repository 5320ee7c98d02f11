"""Signs of collapse in a batch of embeddings, without labels, and what they say (`warnings`).

Embeddings are [N, D], measured as they are, in float32. What can be seen in N images is bounded by N: a rank by
min(N, D), the prototypes in use by N.
"""

from collections.abc import Collection, Mapping
from itertools import groupby
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sdclr_jax.evaluation.features import unit

# Share of an even spread's standard deviation: at 0.3 two images have a mean cosine of at least 1 - 0.3 ** 2 = 0.91.
# Healthy runs of SimCLR, SDCLR and VICReg on long-tailed digits were never below 0.8 from step 20 on; VICReg without
# its variance term was at 0.23 after 1,000 steps (experiments/vicreg_ablation.py).
POINT = 0.3
# Share of min(N, P) directions. The same healthy runs were never below 0.17; VICReg without its covariance term was at
# 0.05 after 80 steps and at 0.025 after 1,000.
FEW_DIRECTIONS = 0.05
# Of the prototypes that a batch could use. Images spread over a tenth of them at random still use more.
FEW_PROTOTYPES = 0.05

# What to look at first, by objective. All of it is advice on fields of the config.
TO_ONE_POINT = {
    "vicreg": "raise objective.variance, which keeps embeddings apart",
    "byol": "check the predictor, bring target.decay nearer to 1 and try a lower optimizer.learning_rate",
    "simsiam": "check the predictor and try a lower optimizer.learning_rate",
    "nt_xent": "try a lower optimizer.learning_rate or a longer optimizer.warmup_epochs",
}
TO_FEW_DIRECTIONS = {
    "vicreg": "raise objective.covariance, which keeps dimensions from saying the same",
    "barlow_twins": "raise objective.off_diagonal, which keeps dimensions from saying the same",
    "nt_xent": "lower objective.temperature or raise batch_size, so that more images are told apart",
}
TO_FEW_PROTOTYPES = "lower objective.epsilon or raise batch_size, so that images are shared out more evenly"
OTHERWISE = "try a lower optimizer.learning_rate, a longer optimizer.warmup_epochs or a larger batch_size"
DAMAGE = "the others are as they should be, so prune.rate is likely too high: lower it"

Pairs = tuple[tuple[tuple[str, int], tuple[str, int]], ...]


def spread(z: jax.Array) -> jax.Array:
    """Mean over the dimensions of the standard deviation of unit-length embeddings (Chen and He, CVPR 2021, Figure 2).

    Its largest value, 1 / sqrt(D), means directions spread evenly around the origin; 0 is a collapse to one point.
    """
    return jnp.mean(jnp.std(unit(z), axis=0))


def effective_rank(z: jax.Array) -> jax.Array:
    """RankMe (Garrido et al., ICML 2023, Eq. 1): exp(-sum_k p_k log p_k), from 1 to min(N, D).

    p_k = s_k / sum_j s_j + 1e-7, with s the singular values of `z`, which is not centred. Scaling `z` and rotating it
    change nothing.
    """
    # Not from the eigenvalues of z^T z, cheap as those are: their rounding would stand for hundreds of directions.
    s = jnp.linalg.svd(z.astype(jnp.float32), compute_uv=False)
    p = s / jnp.maximum(jnp.sum(s), jnp.finfo(jnp.float32).tiny) + 1e-7
    return jnp.exp(-jnp.sum(p * jnp.log(p)))


def alignment(z_a: jax.Array, z_b: jax.Array) -> jax.Array:
    """Mean squared distance of the two views of an image (Wang and Isola, ICML 2020, Section 4.1.1, alpha = 2).

    Embeddings are brought to unit length; 0 is best, 2 what unrelated directions have.
    """
    return jnp.mean(jnp.sum((unit(z_a) - unit(z_b)) ** 2, axis=1))


def uniformity(z: jax.Array) -> jax.Array:
    """log of the mean of exp(-2 |x - y|^2) over pairs of two images (Wang and Isola, ICML 2020, Section 4.1.2, t = 2).

    Embeddings are brought to unit length; 0 is one point, about -4 directions spread evenly in many dimensions.
    """
    z = unit(z)
    cosines = jnp.matmul(z, z.T, precision="highest")
    similar = jnp.exp(-4 * (1 - cosines))  # |x - y|^2 = 2 - 2 x.y
    different = ~jnp.eye(len(z), dtype=bool)
    return jnp.log(jnp.mean(similar, where=different))


def prototype_usage(scores: jax.Array) -> jax.Array:
    """How evenly images spread over K prototypes, by the one nearest to each: `scores` [N, K] -> 1 / min(N, K) to 1.

    The perplexity exp(H) of the share of images that each prototype has, over the most that it could be.
    """
    n, k = scores.shape
    share = jnp.mean(jax.nn.one_hot(jnp.argmax(scores, axis=1), k), axis=0)
    return jnp.exp(-jnp.sum(jax.scipy.special.xlogy(share, share))) / min(n, k)


def measure(outputs: Mapping[tuple[str, int], Any], pairs: Pairs) -> dict[str, jax.Array]:
    """All of these as named scalars, for a line of metrics.

    Args:
        outputs: (branch, view) -> `features` [N, D], `projection` [N, P] and `prototypes` [P, K], or None where there
            are none. Views of one branch are averaged, so that branches which see one and two of them can be compared.
        pairs: what is compared with what, for `alignment`.
    """
    aligned = [alignment(outputs[a].projection, outputs[b].projection) for a, b in pairs]
    found = {"alignment": jnp.mean(jnp.stack(aligned))}
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
    line: Mapping[str, float], *, dimensions: int, images: int, objective: str, damaged: Collection[str]
) -> list[Finding]:
    """What a line of metrics says of collapse; nothing where it is healthy, or has nothing measured.

    Args:
        line: metrics by name: `projection_std/BRANCH`, and what `measure` gives.
        dimensions: P, of the projections.
        images: N, of the batch that was measured.
        objective: its name, for the advice.
        damaged: names of the branches that read pruned weights.
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
        find("one point", point, what, TO_ONE_POINT.get(objective, OTHERWISE))
    if flat:
        what = f"use {{:.1f}} of {most} directions"
        find("few directions", flat, what, TO_FEW_DIRECTIONS.get(objective, OTHERWISE))
    if unused:
        find("few prototypes", unused, "use {:.1%} of the prototypes that a batch can use", TO_FEW_PROTOTYPES)
    return found


def _of_branches(line: Mapping[str, float], name: str) -> dict[str, float]:
    return {key.partition("/")[2]: value for key, value in line.items() if key.partition("/")[0] == name}


def _has_prototypes(out: Any) -> bool:
    return getattr(out, "prototypes", None) is not None


def _scores(out: Any) -> jax.Array:
    return jnp.matmul(unit(out.projection), out.prototypes, precision="highest")
