"""The errors that the command line prints as one sentence, without a traceback; and what pure functions raise."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

LONGEST = 2000  # characters of a message


def shortened(value: object, length: int = 200) -> str:
    """The text of a value, for a message; without its middle where it is longer than `length`.

    >>> shortened("a" * 50 + "b" * 50, 20)
    'aaaaaaaaaa ... bbbbb'
    """
    try:
        text = str(value)
    except ValueError:  # Python writes no whole number of more than 4,300 digits
        text = "a number of too many digits"
    except RecursionError:
        text = f"a {type(value).__name__} nested too deeply"
    if len(text) <= length:
        return text
    begin = length // 2
    return f"{text[:begin]} ... {text[begin + 5 - length :]}"


def printable(text: object) -> str:
    """Text in one line, for a terminal: names come from files, and what would steer it is written out.

    >>> print(printable("a\\x1b[31m\\nb"))
    a\\x1b[31m\\nb
    """
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(text))


def first_ones(names: Sequence[object], most: int, between: str = ", ") -> str:
    """At most so many names for a sentence, and how many more there are.

    >>> first_ones(["a", "b"], 2), first_ones(["a", "b", "c"], 2), first_ones([1, 2, 3], 1, "; ")
    ('a, b', 'a, b and 1 more', '1 and 2 more')
    """
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return f"{between.join(map(str, names[:most]))}{more}"


class UserError(ValueError):
    """Bad input: the message is one sentence that names the field or file and the remedy, of bounded length."""

    status = 2  # of the process that it ends

    def __init__(self, message: object = ""):
        super().__init__(shortened(message, LONGEST))


class Unreadable(UserError):
    """The system does not let a file be read, for want of permission or the like: nothing is known of its content."""


class Diverged(RuntimeError):
    """The loss is no longer a number, or two runs from one state differ: the message says where; `step` is that of the
    loss."""

    status = 1

    def __init__(self, message: str, step: int = 0):
        super().__init__(message)
        self.step = step


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
        super().__init__(shortened(f"{argument} {problem}", LONGEST))
        self.argument, self.problem = argument, problem

    def __reduce__(self) -> tuple[Any, ...]:
        """For another process, as of a pool, and for a copy."""
        return type(self), (self.argument, self.problem), self.__dict__


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


def is_missing(error: BaseException) -> bool:
    """Whether an import failed because a package is not installed, and not because one that is there does not work.

    >>> is_missing(ModuleNotFoundError(name="torch")), is_missing(ImportError(name="torch"))
    (True, False)
    """
    return isinstance(error, ModuleNotFoundError) and "." not in (error.name or ".")


# What NumPy, TensorStore and XLA say where memory is short.
_NO_MEMORY = ("RESOURCE_EXHAUSTED", "bad_alloc", "Cannot allocate memory", "Out of memory")


def out_of_memory(error: BaseException) -> str:
    """What is said of memory by an error, or by one that led to it; '' where it is about something else.

    >>> out_of_memory(RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes."))
    'RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes.'
    """
    for seen in causes(error):
        if isinstance(seen, MemoryError) or any(sign in str(seen) for sign in _NO_MEMORY):
            return first_line(seen) if str(seen) else "the system gives no more"
    return ""


def causes(error: BaseException) -> Iterator[BaseException]:
    """An error, and those that led to it.

    >>> [type(found).__name__ for found in causes(UserError("unreadable"))]
    ['UserError']
    """
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__


def first_line(error: BaseException, length: int = 200) -> str:
    """What an error of another library says, in at most `length` characters; its type where it says nothing.

    >>> first_line(OSError("no room\\nand more")), first_line(KeyError("no field")), first_line(ValueError())
    ('no room', 'no field', 'ValueError')
    """
    said = error.args[0] if isinstance(error, KeyError) and error.args else error  # KeyError puts it into quotes
    return shortened((str(said).strip() or type(error).__name__).splitlines()[0], length)
