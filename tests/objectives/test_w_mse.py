"""Whitening on its own, and the gradient of both sides of W-MSE."""

from functools import partial

import jax
import numpy as np
import pytest

from sdclr_jax.errors import ArgumentError
from sdclr_jax.objectives import whiten, wmse
from tests.objectives import oracles
from tests.objectives.oracles import COMPILED, inputs

white_of = jax.jit(whiten)
Z = np.random.default_rng(0).standard_normal((10, 4)) @ np.random.default_rng(1).standard_normal((4, 4)) + 1.0


@partial(jax.jit, static_argnames="shrinkage")
def white_and_pulled(z, weights, shrinkage):
    """Whitened `z` and the gradient of its sum under `weights`."""
    white, pull = jax.vjp(lambda z: whiten(z, shrinkage), z)
    return white, pull(weights)[0]


@pytest.mark.parametrize("shrinkage", [0.0, 0.01, 0.5, 1.0])
def test_value_and_gradient_of_whitening(shrinkage):
    weights = np.random.default_rng(2).standard_normal(Z.shape)
    with jax.enable_x64(True):
        white, found = white_and_pulled(Z, weights, shrinkage)
    np.testing.assert_allclose(white, oracles.whiten(Z, shrinkage), rtol=1e-9)
    (expected,) = oracles.gradients(lambda z: (weights * oracles.whiten(z, shrinkage)).sum(), [Z])
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9 * np.abs(expected).max())


def test_the_whitened_batch_has_unbiased_covariance_one():
    white = np.asarray(white_of(Z.astype(np.float32)))
    np.testing.assert_allclose(white.mean(axis=0), np.zeros(4), atol=1e-5)
    np.testing.assert_allclose(np.cov(white, rowvar=False, ddof=1), np.eye(4), atol=1e-4)


def test_both_sides_receive_gradient():
    """A shortcut with one side detached has the same value."""
    _, (a, b) = COMPILED["wmse"](*inputs("wmse", dtype=np.float32))
    assert min(np.abs(a).max(), np.abs(b).max()) > 1e-2


@pytest.mark.parametrize("rows", [4, 3])
def test_a_batch_too_small_is_refused_with_the_remedy(rows):
    z = Z[:rows].astype(np.float32)
    for function in (whiten, lambda z: wmse(z, z)):
        with pytest.raises(ArgumentError, match=rf"{rows} embeddings of 4 numbers .* batch larger than 4.*shrinkage"):
            function(z)
    assert np.isfinite(jax.jit(lambda z: wmse(z, z[::-1], shrinkage=0.01))(z))
    assert np.isfinite(white_of(Z[:5].astype(np.float32))).all()


@pytest.mark.parametrize("dimensions", [8, 128])
def test_a_singular_covariance_is_finite(dimensions):
    """Rows enough, but the same ones again and again: of rank 4."""
    rng = np.random.default_rng(3)
    z = np.tile(rng.standard_normal((5, dimensions)), (2 * dimensions, 1)).astype(np.float32)
    for collapsed in (z, np.zeros_like(z)):
        white, found = white_and_pulled(collapsed, rng.standard_normal(z.shape).astype(np.float32), 0.0)
        assert np.abs(white).max() < 10
        assert np.isfinite(found).all()
