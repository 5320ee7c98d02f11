"""How far this process has come: a bar for a person, and a count for the other processes of a run, which end where none
of them comes any further."""

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tqdm import tqdm

done = 0  # pieces of work of this process, other than steps


def progressed() -> None:
    """Note a piece of work other than a step: in whatever may take many minutes, as to read a data set."""
    global done
    done += 1


def bar(what: str, total: int | None, progress: bool, **options) -> "tqdm":
    """A progress bar on the standard error: often on a terminal, seldom in a file. Each update is progress."""
    from tqdm import tqdm  # takes longer than all else that processes need which decode images

    class Bar(tqdm):
        def update(self, n: float | None = 1) -> bool | None:
            progressed()
            return super().update(n)

    interval = 0.2 if sys.stderr.isatty() else 10
    return Bar(desc=what, total=total, disable=not progress, mininterval=interval, dynamic_ncols=True, **options)
