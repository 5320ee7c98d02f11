"""Batch norm (Ioffe & Szegedy, ICML 2015), in few passes over the activations."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

MOMENTUM = 0.9  # share that the running statistics keep of themselves; PyTorch calls it 0.1
EPSILON = 1e-5


class BatchNorm(nn.Module):
    """x [..., C] with mean `bias` and standard deviation `scale` in each channel, over all other axes together.

    Parameters and statistics are those of `flax.linen.BatchNorm`, in float32; the running variance is the biased one.

    `affine`: with a scale and a bias to be learnt. `dtype`: of the result.
    """

    use_running_average: bool
    affine: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[-1:]
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, channels)
        running_var = self.variable("batch_stats", "var", jnp.ones, channels)
        scale = self.param("scale", nn.initializers.ones, channels) if self.affine else jnp.ones(channels)
        bias = self.param("bias", nn.initializers.zeros, channels) if self.affine else jnp.zeros(channels)
        if self.use_running_average:
            factor = jax.lax.rsqrt(running_var.value + EPSILON) * scale
            y = (_wide(x) - _like(x, running_mean.value)) * _like(x, factor) + _like(x, bias)
        else:
            y, mean, var = (_normalize_by_hand if by_hand() else normalize)(x, scale, bias)
            if not self.is_initializing():
                running_mean.value = MOMENTUM * running_mean.value + (1 - MOMENTUM) * mean
                running_var.value = MOMENTUM * running_var.value + (1 - MOMENTUM) * var
        return y.astype(self.dtype)


def by_hand() -> bool:
    """Whether the gradient is written out, as on CPUs: it takes two sums over the activations, fewer than what JAX
    derives. But a step compiled for TPUs takes a quarter more memory with it."""
    return jax.default_backend() == "cpu"


def normalize(x: jax.Array, scale: jax.Array, bias: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """x [..., C] with mean `bias` [C] and standard deviation `scale` [C] in each channel; its mean and variance [C].

    All in float32 where x is of fewer bits.
    """
    return _forward(x, scale, bias)[0]


def _forward(x: jax.Array, scale: jax.Array, bias: jax.Array) -> tuple[tuple, tuple]:
    wide, count = _wide(x), x.size // x.shape[-1]
    mean = channel_sums(wide) / count
    var = jnp.maximum(channel_sums(wide * wide) / count - mean * mean, 0)  # rounding may leave less than nothing
    inverse = jax.lax.rsqrt(var + EPSILON)
    y = (wide - _like(x, mean)) * _like(x, inverse * scale) + _like(x, bias)
    return (y, mean, var), (x, scale, mean, inverse)


def _backward(saved: tuple, gradients: tuple) -> tuple[jax.Array, jax.Array, jax.Array]:
    (x, scale, mean, inverse), (of_y, of_mean, of_var) = saved, gradients
    count = x.size // x.shape[-1]
    unit = (_wide(x) - _like(x, mean)) * _like(x, inverse)
    of_scale, of_bias = channel_sums(of_y * unit), channel_sums(of_y)
    factor = inverse * scale
    # Each channel's gradient is a sum of `of_y`, `unit` and 1, with a factor for each.
    by_unit = (2 * of_var / inverse - factor * of_scale) / count
    by_one = (of_mean - factor * of_bias) / count
    of_x = _like(x, factor) * of_y + _like(x, by_unit) * unit + _like(x, by_one)
    return of_x.astype(x.dtype), of_scale, of_bias


_normalize_by_hand = jax.custom_vjp(normalize)
_normalize_by_hand.defvjp(_forward, _backward)


def channel_sums(x: jax.Array) -> jax.Array:
    """Sums [C] of x [B, ..., C] over all other axes."""

    def product(x: jax.Array) -> jax.Array:
        # Of more rows of ones than are read: XLA writes code for each product with a single row, and compiles for long.
        rows = x.reshape(-1, x.shape[-1])
        return (jnp.ones((4, len(rows)), x.dtype) @ rows)[0]

    # On CPUs, XLA's own sums over many rows take ten times as long, and are less exact.
    return jax.lax.platform_dependent(x, cpu=product, default=lambda x: x.sum(axis=tuple(range(x.ndim - 1))))


def _wide(x: jax.Array) -> jax.Array:
    return x.astype(np.promote_types(x.dtype, np.float32))


def _like(x: jax.Array, of_channels: jax.Array) -> jax.Array:
    """[C] -> [1, ..., 1, C]"""
    return of_channels.reshape((1,) * (x.ndim - 1) + of_channels.shape)
