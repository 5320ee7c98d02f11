"""Data sets that are prepared in a bucket: they are read from a copy on the disk of this machine."""

import pathlib
from collections.abc import Callable
from functools import cached_property
from typing import Any

from sdclr_jax import files
from sdclr_jax.buckets import copies
from sdclr_jax.data.examples import Examples
from sdclr_jax.errors import UserError

_LAST = "dataset_info.json"  # of the files of a data set, written last: without it the others are not all there
_MADE_HERE = "digits"  # which come with scikit-learn


class InBucket:
    """A data set in the data folder of a bucket.

    Args:
        name: of the data set.
        data_dir: folder of all prepared data sets, in a bucket.
        folder: the data set's in it.
        source: (data_dir=a folder on a disk) -> the data set there.
    """

    def __init__(self, name: str, data_dir: files.Path, folder: str, source: Callable[..., Any]):
        self._name, self._data_dir, self._folder = name, data_dir, data_dir / folder
        self._make = source

    def prepare(
        self, archive: pathlib.Path | None = None, accept_checksum: str = "", progress: bool = False
    ) -> files.Path:
        files.check_writable(self._data_dir)
        self._source.prepare(archive, accept_checksum, progress)
        copies.send(self._folder, _LAST)
        return self._folder

    def load(self, split: str) -> Examples:
        if not (self._is_there or self._name == _MADE_HERE):
            raise UserError(
                f"{self._name} is not prepared in {self._data_dir}; run: sdclr prepare {self._name} "
                f"--data_dir={self._data_dir}, or copy the folder {self._folder.name} of another data folder there"
            )
        return self._source.load(split)

    def provenance(self) -> dict[str, Any] | None:
        return self._source.provenance()

    @cached_property
    def _is_there(self) -> bool:
        return copies.fetch(self._folder, _LAST)

    @cached_property
    def _source(self) -> Any:
        self._is_there  # noqa: B018 (makes the copy)
        return self._make(data_dir=copies.place(self._data_dir))
