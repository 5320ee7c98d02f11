"""Data sets by name, decoded once into arrays, in the order of their examples' ids.

tfds is used as the format on disk and nothing else of it: records lie there in shuffled order, so whatever joins two
lists of images joins them on the example `id`. It is imported where it is used, since its import takes a second.
"""

import contextlib
import hashlib
import io
import json
import os
import pathlib
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

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
    """Read one split of a data set whole. Digits are prepared on first use, other data sets by `prepare`.

    Safe to call from several processes at once, and a folder that is whole already is only read; decoded CIFAR images
    are kept beside the data set where that folder can be written.

    Args:
        name: a key of `DATASETS`.
        split: a split of that data set, such as `train` or `test`.
        data_dir: folder of all prepared data sets; `default_data_dir()` when None.

    Raises:
        UserError: unknown data set or split, a data set that is not prepared or damaged, or a folder that cannot be
            written.
    """
    return _known(name).load(split, _data_dir(data_dir))


def prepare(
    name: str,
    data_dir: str | os.PathLike | None = None,
    *,
    archive: str | os.PathLike | None = None,
    accept_checksum: str = "",
    progress: bool = False,
) -> pathlib.Path:
    """Prepare a data set, whole or not at all, and return its folder; what is prepared already is used as it is.

    Args:
        name: a key of `DATASETS`.
        data_dir: folder of all prepared data sets; `default_data_dir()` when None.
        archive: the published file; when None, the one in `data_dir`/downloads, or else it is downloaded to there.
        accept_checksum: SHA-256 of an archive that is not the published one but meant all the same.
        progress: whether to draw bars on the standard error.

    Raises:
        UserError: unknown data set, an archive that is missing, damaged or not what was published, a folder that
            cannot be written, or a data set prepared already from another archive than the one given.
    """
    archive = None if archive is None else pathlib.Path(archive).expanduser()
    return _known(name).prepare(_data_dir(data_dir), archive, accept_checksum, progress)


def provenance(name: str, data_dir: str | os.PathLike | None = None) -> dict[str, Any] | None:
    """What a prepared data set was made from: archive, sha256, published, and a warning if it is not.

    None where nothing is written down: digits come without an archive, and tfds itself keeps no such note.
    """
    try:
        return json.loads((_data_dir(data_dir) / _known(name).folder / _PROVENANCE).read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        folder = _data_dir(data_dir) / _known(name).folder
        raise UserError(f"The data set in {folder} is damaged; delete that folder and run again.") from error


class Source(NamedTuple):
    """How to get a data set."""

    folder: str  # of the prepared data set, in the data folder
    load: Callable[[str, pathlib.Path], Examples]  # of a split and the data folder
    # Of the data folder, archive, accept_checksum and progress, as in the function `prepare`; returns the folder.
    prepare: Callable[[pathlib.Path, pathlib.Path | None, str, bool], pathlib.Path]


def _known(name: str) -> Source:
    if name not in DATASETS:
        raise UserError(f"data.name {name!r} is not known; choose one of: {', '.join(sorted(DATASETS))}.")
    return DATASETS[name]


def _data_dir(data_dir: str | os.PathLike | None) -> pathlib.Path:
    return default_data_dir() if data_dir is None else pathlib.Path(data_dir).expanduser()


_DIGITS = "sdclr_digits/1.0.0"
_PROVENANCE = "provenance.json"


def _load_digits(split: str, data_dir: pathlib.Path) -> Examples:
    return _read(_prepare_digits(data_dir), split)


def _prepare_digits(
    data_dir: pathlib.Path, archive: pathlib.Path | None = None, accept_checksum: str = "", progress: bool = False
) -> pathlib.Path:
    if archive or accept_checksum:
        raise UserError("The digits come with scikit-learn; leave out --archive and --accept_checksum.")

    def make(scratch: pathlib.Path) -> pathlib.Path:
        from sdclr_jax.data.digits import SdclrDigits

        return _written(SdclrDigits(data_dir=scratch, file_format="array_record"))

    return _prepared(data_dir, _DIGITS, make)


def _load_cifar(name: str, split: str, data_dir: pathlib.Path) -> Examples:
    folder = data_dir / DATASETS[name].folder
    if not folder.exists():
        raise UserError(f"{name} is not prepared in {data_dir}; run: sdclr prepare {name} --data_dir={data_dir}")
    return _read_once(folder, split)


def _prepare_cifar(
    name: str, data_dir: pathlib.Path, archive: pathlib.Path | None, accept_checksum: str, progress: bool
) -> pathlib.Path:
    folder = data_dir / DATASETS[name].folder
    if folder.exists():
        if archive:
            _check_made_from(archive, folder, provenance(name, data_dir))
        return folder

    from sdclr_jax.data import cifar

    archive = archive or cifar.fetch(name, data_dir / "downloads", progress)
    content = cifar.read(name, archive, accept_checksum)

    def make(scratch: pathlib.Path) -> pathlib.Path:
        options = {"data_dir": scratch, "file_format": "array_record"}
        made = _written(cifar.BUILDERS[name](content, progress=progress, **options))
        (made / _PROVENANCE).write_text(json.dumps(content.provenance, indent=1) + "\n")
        for split, images in content.images.items():  # read back before anybody else can
            examples = _read_once(made, split)
            if not np.array_equal(examples.images, images):
                raise OSError(f"{split} images read back differ from those written")
        return made

    return _prepared(data_dir, DATASETS[name].folder, make)


def _check_made_from(archive: pathlib.Path, folder: pathlib.Path, made_from: dict[str, Any] | None) -> None:
    """Refuse to pass over an archive that is not the one behind the data set that is there."""
    try:
        with archive.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{archive} cannot be read ({error.strerror}); give the path of an archive.") from error
    if made_from and made_from["sha256"] != sha256:
        raise UserError(
            f"{folder} holds a data set made from another archive (SHA-256 {made_from['sha256']}) than {archive} "
            f"({sha256}); delete that folder, or give another --data_dir."
        )


DATASETS = {
    "digits": Source(_DIGITS, _load_digits, _prepare_digits),
    **{
        name: Source(f"{name}/3.0.2", partial(_load_cifar, name), partial(_prepare_cifar, name))
        for name in ("cifar10", "cifar100")
    },
}


def _prepared(data_dir: pathlib.Path, relative: str, make: Callable[[pathlib.Path], pathlib.Path]) -> pathlib.Path:
    """The folder `relative` of the data folder; made if it is not there, by `make(scratch folder) -> folder in it`.

    Each process prepares in a folder of its own and renames the result into place. A rename happens whole or not at
    all, and never onto a folder with something in it: of two processes one is first and the other takes what it
    finds, and what a killed process leaves behind (`.preparing-*`) lies where nobody looks for data.
    """
    folder = data_dir / relative
    try:
        if folder.exists():
            return folder
        data_dir.mkdir(parents=True, exist_ok=True)
        prefix = f".preparing-{folder.parent.name}-"
        with tempfile.TemporaryDirectory(prefix=prefix, dir=data_dir) as scratch, _quiet():
            made = make(pathlib.Path(scratch))
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


def _written(builder) -> pathlib.Path:
    """Let a builder write its data set; returns the folder. A disk that is full is an OSError."""
    try:
        builder.download_and_prepare()
    except RuntimeError as error:  # what the writer of array_record makes of it
        raise OSError(str(error).split(";")[0]) from error
    return pathlib.Path(builder.data_dir)


def _read_once(folder: pathlib.Path, split: str) -> Examples:
    """`_read`, with the result kept in the data set's folder: decoding 50,000 images takes 8 seconds.

    As one uncompressed zip file of arrays, which has a checksum for each of them; a damaged one is made afresh.
    """
    path = folder / f"decoded_{split}.npz"
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as kept:
            return Examples(kept["images"], kept["labels"], kept["ids"], tuple(kept["class_names"].tolist()))
    except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile):
        examples = _read(folder, split)
    with contextlib.suppress(OSError), tempfile.TemporaryDirectory(prefix=".decoding-", dir=folder) as scratch:
        part = pathlib.Path(scratch) / path.name
        np.savez(part, **examples._asdict())
        os.replace(part, path)
    return examples


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
    except NotImplementedError as error:  # tfds's default format
        raise UserError(
            f"The data set in {folder} is stored as {builder.info.file_format.value}, which only TensorFlow reads; "
            "prepare it again with sdclr prepare and another --data_dir."
        ) from error
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
