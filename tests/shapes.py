"""The shapes in signatures of objectives, evaluation and views are checked in every call of a test (conftest.py)."""

from beartype import beartype


def checked(function):
    """Check the annotations of arrays alone: a setting may be an int, or a traced number."""
    kept = {name: hint for name, hint in function.__annotations__.items() if "jaxtyping" in repr(hint)}
    function.__annotations__ = kept
    return beartype(function)
