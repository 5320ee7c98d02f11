"""No warnings while images are decoded, in any number of threads."""

import contextlib
import threading
import warnings
from collections.abc import Iterator

_MARK = "(?#sdclr_jax decodes)"  # a message that every warning has, and a filter that nobody else sets
_decoding = threading.Lock()
_threads = 0  # that decode now
_marked: list[list] = []  # lists of filters that have the one of these threads


@contextlib.contextmanager
def without_warnings() -> Iterator[None]:
    """No warning of Pillow's inside. Filters are one list for all threads, and `warnings.catch_warnings` in two of them
    puts back each other's: so threads that decode share one filter, and the last of them takes it away. Another thread
    may put another list in place meanwhile."""
    global _threads
    with _decoding:
        if not any(map(_is_mark, warnings.filters)):
            warnings.filterwarnings("ignore", message=_MARK)
            _marked.append(warnings.filters)
        _threads += 1
    try:
        yield
    finally:
        with _decoding:
            _threads -= 1
            if not _threads:
                for filters in (*_marked, warnings.filters):
                    for each in filter(_is_mark, list(filters)):
                        filters.remove(each)
                _marked.clear()


def _is_mark(each: tuple) -> bool:
    return getattr(each[1], "pattern", "") == _MARK
