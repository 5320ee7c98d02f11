"""Scores against figures worked out by hand."""

import json
import math

import numpy as np
import pytest

from sdclr_jax import records
from sdclr_jax.errors import UserError
from sdclr_jax.evaluation import scores


def test_per_class_accuracy_is_each_classs_own_share():
    labels = np.array([0, 0, 0, 0, 1, 1, 2])
    predictions = np.array([0, 0, 0, 2, 0, 1, 1])
    np.testing.assert_array_equal(scores.per_class_accuracy(predictions, labels, 3), [0.75, 0.5, 0.0])


@pytest.mark.parametrize("labels", [[0, 0, 1], [0, 2, 2]])
def test_a_class_without_test_images_is_an_error(labels):
    with pytest.raises(UserError, match=r"\[[12]\].*data\.name"):
        scores.per_class_accuracy(np.zeros(3, int), np.array(labels), 3)


def test_a_class_without_images_may_be_left_out():
    found = scores.per_class_accuracy(np.array([0, 1, 0]), np.array([0, 2, 2]), 3, all_classes=False)
    np.testing.assert_array_equal(found, [1.0, np.nan, 0.0])


def test_summary_by_hand():
    # The classes stand in any order; the group sizes differ, so the mean over groups would not be 0.55.
    per_class = np.array([0.3, 0.9, 0.7, 0.2, 0.8, 0.4])
    groups = ("few", "many", "medium", "few", "many", "few")
    result = records.summary(per_class, groups)
    assert result.keys() == {"all", "many", "medium", "few", "std"}
    assert result["all"] == pytest.approx(0.55)
    assert result["many"] == pytest.approx(0.85)
    assert result["medium"] == pytest.approx(0.7)
    assert result["few"] == pytest.approx(0.3)
    # Mean of the groups 37/60, squared deviations (14/60)^2 + (5/60)^2 + (19/60)^2 over three, not over two.
    assert result["std"] == pytest.approx(math.sqrt((14**2 + 5**2 + 19**2) / 3) / 60)
    assert json.loads(json.dumps(result)) == result


def test_empty_groups_are_none_and_left_out():
    two = records.summary(np.array([0.9, 0.5]), ("many", "few"))
    assert two["medium"] is None
    assert two["std"] == pytest.approx(0.2)
    one = records.summary(np.array([0.9, 0.5]), ("many", "many"))
    assert one == {"all": pytest.approx(0.7), "many": pytest.approx(0.7), "medium": None, "few": None, "std": None}


@pytest.mark.parametrize("groups", [("many",), ("many", "rare")])
def test_groups_must_fit_the_classes(groups):
    with pytest.raises(ValueError, match="many"):
        records.summary(np.array([0.9, 0.5]), groups)


def test_average_precision_by_hand():
    targets = np.array([[1, 0, 0], [0, 0, 1], [1, 0, 1], [0, 0, 1]], np.uint8)
    # First: relevant at ranks 1 and 3. Second: never there. Third: two of the ties at the top, all that is left below.
    scored = np.array([[0.9, 0.5, 0.7], [0.8, 0.1, 0.7], [0.7, 0.2, 0.7], [0.1, 0.9, 0.1]], np.float32)
    found = scores.average_precision(scored, targets)
    assert found[0] == pytest.approx((1 + 2 / 3) / 2)
    assert np.isnan(found[1])
    assert found[2] == pytest.approx(2 / 3 * 2 / 3 + 1 / 3 * 3 / 4)  # the order of the ties does not matter
    np.testing.assert_array_equal(scores.average_precision(scored[::-1], targets[::-1]), found)


def test_average_precision_of_one_attribute_and_of_none():
    target = np.array([[1], [0], [1]])
    assert scores.average_precision(np.array([[3.0], [2.0], [1.0]]), target) == pytest.approx((1 + 2 / 3) / 2)
    with pytest.raises(UserError, match=r"any of the attributes.*data\.name"):
        scores.average_precision(np.zeros((3, 2)), np.zeros((3, 2), np.uint8))


def test_attributes_without_a_score_are_left_out_of_every_mean():
    result = records.summary(np.array([0.9, np.nan, 0.5, np.nan]), ("many", "many", "medium", "few"))
    assert result == {
        "all": pytest.approx(0.7), "many": pytest.approx(0.9), "medium": pytest.approx(0.5), "few": None,
        "std": pytest.approx(0.2),
    }  # fmt: skip
