"""Shares, overlaps and drift against enumeration and sets, with ties."""

import itertools

import numpy as np
import pytest

from sdclr_jax.errors import ArgumentError
from sdclr_jax.evaluation import exemplars

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("images", "fraction", "expected"), [(369, 0.1, 37), (100, 0.07, 7), (5, 0.01, 1), (40, 1, 40)]
)
def test_the_forgotten_set_is_a_fraction_rounded_up(images, fraction, expected):
    assert exemplars.size(images, fraction) == expected
    assert exemplars.membership(RNG.random(images), fraction).sum() == pytest.approx(expected)


def test_share_of_a_planted_group():
    scores = np.array([0.9, 0.1, 0.8, 0.3, 0.2, 0.7, 0.0, 0.15, 0.5, 0.05])
    member = np.zeros(10, bool)
    member[[0, 2, 6]] = True
    found = exemplars.share(scores, member, 0.3)  # the top three are images 0, 2 and 5
    assert found.share == pytest.approx(2 / 3)
    assert found.expected == pytest.approx(0.3)
    assert exemplars.order(scores)[:3].tolist() == [0, 2, 5]


@pytest.mark.parametrize(("images", "members", "drawn"), [(9, 3, 4), (10, 6, 2), (8, 1, 1), (8, 8, 3), (8, 0, 3)])
def test_the_interval_is_that_of_all_sets_of_that_size(images, members, drawn):
    counts = np.sort([sum(i < members for i in chosen) for chosen in itertools.combinations(range(images), drawn)])
    # The smallest counts that at least 2.5 % and 97.5 % of the sets do not exceed.
    low, high = (counts[int(np.ceil(q * len(counts) - 1e-9)) - 1] for q in (0.025, 0.975))
    found = exemplars.share(RNG.random(images), np.arange(images) < members, drawn / images)
    assert (found.low, found.high) == pytest.approx((low / drawn, high / drawn))


def test_random_scores_lie_within_the_interval_about_as_often_as_it_says():
    member = np.arange(400) < 60
    found = [exemplars.share(RNG.random(400), member, 0.1) for _ in range(1000)]
    inside = np.mean([share.low <= share.share <= share.high for share in found])
    assert 0.93 < inside < 0.995  # at least 95 %, and not everything
    assert np.mean([share.share for share in found]) == pytest.approx(0.15, abs=0.01)


def test_equal_scores_say_nothing():
    member = np.arange(20) < 5
    assert exemplars.share(np.zeros(20), member, 0.1).share == pytest.approx(0.25)
    # Two places for three that tie, of whom one is a member; one place is settled.
    scores = np.array([5.0, 1.0, 1.0, 1.0] + [0.0] * 16)
    assert exemplars.membership(scores, 0.15)[:5].tolist() == pytest.approx([1, 2 / 3, 2 / 3, 2 / 3, 0])
    assert exemplars.share(scores, np.arange(20) == 2, 0.15).share == pytest.approx(2 / 9)
    assert exemplars.order(scores)[:4].tolist() == [0, 1, 2, 3]


def test_share_of_a_group_by_class_against_every_choice_of_classes():
    """Two classes of six are forgotten whole: far beyond chance for images, but for classes one choice in fifteen."""
    labels = np.repeat(np.arange(6), [40, 20, 10, 5, 3, 2])
    scores = np.isin(labels, (3, 5)) + RNG.random(80) * 0.1
    fraction = 7 / 80
    by_class = [np.mean((scores >= np.sort(scores)[-7])[labels == c]) for c in range(6)]
    assert by_class == [0, 0, 0, 1, 0, 1]
    null = sorted(np.mean([by_class[c] for c in chosen]) for chosen in itertools.combinations(range(6), 2))
    found = exemplars.class_share(scores, labels, [3, 5], fraction)
    assert (found.share, found.expected) == pytest.approx((1, 1 / 3))
    assert (found.low, found.high) == (null[0], null[-1]) == (0, 1)
    assert exemplars.share(scores, np.isin(labels, (3, 5)), fraction).high < 0.6
    # Of forty classes, the ten that are forgotten are few of the choices.
    labels = np.arange(400) % 40
    found = exemplars.class_share(np.where(labels < 10, 1.0, 0.0), labels, range(10), 0.25)
    assert found.share == 1
    assert found.expected == pytest.approx(0.25)
    assert found.low < 0.25 < found.high < 0.7


def test_classes_and_groups_without_images_are_left_out():
    scores, labels = RNG.random(40), np.repeat([0, 2], 20)
    (_, _, tenth) = exemplars.shares(scores, labels, {"some": [0, 1], "none": [1]})
    assert tenth.groups.keys() == {"some"}
    top = np.argsort(-scores)[:4]
    rates = [np.mean(np.isin(np.flatnonzero(labels == c), top)) for c in (0, 2)]
    assert tenth.groups["some"].by_class.share == pytest.approx(rates[0])
    assert tenth.groups["some"].by_class.expected == pytest.approx(np.mean(rates))


def test_scores_that_are_not_finite_are_refused():
    with pytest.raises(ArgumentError, match="^scores are not finite for 1 of 3 images"):
        exemplars.order(np.array([1.0, np.nan, 0.0]))


def test_overlap_is_that_of_sets():
    a, b = RNG.random((2, 50))
    tops = [set(np.argsort(-x)[:5].tolist()) for x in (a, b)]
    found = exemplars.overlap(a, b, 0.1)
    assert found.images == 5
    assert found.shared == pytest.approx(len(tops[0] & tops[1]))
    assert found.jaccard == pytest.approx(len(tops[0] & tops[1]) / len(tops[0] | tops[1]))
    assert found.expected == pytest.approx(0.5 / 9.5)  # 5 * 5 / 50 shared
    assert found.low <= found.expected <= found.high
    same = exemplars.overlap(a, a, 0.1)
    assert (same.shared, same.jaccard) == pytest.approx((5, 1))
    ties = exemplars.overlap(np.zeros(50), a, 0.1)  # the first set is any
    assert ties.shared == pytest.approx(0.5)


def test_rank_correlation():
    a = np.arange(10.0)
    assert exemplars.overlaps(a, np.exp(a)).rank_correlation == pytest.approx(1)
    assert exemplars.overlaps(a, -a).rank_correlation == pytest.approx(-1)
    assert exemplars.overlaps(a, np.ones(10)).rank_correlation is None
    assert [part.fraction for part in exemplars.overlaps(a, a).sets] == [0.01, 0.05, 0.1]


def test_drift_and_its_chance():
    a = {"one": RNG.random((30, 40)) < 0.5, "two": RNG.random(3000) < 0.05}
    b = {"one": RNG.random((30, 40)) < 0.4, "two": RNG.random(3000) < 0.1}
    flat = [np.concatenate([mask["one"].ravel(), mask["two"]]) for mask in (a, b)]
    found = exemplars.drift(a, b)
    assert found.jaccard == pytest.approx((flat[0] & flat[1]).sum() / (flat[0] | flat[1]).sum())
    shuffled = [
        exemplars.drift(a, {layer: RNG.permutation(mask.ravel()).reshape(mask.shape) for layer, mask in b.items()})
        for _ in range(200)
    ]
    assert np.mean([s.jaccard for s in shuffled]) == pytest.approx(found.chance, rel=0.01)
    assert exemplars.drift(a, a).jaccard == 1
