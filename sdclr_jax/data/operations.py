"""What is done to the pixels of a batch on the device, each image by its own numbers: crop, turn, colours, blur.

Operations are deterministic. They work on float32 [B, h, w, C] in 0..1 and clip to that range, as Pillow does on bytes.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates
from jaxtyping import Array, ArrayLike, Float, Int, Num, Shaped

from sdclr_jax.errors import ArgumentError

_BRIGHTNESS, _SATURATION, _HUE = 0, 2, 3  # 1 is contrast


def to_float(images: Shaped[ArrayLike, "B H W C"]) -> Float[ArrayLike, "B H W C"]:
    """Bytes 0..255 as float32 0..1. Raises TypeError for images that are not uint8."""
    if images.dtype != jnp.uint8:
        raise TypeError(f"images are {images.dtype}: views are made of uint8")
    return images.astype(jnp.float32) / 255


def per_image(v: Shaped[ArrayLike, " B"]) -> Shaped[Array, "B 1 1 1"]:
    """One value an image [B], as [B, 1, 1, 1]."""
    return v[:, None, None, None]


def resized_crop(
    images: Shaped[ArrayLike, "B H W C"], boxes: Num[ArrayLike, "B 4"], size: int, interpolation: str = "bicubic"
) -> Float[Array, "B {size} {size} C"]:
    """Cut boxes [B, 4] (top, left, height, width) out of uint8 [B, H, W, C] and resize them to [B, size, size, C].

    Bicubic or bilinear as in Pillow: where a box shrinks the kernel is widened, so that nothing is skipped, and no
    pixel outside the box is read.

    Raises:
        ArgumentError: another interpolation.
    """
    if interpolation not in KERNELS:
        raise ArgumentError("interpolation", f"is {interpolation!r}: it must be one of {', '.join(KERNELS)}")
    rows = _stretch(boxes[:, 0], boxes[:, 2], images.shape[1], size, KERNELS[interpolation])
    columns = _stretch(boxes[:, 1], boxes[:, 3], images.shape[2], size, KERNELS[interpolation])
    return _separable(to_float(images), rows, columns)


def shifted_crop(x: Float[ArrayLike, "B H W C"], corners: Int[ArrayLike, "B 2"]) -> Float[Array, "B H W C"]:
    """The window of x's own size whose top left pixel lies at `corners` int [B, 2] (row, column); 0 outside of x."""
    starts = corners.astype(jnp.float32)[:, :, None, None]
    pick = (_index(n, 2) == _index(n, 1) + starts[:, axis] for axis, n in enumerate(x.shape[1:3]))
    return _separable(x, *(matrix.astype(jnp.float32) for matrix in pick))


def affine(
    x: Float[ArrayLike, "B H W C"],
    side: Float[ArrayLike, " B"],
    angle: Float[ArrayLike, " B"],
    offset: Num[ArrayLike, "B 2"],
) -> Float[Array, "B H W C"]:
    """Zoom, turn and shift x [B, H, W, C] about its middle, bilinear, 0 outside of x.

    `side` [B] is the share of x's side that fills the view, `angle` [B] is in radians, counter-clockwise, `offset`
    [B, 2] leads from x's middle to what stands in the middle of the view, in pixels down and across.
    """
    height, width = x.shape[1:3]
    down = jnp.arange(height, dtype=jnp.float32)[None, :, None] - (height - 1) / 2
    across = jnp.arange(width, dtype=jnp.float32)[None, None, :] - (width - 1) / 2
    cos, sin = (side * jnp.cos(angle))[:, None, None], (side * jnp.sin(angle))[:, None, None]
    shift_down, shift_across = offset[:, 0, None, None], offset[:, 1, None, None]
    row = cos * down + sin * across + shift_down + (height - 1) / 2  # [B, H, W]: where each pixel is read
    column = cos * across - sin * down + shift_across + (width - 1) / 2
    # On CPU four times as fast as weights in matrices, and the cost does not grow with the square of H * W.
    read = partial(map_coordinates, order=1, mode="constant", cval=0.0)
    return jax.vmap(jax.vmap(read, in_axes=(2, None), out_axes=2))(x, [row, column])


def luma(x: Float[ArrayLike, "... 3"]) -> Float[ArrayLike, "... 1"]:
    """Brightness [B, h, w, 1] of colours [B, h, w, 3], ITU-R BT.601."""
    return 0.299 * x[..., :1] + 0.587 * x[..., 1:2] + 0.114 * x[..., 2:]


def adjust_hue(x: Float[ArrayLike, "B H W 3"], shift: Float[ArrayLike, " B"]) -> Float[Array, "B H W 3"]:
    """Turn the hue of x [B, h, w, 3] by `shift` [B] turns of the HSV colour circle, value and saturation unchanged."""
    red, green, blue = x[..., :1], x[..., 1:2], x[..., 2:]
    high, low = jnp.maximum(jnp.maximum(red, green), blue), jnp.minimum(jnp.minimum(red, green), blue)
    chroma = high - low
    # Comparisons rather than `high == red`: the compiler may compute a colour twice, and differently in its last bit.
    hue = jnp.where(
        (red >= green) & (red >= blue),
        green - blue,
        jnp.where(green >= blue, blue - red + 2 * chroma, red - green + 4 * chroma),
    )
    hue = hue / jnp.maximum(chroma, 1e-12) + 6 * per_image(shift)
    hue = hue - 6 * jnp.floor(hue / 6)  # in sixths of the circle; jnp.mod takes five times as long on CPU
    share = jnp.concatenate([jnp.abs(hue - 3) - 1, 2 - jnp.abs(hue - 2), 2 - jnp.abs(hue - 4)], axis=3)
    return low + chroma * jnp.clip(share, 0, 1)


def color_jitter(
    x: Float[ArrayLike, "B H W 3"], factors: Float[ArrayLike, "B 4"], order: Int[ArrayLike, "B 4"]
) -> Float[Array, "B H W 3"]:
    """Change brightness, contrast, saturation and hue of x [B, h, w, 3], each image in its own order.

    Args:
        x: colours in 0..1.
        factors: float32 [B, 4]: of brightness, contrast and saturation (1 changes nothing), and a hue shift in turns.
        order: int32 [B, 4], each row a permutation: operation 0..3, in the order of `factors`, at each place.
    """
    # Each image runs all operations at all four places and keeps one, so the distribution is torchvision's. But three
    # of the four are one blend, towards different colours, so a place costs a blend and a hue, not four operations.
    factors = jnp.take_along_axis(factors, order, axis=1)
    for place in range(4):
        operation, factor = per_image(order[:, place]), factors[:, place]
        towards = jnp.where(operation == _SATURATION, luma(x), luma(x.mean(axis=(1, 2), keepdims=True)))
        towards = jnp.where(operation == _BRIGHTNESS, 0, towards)
        x = jnp.where(operation == _HUE, adjust_hue(x, factor), blend(x, towards, factor))
    return x


def solarize(x: Float[ArrayLike, "B H W C"]) -> Float[Array, "B H W C"]:
    """x [B, h, w, C] with values of 0.5 and above turned into 1 - x."""
    return jnp.where(x < 0.5, x, 1 - x)


def gaussian_blur(x: Float[ArrayLike, "B H W C"], sigma: Float[ArrayLike, " B"]) -> Float[Array, "B H W C"]:
    """Blur x [B, h, w, C] by `sigma` [B] pixels, with a kernel of a tenth of the side, made odd (at least 3).

    As in SimCLR's code; but the picture is mirrored at its borders, as in torchvision, where that code lets black in.
    """
    return _separable(x, *(_gaussian(sigma, size) for size in x.shape[1:3]))


def blend(
    x: Float[ArrayLike, "B H W C"], towards: Float[ArrayLike, "..."], factor: Float[ArrayLike, " B"]
) -> Float[Array, "B H W C"]:
    """x at factor 1, `towards` at factor 0, beyond x above; `factor` is [B]."""
    factor = per_image(factor)
    return jnp.clip(factor * x + (1 - factor) * towards, 0, 1)


# Helpers.


def _separable(x: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
    """Every image [H, W] times its own matrices: rows [B, h, H] x columns [B, w, W] -> [B, h, w, C].

    Across first, and clipped in between, as in Pillow up to 12: its bytes cannot overshoot between the passes either.
    """
    x = jnp.clip(jnp.einsum("bijc,bwj->biwc", x, columns, precision="highest"), 0, 1)
    return jnp.clip(jnp.einsum("biwc,bhi->bhwc", x, rows, precision="highest"), 0, 1)


def _bicubic(t: jax.Array) -> jax.Array:
    """Keys' kernel with a = -0.5 at distances t of at least 0."""
    return jnp.where(t < 1, (1.5 * t - 2.5) * t * t + 1, jnp.where(t < 2, ((2.5 - 0.5 * t) * t - 4) * t + 2, 0))


def _bilinear(t: jax.Array) -> jax.Array:
    return jnp.maximum(1 - t, 0)


KERNELS = {"bicubic": _bicubic, "bilinear": _bilinear}


def _stretch(
    start: jax.Array, length: jax.Array, size_in: int, size_out: int, kernel: Callable[[jax.Array], jax.Array]
) -> jax.Array:
    """Weights [B, size_out, size_in] that stretch `length` pixels from `start` on (int [B]) over `size_out` pixels."""
    start, length = (v.astype(jnp.float32)[:, None, None] for v in (start, length))
    scale = length / size_out
    pixel = _index(size_in, 2) + 0.5
    t = jnp.abs(pixel - start - (_index(size_out, 1) + 0.5) * scale) / jnp.maximum(scale, 1)
    weights = jnp.where((pixel > start) & (pixel < start + length), kernel(t), 0)
    return weights / weights.sum(axis=2, keepdims=True)


def _gaussian(sigma: jax.Array, size: int) -> jax.Array:
    """Weights [B, size, size] of a Gaussian cut off at size // 20 pixels and mirrored at the borders."""
    radius = max(1, size // 20)

    def tap(distance: jax.Array) -> jax.Array:
        return jnp.where(jnp.abs(distance) <= radius, jnp.exp(-0.5 * (distance / sigma[:, None, None]) ** 2), 0)

    out, pixel = _index(size, 1), _index(size, 2)
    # What pixel -p or 2 * (size - 1) - p would have shown is p's; the border pixels themselves come once.
    weights = tap(out - pixel)
    weights += jnp.where(pixel > 0, tap(out + pixel), 0)
    weights += jnp.where(pixel < size - 1, tap(2 * (size - 1) - out - pixel), 0)
    return weights / weights.sum(axis=2, keepdims=True)


def _index(size: int, axis: int) -> jax.Array:
    """0..size - 1 along one of three axes."""
    return jax.lax.broadcasted_iota(jnp.float32, tuple(size if i == axis else 1 for i in range(3)), axis)
