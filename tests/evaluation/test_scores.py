"""Scores against figures worked out by hand."""

import json
import math

import numpy as np
import pytest

from sdclr_jax import records


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


def test_attributes_without_a_score_are_left_out_of_every_mean():
    result = records.summary(np.array([0.9, np.nan, 0.5, np.nan]), ("many", "many", "medium", "few"))
    assert result == {
        "all": pytest.approx(0.7), "many": pytest.approx(0.9), "medium": pytest.approx(0.5), "few": None,
        "std": pytest.approx(0.2),
    }  # fmt: skip
