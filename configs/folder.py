"""Your own photos: a flat folder, or one directory a class, or a manifest (sdclr_jax/data/sources/layouts.py).

sdclr prepare folder:PHOTOS
sdclr pretrain --config=folder:sdclr --config.data.name=folder:PHOTOS --workdir=runs/sdclr
sdclr exemplars runs/sdclr
sdclr evaluate runs/sdclr  # of photos with labels

Defaults for some thousands to some hundred thousand photos and one accelerator; for fewer, lower batch_size, and for
fewer than 200 with labels also evaluate.knn_k.

Cost: not measured.
"""

from ml_collections import ConfigDict

from configs import methods, photos


def get_config(method: str = "sdclr") -> ConfigDict:
    c = photos.get_config(method, methods.SMALL, "resnet18")

    c.epochs = 200
    c.batch_size = 128
    c.optimizer.learning_rate /= 4  # in proportion: the recipe's is for a batch of 512
    c.checkpoint_every = 10
    c.data.name = "folder:"
    c.data.profile = "as_is"
    c.data.validation_per_class = 50
    c.data.few_shot_per_class = 10
    c.views.size = 128
    c.evaluate.knn_k = 20
    return c
