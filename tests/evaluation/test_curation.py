"""Foreign images, wrong labels and a diverse subset, on features whose answer is known."""

import types

import numpy as np
import pytest

from sdclr_jax.evaluation import curation


def test_an_image_like_no_other_and_a_small_group_stand_apart():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 6))
    x[0] += 15
    x[1:9] = rng.normal(size=(8, 6)) * 0.05 + [0, 0, 9, 0, 0, 0]  # near each other, far from the rest
    near, some = curation.distances(x, x[:, :2])
    alone, group = curation.above_median(near), curation.above_median(some)
    assert np.flatnonzero(alone > curation.APART).tolist() == [0]
    assert np.flatnonzero(group > curation.APART).tolist() == list(range(1, 9))


def test_scores_that_are_all_the_same_set_nothing_apart():
    assert (curation.above_median(np.zeros(10)) == 0).all()
    near, some = curation.distances(np.ones((30, 4)), np.ones((30, 2)))
    assert np.isfinite(near).all() and np.isfinite(some).all()


def test_what_a_picture_looks_like():
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (3, 32, 32, 3), np.uint8)
    coarse = np.kron(rng.integers(0, 256, (3, 4, 4, 3)), np.ones((1, 8, 8, 1))).astype(np.uint8)
    gray = np.repeat(noise[..., :1], 3, axis=-1)
    looks = curation.appearance(np.concatenate([noise, coarse, gray]))
    assert looks.shape == (9, 23) and np.isfinite(looks).all()
    np.testing.assert_allclose(looks[:3, :3], noise.mean((1, 2)), rtol=1e-5)
    assert (looks[6:, 12] == 0).all() and (looks[:6, 12] > 50).all()  # saturation
    assert looks[:3, -1].min() > looks[3:6, -1].max()  # noise has more of the finest waves


def test_wrong_labels_are_found_and_the_right_ones_suggested():
    rng = np.random.default_rng(0)
    truth = np.repeat([0, 1, 2], [150, 80, 30])
    features = rng.normal(size=(260, 8)) + 5 * np.eye(8)[truth]
    labels = truth.copy()
    wrong = np.array([3, 40, 160, 170, 235])
    labels[wrong] = (truth[wrong] + 1) % 3
    labels[-1] = 3  # a class of one image, which is not judged
    found = curation.label_issues(features, labels, 4, np.full(260, -1))
    assert np.flatnonzero(found.suspect).tolist() == wrong.tolist()
    assert (found.suggested[wrong] == truth[wrong]).all()
    assert found.probability[wrong].max() < found.probability[np.setdiff1d(np.arange(260), wrong)].min()
    assert found.probability[-1] == 1 and found.suggested[-1] == 3


def test_a_copy_does_not_vouch_for_a_wrong_label():
    """Ten copies of an image with its wrong label would make a classifier sure of it."""
    rng = np.random.default_rng(0)
    truth = np.repeat([0, 1], 60)
    features = rng.normal(size=(120, 4)) + 3 * np.eye(4)[truth]
    features[1:10] = features[0] = [3, 0, 2, 0]
    labels, copies = truth.copy(), np.full(120, -1)
    labels[:10], copies[:10] = 1, 0
    assert curation.label_issues(features, labels, 2, copies).suspect[:10].all()
    assert not curation.label_issues(features, labels, 2, np.full(120, -1)).suspect[:10].any()


@pytest.mark.parametrize("labels", [[0] * 20, [0] * 16 + [1] * 4])
def test_classes_too_few_to_judge_are_not_judged(labels):
    found = curation.label_issues(np.random.default_rng(0).normal(size=(20, 3)), np.array(labels), 2, np.full(20, -1))
    assert not found.suspect.any() and (found.probability == 1).all()


def test_a_class_of_five_is_judged():
    labels = np.repeat([0, 1], [15, 5])
    found = curation.label_issues(np.random.default_rng(0).normal(size=(20, 3)), labels, 2, np.full(20, -1))
    assert (found.probability < 1).all()


def test_a_label_is_suspect_below_three_tenths_of_an_even_share(monkeypatch):
    """Of two classes that is 0.15. The classifier is played: its probability of class 1 is the first feature."""
    played = types.SimpleNamespace(
        classes_=np.arange(2), fit=lambda x, y: None, predict_proba=lambda x: np.stack([1 - x[:, 0], x[:, 0]], axis=1)
    )
    monkeypatch.setattr(curation, "make_pipeline", lambda *_: played)
    labels = np.repeat([0, 1], 10)
    features = np.where(labels == 1, 0.9, 0.1)[:, None]
    features[10:13, 0] = 0.14, 0.16, 0.4
    found = curation.label_issues(features, labels, 2, np.full(20, -1))
    assert np.flatnonzero(found.suspect).tolist() == [10]
    assert found.probability[10:13].tolist() == [0.14, 0.16, 0.4] and not found.suggested[10:13].any()


def test_a_diverse_subset_begins_in_the_middle():
    angles = np.deg2rad([0, 60, 80, 150])
    features = np.stack([np.cos(angles), np.sin(angles)], axis=1)  # their mean points to 71 degrees
    assert curation.diverse(features, 3, np.ones(4, bool)).tolist()[:1] == [2]


def test_a_diverse_subset_is_farthest_first():
    angles = np.deg2rad([0, 2, 4, 100, 102, 220, 222])
    features = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    among = np.ones(7, bool)
    chosen = curation.diverse(features, 4, among)
    assert {(0, 1, 2).count(row) for row in chosen[:3]} == {0, 1} and len(set(chosen.tolist())) == 4
    assert {row // 3 if row < 3 else (row + 1) // 2 for row in chosen[:3].tolist()} == {0, 2, 3}  # one of each place
    assert curation.diverse(features, 2, among).tolist() == chosen[:2].tolist()  # a subset of any size
    among[chosen[1]] = False
    assert chosen[1] not in curation.diverse(features, 7, among)
    assert not len(curation.diverse(features, 3, np.zeros(7, bool)))


def test_a_class_whose_images_are_all_copies_of_one_is_not_judged():
    """No classifier has seen another image of it."""
    rng = np.random.default_rng(0)
    labels, copies = np.repeat([0, 1, 2], [20, 20, 6]), np.full(46, -1)
    copies[40:] = 0
    features = rng.normal(size=(46, 3)) + 5 * np.eye(3)[labels]
    found = curation.label_issues(features, labels, 3, copies)
    assert not found.suspect.any() and (found.suggested == labels).all()
    assert (found.probability[40:] == 1).all() and (found.probability[:40] < 1).all()


@pytest.mark.parametrize(("groups", "judged"), [(1, False), (2, True), (4, True)])
def test_labels_are_judged_by_as_many_folds_as_there_are_pictures(groups, judged):
    rng = np.random.default_rng(0)
    labels, copies = np.repeat([0, 1], 12), np.arange(24) % groups
    features = rng.normal(size=(24, 3)) + 5 * labels[:, None]
    found = curation.label_issues(features, labels, 2, copies)
    assert (found.probability < 1).any() == judged
    assert not found.suspect.any() and (found.suggested == labels).all()
