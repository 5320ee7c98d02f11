import copy
import doctest
import pickle

import pytest

from sdclr_jax import errors
from sdclr_jax.data import decoding
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


def test_an_error_goes_to_another_process_as_it_is():
    """A pool waits for ever for an error that cannot be read there."""
    made = [errors.Diverged("the loss is nan", 3), ArgumentError("k", "is 0"), decoding.UnknownRange("gray", -1.0, 2.0)]
    kinds = {kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, BaseException)}
    made += [kind("no file runs/a") for kind in kinds - {type(error) for error in made}]
    assert len(made) > 6
    for error in made:
        for again in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
            assert type(again) is type(error) and str(again) == str(error) and vars(again) == vars(error)


def test_the_examples_are_true():
    found = doctest.testmod(errors)
    assert found.attempted > 6 and not found.failed
