"""A person's own photos: a flat folder, a folder with one directory a class, or a folder with a manifest."""

import hashlib
import io
import itertools
import logging
import os
import pathlib
import re
import sys
from collections import Counter
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from sdclr_jax import files
from sdclr_jax.data import images, threads
from sdclr_jax.data.examples import Examples
from sdclr_jax.data.sources import index, layouts, manifests, notes
from sdclr_jax.errors import ArgumentError, UserError, printable
from sdclr_jax.files import on_disk, write_changed
from sdclr_jax.progress import progressed
from sdclr_jax.records import sheets

REASONS = 8  # of skipped files that are written down, the most frequent ones
LOG = logging.getLogger(__name__)
_SAID = set()  # notes, once a process
RESIDENT_BYTES = 2**30  # decoded images of one size are kept in memory up to this


class Skipped(NamedTuple):
    """The files of a folder that are no usable images."""

    files: int
    listed: str  # where each stands with its reason
    reasons: dict[str, int]  # the most frequent ones, most first -> files

    def why(self) -> list[str]:
        """A line for each of the most frequent reasons, and one for the others."""
        lines = [f"  {count:,}: {reason}" for reason, count in self.reasons.items()]
        others = self.files - sum(self.reasons.values())
        return [*lines, f"  {others:,}: other reasons"] if others else lines


class Folder:
    """Photos below `path`, as `layouts` reads them; what is known of them is kept in `data_dir`/folders.

    Args:
        path: of the folder.
        data_dir: folder of all prepared data sets.
        manifest: path of a CSV file; '' for none.
        seed: of the test images, where they have to be drawn.
        gray_range: values that are black and white in gray images of more than eight bits; () is their type's range.
        class_order: of `layouts.CLASS_ORDERS`.
    """

    def __init__(
        self,
        path: str,
        data_dir: pathlib.Path,
        *,
        manifest: str = "",
        seed: int = 0,
        gray_range: tuple[float, ...] = (),
        class_order: str = "natural",
        whole: bool = True,
    ):
        if not path:
            raise ArgumentError("name", "is 'folder:' without a path: write folder:/path/to/images")
        self._root = pathlib.Path(os.path.abspath(on_disk(path, "photos are read from")))
        self._manifest = on_disk(manifest, "a manifest is read from") if manifest else None
        self._seed, self._progress = seed, sys.stderr.isatty()  # on first use, where a person waits
        self._gray_range, self._class_order, self._whole = tuple(gray_range), class_order, whole
        name = hashlib.sha256(os.fsencode(self._root)).hexdigest()[:16]
        self._known = data_dir / "folders" / name
        self._test_list = self._known / f"test_split{seed}.csv"

    def prepare(
        self, archive: pathlib.Path | None = None, accept_checksum: str = "", progress: bool = False
    ) -> pathlib.Path:
        if archive or accept_checksum:
            raise UserError("A folder of images is used as it is; leave out --archive and --accept_checksum.")
        self._progress = progress
        _SAID.update(self._notes)  # they are printed by who prepares
        return self._known

    def load(self, split: str) -> Examples:
        if split not in ("train", "test"):
            raise UserError(f"Split {split!r} is not in {self._root}; choose one of: train, test.")
        paths, splits, labels, class_names = self._table[:4]
        for note in self._notes:
            if note not in _SAID:
                _SAID.add(note)
                LOG.warning("%s", printable(f"{self._root}: {note}"))
        splits = np.array(splits)
        rows = np.flatnonzero((splits == "test") == (split == "test"))
        ids = np.array(paths, str)[rows]
        held_out = (splits == "val")[rows]
        held_out = held_out if held_out.any() else None
        return Examples(self._images(ids), labels[rows], ids, class_names, held_out, self._root)

    @cached_property
    def told(self) -> layouts.Table:
        """What the directories or the manifest say of the images. Unlike in what `load` gives, no image is drawn for
        testing, and a class may have none to train on.

        Raises:
            UserError: there is no usable image, or it cannot be told what is meant.
        """
        found, usable = self._index, self._usable
        if self._manifest:
            return manifests.from_manifest(self._manifest, found.usable, found.skipped, self._class_order)
        return layouts.from_directories(usable, self._root, self._class_order)

    def untold(self) -> layouts.Table:
        """All usable images in the splits of their directories, without classes; in `train`, where it cannot be told
        which directories are splits. Raises UserError where there is no image."""
        paths = self._usable
        try:
            splits = layouts.splits_from_directories(paths, self._root).of_paths
        except UserError:
            splits = ["train"] * len(paths)
        return layouts.Table(paths, splits, np.full(len(paths), -1, np.int32), ())

    def encoded(self, paths: np.ndarray) -> images.Files:
        """The images of these paths, str [N], of the index; none is read."""
        return images.Files(self._root, paths, self._gray_range)

    @property
    def usable(self) -> int:
        """How many images can be decoded, whether a manifest names them or not."""
        return len(self._index.usable)

    @property
    def skipped(self) -> Skipped:
        found, reasons = self._index, itertools.islice(self._reasons().items(), REASONS)
        return Skipped(len(found.skipped), str(found.skipped_list), dict(reasons))

    def notes(self, table: layouts.Table) -> list[str]:
        """Sentences on what may be meant in another way than the table takes it."""
        return notes.about(self._index, table, self._gray_range)

    def provenance(self) -> dict[str, Any]:
        table, skipped = self._table, self.skipped
        about = {
            "folder": str(self._root),
            "images": len(table.paths),
            "skipped": skipped.files,
            "skipped_list": skipped.listed,
            "skipped_reasons": skipped.reasons,
            "notes": self._notes,
        }
        if self._manifest:
            about["manifest"] = str(self._manifest)
            about["manifest_sha256"] = hashlib.sha256(files.read(self._manifest, manifests.LARGEST)).hexdigest()
            about["manifest_columns"] = table.columns
            about["not_in_manifest"] = self.usable - len(table.paths)
        if table.drawn:
            about["test"] = f"{layouts.TEST_SHARE:g} of each class, drawn with data.seed {self._seed}"
            about["test_list"] = str(self._test_list)
        return about

    def _reasons(self) -> dict[str, int]:
        """Why files were skipped, and how many for each reason, most first; reasons that differ in numbers are one."""
        first, counts = {}, Counter()
        for reason in self._index.skipped.values():
            kind = re.sub(r"-?[0-9][0-9.e+-]*", "", reason)
            counts[first.setdefault(kind, reason)] += 1
        return dict(counts.most_common())

    @cached_property
    def _notes(self) -> list[str]:
        return self.notes(self._table)

    @cached_property
    def _index(self) -> index.Index:
        if not os.path.isdir(self._root):
            raise ArgumentError(
                "name", f"is folder:{self._root}, where there is no folder: give the path of the images, as it is now"
            )
        return index.refresh(self._root, self._known, self._progress, self._gray_range)

    @property
    def _usable(self) -> list[str]:
        found = self._index
        if not found.usable:
            why = f"{len(found.skipped)} skipped, see {found.skipped_list}" if found.skipped else "none at all"
            first = next(iter(self._reasons()), "")
            why += f", most of them as: {first}" if first else ""
            passed = "".join(f" {sentence}" for sentence in notes.others(found.others))
            raise UserError(
                f"{self._root} holds no usable image ({why}); give a folder of JPEG, PNG or other images.{passed}"
            )
        return list(found.usable)

    @cached_property
    def _table(self) -> layouts.Table:
        table = layouts.with_test(self.told, self._seed)
        if table.drawn:
            text = io.StringIO()
            drawn = (path for path, split in zip(table.paths, table.splits, strict=True) if split == "test")
            for path in ("path", *drawn):
                sheets.Writer(text).writerow([path])
            write_changed(self._test_list, sheets.marked(text.getvalue()))
        return table

    def _images(self, paths: np.ndarray) -> np.ndarray | images.Files:
        encoded = self.encoded(paths)
        entries = [self._index.usable[path] for path in self._table.paths]
        width, height = entries[0].width, entries[0].height
        one_size = all((entry.width, entry.height) == (width, height) for entry in entries)
        if not (self._whole and one_size) or len(entries) * height * width * 3 > RESIDENT_BYTES:
            return encoded
        return decoded(encoded, height, width)


def decoded(encoded: images.Encoded, height: int, width: int) -> np.ndarray:
    """All images, of one size, as uint8 [N, height, width, 3].

    Raises:
        UserError: an image that could be decoded before no longer can, or has another size now.
    """
    array = np.empty((len(encoded), height, width, 3), np.uint8)

    def put(row: int) -> None:
        try:
            pixels = np.asarray(encoded.picture(row))
            if pixels.shape != array.shape[1:]:
                raise ValueError(f"another size than {width} x {height}")
            array[row] = pixels
        except (OSError, ValueError) as error:
            raise encoded.unread(row, error) from error

    with threads.pool() as pool:
        for _ in pool.map(put, range(len(encoded))):
            progressed()
    return array
