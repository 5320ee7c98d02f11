"""Views: every distribution against its definition."""

import itertools
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from scipy import stats

from sdclr_jax.data import augment, crops, operations
from sdclr_jax.errors import ArgumentError
from tests.data.test_operations import NEUTRAL, affine, color_jitter, gaussian_blur, noise, resized_crop, uniform

GREY = {"mean": (0.3,), "std": (0.4,)}
SIMCLR = {"size": 8, "grayscale_probability": 0.3, "blur_probability": 0.5, "blur_sigma": (0.3, 2.0)}
VIEWS = {  # name -> (view, shape of an image)
    "simclr": (partial(augment.simclr_view, **SIMCLR), (12, 12, 3)),
    "digits": (partial(augment.digits_view, **GREY), (8, 8, 1)),
    "probe": (partial(augment.probe_view, padding=1, flip=0.5, **GREY), (8, 8, 1)),
}

random_boxes = jax.jit(crops.random_boxes, static_argnums=(1, 2, 3, 4))
random_jitter = jax.jit(augment.random_jitter, static_argnums=(1, 2))


def is_uniform(values: np.ndarray, low: float, high: float) -> bool:
    return stats.kstest((np.asarray(values, np.float64) - low) / (high - low), "uniform").pvalue > 1e-3


def is_share(hits: np.ndarray, probability: float) -> bool:
    return stats.binomtest(int(hits.sum()), hits.size, probability).pvalue > 1e-3


# Distributions.


def torchvisions_box(u, height, width, scale, ratio):
    """`RandomResizedCrop.get_params`, its random numbers given."""
    for attempt in range(10):
        area = height * width * (scale[0] + (scale[1] - scale[0]) * u[attempt])
        low, high = math.log(ratio[0]), math.log(ratio[1])
        aspect = math.exp(low + (high - low) * u[10 + attempt])
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return math.floor(u[20] * (height - h + 1)), math.floor(u[21] * (width - w + 1)), h, w
    w, h = width, height
    if width / height < ratio[0]:
        h = round(width / ratio[0])
    elif width / height > ratio[1]:
        w = round(height * ratio[1])
    return (height - h) // 2, (width - w) // 2, h, w


@pytest.mark.parametrize(
    ("height", "width", "scale", "central"),
    [
        (32, 32, (0.1, 1.0), (0, 0, 32, 32)),
        (20, 61, (0.9, 1.0), (0, 17, 20, 27)),  # too wide for any crop of that size
        (61, 20, (0.9, 1.0), (17, 0, 27, 20)),
        (30, 30, (1.0, 1.0), (0, 0, 30, 30)),
        (4, 4, (0.005, 0.2), None),  # some sides round to no pixel
    ],
)
def test_boxes_are_torchvisions(height, width, scale, central):
    u, ratio = uniform(2000, 22), (3 / 4, 4 / 3)
    boxes = np.asarray(random_boxes(u, height, width, scale, ratio))
    expected = np.array([torchvisions_box(row.astype(np.float64), height, width, scale, ratio) for row in u])
    assert (boxes != expected).any(axis=1).mean() < 0.002  # float32 may round a side or place the other way
    assert boxes.dtype == np.int32
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2:] >= 1).all()
    assert (boxes[:, :2] + boxes[:, 2:] <= [height, width]).all()
    if central:
        u[:, :20] = 0.999  # ten crops that do not fit
        assert (np.asarray(random_boxes(u, height, width, scale, ratio)) == central).all()


def test_boxes_are_spread_evenly():
    boxes = np.asarray(random_boxes(uniform(4000, 22), 2000, 1500, (0.1, 0.4), (3 / 4, 4 / 3))).astype(np.float64)
    top, left, height, width = boxes.T
    assert is_uniform(height * width / (2000 * 1500), 0.1, 0.4)
    assert is_uniform(np.log(width / height), math.log(3 / 4), math.log(4 / 3))
    assert is_uniform((top + 0.5) / (2000 - height + 1), 0, 1)
    assert is_uniform((left + 0.5) / (1500 - width + 1), 0, 1)
    assert abs(np.corrcoef(np.stack([height * width, width / height, top / (2000 - height), left]))[0, 2]) < 0.08


def test_jitter_is_spread_evenly():
    factors, order = map(np.asarray, random_jitter(uniform(24000, 9), (0.4, 1.5, 0.2, 0.1), 0.8))
    changed = (factors != NEUTRAL).any(axis=1)
    assert is_share(changed, 0.8)
    assert (factors[~changed] == np.float32(NEUTRAL)).all()
    for values, low, high in zip(factors[changed].T, (0.6, 0, 0.8, -0.1), (1.4, 2.5, 1.2, 0.1), strict=True):
        assert is_uniform(values, low, high)
    # No factor tells of another one, or of the place of an operation.
    correlation = np.corrcoef(np.column_stack([factors, np.argsort(order, axis=1)])[changed].T)
    assert np.abs(correlation[:4] - np.eye(4, 8)).max() < 0.04
    _, counts = np.unique(order, axis=0, return_counts=True)
    assert len(counts) == 24
    assert stats.chisquare(counts).pvalue > 1e-3
    assert (np.sort(order, axis=1) == np.arange(4)).all()


def recorded(monkeypatch, view, key, images, *operations):
    """The views, and what each of `operations` was given besides the images: {name: arguments}."""
    seen = {}

    def spy(name, original, x, *arguments):
        seen[name] = tuple(a for a in arguments if not isinstance(a, int | str))
        return original(x, *arguments)

    def run(key, images):
        return view(key, images), dict(seen)

    for name in operations:
        monkeypatch.setattr(augment, name, partial(spy, name, getattr(augment, name)))
    views, arguments = jax.jit(run)(key, images)
    return np.asarray(views), arguments


def test_a_simclr_view_is_crop_flip_jitter_grey_blur(monkeypatch):
    images = noise(256, 12, 12, 3)
    names = ("resized_crop", "color_jitter", "gaussian_blur")
    views, seen = recorded(monkeypatch, VIEWS["simclr"][0], jax.random.key(3), images, *names)
    (boxes,), (factors, order), (sigma,) = (seen[name] for name in names)
    crop = np.asarray(resized_crop(images, boxes, 8))
    candidates = []  # flipped, grey, blurred: no, no, no; no, no, yes; ...
    for flipped, grey, blurred in itertools.product((False, True), repeat=3):
        x = color_jitter(crop[:, :, ::-1] if flipped else crop, factors, order)
        x = np.repeat(np.asarray(x) @ np.float32([[0.299], [0.587], [0.114]]), 3, axis=3) if grey else x
        x = gaussian_blur(x, sigma) if blurred else x
        candidates.append((np.asarray(x) - np.float32([0.485, 0.456, 0.406])) / np.float32([0.229, 0.224, 0.225]))
    errors = np.abs(np.stack(candidates) - views).max(axis=(2, 3, 4))
    assert errors.min(axis=0).max() < 1e-4
    which = errors.argmin(axis=0)
    flipped, grey, blurred = which // 4, which // 2 % 2, which % 2
    assert is_share(flipped, 0.5)
    assert is_share(grey, 0.3)
    assert is_share(blurred, 0.5)
    assert is_uniform(sigma, 0.3, 2.0)
    changed = (np.asarray(factors) != np.float32(NEUTRAL)).any(axis=1)
    assert is_share(changed, 0.8)
    # None of these choices tells anything about another, or about where the crop lies.
    rows = np.stack([flipped, grey, blurred, changed, np.asarray(sigma), *np.asarray(boxes).T[2:]])
    correlation = np.corrcoef(rows) - np.eye(len(rows))
    correlation[5:, 5:] = 0  # height and width share the area
    assert np.abs(correlation).max() < 0.25


def test_no_blur_is_traced_at_probability_zero(monkeypatch):
    monkeypatch.setattr(augment, "gaussian_blur", None)
    images = jax.ShapeDtypeStruct((2, 16, 20, 3), jnp.uint8)
    view = jax.eval_shape(partial(augment.simclr_view, size=8), jax.random.key(0), images)
    assert (view.shape, view.dtype) == ((2, 8, 8, 3), jnp.float32)


def test_each_view_of_an_image_may_have_its_own_blur_and_solarisation():
    images, still = noise(128, 8, 8, 3), {"flip": 0.0, "jitter_probability": 0.0, "grayscale_probability": 0.0}
    view = partial(augment.simclr_view, size=8, cropped=True, blur_sigma=(1.0, 1.0), **still)
    own = partial(view, blur_probability=(1.0, 0.0), solarize_probability=(0.0, 0.25))
    views = np.asarray(jax.jit(own)(jax.random.key(0), np.repeat(images, 2, axis=0))).reshape(128, 2, 8, 8, 3)
    mean, std = (np.float32(v) for v in (augment.IMAGENET_MEAN, augment.IMAGENET_STD))
    x = images.astype(np.float32) / 255
    blurred = np.asarray(gaussian_blur(x, np.ones(128, np.float32)))
    np.testing.assert_allclose(views[:, 0], (blurred - mean) / std, atol=1e-4)
    solarized = np.abs(views[:, 1] - (np.asarray(operations.solarize(x)) - mean) / std).max(axis=(1, 2, 3)) < 1e-4
    assert is_share(solarized, 0.25)
    np.testing.assert_allclose(views[~solarized, 1], ((x - mean) / std)[~solarized], atol=1e-4)


def test_solarisation_leaves_all_that_was_drawn_before_it():
    """The draws of the published recipe do not depend on what has been added to it since."""
    images, key = noise(64, 12, 12, 3), jax.random.key(0)
    without, never, some = (
        np.asarray(jax.jit(partial(augment.simclr_view, **SIMCLR, solarize_probability=p))(key, images))
        for p in (0.0, (0.0, 0.0), 0.3)
    )
    np.testing.assert_array_equal(without, never)
    same = np.isclose(without, some, atol=1e-4).all(axis=(1, 2, 3))
    assert is_share(~same, 0.3)


def test_a_digits_view_draws_what_it_says(monkeypatch):
    images = noise(2048, 8, 8, 1)
    view = partial(augment.digits_view, crop_scale=(0.5, 0.9), rotation=20.0, shift=1.5, contrast=0.3, **GREY)
    views, seen = recorded(monkeypatch, view, jax.random.key(4), images, "affine", "blend")
    side, angle, offset = map(np.asarray, seen["affine"])
    factor = np.asarray(seen["blend"][1])
    assert is_uniform(side.astype(np.float64) ** 2, 0.5, 0.9)
    assert is_uniform(np.rad2deg(angle), -20, 20)
    assert is_uniform(factor, 0.7, 1.3)
    room = (4 - 4 * side)[:, None]
    assert (np.abs(offset) <= room + 1.5 + 1e-5).all()
    # The sum of two uniform numbers, of the crop's place and of the shift, has the sum of their variances.
    np.testing.assert_allclose((offset / np.sqrt(room**2 + 1.5**2)).std(axis=0), math.sqrt(1 / 3), rtol=0.04)
    assert np.abs(np.corrcoef(np.column_stack([side, angle, offset, factor]).T) - np.eye(5)).max() < 0.09
    x = np.asarray(affine(images.astype(np.float32) / 255, side, angle, offset))
    mean, factor = x.mean(axis=(1, 2, 3), keepdims=True), factor[:, None, None, None]
    np.testing.assert_allclose(views, (np.clip(mean + factor * (x - mean), 0, 1) - 0.3) / 0.4, atol=1e-5)


def test_a_digits_view_without_randomness_is_plain():
    images = noise(4, 8, 8, 1)
    still = {"crop_scale": (1.0, 1.0), "rotation": 0.0, "shift": 0.0, "contrast": 0.0}
    view = jax.jit(partial(augment.digits_view, **still, **GREY))(jax.random.key(0), images)
    np.testing.assert_allclose(view, augment.plain(images, **GREY), atol=1e-5)


def test_plain_is_the_image_itself():
    images = noise(2, 4, 5, 3)
    expected = (images / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    view = augment.plain(images, mean=augment.IMAGENET_MEAN, std=augment.IMAGENET_STD)
    np.testing.assert_allclose(view, expected, atol=1e-6)
    assert view.dtype == jnp.float32


@pytest.mark.parametrize(("padding", "flip"), [(0, 0.0), (1, 0.5), (2, 0.0), (0, 1.0)])
def test_a_probe_view_is_any_crop_of_the_padded_image_flipped_or_not(padding, flip):
    images = noise(1024, 6, 7, 1)
    view = partial(augment.probe_view, padding=padding, flip=flip, **GREY)
    views = np.asarray(jax.jit(view)(jax.random.key(5), images))
    padded = np.pad(images / 255, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    places = list(itertools.product(range(2 * padding + 1), range(2 * padding + 1)))
    crops = np.stack([padded[:, i : i + 6, j : j + 7] for i, j in places])
    candidates = (np.concatenate([crops, crops[:, :, :, ::-1]]) - 0.3) / 0.4
    errors = np.abs(candidates - views).max(axis=(2, 3, 4))
    assert errors.min(axis=0).max() < 1e-5
    counts = np.bincount(errors.argmin(axis=0), minlength=2 * len(places)).reshape(2, -1)
    assert stats.chisquare(counts.sum(axis=0)).pvalue > 1e-3 or padding == 0
    assert stats.binomtest(int(counts[1].sum()), 1024, flip).pvalue > 1e-3


# Keys and devices.


@pytest.mark.parametrize("name", VIEWS)
def test_views_are_a_function_of_the_key_on_any_number_of_devices(name):
    view, shape = VIEWS[name]
    images = np.broadcast_to(noise(1, *shape), (64, *shape))  # one image: all that differs is the random numbers
    jitted = jax.jit(view)
    first, again, other = (np.asarray(jitted(jax.random.key(k), images)) for k in (0, 0, 1))
    assert first.dtype == np.float32
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max(axis=(1, 2, 3)).mean() > 0.1
    if name != "probe":  # which has 18 views of an image
        assert len(np.unique(first.reshape(64, -1), axis=0)) == 64

    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    split, everywhere = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("data",), ()))
    arguments = jax.device_put(jax.random.key(0), everywhere), jax.device_put(images, split)
    compiled = jax.jit(view, out_shardings=split).lower(*arguments).compile()
    # Rounding differs with the shape of what a device computes; random numbers must not.
    np.testing.assert_allclose(compiled(*arguments), first, atol=1e-4)
    assert not any(word in compiled.as_text() for word in ("all-gather", "all-reduce", "all-to-all", "permute("))


# Errors.


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("simclr", {"size": 0}, r"size is 0: it must be at least 1"),
        ("simclr", {"crop_scale": (0.5, 0.1)}, r"crop_scale is \(0\.5, 0\.1\)"),
        ("simclr", {"crop_scale": (0.5, 1.1)}, r"crop_scale .* at most 1,"),
        ("simclr", {"crop_ratio": (0.0, 1.0)}, r"crop_ratio"),
        ("simclr", {"blur_sigma": (1.0,)}, r"blur_sigma"),
        ("simclr", {"jitter": (0.4, 0.4, 0.4)}, r"jitter .* four numbers"),
        ("simclr", {"jitter": (0.4, 0.4, 0.4, 0.6)}, r"jitter .* at most 0\.5"),
        ("simclr", {"jitter": (-0.4, 0.4, 0.4, 0.1)}, r"jitter"),
        ("simclr", {"flip": 1.5}, r"flip is 1\.5: it must be between 0 and 1"),
        ("simclr", {"jitter_probability": -0.1}, r"jitter_probability"),
        ("simclr", {"grayscale_probability": float("nan")}, r"grayscale_probability"),
        ("simclr", {"blur_probability": 2}, r"blur_probability"),
        ("simclr", {"blur_probability": (0.5, 1.5)}, r"blur_probability is \(0\.5, 1\.5\)"),
        ("simclr", {"blur_probability": ()}, r"blur_probability is \(\)"),
        ("simclr", {"solarize_probability": (0.1,) * 3}, r"solarize_probability .* one a view"),
        ("simclr", {"solarize_probability": "often"}, r"solarize_probability is 'often'"),
        ("simclr", {"mean": (0.5,)}, r"mean is \(0\.5,\): it must be 3 numbers"),
        ("simclr", {"std": (0.2, 0.2, 0.0)}, r"std .* above 0"),
        ("digits", {"crop_scale": (0.0, 1.0)}, r"crop_scale"),
        ("digits", {"rotation": 200.0}, r"rotation is 200\.0"),
        ("digits", {"shift": -1.0}, r"shift"),
        ("digits", {"contrast": 1.5}, r"contrast"),
        ("digits", {"mean": (0.5, 0.5)}, r"mean"),
        ("probe", {"padding": -1}, r"padding is -1: it must be at least 0"),
        ("probe", {"flip": 2.0}, r"flip"),
    ],
)
def test_a_field_out_of_range_is_named(name, fields, message):
    view, shape = VIEWS[name]
    with pytest.raises(ArgumentError, match=message):
        jax.eval_shape(partial(view, **fields), jax.random.key(0), jax.ShapeDtypeStruct((2, *shape), jnp.uint8))


def test_a_number_of_numpy_is_a_probability():
    view, shape = VIEWS["simclr"]
    images = jax.ShapeDtypeStruct((2, *shape), jnp.uint8)
    made = jax.eval_shape(partial(view, blur_probability=np.float32(0.5)), jax.random.key(0), images)
    assert made.shape[0] == 2 and made.dtype == jnp.float32


def test_a_grey_image_has_no_simclr_view():
    with pytest.raises(ArgumentError, match="images are of 1 channels"):
        jax.eval_shape(VIEWS["simclr"][0], jax.random.key(0), jax.ShapeDtypeStruct((2, 8, 8, 1), jnp.uint8))


def test_views_are_made_of_bytes():
    with pytest.raises(TypeError, match="uint8"):
        jax.eval_shape(partial(augment.plain, **GREY), jax.ShapeDtypeStruct((2, 8, 8, 1), jnp.float32))
