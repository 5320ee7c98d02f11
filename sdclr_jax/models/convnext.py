"""ConvNeXt (Liu et al., CVPR 2022), as timm's `convnext_tiny` has it.

https://github.com/huggingface/pytorch-image-models, timm/models/convnext.py: a stem of patches, blocks of a depthwise
7x7 convolution and two linear layers with the norm between them, exact GELU, a scale per channel at the end of each
block, LayerNorm with 1e-6, and a norm on the mean over space, whose output is the features. No stochastic depth.

The initialiser is timm's: the kernels of all layers have one scale (0.02), so that at the start a global threshold
prunes all layers alike. Every kernel can be pruned.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from sdclr_jax.errors import ArgumentError
from sdclr_jax.models.encoder import Encoder, check_at_least
from sdclr_jax.models.vit import linear, norm, small


def conv(features: int, kernel: int, stride: int = 1, *, pad: int = 0, groups: int = 1, dtype: Any, name: str):
    return nn.Conv(
        features,
        (kernel, kernel),
        strides=stride,
        padding=((pad, pad), (pad, pad)),
        feature_group_count=groups,
        kernel_init=small,
        dtype=dtype,
        name=name,
    )


class Block(nn.Module):
    """Mixes places, then channels, and is added to its input: [B, H, W, C] -> [B, H, W, C]."""

    layer_scale: float
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = x.shape[-1]
        y = conv(width, 7, pad=3, groups=width, dtype=self.dtype, name="conv")(x)
        y = linear(4 * width, dtype=self.dtype, name="fc1")(norm(dtype=self.dtype, name="norm")(y))
        y = linear(width, dtype=self.dtype, name="fc2")(nn.gelu(y, approximate=False))
        gamma = self.param("gamma", nn.initializers.constant(self.layer_scale), (width,))
        return x + y * gamma.astype(self.dtype)[None, None, None, :]


class ConvNeXt(Encoder):
    """[B, H, W, C] floats -> features [B, width * 2 ** (stages - 1)].

    `depths`: blocks of each stage. `layer_scale`: what the scale per channel of a block starts from. With `remat` the
    backward pass computes what is inside a block again, instead of remembering it.
    """

    depths: Sequence[int] = (3, 3, 9, 3)
    width: int = 96
    layer_scale: float = 1e-6
    dtype: Any = jnp.float32
    remat: bool = False

    def __post_init__(self):
        if not self.depths:
            raise ArgumentError("depths", "is (): give the number of blocks of each stage")
        check_at_least(1, width=self.width, depths=min(self.depths))
        super().__post_init__()

    @nn.nowrap
    def check_view(self, height: int, width: int) -> None:
        least = 4 * 2 ** (len(self.depths) - 1)
        if min(height, width) < least:
            raise ArgumentError(
                "depths",
                f"is {tuple(self.depths)}, stages that halve views of {height} x {width} to nothing: give views of at "
                f"least {least} pixels a side, or fewer stages",
            )

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        self.check_view(*x.shape[1:3])
        x = conv(self.width, 4, 4, dtype=self.dtype, name="stem")(x.astype(self.dtype))
        x = norm(dtype=self.dtype, name="stem_norm")(x)
        block = nn.remat(Block) if self.remat else Block
        for i, blocks in enumerate(self.depths, 1):
            if i > 1:
                x = norm(dtype=self.dtype, name=f"stage{i}_norm")(x)
                x = conv(self.width * 2 ** (i - 1), 2, 2, dtype=self.dtype, name=f"stage{i}_downsample")(x)
            for j in range(1, blocks + 1):
                x = block(self.layer_scale, self.dtype, name=f"stage{i}_block{j}")(x)
        return norm(dtype=self.dtype, name="norm")(x.mean(axis=(1, 2)))
