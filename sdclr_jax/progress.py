"""How far this process has come: a bar for a person, and a count for the other processes of a run, which end where none
of them comes any further."""

import sys
from typing import TYPE_CHECKING

from sdclr_jax.output import Output

if TYPE_CHECKING:
    from tqdm import tqdm

done = 0  # pieces of work of this process, other than steps


def progressed() -> None:
    """Note a piece of work other than a step: in whatever may take many minutes, as to read a data set."""
    global done
    done += 1


def bar(what: str | None, total: int | None, progress: bool, file: Output | None = None, **options) -> "tqdm":
    """A progress bar, by default on the standard error: drawn often on a terminal, and seldom in a file. Each update is
    progress."""
    from tqdm import tqdm  # takes longer than all else that processes need which decode images

    class Bar(tqdm):
        def update(self, n: float | None = 1) -> bool | None:
            progressed()
            return super().update(n)

    file = file or Output(sys.stderr)
    options |= {"mininterval": 0.5 if file.isatty() else 30, "dynamic_ncols": True}
    return Bar(desc=what, total=total, disable=not progress, file=file, **options)
