"""Nearest neighbours against brute force and against cases decided by hand."""

import math

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from sdclr_jax.errors import ArgumentError
from sdclr_jax.evaluation import knn


def brute_force(train, labels, test, k, temperature, num_classes):
    """Wu et al., CVPR 2018, section 3.4, in float64, one test image at a time."""
    train = train.astype(np.float64) / np.linalg.norm(train, axis=1, keepdims=True)
    test = test.astype(np.float64) / np.linalg.norm(test, axis=1, keepdims=True)
    predictions = []
    for image in test:
        cosines = train @ image
        votes = np.zeros(num_classes)
        for neighbour in np.argsort(-cosines, kind="stable")[:k]:
            votes[labels[neighbour]] += np.exp(cosines[neighbour] / temperature)
        predictions.append(votes.argmax())
    return predictions


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.1), (7, 0.1), (7, 1.0), (60, 0.07)])
@pytest.mark.parametrize("votes", [knn._VOTES, 15])  # of all images at once, and of three
def test_equals_brute_force(k, temperature, votes, monkeypatch):
    monkeypatch.setattr(knn, "_VOTES", votes)
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 5, 60)
    # Lengths differ by orders of magnitude, so that leaving out the normalisation would show.
    train = (rng.normal(size=(60, 8)) * rng.uniform(0.01, 100, (60, 1))).astype(np.float32)
    test = (rng.normal(size=(50, 8)) * rng.uniform(0.01, 100, (50, 1))).astype(np.float32)
    settings = {"k": k, "temperature": temperature, "num_classes": 5}
    predictions = knn.predict(train, labels, test, **settings)
    assert predictions.dtype == np.int32
    np.testing.assert_array_equal(predictions, brute_force(train, labels, test, **settings))


def test_the_share_of_the_vote_for_each_attribute_equals_brute_force():
    rng = np.random.default_rng(2)
    train, test = (rng.normal(size=(n, 8)).astype(np.float32) for n in (60, 20))
    labels = rng.integers(0, 2, (60, 3)).astype(np.uint8)
    found = knn.predict(train, labels, test, k=7, temperature=0.5, num_classes=3)
    assert found.dtype == np.float32
    for image, shares in zip(test, found, strict=True):
        cosines = train @ image / np.linalg.norm(train, axis=1) / np.linalg.norm(image)
        nearest = np.argsort(-cosines)[:7]
        weights = np.exp(cosines[nearest] / 0.5)
        np.testing.assert_allclose(shares, weights @ labels[nearest] / weights.sum(), rtol=1e-4, atol=1e-6)


def test_an_infinite_temperature_counts_neighbours():
    """k-NN as scikit-learn has it, ties to the lower class: five classes and seven neighbours make many."""
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 5, 60)
    train, test = (rng.normal(size=(n, 8)) for n in (60, 200))
    train, test = ((x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32) for x in (train, test))
    expected = KNeighborsClassifier(7).fit(train, labels).predict(test)
    found = knn.predict(train, labels, test, k=7, temperature=math.inf, num_classes=5)
    np.testing.assert_array_equal(found, expected)


def on_circle(*degrees):
    return np.stack([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))], axis=1).astype(np.float32)


@pytest.mark.parametrize(("temperature", "winner"), [(0.1, 1), (10.0, 0)])
def test_temperature_decides_between_one_near_and_two_far(temperature, winner):
    train, labels = on_circle(60, -60, 5), np.array([0, 0, 1])
    assert knn.predict(train, labels, on_circle(0), k=3, temperature=temperature, num_classes=2) == [winner]


def test_ties_go_to_the_earlier_image_and_then_to_the_lower_class():
    same = np.ones((40, 4), np.float32)
    labels = np.full(40, 1)
    labels[:2] = 3, 2
    settings = {"temperature": 0.1, "num_classes": 4}
    np.testing.assert_array_equal(knn.predict(same, labels, same[:3], k=1, **settings), 3)
    np.testing.assert_array_equal(knn.predict(same, labels, same[:3], k=2, **settings), 2)


def test_small_temperatures_do_not_overflow():
    train, labels = on_circle(90, 30, 10), np.array([0, 1, 2])
    assert knn.predict(train, labels, on_circle(0), k=3, temperature=1e-4, num_classes=3) == [2]


@pytest.mark.parametrize("k", [0, 4])
def test_k_must_fit_the_training_set(k):
    with pytest.raises(ArgumentError, match=f"^k is {k}: it must be from 1 to 3"):
        knn.predict(on_circle(0, 1, 2), np.zeros(3, int), on_circle(0), k=k, temperature=0.1, num_classes=1)


def test_temperature_must_be_positive():
    with pytest.raises(ArgumentError, match="^temperature is 0"):
        knn.predict(on_circle(0, 1, 2), np.zeros(3, int), on_circle(0), k=1, temperature=0.0, num_classes=1)
