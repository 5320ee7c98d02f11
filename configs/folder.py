"""Your own photos: a flat folder, or one directory a class, or a manifest (sdclr_jax/data/sources/layouts.py).

sdclr prepare folder:PHOTOS
sdclr pretrain --config=folder:sdclr --config.data.name=folder:PHOTOS --workdir=runs/sdclr
sdclr exemplars runs/sdclr
sdclr evaluate runs/sdclr  # of photos with labels

Defaults for some thousands to some hundred thousand photos and one accelerator; for fewer, lower batch_size, and for
fewer than 20 with labels also evaluate.knn_k.

Cost: not measured; docs/images.md has an estimate.
"""

from ml_collections import ConfigDict

from configs import base, methods, photos

_SHARE = 128 / 512  # our batch over the one that the recipes' rates are for: these are taken in proportion

DATA_SET = methods.merged(
    photos.FIELDS,
    {
        "epochs": 200,
        "batch_size": 128,
        "checkpoint_every": 10,
        "optimizer": {"learning_rate": 0.5 * _SHARE, "rate_moves": "after_update"},
        "data": {
            "name": "folder:",
            "profile": "as_is",
            "validation_per_class": 50,
            "few_shot_per_class": 10,
            "last_batch": "dropped",  # there is no result to repeat, and a second step would be compiled
        },
        "views": {"size": 128},
        "evaluate": {"knn_k": 20, "interpolation": "bicubic"},  # as the views that it learns from
    },
)
RECIPE = methods.merged(
    methods.SMALL,
    {
        row: {"optimizer": {"learning_rate": trained["optimizer"]["learning_rate"] * _SHARE}}
        for row, trained in methods.SMALL.items()
        if "optimizer" in trained
    },
)


def get_config(method: str = "sdclr") -> ConfigDict:
    return base.seen_as_trained(methods.config(method, DATA_SET, RECIPE))
