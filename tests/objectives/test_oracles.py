"""Every objective against its paper, value and gradient; and what all objectives promise."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdclr_jax import parallel
from tests.objectives.oracles import CASES, COMPILED, gradients, inputs

every = pytest.mark.parametrize("name", CASES)
# Where other settings of the same objective would show nothing more.
each = pytest.mark.parametrize("name", [name for name in CASES if " " not in name])


def assert_close(found, expected, tolerance):
    """Each array to `tolerance` of the largest number expected in any of them; where that is zero, exactly."""
    largest = max(np.abs(x).max() for x in expected)
    for x, y in zip(found, expected, strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=tolerance * largest if y.any() else 0)


@every
def test_value_and_gradient_in_float64(name):
    arrays = inputs(name)
    with jax.enable_x64(True):
        loss, found = COMPILED[name](*arrays)
    assert loss.dtype == np.float64
    assert float(loss) == pytest.approx(CASES[name].paper(*arrays), rel=1e-9)
    assert_close(found, gradients(CASES[name].paper, arrays), 1e-9)


@every
def test_value_and_gradient_in_float32(name):
    arrays = inputs(name, seed=1)
    loss, found = COMPILED[name](*[x.astype(np.float32) for x in arrays])
    assert loss.dtype == np.float32
    assert loss.shape == ()
    assert float(loss) == pytest.approx(CASES[name].paper(*arrays), rel=1e-4)
    assert_close(found, gradients(CASES[name].paper, arrays), 1e-4)


@each
def test_half_precision_is_computed_in_float32(name):
    """As exact as float32 on the same rounded inputs."""
    arrays = inputs(name, dtype=ml_dtypes.bfloat16)
    loss, found = COMPILED[name](*arrays)
    assert loss.dtype == np.float32
    assert float(loss) == pytest.approx(CASES[name].paper(*[x.astype(np.float64) for x in arrays]), rel=1e-4)
    assert all(x.dtype == jnp.bfloat16 and np.isfinite(x.astype(jnp.float32)).all() for x in found)


@every
def test_zero_and_duplicate_rows(name):
    arrays = inputs(name)
    arrays[0][0] = 0
    arrays[1][1] = arrays[1][2] = arrays[0][2] = arrays[0][1]
    loss, found = COMPILED[name](*[x.astype(np.float32) for x in arrays])
    assert float(loss) == pytest.approx(CASES[name].paper(*arrays), rel=1e-4)
    assert all(np.isfinite(x).all() for x in found)


@every
def test_collapse_has_a_known_value(name):
    arrays = inputs(name, dtype=np.float32)
    loss, found = COMPILED[name](*[np.zeros_like(x) for x in arrays])
    assert float(loss) == pytest.approx(CASES[name].zeros, rel=1e-5, abs=1e-6)
    assert all(np.isfinite(x).all() for x in found)
    loss, found = COMPILED[name](*[np.ones_like(x) for x in arrays])
    assert np.isfinite(loss)
    assert all(np.isfinite(x).all() for x in found)


@each
def test_eight_devices_agree_with_one(name):
    arrays = inputs(name, dtype=np.float32)
    loss, found = COMPILED[name](*arrays)
    shards, shard_gradients = COMPILED[name](*jax.device_put(arrays, parallel.shardings().batch))
    assert float(shards) == pytest.approx(float(loss), rel=1e-5)
    assert_close(shard_gradients, [np.asarray(x) for x in found], 1e-4)


def permuted(arrays, rng):
    order = rng.permutation(len(arrays[0]))
    return [x[order] for x in arrays[:2]] + [rng.permutation(x) for x in arrays[2:]]


def swapped(arrays, rng):
    return arrays[::-1]


def row_scaled(arrays, rng):
    return [x * rng.uniform(0.1, 100, (len(x), 1)) for x in arrays]


def column_scaled(arrays, rng):
    """Barlow Twins' 1e-5 is seen where a dimension varies little."""
    return [x * rng.uniform(1, 100, (1, x.shape[1])) + rng.uniform(-1, 1, (1, x.shape[1])) for x in arrays]


def shifted(arrays, rng):
    shift = rng.uniform(-1, 1)
    return [x + shift for x in arrays]


CHANGES = {"swap": swapped, "row scale": row_scaled, "column scale": column_scaled, "common shift": shifted}


@every
@given(seed=st.integers(0, 2**31))
@settings(deadline=None, max_examples=20)
def test_invariances(name, seed):
    arrays = inputs(name, seed)
    loss, found = COMPILED[name](*[x.astype(np.float32) for x in arrays])
    rng = np.random.default_rng(seed)
    for change in (permuted, *(CHANGES[c] for c in CASES[name].unchanged_by)):
        other, _ = COMPILED[name](*[x.astype(np.float32) for x in change(arrays, rng)])
        assert float(other) == pytest.approx(float(loss), rel=1e-3, abs=1e-3), change.__name__


@each
def test_what_should_matter_does(name):
    """The rows of one view in another order are other pairs."""
    arrays = inputs(name, dtype=np.float32)
    other, _ = COMPILED[name](np.roll(arrays[0], 1, axis=0), *arrays[1:])
    assert abs(float(other) - float(COMPILED[name](*arrays)[0])) > 0.01
