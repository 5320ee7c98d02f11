import math
from fractions import Fraction

import numpy as np
import pytest
from sklearn.datasets import load_digits

from sdclr_jax.data.sources import digits


def test_grey_levels_are_rounded_half_up():
    expected = [math.floor(Fraction(255 * level, 16) + Fraction(1, 2)) for level in range(17)]
    assert expected[8] == 128 and expected[16] == 255  # 127.5 is the only half
    values = digits.to_uint8(np.arange(17.0))
    assert values.dtype == np.uint8 and values.tolist() == expected and len(set(expected)) == 17


def test_every_fourth_image_of_a_class_is_a_test_image():
    labels = np.array([1, 0, 1, 1, 0, 1, 1, 0, 1, 0, 1, 1, 0])
    #                             4th of 1^        ^4th of 0 ^8th of 1
    assert np.flatnonzero(digits.is_test(labels)).tolist() == [5, 9, 11]


def test_the_split_is_stratified():
    labels = load_digits().target
    seen, test = [0] * 10, []
    for i, c in enumerate(labels):  # as one would do it by hand
        seen[c] += 1
        if seen[c] % 4 == 0:
            test.append(i)
    assert np.flatnonzero(digits.is_test(labels)).tolist() == test and len(test) == 445
    assert np.bincount(labels[test]).tolist() == [44, 45, 44, 45, 45, 45, 45, 44, 43, 45]


@pytest.fixture(scope="module")
def builder(tmp_path_factory):
    builder = digits.SdclrDigits(data_dir=tmp_path_factory.mktemp("tfds"), file_format="array_record")
    builder.download_and_prepare()
    return builder


def test_what_tfds_says_of_it(builder):
    assert builder.info.full_name == "sdclr_digits/1.0.0"
    assert builder.info.file_format.value == "array_record"
    assert {name: split.num_examples for name, split in builder.info.splits.items()} == {"train": 1352, "test": 445}
    assert builder.info.features["image"].shape == (8, 8, 1)
    assert builder.info.features["label"].names[3] == "three" and builder.info.features["label"].num_classes == 10


def test_records_are_the_images_of_the_package(builder):
    original = load_digits()
    seen = set()
    for split in ("train", "test"):
        for record in builder.as_data_source(split):
            name = record["id"].decode()
            i = int(name.removeprefix("digits_"))
            assert name == f"digits_{i:05d}"
            assert record["label"] == original.target[i]
            # The way back: level = value * 16 / 255, to the nearest.
            assert np.array_equal(np.rint(record["image"][:, :, 0] * (16 / 255)), original.images[i])
            seen.add((split, i))
    test = set(np.flatnonzero(digits.is_test(original.target)))
    assert seen == {("test" if i in test else "train", i) for i in range(1797)}
