"""Large data sets that tfds has prepared as array_record: images stay encoded until they are asked for.

TensorFlow is not needed. The ids and labels of all records are read once and kept beside the records, since they lie
among the images: a pass over ImageNet.
"""

import contextlib
import hashlib
import os
import pathlib
from typing import Any, NamedTuple

import numpy as np

from sdclr_jax import files
from sdclr_jax.data.examples import Examples
from sdclr_jax.data.images import Encoded, stamp_of
from sdclr_jax.data.sources import prepared
from sdclr_jax.data.targets import are_attributes
from sdclr_jax.errors import UserError, first_line
from sdclr_jax.progress import bar

_IDS = ("file_name", "filename", "id")  # of imagenet2012, places365_small, i_naturalist2018
_BATCH = 256  # records read at once


class Records(Encoded):
    """Images of a data set that tfds has prepared.

    Args:
        folder: of the data set: with its version, where dataset_info.json lies.
        split: of it, or several with a plus between.
        rows: int [N], places of the records.
    """

    def __init__(self, folder: pathlib.Path | str, split: str, rows: np.ndarray):
        self._folder, self._split, self._rows = str(folder), split, np.asarray(rows, np.int64)
        self._source = None  # opened by the process that reads first, for itself

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, rows: np.ndarray) -> "Records":
        return Records(self._folder, self._split, self._rows[rows])

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_source": None}

    def read(self, row: int) -> bytes:
        if self._source is None:
            self._source = _open(pathlib.Path(self._folder), self._split).source
        try:
            return self._source[int(self._rows[row])]["image"]
        except Exception as error:  # array_record and tfds raise a type of their own for each kind of damage
            raise OSError(f"{self.name(row)} cannot be read: {first_line(error)}") from error

    def name(self, row: int) -> str:
        return f"{self._folder}, {self._split} record {self._rows[row]}"

    def digest(self) -> str:
        """Where the folder lies is no part of it."""
        content = f"{self._split} {_shards(pathlib.Path(self._folder))}\n".encode()
        return hashlib.sha256(content + self._rows.tobytes()).hexdigest()


def _shards(folder: pathlib.Path) -> list[tuple[str, Any]]:
    """Names and stamps of the files with the records."""
    return [(path.name, stamp_of(path)) for path in sorted(folder.iterdir()) if ".array_record" in path.name]


def find(data_dir: pathlib.Path, name: str) -> pathlib.Path | None:
    """The folder of the newest version of a data set that tfds has prepared; None where there is none."""

    def version(folder: pathlib.Path) -> tuple[int, ...]:
        return tuple(int(part) for part in folder.name.split("."))

    if not os.path.isdir(data_dir / name):  # nor one whose name is too long, which glob would raise for
        return None
    folders = [info.parent for info in (data_dir / name).glob("*.*.*/dataset_info.json")]
    return max((folder for folder in folders if folder.name.replace(".", "").isdigit()), key=version, default=None)


def read(folder: pathlib.Path, split: str, progress: bool = False) -> Examples:
    """One split, sorted by id, or by place where the records have no name of their own.

    The class of an image is its feature `label`; where there is none, its attributes are those of `attributes`.

    Raises:
        UserError: no such split, or records that are damaged or need TensorFlow.
    """
    kept_path = folder / f"sdclr_{split}.npz"
    opened = _open(folder, split)
    shards = np.array([f"{name} {stamp}" for name, stamp in _shards(folder)])
    ids, labels, of = prepared.kept_arrays(kept_path, ("ids", "labels", "shards")) or (np.empty(0),) * 3
    whole = ids.ndim and ids.dtype.kind == "U" and labels.dtype.kind in "iu" and len(labels) == len(ids)
    if not (whole and len(ids) == len(opened.source) and np.array_equal(of, shards)):
        ids, labels = _all(folder, split, opened, progress)
        with contextlib.suppress(UserError), files.replacing(kept_path) as part:
            np.savez(part, ids=ids, labels=labels, shards=shards)
    order = np.argsort(ids, kind="stable")
    ids = ids[order]
    if len(twice := ids[1:][ids[1:] == ids[:-1]]):
        raise UserError(f"The data set in {folder} has two records named {twice[0]}; prepare it again.")
    return Examples(Records(folder, split, order), labels[order], ids, opened.class_names)


class _Opened(NamedTuple):
    source: object  # random access: place -> features, the image as it is encoded
    class_names: tuple[str, ...]


def _open(folder: pathlib.Path, split: str) -> _Opened:
    import tensorflow_datasets as tfds

    try:
        with prepared.quiet():
            builder = tfds.builder_from_directory(folder)
            splits, features = list(builder.info.splits), builder.info.features
            names = features["label"].names if "label" in features else features["attributes"]
            if set(split.split("+")) <= set(splits):
                decoders = {"image": tfds.decode.SkipDecoding()}
                return _Opened(builder.as_data_source(split, decoders=decoders), tuple(names))
    except NotImplementedError as error:  # tfds's default format
        raise UserError(
            f"The data set in {folder} is stored as {builder.info.file_format.value}, which only TensorFlow reads; "
            "prepare it again with tfds and file_format='array_record', or use the original images from their folder."
        ) from error
    except Exception as error:  # a missing file, half a JSON text: tfds raises a different type for each
        raise UserError(f"The data set in {folder} is damaged; prepare it again with tfds.") from error
    raise UserError(f"Split {split!r} is not in the data set in {folder}; it has {', '.join(splits)}.")


def _all(folder: pathlib.Path, split: str, opened: _Opened, progress: bool) -> tuple[np.ndarray, np.ndarray]:
    """Ids str [N] and labels, as in Examples, of all records, in their order."""
    size, ids, labels = len(opened.source), [], []
    try:
        with bar(f"reading {folder.parent.name} {split}", size, progress, unit="image") as shown:
            for start in range(0, size, _BATCH):
                records = opened.source.__getitems__(range(start, min(start + _BATCH, size)))
                for place, record in enumerate(records, start):
                    name = next((record[key] for key in _IDS if key in record), None)
                    ids.append(f"{split}_{place:08d}" if name is None else name.decode())
                    if "label" in record:
                        labels.append(int(record["label"]))
                    else:
                        labels.append([int(record["attributes"][name]) for name in opened.class_names])
                shown.update(len(records))
    except Exception as error:  # as in _open
        raise UserError(f"The data set in {folder} is damaged; prepare it again with tfds.") from error
    labels = np.array(labels)
    return np.array(ids, str), labels.astype(np.uint8 if are_attributes(labels) else np.int32)
