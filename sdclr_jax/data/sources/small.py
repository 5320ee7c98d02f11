"""The data sets that are prepared here with a tfds builder of our own and fit into memory: digits and CIFAR."""

import hashlib
import json
import os
import pathlib
from typing import Any

import numpy as np

from sdclr_jax import files
from sdclr_jax.data.examples import Examples
from sdclr_jax.data.sources import prepared
from sdclr_jax.errors import UserError


class Digits:
    """scikit-learn's digits, prepared on first use."""

    def __init__(self, data_dir: pathlib.Path):
        self._data_dir = data_dir

    def load(self, split: str) -> Examples:
        return prepared.read_once(self.prepare(), split)

    def prepare(
        self, archive: pathlib.Path | None = None, accept_checksum: str = "", progress: bool = False
    ) -> pathlib.Path:
        if archive or accept_checksum:
            raise UserError("The digits come with scikit-learn; leave out --archive and --accept_checksum.")

        def make(scratch: pathlib.Path) -> pathlib.Path:
            from sdclr_jax.data.sources.digits import SdclrDigits

            return prepared.written(SdclrDigits(data_dir=scratch, file_format="array_record"))

        return prepared.prepared(self._data_dir, "sdclr_digits/1.0.0", make)

    def provenance(self) -> dict[str, Any] | None:
        return None


class Cifar:
    """CIFAR-10 or CIFAR-100, prepared from the published archive."""

    def __init__(self, name: str, data_dir: pathlib.Path):
        self._name, self._data_dir = name, data_dir
        self._folder = data_dir / name / "3.0.2"

    def load(self, split: str) -> Examples:
        if not os.path.exists(self._folder):
            raise UserError(
                f"{self._name} is not prepared in {self._data_dir}; run: sdclr prepare {self._name} "
                f"--data_dir={self._data_dir}"
            )
        return prepared.read_once(self._folder, split)

    def prepare(
        self, archive: pathlib.Path | None = None, accept_checksum: str = "", progress: bool = False
    ) -> pathlib.Path:
        if os.path.exists(self._folder):
            if archive:
                _check_made_from(archive, self._folder, self.provenance())
            return self._folder

        from sdclr_jax.data.sources import cifar

        archive = archive or cifar.fetch(self._name, self._data_dir / "downloads", progress)
        content = cifar.read(self._name, archive, accept_checksum)

        def make(scratch: pathlib.Path) -> pathlib.Path:
            options = {"data_dir": scratch, "file_format": "array_record"}
            made = prepared.written(cifar.BUILDERS[self._name](content, progress=progress, **options))
            (made / prepared.PROVENANCE).write_text(json.dumps(content.provenance, indent=1) + "\n")
            for split, images in content.images.items():  # read back before anybody else can
                examples = prepared.read_once(made, split)
                if not np.array_equal(examples.images, images):
                    raise OSError(f"{split} images read back differ from those written")
            return made

        return prepared.prepared(self._data_dir, f"{self._name}/3.0.2", make)

    def provenance(self) -> dict[str, Any] | None:
        return prepared.provenance(self._folder)


def _check_made_from(archive: pathlib.Path, folder: pathlib.Path, made_from: dict[str, Any] | None) -> None:
    """Refuse to pass over an archive that is not the one behind the data set that is there."""
    try:
        with files.opened(archive, 2**40) as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{archive} cannot be read ({error.strerror}); give the path of an archive.") from error
    if made_from and made_from["sha256"] != sha256:
        raise UserError(
            f"{folder} holds a data set made from another archive (SHA-256 {made_from['sha256']}) than {archive} "
            f"({sha256}); delete that folder, or give another --data_dir."
        )
