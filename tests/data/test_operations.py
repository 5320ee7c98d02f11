"""Operations on the pixels of a batch, each against Pillow, SciPy, colorsys or plain NumPy."""

import colorsys
import itertools
import math

import jax
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps
from scipy import ndimage

from sdclr_jax.data import operations
from sdclr_jax.data.crops import INTERPOLATIONS
from sdclr_jax.errors import ArgumentError

NEUTRAL = (1.0, 1.0, 1.0, 0.0)

resized_crop = jax.jit(operations.resized_crop, static_argnums=(2, 3))
color_jitter = jax.jit(operations.color_jitter)
adjust_hue = jax.jit(operations.adjust_hue)
gaussian_blur = jax.jit(operations.gaussian_blur)
affine = jax.jit(operations.affine)


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def colours(count: int = 24, side: int = 4) -> np.ndarray:
    """Float32 [count, side, side, 3], the pure colours, black, white and a grey among them."""
    x = np.random.default_rng(1).random((count, side, side, 3)).astype(np.float32)
    x[:, 0, :, :] = np.array(list(itertools.product((0, 1), repeat=3)), np.float32)[:side]
    x[:, 1, :, :] = np.array(list(itertools.product((0, 1), repeat=3)), np.float32)[-side:]
    x[:, 2, 0, :] = 0.5
    return x


def uniform(*shape: int) -> np.ndarray:
    return np.random.default_rng(2).random(shape).astype(np.float32)


# Geometry.


def test_an_interpolation_that_is_not_known_is_refused():
    with pytest.raises(ArgumentError, match="^interpolation is 'lanczos': it must be one of bicubic, bilinear"):
        operations.resized_crop(noise(1, 4, 4, 3), np.zeros((1, 4)), 4, "lanczos")


@pytest.mark.parametrize(
    ("size", "interpolation"),  # shrinks all, shrinks some, enlarges all of the larger boxes
    [(7, "bicubic"), (16, "bicubic"), (60, "bicubic"), (16, "bilinear"), (60, "bilinear")],
)
def test_resized_crop_is_pillows(size, interpolation):
    boxes = np.array([[0, 0, 48, 40], [5, 7, 6, 9], [30, 1, 18, 39], [47, 39, 1, 1], [0, 20, 40, 20], [3, 4, 16, 16]])
    images = noise(len(boxes), 48, 40, 3)
    images[0] = np.linspace(0, 255, 48, dtype=np.uint8)[:, None, None]
    images[4] = 255 * (np.indices((48, 40)).sum(axis=0) // 5 % 2)[:, :, None]  # edges, at which bicubic overshoots
    views, kernel = resized_crop(images, boxes.astype(np.int32), size, interpolation), INTERPOLATIONS[interpolation]
    for view, image, (top, left, height, width) in zip(np.asarray(views), images, boxes, strict=True):
        crop = Image.fromarray(image).crop((left, top, left + width, top + height))
        # In two calls, since Pillow 13 takes whichever pass is cheaper first; up to 12 it was always the one across.
        across = crop.resize((size, height), kernel)
        expected = np.asarray(across.resize((size, size), kernel))
        # Pillow rounds to whole bytes after each pass.
        np.testing.assert_allclose(view * 255, expected, atol=1.5, rtol=0)
        assert view.min() >= 0
        assert view.max() <= 1


def test_resized_crop_reads_nothing_outside_the_box():
    boxes = np.array([[4, 6, 5, 7]], np.int32)
    images, others = noise(1, 48, 40, 3), 255 - noise(1, 48, 40, 3)
    others[:, 4:9, 6:13] = images[:, 4:9, 6:13]
    np.testing.assert_array_equal(resized_crop(images, boxes, 16), resized_crop(others, boxes, 16))


def test_the_whole_image_at_its_own_size_is_untouched():
    images = noise(2, 16, 16, 3)
    whole = np.array([[0, 0, 16, 16]] * 2, np.int32)
    np.testing.assert_allclose(resized_crop(images, whole, 16), images / 255, atol=1e-6)


def test_shifted_crop_is_a_window_of_the_image_padded_with_zeros():
    x = uniform(6, 5, 7, 2)
    corners = np.array([[0, 0], [2, -1], [-3, 3], [1, 1], [-4, -4], [5, 0]], np.int32)
    padded = np.pad(x, ((0, 0), (5, 5), (5, 5), (0, 0)))
    expected = [image[5 + i : 10 + i, 5 + j : 12 + j] for image, (i, j) in zip(padded, corners, strict=True)]
    np.testing.assert_allclose(jax.jit(operations.shifted_crop)(x, corners), expected, atol=1e-7)


def test_affine_turns_counter_clockwise_zooms_and_moves():
    x = uniform(4, 8, 8, 1)
    one, half = np.ones(4, np.float32), np.full(4, 0.5, np.float32)
    zero, still = np.zeros(4, np.float32), np.zeros((4, 2), np.float32)
    np.testing.assert_array_equal(affine(x, one, zero, still), x)
    turned = affine(x, one, one * np.float32(np.pi / 2), still)
    np.testing.assert_allclose(turned, np.rot90(x, axes=(1, 2)), atol=1e-5)  # NumPy's turn is counter-clockwise, too
    moved = np.asarray(affine(x, one, zero, still + np.array([[1, -2]], np.float32)))  # shows what lies below and left
    np.testing.assert_allclose(moved[:, :7, 2:], x[:, 1:, :6], atol=1e-6)
    assert not moved[:, 7].any()
    assert not moved[:, :, :2].any()
    zoomed = np.asarray(affine(x, half, zero, still))
    for view, image in zip(zoomed[..., 0], x[..., 0], strict=True):
        middle = Image.fromarray(image).transform(
            (8, 8), Image.Transform.EXTENT, (2, 2, 6, 6), Image.Resampling.BILINEAR
        )
        np.testing.assert_allclose(view, np.asarray(middle), atol=1e-6)


def test_affine_is_scipys():
    x, u = uniform(8, 6, 9, 2), np.random.default_rng(3).uniform(-1, 1, (8, 4)).astype(np.float32)
    side, angle, offset = 1 + u[:, 0] / 2, u[:, 1], 2 * u[:, 2:]
    views = np.asarray(affine(x, side, angle, offset))
    middle = np.array([2.5, 4])
    for k in range(8):
        cos, sin = math.cos(angle[k]), math.sin(angle[k])
        matrix = side[k] * np.array([[cos, sin], [-sin, cos]])
        start = middle + offset[k] - matrix @ middle
        for c in range(2):
            expected = ndimage.affine_transform(x[k, :, :, c], matrix, start, order=1, mode="grid-constant")
            np.testing.assert_allclose(views[k, :, :, c], expected, atol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (32, 62)])
def test_gaussian_blur_is_a_direct_convolution(height, width):
    x, sigma = uniform(3, height, width, 2), np.array([0.1, 0.9, 2.0], np.float32)
    expected = x.astype(np.float64)
    for axis, size in ((1, height), (2, width)):
        radius = {8: 1, 32: 1, 62: 3}[size]  # 10 % of the side, made odd: 3, 3 and 7 pixels
        taps = np.exp(-(np.arange(-radius, radius + 1) ** 2) / (2.0 * sigma[:, None].astype(np.float64) ** 2))
        taps /= taps.sum(axis=1, keepdims=True)
        mirrored = np.pad(expected, [(radius, radius) if a == axis else (0, 0) for a in range(4)], mode="reflect")
        shifted = [np.take(mirrored, np.arange(size) + k, axis=axis) for k in range(2 * radius + 1)]
        expected = sum(taps[:, k, None, None, None] * shifted[k] for k in range(2 * radius + 1))
    np.testing.assert_allclose(gaussian_blur(x, sigma), expected, atol=1e-6)


# Colours.


def oracle(x: np.ndarray, operation: int, factor: float) -> np.ndarray:
    """One operation on one image [h, w, 3] in 0..1, in float64, from torchvision's definition."""
    if operation == 3:
        pixels = [colorsys.rgb_to_hsv(*pixel) for pixel in x.reshape(-1, 3)]
        return np.array([colorsys.hsv_to_rgb((h + factor) % 1, s, v) for h, s, v in pixels]).reshape(x.shape)
    grey = (x @ [0.299, 0.587, 0.114])[:, :, None]
    return np.clip(factor * x + (1 - factor) * (0.0, grey.mean(), grey)[operation], 0, 1)


@pytest.mark.parametrize("factor", [0.0, 0.4, 1.0, 1.7])
def test_brightness_contrast_and_saturation_are_pillows(factor):
    # All three in one call: image 0 has its brightness changed, image 1 its contrast, image 2 its saturation.
    images = np.round(colours(3, side=4) * 255).astype(np.uint8)
    factors = np.ones((3, 4), np.float32) - np.array([0, 0, 0, 1], np.float32)
    factors[range(3), range(3)] = factor
    order = np.tile(np.arange(4, dtype=np.int32), (3, 1))
    views = np.asarray(color_jitter(images.astype(np.float32) / 255, factors, order)) * 255
    enhancers = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    for view, image, enhancer in zip(views, images, enhancers, strict=True):
        # Pillow cuts to whole bytes; before that it rounds grey values, and of these the mean.
        expected = np.asarray(enhancer(Image.fromarray(image)).enhance(factor))
        np.testing.assert_allclose(view, expected, atol=1.01 + abs(1 - factor), rtol=0)


def test_luma_is_pillows():
    images = np.round(colours() * 255).astype(np.uint8)
    for grey, image in zip(np.asarray(operations.luma(images.astype(np.float32))), images, strict=True):
        np.testing.assert_allclose(grey[..., 0], np.asarray(Image.fromarray(image).convert("L")), atol=0.51, rtol=0)


@pytest.mark.parametrize("shift", [-0.5, -0.1, 0.0, 1 / 3, 0.5])
def test_hue_is_colorsys(shift):
    x = colours()
    views = np.asarray(adjust_hue(x, np.full(len(x), shift, np.float32)))
    np.testing.assert_allclose(views, [oracle(image.astype(np.float64), 3, shift) for image in x], atol=3e-6)


def test_hue_turns_red_to_green():
    red = np.array([1, 0, 0], np.float32).reshape(1, 1, 1, 3)
    np.testing.assert_allclose(adjust_hue(red, np.float32([1 / 3]))[0, 0, 0], [0, 1, 0], atol=1e-6)


def test_color_jitter_follows_each_images_own_order():
    orders = np.array(list(itertools.permutations(range(4))), np.int32)
    x = np.broadcast_to(colours(1), (24, 4, 4, 3))  # one image, so that only the order tells the results apart
    factors = np.tile(np.float32([1.6, 0.5, 1.8, 0.3]), (24, 1))
    views = np.asarray(color_jitter(x, factors, orders))
    for view, order, image in zip(views, orders, x.astype(np.float64), strict=True):
        for operation in order:
            image = oracle(image, operation, factors[0, operation])
        np.testing.assert_allclose(view, image, atol=1e-5)
    differences = np.abs(views[:, None] - views[None]).max(axis=(2, 3, 4))
    assert (differences[~np.eye(24, dtype=bool)] > 1e-3).mean() > 0.9  # a few orders mean the same


def test_solarize_is_pillows():
    images = np.round(colours() * 255).astype(np.uint8)
    for view, image in zip(np.asarray(operations.solarize(images.astype(np.float32) / 255)), images, strict=True):
        expected = ImageOps.solarize(Image.fromarray(image), threshold=128)
        np.testing.assert_allclose(view * 255, np.asarray(expected), atol=1e-3)


def test_neutral_factors_change_nothing():
    x = colours()
    orders = np.array(list(itertools.permutations(range(4))), np.int32)
    np.testing.assert_allclose(color_jitter(x, np.tile(np.float32(NEUTRAL), (24, 1)), orders), x, atol=1e-6)
