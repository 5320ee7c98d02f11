"""Data sets by name: where each comes from.

A source is an object made by `source`, and nothing is read until it is asked. All give `Examples` in the order of
their ids, which is what lists of images are joined on.
"""

import math
import os
import pathlib
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from sdclr_jax.data.examples import Examples
from sdclr_jax.data.sources.catalogues import CATALOGUES, Catalogue
from sdclr_jax.data.sources.celeba import CelebA
from sdclr_jax.data.sources.folders import Folder
from sdclr_jax.data.sources.in_bucket import InBucket
from sdclr_jax.data.sources.small import Cifar, Digits
from sdclr_jax.errors import ArgumentError
from sdclr_jax.files import expanded, in_bucket
from sdclr_jax.records.config import FOLDER


class Source(Protocol):
    """A data set: how to get it ready, to read it, and to say where it came from. All raise UserError."""

    def prepare(
        self, archive: pathlib.Path | None = None, accept_checksum: str = "", progress: bool = False
    ) -> pathlib.Path:
        """Get the data set ready, whole or not at all; returns the folder where it, or what is known of it, lies. What
        is prepared already is used as it is.

        Args:
            archive: the published file; when None, the one in the data folder's `downloads`, or else it is downloaded.
            accept_checksum: SHA-256 of an archive that is not the published one but meant all the same.
            progress: whether to draw bars on the standard error.
        """

    def load(self, split: str) -> Examples:
        """One split, `train` or `test`. A `test` of no images says that there is none.

        Safe to call from several processes at once, and a folder that is whole already is only read. Digits and folders
        of images are prepared on first use, other data sets by `prepare` alone.
        """

    def provenance(self) -> dict[str, Any] | None:
        """What the data set was made from; None where nothing is written down. Fit for JSON."""


# Each of the data folder and `data.root`. Those that leave out the root are wholly in the data folder.
DATASETS: dict[str, Callable[..., Source]] = {
    "digits": Digits,
    "cifar10": partial(Cifar, "cifar10"),
    "cifar100": partial(Cifar, "cifar100"),
    **{name: partial(Catalogue, name) for name in CATALOGUES},
    "celeba": CelebA,
}
NUM_CLASSES = {name: layout.classes for name, layout in CATALOGUES.items()}
# Height, width and channels of those that are one array of images; all others are decoded as they are needed.
SHAPES = {"digits": (8, 8, 1), "cifar10": (32, 32, 3), "cifar100": (32, 32, 3)}
_WITH_ROOT = {*CATALOGUES, "celeba"}
# In the data folder; the others have their own name there.
_FOLDERS = {"digits": "sdclr_digits", "celeba": "celeb_a"} | {name: layout.tfds for name, layout in CATALOGUES.items()}
_DATA_DIR = "~/.cache/sdclr_jax/data"


def check_name(name: str) -> None:
    """Refuse a name that is neither a key of `DATASETS` nor `folder:` with a path."""
    if name not in DATASETS and not name.startswith(FOLDER):
        known = ", ".join(sorted(DATASETS))
        raise ArgumentError(
            "name",
            f"is {name!r}, which is not known: choose one of {known}, or {FOLDER}/path/to/images, or add your own to "
            "sdclr_jax.data.sources.DATASETS first",
        )


def source(
    name: str,
    data_dir: str | os.PathLike | None = None,
    *,
    root: str = "",
    manifest: str = "",
    seed: int = 0,
    gray_range: tuple[float, ...] = (),
    class_order: str = "natural",
    whole: bool = True,
) -> Source:
    """The data set of a name; nothing is read yet.

    Args:
        name: a key of `DATASETS`, or `folder:` and a path.
        data_dir: folder of all prepared data sets; `default_data_dir()` when None.
        root: the folder of a data set that is used as its publisher packed it; '' for one that tfds has
            prepared in `data_dir`.
        manifest: a CSV file about the images of `folder:`; '' for none.
        seed: of test images that have to be drawn.
        gray_range: values that are black and white in gray images of more than eight bits of `folder:`; () or zeros are
            the range of their type.
        class_order: how the classes of `folder:` are sorted, one of `layouts.CLASS_ORDERS`.
        whole: whether images of `folder:` that are all of one size may be one array, and so are seen whole.

    Raises:
        ArgumentError: unknown name, or an argument that this data set has no use for.
    """
    check_name(name)
    data_dir = default_data_dir() if data_dir is None else expanded(data_dir)
    is_folder = name.startswith(FOLDER)
    if root and name not in _WITH_ROOT:
        raise ArgumentError("root", f"is {root!r}, which {name} does not use: leave it empty")
    if manifest and not is_folder:
        raise ArgumentError("manifest", f"is {manifest!r}, but only {FOLDER}/path reads one: leave it empty")
    given = len(gray_range) and any(gray_range)
    if given and not (len(gray_range) == 2 and -math.inf < gray_range[0] < gray_range[1] < math.inf):
        raise ArgumentError(
            "gray_range", f"is {gray_range}: it must be two numbers, black and white, the smaller one first"
        )
    if given and not is_folder:
        raise ArgumentError("gray_range", f"is {gray_range}, which {name} does not use: leave it at (0.0, 0.0)")
    if in_bucket(data_dir):
        if not (is_folder or root):
            return InBucket(name, data_dir, _FOLDERS.get(name, name), DATASETS[name])
        data_dir = expanded(_DATA_DIR)  # for what is known of the images, which is found again by looking at them
    if is_folder:
        options = {"manifest": manifest, "seed": seed, "class_order": class_order, "whole": whole}
        return Folder(name.removeprefix(FOLDER), data_dir, gray_range=gray_range if given else (), **options)
    return DATASETS[name](data_dir=data_dir, **({"root": root} if name in _WITH_ROOT else {}))


def default_data_dir() -> pathlib.Path:
    """Where prepared data sets lie: `$SDCLR_DATA` if it is set and not empty, else `~/.cache/sdclr_jax/data`."""
    return expanded(os.environ.get("SDCLR_DATA") or _DATA_DIR)
