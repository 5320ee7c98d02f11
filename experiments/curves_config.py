"""The configs of `healthy_curves.py`: sixteen methods on small photographs, and five runs with a fault.

`get_config` takes a method, or a name of `SICK`. The heads and learning rates are those of digits_lt.py, which has the
same batch and an encoder as small; what a run of minutes needs is set below.
"""

import jax.numpy as jnp
from ml_collections import ConfigDict

from configs import base, cifar10_lt, digits_lt, methods
from sdclr_jax.objectives import OBJECTIVES, stateless
from sdclr_jax.objectives.base import prediction
from sdclr_jax.objectives.vectors import cosines

DATA_SET = methods.merged(
    cifar10_lt.DATA_SET,
    {
        "epochs": 3,
        "batch_size": 64,
        "checkpoint_every": 1,
        "collapse_every": 20,
        "model": {"name": "resnet8", "width": 8},
        "optimizer": {"warmup_epochs": 1},
        "data": {"split": 1, "last_batch": "dropped"},  # a second step would be compiled for 29 images
        "evaluate": {"every": 1, "live_images": 2000},
    },
)
RECIPE = digits_lt.RECIPE

_RATE = RECIPE["simclr"]["optimizer"]["learning_rate"]
# name -> (the method that has this fault, the fields that make it). One fault has no field: it is in code, below.
SICK = {
    "temperature_0.01": ("simclr", {"objective": {"temperature": 0.01}}),
    "learning_rate_x_30": ("simclr", {"optimizer": {"learning_rate": 30 * _RATE}}),
    "no_stop_gradient": ("simsiam", {}),
    "no_variance_term": ("vicreg", {"objective": {"variance": 0.0}}),
    "mask_from_noise": ("sdclr", {"prune": {"rate": 0.0, "random_rate": 0.9}}),  # as many weights, none by magnitude
}


def get_config(name: str = "simclr") -> ConfigDict:
    method, fields = SICK.get(name, (name, {}))
    config = methods.config(method, DATA_SET, RECIPE)
    base.lay(config, fields)
    if name == "no_stop_gradient":  # in this process, which is the run's own
        OBJECTIVES["simsiam"] = lambda: stateless(lambda a, b: -jnp.mean(cosines(prediction(a), b.projection)))
    return config
