"""config.json: its fields under the names of today, and which of them make a run this run."""

from collections.abc import Iterable
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
    return [name for name in names if name in FREE or name.partition(".")[0] in FREE]


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
