"""Views made on the device: (key, images uint8 [B, H, W, C]) -> float32 [B, h, w, C], every image by its own numbers.

Each view draws one table of uniform numbers [B, P], turns its columns into boxes, factors and the like, and hands
these to `operations.py`, which is deterministic. Nothing depends on an image's neighbours or on where it lies, so a
`jit` on a batch split over devices needs no communication and gives the values that one device gives.

Every view ends with (x - mean) / std, `mean` and `std` one number a channel, and raises ArgumentError if an argument is
out of its range.
"""

import math
import numbers
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int, Shaped

from sdclr_jax.data.crops import random_boxes
from sdclr_jax.data.operations import (
    affine,
    blend,
    color_jitter,
    gaussian_blur,
    luma,
    per_image,
    resized_crop,
    shifted_crop,
    solarize,
    to_float,
)
from sdclr_jax.errors import ArgumentError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


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
    _check_range("blur_sigma", blur_sigma, math.inf)
    in_range = len(jitter) == 4 and min(jitter) >= 0 and jitter[3] <= 0.5
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
        x = to_float(images)
    else:
        boxes = random_boxes(for_crop, height, width, crop_scale, crop_ratio)
        x = resized_crop(images, boxes, size, interpolation)
    x = jnp.where(per_image(for_flip[:, 0] < flip), x[:, :, ::-1], x)
    x = color_jitter(x, *random_jitter(for_jitter, jitter, jitter_probability))
    x = jnp.where(per_image(for_grayscale[:, 0] < grayscale_probability), luma(x), x)
    if np.any(blur_probability):
        sigma = _between(for_blur[:, 1], *blur_sigma)
        x = jnp.where(per_image(for_blur[:, 0] < _per_row(blur_probability, batch)), gaussian_blur(x, sigma), x)
    if np.any(solarize_probability):
        # A draw of its own, so that what is drawn above is the same with and without it.
        for_solarize = jax.random.uniform(jax.random.fold_in(key, 2), (batch,))
        x = jnp.where(per_image(for_solarize < _per_row(solarize_probability, batch)), solarize(x), x)
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
    x = affine(to_float(images), side[:, 0], angle, offset)
    x = blend(x, x.mean(axis=(1, 2, 3), keepdims=True), _between(u[:, 6], 1 - contrast, 1 + contrast))
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
    x = shifted_crop(to_float(images), corners) if padding else to_float(images)
    return _normalise(jnp.where(per_image(u[:, 2] < flip), x[:, :, ::-1], x), mean, std)


def plain(
    images: Shaped[ArrayLike, "B H W C"], *, mean: Sequence[float], std: Sequence[float]
) -> Float[Array, "B H W C"]:
    """The images uint8 [B, H, W, C] themselves, as float32 [B, H, W, C]: what is evaluated."""
    return _normalise(to_float(images), mean, std)


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


# Helpers.


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


def _check(argument: str, value, ok: bool, rule: str) -> None:
    if not ok:
        raise ArgumentError(argument, f"is {value!r}: it must be {rule}")


def _check_range(argument: str, value: tuple[float, float], high: float) -> None:
    ok = len(value) == 2 and 0 < value[0] <= value[1] <= high
    _check(argument, value, ok, f"two numbers above 0 and at most {high}, the smaller one first")


def _check_probabilities(argument: str, value: float | tuple[float, ...], batch: int) -> None:
    each = value if isinstance(value, tuple) else (value,)
    ok = bool(each) and all(isinstance(x, numbers.Real) and 0 <= x <= 1 for x in each)
    ok = ok and batch % len(each) == 0
    _check(argument, value, ok, "between 0 and 1, or a tuple of such numbers, one a view")
