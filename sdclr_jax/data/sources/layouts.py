"""How the directories of a folder of images say which split and class each of them belongs to.

Directories at the top whose names say `train`, and `val` or `test`, as people write them, are splits, and hold either
images or one directory a class. All other directories at the top are classes.

With all three splits, the images of `val` are kept for validation; with `val` alone, they are the test images. Where
there are labels and no such split, a fifth of each class is drawn for testing.
"""

import hashlib
import pathlib
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable
from decimal import Decimal
from typing import NamedTuple

import numpy as np

from sdclr_jax.data.targets import are_attributes
from sdclr_jax.errors import ArgumentError, UserError, first_ones

TEST_SHARE = 0.2  # of each class, where test images have to be drawn
CLASS_ORDERS = ("natural", "text")  # how names of classes are sorted: 2 before 10, or by their characters
_SPLITS = {
    "train": ("train", "training", "trn", "learn", "learning"),
    "val": (
        "val",
        "valid",
        "validate",
        "validation",
        "validating",
        "dev",
        "devel",
        "development",
        "eval",
        "evaluation",
    ),
    "test": ("test", "testing", "tst", "holdout", "heldout"),
}
_SPLIT_OF = {word: split for split, words in _SPLITS.items() for word in words}
# What stands around such a word: `01_Train`, `train-set`, `test_images`, `val2017`. No text may be made of the repeated
# parts in two ways, such as digits of more digits: the search through all of them would not end in a person's life.
_AROUND = re.compile(r"^(?:\d+)?(.*?)(?:set|sets|data|split|images|image|imgs|img|pictures|photos|\d)*$")
_LONGEST = 100  # characters of such a name; the search takes time with their square


class Table(NamedTuple):
    """Images by the code points of their paths."""

    paths: list[str]
    splits: list[str]  # train, val or test
    labels: np.ndarray  # as in Examples
    class_names: tuple[str, ...]
    drawn: bool = False  # whether the test images are
    notes: tuple[str, ...] = ()  # sentences on what could be meant in another way
    columns: dict[str, str] = {}  # of a manifest: column -> what it was used for, '' where it was not


def split_of(name: str) -> str | None:
    """The split that a name stands for: train, val or test, in any case and as people write them; None for no split.

    >>> [split_of(name) for name in ("Train", "test_images", "val2017", "dev-set", "cat", "contest")]
    ['train', 'test', 'val', 'val', None, None]
    """
    words = re.sub(r"[\W_]+", "", name.strip().casefold())
    match = _AROUND.match(words) if len(words) <= _LONGEST else None
    return _SPLIT_OF.get(words) or _SPLIT_OF.get(match[1] if match else "")


class Splits(NamedTuple):
    """What the directories at the top say of splits."""

    of_paths: list[str]  # train, val or test
    are_told: bool  # whether these directories are splits; if not, all images are in `train`
    notes: tuple[str, ...] = ()  # as in Table


def splits_from_directories(paths: list[str], root: pathlib.Path) -> Splits:
    """The split of each image, whatever is said of its class.

    Raises:
        UserError: it cannot be said whether directories are splits; or none of them is `train`, or two are one split.
    """
    tops = {path.split("/")[0] for path in paths if "/" in path}
    split_by_top = {top: split for top in sorted(tops) if (split := split_of(top))}
    others = sorted({path.split("/")[0] for path in paths} - split_by_top.keys())
    notes = ()
    # `train` is a vehicle, too: alone among names that are no splits, it is a class.
    if others and split_by_top and {top.casefold() for top in split_by_top} != {"train"}:
        held = " and ".join(split_by_top)
        raise UserError(
            f"{root} has {held}, and {others[0]!r} beside them: move that elsewhere, or into one of them; what is "
            "trained on belongs into train."
        )
    if others and split_by_top:
        notes = (f"The directory {next(iter(split_by_top))!r} is taken for a class, as the others are no splits.",)
    in_splits = bool(split_by_top) and not others
    if in_splits:
        of_split = defaultdict(list)
        for top, split in split_by_top.items():
            of_split[split].append(top)
        if twice := next((found for found in of_split.values() if len(found) > 1), None):
            raise UserError(f"{root} has both {twice[0]} and {twice[1]}, which stand for one split: put them together")
        if "train" not in of_split:
            raise UserError(f"{root} has {' and '.join(split_by_top)} and no train: put images to train on into train")
    return Splits([split_by_top[path.split("/")[0]] if in_splits else "train" for path in paths], in_splits, notes)


def from_directories(paths: list[str], root: pathlib.Path, class_order: str = "natural") -> Table:
    """The table that the directories tell.

    Raises:
        UserError: as `splits_from_directories`; or images both beside and in directories, one class only, or
            directories that hold the same ones.
    """
    splits, in_splits, notes = splits_from_directories(paths, root)
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
    if not in_splits:
        _check_no_splits(paths, root)
    labels = [place[0] for place in places]
    return labelled(paths, splits, labels, f"{root} has the class directory", class_order)._replace(notes=notes)


def _check_no_splits(paths: list[str], root: pathlib.Path) -> None:
    """Refuse top directories that hold the same sub-directories: more likely the classes of splits than of a class."""
    below, alone = defaultdict(set), set()
    for path in paths:
        top, *middle, _ = path.split("/")
        if middle:
            below[top].add(middle[0])
        else:
            alone.add(top)
    tops_of = defaultdict(list)
    for top in sorted(below.keys() - alone):
        for name in below[top]:
            tops_of[name].append(top)
    shared = {name for name, tops in tops_of.items() if len(tops) > 1}
    common = {top: below[top] & shared for top in sorted(below.keys() - alone)}
    alike = [top for top, names in common.items() if len(names) > 1 and 2 * len(names) >= len(below[top])]
    if len(alike) > 1:
        names = sorted(common[alike[0]])
        raise UserError(
            f"{root} has {alike[0]!r} and {alike[1]!r}, which hold the same directories ({names[0]!r}, {names[1]!r}): "
            "if they are splits, name them train, val and test; if they are classes, name the images in a manifest"
        )


def labelled(paths: list[str], splits: list[str], labels: list[str], where: str, class_order: str) -> Table:
    """The table of images with one class each.

    Args:
        paths, splits: of the table.
        labels: the name of each image's class.
        where: the beginning of a sentence on a class.
        class_order: of CLASS_ORDERS.

    Raises:
        UserError: one class only, or two names that are most likely one class.
    """
    if class_order not in CLASS_ORDERS:
        raise ArgumentError("class_order", f"is {class_order!r}: known are {', '.join(CLASS_ORDERS)}")
    names = sorted(set(labels), key=_natural if class_order == "natural" else None)
    if len(names) == 1:
        raise UserError(
            f"{where} {names[0]!r} only, and telling classes apart takes two: add another, or give the images without "
            "classes, flat in one folder, to train without labels."
        )
    alike = {}
    for name in names:
        if (other := alike.setdefault(_alike(name), name)) != name:
            raise UserError(f"{where} {other!r} and {name!r}, which are most likely one: write them alike.")
    number = {name: i for i, name in enumerate(names)}
    return Table(paths, splits, np.array([number[label] for label in labels], np.int32), tuple(names))


def _natural(name: str) -> tuple:
    """For sorting by the numbers in names; names of equal numbers, such as 1 and 01, by their characters.
    `int` refuses more than 4,300 digits, and a manifest may have them."""
    parts = re.split(r"(^-?[0-9]+|[0-9]+)", name)
    return [(Decimal(part), "") if i % 2 else (-1, part) for i, part in enumerate(parts)], name


def _alike(name: str) -> str:
    """What is equal for names that a person means as one: other case, composed characters, 0 and 0.0."""
    text = " ".join(unicodedata.normalize("NFC", name).casefold().split())
    return re.sub(r"^\+?(-?[0-9]+)\.0*$", r"\1", text)


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
        drawn = ", and validation images are drawn from train" if names else ""
        table = table._replace(notes=(*table.notes, f"There is no test: the images of val are the test images{drawn}."))
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
        trained, tested = (_counts(table, (split,)) for split in ("train", "test"))
        if missing := [name for c, name in enumerate(names) if not trained[c]]:
            raise UserError(
                f"The class {missing[0]!r} has no image to train on: put some into train, or remove it from the others."
            )
        if untested := [name for c, name in enumerate(names) if not tested[c]]:
            said = f"The class {untested[0]!r} has" if len(untested) == 1 else f"{_classes(untested)} have"
            note = f"{said} no test image, and so no score; means are over the other classes."
            table = table._replace(notes=(*table.notes, note))
    if "train" not in table.splits:
        raise UserError("All images are for validation or testing: put some into train.")
    return table


def _counts(table: Table, splits: Iterable[str]) -> Counter:
    """Images of each class in these splits."""
    return Counter(c for c, split in zip(table.labels.tolist(), table.splits, strict=True) if split in splits)


def _classes(names: list[str]) -> str:
    return f"The classes {first_ones([repr(name) for name in names], 3)}"
