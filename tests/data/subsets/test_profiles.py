import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdclr_jax.data.subsets import longtail, profiles
from sdclr_jax.errors import ArgumentError

# Sorted class sizes of imageNet_100_LT_train.txt (https://github.com/VITA-Group/SDCLR, split/imagenet-100).
IMAGENET_100_LT = [
    *(
        1280,
        679,
        511,
        456,
        392,
        354,
        330,
        305,
        290,
        282,
        268,
        248,
        236,
        229,
        215,
        201,
        189,
        184,
        178,
        172,
        169,
        165,
        157,
    ),
    *(
        152,
        149,
        143,
        138,
        137,
        133,
        130,
        126,
        124,
        120,
        116,
        113,
        110,
        108,
        104,
        102,
        100,
        96,
        93,
        89,
        86,
        85,
        83,
        82,
        80,
    ),
    *(
        78,
        75,
        73,
        71,
        69,
        66,
        65,
        63,
        61,
        59,
        57,
        55,
        54,
        52,
        50,
        48,
        47,
        45,
        44,
        43,
        42,
        41,
        39,
        37,
        36,
        35,
        34,
        32,
        32,
    ),
    *(31, 30, 28, 27, 26, 25, 23, 22, 21, 20, 19, 18, 16, 15, 15, 14, 12, 11, 10, 9, 8, 7, 6),
]


def test_pareto_is_as_near_the_published_lists_as_it_says():
    imagenet_lt = longtail.class_counts(1280, 256, 1000, "pareto")
    assert (imagenet_lt[0], imagenet_lt[-1]) == (1280, 5) and imagenet_lt.sum() == 115_843
    counts = longtail.class_counts(1280, 256, 100, "pareto")
    difference = np.abs(counts - IMAGENET_100_LT)
    assert (sum(IMAGENET_100_LT), counts.sum()) == (12_205, 12_213)
    assert round(float(difference.mean()), 1) == 3.0 and difference.max() == 45 == 679 - counts[1]
    places_lt = longtail.class_counts(4980, 996, 365, "pareto", (1.34, 0.01512))
    assert (places_lt[0], places_lt[-1]) == (4980, 5) and places_lt.sum() == 62_485


def test_pareto_by_hand():
    # Power 1 and scale n_max: S(n) = 1 / (1 + n / 8), so S(8) = 1/2 and S(0.8 = 8 / 10) is 10/11; three classes, the
    # middle one at S = (1/2 + 10/11) / 2 = 31/44, where n = 8 * 13/31 = 3.35.
    assert longtail.class_counts(80, 10, 3, "pareto", (1.0, 1.0)).tolist() == [80, 33, 8]


def test_pareto_is_what_sampling_gives_in_the_mean():
    """The k-th largest of many draws from NumPy's `pareto`, cut to the ends, is near the k-th count."""
    power, scale = profiles.PARETO
    draws = np.random.default_rng(0).pareto(power, 400_000) * scale * 1280
    draws = np.sort(draws[(draws >= 5) & (draws <= 1280)])[::-1]
    counts = longtail.class_counts(1280, 256, 100, "pareto")
    expected = draws[np.linspace(0, len(draws) - 1, 100).astype(int)]
    assert np.all(np.abs(counts - expected)[5:] <= 2 + 0.02 * expected[5:])


@settings(deadline=None)
@given(st.integers(1, 5000), st.floats(1, 500), st.integers(1, 50), st.floats(0.5, 10), st.floats(0.01, 2))
def test_pareto_descends_between_its_ends(n_max, imbalance, num_classes, power, scale):
    try:
        counts = longtail.class_counts(n_max, imbalance, num_classes, "pareto", (power, scale))
    except ArgumentError as error:
        assert "without an image" in str(error) and n_max / imbalance < 1 + 1e-6
        return
    assert counts[0] == n_max and np.all(np.diff(counts) <= 0)
    assert num_classes == 1 or abs(counts[-1] - n_max / imbalance) <= 1


@pytest.mark.parametrize("pareto", [(0, 1), (1, 0), (1,), (-1, 1), (float("nan"), 1), (1, float("inf"))])
def test_pareto_refuses(pareto):
    with pytest.raises(ArgumentError, match=r"^pareto is .*both above 0"):
        longtail.class_counts(10, 2, 3, "pareto", pareto)
    with pytest.raises(ArgumentError, match=r"^profile is 'zipf': known are exponential, pareto, as_is"):
        longtail.class_counts(10, 2, 3, "zipf")


# Subsets


def draw(labels, num_classes, **changes):
    arguments = dict(n_max=30, imbalance=10.0, validation_per_class=6, few_shot_per_class=3, seed=0, profile="as_is")
    return longtail.draw(labels, num_classes=num_classes, **(arguments | changes))


def counts_of(labels, rows, num_classes):
    return np.bincount(labels[rows], minlength=num_classes).tolist()


def natural(*sizes):
    return np.random.default_rng(0).permutation(np.repeat(np.arange(len(sizes)), sizes)).astype(np.int32)


def test_as_it_is():
    labels = natural(100, 20, 4, 1)
    subsets = draw(labels, 4)
    assert counts_of(labels, subsets.validation, 4) == [6, 4, 0, 0]  # at most a fifth
    assert subsets.train_counts.tolist() == [94, 16, 4, 1] == counts_of(labels, subsets.long_tail, 4)
    assert np.array_equal(subsets.long_tail, subsets.probe_train) and subsets.class_order.tolist() == [0, 1, 2, 3]
    assert counts_of(labels, subsets.few_shot, 4) == [3, 3, 3, 1]
    assert set(subsets.few_shot) <= set(subsets.long_tail)
    assert sorted([*subsets.long_tail, *subsets.validation]) == list(range(125))
    assert not len(subsets.balanced)
    assert draw(labels, 4, n_max=0, imbalance=0.1).long_tail.tolist() == subsets.long_tail.tolist()  # are not read
    assert draw(labels, 4, seed=1).validation.tolist() != subsets.validation.tolist()


def test_a_balanced_twin_of_what_is_nearly_balanced():
    labels = natural(12, 10, 11)
    subsets = draw(labels, 3, validation_per_class=1)
    assert subsets.train_counts.tolist() == [11, 9, 10] and not len(subsets.balanced)
    subsets = draw(natural(10, 10, 10), 3, validation_per_class=1)
    assert len(subsets.balanced) == len(subsets.long_tail) == 27


@pytest.mark.parametrize("profile", ["as_is", "exponential", "pareto"])
def test_images_held_out_are_the_validation_images(profile):
    labels = natural(50, 50, 50)
    held_out = np.arange(150) % 10 == 3
    subsets = draw(labels, 3, held_out=held_out, profile=profile)
    assert subsets.validation.tolist() == np.flatnonzero(held_out).tolist()
    assert subsets.probe_train.tolist() == np.flatnonzero(~held_out).tolist()
    for rows in (subsets.long_tail, subsets.balanced, subsets.few_shot):
        assert not held_out[rows].any()
    if profile != "as_is":
        assert sorted(subsets.train_counts, reverse=True) == longtail.class_counts(30, 10.0, 3, profile).tolist()


def test_nothing_held_out_is_as_none():
    labels = natural(50, 50)
    for profile in ("as_is", "pareto"):
        one, other = (draw(labels, 2, profile=profile, held_out=out) for out in (None, np.zeros(100, bool)))
        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_frequent_ranks_go_to_classes_that_are_large_enough():
    labels = natural(36, 22, 36, 22)  # 30 and 6 for validation, or 16 and 6
    for seed in range(6):
        subsets = draw(labels, 4, profile="exponential", n_max=30, imbalance=5.0, seed=seed, few_shot_per_class=1)
        counts = longtail.class_counts(30, 5.0, 4)  # 30, 17, 10, 6
        assert subsets.class_order[0] in (0, 2) and subsets.class_order[1] in (0, 2)
        assert subsets.train_counts[subsets.class_order].tolist() == counts.tolist()
    with pytest.raises(ArgumentError, match=r"^n_max .* training images and needs \d+, 6 of them for validation"):
        draw(labels, 4, profile="exponential", n_max=31)


def test_without_labels_everything_is_pretrained_on():
    labels = np.full(7, -1, np.int32)
    subsets = draw(labels, 0)
    assert subsets.long_tail.tolist() == list(range(7))
    assert all(len(getattr(subsets, name)) == 0 for name in subsets._fields if name != "long_tail")
    assert longtail.groups(subsets.train_counts, "counts") == longtail.groups(subsets.train_counts, "thirds") == ()
    with pytest.raises(ArgumentError, match="^profile is 'pareto', but the images have no labels: set it to 'as_is'"):
        draw(labels, 0, profile="pareto")


def test_attributes():
    labels = (np.random.default_rng(0).random((200, 3)) < (0.1, 0.9, 0.5)).astype(np.uint8)
    subsets = draw(labels, 3)
    assert len(subsets.validation) == 18 and len(subsets.few_shot) == 9 and len(subsets.long_tail) == 182
    assert subsets.train_counts.tolist() == labels[subsets.long_tail].sum(axis=0).tolist()
    assert subsets.class_order.tolist() == [1, 2, 0]
    assert np.array_equal(subsets.probe_train, subsets.long_tail) and not len(subsets.balanced)
    assert sorted([*subsets.long_tail, *subsets.validation]) == list(range(200))
    assert set(subsets.few_shot) <= set(subsets.long_tail)
    assert len(draw(labels, 3, validation_per_class=500).validation) == 40  # a fifth
    held_out = np.arange(200) < 50
    subsets = draw(labels, 3, held_out=held_out)
    assert subsets.validation.tolist() == list(range(50)) and subsets.long_tail.tolist() == list(range(50, 200))
    assert longtail.groups(subsets.train_counts, "thirds") == ("few", "many", "medium")
    with pytest.raises(ArgumentError, match="^profile is 'exponential', but the images have attributes: set it to"):
        draw(labels, 3, profile="exponential")


def test_what_is_drawn_as_it_is_stays_the_same():
    """From a run with NumPy 2.4; a difference would change every subset ever reported."""
    subsets = draw(natural(30, 12, 5), 3)
    text = " ".join(str(rows.tolist()) for rows in subsets)
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "47963453c0346902"
