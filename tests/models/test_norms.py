"""Batch norm against that of Flax: values, statistics and gradients, on any number of devices."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sdclr_jax import parallel, trees
from sdclr_jax.models import norms
from sdclr_jax.models.norms import BatchNorm, channel_sums


def flax_norm(use_running_average, affine, dtype):
    return nn.BatchNorm(
        use_running_average=use_running_average,
        momentum=0.9,
        epsilon=1e-5,
        use_scale=affine,
        use_bias=affine,
        dtype=dtype,
    )


def inputs(shape, dtype="float32"):
    random = np.random.default_rng(0)
    x = random.normal(3, 2, shape).astype(dtype)
    wanted = random.normal(size=shape).astype(np.float32)
    return x, wanted


def variables(affine, channels, dtype=np.float32):
    random = np.random.default_rng(1)
    of = lambda low, high: random.uniform(low, high, channels).astype(dtype)  # noqa: E731
    stats = {"batch_stats": {"mean": of(-1, 1), "var": of(0.5, 2)}}
    return stats | ({"params": {"scale": of(0.5, 2), "bias": of(-1, 1)}} if affine else {})


@pytest.mark.parametrize(
    ("affine", "shape", "dtype", "by_hand"),
    [
        (True, (4, 3, 5, 6), "float32", True),
        (True, (4, 3, 5, 6), "float32", False),  # as on accelerators
        (False, (16, 6), "float32", True),
        (True, (4, 3, 5, 6), "bfloat16", True),
    ],
)
def test_values_statistics_and_gradients_are_those_of_flax(affine, shape, dtype, by_hand, monkeypatch):
    monkeypatch.setattr(norms, "by_hand", lambda: by_hand)
    x, wanted = inputs(shape, jnp.dtype(dtype))

    def measured(module, x, held):
        def loss(x, params):
            y, new = module.apply({**held, "params": params}, x, mutable=["batch_stats"])
            stats = new["batch_stats"]
            # The running statistics count too, so that their gradients are looked at.
            return (y.astype(jnp.float32) * wanted).sum() + (stats["mean"] ** 3 + stats["var"] ** 2).sum(), (y, stats)

        (_, (y, stats)), gradients = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(x, held.get("params", {}))
        return y, stats, gradients

    held = variables(affine, shape[-1])
    with jax.numpy_dtype_promotion("standard"):
        expected = jax.jit(measured, static_argnums=0)(flax_norm(False, affine, jnp.dtype(dtype)), x, held)
    found = jax.jit(measured, static_argnums=0)(BatchNorm(False, affine, jnp.dtype(dtype)), x, held)
    tolerance = 1e-4 if dtype == "float32" else 2e-2
    for (name, a), b in zip(trees.named(found).items(), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype, name
        np.testing.assert_allclose(np.float32(a), np.float32(b), rtol=tolerance, atol=tolerance, err_msg=name)


def test_the_running_statistics_are_used_and_stay_in_evaluation():
    x, _ = inputs((4, 3, 5, 6))
    held = variables(True, 6)
    found, new = BatchNorm(True).apply(held, x, mutable=["batch_stats"])
    np.testing.assert_allclose(found, flax_norm(True, True, None).apply(held, x), rtol=1e-5, atol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, new["batch_stats"], held["batch_stats"])


def test_variables_start_as_those_of_flax():
    made = BatchNorm(False).init(jax.random.key(0), np.ones((4, 6), np.float32))
    expected = flax_norm(False, True, None).init(jax.random.key(0), np.ones((4, 6), np.float32))
    assert jax.tree.structure(made) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, made, expected)


def test_a_channel_without_variance_is_finite():
    y, _ = BatchNorm(False).apply(variables(True, 2), np.full((8, 2), 1e3, np.float32), mutable=["batch_stats"])
    assert np.isfinite(y).all()


@pytest.mark.parametrize("shape", [(16, 3, 5, 6), (16, 6)])
def test_sums_over_rows_that_lie_on_several_devices_are_exact(shape):
    x = np.random.default_rng(0).integers(-9, 9, shape).astype(np.float32)
    split = jax.device_put(x, parallel.shardings().batch)
    for given in (x, split):
        np.testing.assert_array_equal(jax.jit(channel_sums)(given), x.sum(axis=tuple(range(x.ndim - 1))))
