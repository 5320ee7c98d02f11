"""The large published data sets of one class an image, as their publishers pack them or as tfds has prepared them.

From a folder, `root`, nothing is opened: the directories, or the publisher's lists, say which images there are.
"""

import json
import os
import pathlib
from typing import Any, NamedTuple

import numpy as np

from sdclr_jax.data.examples import Examples
from sdclr_jax.data.images import Files
from sdclr_jax.data.sources import index, records
from sdclr_jax.errors import ArgumentError, UserError
from sdclr_jax.files import on_disk


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
        self._root = pathlib.Path(os.path.abspath(on_disk(root, "the files of a data set are read"))) if root else None

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
        if not self._root.is_dir():
            raise ArgumentError("root", f"is {self._root}, which is no folder: give the folder of {self._name}")
        for directory in where.directories:
            if (self._root / directory).is_dir():
                return _from_directories(self._root, directory)
        if where.list and (self._root / where.list).is_file():
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
        names = sorted(e.name for e in os.scandir(folder) if e.is_dir() and not e.name.startswith("."))
        found = [
            (f"{directory}/{name}/{entry.name}", c)
            for c, name in enumerate(names)
            for entry in os.scandir(folder / name)
            if index.is_image_name(entry.name)
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
        raise UserError(f"{folder / names[empty[0]]} holds no image; unpack that class again.")
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
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        where = getattr(error, "filename", None) or path
        reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        raise UserError(f"{where} cannot be read as a list of images ({reason}); get it again.") from error
    if sorted(names) != list(range(layout.classes)) or not {c for _, c in found} <= names.keys():
        raise UserError(f"{path} is not of {layout.classes} classes, 0 to {layout.classes - 1}; get it again.")
    examples = _examples(root, found, tuple(names[c] for c in range(layout.classes)))
    # A look at a few: half a million would take minutes on a disk far away.
    for row in np.linspace(0, len(found) - 1, 100).astype(int):
        if not (root / examples.ids[row]).is_file():
            raise UserError(f"{path} names {examples.ids[row]}, which is not in {root}; put the images there.")
    return examples


def _pairs(path: pathlib.Path) -> list[tuple[str, int]]:
    """The lines `name label` of a file."""
    lines = (line.rsplit(maxsplit=1) for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    return [(name, int(label)) for name, label in lines]


def _from_json(path: pathlib.Path) -> tuple[list[tuple[str, int]], dict[int, str]]:
    """As iNaturalist publishes it (https://github.com/visipedia/inat_comp/tree/master/2018): files and labels, and the
    classes' names, which are numbers."""
    content = json.loads(path.read_bytes())
    labels = {annotation["image_id"]: int(annotation["category_id"]) for annotation in content["annotations"]}
    names = {int(category["id"]): str(category["name"]) for category in content["categories"]}
    return [(image["file_name"], labels[image["id"]]) for image in content["images"]], names


def _examples(root: pathlib.Path, found: list[tuple[str, int]], class_names: tuple[str, ...]) -> Examples:
    ids, labels = np.array([path for path, _ in found], str), np.array([label for _, label in found], np.int32)
    order = np.argsort(ids, kind="stable")
    ids = ids[order]
    if len(twice := ids[1:][ids[1:] == ids[:-1]]):
        raise UserError(f"The list of images in {root} names {twice[0]} twice; get it again.")
    return Examples(Files(root, ids), labels[order], ids, class_names, folder=root)
