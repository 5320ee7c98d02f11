"""The folder that `sdclr photos` writes to: what lies in it, and whether that may be replaced."""

import os
import pathlib
from collections.abc import Iterable

from sdclr_jax.data import copies
from sdclr_jax.errors import ArgumentError, UserError
from sdclr_jax.records import names

# The run, and of the images that it was trained on copies, names, and sizes of files.
RUN, SMALL, MANIFEST, SIZES = "run", "small", "images_of_run.csv", "sizes_of_run.csv"
TABLES = ("images", "duplicates", "outliers", "labels", "rare", "not_learned", "subset")
VECTORS, PAGE = "features", "index.html"
# What is written together.
_PAIRS = {name: (f"{name}.parquet", f"{name}.csv") for name in TABLES}
_PAIRS |= {VECTORS: (f"{VECTORS}.npz", f"{VECTORS}.parquet")}


def check_apart(out: pathlib.Path, holding: Iterable[pathlib.Path]) -> None:
    """Refuse to write among images, which the next run would take for images, or over them.

    Args:
        out: the folder that is written.
        holding: folders of images. Links and cases of letters do not hide that two paths are one folder.

    Raises:
        ArgumentError: names the folder.
    """
    above = _line(out)
    ours = {name: _line(out / name)[0] for name in (SMALL, RUN) if (out / name).is_dir()}
    for folder in holding:
        if not folder.is_dir():
            continue  # it is refused where it is read
        line = _line(folder)
        if line[0] in above:
            raise ArgumentError("out", f"is {out}, which lies in {folder}, a folder of the images: name another place")
        if within := [name for name, own in ours.items() if own in line]:
            raise ArgumentError("out", f"is {out}, whose folder {within[0]} holds the images: name another place")


def _line(path: pathlib.Path) -> list[tuple[int, int]]:
    """What a folder, and each one above it, is for the disk; only of those that exist."""
    real = pathlib.Path(os.path.realpath(path))
    found = [each.stat() for each in (real, *real.parents) if each.exists()]
    return [(status.st_dev, status.st_ino) for status in found]


def check_ours(out: pathlib.Path) -> None:
    """Refuse to write where something of a name that is written is not known to be written by this program.

    Raises:
        UserError: names it.
    """
    # The copies are marked before the first of them is written; older versions made no mark.
    trained = copies.is_marked(out / SMALL) or ((out / RUN / names.CONFIG).exists() and (out / MANIFEST).exists())
    listed = trained or (out / f"{TABLES[0]}.parquet").exists()
    lists = (*(name for pair in _PAIRS.values() for name in pair), PAGE)
    foreign = [name for name in lists if not listed and _is_something(out / name)]
    foreign += [name for name in (RUN, SMALL, MANIFEST, SIZES) if not trained and _is_something(out / name)]
    if foreign:
        raise UserError(
            f"{out / foreign[0]} is there, and it is not known that `sdclr photos` has written it: move it away, or "
            "give another folder with --out"
        )


def remove_others(out: pathlib.Path, made: Iterable[str]) -> None:
    """Remove the lists of an earlier run, which are of other images than those that this one has made. A file that has
    no other half is a person's.

    Args:
        made: of `TABLES` and `VECTORS`, what was written now.

    Raises:
        UserError: one cannot be removed.
    """
    for name in _PAIRS.keys() - set(made):
        pair = [out / each for each in _PAIRS[name]]
        if all(path.is_file() for path in pair):
            for path in pair:
                try:
                    path.unlink()
                except OSError as error:
                    raise UserError(f"{path} cannot be removed ({error.strerror}): it is of an earlier run") from error


def _is_something(path: pathlib.Path) -> bool:
    """Whether there is a file, a folder that is not empty, or a link."""
    return any(path.iterdir()) if path.is_dir() and not path.is_symlink() else os.path.lexists(path)
