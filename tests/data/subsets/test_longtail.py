import hashlib
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdclr_jax.data.subsets import longtail
from sdclr_jax.errors import ArgumentError
from sdclr_jax.records import GROUPS


def exact_counts(n_max, imbalance, num_classes):
    """The profile in whole numbers: count k is the largest m with m ** (C-1) * imbalance ** k <= n_max ** (C-1)."""
    power = max(num_classes - 1, 1)
    counts = []
    for k in range(num_classes):
        low, high = 0, n_max + 1
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if middle**power * imbalance**k <= n_max**power else (low, middle)
        counts.append(low)
    return counts


def image_labels(per_class, num_classes):
    """Labels of a balanced data set whose classes are interleaved."""
    return np.tile(np.arange(num_classes), per_class).astype(np.int32)


def draw(labels, **changes):
    arguments = dict(num_classes=10, n_max=110, imbalance=20.0, validation_per_class=20, few_shot_per_class=5, seed=0)
    return longtail.draw(labels, **(arguments | changes))


# class_counts


@pytest.mark.parametrize(
    "n_max, imbalance, counts",
    [
        (4500, 100, [4500, 2697, 1617, 969, 581, 348, 208, 125, 75, 45]),  # the authors' CIFAR-10-LT lists
        (110, 20.0, [110, 78, 56, 40, 29, 20, 14, 10, 7, 5]),
        (7, 1, [7] * 10),
        (512, 512, [512, 256, 128, 64, 32, 16, 8, 4, 2, 1]),
    ],
)
def test_counts_of_ten_classes(n_max, imbalance, counts):
    assert longtail.class_counts(n_max, imbalance, 10).tolist() == counts


def test_counts_of_the_published_cifar100_lists():
    counts = longtail.class_counts(450, 100, 100)
    assert counts.sum() == 9754 and counts[0] == 450 and counts[-1] == 4


def test_whole_numbers_survive_floating_point():
    assert math.floor(100 * 32**-0.4) == 24  # what a plain floor makes of 25
    assert longtail.class_counts(100, 32, 6).tolist() == [100, 50, 25, 12, 6, 3]
    assert longtail.class_counts(243, 243, 6).tolist() == [243, 81, 27, 9, 3, 1]


@settings(deadline=None)
@given(n_max=st.integers(1, 10**5), imbalance=st.integers(1, 1000), num_classes=st.integers(1, 40))
def test_counts_agree_with_whole_number_arithmetic(n_max, imbalance, num_classes):
    expected = exact_counts(n_max, imbalance, num_classes)
    if expected[-1] == 0:
        with pytest.raises(ArgumentError, match="without an image"):
            longtail.class_counts(n_max, imbalance, num_classes)
    else:
        counts = longtail.class_counts(n_max, imbalance, num_classes)
        assert counts.dtype == np.int64 and counts.tolist() == expected


@pytest.mark.parametrize(
    "n_max, imbalance, message",
    [
        (0, 1, r"^n_max is 0: it must be at least 1"),
        (10, 0.5, r"^imbalance is 0\.5: it must be a number of at least 1"),
        (10, float("nan"), r"^imbalance is nan"),
        (10, float("inf"), r"^imbalance is inf"),
        # 100 / 256 ** (7/9) = 1.34 and 100 / 256 ** (8/9) = 0.72
        (100, 256, r"^imbalance is 256, which with n_max 100 leaves class 8 of 10"),
    ],
)
def test_counts_refuse(n_max, imbalance, message):
    with pytest.raises(ArgumentError, match=message):
        longtail.class_counts(n_max, imbalance, 10)


# draw


@st.composite
def drawings(draw):
    """Labels of a shuffled data set, unequal classes included, and arguments that it has images enough for."""
    num_classes = draw(st.integers(2, 6))
    n_max = draw(st.integers(8, 40))
    validation = draw(st.integers(1, 6))
    few_shot = draw(st.integers(1, 8))
    sizes = [validation + n_max + draw(st.integers(0, 9)) for _ in range(num_classes)]
    labels = np.repeat(np.arange(num_classes), sizes)
    np.random.default_rng(draw(st.integers(0, 99))).shuffle(labels)
    return labels, dict(
        num_classes=num_classes,
        n_max=n_max,
        imbalance=draw(st.floats(1, 8)),
        validation_per_class=validation,
        few_shot_per_class=few_shot,
        seed=draw(st.integers(0, 2**70)),
    )


@settings(deadline=None)
@given(drawings())
def test_draw_keeps_its_promises(drawing):
    labels, arguments = drawing
    subsets = longtail.draw(labels, **arguments)
    num_classes = arguments["num_classes"]

    def count(indices):
        return np.bincount(labels[indices], minlength=num_classes).tolist()

    for name in ("long_tail", "balanced", "few_shot", "probe_train", "validation"):
        indices = getattr(subsets, name)
        assert indices.dtype == np.int64 and np.all(np.diff(indices) > 0), name  # ascending, without repeats
        assert indices[0] >= 0 and indices[-1] < len(labels)

    assert sorted(subsets.class_order) == list(range(num_classes))
    counts = longtail.class_counts(arguments["n_max"], arguments["imbalance"], num_classes)
    assert [subsets.train_counts[c] for c in subsets.class_order] == counts.tolist()
    assert count(subsets.long_tail) == subsets.train_counts.tolist()

    assert count(subsets.balanced) == [counts.sum() // num_classes] * num_classes
    assert count(subsets.few_shot) == [arguments["few_shot_per_class"]] * num_classes
    assert count(subsets.validation) == [arguments["validation_per_class"]] * num_classes

    everything = np.concatenate([subsets.probe_train, subsets.validation])
    assert sorted(everything) == list(range(len(labels)))  # so they are disjoint, too
    for name in ("long_tail", "balanced", "few_shot"):
        assert set(getattr(subsets, name)) <= set(subsets.probe_train), name


@settings(deadline=None)
@given(drawings(), st.floats(0, 1))
def test_a_more_imbalanced_long_tail_lies_within(drawing, share):
    labels, arguments = drawing
    milder = longtail.draw(labels, **(arguments | {"imbalance": 1 + share * (arguments["imbalance"] - 1)}))
    harder = longtail.draw(labels, **arguments)
    assert set(harder.long_tail) <= set(milder.long_tail)
    assert harder.class_order.tolist() == milder.class_order.tolist()


@pytest.mark.parametrize(
    "change, changed",
    [
        ({"few_shot_per_class": 6}, {"few_shot"}),
        ({"validation_per_class": 21}, {"validation", "probe_train"}),
        ({"imbalance": 10.0}, {"long_tail", "balanced", "train_counts"}),
        ({"n_max": 100}, {"long_tail", "balanced", "train_counts"}),
        ({"seed": 1}, set(longtail.Subsets._fields)),
    ],
)
def test_an_argument_changes_what_it_names_and_nothing_else(change, changed):
    labels = image_labels(140, 10)
    before, after = draw(labels), draw(labels, **change)
    assert {
        name for name in before._fields if not np.array_equal(getattr(before, name), getattr(after, name))
    } == changed


def test_overlaps_are_those_of_the_published_lists():
    # CIFAR-10, split 1: long tail and balanced share min(count, 1116) images a class, few-shot lies in both.
    labels = image_labels(5000, 10)
    subsets = draw(labels, n_max=4500, imbalance=100, validation_per_class=500, few_shot_per_class=45)
    assert len(subsets.long_tail) == 11165 and len(subsets.balanced) == 11160
    assert len(subsets.probe_train) == 45000 and len(subsets.validation) == 5000
    shared = np.intersect1d(subsets.long_tail, subsets.balanced)
    by_class = np.bincount(labels[shared], minlength=10)
    assert by_class.tolist() == np.minimum(subsets.train_counts, np.bincount(labels[subsets.balanced])).tolist()
    assert len(shared) == 5699  # as published
    assert set(subsets.few_shot) <= set(shared)


@pytest.mark.parametrize(
    ("n_max", "imbalance", "num_classes", "profile", "long_tail", "balanced"),
    [
        (4500, 100, 10, "exponential", 11165, 11160),
        (450, 100, 100, "exponential", 9754, 9700),
        (1280, 256, 100, "pareto", 12213, 12200),  # of the published 12,205 it is the same
    ],
)
def test_balanced_lists_are_as_large_as_the_published(n_max, imbalance, num_classes, profile, long_tail, balanced):
    """CIFAR-10, CIFAR-100 and ImageNet-100: the mean a class, rounded down."""
    sizes = {"n_max": n_max, "imbalance": imbalance, "num_classes": num_classes, "profile": profile}
    subsets = draw(image_labels(n_max + 20, num_classes), **sizes)
    assert (len(subsets.long_tail), len(subsets.balanced)) == (long_tail, balanced)


# From a run with NumPy 2.4; a difference would change every subset ever reported.
GOLDEN = {
    "long_tail": [1, 5, 9, 10, 11, 12, 13, 16, 19, 25, 26],
    "balanced": [1, 5, 9, 11, 12, 16, 18, 19, 26],
    "few_shot": [1, 3, 5, 9, 10, 11, 12, 13, 14, 16, 17, 18, 19, 24, 26],
    "probe_train": [0, 1, 2, 3, 5, 6, 7, 9, 10, 11, 12, 13, 14, 16, 17, 18, 19, 21, 23, 24, 25, 26, 28, 29],
    "validation": [4, 8, 15, 20, 22, 27],
    "class_order": [1, 2, 0],
    "train_counts": [2, 6, 3],
}


def test_draw_is_the_same_for_ever():
    subsets = draw(image_labels(10, 3), num_classes=3, n_max=6, imbalance=3, validation_per_class=2, seed=7)
    assert {name: value.tolist() for name, value in subsets._asdict().items()} == GOLDEN


def test_every_class_order_and_every_image_is_as_likely():
    labels = image_labels(6, 3)
    orders, taken, runs = {}, np.zeros(len(labels)), 3000
    for seed in range(runs):
        subsets = draw(
            labels, num_classes=3, n_max=4, imbalance=4, validation_per_class=2, few_shot_per_class=1, seed=seed
        )
        order = tuple(subsets.class_order.tolist())
        orders[order] = orders.get(order, 0) + 1
        taken[subsets.long_tail] += 1
    assert len(orders) == 6
    # Five standard deviations of a binomial count; the long tail holds 4 + 2 + 1 of the 18 images.
    assert max(abs(n - runs / 6) for n in orders.values()) < 5 * math.sqrt(runs * 1 / 6 * 5 / 6)
    assert np.abs(taken - runs * 7 / 18).max() < 5 * math.sqrt(runs * 7 / 18 * 11 / 18)


def test_classes_are_not_permuted_alike():
    subsets = draw(image_labels(100, 2), num_classes=2, n_max=50, imbalance=1)
    first, second = (subsets.long_tail[subsets.long_tail % 2 == c] // 2 for c in (0, 1))
    assert 10 < len(np.intersect1d(first, second)) < 40  # 25 expected, 50 if they were


@pytest.mark.parametrize(
    "change, message",
    [
        (
            {"n_max": 121},
            r"^n_max .* class \d has 140 training images and needs 141, 20 of them for validation",
        ),
        ({"validation_per_class": 31}, r"has 140 .* needs 141, 31 of them .* or validation_per_class$"),
        ({"validation_per_class": 500}, r"class 0 has 140 training images and needs .*validation_per_class$"),
        ({"few_shot_per_class": 121}, r"^few_shot_per_class .* class 0 has 140 .* needs 141"),
        ({"num_classes": 11}, r"class 10 has 0 training images"),
        ({"validation_per_class": 0}, r"^validation_per_class is 0: it must be at least 1$"),
        ({"few_shot_per_class": -1}, r"^few_shot_per_class is -1: it must be at least 1$"),
        ({"seed": -1}, r"^seed is -1: it must be at least 0$"),
        ({"imbalance": 1000}, r"^imbalance is 1000, which with n_max 110 leaves class 7 of 10"),
    ],
)
def test_draw_refuses(change, message):
    with pytest.raises(ArgumentError, match=message):
        draw(image_labels(140, 10), **change)


def test_a_rare_class_must_have_images_enough_for_the_balanced_set():
    labels = image_labels(140, 10)
    rarest = draw(labels).class_order[-1]  # 5 images in the long tail, 36 in the balanced set
    labels = np.delete(labels, np.flatnonzero(labels == rarest)[50:])
    with pytest.raises(ArgumentError, match=rf"^n_max .* class {rarest} has 50 training images and needs 56, 20 "):
        draw(labels)


def test_draw_takes_all_there_is():
    draw(image_labels(130, 10))  # 110 + 20
    subsets = draw(image_labels(130, 10), few_shot_per_class=110)
    assert np.array_equal(subsets.few_shot, subsets.probe_train)


# groups


def test_thirds_of_ten_classes():
    counts = [5, 40, 10, 78, 29, 20, 110, 7, 56, 14]
    many, few = {6, 3, 8, 1}, {2, 7, 0}  # 110 78 56 40 | 29 20 14 | 10 7 5
    expected = tuple("many" if c in many else "few" if c in few else "medium" for c in range(10))
    assert longtail.groups(counts, "thirds") == expected


@pytest.mark.parametrize("num_classes, sizes", [(3, (1, 1, 1)), (8, (3, 3, 2)), (9, (3, 3, 3)), (100, (34, 33, 33))])
def test_sizes_of_thirds_with_ties_by_class(num_classes, sizes):
    names = longtail.groups(np.full(num_classes, 7), "thirds")
    assert names == tuple(name for name, size in zip(GROUPS, sizes, strict=True) for _ in range(size))


def test_groups_by_counts():
    assert longtail.groups(np.array([19, 20, 100, 101, 1, 1280]), "counts") == (
        "few",
        "medium",
        "medium",
        "many",
        "few",
        "many",
    )
    assert longtail.groups([20, 30], "counts") == ("medium", "medium")  # two empty groups


def test_groups_are_plain_strings():
    for rule in ("thirds", "counts"):
        assert {type(name) for name in longtail.groups(np.array([200, 50, 3]), rule)} == {str}


def test_unknown_rule_lists_the_known_ones():
    with pytest.raises(ArgumentError, match="^rule is .halves.: known are thirds, counts"):
        longtail.groups([1, 2, 3], "halves")


# list_hash


def test_hash_by_hand():
    expected = hashlib.sha256(b"a_00001\na_00002\na_00010").hexdigest()
    assert longtail.list_hash(["a_00010", "a_00001", "a_00002"]) == expected
    assert longtail.list_hash(np.array(["a_00002", "a_00010", "a_00001"])) == expected
    # printf 'digits_00000\ndigits_00001' | sha256sum
    assert (
        longtail.list_hash(["digits_00000", "digits_00001"])
        == "c8647be61c311367ff1ee65e9fe8417c9c589613eea20f4b1906a3b520904452"
    )


def test_hash_is_of_bytes_in_byte_order():
    ids = ["Z", "a", "é", "\U0001f600", "\uffff"]
    expected = hashlib.sha256(b"\n".join(sorted(i.encode("utf-8") for i in ids))).hexdigest()
    assert longtail.list_hash(ids) == expected


def test_hash_tells_lists_apart():
    assert len({longtail.list_hash(ids) for ids in ([], ["a"], ["b"], ["a", "b"], ["ab"], ["a", "a"])}) == 6


def test_images_without_labels_are_trained_on_but_for_those_held_out():
    labels = np.full(5, -1, np.int32)
    for held_out, trained_on, kept in ((None, [0, 1, 2, 3, 4], []), (np.arange(5) % 3 == 1, [0, 2, 3], [1, 4])):
        found = draw(labels, num_classes=0, profile="as_is", held_out=held_out)
        assert (found.long_tail.tolist(), found.validation.tolist()) == (trained_on, kept)
        assert len(found.probe_train) == len(found.few_shot) == len(found.balanced) == 0
