"""The codes of SwAV: the published order of the divisions, their number, and scores that overflow an exponential."""

import jax
import numpy as np
import pytest

from sdclr_jax.objectives import sinkhorn, swav
from tests.objectives import oracles

codes_of = jax.jit(sinkhorn, static_argnames=("epsilon", "iterations"))
SCORES = np.random.default_rng(0).uniform(-1, 1, (12, 5))


@pytest.mark.parametrize("iterations", [1, 2, 3, 4])
def test_codes_are_the_papers(iterations):
    codes = [oracles.sinkhorn(SCORES, 0.05, i) for i in range(1, 6)]
    with jax.enable_x64(True):
        found = codes_of(SCORES, iterations=iterations)
    np.testing.assert_allclose(found, codes[iterations - 1], rtol=1e-9)
    # The number matters: a step less or more is another result.
    assert np.abs(codes[iterations - 1] - codes[iterations]).max() > 1e-3


def test_three_iterations_are_the_default_of_both():
    a, b = SCORES.astype(np.float32), SCORES[::-1].astype(np.float32)
    three = oracles.sinkhorn(SCORES, 0.05, 3)
    np.testing.assert_allclose(codes_of(a), three, atol=1e-5)
    others = [oracles.swav(SCORES, SCORES[::-1], 0.1, 0.05, i) for i in (2, 3, 4)]
    assert float(jax.jit(swav)(a, b)) == pytest.approx(others[1], rel=1e-6)
    assert min(abs(others[1] - others[0]), abs(others[1] - others[2])) > 1e-4


def test_samples_sum_to_one_and_prototypes_share_the_batch():
    codes = np.asarray(codes_of(SCORES.astype(np.float32), epsilon=0.5, iterations=100))
    np.testing.assert_allclose(codes.sum(axis=1), np.ones(12), rtol=1e-5)
    np.testing.assert_allclose(codes.sum(axis=0), np.full(5, 12 / 5), rtol=1e-4)


def test_scores_that_overflow_an_exponential():
    """At 1000 / 0.05 no float holds the exponential; a thousandth of both is the same problem."""
    large = codes_of(1000 * SCORES.astype(np.float32))
    np.testing.assert_allclose(large, codes_of(SCORES.astype(np.float32), epsilon=0.05 / 1000), atol=1e-2)
    np.testing.assert_allclose(large.sum(axis=1), np.ones(12), rtol=1e-5)
    a, b = 1000 * SCORES.astype(np.float32), -1000 * SCORES.astype(np.float32)
    assert all(np.isfinite(g).all() for g in jax.jit(jax.grad(swav, argnums=(0, 1)))(a, b))
