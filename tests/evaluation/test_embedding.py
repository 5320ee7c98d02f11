"""The map keeps neighbours together, is the same for the same seed, and holds what the report reads."""

import json

import numpy as np
import pytest
from sklearn.manifold import TSNE

from sdclr_jax.errors import ArgumentError
from sdclr_jax.evaluation import embedding

LABELS = np.repeat(np.arange(3), 20)
# Three directions, of any length: only the direction should count.
FEATURES = np.eye(8, dtype=np.float32)[LABELS] + 0.05 * np.random.default_rng(0).standard_normal((60, 8))
FEATURES = (FEATURES * np.random.default_rng(1).uniform(0.1, 100, (60, 1))).astype(np.float32)


def nearest_are_of_the_same_class(positions, labels):
    distances = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
    np.fill_diagonal(distances, np.inf)
    return np.mean(labels[distances.argmin(axis=1)] == labels)


def test_images_of_one_direction_lie_together_whatever_their_length():
    rows, positions = embedding.tsne(FEATURES, seed=0)
    np.testing.assert_array_equal(rows, np.arange(60))
    assert (positions.shape, positions.dtype) == ((60, 2), np.float32)
    assert nearest_are_of_the_same_class(positions, LABELS) == 1
    mixed = np.random.default_rng(2).permutation(LABELS)
    assert nearest_are_of_the_same_class(positions, mixed) < 0.7


def test_the_seed_decides_which_images_and_where():
    one, again, other = (embedding.tsne(FEATURES, seed, limit=24) for seed in (3, 3, 4))
    np.testing.assert_array_equal(one[0], again[0])
    np.testing.assert_array_equal(one[1], again[1])
    assert len(one[0]) == 24
    assert (np.diff(one[0]) > 0).all()
    assert set(one[0]) != set(other[0])


def test_what_is_written_is_json_with_the_classes_of_the_chosen_images():
    found = json.loads(json.dumps(embedding.about(FEATURES, LABELS, seed=3, limit=24).to_json(), allow_nan=False))
    rows, positions = embedding.tsne(FEATURES, seed=3, limit=24)
    assert (found["format"], found["method"], found["images"]) == (1, "t-SNE", 24)
    assert found["settings"] == {"of": 60, "perplexity": pytest.approx(23 / 3), "metric": "cosine", "seed": 3}
    np.testing.assert_allclose([point[:2] for point in found["points"]], positions, atol=5e-4)
    assert [point[2] for point in found["points"]] == LABELS[rows].tolist()
    assert all(round(x, 3) == x for point in found["points"] for x in point[:2])


def test_an_equal_map_is_not_drawn_again_and_any_other_is(tmp_path, monkeypatch):
    drawn, fit = [], TSNE.fit_transform
    monkeypatch.setattr(TSNE, "fit_transform", lambda model, x: drawn.append(x.shape) or fit(model, x))
    expected = embedding.tsne(FEATURES, seed=3, limit=24)
    other = FEATURES.copy()
    other[expected[0][0], 0] += 1
    for features, seed, limit, times in (
        (FEATURES, 3, 24, 2),
        (FEATURES, 3, 24, 2),
        (2 * FEATURES, 3, 24, 2),  # the same directions
        (other, 3, 24, 3),
        (FEATURES, 4, 24, 4),
        (FEATURES, 3, 23, 5),
    ):
        rows, positions = embedding.tsne(features, seed, limit, tmp_path)
        assert len(drawn) == times
        np.testing.assert_array_equal(rows, embedding.tsne(features, seed, limit, tmp_path)[0])
        if times == 2:
            np.testing.assert_array_equal(positions, expected[1])


def test_what_has_no_map_is_refused():
    with pytest.raises(ArgumentError, match="3 images"):
        embedding.tsne(FEATURES[:3], seed=0)
    with pytest.raises(ArgumentError, match="not finite"):
        embedding.tsne(np.full((9, 2), np.nan, np.float32), seed=0)
    with pytest.raises(ArgumentError, match="one class an image"):
        embedding.about(FEATURES, np.zeros((60, 40), bool), seed=0)
    rows, positions = embedding.tsne(np.zeros((5, 3), np.float32), seed=0)  # collapsed, yet finite
    assert np.isfinite(positions).all()
