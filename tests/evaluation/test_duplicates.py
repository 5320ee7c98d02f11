"""Near duplicates: what is the same picture is found, and what only looks like it is not."""

import numpy as np
import pytest
from PIL import Image, ImageOps
from sklearn.datasets import load_digits

from sdclr_jax.data import decoding
from sdclr_jax.evaluation import duplicates
from tests.photos import jpeg, photo


def thumbnail(image):
    return np.asarray(image.resize((duplicates.SIDE, duplicates.SIDE), Image.Resampling.BICUBIC))


def saved(image, quality=85):
    return decoding.decode(jpeg(image, quality)).image


CHANGES = {
    "saved again": lambda image: saved(image, 30),
    "resized": lambda image: saved(image.resize((50, 90))),
    "cropped": lambda image: saved(image.crop((9, 0, 96, 60))),
    "cropped on the other side": lambda image: saved(image.crop((0, 7, 88, 64))),
    "mirrored": lambda image: saved(ImageOps.mirror(image)),
    "mirrored and cropped": lambda image: saved(ImageOps.mirror(image).crop((4, 3, 92, 62)), 60),
    "brighter": lambda image: saved(image.point(lambda level: min(255, int(1.1 * level + 8)))),
}


@pytest.fixture(scope="module")
def found():
    """30 pictures, copies of the first ones, and what `find` says without features."""
    pictures = [photo(96, 64, seed=seed) for seed in range(30)]
    pictures += [change(pictures[i]) for i, change in enumerate(CHANGES.values())]
    return duplicates.find(None, np.stack([thumbnail(picture) for picture in pictures]))


def test_every_kind_of_copy_is_found_and_no_other_pair(found):
    assert found.rows.tolist() == [[i, 30 + i] for i in range(len(CHANGES))]
    assert (found.likeness > 0.95).all()
    assert found.mirrored.tolist() == ["mirrored" in name for name in CHANGES]


def test_a_digit_written_twice_is_no_copy():
    """Digits of one kind agree in most of their pixels, so a threshold alone would take some for copies."""
    digits = load_digits()
    ones = (digits.images[digits.target == 1][:14] * (255 / 16)).astype(np.uint8)
    pictures = [Image.fromarray(one).resize((32, 32), Image.Resampling.BICUBIC).convert("RGB") for one in ones]
    thumbnails = np.stack([thumbnail(picture) for picture in (*pictures, saved(pictures[3], 60))])
    likeness, _ = duplicates.compare(thumbnails, np.array([(a, b) for a in range(14) for b in range(a)]))
    assert (likeness > 1 - duplicates.DIFFERENCE).sum() > 3
    assert duplicates.find(None, thumbnails).rows.tolist() == [[3, 14]]


def test_one_picture_many_times_is_one_group_and_colours_are_no_copies_of_each_other():
    same = np.repeat(thumbnail(photo(40, 40))[None], 50, axis=0)
    plain = np.stack([np.full((32, 32, 3), level, np.uint8) for level in (0, 90, 180, 255)])
    found = duplicates.find(np.zeros((54, 3), np.float32), np.concatenate([same, plain]))
    assert duplicates.groups(found, 54).tolist() == [0] * 50 + [-1] * 4


def test_groups_are_what_is_connected_in_the_order_of_the_first_image():
    pairs = duplicates.Pairs(np.array([[1, 4], [2, 3], [4, 6]]), np.ones(3), np.zeros(3, bool))
    assert duplicates.groups(pairs, 8).tolist() == [-1, 0, 1, 1, 0, -1, 0, -1]
    none = duplicates.Pairs(np.empty((0, 2), int), np.ones(0), np.zeros(0, bool))
    assert duplicates.groups(none, 3).tolist() == [-1] * 3


def test_neighbours_by_features_are_looked_at_too():
    """A quarter of a picture is no neighbour of the whole by a few pixels, and features alone make no copies."""
    pictures = np.stack([thumbnail(photo(32, 32, seed=seed)) for seed in range(40)])
    features = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
    features[7] = features[30]
    assert [7, 30] in duplicates.candidates(features, pictures, 1).tolist()
    assert not len(duplicates.find(features, pictures).rows)
    assert not len(duplicates.candidates(features[:1], pictures[:1], 5))


@pytest.fixture
def differing(monkeypatch):
    """differing({pair: how much its pixels differ}): the pairs of nine images that `find` takes for copies."""

    def found(difference):
        pairs = np.array(sorted(difference))
        likeness = np.array([1 - difference[tuple(pair)] for pair in pairs.tolist()])
        monkeypatch.setattr(duplicates, "candidates", lambda *_: pairs)
        monkeypatch.setattr(duplicates, "compare", lambda *_: (likeness, np.zeros(len(pairs), bool)))
        pictures = np.arange(9, dtype=np.uint8)[:, None, None, None] + np.zeros((9, 32, 32, 3), np.uint8)
        return duplicates.find(None, pictures).rows.tolist()

    return found


def test_a_copy_differs_by_a_quarter_of_the_lower_quartile_of_the_others(differing):
    """Of eight differences of the first image the second is the lower quartile: 0.04 is no quarter of 0.15."""
    others = [0.04, 0.15, 0.15, 0.9, 0.9, 0.9, 0.9, 0.9]
    assert differing({(0, i + 1): x for i, x in enumerate(others)}) == []
    others[1:3] = [0.17, 0.17]
    assert differing({(0, i + 1): x for i, x in enumerate(others)}) == [[0, 1]]


def test_what_differs_by_next_to_nothing_is_a_copy_however_many_there_are(differing):
    for difference, copies in ((0.009, 8), (0.011, 0)):
        assert len(differing({(0, i): difference for i in range(1, 9)})) == copies


def test_equal_pictures_are_one_whatever_all_begin_with():
    pictures = np.random.default_rng(0).integers(0, 2, (300, 4, 4, 3), np.uint8)[:, ::-1]
    pictures[:, :3] = 255  # white above
    pictures[:, 3, 1:] = 0
    first, same = duplicates.distinct(pictures)
    _, wanted, inverse = np.unique(pictures.reshape(300, -1), axis=0, return_index=True, return_inverse=True)
    assert first.tolist() == wanted.tolist() and len(first) == 8
    assert same.tolist() == inverse.reshape(-1).tolist()
