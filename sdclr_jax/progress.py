"""Progress bars."""

import sys

from tqdm import tqdm

from sdclr_jax.output import Output


def bar(what: str | None, total: int | None, progress: bool, file: Output | None = None, **options) -> tqdm:
    """A progress bar, by default on the standard error: drawn often on a terminal, and seldom in a file."""
    file = file or Output(sys.stderr)
    options |= {"mininterval": 0.5 if file.isatty() else 30, "dynamic_ncols": True}
    return tqdm(desc=what, total=total, disable=not progress, file=file, **options)
