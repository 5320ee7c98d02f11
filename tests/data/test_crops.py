"""Crops made on the host: the boxes against those made on the device, the pixels against Pillow."""

import io
import itertools
import pathlib

import jax
import numpy as np
import pytest
import sklearn.datasets
from PIL import ExifTags, Image
from scipy import stats

from sdclr_jax.data import augment, crops
from sdclr_jax.data.crops import CentreCrop, RandomCrops, cut, fill, random_boxes, uniform
from sdclr_jax.data.images import Files
from sdclr_jax.errors import UserError
from tests.photos import encoded, jpeg, photo

BICUBIC = Image.Resampling.BICUBIC
RATIO = (3 / 4, 4 / 3)
TWO = RandomCrops(count=2, size=16, scale=(0.2, 1.0), ratio=RATIO, seed=5)


def one(data: bytes, crop, step: int = 0, place: int = 0) -> np.ndarray:
    """The crops of one size."""
    (views,) = cut(data, (crop,), step, place)
    return views


# Where.


def test_uniform_numbers_are_those_of_their_address():
    addresses = itertools.product((0, 1), (0, 1, 2**33), (0, 1), (0, 1))
    seen = np.stack([uniform(*address) for address in addresses])
    assert seen.shape == (24, 22)
    assert len(np.unique(seen)) == seen.size, "two addresses share numbers"


def philox(counter: list[int], key: list[int]) -> list[int]:
    """Philox4x64-10, Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3, SC 2011, Section 3.3."""
    a, b, c, d = counter
    k, m = key
    for _ in range(10):
        first, second = 0xD2E7470EE14C6C93 * a, 0xCA5A826395121157 * c
        a, b, c, d = second >> 64 ^ b ^ k, second % 2**64, first >> 64 ^ d ^ m, first % 2**64
        k, m = (k + 0x9E3779B97F4A7C15) % 2**64, (m + 0xBB67AE8584CAA73B) % 2**64
    return [a, b, c, d]


def test_uniform_numbers_stay_what_they_are():
    """A change here changes every run; the generator is written down in the paper, not in a version of NumPy."""
    words = sum((philox([block, 1, 63, 12345], [7, 0]) for block in range(1, 7)), [])
    np.testing.assert_array_equal(uniform(7, 12345, 63, 1), [(word >> 11) / 2**53 for word in words[:22]])


def test_uniform_numbers_are_uniform_and_independent():
    u = np.stack([uniform(3, step, place, crop) for step in range(10) for place in range(64) for crop in (0, 1)])
    assert stats.kstest(u.ravel(), "uniform").pvalue > 1e-3
    assert ((u >= 0) & (u < 1)).all()
    correlation = np.corrcoef(u.T) - np.eye(22)
    assert np.abs(correlation).max() < 0.13  # 231 pairs of 1280 numbers
    views = np.corrcoef(u[0::2].ravel(), u[1::2].ravel())[0, 1]
    assert abs(views) < 0.03


@pytest.mark.parametrize(("height", "width"), [(32, 32), (375, 500), (20, 61)])
def test_the_host_and_the_device_have_one_rule(height, width):
    u = np.stack([uniform(0, 0, place, 0) for place in range(500)]).astype(np.float32)
    on_device = jax.jit(random_boxes, static_argnums=(1, 2, 3, 4))(u, height, width, (0.1, 1.0), RATIO)
    on_host = random_boxes(u.astype(np.float64), height, width, (0.1, 1.0), RATIO)
    assert on_host.dtype == np.int32
    assert isinstance(on_host, np.ndarray)
    assert (on_host != np.asarray(on_device)).any(axis=1).mean() < 0.005  # float32 may round a side the other way
    assert (on_host[:, :2] + on_host[:, 2:] <= [height, width]).all()


def test_the_boxes_of_an_image():
    boxes = TWO.boxes(60, 80, step=7, place=3)
    expected = [random_boxes(uniform(5, 7, 3, crop)[None], 60, 80, TWO.scale, RATIO)[0] for crop in (0, 1)]
    np.testing.assert_array_equal(boxes, expected)


# Pixels.


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_a_crop_is_torchvisions_resized_crop(orientation):
    data = jpeg(photo(40, 30), orientation=orientation)
    upright = Image.open(io.BytesIO(data)).rotate({1: 0, 3: 180, 6: -90}[orientation], expand=True)
    for place in range(8):
        boxes = TWO.boxes(upright.height, upright.width, 2, place).astype(int)
        expected = [upright.crop((x, y, x + w, y + h)).resize((16, 16), BICUBIC) for y, x, h, w in boxes]
        np.testing.assert_array_equal(one(data, TWO, 2, place), [np.asarray(view) for view in expected])


@pytest.mark.parametrize(("width", "height"), [(80, 60), (50, 90), (40, 40), (33, 201)])
@pytest.mark.parametrize(("resize", "size"), [(40, 32), (32, 32), (64, 56)])
@pytest.mark.parametrize("interpolation", crops.INTERPOLATIONS)
def test_what_is_evaluated_is_torchvisions_resize_and_centre_crop(width, height, resize, size, interpolation):
    image = photo(width, height)
    shorter = min(width, height)
    resized = image.resize((resize * width // shorter, resize * height // shorter), crops.INTERPOLATIONS[interpolation])
    left, top = round((resized.width - size) / 2), round((resized.height - size) / 2)
    expected = np.asarray(resized.crop((left, top, left + size, top + size)), int)
    (view,) = one(encoded(image, "PNG"), CentreCrop(size, resize, interpolation=interpolation)).astype(int)
    # Pillow keeps 22 bits of its weights, and these are worked out for another corner.
    np.testing.assert_allclose(view, expected, atol=1)


# Every 56th pixel of Resize(256), CenterCrop(224) of torchvision 0.29 of scikit-learn's two photographs.
TORCHVISION = {
    "china.jpg": "189 214 244 197 221 247 214 232 255 223 239 254 17 17 16 22 23 22 220 229 241 231 240 249 37 14 12 "
    "102 83 70 190 193 199 189 204 213 9 3 3 49 45 46 208 167 147 181 194 182",
    "flower.jpg": "5 42 37 8 42 38 0 81 102 3 42 41 0 69 73 226 210 157 237 159 87 10 28 11 0 75 88 216 125 60 195 85 "
    "47 222 158 93 8 35 28 207 164 121 232 182 133 5 58 52",
}


@pytest.mark.parametrize("name", TORCHVISION)
def test_photographs_are_evaluated_as_torchvision_shows_them(name):
    data = (pathlib.Path(sklearn.datasets.__file__).parent / "images" / name).read_bytes()
    expected = np.array(TORCHVISION[name].split(), int).reshape(4, 4, 3)
    differences = {
        interpolation: np.abs(one(data, CentreCrop(224, 256, interpolation=interpolation))[0, ::56, ::56] - expected)
        for interpolation in crops.INTERPOLATIONS
    }
    assert differences["bilinear"].max() <= 1
    assert differences["bicubic"].mean() > 0.5


def test_crops_of_two_sizes_are_of_one_image_and_have_boxes_of_their_own():
    small = RandomCrops(count=3, size=6, scale=(0.05, 0.14), ratio=RATIO, seed=5, first=2)
    data = encoded(photo(40, 30), "PNG")
    large, little = cut(data, (TWO, small), 1, 2)
    assert little.shape == (3, 6, 6, 3)
    np.testing.assert_array_equal(large, one(data, TWO, 1, 2))
    np.testing.assert_array_equal(little, one(data, small, 1, 2))
    boxes = small.boxes(30, 40, 1, 2)
    expected = [random_boxes(uniform(5, 1, 2, crop)[None], 30, 40, small.scale, RATIO)[0] for crop in (2, 3, 4)]
    np.testing.assert_array_equal(boxes, expected)


def decoded_sizes(monkeypatch) -> list[tuple[int, int]]:
    """Sizes of what is decoded from now on."""
    sizes, decode = [], crops.decoding.decode

    def spy(*arguments):
        found = decode(*arguments)
        sizes.append(found.image.size)
        return found

    monkeypatch.setattr(crops.decoding, "decode", spy)
    return sizes


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_large_jpeg_is_decoded_small_and_looks_the_same(monkeypatch, orientation):
    crop = RandomCrops(count=2, size=16, scale=(0.3, 1.0), ratio=RATIO, seed=1)
    large = photo(803, 605)  # no multiple of 8: the last row and column of what is decoded are parts of pixels
    data = jpeg(large, quality=98, orientation=orientation)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    whole = encoded(large, "PNG", exif=exif)  # which is always decoded at its size
    full = [one(whole, crop, 0, place).astype(int) for place in range(6)]
    sizes = decoded_sizes(monkeypatch)
    for place in range(6):
        difference = np.abs(one(data, crop, 0, place) - full[place])
        assert difference.mean() < 0.5  # 1.6 where what reaches beyond the image is not accounted for
        assert difference.max() < 6
    assert set(sizes) == {(76, 101) if orientation in (5, 6, 7, 8) else (101, 76)}


@pytest.mark.parametrize(("size", "expected"), [(16, 50), (49, 50), (51, 100), (101, 200), (200, 200), (201, 400)])
def test_no_jpeg_is_decoded_smaller_than_its_views(monkeypatch, size, expected):
    sizes = decoded_sizes(monkeypatch)
    whole = RandomCrops(count=1, size=size, scale=(1.0, 1.0), ratio=(1.0, 1.0), seed=0)
    assert one(jpeg(photo(400, 400)), whole).shape == (1, size, size, 3)
    assert sizes == [(expected, expected)]
    sizes.clear()
    one(jpeg(photo(400, 200)), CentreCrop(size=50, resize=50))
    assert sizes == [(100, 50)]
    sizes.clear()
    cut(jpeg(photo(400, 400)), (whole._replace(size=10), whole), 0, 0)
    assert sizes == [(expected, expected)], "the largest view decides"


def test_host_and_device_make_the_same_views():
    """The device's crop of a resident image, and its flips and colours on a crop that the host made."""
    images = [photo(24, 24, seed) for seed in range(8)]
    resident = jax.jit(lambda boxes: augment.resized_crop(np.stack([np.asarray(i) for i in images]), boxes, 16))
    boxes = np.stack([TWO.boxes(24, 24, 0, place)[0] for place in range(8)])
    host = np.stack([one(encoded(image, "PNG"), TWO, 0, place)[0] for place, image in enumerate(images)])
    np.testing.assert_allclose(host, resident(boxes.astype(np.int32)) * 255, atol=1.5)

    fields = {"size": 24, "crop_scale": (1.0, 1.0), "crop_ratio": (1.0, 1.0), "blur_probability": 0.5}
    view = jax.jit(
        lambda key, x, cropped: augment.simclr_view(key, x, cropped=cropped, **fields), static_argnames="cropped"
    )
    whole, key = np.stack([np.asarray(image) for image in images]), jax.random.key(0)
    np.testing.assert_allclose(view(key, whole, cropped=True), view(key, whole, cropped=False), atol=1e-4)


# Damage.


@pytest.fixture
def files(tmp_path):
    for i in range(5):
        (tmp_path / f"{i}.jpg").write_bytes(jpeg(photo(40, 30, seed=i)))
    return Files(tmp_path, np.array([f"{i}.jpg" for i in range(5)]))


def filled(files, row):
    out = np.zeros((2, 16, 16, 3), np.uint8)
    return out, fill([out], files, row, [TWO], 1, 2)


def test_what_cannot_be_read_is_replaced_by_the_next_that_can(files):
    expected, unreadable = filled(files, 1)
    assert unreadable == []
    (files.root / "3.jpg").write_bytes(files.read(3)[:300])
    (files.root / "4.jpg").unlink()
    (files.root / "0.jpg").write_bytes(b"")
    out, unreadable = filled(files, 3)
    np.testing.assert_array_equal(out, expected)
    assert [image.name for image in unreadable] == [files.name(i) for i in (3, 4, 0)]
    assert unreadable[1].reason == "No such file or directory"
    assert all(image.reason for image in unreadable)


def test_a_folder_that_is_gone_is_an_error(files):
    for i in range(5):
        (files.root / f"{i}.jpg").unlink()
    with pytest.raises(UserError, match=r"5 images in a row cannot be read, the last one .*2\.jpg \(No such file"):
        filled(files, 3)


def test_a_set_without_images_is_refused_in_a_sentence():
    with pytest.raises(UserError, match="there are no images to crop"):
        fill([], Files("/", np.array([], str)), 0, (TWO,), 0, 0)
