"""Progress bars."""

import sys

from tqdm import tqdm


def bar(what: str, total: int | None, progress: bool, **options) -> tqdm:
    """A progress bar on the standard error: often on a terminal, seldom in a file."""
    interval = 0.2 if sys.stderr.isatty() else 10
    return tqdm(desc=what, total=total, disable=not progress, mininterval=interval, dynamic_ncols=True, **options)
