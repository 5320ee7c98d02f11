import doctest

import pytest

from sdclr_jax import errors
from sdclr_jax.errors import ArgumentError, UserError


def test_a_bad_argument_is_told_under_the_name_of_its_field():
    with (
        pytest.raises(UserError, match=r"^evaluate\.knn_k is 0: it must be at least 1$"),
        errors.renamed({"k": "evaluate.knn_k"}),
    ):
        raise ArgumentError("k", "is 0: it must be at least 1")


def test_an_argument_without_a_field_and_any_other_error_go_on_as_they_are():
    for error in (ArgumentError("rank", "is -1"), TypeError("no")):
        with pytest.raises(type(error)) as raised, errors.renamed({"k": "evaluate.knn_k"}):
            raise error
        assert raised.value is error


def test_the_examples_are_true():
    found = doctest.testmod(errors)
    assert found.attempted > 6 and not found.failed
