"""Heads on the encoder's features."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from sdclr_jax.models.resnet import norm

# PyTorch's default for linear layers, which the authors keep: uniform within 1 / sqrt(fan-in).
linear_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")

# What follows the last layer. 'plain_norm' has no scale and bias; with 'bias' and 'nothing' no norm follows.
LAST = ("norm", "plain_norm", "bias", "nothing")


class Head(nn.Module):
    """A projector or a predictor: `layers` linear layers, [B, D] -> [B, out], a ReLU after each but the last.

    `hidden_norm`: a norm after each layer but the last. The defaults are the authors' of SDCLR: the first layer has a
    bias, those before a norm need none, and the last norm is learnt too.
    """

    layers: int
    hidden: int
    out: int
    hidden_norm: bool = True
    last: str = "norm"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        make_norm = partial(norm, train, dtype=self.dtype)
        for i in range(1, self.layers):
            x = self._linear(i, self.hidden, bias=i == 1 or not self.hidden_norm)(x)
            if self.hidden_norm:
                x = make_norm(name=f"norm{i}")(x)
            x = nn.relu(x)
        x = self._linear(self.layers, self.out, bias=self.layers == 1 or self.last == "bias")(x)
        if self.last in ("norm", "plain_norm"):
            x = make_norm(name=f"norm{self.layers}", affine=self.last == "norm")(x)
        return x

    def _linear(self, i: int, features: int, bias: bool) -> nn.Dense:
        return nn.Dense(features, bias, kernel_init=linear_init, dtype=self.dtype, name=f"linear{i}")


class Prototypes(nn.Module):
    """`count` directions [dimensions, count], columns of unit length at the start; the optimizer keeps them so."""

    count: int

    @nn.compact
    def __call__(self, dimensions: int) -> jax.Array:
        def directions(key, shape):
            x = jax.random.normal(key, shape)
            return x / jnp.linalg.norm(x, axis=0, keepdims=True)

        return self.param("kernel", directions, (dimensions, self.count))
