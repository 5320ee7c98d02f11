"""Lists of examples read from files, such as those that the authors of SDCLR published, in place of `longtail.draw`.

A `.npy` list holds whole numbers: places in the original order of the training images, so 42 is the example
`train_00042` of CIFAR. A `.txt` list holds an example id a line. Either is joined with a data set on the ids, never on
the position of a record.

The files of a folder have the authors' names, all but CIFAR-10's with the data set's name and `_` in front:
`split{N}_D_i` (long tail), `split{N}_D_b` (balanced), `split{N}_S_b` (few-shot), `trainIdxList` and `valIdxList`.
"""

import io
import os
import pathlib
import re
from collections import Counter

import numpy as np

from sdclr_jax import files
from sdclr_jax.data.examples import Examples
from sdclr_jax.data.subsets import longtail
from sdclr_jax.errors import ArgumentError, UserError, first_line
from sdclr_jax.files import copied

NAMES = {
    "long_tail": "split{}_D_i",
    "balanced": "split{}_D_b",
    "few_shot": "split{}_S_b",
    "probe_train": "trainIdxList",
    "validation": "valIdxList",
}
LARGEST = 2**30  # bytes of a list
DATASETS = ("digits", "cifar10", "cifar100")  # those whose lists are of this kind
_REMEDY = "get the list again, or go without lists, which are then drawn by the paper's rule"


def find(folder: str | os.PathLike, name: str, split: int) -> dict[str, pathlib.Path]:
    """The files of a split's lists, by subset; nothing in them is read.

    Args:
        folder: where the lists lie.
        name: of the data set.
        split: N in the files' names.

    Raises:
        ArgumentError: no such folder, no such split, or a list is missing.
    """
    folder = copied(folder)
    if not os.path.isdir(folder):
        raise ArgumentError("folder", f"is {folder}, which is no folder: give the folder of the lists")
    prefix = "" if name == "cifar10" else f"{name}_"
    tails = (re.fullmatch(re.escape(prefix) + r"split(\d+)_D_i\.(npy|txt)", path.name) for path in folder.iterdir())
    splits = sorted({int(match[1]) for match in tails if match})
    if splits and split not in splits:
        raise ArgumentError("split", f"is {split}: {folder} has lists of the splits {', '.join(map(str, splits))}")
    files = {}
    for subset, pattern in NAMES.items():
        stem = prefix + pattern.format(split)
        there = [path for path in (folder / f"{stem}.npy", folder / f"{stem}.txt") if os.path.exists(path)]
        if len(there) != 1:
            raise ArgumentError(
                "folder",
                f"is {folder}, which holds {'both' if there else 'neither'} {stem}.npy "
                f"{'and' if there else 'nor'} {stem}.txt: put one list for each of "
                f"{', '.join(prefix + p.format('N') for p in NAMES.values())} there",
            )
        files[subset] = there[0]
    return files


def read(path: pathlib.Path, remedy: str = _REMEDY) -> list[str]:
    """The example ids of one list, in its order; `remedy` is what a message ends with.

    Raises:
        UserError: the file cannot be read, or holds no list of whole numbers or ids, or one example twice.
    """
    try:
        data = files.read(path, LARGEST)
        ids = _from_numbers(data) if path.suffix == ".npy" else data.decode("utf-8-sig").split("\n")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise UserError(f"{path} cannot be read as a list ({reason}); {remedy}.") from error
    ids = [i for i in map(str.strip, ids) if i]
    if not ids:
        raise UserError(f"{path} is empty; {remedy}.")
    if len(set(ids)) < len(ids):
        twice = next(i for i, times in Counter(ids).items() if times > 1)
        raise UserError(f"{path} names {twice} more than once; {remedy}.")
    return ids


def without(path: pathlib.Path, ids: np.ndarray, subset: str) -> np.ndarray:
    """Which examples of a subset stay when those of a list are left out: bool [N].

    Args:
        path: of a list, as `read` takes it.
        ids: str [N], of the subset.
        subset: its name, for messages.

    Raises:
        UserError: as `read`; the list names an example that is not in the subset, or all of them.
    """
    left_out = read(path, "give a file with an example id a line")
    if strange := next(iter(sorted(set(left_out) - set(ids.tolist()))), None):
        raise UserError(
            f"{path} names {strange}, which is not among the {len(ids)} examples of {subset}: give ids such as {ids[0]}"
        )
    if len(left_out) == len(ids):
        raise UserError(f"{path} names all {len(ids)} examples of {subset}: leave some to train on")
    return ~np.isin(ids, left_out)


def _from_numbers(data: bytes) -> list[str]:
    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, _, dtype = header(file)
    except Exception as error:  # NumPy parses the header as Python, and raises what its parts do
        raise ValueError(f"no header of a .npy file: {str(error)[:100]}") from error
    if len(shape) != 1 or dtype.kind not in "iu":
        raise ValueError(f"an array of {len(shape)} dimensions and type {dtype}, not a row of whole numbers")
    # Checked before memory is taken for what the header says.
    if shape[0] * dtype.itemsize != len(data) - file.tell():
        raise ValueError(f"{shape[0]} numbers in the header, and {len(data) - file.tell()} bytes behind it")
    return [f"train_{i:05d}" for i in np.frombuffer(data, dtype, offset=file.tell()).tolist()]


def subsets(
    files: dict[str, pathlib.Path], examples: Examples, *, name: str, n_max: int, imbalance: float
) -> longtail.Subsets:
    """Read all lists of a split, and see that they belong to the data set and to each other.

    Args:
        files: see `find`.
        examples: all training examples.
        name: of the data set, for messages.
        n_max, imbalance: of the profile that the long tail must follow; see `longtail.class_counts`.

    Returns:
        Index arrays into `examples`, ascending; the order of the classes is that of the list, ties by label.

    Raises:
        UserError: names the file, what is wrong with it, and the remedy.
    """
    place = {i: n for n, i in enumerate(examples.ids.tolist())}
    found = {}
    for subset, path in files.items():
        ids = read(path)
        if strange := next((i for i in ids if i not in place), None):
            raise UserError(
                f"{path} names {strange}, but {name} has {len(place)} training examples, {examples.ids[0]} to "
                f"{examples.ids[-1]}; check that the list belongs to this data set, or {_REMEDY}."
            )
        found[subset] = np.sort([place[i] for i in ids])

    num_classes = len(examples.class_names)
    counts = {subset: np.bincount(examples.labels[rows], minlength=num_classes) for subset, rows in found.items()}
    _check_long_tail(files["long_tail"], counts["long_tail"], name, n_max, imbalance)
    each = counts["long_tail"].sum() // num_classes
    for subset, right, said in (
        # Lists of older versions of this project have one image more in some classes.
        ("balanced", {each, each + 1}, f"{each}, the mean of the long tail, or {each + 1}"),
        ("few_shot", {counts["few_shot"][0]}, "the same number of each"),
    ):
        if counts[subset].min() < 1 or not set(counts[subset].tolist()) <= right:
            raise UserError(
                f"{files[subset]} has {counts[subset].min()} to {counts[subset].max()} images a class of {name} and "
                f"not {said}; it belongs to another data set or split: {_REMEDY}."
            )
    for subset in ("probe_train", "validation"):
        if missing := np.flatnonzero(counts[subset] == 0).tolist():
            raise UserError(
                f"{files[subset]} has no image of class {missing[0]} of {name}; it belongs to another data set: "
                f"{_REMEDY}."
            )
    for subset in found.keys() - {"validation"}:
        if len(both := np.intersect1d(found[subset], found["validation"])):
            raise UserError(
                f"{files[subset]} and {files['validation']} share {len(both)} examples, such as "
                f"{examples.ids[both[0]]}, so validation would be on images trained on; {_REMEDY}."
            )
    class_order = np.argsort(-counts["long_tail"], kind="stable")
    return longtail.Subsets(**found, class_order=class_order, train_counts=counts["long_tail"])


def _check_long_tail(path: pathlib.Path, counts: np.ndarray, name: str, n_max: int, imbalance: float) -> None:
    found, expected = np.sort(counts)[::-1], longtail.class_counts(n_max, imbalance, len(counts))
    if different := np.flatnonzero(found != expected).tolist():
        k = different[0]
        raise UserError(
            f"{path} has {found[k]} images of the class of {name} that is number {k} by frequency, from 0, where "
            f"n_max {n_max} and imbalance {imbalance:g} give {expected[k]}; check that the list belongs to this data "
            "set and those two numbers to the list."
        )
