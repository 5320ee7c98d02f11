"""NT-Xent against a loop written from the paper (Chen et al. 2020, Eq. 1): values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdclr_jax import parallel
from sdclr_jax.objectives import nt_xent

value_and_grad = jax.jit(jax.value_and_grad(nt_xent, argnums=(0, 1)), static_argnums=2)


def paper(z_a: np.ndarray, z_b: np.ndarray, temperature: float) -> float:
    z = np.concatenate([z_a, z_b])
    n = len(z_a)

    def sim(i, j):
        return z[i] @ z[j] / np.linalg.norm(z[i]) / np.linalg.norm(z[j])

    total = 0.0
    for i in range(2 * n):
        j = (i + n) % (2 * n)
        negatives = sum(np.exp(sim(i, k) / temperature) for k in range(2 * n) if k != i)
        total += -np.log(np.exp(sim(i, j) / temperature) / negatives)
    return total / (2 * n)


def embeddings(n=5, d=4, seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, d)).astype(dtype), rng.standard_normal((n, d)).astype(dtype)


@pytest.mark.parametrize("temperature", [0.2, 0.5])
def test_value_and_gradient_in_float64(temperature):
    a, b = embeddings()
    with jax.enable_x64(True):
        loss, gradients = value_and_grad(jnp.asarray(a), jnp.asarray(b), temperature)
        assert loss.dtype == jnp.float64
    assert float(loss) == pytest.approx(paper(a, b, temperature), rel=1e-9)
    step = 1e-6
    for side, gradient in enumerate(gradients):
        for index in np.ndindex(a.shape):
            moved = [[a.copy(), b.copy()] for _ in range(2)]
            moved[0][side][index] += step
            moved[1][side][index] -= step
            difference = (paper(*moved[0], temperature) - paper(*moved[1], temperature)) / (2 * step)
            assert float(gradient[index]) == pytest.approx(difference, abs=1e-8)


def test_float32_is_close_and_half_precision_gives_float32():
    a, b = embeddings(dtype=np.float32)
    loss, _ = value_and_grad(a, b, 0.2)
    assert float(loss) == pytest.approx(paper(a, b, 0.2), rel=1e-4)
    half = nt_xent(jnp.asarray(a, jnp.bfloat16), jnp.asarray(b, jnp.bfloat16), 0.2)
    assert half.dtype == jnp.float32
    assert float(half) == pytest.approx(paper(a, b, 0.2), rel=0.05)


@given(st.integers(0, 2**31), st.floats(0.1, 100))
@settings(deadline=None, max_examples=20)
def test_invariances(seed, scale):
    a, b = embeddings(seed=seed, dtype=np.float32)
    loss = float(value_and_grad(a, b, 0.2)[0])
    order = np.random.default_rng(seed).permutation(len(a))
    for x, y in ((b, a), (a[order], b[order]), (a * np.float32(scale), b)):
        assert float(value_and_grad(x, y, 0.2)[0]) == pytest.approx(loss, rel=1e-4)


def test_zero_vectors_and_duplicates_are_finite():
    a, b = embeddings(dtype=np.float32)
    a[0] = 0
    b[1] = b[2] = a[1]
    loss, gradients = value_and_grad(a, b, 0.2)
    assert np.isfinite(loss)
    assert all(np.isfinite(g).all() for g in gradients)


def test_the_loss_is_over_the_global_batch():
    a, b = embeddings(n=16, dtype=np.float32)
    batch = parallel.shardings().batch
    one, one_gradients = value_and_grad(a, b, 0.2)
    eight, eight_gradients = value_and_grad(jax.device_put(a, batch), jax.device_put(b, batch), 0.2)
    assert float(eight) == pytest.approx(float(one), rel=1e-6)
    for x, y in zip(one_gradients, eight_gradients, strict=True):
        np.testing.assert_allclose(x, y, atol=1e-6)
    assert abs(float(one) - np.mean([paper(a[i : i + 2], b[i : i + 2], 0.2) for i in range(0, 16, 2)])) > 0.5
