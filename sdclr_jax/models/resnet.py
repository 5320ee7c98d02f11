"""Residual networks (He et al., CVPR 2016), as SDCLR trains them.

Padding, initialiser and bias are explicit, so that weights from PyTorch fit. The initialiser is part of the method:
one magnitude threshold over all layers compares their scales.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from sdclr_jax.errors import ArgumentError
from sdclr_jax.models.encoder import Encoder, check_at_least
from sdclr_jax.models.norms import BatchNorm

STEMS = ("cifar", "imagenet")

# Kaiming normal with fan-out, as in the authors' code: std = sqrt(2 / (kernel area * output channels)).
kaiming = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def conv(features: int, kernel: int, stride: int = 1, *, dtype: Any, name: str) -> nn.Conv:
    """A convolution without bias, symmetric padding ('SAME' is lopsided at stride 2)."""
    pad = kernel // 2
    return nn.Conv(
        features,
        (kernel, kernel),
        strides=stride,
        padding=((pad, pad), (pad, pad)),
        use_bias=False,
        kernel_init=kaiming,
        dtype=dtype,
        name=name,
    )


def norm(train: bool, *, dtype: Any, name: str, affine: bool = True) -> BatchNorm:
    """Batch norm over the global batch. `affine`: with a scale and a bias to be learnt."""
    return BatchNorm(use_running_average=not train, affine=affine, dtype=dtype, name=name)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: [B, H, W, C] -> [B, H / stride, W / stride, features]."""

    features: int
    stride: int
    dtype: Any
    expansion = 1

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        make_conv, make_norm = partial(conv, dtype=self.dtype), partial(norm, train, dtype=self.dtype)
        y = nn.relu(make_norm(name="norm1")(make_conv(self.features, 3, self.stride, name="conv1")(x)))
        y = make_norm(name="norm2")(make_conv(self.features, 3, name="conv2")(y))
        if x.shape != y.shape:
            x = make_norm(name="shortcut_norm")(make_conv(self.features, 1, self.stride, name="shortcut")(x))
        return nn.relu(x + y)


class Bottleneck(nn.Module):
    """1x1, 3x3 (with the stride), 1x1 convolutions and a shortcut; the output has 4 x `features` channels."""

    features: int
    stride: int
    dtype: Any
    expansion = 4

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        make_conv, make_norm = partial(conv, dtype=self.dtype), partial(norm, train, dtype=self.dtype)
        out = self.features * self.expansion
        y = nn.relu(make_norm(name="norm1")(make_conv(self.features, 1, name="conv1")(x)))
        y = nn.relu(make_norm(name="norm2")(make_conv(self.features, 3, self.stride, name="conv2")(y)))
        y = make_norm(name="norm3")(make_conv(out, 1, name="conv3")(y))
        if x.shape != y.shape:
            x = make_norm(name="shortcut_norm")(make_conv(out, 1, self.stride, name="shortcut")(x))
        return nn.relu(x + y)


class ResNet(Encoder):
    """[B, H, W, C] floats -> features [B, width * 2 ** (stages - 1) * expansion], averaged over space.

    `stem` is 'cifar' (one 3x3 convolution) or 'imagenet' (7x7 at stride 2, then 3x3 max-pooling at stride 2). With
    `remat` the backward pass computes what is inside a block again, instead of remembering it.
    """

    stages: Sequence[int]
    block: type[nn.Module]
    stem: str = "cifar"
    width: int = 64
    dtype: Any = jnp.float32
    remat: bool = False

    def __post_init__(self):
        if self.stem not in STEMS:
            raise ArgumentError("stem", f"is {self.stem!r}: known are {', '.join(STEMS)}")
        check_at_least(1, width=self.width)
        super().__post_init__()

    @nn.nowrap
    def check_view(self, height: int, width: int) -> None:
        if self.stem == "imagenet" and min(height, width) < 64:
            places = f"{-(-height // 4)} x {-(-width // 4)}"
            raise ArgumentError(
                "stem",
                f"is 'imagenet', which leaves views of {height} x {width} with {places} places: take 'cifar'",
            )

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = x.astype(self.dtype)
        kernel, stride = (7, 2) if self.stem == "imagenet" else (3, 1)
        x = conv(self.width, kernel, stride, dtype=self.dtype, name="stem")(x)
        x = nn.relu(norm(train, dtype=self.dtype, name="stem_norm")(x))
        if self.stem == "imagenet":
            # Around a ReLU's output zeros are as good as nothing; spelled out, since exporters pass `padding` over.
            x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
            x = nn.max_pool(x, window_shape=(3, 3), strides=(2, 2))
        block = nn.remat(self.block, static_argnums=(2,)) if self.remat else self.block  # `train`, after self and x
        for i, blocks in enumerate(self.stages):
            for j in range(blocks):
                block_stride = 2 if i > 0 and j == 0 else 1
                x = block(self.width * 2**i, block_stride, self.dtype, name=f"stage{i + 1}_block{j + 1}")(x, train)
        return x.mean(axis=(1, 2))
