"""Lists with a `path label` on each line, as published for ImageNet-LT, ImageNet-100-LT, Places-LT and iNaturalist.

They are joined with a data set on the examples' ids, see `_join`, and their labels are checked against it: the
numbering of the lists may be another one, but must be one to one. Lists may name fewer classes than the data set has;
then the others are left out. Subsets without a list are drawn by our own rule from what is left, and that is said.

Lists of one's own are named after the subset, such as `few_shot.txt`, and may also hold an id a line, without labels.
"""

import logging
import os
import pathlib
import re
from collections import Counter
from collections.abc import Collection
from typing import NamedTuple

import numpy as np

from sdclr_jax.data.examples import Examples
from sdclr_jax.data.subsets import lists, longtail
from sdclr_jax.data.targets import are_attributes
from sdclr_jax.errors import ArgumentError, UserError, first_ones, printable
from sdclr_jax.files import copied

SUBSETS = ("long_tail", "balanced", "few_shot", "probe_train", "validation", "test")
# (data set, profile) -> subset -> file. ImageNet and Places: Liu et al., https://github.com/zhmiao/
# OpenLongTailRecognition-OLTR; the rest: Jiang et al., https://github.com/VITA-Group/SDCLR, folder split.
_PUBLISHED = {
    ("imagenet100", "pareto"): {
        "long_tail": "imageNet_100_LT_train.txt",
        "balanced": "imageNet_100_BL_train.txt",
        "few_shot": "imageNet_100_sub_balance_train_0.01.txt",
        "probe_train": "ImageNet_100_train.txt",
        "validation": "ImageNet_100_val.txt",
        "test": "ImageNet_100_test.txt",
    },
    ("imagenet", "pareto"): {
        "long_tail": "ImageNet_LT_train.txt",
        "few_shot": "imageNet_sub_balance_train_0.01.txt",
        "probe_train": "ImageNet_train.txt",
        "validation": "ImageNet_LT_val.txt",
        "test": "ImageNet_LT_test.txt",
    },
    ("imagenet", "exponential"): {
        "long_tail": "imageNet_LT_exp_train.txt",
        "balanced": "imageNet_BL_exp_train.txt",
        "few_shot": "imageNet_sub_balance_train_0.01.txt",
        "probe_train": "ImageNet_train.txt",
        "validation": "ImageNet_LT_val.txt",
        "test": "ImageNet_LT_test.txt",
    },
    ("places365", "pareto"): {
        "long_tail": "Places_LT_train.txt",
        "validation": "Places_LT_val.txt",
        "test": "Places_LT_test.txt",
    },
    ("inaturalist2018", "as_is"): {"long_tail": "iNaturalist18_train.txt", "test": "iNaturalist18_val.txt"},
}
LOG = logging.getLogger(__name__)
_REMEDY = "check that the list belongs to this data set, or get it again"


class Given(NamedTuple):
    """A data set as lists tell it."""

    train: Examples
    test: Examples
    subsets: longtail.Subsets
    origins: dict[str, str]  # subset -> file of its list, or how it came about without


def find(folder: str | os.PathLike, name: str, profile: str) -> dict[str, pathlib.Path]:
    """The lists of a data set in a folder, by subset; nothing in them is read. Where a subset has none, other texts in
    the folder are named in a warning: one of them may be meant.

    Raises:
        ArgumentError: no such folder, no list in it, or two for one subset.
    """
    folder = copied(folder)
    if not os.path.isdir(folder):
        raise ArgumentError("folder", f"is {folder}, which is no folder: give the folder of the lists")
    there: dict[str, list[pathlib.Path]] = {}  # names in small letters, as people change them
    for path in sorted(folder.iterdir()):
        if not path.is_dir():
            there.setdefault(path.name.lower(), []).append(path)
    published = _PUBLISHED.get((name, profile), {})
    files = {}
    for subset in SUBSETS:
        names = dict.fromkeys((published.get(subset, f"{subset}.txt"), f"{subset}.txt"))
        found = [path for file in dict.fromkeys(map(str.lower, names)) for path in there.get(file, [])]
        if len(found) > 1:
            raise ArgumentError(
                "folder", f"is {folder}, which holds both {found[0].name} and {found[1].name}: keep one"
            )
        if found:
            files[subset] = found[0]
    if not files:
        raise ArgumentError(
            "folder",
            f"is {folder}, which holds no list of {name} with the profile {profile!r}: put there any of "
            f"{', '.join(published.get(subset, f'{subset}.txt') for subset in SUBSETS)}",
        )
    drawn = [subset for subset in published or SUBSETS if subset not in files]
    texts = [path.name for name in there for path in there[name] if name.endswith(".txt")]
    unused = [name for name in texts if name not in {path.name for path in files.values()}]
    if drawn and unused:
        LOG.warning(
            "%s: no list for %s, whose images our own rule gives; not read: %s; if one of these is meant, rename it, "
            "such as to %s, or give its data.profile",
            folder,
            ", ".join(drawn),
            first_ones([printable(name) for name in unused], 5),
            published.get(drawn[0], f"{drawn[0]}.txt"),
        )
    return files


def read(
    files: dict[str, pathlib.Path],
    train: Examples,
    test: Examples,
    *,
    name: str,
    validation_per_class: int,
    few_shot_per_class: int,
    seed: int,
    profile: str,
    **counts,
) -> Given:
    """Read all lists, see that they belong to the data set and to each other, and draw what is not in them.

    Args:
        files: see `find`.
        train, test: all examples; with classes.
        name: of the data set, for messages.
        validation_per_class, few_shot_per_class, seed, profile, counts: see `longtail.draw`.

    Raises:
        UserError: names the file, what is wrong with it, and the remedy.
    """
    if are_attributes(train.labels) or not train.class_names:
        raise ArgumentError("files", f"are given, but the images of {name} have no classes: go without lists")
    rows, numbering = {}, _Numbering(train.class_names)
    for subset, path in files.items():
        examples = test if subset == "test" else train
        names, labels = _lines(path, set(examples.ids.tolist()))
        rows[subset] = _join(path, names, examples.ids, name)
        numbering.add(path, labels, examples.labels[rows[subset]], names)

    train, rows = _of_classes(train, numbering.classes, rows, [subset for subset in rows if subset != "test"])
    test, rows = _of_classes(test, numbering.classes, rows, [subset for subset in rows if subset == "test"])
    if "test" in rows:
        test = test.take(rows.pop("test"))
        _check_classes(files["test"], test.labels, test.class_names)
    origins = {subset: files[subset].name if subset in files else "drawn" for subset in SUBSETS}
    if "test" not in files:
        origins["test"] = "all test images of these classes"
    if "validation" not in files and train.held_out is not None:
        rows["validation"], origins["validation"] = np.flatnonzero(train.held_out), "the data set's own"
    _check_apart({subset: files.get(subset, origin) for subset, origin in origins.items()}, rows, train)

    num_classes = len(train.class_names)
    validation = rows.get("validation")
    if validation is None:
        validation = _validation(train, rows, validation_per_class, seed, profile)
        if len(np.intersect1d(validation, rows.get("long_tail", []))):
            rows["long_tail"] = np.setdiff1d(rows["long_tail"], validation)
            origins["long_tail"] += ", but for validation"
    held_out = np.zeros(len(train.ids), bool)
    held_out[validation] = True
    options = {
        "num_classes": num_classes,
        "validation_per_class": validation_per_class,
        "few_shot_per_class": few_shot_per_class,
        "seed": seed,
        "held_out": held_out,
    }
    # Where the long tail is given, the rest is drawn as for a data set that is what it is.
    drawn = longtail.draw(
        train.labels, **options, **counts, profile="as_is" if "long_tail" in rows else profile
    )._asdict() | {"validation": validation}
    long_tail = rows.get("long_tail", drawn["long_tail"])
    train_counts = np.bincount(train.labels[long_tail], minlength=num_classes)
    if "long_tail" in rows:
        _check_long_tail(files["long_tail"], train, train_counts, profile, **counts)
        if "balanced" not in rows:
            wanted = np.full(num_classes, len(long_tail) // num_classes)
            drawn["balanced"] = longtail.first_of_classes(train.labels, ~held_out, wanted, seed)
    subsets = {subset: rows.get(subset, drawn[subset]) for subset in SUBSETS if subset != "test"}
    class_order = np.argsort(-train_counts, kind="stable")
    return Given(train, test, longtail.Subsets(**subsets, class_order=class_order, train_counts=train_counts), origins)


def _lines(path: pathlib.Path, ids: set[str]) -> tuple[list[str], list[int] | None]:
    """Names and labels of a list; no labels where a line is an id as it stands, as then all must be."""
    lines = lists.read(path)
    if any(line in ids for line in lines):
        return lines, None
    pairs = [line.rsplit(maxsplit=1) for line in lines]
    for pair in pairs:
        if len(pair) != 2 or not (pair[1].isascii() and pair[1].isdigit() and len(pair[1]) < 10):
            raise UserError(f"{path} has the line {' '.join(pair)!r}, which is no `path label`; {_REMEDY}.")
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        twice = Counter(names).most_common(1)[0][0]
        raise UserError(f"{path} names {twice} more than once; {_REMEDY}.")
    return names, [int(label) for _, label in pairs]


def _join(path: pathlib.Path, names: list[str], ids: np.ndarray, data_set: str) -> np.ndarray:
    """Rows of the examples with these names, ascending.

    A list's path is an example's id, or ends in one (`train/n01/n01_5.JPEG` for the file name of tfds), or, where no
    two examples share a file name, has its file name without the ending. Lists of Places have its class and file name
    (`train/bow_window-indoor/5.jpg` for `data_256/b/bow_window/indoor/5.jpg`).
    """
    place = {i.lstrip("/"): row for row, i in enumerate(ids.tolist())}
    for dropped in range(names[0].count("/") + 1):
        keys = [name.split("/", dropped)[-1] for name in names]
        if keys[0] in place:
            break
    else:
        for key in (_stem, _class_and_file):
            place, keys = {key(i): row for row, i in enumerate(ids.tolist())}, list(map(key, names))
            if len(place) == len(ids) and keys[0] in place:
                break
        else:
            place = {}
    if strange := next((name for name, key in zip(names, keys, strict=True) if key not in place), None):
        between = f", {ids[0]} to {ids[-1]}" if len(ids) else ""
        raise UserError(
            f"{path} names {strange}, which is none of the {len(ids)} images of {data_set}{between}; {_REMEDY}."
        )
    rows = [place[key] for key in keys]
    if len(set(rows)) < len(rows):
        first = {}
        one, other = next((first[r], n) for r, n in zip(rows, names, strict=True) if first.setdefault(r, n) != n)
        raise UserError(f"{path} names one image twice, as {one} and {other}; {_REMEDY}.")
    return np.array(rows, np.int64)


def _stem(path: str) -> str:
    return pathlib.PurePosixPath(path).stem


def _class_and_file(path: str) -> str:
    """The end of a path as it is where Places has a directory a class, for paths of both of its layouts.

    >>> _class_and_file("data_256/b/bow_window/indoor/5.jpg"), _class_and_file("train/bow_window-indoor/5.jpg")
    ('bow_window-indoor/5.jpg', 'bow_window-indoor/5.jpg')
    """
    nested = re.search(r"(?:^|/)([a-z])/(\1.*)/([^/]*)$", path)
    ending = re.search(r"^(?:train|val)/([^/]+/[^/]+)$", path)
    return f"{nested[2].replace('/', '-')}/{nested[3]}" if nested else ending[1] if ending else path


class _Numbering:
    """Which label of the lists is which class: one to one, over all lists."""

    def __init__(self, class_names: tuple[str, ...]):
        self._names, self._class, self._label, self._unlabelled = class_names, {}, {}, set()

    def add(self, path: pathlib.Path, labels: list[int] | None, classes: np.ndarray, names: list[str]) -> None:
        if labels is None:
            self._unlabelled |= set(classes.tolist())
            return
        for label, c, name in zip(labels, classes.tolist(), names, strict=True):
            if self._class.setdefault(label, c) != c:
                said = (
                    f"is of the class {self._names[c]} with label {label}, which is {self._names[self._class[label]]}"
                )
            elif self._label.setdefault(c, label) != label:
                said = f"is of the class {self._names[c]} with label {label}, which was {self._label[c]} before"
            else:
                continue
            raise UserError(f"{path} says that {name} {said}; {_REMEDY}.")

    @property
    def classes(self) -> np.ndarray:
        """Those that lists name, ascending."""
        return np.array(sorted(self._label.keys() | self._unlabelled), np.int64)


def _of_classes(
    examples: Examples, classes: np.ndarray, rows: dict[str, np.ndarray], subsets: list[str]
) -> tuple[Examples, dict[str, np.ndarray]]:
    """The examples of these classes alone, numbered again, and the rows of these subsets among them, ascending."""
    kept = np.isin(examples.labels, classes)
    new_row, new_label = np.cumsum(kept) - 1, np.full(len(examples.class_names), -1, np.int32)
    new_label[classes] = np.arange(len(classes))
    names = tuple(examples.class_names[c] for c in classes)
    few = examples.take(kept)
    few = few._replace(labels=new_label[few.labels], class_names=names)
    return few, rows | {subset: np.sort(new_row[rows[subset]]) for subset in subsets}


def _check_apart(named: dict[str, object], rows: dict[str, np.ndarray], train: Examples) -> None:
    for subset in rows.keys() - {"validation"}:
        if len(both := np.intersect1d(rows[subset], rows.get("validation", []))):
            raise UserError(
                f"{named[subset]} and validation, {named['validation']}, share {len(both)} images, such as "
                f"{train.ids[int(both[0])]}, so validation would be on images trained on; {_REMEDY}."
            )
    for subset in rows:
        _check_classes(named[subset], train.labels[rows[subset]], train.class_names)


def _check_classes(named: object, labels: np.ndarray, class_names: tuple[str, ...]) -> None:
    if missing := np.flatnonzero(np.bincount(labels, minlength=len(class_names)) == 0).tolist():
        raise UserError(f"{named} has no image of {class_names[missing[0]]}; {_REMEDY}.")


def _validation(train: Examples, rows: dict[str, np.ndarray], per_class: int, seed: int, profile: str) -> np.ndarray:
    """Images for validation out of those that no list trains on. Where a long tail 'as_is' leaves too few, as that of
    iNaturalist, which names all images, they are taken out of it, as without lists."""
    sizes = np.bincount(train.labels, minlength=len(train.class_names))
    wanted = np.minimum(per_class, sizes // 5) if profile == "as_is" else np.full(len(sizes), per_class)

    def free_but_for(given: Collection[str]) -> tuple[np.ndarray, np.ndarray]:
        free = np.ones(len(train.ids), bool)
        for subset in given:
            free[rows[subset]] = False
        return free, np.bincount(train.labels[free], minlength=len(sizes))

    free, left = free_but_for(rows.keys())
    if profile == "as_is" and left.sum() < wanted.sum():
        free, left = free_but_for(rows.keys() - {"long_tail"})
    if not left.any():
        raise ArgumentError("files", "leave no image for validation: add a list validation.txt")
    return longtail.first_of_classes(train.labels, free, np.minimum(wanted, left), seed)


def _check_long_tail(
    path: pathlib.Path, train: Examples, counts: np.ndarray, profile: str, n_max: int, imbalance: float, **_
) -> None:
    """Published long tails are random draws or clipped by small classes, so only their ends are known."""
    least = n_max / imbalance
    if profile != "as_is" and not (counts.max() == n_max and int(least) <= counts.min() <= 2 * least):
        raise UserError(
            f"{path} has {counts.max()} images of {train.class_names[np.argmax(counts)]} and {counts.min()} of "
            f"{train.class_names[np.argmin(counts)]}, where n_max {n_max} and imbalance {imbalance:g} give {n_max} and "
            f"{least:g}; check that the list belongs to this data set and those two numbers to the list."
        )
