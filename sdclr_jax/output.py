"""What is printed stops no work, where it cannot be written or nobody reads it any more."""

import contextlib
import sys
from collections.abc import Callable
from typing import Any, TextIO


class Output:
    """A stream as Python has it, whose errors stop no work: what is written from the first one on is lost.

    Args:
        stream: where to write; None, as of a program without one, loses all.
        needs_reader: whether a reader that has gone is an error as ever (BrokenPipeError): it has seen enough.

    Attributes:
        error: what was the matter, None where nothing was, or where it was raised.
    """

    def __init__(self, stream: TextIO | None, *, needs_reader: bool = False):
        self._stream, self._needs_reader, self._is_lost = stream, needs_reader, stream is None
        self.error: OSError | None = None

    def write(self, text: str) -> int:
        self._tried(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        self._tried(lambda: self._stream.flush())

    def _tried(self, write: Callable[[], Any]) -> None:
        if self._is_lost:
            return
        try:
            write()
        except ValueError:  # the stream is closed
            self._is_lost = True
        except OSError as error:
            self._is_lost = True
            if self._needs_reader and isinstance(error, BrokenPipeError):
                raise
            self.error = error

    def isatty(self) -> bool:
        """Whether it is a terminal; not where it is none of Python's streams."""
        try:
            return bool(self._stream.isatty())
        except (AttributeError, ValueError):
            return False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def tell(sentence: str) -> None:
    """Print to the standard error if that can be done, and return in any case: for what handles a signal, or is about
    to end this process."""
    with contextlib.suppress(Exception):  # a signal may also come while the same stream is written: a RuntimeError
        print(sentence, file=sys.stderr, flush=True)
