"""The data set of a config, and its subsets: who trains on what."""

import os
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from sdclr_jax.data import sources
from sdclr_jax.data.examples import Examples
from sdclr_jax.data.images import as_images
from sdclr_jax.data.subsets import labelled_lists, lists, longtail
from sdclr_jax.errors import UserError, renamed
from sdclr_jax.files import on_disk
from sdclr_jax.recipes.encoders import IMPORTED, encoder, names_of_fields
from sdclr_jax.records import TrainedOn


class Data(NamedTuple):
    """A data set's splits, the subsets of `train`, and what the data set and its subsets were made from."""

    train: Examples
    test: Examples
    subsets: longtail.Subsets
    provenance: dict[str, Any] | None

    def part(self, subset: str) -> Examples:
        """The examples of a subset of `train`."""
        return self.train.take(getattr(self.subsets, subset))

    def about(self, subset: str) -> TrainedOn:
        """What tells a subset of `train` from another."""
        ids = self.train.ids[getattr(self.subsets, subset)]
        return TrainedOn(images=len(ids), sha256=longtail.list_hash(ids), provenance=self.provenance)


# What a config calls the arguments of functions of `sdclr_jax.data`.
_FIELDS = {
    "folder": "data.lists",
    "files": "data.lists",
    "split": "data.split",
    "seed": "data.seed",
    "rule": "data.groups",
    **{
        name: f"data.{name}"
        for name in ("name", "root", "manifest", "gray_range", "profile", "pareto", "n_max", "imbalance")
        + ("validation_per_class", "few_shot_per_class")
    },
}


@renamed(_FIELDS)
def data(config: ConfigDict, data_dir: str | os.PathLike | None) -> Data:
    """Load the data set, and read its subsets from `data.lists`, or draw them where that is empty. What `data.without`
    lists is taken out of `data.subset`; the counts by which classes are grouped stay those of the whole subset.

    Raises:
        UserError: unknown data set; lists that are not of it; a profile that the data set cannot fill; a subset that it
            does not have; images to leave out that are not in it; images of a size that the encoder makes nothing of.
    """
    c = config.data
    if c.profile != "as_is":  # before anything is read or prepared; the same call that `draw` makes below
        longtail.class_counts(c.n_max, c.imbalance, 2, c.profile, c.pareto)
    numbered = c.name in lists.DATASETS
    files = None
    if c.lists:
        files = lists.find(c.lists, c.name, c.split) if numbered else labelled_lists.find(c.lists, c.name, c.profile)
    left_out = on_disk(c.without, "the list of data.without is read from") if c.without else None
    options = {"seed": c.seed, "gray_range": c.gray_range, "class_order": c.class_order}
    # An imported encoder was trained on images of one size, which these need not have: it sees resized ones, cropped.
    options["whole"] = config.method != IMPORTED
    source = sources.source(c.name, data_dir, root=c.root, manifest=c.manifest, **options)
    train, test = (_split(source, c.name, split) for split in ("train", "test"))
    with renamed({"names": "the names of the classes"}):
        test = test.of_classes(train.class_names)
    provenance = source.provenance()
    _check_view(config, train)
    draw = {
        "n_max": c.n_max,
        "imbalance": c.imbalance,
        "validation_per_class": c.validation_per_class,
        "few_shot_per_class": c.few_shot_per_class,
        "seed": c.seed,
        "profile": c.profile,
        "pareto": c.pareto,
    }
    if files and numbered:
        subsets = lists.subsets(files, train, name=c.name, n_max=c.n_max, imbalance=c.imbalance)
    elif files:
        train, test, subsets, origins = labelled_lists.read(files, train, test, name=c.name, **draw)
        provenance = (provenance or {}) | {"subsets": origins}
    else:
        subsets = longtail.draw(train.labels, num_classes=len(train.class_names), held_out=train.held_out, **draw)
    if left_out:
        rows = getattr(subsets, c.subset)
        kept = lists.without(left_out, train.ids[rows], c.subset)
        subsets = subsets._replace(**{c.subset: rows[kept]})
    found = Data(train, test, subsets, provenance)
    _check_subsets(config, found)
    return found


def _split(source: sources.Source, name: str, split: str) -> Examples:
    found = source.load(split)
    if not isinstance(found, Examples):
        raise UserError(f"`load({split!r})` of {name} gives a {type(found).__name__}: give an Examples")
    with renamed({field: f"{field} of the {split} images of {name}" for field in Examples._fields}):
        found.check()
    return found


def _check_view(config: ConfigDict, train: Examples) -> None:
    encoded = not as_images(train.images).is_decoded
    if encoded and "size" not in config.views:
        raise UserError(
            f"views.name {config.views.name!r} leaves images as large as they are, and those of {config.data.name} are "
            "of many sizes: take a views.name with a views.size, such as 'simclr'"
        )
    sides = () if encoded else train.images.shape[1:3]
    trained_on = (config.views.size,) * 2 if "size" in config.views else sides
    evaluated_on = sides or (config.evaluate.crop,) * 2
    with renamed(names_of_fields(config.model)):
        for height, width in (trained_on, evaluated_on):
            encoder(config.model).check_view(height, width)


def _check_subsets(config: ConfigDict, found: Data) -> None:
    c, names = config.data, found.train.class_names
    if (classes := sources.NUM_CLASSES.get(c.name, len(names))) != len(names):
        raise UserError(
            f"data.name is {c.name!r}, which has {classes} classes, but {len(names)} were found: set data.lists to the "
            "folder of its lists, which name the classes, or data.name to what data.root holds"
        )
    if not len(getattr(found.subsets, c.subset)):
        why = "its images have no labels" if not names else "its smallest class is too small for it"
        raise UserError(
            f"data.subset is {c.subset!r}, which {c.name} does not have, since {why}: set it to 'long_tail'"
        )
