"""Preparing a data set whole or not at all, and reading what tfds wrote.

tfds is used as the format on disk and nothing else of it: records lie there in shuffled order, so whatever joins two
lists of images joins them on the example `id`. It is imported where it is used, since its import takes a second.
"""

import contextlib
import io
import json
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from absl import logging

from sdclr_jax import files
from sdclr_jax.data.examples import Examples
from sdclr_jax.errors import UserError

PROVENANCE = "provenance.json"


def provenance(folder: pathlib.Path) -> dict[str, Any] | None:
    """What a prepared data set was made from, as written down when it was prepared; None where nothing is."""
    try:
        found = json.loads(files.read(folder / PROVENANCE, 2**20))
        if not isinstance(found, dict):
            raise ValueError("no object")
        return found
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"The data set in {folder} is damaged; delete that folder and run again.") from error


def prepared(data_dir: pathlib.Path, relative: str, make: Callable[[pathlib.Path], pathlib.Path]) -> pathlib.Path:
    """The folder `relative` of the data folder; made if it is not there, by `make(scratch folder) -> folder in it`.

    Each process prepares in a folder of its own and renames the result into place. A rename happens whole or not at
    all, and never onto a folder with something in it: of two processes one is first and the other takes what it
    finds, and what a killed process leaves behind (`.sdclr_jax-preparing-*`) is removed by the next one that prepares.
    """
    folder = data_dir / relative
    try:
        if folder.exists():
            return folder
        data_dir.mkdir(parents=True, exist_ok=True)
        with files.scratch(data_dir, f"preparing-{folder.parent.name}") as scratch, quiet():
            made = make(scratch)
            folder.parent.mkdir(exist_ok=True)
            try:
                os.rename(made, folder)
            except OSError:
                if not folder.exists():  # else another process was first
                    raise
    except OSError as error:
        raise UserError(
            f"The data folder {data_dir} cannot be read and written ({error.strerror or error}); "
            "make room and permission there, or name another folder in the environment variable SDCLR_DATA."
        ) from error
    return folder


def written(builder) -> pathlib.Path:
    """Let a builder write its data set; returns the folder. A disk that is full is an OSError."""
    try:
        builder.download_and_prepare()
    except RuntimeError as error:  # what the writer of array_record makes of it
        raise OSError(str(error).split(";")[0]) from error
    return pathlib.Path(builder.data_dir)


def read_once(folder: pathlib.Path, split: str) -> Examples:
    """`read`, with the result kept in the data set's folder: decoding 50,000 images takes 8 seconds, 1,797 digits 0.3.

    As one uncompressed zip file of arrays, which has a checksum for each of them; a damaged one is made again.
    """
    path = folder / f"decoded_{split}.npz"
    if kept := kept_arrays(path, ("images", "labels", "ids", "class_names")):
        return Examples(*kept[:3], tuple(kept[3].tolist()))
    examples = read(folder, split)
    arrays = examples.images, examples.labels, examples.ids, examples.class_names
    with contextlib.suppress(UserError), files.replacing(path) as part:
        np.savez(part, **dict(zip(Examples._fields, arrays, strict=False)))
    return examples


def kept_arrays(path: pathlib.Path, names: Sequence[str]) -> list[np.ndarray] | None:
    """Arrays of a .npz file that can be made again; None where it is not there, or damaged in whatever way."""
    try:
        with files.opened(path, 2**40) as file, np.load(file, allow_pickle=False) as kept:
            return [kept[name] for name in names]
    except Exception:  # of a zip file and of NumPy's headers, which are Python, each has types of its own
        return None


def read(folder: pathlib.Path, split: str) -> Examples:
    """One split of a prepared data set with the features `id`, `image` and `label`."""
    import tensorflow_datasets as tfds

    try:
        with quiet():
            builder = tfds.builder_from_directory(folder)
            splits = list(builder.info.splits)
            class_names = tuple(builder.info.features["label"].names)
            if split in splits:
                source = builder.as_data_source(split)
                return examples_of(source.__getitems__(range(len(source))), class_names)
    except NotImplementedError as error:  # tfds's default format
        raise UserError(
            f"The data set in {folder} is stored as {builder.info.file_format.value}, which only TensorFlow reads; "
            "prepare it again with sdclr prepare and another --data_dir."
        ) from error
    except Exception as error:  # a missing file, a checksum, half a JSON text: tfds raises a different type for each
        raise UserError(f"The data set in {folder} is damaged; delete that folder and run again.") from error
    raise UserError(f"Split {split!r} is not in the data set in {folder}; choose one of: {', '.join(splits)}.")


def examples_of(records: list[dict], class_names: tuple[str, ...]) -> Examples:
    records = sorted(records, key=lambda record: record["id"])  # UTF-8 sorts like the code points it stands for
    return Examples(
        images=np.stack([record["image"] for record in records]),
        labels=np.array([record["label"] for record in records], np.int32),
        ids=np.array([record["id"].decode() for record in records]),
        class_names=class_names,
    )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
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
