"""CelebA (Liu et al., Deep Learning Face Attributes in the Wild, ICCV 2015): 40 attributes of faces, from the published
files or as tfds has prepared it.
"""

import os
import pathlib
from typing import Any

import numpy as np

from sdclr_jax import files
from sdclr_jax.data.examples import Examples
from sdclr_jax.data.images import Files
from sdclr_jax.data.sources import records
from sdclr_jax.errors import ArgumentError, UserError
from sdclr_jax.files import on_disk

_IMAGES, _ATTRIBUTES, _PARTITION = "img_align_celeba", "list_attr_celeba.txt", "list_eval_partition.txt"
_LARGEST = 2**30  # bytes of a list
_SPLITS = {"0": "train", "1": "val", "2": "test"}


class CelebA:
    """From `root`, or, where that is empty, from what tfds has prepared in `data_dir`. The published validation images
    are held out of `train`."""

    def __init__(self, data_dir: pathlib.Path, root: str = ""):
        self._data_dir = data_dir
        self._root = pathlib.Path(os.path.abspath(on_disk(root, "data sets are read from"))) if root else None

    def prepare(
        self, archive: pathlib.Path | None = None, accept_checksum: str = "", progress: bool = False
    ) -> pathlib.Path:
        if archive or accept_checksum:
            raise UserError("CelebA is used as it is; leave out --archive and --accept_checksum.")
        if not self._root:
            for split in ("train", "validation", "test"):
                records.read(self._prepared(), split, progress)
        return self._root or self._prepared()

    def load(self, split: str) -> Examples:
        if split not in ("train", "test"):
            raise UserError(f"Split {split!r} is not in celeba; choose one of: train, test.")
        if self._root:
            return _from_files(self._root, split)
        return _from_tfds(self._prepared(), split)

    def provenance(self) -> dict[str, Any]:
        return {"root": str(self._root)} if self._root else {"tfds": str(self._prepared())}

    def _prepared(self) -> pathlib.Path:
        folder = records.find(self._data_dir, "celeb_a")
        if folder is None:
            raise ArgumentError(
                "root",
                f"is empty, and celeba is not prepared: give a folder with {_IMAGES}, {_ATTRIBUTES} and {_PARTITION}, "
                f"or let tfds prepare celeb_a in {self._data_dir} with file_format='array_record'",
            )
        return folder


def _from_tfds(folder: pathlib.Path, split: str) -> Examples:
    if split == "test":
        return records.read(folder, "test")
    train, validation = (records.read(folder, part) for part in ("train", "validation"))
    # Records without names are in the order of their places, and train_* is before validation_*.
    both = records.Records(folder, "train+validation", np.arange(len(train.ids) + len(validation.ids)))
    return Examples(
        both,
        np.concatenate([train.labels, validation.labels]),
        np.concatenate([train.ids, validation.ids]),
        train.class_names,
        held_out=np.arange(len(both)) >= len(train.ids),
    )


def _lines(path: pathlib.Path) -> list[str]:
    return files.read(path, _LARGEST).decode("utf-8-sig").splitlines()


def _from_files(root: pathlib.Path, split: str) -> Examples:
    try:
        _, heading, *lines = _lines(root / _ATTRIBUTES)
        partition = dict(line.split() for line in _lines(root / _PARTITION) if line.strip())
        names = tuple(heading.split())
        rows = sorted(line.split() for line in lines if line.strip())
        ids = np.array([row[0] for row in rows], str)
        values = np.array([row[1:] for row in rows], int)
        splits = np.array([_SPLITS[partition[name]] for name in ids.tolist()])
        if any("/" in name or "\0" in name for name in ids.tolist()):
            raise ValueError("a name of a file with a slash")
        if values.shape != (len(ids), len(names)) or not np.isin(values, (-1, 1)).all() or len(set(ids)) < len(ids):
            raise ValueError(f"not one line of {len(names)} attributes, -1 or 1, for each image")
    except (OSError, ValueError, KeyError, OverflowError) as error:
        where = getattr(error, "filename", None) or f"{root / _ATTRIBUTES} or {_PARTITION}"
        reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        raise UserError(
            f"{where} cannot be read ({reason}); give the folder with {_IMAGES}, {_ATTRIBUTES} and "
            f"{_PARTITION}, as published."
        ) from error
    rows = np.flatnonzero((splits == "test") == (split == "test"))
    for name in ids[rows[np.linspace(0, len(rows) - 1, min(100, len(rows))).astype(int)]]:  # a look at a few
        if not os.path.isfile(root / _IMAGES / name):
            raise UserError(f"{root / _IMAGES} does not hold {name}; unpack {_IMAGES}.zip in {root}.")
    held_out = (splits == "val")[rows] if split == "train" else None
    ids, labels, folder = ids[rows], (values[rows] > 0).astype(np.uint8), root / _IMAGES
    return Examples(Files(folder, ids), labels, ids, names, held_out, folder)
