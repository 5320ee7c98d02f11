import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sdclr_jax import optim

SETTINGS = {"learning_rate": 0.5, "momentum": 0.9, "weight_decay": 1e-2, "final_learning_rate": 1e-6}


def published_rate(step: int, total: int, warmup: int) -> float:
    """Linear from 0, then half a cosine down to the final rate, per step."""
    if step < warmup:
        return 0.5 * step / warmup
    return 1e-6 + (0.5 - 1e-6) * 0.5 * (1 + np.cos(np.pi * (step - warmup) / (total - warmup)))


@pytest.mark.parametrize("warmup", [0, 10])
def test_schedule(warmup):
    schedule = optim.sgd(warmup_steps=warmup, total_steps=100, **SETTINGS).schedule
    for step in range(101):
        assert float(schedule(step)) == pytest.approx(published_rate(step, 100, warmup), rel=1e-5, abs=1e-7)


def test_update_is_torch_sgd():
    """buffer = momentum * buffer + (gradient + decay * w); w -= rate * buffer, on every parameter, biases too."""
    transform = optim.sgd(warmup_steps=2, total_steps=20, **SETTINGS).transform
    rng = np.random.default_rng(0)
    params = {"kernel": jnp.asarray(rng.standard_normal((2, 3)), jnp.float32), "bias": jnp.ones(3)}
    expected = jax.tree.map(lambda p: np.array(p, np.float64), params)
    buffer = jax.tree.map(np.zeros_like, expected)
    state = transform.init(params)
    for step in range(8):
        gradient = jax.tree.map(lambda p: jnp.asarray(rng.standard_normal(p.shape), jnp.float32), params)
        updates, state = transform.update(gradient, state, params)
        params = jax.tree.map(jnp.add, params, updates)
        buffer = jax.tree.map(lambda b, g, w: 0.9 * b + g + 1e-2 * w, buffer, gradient, expected)
        rate = published_rate(step, 20, 2)
        expected = jax.tree.map(lambda w, b, rate=rate: w - rate * b, expected, buffer)
    jax.tree.map(lambda p, e: np.testing.assert_allclose(p, e, rtol=1e-4, atol=1e-5), params, expected)
