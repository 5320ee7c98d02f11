"""config.json: its fields under the names of today, which of them make a run this run, and which it never reads."""

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

# Fields, or whole groups, that change nothing of what is learnt: a run is resumed and evaluated under other values of
# them. All others are the run's identity.
FREE = (
    *("shard_state", "steps_per_dispatch", "log_every", "checkpoint_every", "keep_every", "collapse_every", "wandb"),
    "evaluate",
    *(
        "objective.chunk",
        "model.start",
        "model.remat",
        "data.root",
        "data.manifest",
        "data.lists",
        "data.without",
        "data.class_order",
        "data.groups",
        "data.input",
        "data.workers",
        "data.prefetch",
    ),
)
# Fields of an evaluation that change no score; and others that are read of images of one size, or of any size, alone.
UNSCORED = tuple(f"evaluate.{name}" for name in ("protocols", "batch_size", "map_images", "every", "live_images"))
OF_ONE_SIZE = ("evaluate.padding",)
OF_ANY_SIZE = tuple(f"evaluate.{name}" for name in ("crop_scale", "resize", "crop", "interpolation"))
# What runs did before there was a field for it.
OLDER = {
    "model": {"start": "", "start_sha256": "", "remat": False},
    "prune": {"criterion": "smallest", "gradient": True},
    "optimizer": {"rate_moves": "after_update"},
    "data": {"last_batch": "dropped", "without": ""},
    "evaluate": {"interpolation": "bicubic"},
}
FOLDER = "folder:"  # data.name of a folder of images, with its path behind
_NUMBERED = ("digits", "cifar10", "cifar100")  # data sets whose published lists had a number in older versions too


def free(names: Iterable[str]) -> list[str]:
    """Those fields, by their full names, that change nothing of what is learnt.

    >>> free(["data.workers", "data.name", "evaluate.knn_k"])
    ['data.workers', 'evaluate.knn_k']
    """
    return [name for name in names if named(name, FREE)]


def _only(fields: Mapping[str, Any], *branches: str) -> bool:
    """Whether no pair has another branch than these: one that a user has added may be pruned, or a target."""
    return all(name in branches for pair in fields["pairs"] for name, _ in pair)


def _views(fields: Mapping[str, Any]) -> int:
    return len({view for pair in fields["pairs"] for _, view in pair})


# (fields, or a group of them, when a run never reads them, why)
_UNREAD: tuple[tuple[tuple[str, ...], Callable[[Mapping[str, Any]], bool], str], ...] = (
    (("prune",), lambda f: _only(f, "dense", "target"), "no pair has the sparse branch"),
    (("target",), lambda f: _only(f, "dense", "sparse"), "no pair has the target branch"),
    (("predictor.hidden", "predictor.last"), lambda f: not f["predictor.layers"], "predictor.layers is 0"),
    (("prototypes.frozen_epochs",), lambda f: not f["prototypes.count"], "prototypes.count is 0"),
    (("data.pareto",), lambda f: f["data.profile"] != "pareto", "data.profile is not pareto"),
    (("data.n_max", "data.imbalance"), lambda f: f["data.profile"] == "as_is", "data.profile is as_is"),
    (("optimizer.trust_coefficient",), lambda f: f["optimizer.name"] != "lars", "optimizer.name is not lars"),
    (("views.small_size", "views.small_crop_scale"), lambda f: _views(f) < 3, "the pairs have two views"),
    (("views.small_crop_scale",), lambda f: not f["views.small_size"], "views.small_size is 0"),
)


def named(name: str, fields: Collection[str]) -> bool:
    """Whether a field, by its full name, is one of `fields`, or of a group that is."""
    return name in fields or name.partition(".")[0] in fields


def unread(fields: Mapping[str, Any]) -> dict[str, str]:
    """Of the fields of a config, by their full names, those that a run never reads, each with the reason. Of a config
    without the field that decides it, as of an older version, nothing is said.

    Raises:
        TypeError, ValueError: `pairs` is not what it should be.

    >>> unread({"data.profile": "as_is", "data.n_max": 9, "epochs": 3})
    {'data.n_max': 'data.profile is as_is'}
    """
    found: dict[str, str] = {}
    for names, is_unread, why in _UNREAD:
        those = [name for name in fields if named(name, names)]
        try:
            found = dict.fromkeys(those if those and is_unread(fields) else (), why) | found
        except KeyError:
            continue
    return found


def of_today(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of a config.json of any version, nested, under the names that they have now.

    >>> found = of_today({"data": {"name": "digits", "lists": "", "split": 3}, "views": {"grey_probability": 0.2}})
    >>> found["views"], found["data"]["seed"], found["data"]["class_order"], found["data"]["last_batch"]
    ({'grayscale_probability': 0.2}, 3, 'natural', 'dropped')
    """
    data, views = fields.get("data"), fields.get("views")
    if isinstance(data, dict) and "split" in data and "seed" not in data:
        numbered = data.get("lists") and data.get("name") in _NUMBERED
        fields = fields | {"data": with_seed(data) | {"split": data["split"] if numbered else 0}}
    data = fields.get("data")
    if isinstance(data, dict) and "class_order" not in data:  # a folder's classes were sorted by their characters
        order = "text" if str(data.get("name")).startswith(FOLDER) else "natural"
        fields = fields | {"data": {"gray_range": (0.0, 0.0), "class_order": order} | data}
    if isinstance(fields.get("model"), dict):
        fields = {"wandb": "", "shard_state": False, "steps_per_dispatch": 1} | fields
    fields = fields | {
        group: older | fields[group] for group, older in OLDER.items() if isinstance(fields.get(group), dict)
    }
    if isinstance(views, dict) and "grey_probability" in views:
        names = {"grey_probability": "grayscale_probability"}
        fields = fields | {"views": {names.get(name, name): value for name, value in views.items()}}
    return fields


def with_seed(data: dict[str, Any]) -> dict[str, Any]:
    """The object `data` of any file of a run: older versions had one number, `split`, for the published lists and for
    what is drawn.

    >>> with_seed({"name": "digits", "split": 3})
    {'name': 'digits', 'split': 3, 'seed': 3}
    """
    return data if "seed" in data or "split" not in data else data | {"seed": data["split"]}
