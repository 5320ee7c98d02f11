"""Views made on the device: (key, images uint8 [B, H, W, C]) -> float32 [B, h, w, C], every image by its own numbers.

Each view draws one table of uniform numbers [B, P], turns its columns into boxes, factors and the like, and hands
these to the operations further down, which are deterministic. Nothing depends on an image's neighbours or on where it
lies, so a `jit` on a batch split over devices needs no communication and gives the values that one device gives.

Operations work on float32 [B, h, w, C] in 0..1 and clip to that range, as Pillow does on bytes. Every view ends with
(x - mean) / std, `mean` and `std` one number a channel, and raises ArgumentError if an argument is out of its range.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.ndimage import map_coordinates
from jaxtyping import Array, ArrayLike, Float, Int, Num, Shaped

from sdclr_jax.data.crops import random_boxes
from sdclr_jax.errors import ArgumentError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_BRIGHTNESS, _SATURATION, _HUE = 0, 2, 3  # 1 is contrast


def simclr_view(
    key: jax.Array,
    images: Shaped[ArrayLike, "B H W C"],
    *,
    size: int,
    crop_scale: tuple[float, float] = (0.1, 1.0),
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3),
    interpolation: str = "bicubic",
    flip: float = 0.5,
    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.4, 0.1),
    jitter_probability: float = 0.8,
    grayscale_probability: float = 0.2,
    blur_probability: float | tuple[float, ...] = 0.0,
    blur_sigma: tuple[float, float] = (0.1, 2.0),
    solarize_probability: float | tuple[float, ...] = 0.0,
    cropped: bool = False,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
) -> Float[Array, "B {size} {size} 3"]:
    """The views of SimCLR (Chen et al., ICML 2020, Appendix A), as torchvision makes them.

    A resized crop, a horizontal flip, brightness, contrast, saturation and hue in an order of their own for every
    image, grayscale, a Gaussian blur, and the solarisation of BYOL (Grill et al., NeurIPS 2020, Appendix B). Images
    uint8 [B, H, W, 3] -> views float32 [B, size, size, 3].

    Where the views of an image lie in neighbouring rows, V of them, the probabilities of blur and solarisation may
    each be a tuple of V numbers, one a view.

    Args:
        key: of the whole batch.
        images: of three channels.
        size: side of a view in pixels.
        crop_scale: share of the image's area in the crop, from and to.
        crop_ratio: width over height of the crop, from and to; uniform in its logarithm.
        interpolation: 'bicubic' or 'bilinear', of the crop.
        flip: probability.
        jitter: strength of brightness, contrast and saturation, whose factors lie in max(0, 1 - s)..1 + s, and of hue,
            whose shift lies in -s..s turns of the colour circle.
        jitter_probability: of changing an image's colours at all.
        grayscale_probability: of leaving only brightness.
        blur_probability: where it is 0, no blur is compiled.
        blur_sigma: standard deviation of the blur in pixels, from and to.
        solarize_probability: of turning the brighter half of the values, x of 0.5 and more, into 1 - x.
        cropped: whether the images are random crops already, of the size of a view.
    """
    batch, height, width, channels = images.shape
    if channels != 3:
        raise ArgumentError("images", f"are of {channels} channels: these views are made of 3")
    _check("size", size, size >= 1, "at least 1")
    _check_range("crop_scale", crop_scale, 1)
    _check_range("crop_ratio", crop_ratio, math.inf)
    _check("interpolation", interpolation, interpolation in _KERNELS, f"one of {', '.join(_KERNELS)}")
    _check_range("blur_sigma", blur_sigma, math.inf)
    in_range = len(jitter) == 4 and min(jitter) >= 0 and jitter[_HUE] <= 0.5
    _check("jitter", jitter, in_range, "four numbers of at least 0, the last at most 0.5")
    probabilities = {
        "flip": flip,
        "jitter_probability": jitter_probability,
        "grayscale_probability": grayscale_probability,
    }
    for name, value in probabilities.items():
        _check(name, value, 0 <= value <= 1, "between 0 and 1")
    _check_probabilities("blur_probability", blur_probability, batch)
    _check_probabilities("solarize_probability", solarize_probability, batch)
    u = jax.random.uniform(key, (batch, 35))
    for_crop, for_jitter, for_flip, for_grayscale, for_blur = jnp.split(u, (22, 31, 32, 33), axis=1)
    if cropped:
        x = _unit(images)
    else:
        boxes = random_boxes(for_crop, height, width, crop_scale, crop_ratio)
        x = resized_crop(images, boxes, size, interpolation)
    x = jnp.where(_per_image(for_flip[:, 0] < flip), x[:, :, ::-1], x)
    x = color_jitter(x, *random_jitter(for_jitter, jitter, jitter_probability))
    x = jnp.where(_per_image(for_grayscale[:, 0] < grayscale_probability), luma(x), x)
    if np.any(blur_probability):
        sigma = _between(for_blur[:, 1], *blur_sigma)
        x = jnp.where(_per_image(for_blur[:, 0] < _per_row(blur_probability, batch)), gaussian_blur(x, sigma), x)
    if np.any(solarize_probability):
        # A draw of its own, so that what is drawn above is the same with and without it.
        for_solarize = jax.random.uniform(jax.random.fold_in(key, 2), (batch,))
        x = jnp.where(_per_image(for_solarize < _per_row(solarize_probability, batch)), solarize(x), x)
    return _normalise(x, mean, std)


def digits_view(
    key: jax.Array,
    images: Shaped[ArrayLike, "B H W C"],
    *,
    crop_scale: tuple[float, float] = (0.5, 1.0),
    rotation: float = 15.0,
    shift: float = 1.0,
    contrast: float = 0.4,
    mean: Sequence[float],
    std: Sequence[float],
) -> Float[Array, "B H W C"]:
    """Views of tiny pictures on black, as digits are: crop, turn and shift in a single resampling, then contrast.

    The counterpart of `simclr_view` where colours, flips and repeated resampling would leave nothing to recognise.
    Images uint8 [B, H, W, C] -> views float32 [B, H, W, C].

    Args:
        key: of the whole batch.
        crop_scale: share of the image's area in the crop, from and to; the crop lies anywhere inside the image.
        rotation: degrees, at most, either way.
        shift: pixels of the image, at most, either way, down and across; what comes in is black.
        contrast: the factor lies in 1 - contrast..1 + contrast, about the view's mean.
    """
    _check_range("crop_scale", crop_scale, 1)
    _check("rotation", rotation, 0 <= rotation <= 180, "between 0 and 180 degrees")
    _check("shift", shift, shift >= 0, "at least 0 pixels")
    _check("contrast", contrast, 0 <= contrast <= 1, "between 0 and 1")
    u = jax.random.uniform(key, (len(images), 7))
    side = jnp.sqrt(_between(u[:, :1], *crop_scale))  # [B, 1], share of the image's side
    room = (1 - side) / 2 * jnp.array([images.shape[1:3]], jnp.float32)  # [B, 2], pixels
    offset = room * _between(u[:, 1:3], -1, 1) + _between(u[:, 3:5], -shift, shift)
    angle = jnp.deg2rad(_between(u[:, 5], -rotation, rotation))
    x = affine(_unit(images), side[:, 0], angle, offset)
    x = _blend(x, x.mean(axis=(1, 2, 3), keepdims=True), _between(u[:, 6], 1 - contrast, 1 + contrast))
    return _normalise(x, mean, std)


def probe_view(
    key: jax.Array,
    images: Shaped[ArrayLike, "B H W C"],
    *,
    padding: int,
    flip: float,
    mean: Sequence[float],
    std: Sequence[float],
) -> Float[Array, "B H W C"]:
    """What the published linear probe trains on (Jiang et al., ICML 2021): the padded image cropped anywhere, a flip.

    `padding` is rows and columns of black on each side, `flip` a probability. Images uint8 [B, H, W, C] -> views
    float32 [B, H, W, C].
    """
    _check("padding", padding, padding >= 0, "at least 0")
    _check("flip", flip, 0 <= flip <= 1, "between 0 and 1")
    u = jax.random.uniform(key, (len(images), 3))
    corners = jnp.floor(u[:, :2] * (2 * padding + 1)).astype(jnp.int32) - padding
    x = shifted_crop(_unit(images), corners) if padding else _unit(images)
    return _normalise(jnp.where(_per_image(u[:, 2] < flip), x[:, :, ::-1], x), mean, std)


def plain(
    images: Shaped[ArrayLike, "B H W C"], *, mean: Sequence[float], std: Sequence[float]
) -> Float[Array, "B H W C"]:
    """The images uint8 [B, H, W, C] themselves, as float32 [B, H, W, C]: what is evaluated."""
    return _normalise(_unit(images), mean, std)


# From uniform numbers to what they decide.


def random_jitter(
    u: Float[ArrayLike, "B 9"], strength: Sequence[float], probability: float
) -> tuple[Float[Array, "B 4"], Int[Array, "B 4"]]:
    """What `color_jitter` asks for, from uniform numbers [B, 9]: factors float32 [B, 4] and order int32 [B, 4].

    An image is left alone with 1 - `probability`: factors of 1, a hue shift of 0.
    """
    neutral, strength = jnp.array([[1.0, 1.0, 1.0, 0.0]]), jnp.array([strength], jnp.float32)
    low = jnp.maximum(neutral - strength, jnp.array([[0.0, 0.0, 0.0, -0.5]]))
    factors = jnp.where(u[:, :1] < probability, _between(u[:, 1:5], low, neutral + strength), neutral)
    return factors, jnp.argsort(u[:, 5:9], axis=1)


# Operations.


def resized_crop(
    images: Shaped[ArrayLike, "B H W C"], boxes: Num[ArrayLike, "B 4"], size: int, interpolation: str = "bicubic"
) -> Float[Array, "B {size} {size} C"]:
    """Cut boxes [B, 4] (top, left, height, width) out of uint8 [B, H, W, C] and resize them to [B, size, size, C].

    Bicubic or bilinear as in Pillow: where a box shrinks the kernel is widened, so that nothing is skipped, and no
    pixel outside the box is read.
    """
    rows = _stretch(boxes[:, 0], boxes[:, 2], images.shape[1], size, _KERNELS[interpolation])
    columns = _stretch(boxes[:, 1], boxes[:, 3], images.shape[2], size, _KERNELS[interpolation])
    return _separable(_unit(images), rows, columns)


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
    hue = hue / jnp.maximum(chroma, 1e-12) + 6 * _per_image(shift)
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
        operation, factor = _per_image(order[:, place]), factors[:, place]
        towards = jnp.where(operation == _SATURATION, luma(x), luma(x.mean(axis=(1, 2), keepdims=True)))
        towards = jnp.where(operation == _BRIGHTNESS, 0, towards)
        x = jnp.where(operation == _HUE, adjust_hue(x, factor), _blend(x, towards, factor))
    return x


def solarize(x: Float[ArrayLike, "B H W C"]) -> Float[Array, "B H W C"]:
    """x [B, h, w, C] with values of 0.5 and above turned into 1 - x."""
    return jnp.where(x < 0.5, x, 1 - x)


def gaussian_blur(x: Float[ArrayLike, "B H W C"], sigma: Float[ArrayLike, " B"]) -> Float[Array, "B H W C"]:
    """Blur x [B, h, w, C] by `sigma` [B] pixels, with a kernel of a tenth of the side, made odd (at least 3).

    As in SimCLR's code; but the picture is mirrored at its borders, as in torchvision, where that code lets black in.
    """
    return _separable(x, *(_gaussian(sigma, size) for size in x.shape[1:3]))


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


_KERNELS = {"bicubic": _bicubic, "bilinear": _bilinear}


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


def _blend(x: jax.Array, towards: jax.Array, factor: jax.Array) -> jax.Array:
    """x at factor 1, `towards` at factor 0, beyond x above; `factor` is [B]."""
    factor = _per_image(factor)
    return jnp.clip(factor * x + (1 - factor) * towards, 0, 1)


def _unit(images: jax.Array) -> jax.Array:
    if images.dtype != jnp.uint8:
        raise TypeError(f"images are {images.dtype}: views are made of uint8")
    return images.astype(jnp.float32) / 255


def _normalise(x: jax.Array, mean: Sequence[float], std: Sequence[float]) -> jax.Array:
    rule = f"{x.shape[3]} numbers, one a channel"
    _check("mean", mean, len(mean) == x.shape[3], rule)
    _check("std", std, len(std) == x.shape[3] and min(std) > 0, rule + ", above 0")
    mean, std = (jnp.array(v, jnp.float32)[None, None, None] for v in (mean, std))
    return (x - mean) / std


def _between(u: jax.Array, low, high) -> jax.Array:
    return low + (high - low) * u


def _per_row(value: float | tuple[float, ...], batch: int) -> float | jax.Array:
    """One number for all rows, or [batch] where each of a row's neighbouring views has its own."""
    return jnp.tile(jnp.array(value, jnp.float32), batch // len(value)) if isinstance(value, tuple) else value


def _per_image(v: jax.Array) -> jax.Array:
    return v[:, None, None, None]


def _index(size: int, axis: int) -> jax.Array:
    """0..size - 1 along one of three axes."""
    return jax.lax.broadcasted_iota(jnp.float32, tuple(size if i == axis else 1 for i in range(3)), axis)


def _check(argument: str, value, ok: bool, rule: str) -> None:
    if not ok:
        raise ArgumentError(argument, f"is {value!r}: it must be {rule}")


def _check_range(argument: str, value: tuple[float, float], high: float) -> None:
    ok = len(value) == 2 and 0 < value[0] <= value[1] <= high
    _check(argument, value, ok, f"two numbers above 0 and at most {high}, the smaller one first")


def _check_probabilities(argument: str, value: float | tuple[float, ...], batch: int) -> None:
    numbers = value if isinstance(value, tuple) else (value,)
    ok = bool(numbers) and all(isinstance(x, int | float) and 0 <= x <= 1 for x in numbers)
    ok = ok and batch % len(numbers) == 0
    _check(argument, value, ok, "between 0 and 1, or a tuple of such numbers, one a view")
