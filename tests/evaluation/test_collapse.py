"""Measures of collapse against NumPy, known cases and invariances; warnings on constructed lines."""

import re
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from configs import digits_lt, methods
from sdclr_jax import recipes
from sdclr_jax.evaluation import collapse
from tests import tiny

# Numbers, since an array cannot be held against pytest.approx.
spread, effective_rank, alignment, alignment_ratio, uniformity, prototype_usage = (
    lambda *z, measure=measure: float(jax.jit(measure)(*z))
    for measure in (
        collapse.spread, collapse.effective_rank, collapse.alignment,
        collapse.alignment_ratio, collapse.uniformity, collapse.prototype_usage
    )
)  # fmt: skip
rng = np.random.default_rng(0)
N, D = 48, 12
Z, Z2 = rng.normal(size=(2, N, D)).astype(np.float32)
ROTATION = np.linalg.qr(rng.normal(size=(D, D)))[0].astype(np.float32)
PROTOTYPES = Z2[:5].T
ONE_POINT = np.tile(Z[:1], (N, 1))


def unit(z):
    return z.astype(np.float64) / np.linalg.norm(z.astype(np.float64), axis=1, keepdims=True)


def test_spread():
    assert spread(Z) == pytest.approx(unit(Z).std(axis=0).mean(), rel=1e-5)
    assert spread(3 * Z) == pytest.approx(spread(Z), rel=1e-5)
    axes = np.concatenate([np.eye(D), -np.eye(D)]).astype(np.float32)
    assert spread(axes) == pytest.approx(1 / np.sqrt(D), rel=1e-5)  # as even as can be
    assert spread(ONE_POINT) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("z", [Z, Z[:5], Z + 4], ids=["tall", "wide", "off the origin"])
def test_effective_rank(z):
    s = np.linalg.svd(z.astype(np.float64), compute_uv=False)
    p = s / s.sum() + 1e-7
    assert effective_rank(z) == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-4)
    assert effective_rank(1e-3 * z @ ROTATION) == pytest.approx(effective_rank(z), rel=1e-4)
    assert effective_rank(z[::-1]) == pytest.approx(effective_rank(z), rel=1e-4)


def test_known_ranks():
    """Orthonormal rows or columns have the full rank, a point has 1, and rounding adds nothing in many dimensions."""
    assert effective_rank(ROTATION) == pytest.approx(D, rel=1e-4)
    assert effective_rank(ROTATION[:5]) == pytest.approx(5, rel=1e-4)
    assert effective_rank(np.tile(ROTATION, (4, 1))) == pytest.approx(D, rel=1e-4)
    assert effective_rank(ONE_POINT) == pytest.approx(1, abs=1e-3)
    plane = rng.normal(size=(256, 2)) @ np.linalg.qr(rng.normal(size=(512, 2)))[0].T
    assert 1.9 < effective_rank(plane.astype(np.float32)) < 2.01
    assert effective_rank(np.zeros((N, D), np.float32)) == pytest.approx(1, abs=1e-3)


def test_alignment():
    expected = np.mean(((unit(Z) - unit(Z2)) ** 2).sum(axis=1))
    assert alignment(Z, Z2) == pytest.approx(expected, rel=1e-5)
    assert alignment(Z @ ROTATION, 5 * Z2 @ ROTATION) == pytest.approx(expected, rel=1e-5)
    assert alignment(Z, 2 * Z) == pytest.approx(0, abs=1e-6)
    assert alignment(Z, -Z) == pytest.approx(4, rel=1e-5)


def test_alignment_ratio():
    x, y = unit(Z), unit(Z + 0.3 * Z2)
    distances = ((x[:, None] - y[None]) ** 2).sum(axis=2)
    expected = distances.diagonal().mean() / distances[~np.eye(N, dtype=bool)].mean()
    assert alignment_ratio(Z, Z + 0.3 * Z2) == pytest.approx(expected, rel=1e-3)
    assert alignment_ratio(Z, Z) == pytest.approx(0, abs=1e-3)
    assert alignment_ratio(Z, Z2) == pytest.approx(1, abs=0.2)  # unrelated
    # Near one point, what is left is noise of the views; at the point itself, nothing is nearer than anything else.
    assert alignment_ratio(1 + 0.001 * Z, 1 + 0.001 * Z2) == pytest.approx(1, abs=0.2)
    assert alignment_ratio(ONE_POINT, ONE_POINT) == pytest.approx(1, abs=0.5)


def test_uniformity():
    x = unit(Z)
    distances = ((x[:, None] - x[None]) ** 2).sum(axis=2)[~np.eye(N, dtype=bool)]
    assert uniformity(Z) == pytest.approx(np.log(np.exp(-2 * distances).mean()), rel=1e-4)
    assert uniformity(5 * Z[::-1] @ ROTATION) == pytest.approx(uniformity(Z), rel=1e-4)
    assert uniformity(ONE_POINT) == pytest.approx(0, abs=1e-5)
    assert uniformity(np.eye(D, dtype=np.float32)) == pytest.approx(-4, rel=1e-5)


def test_prototype_usage():
    every = np.eye(4, dtype=np.float32)[np.arange(40) % 4]
    assert prototype_usage(every) == pytest.approx(1, rel=1e-5)
    assert prototype_usage(np.tile(every[:1], (40, 1))) == pytest.approx(1 / 4, rel=1e-5)
    assert prototype_usage(every[:2]) == pytest.approx(1, rel=1e-5)  # two images can use no more than two
    # Shares 3/4 and 1/4: the perplexity is exp(0.75 ln(4/3) + 0.25 ln 4).
    uneven = np.repeat(every[:2], (30, 10), axis=0)
    assert prototype_usage(uneven) == pytest.approx(np.exp(0.75 * np.log(4 / 3) + 0.25 * np.log(4)) / 4, rel=1e-5)


def outputs(features, projection, prototypes=None, prediction=None):
    return SimpleNamespace(features=features, projection=projection, prototypes=prototypes, prediction=prediction)


def test_measure_names_every_branch_and_averages_its_views_and_the_pairs():
    found = collapse.measure(
        {
            ("dense", 0): outputs(Z, Z),
            ("dense", 1): outputs(Z, Z2),
            ("target", 1): outputs(Z2, -Z, prototypes=PROTOTYPES),
        },
        pairs=((("dense", 0), ("target", 1)), (("dense", 1), ("dense", 0))),
    )
    each = {"feature_std", "feature_rank", "projection_rank", "uniformity"}
    assert found.keys() == {"alignment", "alignment_ratio", "prototype_usage/target"} | {
        f"{m}/{b}" for m in each for b in ("dense", "target")
    }
    assert found["alignment"] == pytest.approx((4 + alignment(Z, Z2)) / 2, rel=1e-5)
    ranks = [effective_rank(z) for z in (Z, Z2)]
    assert found["projection_rank/dense"] == pytest.approx(np.mean(ranks), rel=1e-5)
    assert found["feature_rank/dense"] == pytest.approx(ranks[0], rel=1e-5)
    assert found["uniformity/target"] == pytest.approx(uniformity(Z), rel=1e-5)
    assert found["prototype_usage/target"] == pytest.approx(prototype_usage(-Z @ PROTOTYPES), rel=1e-5)


def test_alignment_is_of_the_prediction_where_there_is_one():
    pair = (("dense", 0), ("target", 1))
    found = collapse.measure({pair[0]: outputs(Z, Z2, prediction=2 * Z), pair[1]: outputs(Z, Z)}, (pair,))
    assert found["alignment"] == pytest.approx(0, abs=1e-6)


def test_measures_of_a_batch_split_over_devices_are_those_of_one():
    over_devices = jax.NamedSharding(jax.sharding.Mesh(np.array(jax.devices()), "data"), jax.P("data"))

    def measure(a, b):
        pairs = ((("dense", 0), ("dense", 1)),)
        return collapse.measure({("dense", 0): outputs(a, a, PROTOTYPES), ("dense", 1): outputs(b, b)}, pairs)

    whole, split = jax.jit(measure)(Z, Z2), jax.jit(measure)(*jax.device_put((Z, Z2), over_devices))
    for name, value in whole.items():
        assert split[name] == pytest.approx(float(value), rel=1e-4), name


HEALTHY = {
    "step": 400,
    "epoch": 30.0,
    "loss": 3.7,
    "alignment": 0.5,
    "alignment_ratio": 0.3,
    "projection_std/dense": 0.12,
    "projection_rank/dense": 17.0,
}
SPARSE = {"projection_std/sparse": 0.12, "projection_rank/sparse": 16.0}


def found(line, objective="vicreg", dimensions=64, images=256):
    facts = {"epochs": 50, "dimensions": dimensions, "images": images, "objective": objective, "damaged": ["sparse"]}
    return collapse.warnings(line, **facts)


def test_a_healthy_line_and_one_without_measures_give_no_warning():
    assert found(HEALTHY | SPARSE | {"prototype_usage/dense": 0.3}) == []
    assert found({"step": 20, "epoch": 1.0, "loss": 3.0, "projection_std/dense": 0.12}) == []
    assert found({"step": 20, "epoch": 1.0, "loss": 3.0}) == []
    # Early on, images are not distinguished yet.
    assert found(HEALTHY | {"epoch": 20.0, "alignment_ratio": 0.8}) == []
    assert found(HEALTHY | {"step": 150, "alignment_ratio": 0.8}) == []
    # A batch of few images cannot show many directions.
    assert found(HEALTHY | {"projection_rank/dense": 3.0}, dimensions=2048, images=32) == []
    assert found(HEALTHY | {"projection_rank/dense": 3.0, "projection_std/dense": 0.02}, dimensions=2048) != []


@pytest.mark.parametrize(
    ("more", "objective", "cause", "sentences"),
    [
        ({"projection_std/dense": 0.003, "projection_rank/dense": 1.0}, "vicreg", "one point",
         ("of the dense branch have collapsed to one point (standard deviation 0.003; 0.12", "objective.variance")),
        ({"projection_std/dense": 0.0}, "simsiam", "one point", ("predictor.layers",)),
        ({"projection_std/dense": 0.0, "projection_std/target": 0.001}, "byol", "one point",
         ("of the dense and target branches",)),
        ({"projection_rank/dense": 3.1}, "vicreg", "few directions", ("use 3.1 of 64", "objective.covariance")),
        ({"projection_rank/dense": 3.1}, "w_mse", "few directions", ("optimizer.learning_rate",)),
        (SPARSE | {"projection_std/sparse": 0.001}, "vicreg", "one point, damaged branch only",
         ("of the sparse branch have", "prune.rate")),
        (SPARSE | {"projection_rank/sparse": 1.5}, "nt_xent", "few directions, damaged branch only", ("prune.rate",)),
        (SPARSE | {"projection_rank/sparse": 1.5, "projection_rank/dense": 2.0}, "nt_xent", "few directions",
         ("dense and sparse branches use 1.5 of", "objective.temperature")),
        ({"alignment_ratio": 0.8}, "vicreg", "images not distinguished", ("0.80 times as far", "objective.variance, ")),
        ({"prototype_usage/dense": 0.01}, "swav", "few prototypes", ("use 1.0% of the", "objective.epsilon")),
    ],
)  # fmt: skip
def test_a_collapse_is_named_with_its_likely_cause(more, objective, cause, sentences):
    (warning,) = found(HEALTHY | more, objective)
    assert warning.cause == cause
    for sentence in sentences:
        assert sentence in warning.message


def test_measures_of_constructed_collapse_give_rise_to_the_warnings():
    """The thresholds are met by embeddings that have collapsed in fact, and by none that have not."""

    def line(z):
        measured = jax.jit(lambda z: collapse.measure({("dense", 0): outputs(z, z)}, ((("dense", 0),) * 2,)))(z)
        return {k: float(v) for k, v in measured.items()} | {
            "projection_std/dense": spread(z),
            "epoch": 1.0,
            "step": 20,
        }

    spread_out = rng.normal(size=(256, 64)).astype(np.float32)
    assert found(line(spread_out)) == []
    assert [w.cause for w in found(line(spread_out * 0.01 + 1))] == ["one point"]
    line_only = rng.normal(size=(256, 2)) @ rng.normal(size=(2, 64))
    assert [w.cause for w in found(line(line_only.astype(np.float32)))] == ["few directions"]


def test_all_that_is_advised_can_be_done():
    """Every field named in a warning is one of the method's config."""
    bad = SPARSE | {"prototype_usage/dense": 0.0, "projection_std/dense": 0.1, "projection_std/sparse": 0.1}
    lines = [
        bad | {"projection_rank/dense": 1.0},
        HEALTHY | {"projection_std/dense": 0.0},
        SPARSE | {"projection_std/sparse": 0.0},
    ]
    for row in methods.ROWS:
        config = digits_lt.get_config(f"sd_{row}" if row != "simclr" else "sdclr")
        for line in lines:
            for warning in found(HEALTHY | line, config.objective.name):
                named = set(re.findall(r"\b[a-z]+\.[a-z_]+\b", warning.message))
                assert named or "batch_size" in warning.message
                if row == "swav" or "prototypes" not in warning.cause:
                    assert named <= recipes.fields(config).keys(), warning.message


def test_a_method_with_a_damaged_branch_and_prototypes_is_measured_in_both():
    method = tiny.row("sd_swav")
    state = jax.eval_shape(method.init, np.uint32(0), np.zeros((1, 8, 8, 1), np.float32))
    measured = jax.eval_shape(lambda s, x: collapse.measure(method.diagnose(s, x), method.pairs), state, tiny.images())
    for branch in ("dense", "sparse"):
        for name in ("feature_std", "feature_rank", "projection_rank", "uniformity", "prototype_usage"):
            assert measured[f"{name}/{branch}"].shape == ()
