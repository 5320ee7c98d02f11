"""Nearest neighbours against scikit-learn, whatever the blocks and devices, and cases decided by hand."""

import jax
import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from sdclr_jax import parallel
from sdclr_jax.errors import ArgumentError
from sdclr_jax.evaluation import neighbours as module
from sdclr_jax.evaluation.neighbours import nearest, neighbours

RNG = np.random.default_rng(3)
# Lengths differ by orders of magnitude, so that leaving out the normalisation would show.
FEATURES = (RNG.normal(size=(23, 5)) * RNG.uniform(0.01, 100, (23, 1))).astype(np.float32)


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("blocks", [{}, {"queries": 2, "others": 7}, {"queries": 1, "others": 2}])
def test_they_are_those_of_scikit_learn_without_itself(blocks, devices, monkeypatch):
    monkeypatch.setattr(module, "KEPT_BYTES", 0 if devices == 1 else 2**30)  # blocks are sent again, or kept
    shardings = parallel.shardings(jax.devices()[:devices])
    found = neighbours(FEATURES, 4, **blocks, shardings=shardings)
    distances, rows = NearestNeighbors(n_neighbors=4, metric="cosine").fit(FEATURES).kneighbors()
    assert (found.rows.dtype, found.similarities.dtype) == (np.int32, np.float32)
    assert found.rows.tolist() == rows.tolist()
    np.testing.assert_allclose(found.similarities, 1 - distances, atol=1e-6)


def test_nearest_of_other_images_may_be_the_same_image():
    found = nearest(FEATURES, FEATURES[5:12], 3, queries=1, others=4)
    distances, rows = NearestNeighbors(n_neighbors=3, metric="cosine").fit(FEATURES).kneighbors(FEATURES[5:12])
    assert found.rows.tolist() == rows.tolist() and found.rows[:, 0].tolist() == list(range(5, 12))
    np.testing.assert_allclose(found.similarities, 1 - distances, atol=1e-6)


@pytest.mark.parametrize("others", [2, 100])
def test_equal_images_are_each_others_neighbours_and_the_earlier_comes_first(others):
    same = np.outer(np.arange(1, 6), np.ones(3))  # of one direction, whatever their length
    found = neighbours(same, 3, others=others)
    assert found.rows.tolist() == [[other for other in range(5) if other != row][:3] for row in range(5)]
    np.testing.assert_allclose(found.similarities, 1, atol=1e-6)


def test_as_many_neighbours_as_there_are_others_or_none():
    assert sorted(neighbours(FEATURES, 22).rows[7]) == [row for row in range(23) if row != 7]
    assert neighbours(FEATURES, 0).similarities.shape == (23, 0)
    with pytest.raises(ArgumentError, match="^k is 23: it must be from 0 to 22"):
        neighbours(FEATURES, 23)
    with pytest.raises(ArgumentError, match="^k is 0: it must be from 1 to 23"):
        nearest(FEATURES, FEATURES, 0)
