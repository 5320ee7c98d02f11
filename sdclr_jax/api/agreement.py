"""What the processes of one command agree on, before any of them writes."""

import pathlib
import sys
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from sdclr_jax import processes, recipes
from sdclr_jax.data.examples import Examples
from sdclr_jax.data.images import as_images
from sdclr_jax.data.subsets import longtail
from sdclr_jax.run import folder, versions


def on_run(config: ConfigDict, settings: Mapping[str, Any] | None = None) -> None:
    """See that all processes have the same code, run and settings; before images are looked at, which takes long.

    Args:
        config: of the run.
        settings: of the command, by the names that their user knows.

    Raises:
        UserError: in every process; names one that differs, and the field.
    """
    if processes.count() == 1:  # to ask for the commit starts git
        return
    processes.agree(versions.alike() | recipes.alike(config) | dict(settings or {}))


def on_data(config: ConfigDict, directory: pathlib.Path, data: recipes.Data) -> None:
    """See that all processes have the same images and see one folder; then write down where the images are, if they
    have moved, and warn of what has changed.

    Raises:
        UserError: in every process; names one that differs, and in what. Or the images are not those of the run, or
            are cropped where they were seen whole.
    """
    if processes.count() > 1:
        on_images({"all": data.train, "test": data.test})
        on_lists(data.subsets)
        folder.check_shared(directory)
    folder.check_seen(directory, as_images(data.train.images).whole_shape)
    with processes.first("the place of the images") as alone:
        if alone and (changed := recipes.note_places(directory, config, data.about(config.data.subset))):
            print(f"{directory}  warning: {changed}: what is measured is measured on the data of now", file=sys.stderr)


def on_images(parts: Mapping[str, Examples]) -> None:
    """See that all processes have the same images, in parts by name: their names, and the pixels of those in memory.

    Raises:
        UserError: in every process; names one that differs, and the part.
    """
    if processes.count() > 1:
        about = {f"list of {part} images": _about(examples) for part, examples in parts.items()}
        processes.agree(about)


def on_lists(subsets: longtail.Subsets) -> None:
    """See that all processes take the same of the same images: to train on, for probes, and to choose by.

    Raises:
        UserError: in every process; names one that differs, and the list.
    """
    if processes.count() > 1:
        processes.agree({f"list '{name}'": _of_rows(rows) for name, rows in subsets._asdict().items()})


def _of_rows(rows: np.ndarray) -> str:
    return f"{len(rows)} entries, CRC-32 {zlib.crc32(np.ascontiguousarray(rows, np.int64).data):08x}"


def _about(examples: Examples) -> str:
    said = f"{len(examples.ids)} images, SHA-256 {longtail.list_hash(examples.ids)[:8]}…"
    said += f", CRC-32 of the labels {zlib.crc32(np.ascontiguousarray(examples.labels).data):08x}"
    if as_images(examples.images).is_decoded:  # else each process decodes some, for all
        said += f", CRC-32 of the pixels {zlib.crc32(np.ascontiguousarray(examples.images).data):08x}"
    return said
