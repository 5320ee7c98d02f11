"""Vision transformers (Dosovitskiy et al., ICLR 2021), as timm's `vit_tiny_patch16_224` has them.

https://github.com/huggingface/pytorch-image-models, timm/models/vision_transformer.py: blocks with the norms first, a
class token whose last value is the features, learnt position embeddings, biases everywhere, exact GELU, LayerNorm with
1e-6. Parameters have timm's names with `/` for `.`, `blocks_0` for `blocks.0`, `kernel` and `scale` for `weight`.

The initialiser is timm's, but for the bias of the patch embedding, which is 0 here. It gives the kernels of all blocks
one scale (0.02, as the patch embedding has of 16 x 16 x 3 numbers), so that at the start a global threshold prunes all
layers alike. Every kernel can be pruned: the four of each block and the patch embedding, which is a ResNet's stem.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from sdclr_jax.errors import ArgumentError
from sdclr_jax.models.encoder import Encoder, check_at_least, check_at_most
from sdclr_jax.models.heads import linear_init
from sdclr_jax.trees import Tree

small = nn.initializers.normal(0.02)


def linear(features: int, *, dtype: Any, name: str) -> nn.Dense:
    return nn.Dense(features, kernel_init=small, dtype=dtype, name=name)


def norm(*, dtype: Any, name: str) -> nn.LayerNorm:
    return nn.LayerNorm(epsilon=1e-6, use_fast_variance=False, dtype=dtype, name=name)


class PatchEmbed(nn.Module):
    """A linear layer on each patch: [B, H, W, C] -> [B, H / patch, W / patch, width]."""

    patch: int
    width: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        sides = (self.patch, self.patch)
        return nn.Conv(
            self.width, sides, strides=sides, padding="VALID", kernel_init=linear_init, dtype=self.dtype, name="proj"
        )(x)


class Attention(nn.Module):
    """Self-attention of several heads: [B, N, width] -> [B, N, width]."""

    heads: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        batch, tokens, width = x.shape
        qkv = linear(3 * width, dtype=self.dtype, name="qkv")(x)
        q, k, v = jnp.moveaxis(qkv.reshape(batch, tokens, 3, self.heads, -1), 2, 0)
        wide = jnp.promote_types(self.dtype, jnp.float32)  # of the softmax
        logits = jnp.einsum("bqhd,bkhd->bhqk", q * q.shape[-1] ** -0.5, k, preferred_element_type=wide)
        x = jnp.einsum("bhqk,bkhd->bqhd", nn.softmax(logits).astype(self.dtype), v)
        return linear(width, dtype=self.dtype, name="proj")(x.reshape(batch, tokens, width))


class MLP(nn.Module):
    """Two linear layers, four times as wide between them: [B, N, width] -> [B, N, width]."""

    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = x.shape[-1]
        x = nn.gelu(linear(4 * width, dtype=self.dtype, name="fc1")(x), approximate=False)
        return linear(width, dtype=self.dtype, name="fc2")(x)


class Block(nn.Module):
    """Attention and MLP, each on the normalised input and added to it: [B, N, width] -> [B, N, width]."""

    heads: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = x + Attention(self.heads, self.dtype, name="attn")(norm(dtype=self.dtype, name="norm1")(x))
        return x + MLP(self.dtype, name="mlp")(norm(dtype=self.dtype, name="norm2")(x))


class ViT(Encoder):
    """[B, H, W, C] floats -> features [B, width], the class token after the last norm.

    `patch` is the side of a patch in pixels and divides both sides of the views. The position embeddings are those of
    the views it is initialised with; for views of another size they are interpolated (bicubic), from a square grid.
    With `remat` the backward pass computes what is inside a block again, instead of remembering it.
    """

    patch: int = 16
    width: int = 192
    depth: int = 12
    heads: int = 3
    dtype: Any = jnp.float32
    remat: bool = False

    def __post_init__(self):
        check_at_least(1, patch=self.patch, width=self.width, depth=self.depth, heads=self.heads)
        check_at_most(65536, width=self.width, patch=self.patch)
        check_at_most(100, depth=self.depth)  # blocks are traced and compiled one after the other
        if self.width % self.heads:
            raise ArgumentError("heads", f"is {self.heads}: it must divide the width, {self.width}")
        super().__post_init__()

    @nn.nowrap
    def check_view(self, height: int, width: int) -> None:
        if height % self.patch or width % self.patch:
            raise ArgumentError("patch", f"is {self.patch}: it must divide the sides of the views, {height} x {width}")

    @nn.nowrap
    def for_views(self, params: Tree, height: int, width: int) -> Tree:
        """The same with the position embeddings of the grid of such views."""
        held, grid = params.get("pos_embed"), (height // self.patch, width // self.patch)
        if held is None or not square(held.shape) or held.shape[1] == 1 + math.prod(grid):
            return params
        return params | {"pos_embed": np.asarray(interpolated(held, grid))}

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        self.check_view(*x.shape[1:3])
        x = PatchEmbed(self.patch, self.width, self.dtype, name="patch_embed")(x.astype(self.dtype))
        batch, *grid, _ = x.shape
        token = self.param("cls_token", nn.initializers.normal(1e-6), (1, 1, self.width)).astype(self.dtype)
        x = jnp.concatenate([jnp.tile(token, (batch, 1, 1)), x.reshape(batch, -1, self.width)], axis=1)
        x = x + self._positions(*grid).astype(self.dtype)
        block = nn.remat(Block) if self.remat else Block
        for i in range(self.depth):
            x = block(self.heads, self.dtype, name=f"blocks_{i}")(x)
        return norm(dtype=self.dtype, name="norm")(x[:, 0])

    def _positions(self, height: int, width: int) -> jax.Array:
        """Embeddings of the class token and of each place of the grid: [1, 1 + height * width, width of the tokens]."""
        held = self.get_variable("params", "pos_embed")
        if held is None or held.shape[1] == 1 + height * width:
            return self.param("pos_embed", small, (1, 1 + height * width, self.width))
        return interpolated(held, (height, width))


def square(shape: tuple[int, ...]) -> int:
    """The side of the square grid that position embeddings [1, 1 + side ** 2, width] are of; 0 where they are of none.

    >>> square((1, 197, 192)), square((1, 196, 192))
    (14, 0)
    """
    side = math.isqrt(max(shape[1] - 1, 0)) if len(shape) == 3 else 0
    return side if side and shape[1] == 1 + side**2 else 0


def interpolated(positions: jax.Array, grid: tuple[int, int]) -> jax.Array:
    """Position embeddings [1, 1 + side ** 2, width] of a class token and a square grid, for another grid (bicubic)."""
    side, width = square(positions.shape), positions.shape[2]
    places = positions[:, 1:].reshape(1, side, side, width)
    places = jax.image.resize(places, (1, *grid, width), "bicubic")
    return jnp.concatenate([positions[:, :1], places.reshape(1, -1, width)], axis=1)
