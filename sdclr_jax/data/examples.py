"""What a split of a data set is, to everything that trains on it or scores it."""

import pathlib
from collections import Counter
from typing import NamedTuple

import numpy as np

from sdclr_jax.data.images import Encoded
from sdclr_jax.data.targets import Targets, as_targets, labels_of
from sdclr_jax.errors import ArgumentError


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

    def check(self) -> None:
        """Refuse what is no such split, as a data source from outside may give it.

        Raises:
            ArgumentError: names the field, what is wrong with it, and what it must be.
        """
        if not (isinstance(self.ids, np.ndarray) and self.ids.ndim == 1 and self.ids.dtype.kind == "U"):
            raise ArgumentError("ids", f"are {_kind(self.ids)}: give an array of text, [N]")
        count, wrong = len(self.ids), np.flatnonzero(self.ids[1:] <= self.ids[:-1])
        if len(wrong):
            before, after = (str(self.ids[wrong[0] + i]) for i in (0, 1))
            raise ArgumentError("ids", f"have {before!r} before {after!r}: sort all by `np.argsort(ids)`, each id once")
        if not isinstance(self.images, Encoded):
            decoded = isinstance(self.images, np.ndarray) and self.images.dtype == np.uint8 and self.images.ndim == 4
            if not decoded:
                raise ArgumentError("images", f"are {_kind(self.images)}: give uint8 [N, H, W, C], or an `Encoded`")
        if len(self.images) != count:
            raise ArgumentError("images", f"are {len(self.images)}, and ids {count}: give an image for each id")
        if not isinstance(self.class_names, tuple):
            raise ArgumentError("class_names", f"are {_kind(self.class_names)}: give a tuple")
        if others := [name for name in self.class_names if not isinstance(name, str)]:
            raise ArgumentError("class_names", f"have {others[0]!r}: give each class a name, a text")
        if len(set(self.class_names)) < len(self.class_names):
            twice = Counter(self.class_names).most_common(1)[0][0]
            raise ArgumentError("class_names", f"have {twice!r} more than once: give each class a name of its own")
        if not isinstance(self.labels, np.ndarray):
            raise ArgumentError("labels", f"are {_kind(self.labels)}: give an array")
        if self.class_names:
            labels_of("labels", self.labels, len(self.class_names), count)
        elif self.labels.shape != (count,) or (self.labels != -1).any():
            raise ArgumentError("labels", "are there without class_names: name the classes, or let all labels be -1")
        held_out = np.zeros(count, bool) if self.held_out is None else self.held_out
        if not (isinstance(held_out, np.ndarray) and (held_out.shape, held_out.dtype) == ((count,), bool)):
            raise ArgumentError("held_out", f"is {_kind(held_out)}: give bool [{count}], or None")

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

    def of_classes(self, names: tuple[str, ...]) -> "Examples":
        """The examples of these classes alone, numbered as `names` has them: two splits may hold other directories.

        Raises:
            ArgumentError: none of the classes is among them.
        """
        if self.class_names == names or not (names and self.class_names) or self.targets.has_attributes:
            return self
        place = {name: i for i, name in enumerate(names)}
        numbers = np.array([place.get(name, -1) for name in self.class_names], np.int32)
        if (numbers < 0).all():
            raise ArgumentError(
                "names",
                f"are {names[0]!r} and others, and the classes of the test images {self.class_names[0]!r} and others: "
                "give the directories of both the same names",
            )
        labels = numbers[self.labels]
        return self._replace(labels=labels, class_names=names).take(labels >= 0)


def _kind(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"an array {list(value.shape)} of {value.dtype}"
    return f"a {type(value).__name__}"
