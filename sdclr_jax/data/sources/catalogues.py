"""The large published data sets of one class an image, as their publishers pack them or as tfds has prepared them.

From a folder, `root`, nothing is opened: the directories, or the publisher's lists, say which images there are.
"""

import json
import os
import pathlib
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from sdclr_jax import files
from sdclr_jax.data.examples import Examples
from sdclr_jax.data.images import Files
from sdclr_jax.data.sources import index, records
from sdclr_jax.errors import ArgumentError, UserError
from sdclr_jax.files import on_disk

_LARGEST = 2**32  # bytes of a list


class Split(NamedTuple):
    """Where a split lies."""

    tfds: str  # its name there
    directories: tuple[str, ...]  # each of which may hold a directory a class
    list: str = ""  # a file of `path label` lines, or of JSON with images and annotations
    prefix: str = ""  # in front of the list's paths


class Layout(NamedTuple):
    tfds: str  # the data set's name there
    classes: int
    train: Split
    test: Split  # what is published with labels and not for training
    class_list: str = ""  # a file of `class label` lines


_IMAGENET = Layout("imagenet2012", 1000, Split("train", ("train",)), Split("validation", ("val", "validation")))
CATALOGUES = {
    "imagenet": _IMAGENET,
    "imagenet100": _IMAGENET._replace(classes=100),
    "places365": Layout(
        "places365_small",
        365,
        Split("train", ("train",), "places365_train_standard.txt", "data_256"),
        Split("validation", ("val",), "places365_val.txt", "val_256"),
        class_list="categories_places365.txt",
    ),
    "inaturalist2018": Layout(
        "i_naturalist2018",
        8142,
        Split("train", (), "train2018.json"),
        Split("validation", (), "val2018.json"),
    ),
}


class Catalogue:
    """A key of CATALOGUES, from `root`, or, where that is empty, from what tfds has prepared in `data_dir`."""

    def __init__(self, name: str, data_dir: pathlib.Path, root: str = ""):
        self._name, self._layout, self._data_dir = name, CATALOGUES[name], data_dir
        self._root = pathlib.Path(os.path.abspath(on_disk(root, "data sets are read from"))) if root else None

    def prepare(
        self, archive: pathlib.Path | None = None, accept_checksum: str = "", progress: bool = False
    ) -> pathlib.Path:
        if archive or accept_checksum:
            raise UserError(f"{self._name} is used as it is; leave out --archive and --accept_checksum.")
        if not self._root:
            for split in (self._layout.train, self._layout.test):
                records.read(self._prepared(), split.tfds, progress)
        return self._root or self._prepared()

    def load(self, split: str) -> Examples:
        if split not in ("train", "test"):
            raise UserError(f"Split {split!r} is not in {self._name}; choose one of: train, test.")
        where = self._layout.train if split == "train" else self._layout.test
        if not self._root:
            return records.read(self._prepared(), where.tfds)
        if not os.path.isdir(self._root):
            raise ArgumentError("root", f"is {self._root}, which is no folder: give the folder of {self._name}")
        for directory in where.directories:
            if os.path.isdir(self._root / directory):
                return _from_directories(self._root, directory)
        if where.list and os.path.exists(self._root / where.list):
            return _from_list(self._root, where, self._layout)
        raise ArgumentError("root", f"is {self._root}, which holds no {split} images: {self._wanted(where)}")

    def provenance(self) -> dict[str, Any]:
        return {"root": str(self._root)} if self._root else {"tfds": str(self._prepared())}

    def _prepared(self) -> pathlib.Path:
        folder = records.find(self._data_dir, self._layout.tfds)
        if folder is None:
            raise ArgumentError(
                "root",
                f"is empty, and {self._name} is not prepared: give its folder ({self._wanted(self._layout.train)}), or "
                f"let tfds prepare {self._layout.tfds} in {self._data_dir} with file_format='array_record'",
            )
        return folder

    def _wanted(self, where: Split) -> str:
        ways = [f"put {where.directories[0]}/CLASS/IMAGE there"] if where.directories else []
        if where.list:
            ways.append(f"put {where.list} there, beside the images that it names")
        return " or ".join(ways)


def _from_directories(root: pathlib.Path, directory: str) -> Examples:
    """A split with a directory a class."""
    folder = root / directory
    try:
        names = sorted(e.name for e in os.scandir(folder) if e.is_dir() and not index.is_of_system(e.name))
        found = [
            (f"{directory}/{name}/{entry.name}", c)
            for c, name in enumerate(names)
            for entry in os.scandir(folder / name)
            if index.is_image_name(entry.name) and pathlib.PurePath(entry.name).suffix and not entry.is_dir()
        ]
    except OSError as error:
        raise UserError(
            f"{error.filename} cannot be read ({error.strerror}); check the folder of the data set."
        ) from error
    if not found:
        raise UserError(
            f"{folder} holds no directory of images a class; sort the images into one directory a class, as "
            f"{directory}/CLASS/IMAGE."
        )
    counts = np.bincount([c for _, c in found], minlength=len(names))
    if empty := np.flatnonzero(counts == 0).tolist():
        raise UserError(
            f"{folder / names[empty[0]]} holds no image; unpack that class again, with its images as "
            f"{directory}/CLASS/IMAGE."
        )
    return _examples(root, found, tuple(names))


def _from_list(root: pathlib.Path, split: Split, layout: Layout) -> Examples:
    """A split as the publisher's list names it."""
    path = root / split.list
    try:
        if path.suffix == ".json":
            found, names = _from_json(path)
        else:
            found = [(f"{split.prefix}/{name.lstrip('/')}", label) for name, label in _pairs(path)]
            names = {label: name.lstrip("/") for name, label in _pairs(root / layout.class_list)}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        where = getattr(error, "filename", None) or path
        reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {str(error)[:200]}"
        raise UserError(f"{where} cannot be read as a list of images ({reason}); get it again.") from error
    if sorted(names) != list(range(layout.classes)) or not {c for _, c in found} <= names.keys():
        raise UserError(f"{path} is not of {layout.classes} classes, 0 to {layout.classes - 1}; get it again.")
    if not found:
        raise UserError(f"{path} names no image; get it again.")
    _check_paths(path, [name for name, _ in found])
    _check_paths(path, names.values())
    examples = _examples(root, found, tuple(names[c] for c in range(layout.classes)))
    # A look at a few: half a million would take minutes on a disk far away.
    for row in np.linspace(0, len(found) - 1, 100).astype(int):
        if not os.path.isfile(root / examples.ids[row]):
            raise UserError(f"{path} names {examples.ids[row]}, which is not in {root}; put the images there.")
    return examples


def _pairs(path: pathlib.Path) -> list[tuple[str, int]]:
    """The lines `name label` of a file."""
    lines = (line.rsplit(maxsplit=1) for line in _text(path).split("\n") if line.strip())
    return [(name, _label(label)) for name, label in lines]


def _from_json(path: pathlib.Path) -> tuple[list[tuple[str, int]], dict[int, str]]:
    """As iNaturalist publishes it (https://github.com/visipedia/inat_comp/tree/master/2018): files and labels, and the
    classes' names, which are numbers."""
    content = json.loads(_text(path))
    annotations, categories, images = (_list(content, name) for name in ("annotations", "categories", "images"))
    labels = {annotation["image_id"]: _label(annotation["category_id"]) for annotation in annotations}
    names = {_label(category["id"]): str(category["name"]) for category in categories}
    return [(image["file_name"], labels[image["id"]]) for image in images], names


def _text(path: pathlib.Path) -> str:
    return files.read(path, _LARGEST).decode("utf-8-sig")


def _label(value: object) -> int:
    """A class, from JSON or from text."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10:
        return int(value)
    if type(value) is not int or not 0 <= value < 2**31:
        raise ValueError(f"{str(value)[:40]!r} is no number of a class")
    return value


def _list(content: object, name: str) -> list[dict[str, Any]]:
    """A list of objects that an object has."""
    if not isinstance(content, dict):
        raise TypeError("no object")
    found = content[name]
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        raise TypeError(f"{name} are no list of objects")
    return found


def _check_paths(path: pathlib.Path, names: Iterable[object]) -> None:
    """Refuse what is no path below the folder of the data set, or no text."""
    for name in names:
        parts = name.split("/") if isinstance(name, str) else [".."]
        if ".." in parts or not parts[0] or any(ord(c) < 32 or 0xD800 <= ord(c) < 0xE000 for c in name):
            raise UserError(f"{path} names {str(name)[:80]!r}, which is no path below its folder; get it again.")


def _examples(root: pathlib.Path, found: list[tuple[str, int]], class_names: tuple[str, ...]) -> Examples:
    ids, labels = np.array([path for path, _ in found], str), np.array([label for _, label in found], np.int32)
    order = np.argsort(ids, kind="stable")
    ids = ids[order]
    if len(twice := ids[1:][ids[1:] == ids[:-1]]):
        raise UserError(f"The list of images in {root} names {twice[0]} twice; get it again.")
    return Examples(Files(root, ids), labels[order], ids, class_names, folder=root)
