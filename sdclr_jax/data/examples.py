"""What a split of a data set is, to everything that trains on it or scores it."""

import pathlib
from typing import NamedTuple

import numpy as np

from sdclr_jax.data.images import Encoded
from sdclr_jax.data.targets import Targets, as_targets


class Examples(NamedTuple):
    """A split, sorted by id. What `labels` holds tells the three kinds of data set apart:

    - a class an image: int32 [N], indices into `class_names`;
    - attributes, any number of which an image has: uint8 [N, A] of 0 and 1, and `class_names` are the attributes';
    - no labels: int32 [N] of -1, and `class_names` is empty.
    """

    images: np.ndarray | Encoded  # uint8 [N, H, W, C]; or N images that are decoded when they are asked for
    labels: np.ndarray
    ids: np.ndarray  # str [N], unique and ascending by code point
    class_names: tuple[str, ...]
    held_out: np.ndarray | None = None  # bool [N]: kept for validation by the data set itself; None where it keeps none
    folder: pathlib.Path | None = None  # of the files that the ids name; None where images are no files

    def take(self, rows: np.ndarray) -> "Examples":
        """The examples of these rows, int [M] or bool [N]; no image is read."""
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows
        held_out = None if self.held_out is None else self.held_out[rows]
        return self._replace(images=self.images[rows], labels=self.labels[rows], ids=self.ids[rows], held_out=held_out)

    @property
    def targets(self) -> Targets:
        """What the labels say, where there are labels."""
        return as_targets(self.labels, len(self.class_names))

    def path(self, row: int) -> str:
        """Where the file of an image lies, whether its pixels are in memory or not; '' for one that is no file."""
        return str(self.folder / self.ids[row]) if self.folder else ""
