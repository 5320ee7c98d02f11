"""The objectives as the step uses them: what they read of the outputs, what state they keep, what they refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sdclr_jax.errors import ArgumentError
from sdclr_jax.models import Outputs
from sdclr_jax.objectives import OBJECTIVES, wmse_sliced
from sdclr_jax.objectives.queue import push
from tests.objectives import oracles

RNG = np.random.default_rng(0)
N, D, K = 8, 3, 4
KEY = jax.random.key(3)
SETTINGS = {
    "nt_xent": {"temperature": 0.2},
    "info_nce": {"temperature": 0.2, "queue": 16},
    "byol": {},
    "simsiam": {},
    "swav": {"temperature": 0.1, "epsilon": 0.05, "iterations": 3, "queue": 0, "queue_start_steps": 0},
    "barlow_twins": {"redundancy": 0.01, "scale": 1.0},
    "w_mse": {"slice_size": 0, "repeats": 1, "shrinkage": 0.0},
    "vicreg": {"invariance": 25.0, "variance": 25.0, "covariance": 1.0},
}


def unit_rows(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


PROTOTYPES = unit_rows(RNG.standard_normal((K, D))).T.astype(np.float32)


def outputs(seed, **changed):
    """Every output another array, so that reading the wrong one shows."""
    rng = np.random.default_rng(seed)
    features, projection, prediction = rng.standard_normal((3, N, D)).astype(np.float32)
    return Outputs(features, projection, prediction, PROTOTYPES)._replace(**changed)


A, B = outputs(1), outputs(2)


def scores(side):
    return unit_rows(np.float64(side.projection)) @ PROTOTYPES


def one_way(scores_a, codes, temperature=0.1):
    """Caron et al. 2020, Eq. 2: one view's probabilities against the other's codes."""
    total = 0.0
    for s, q in zip(scores_a, codes, strict=True):
        total -= (q * (s / temperature - np.log(np.exp(s / temperature).sum()))).sum()
    return total / len(scores_a)


PAPERS = {
    "nt_xent": lambda queue: oracles.nt_xent(A.projection, B.projection, 0.2),
    "info_nce": lambda queue: oracles.info_nce(A.projection, B.projection, queue, 0.2),
    "byol": lambda queue: oracles.byol(A.prediction, B.projection),
    "simsiam": lambda queue: oracles.simsiam(A.prediction, B.projection),
    "swav": lambda queue: one_way(scores(A), oracles.sinkhorn(scores(B), 0.05, 3)),
    "barlow_twins": lambda queue: oracles.barlow_twins(A.projection, B.projection, 0.01),
    "w_mse": lambda queue: oracles.wmse(A.projection, B.projection),
    "vicreg": lambda queue: oracles.vicreg(A.projection, B.projection),
}


def test_a_file_is_an_objective():
    assert OBJECTIVES.keys() == SETTINGS.keys() == PAPERS.keys()


@pytest.mark.parametrize("name", OBJECTIVES)
def test_what_it_compares(name):
    objective = OBJECTIVES[name](**SETTINGS[name])
    memory = objective.init(KEY, B)
    expected = PAPERS[name](None if memory is None else np.float64(memory))
    assert float(objective.loss(memory, A, B, KEY)) == pytest.approx(expected, rel=1e-4)
    after = objective.update(memory, B)
    assert jax.tree.structure(after) == jax.tree.structure(memory)


def test_swav_of_both_pairs_is_the_published_loss():
    objective = OBJECTIVES["swav"](**SETTINGS["swav"])
    both = (objective.loss(None, A, B, KEY) + objective.loss(None, B, A, KEY)) / 2
    assert float(both) == pytest.approx(oracles.swav(scores(A), scores(B)), rel=1e-4)


def test_swav_gives_the_codes_no_gradient_and_the_prototypes_one():
    objective = OBJECTIVES["swav"](**SETTINGS["swav"])
    to_a, to_b = jax.grad(lambda a, b: objective.loss(None, a, b, KEY), argnums=(0, 1))(A, B)
    assert np.asarray(to_a.projection).any()
    assert np.asarray(to_a.prototypes).any()
    assert not any(np.asarray(x).any() for x in jax.tree.leaves(to_b))


def test_swav_reads_its_queue_once_it_is_full():
    """From step 1 on it fills with 8 rows a step; 12 rows are full after two."""
    settings = SETTINGS["swav"] | {"queue": 12, "queue_start_steps": 1}
    objective = OBJECTIVES["swav"](**settings)
    sides = [outputs(seed) for seed in range(10, 15)]
    memory, rows = objective.init(KEY, sides[0]), []
    for step, side in enumerate(sides):
        earlier = np.concatenate(rows)[-12:] if len(rows) >= 2 else np.zeros((0, D))
        codes = oracles.sinkhorn(np.concatenate([unit_rows(earlier) @ PROTOTYPES, scores(side)]), 0.05, 3)[
            len(earlier) :
        ]
        expected = one_way(scores(A), codes)
        assert float(objective.loss(memory, A, side, KEY)) == pytest.approx(expected, rel=1e-4), step
        memory = objective.update(memory, side)
        if step >= 1:
            rows.append(np.float64(side.projection))


@pytest.mark.parametrize(("size", "added"), [(20, 8), (8, 8), (5, 8)])
def test_the_newest_come_in_at_the_end(size, added):
    queue, new = (RNG.standard_normal((n, D)).astype(np.float32) for n in (size, added))
    expected = np.concatenate([queue, unit_rows(new)])[-size:]
    np.testing.assert_allclose(jax.jit(push)(queue, new), expected, rtol=1e-5, atol=1e-6)


def test_byol_is_scaled():
    """Twice the mean of both directions is the sum of both, the published loss."""
    loss = OBJECTIVES["byol"](scale=2.0).loss
    both = (loss(None, A, B, KEY) + loss(None, B, A, KEY)) / 2
    expected = oracles.byol(A.prediction, B.projection) + oracles.byol(B.prediction, A.projection)
    assert float(both) == pytest.approx(expected, rel=1e-4)


def test_barlow_twins_is_scaled():
    loss = OBJECTIVES["barlow_twins"](redundancy=0.01, scale=0.25).loss(None, A, B, KEY)
    assert float(loss) == pytest.approx(0.25 * oracles.barlow_twins(A.projection, B.projection, 0.01), rel=1e-4)


def test_w_mse_cuts_both_views_alike_and_anew_for_each_repeat():
    """Slices of 4 out of 8, as the key orders them, twice."""
    z_a, z_b = np.float64(A.projection), np.float64(B.projection)
    losses = []
    for k in jax.random.split(KEY, 2):
        order = np.asarray(jax.random.permutation(k, N))
        for rows in (order[:4], order[4:]):
            losses.append(oracles.wmse(z_a[rows], z_b[rows]))
    found = wmse_sliced(A.projection, B.projection, KEY, slice_size=4, repeats=2)
    assert float(found) == pytest.approx(np.mean(losses), rel=1e-3)
    objective = OBJECTIVES["w_mse"](slice_size=4, repeats=2, shrinkage=0.0)
    assert float(objective.loss(None, A, B, KEY)) == pytest.approx(np.mean(losses), rel=1e-3)


@pytest.mark.parametrize(
    ("name", "settings", "side", "said"),
    [
        ("byol", {}, {"prediction": None}, "^prediction is None: .* it needs a predictor"),
        ("simsiam", {}, {"prediction": None}, "^prediction is None: .* it needs a predictor"),
        ("swav", {}, {"prototypes": None}, "^prototypes is None: .* it needs 2 or more"),
        ("swav", {}, {"prototypes": PROTOTYPES[:, :1]}, r"^prototypes is \[3, 1\]: all images have the same code"),
        ("swav", {"iterations": 0}, {}, "^iterations is 0: it must be at least 1"),
        ("w_mse", {"slice_size": 3}, {}, "^slice_size is 3: it must divide the batch, 8"),
        ("w_mse", {"slice_size": 2}, {}, "^shrinkage is 0, and the covariance of 2 embeddings of 3 numbers has no"),
    ],
)
def test_what_is_missing_is_named(name, settings, side, said):
    objective = OBJECTIVES[name](**SETTINGS[name] | settings)
    a = A._replace(**side)
    with pytest.raises(ArgumentError, match=said):
        objective.loss(objective.init(KEY, a), a, a, KEY)


def test_the_queue_of_moco_starts_in_random_directions():
    memory = OBJECTIVES["info_nce"](temperature=0.2, queue=64).init(KEY, A)
    np.testing.assert_allclose(jnp.linalg.norm(memory, axis=1), 1, rtol=1e-5)
    assert abs(float(jnp.mean(memory))) < 0.2
