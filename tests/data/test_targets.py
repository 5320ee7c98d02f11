"""Labels of both kinds: scores against figures worked out by hand."""

import numpy as np
import pytest

from sdclr_jax.data.targets import Attributes, Classes, as_targets
from sdclr_jax.errors import ArgumentError


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
