"""The errors that the command line prints as one sentence, without a traceback; and what pure functions raise."""

import contextlib
from collections.abc import Iterator, Mapping


class UserError(ValueError):
    """Bad input: the message is one sentence that names the field or file and the remedy."""

    status = 2  # of the process that it ends


class Unreadable(UserError):
    """The system does not let a file be read, for want of permission or the like: nothing is known of its content."""


class Diverged(RuntimeError):
    """The loss is no longer a number: the message names step and branch."""

    status = 1


class Lost(RuntimeError):
    """Another process of the run is gone, or waits for ever."""

    status = 1


class Stopped(KeyboardInterrupt):
    """A stop was asked for; the state is saved."""

    status = 75  # "try again later", by convention


class ArgumentError(ValueError):
    """A bad argument of a function. `argument` is its name; `problem` is the rest of the sentence: its value, what is
    accepted.

    >>> raise ArgumentError("k", "is 0: it must be at least 1")
    Traceback (most recent call last):
    sdclr_jax.errors.ArgumentError: k is 0: it must be at least 1
    """

    status = 2

    def __init__(self, argument: str, problem: str):
        super().__init__(f"{argument} {problem}")
        self.argument, self.problem = argument, problem


@contextlib.contextmanager
def renamed(names: Mapping[str, str]) -> Iterator[None]:
    """Inside, an `ArgumentError` becomes a `UserError` under the name that its user knows: {"k": "evaluate.knn_k"}.

    An argument without a name here goes on as it is.

    >>> with renamed({"k": "evaluate.knn_k"}):
    ...     raise ArgumentError("k", "is 0: it must be at least 1")
    Traceback (most recent call last):
    sdclr_jax.errors.UserError: evaluate.knn_k is 0: it must be at least 1
    """
    try:
        yield
    except ArgumentError as error:
        if error.argument not in names:
            raise
        raise UserError(f"{names[error.argument]} {error.problem}") from error
