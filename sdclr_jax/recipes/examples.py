"""The data set of a config, and its subsets: who trains on what."""

from typing import Any, NamedTuple

from ml_collections import ConfigDict

from sdclr_jax.data import sources
from sdclr_jax.data.examples import Examples
from sdclr_jax.data.images import Encoded
from sdclr_jax.data.subsets import labelled_lists, lists, longtail
from sdclr_jax.errors import UserError, renamed


class Data(NamedTuple):
    """A data set's splits, the subsets of `train`, and what the data set and its subsets were made from."""

    train: Examples
    test: Examples
    subsets: longtail.Subsets
    provenance: dict[str, Any] | None

    def part(self, subset: str) -> Examples:
        """The examples of a subset of `train`."""
        return self.train.take(getattr(self.subsets, subset))

    def about(self, subset: str) -> dict[str, int | str]:
        """What tells a subset of `train` from another: its `images`, a number, and the `sha256` of their list."""
        ids = self.train.ids[getattr(self.subsets, subset)]
        return {"images": len(ids), "sha256": longtail.list_hash(ids)}


# What a config calls the arguments of functions of `sdclr_jax.data`.
_FIELDS = {
    "folder": "data.lists",
    "files": "data.lists",
    "seed": "data.split",
    "rule": "data.groups",
    **{
        name: f"data.{name}"
        for name in ("name", "root", "manifest", "profile", "pareto", "n_max", "imbalance")
        + ("validation_per_class", "few_shot_per_class")
    },
}


@renamed(_FIELDS)
def data(config: ConfigDict, data_dir: str | None) -> Data:
    """Load the data set, and read its subsets from `data.lists`, or draw them where that is empty.

    Raises:
        UserError: unknown data set; lists that are not of it; a profile that the data set cannot fill; a subset that it
            does not have; a stem too coarse for its images.
    """
    c = config.data
    if c.profile != "as_is":  # before anything is read or prepared; the same call that `draw` makes below
        longtail.class_counts(c.n_max, c.imbalance, 2, c.profile, c.pareto)
    numbered = c.name in lists.DATASETS
    files = None
    if c.lists:
        files = lists.find(c.lists, c.name, c.split) if numbered else labelled_lists.find(c.lists, c.name, c.profile)
    source = sources.source(c.name, data_dir, root=c.root, manifest=c.manifest, seed=c.split)
    train, test = source.load("train"), source.load("test")
    provenance = source.provenance()
    _check_stem(config, train)
    draw = {
        "n_max": c.n_max,
        "imbalance": c.imbalance,
        "validation_per_class": c.validation_per_class,
        "few_shot_per_class": c.few_shot_per_class,
        "seed": c.split,
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
    found = Data(train, test, subsets, provenance)
    _check_subsets(config, found)
    return found


def _check_stem(config: ConfigDict, train: Examples) -> None:
    encoded = isinstance(train.images, Encoded)
    if encoded and "size" not in config.views:
        raise UserError(
            f"views.name {config.views.name!r} leaves images as large as they are, and those of {config.data.name} are "
            "of many sizes: take a views.name with a views.size, such as 'simclr'"
        )
    side = config.views.get("size", 0 if encoded else train.images.shape[1])
    if config.model.stem == "imagenet" and side < 64:
        raise UserError(
            f"model.stem is 'imagenet', which leaves {side} x {side} images of {config.data.name} with {-(-side // 4)} "
            f"x {-(-side // 4)} places after the stem: set model.stem to 'cifar'"
        )


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
    labelled = len(found.subsets.probe_train)
    if names and not len(found.subsets.validation):
        raise UserError(f"{c.name} has no class of five images, a fifth of which would be for validation: add images")
    if names and config.evaluate.knn_k > labelled:
        raise UserError(
            f"evaluate.knn_k is {config.evaluate.knn_k}: there are {labelled} labelled images to choose neighbours from"
        )
