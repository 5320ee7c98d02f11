"""A method small enough to compile in a second, shared by the tests."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np

from configs import base, methods
from sdclr_jax import branches, objectives, optim, pruning, recipes
from sdclr_jax.models import Head, Network
from sdclr_jax.models.resnet import BasicBlock, ResNet
from sdclr_jax.train import Method

PAIRS = {
    "simclr": ((("dense", 0), ("dense", 1)),),
    "sdclr": ((("dense", 0), ("sparse", 1)),),
    "both_ways": ((("dense", 0), ("sparse", 1)), (("dense", 1), ("sparse", 0))),
}
STEPS_PER_EPOCH = 2
# What makes the method of a row of configs/methods.py tiny; everything else is as the row has it.
RECIPE = {
    name: {
        "projector": {"hidden": 8, "out": 4},
        "predictor": {"hidden": 6},
        "optimizer": {"learning_rate": 0.05},
    }
    for name in methods.ROWS
}
RECIPE["moco"]["objective"] = {"queue": 20}
RECIPE["swav"] |= {"objective": {"queue": 16, "queue_start_epochs": 1}, "prototypes": {"count": 5, "frozen_epochs": 1}}
RECIPE["w_mse"]["objective"] = {"slice_size": 8}
RECIPE["byol"]["optimizer"] |= {"name": "lars", "decay_vectors": False}
RECIPE["w_mse"]["optimizer"] |= {"name": "sgd"}  # Adam makes of rounding near a gradient of 0 a whole step


def two_views(key: jax.Array, images: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Noise on the image, so that views differ and depend on the key."""
    x = images.astype(jnp.float32) / 255
    noise = jax.random.normal(key, (2, *images.shape)) * 0.1
    return x + noise[0], x + noise[1]


def two_flips(key: jax.Array, images: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Views that cost no random numbers, which compile slowly."""
    x = images.astype(jnp.float32) / 255
    return x, x[:, ::-1]


@cache
def method(pairs: str = "sdclr", norms: str = "private", rate: float = 0.5, dtype: str = "float32") -> Method:
    names = {branch for pair in PAIRS[pairs] for branch, _ in pair}
    return Method(
        network=Network(
            ResNet((1, 1), BasicBlock, width=4, dtype=jnp.dtype(dtype)), Head(2, 8, 4, dtype=jnp.dtype(dtype))
        ),
        branches=branches.choose(names, norms),
        pairs=PAIRS[pairs],
        make_views=two_views,
        objective=objectives.OBJECTIVES["nt_xent"](temperature=0.2),
        optimizer=optim.sgd(
            learning_rate=0.1, momentum=0.9, weight_decay=1e-4, warmup_steps=0, total_steps=100, final_learning_rate=0
        ),
        prune=partial(pruning.magnitude_mask, rate=rate),
    )


@cache
def row(name: str) -> Method:
    """The method of a row of configs/methods.py, as `recipes` puts it together, with a tiny network."""
    config = base.get_config()
    methods.choose(config, name, RECIPE)
    config.epochs, config.optimizer.warmup_epochs = 10, 0
    config.prune.rate = 0.5
    built = recipes.method(config, STEPS_PER_EPOCH)
    built.network = built.network.clone(encoder=ResNet((), BasicBlock, width=4))
    built.make_views = two_flips
    return built


@cache
def functions(pairs: str = "sdclr", norms: str = "private", rate: float = 0.5):
    """The method's init, step and refresh, jitted; nothing is donated, so that states can be compared."""
    m = method(pairs, norms, rate)
    return jax.jit(m.init), jax.jit(m.step), jax.jit(m.refresh)


def images(n: int = 16) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, 8, 8, 1), np.uint8)


def state(pairs: str = "sdclr", norms: str = "private", rate: float = 0.5):
    return functions(pairs, norms, rate)[0](np.uint32(0), jnp.zeros((1, 8, 8, 1)))
