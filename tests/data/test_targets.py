"""Labels of both kinds: scores against figures worked out by hand."""

import re

import numpy as np
import pytest

from sdclr_jax.data.targets import Attributes, Classes, as_targets, labels_of
from sdclr_jax.errors import ArgumentError
from sdclr_jax.evaluation import knn, probe


def test_per_class_accuracy_is_each_classs_own_share():
    targets = as_targets(np.array([0, 0, 0, 0, 1, 1, 2]), 3)
    predictions = np.array([0, 0, 0, 2, 0, 1, 1])
    np.testing.assert_array_equal(targets.per_class(predictions), [0.75, 0.5, 0.0])
    assert targets.score(predictions) == 4 / 7
    np.testing.assert_array_equal(targets.take(np.array([0, 6])).per_class(np.array([0, 2])), [1, np.nan, 1])


def test_a_class_without_images_has_no_score():
    found = Classes(np.array([0, 2, 2]), 3).per_class(np.array([0, 1, 0]))
    np.testing.assert_array_equal(found, [1.0, np.nan, 0.0])


def test_average_precision_by_hand():
    labels = np.array([[1, 0, 0], [0, 0, 1], [1, 0, 1], [0, 0, 1]], np.uint8)
    # First: relevant at ranks 1 and 3. Second: never there. Third: two of the ties at the top, all that is left below.
    scored = np.array([[0.9, 0.5, 0.7], [0.8, 0.1, 0.7], [0.7, 0.2, 0.7], [0.1, 0.9, 0.1]], np.float32)
    targets = as_targets(labels, 3)
    found = targets.per_class(scored)
    assert found[0] == pytest.approx((1 + 2 / 3) / 2)
    assert np.isnan(found[1])
    assert found[2] == pytest.approx(2 / 3 * 2 / 3 + 1 / 3 * 3 / 4)  # the order of the ties does not matter
    np.testing.assert_array_equal(Attributes(labels[::-1], 3).per_class(scored[::-1]), found)
    assert targets.score(scored) == pytest.approx((found[0] + found[2]) / 2)


def test_average_precision_of_one_attribute_and_of_none():
    target = Attributes(np.array([[1], [0], [1]]), 1)
    assert target.per_class(np.array([[3.0], [2.0], [1.0]])) == pytest.approx((1 + 2 / 3) / 2)
    with pytest.raises(ArgumentError, match="^labels give no image any attribute"):
        Attributes(np.zeros((3, 2), np.uint8), 2).per_class(np.zeros((3, 2)))


def test_what_scores_decide_and_what_votes_weigh():
    """Classes take the highest score, the lowest class on ties; attributes keep the scores."""
    scores = np.array([[0.1, 0.7, 0.7], [0.9, 0.0, 0.1]])
    classes, attributes = as_targets(np.array([2, 0]), 3), as_targets(np.array([[0, 1, 1], [1, 0, 0]], np.uint8), 3)
    assert (classes.metric, attributes.metric) == ("accuracy", "average_precision")
    np.testing.assert_array_equal(classes.decide(scores), [1, 0])
    np.testing.assert_array_equal(attributes.decide(scores), scores)
    np.testing.assert_array_equal(classes.one_hot(), [[0, 0, 1], [1, 0, 0]])
    np.testing.assert_array_equal(attributes.one_hot(), [[0, 1, 1], [1, 0, 0]])


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([0, 1, 2, 3], "go from 0 to 3: they must be from 0 to 2, as there are 3 classes"),
        ([1, 2, 3, 1], "go from 1 to 3"),
        ([-1, 0, 1, 2], "go from -1 to 2"),
        ([0, 1, 2], "have shape [3] of int64: give whole numbers, [4] for classes, or [4, 3] for attributes"),
        ([0, 1, 2, 0, 1], "have shape [5]"),
        ([0.0, 1.0, 2.0, 0.0], "have shape [4] of float64"),
        (["a", "b", "a", "b"], "have shape [4] of <U1"),
        ([[0], [1], [2], [0]], "have shape [4, 1]"),
        ([[0, 1, 2]] * 4, "go from 0 to 2: they must be from 0 to 1, as attributes are 0 or 1"),
    ],
)
def test_labels_that_no_class_has_are_refused_by_all_that_learns(labels, said):
    """Unseen, the last class would stand for -1, and a class too many for an image of another."""
    features = np.eye(4, dtype=np.float32)
    labels = np.array(labels)
    learners = {
        "given": lambda: labels_of("given", labels, 3, 4),
        "train_labels": lambda: knn.predict(features, labels, features, num_classes=3, k=1),
        "labels": lambda: probe.ridge(features, labels, num_classes=3),
        "validation_labels": lambda: probe.logistic(features, np.arange(4) % 3, features, labels, num_classes=3),
    }
    for name, learn in learners.items():
        if said.startswith("go from") or name == "given":  # others the checker of shapes refuses in tests
            with pytest.raises(ArgumentError, match=f"^{name} {re.escape(said)}"):
                learn()
