"""Heads on the encoder's features."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from sdclr_jax.models.resnet import norm

# PyTorch's default for linear layers, which the authors keep: uniform within 1 / sqrt(fan-in).
linear_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


class Projector(nn.Module):
    """`layers` linear layers, [B, D] -> [B, out], a norm after each and a ReLU after each but the last.

    The first layer has a bias, the others none, and the last norm is learnt too, as in the authors' code, which gives
    SimCLR 2 layers (512-512-128) and SDCLR with private norms 3 (512-512-512-128).
    """

    layers: int
    hidden: int
    out: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        for i in range(1, self.layers + 1):
            x = nn.Dense(
                self.out if i == self.layers else self.hidden,
                use_bias=i == 1,
                kernel_init=linear_init,
                dtype=self.dtype,
                name=f"linear{i}",
            )(x)
            x = norm(train, dtype=self.dtype, name=f"norm{i}")(x)
            if i < self.layers:
                x = nn.relu(x)
        return x
