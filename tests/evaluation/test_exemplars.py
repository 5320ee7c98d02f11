"""Shares, overlaps and drift against enumeration and sets, with ties; neighbours against brute force."""

import itertools

import numpy as np
import pytest

from sdclr_jax.errors import UserError
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


def test_scores_that_are_not_finite_are_refused():
    with pytest.raises(UserError, match="1 of 3 scores are not finite"):
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
    assert exemplars.overlaps(a, np.exp(a))["rank_correlation"] == pytest.approx(1)
    assert exemplars.overlaps(a, -a)["rank_correlation"] == pytest.approx(-1)
    assert exemplars.overlaps(a, np.ones(10))["rank_correlation"] is None
    assert [part["fraction"] for part in exemplars.overlaps(a, a)["sets"]] == [0.01, 0.05, 0.1]


def test_drift_and_its_chance():
    a = {"one": RNG.random((30, 40)) < 0.5, "two": RNG.random(3000) < 0.05}
    b = {"one": RNG.random((30, 40)) < 0.4, "two": RNG.random(3000) < 0.1}
    flat = [np.concatenate([mask["one"].ravel(), mask["two"]]) for mask in (a, b)]
    found = exemplars.drift(a, b)
    assert found["jaccard"] == pytest.approx((flat[0] & flat[1]).sum() / (flat[0] | flat[1]).sum())
    shuffled = [
        exemplars.drift(a, {layer: RNG.permutation(mask.ravel()).reshape(mask.shape) for layer, mask in b.items()})
        for _ in range(200)
    ]
    assert np.mean([s["jaccard"] for s in shuffled]) == pytest.approx(found["chance"], rel=0.01)
    assert exemplars.drift(a, a)["jaccard"] == 1


def test_neighbours_are_the_nearest_without_the_image_itself():
    features = RNG.normal(size=(23, 5)).astype(np.float32)
    features[7] = 3 * features[11]  # of the same direction
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    rows = np.array([11, 0, 22, 7, 3])
    found = exemplars.neighbours(features, rows, 4, batch_size=2)
    for row, near in zip(rows, found, strict=True):
        cosines = unit @ unit[row]
        cosines[row] = -2
        assert near.tolist() == np.argsort(-cosines)[:4].tolist()
    assert found[0, 0] == 7
    assert exemplars.neighbours(features, rows, 22).shape == (5, 22)
    assert exemplars.neighbours(features, rows, 0).shape == (5, 0)
    with pytest.raises(UserError, match="at most 22"):
        exemplars.neighbours(features, rows, 23)
