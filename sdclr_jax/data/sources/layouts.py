"""How a folder of images says which split and class each of them belongs to: by its directories, or by a manifest.

Directories named `train`, and `val` or `test`, at the top are splits, and hold either images or one directory a class.
A manifest is a CSV file with a column `path`, relative to the folder, and any of: `split`, with train, val or test;
`label`, with the class's name; or, without `label`, columns of 0 and 1 only, each an attribute.

With all three splits, the images of `val` are kept for validation; with `val` alone, they are the test images. Where
there are labels and no such split, a fifth of each class is drawn for testing.
"""

import csv
import hashlib
import pathlib
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from sdclr_jax.data.targets import are_attributes
from sdclr_jax.errors import UserError

TEST_SHARE = 0.2  # of each class, where test images have to be drawn
SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


class Table(NamedTuple):
    """Images by the code points of their paths."""

    paths: list[str]
    splits: list[str]  # train, val or test
    labels: np.ndarray  # as in Examples
    class_names: tuple[str, ...]
    drawn: bool = False  # whether the test images are


def from_directories(paths: list[str], root: pathlib.Path) -> Table:
    """The table that the directories tell.

    Raises:
        UserError: images both beside and in directories, or one class only.
    """
    tops = {path.split("/")[0] for path in paths if "/" in path}
    in_splits = "train" in tops and tops <= SPLITS.keys() and all("/" in path for path in paths)
    if {"train"} < tops & SPLITS.keys() and (others := sorted({path.split("/")[0] for path in paths} - SPLITS.keys())):
        held = sorted(tops & SPLITS.keys() - {"train"})[0]
        raise UserError(
            f"{root} has train and {held}, and {others[0]!r} besides: move that elsewhere, or into one of them."
        )
    splits = [SPLITS[path.split("/")[0]] if in_splits else "train" for path in paths]
    places = [path.split("/")[in_splits:] for path in paths]
    flat = [len(place) == 1 for place in places]
    if all(flat):
        return Table(paths, splits, np.full(len(paths), -1, np.int32), ())
    if any(flat):
        raise UserError(
            f"{root} has images both beside directories ({paths[flat.index(True)]!r}) and in them "
            f"({paths[flat.index(False)]!r}): move all into one directory a class, or all into one folder, or name "
            "them in a manifest."
        )
    return _labelled(paths, splits, [place[0] for place in places], f"{root} has the class directory")


def from_manifest(path: pathlib.Path, usable: Iterable[str], skipped: Iterable[str]) -> Table:
    """The table that a CSV file tells. Rows of skipped images are left out, and so are images without a row.

    Args:
        path: of the CSV file.
        usable, skipped: paths of the images that can be decoded and of those that cannot.

    Raises:
        UserError: names the file, the line and what is wrong with it.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True, restkey="")
            columns = [column or "" for column in reader.fieldnames or ()]
            lines = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"the manifest {path} cannot be read as CSV ({reason}); give a UTF-8 CSV file.") from error

    def refuse(number: int, what: str) -> UserError:
        return UserError(f"the manifest {path}, line {number}, {what}.")

    if "path" not in columns or len(set(columns)) < len(columns) or "" in columns:
        raise refuse(1, f"has the columns {columns}: there must be one named path, and each must have its own name")
    usable, skipped, found = set(usable), set(skipped), {}
    for number, row in lines:
        name = row["path"]
        if None in row.values() or "" in row:
            raise refuse(number, f"does not have {len(columns)} fields: give each line one field a column")
        if pathlib.PurePosixPath(name).is_absolute() or ".." in name.split("/"):
            raise refuse(number, f"names {name!r}, which leads out of the folder: give paths relative to the folder")
        name = str(pathlib.PurePosixPath(name))
        if name in found:
            raise refuse(number, f"names {name!r} a second time: keep one of the lines")
        if name not in usable and name not in skipped:
            raise refuse(
                number, f"names {name!r}, which is no image in the folder: correct the path, or leave the line out"
            )
        found[name] = number, row
    names = sorted(name for name in found if name in usable)
    if not names:
        raise UserError(f"the manifest {path} names no usable image; list the images of the folder in it.")

    splits = []
    for number, row in (found[name] for name in names):
        split = row.get("split", "train").strip().lower()
        if split not in SPLITS:
            raise refuse(number, f"has the split {row['split']!r}: write train, val or test")
        splits.append(SPLITS[split])

    if "label" in columns:
        for number, row in (found[name] for name in names):
            if not row["label"].strip():
                raise refuse(number, "has no label: fill it in, or remove the column label")
        labels = [found[name][1]["label"].strip() for name in names]
        return _labelled(names, splits, labels, f"the manifest {path} has the class")
    attributes = [column for column in columns if column not in ("path", "split")]
    if not attributes:
        return Table(names, splits, np.full(len(names), -1, np.int32), ())
    labels = np.zeros((len(names), len(attributes)), np.uint8)
    for i, (number, row) in enumerate(found[name] for name in names):
        for a, column in enumerate(attributes):
            if row[column].strip() not in ("0", "1"):
                raise refuse(
                    number, f"has {row[column]!r} for {column}: without a column label, all others must be 0 or 1"
                )
            labels[i, a] = int(row[column])
    return Table(names, splits, labels, tuple(attributes))


def _labelled(paths: list[str], splits: list[str], labels: list[str], where: str) -> Table:
    names = sorted(set(labels))
    if len(names) == 1:
        raise UserError(
            f"{where} {names[0]!r} only, and telling classes apart takes two: add another, or give the images without "
            "classes, flat in one folder, to train without labels."
        )
    number = {name: i for i, name in enumerate(names)}
    return Table(paths, splits, np.array([number[label] for label in labels], np.int32), tuple(names))


def with_test(table: Table, seed: int) -> Table:
    """The table with its test images: those it has, or else its `val`, or else, if labelled, a share of each class.

    Drawn are the images whose hash with the seed is lowest, so that an image added later changes little. A class of
    one image keeps it for training.

    Raises:
        UserError: no image is left to train on, or a class has none.
    """
    splits, names = set(table.splits), table.class_names
    if "test" not in splits and "val" in splits:
        table = table._replace(splits=["test" if split == "val" else split for split in table.splits])
    elif splits == {"train"} and names:
        groups = defaultdict(list)
        for i, path in enumerate(table.paths):
            key = hashlib.sha256(f"{seed}/{path}".encode()).digest()
            groups[0 if are_attributes(table.labels) else int(table.labels[i])].append((key, i))
        drawn = {
            i
            for group in groups.values()
            for _, i in sorted(group)[: max(int(TEST_SHARE * len(group)), min(len(group) - 1, 1))]
        }
        table = table._replace(splits=["test" if i in drawn else "train" for i in range(len(table.paths))], drawn=True)
    if names and not are_attributes(table.labels):
        trained = Counter(
            label for label, split in zip(table.labels.tolist(), table.splits, strict=True) if split == "train"
        )
        if missing := [name for c, name in enumerate(names) if not trained[c]]:
            raise UserError(
                f"The class {missing[0]!r} has no image to train on: put some into train, or remove it from the others."
            )
    if "train" not in table.splits:
        raise UserError("All images are for validation or testing: put some into train.")
    return table
