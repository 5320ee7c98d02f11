"""Data sets by name, decoded once into arrays, in the order of their examples' ids.

tfds is used as the format on disk and nothing else of it: records lie there in shuffled order, so whatever joins two
lists of images joins them on the example `id`. It is imported where it is used, since its import takes a second.
"""

import contextlib
import io
import os
import pathlib
import tempfile
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from absl import logging

from sdclr_jax.errors import UserError


class Examples(NamedTuple):
    """A split in memory, sorted by id."""

    images: np.ndarray  # uint8 [N, H, W, C]
    labels: np.ndarray  # int32 [N], indices into class_names
    ids: np.ndarray  # str [N], unique and ascending by code point
    class_names: tuple[str, ...]


def default_data_dir() -> pathlib.Path:
    """Where prepared data sets lie: `$SDCLR_DATA` if it is set and not empty, else `~/.cache/sdclr_jax/data`."""
    return pathlib.Path(os.environ.get("SDCLR_DATA") or "~/.cache/sdclr_jax/data").expanduser()


def load(name: str, split: str, data_dir: str | os.PathLike | None = None) -> Examples:
    """Read one split of a data set whole, after preparing the data set on first use.

    Safe to call from several processes at once, and a folder that is whole already is only read.

    Args:
        name: a key of `DATASETS`.
        split: a split of that data set, such as `train` or `test`.
        data_dir: folder of all prepared data sets; `default_data_dir()` when None.

    Raises:
        UserError: unknown data set or split, a folder that cannot be written, or a prepared data set that is damaged.
    """
    if name not in DATASETS:
        raise UserError(f"data.name {name!r} is not known; choose one of: {', '.join(sorted(DATASETS))}.")
    data_dir = default_data_dir() if data_dir is None else pathlib.Path(data_dir).expanduser()
    return DATASETS[name](split, data_dir)


def _digits(split: str, data_dir: pathlib.Path) -> Examples:
    from sdclr_jax.data.digits import SdclrDigits

    return _read(_prepared(SdclrDigits, data_dir), split)


# Name -> how to get a split of it: (split, data_dir) -> Examples.
DATASETS: dict[str, Callable[[str, pathlib.Path], Examples]] = {"digits": _digits}


def _prepared(builder_class, data_dir: pathlib.Path) -> pathlib.Path:
    """The folder of the prepared data set; prepares it if it is not there.

    Each process prepares in a folder of its own and renames the result into place. A rename happens whole or not at
    all, and never onto a folder with something in it: of two processes one is first and the other takes what it
    finds, and what a killed process leaves behind (`.preparing-*`) lies where nobody looks for data.
    """
    folder = data_dir / builder_class.name / str(builder_class.VERSION)
    try:
        if folder.exists():
            return folder
        data_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".preparing-{builder_class.name}-", dir=data_dir) as scratch, _quiet():
            builder = builder_class(data_dir=scratch, file_format="array_record")
            builder.download_and_prepare()
            folder.parent.mkdir(exist_ok=True)
            try:
                os.rename(builder.data_dir, folder)
            except OSError:
                if not folder.exists():  # else another process was first
                    raise
    except OSError as error:
        raise UserError(
            f"The data folder {data_dir} cannot be read and written ({error.strerror or error}); "
            "make room and permission there, or name another folder in the environment variable SDCLR_DATA."
        ) from error
    return folder


def _read(folder: pathlib.Path, split: str) -> Examples:
    """One split of a prepared data set with the features `id`, `image` and `label`."""
    import tensorflow_datasets as tfds

    try:
        with _quiet():
            builder = tfds.builder_from_directory(folder)
            splits = list(builder.info.splits)
            class_names = tuple(builder.info.features["label"].names)
            if split in splits:
                source = builder.as_data_source(split)
                return _examples(source.__getitems__(range(len(source))), class_names)
    except Exception as error:  # a missing file, a checksum, half a JSON text: tfds raises a different type for each
        raise UserError(f"The data set in {folder} is damaged; delete that folder and run again.") from error
    raise UserError(f"Split {split!r} is not in the data set in {folder}; choose one of: {', '.join(splits)}.")


def _examples(records: list[dict], class_names: tuple[str, ...]) -> Examples:
    records = sorted(records, key=lambda record: record["id"])  # UTF-8 sorts like the code points it stands for
    return Examples(
        images=np.stack([record["image"] for record in records]),
        labels=np.array([record["label"] for record in records], np.int32),
        ids=np.array([record["id"].decode() for record in records]),
        class_names=class_names,
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the lines and bars that tfds prints, and its advice to install OpenCV; errors still pass."""
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(verbosity)
