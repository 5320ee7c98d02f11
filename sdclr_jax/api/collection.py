"""What `sdclr photos` sees in a folder of images, whatever its layout, and says of it."""

import os
import pathlib
from collections import Counter
from typing import NamedTuple, cast

import numpy as np

from sdclr_jax.data import images, sources
from sdclr_jax.data.sources import folders
from sdclr_jax.data.targets import are_attributes
from sdclr_jax.errors import UserError


class Collection(NamedTuple):
    """The images of a folder in the order of their ids."""

    files: images.Files
    ids: np.ndarray  # str [N], paths below the folder
    splits: np.ndarray  # str [N]: train, val or test, as the folder says; no image is drawn for testing
    labels: np.ndarray | None  # int [N]; None without classes
    class_names: tuple[str, ...]
    why_no_labels: str  # '' where there are labels, or none at all
    skipped: folders.Skipped
    left_out: int  # images that the manifest does not name
    notes: tuple[str, ...]  # sentences on what may be meant in another way than it is taken


def look(
    root: pathlib.Path,
    *,
    manifest: str = "",
    gray_range: tuple[float, ...] = (),
    data_dir: str | os.PathLike | None = None,
) -> Collection:
    """The images of a folder, with their labels and splits, where these can be used.

    Args:
        root: the folder.
        manifest: a CSV file about the images; '' for none.
        gray_range: values that are black and white in gray images of more than eight bits; () is their type's range.
        data_dir: where it is kept which files are images.

    Raises:
        UserError: no folder or no usable image there, or a manifest that is wrong.
        ArgumentError: as `sources.source`.
    """
    name = f"{sources.FOLDER}{root}"
    source = cast(sources.Folder, sources.source(name, data_dir, manifest=manifest, gray_range=gray_range))
    why = ""
    try:
        table = source.told
    except UserError as error:
        if manifest:
            raise
        table = source.untold()  # which raises the same where there is no image at all
        why = str(error)
    classes = bool(table.class_names) and not are_attributes(table.labels)
    if table.class_names and not classes:
        why = "the labels are attributes, any number of which an image has"
    ids = np.array(table.paths, str)
    return Collection(
        files=source.encoded(ids),
        ids=ids,
        splits=np.array(table.splits, str),
        labels=table.labels if classes else None,
        class_names=table.class_names if classes else (),
        why_no_labels=why,
        skipped=source.skipped,
        left_out=source.usable - len(ids),
        notes=tuple(source.notes(table)),
    )


def described(seen: Collection) -> list[str]:
    """What is in a folder, in sentences."""
    splits = Counter(seen.splits.tolist())
    said = [
        f"{len(seen.ids)} images: "
        + ", ".join(f"{splits[name]} {name}" for name in ("train", "val", "test") if splits[name])
    ]
    if seen.left_out:
        said.append(f"{_counted(seen.left_out, 'image')} left out: the manifest names the others only.")
    if seen.labels is not None:
        counts = np.bincount(seen.labels, minlength=len(seen.class_names))
        order = np.argsort(-counts, kind="stable").tolist()
        named = [f"{seen.class_names[c]} {counts[c]}" for c in order]
        middle = [f"{len(order) - 10} more"] if len(order) > 12 else []
        said.append(f"{len(order)} classes: " + ", ".join(named if not middle else named[:5] + middle + named[-5:]))
    else:
        said.append(f"No labels are used: {seen.why_no_labels}" if seen.why_no_labels else "There are no labels.")
    if seen.skipped.files:
        said.append(f"{_counted(seen.skipped.files, 'file')} skipped, listed in {seen.skipped.listed}")
        said += seen.skipped.why()
    return [*said, *(f"Note: {note}" for note in seen.notes)]


def _counted(count: int, of: str) -> str:
    """1 image is, 2 images are."""
    return f"{count} {of} is" if count == 1 else f"{count} {of}s are"
