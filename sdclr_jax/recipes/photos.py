"""The recipe of `sdclr photos`: what a folder of images is trained with, by how many they are and on which device."""

import pathlib

from ml_collections import ConfigDict

from sdclr_jax.data import sources
from sdclr_jax.parallel import Shardings
from sdclr_jax.recipes.configs import load, override
from sdclr_jax.recipes.images import shared_batch_size
from sdclr_jax.recipes.start import architecture_of, choose_architecture

MOST_EPOCHS, LEAST_EPOCHS = 200, 4
ON_ACCELERATOR = "resnet18 of width 64 on 128 x 128 pixels"


def photos(
    folder: pathlib.Path,
    manifest: pathlib.Path,
    images: int,
    *,
    method: str,
    epochs: int,
    on_cpu: bool,
    start: str,
    shardings: Shardings,
) -> ConfigDict:
    """The config of a run on `images` small copies in a folder.

    Args:
        folder: of the copies, squares of `photos_side(on_cpu)` pixels.
        manifest: names them, and nothing else, so that all of them are trained on and no label is read.
        images: how many they are, at least 2.
        method: a row of configs/methods.py, damaged or not.
        epochs: to train for.
        on_cpu: whether there is no accelerator.
        start: file of weights to start from; '' for none.
        shardings: over the devices that share a batch.

    Raises:
        UserError: there is no such method; the file is damaged, or of no encoder that is known here; or there are fewer
            images than devices.
    """
    config = load(f"folder:{method}")
    usual = config.batch_size
    config.batch_size = max(2, min(usual, images // 4))
    config.batch_size = shared_batch_size(config, images, shardings)
    values = {
        "epochs": epochs,
        "optimizer.learning_rate": config.optimizer.learning_rate * config.batch_size / usual,
        "optimizer.warmup_epochs": epochs // 10,
        "checkpoint_every": max(1, epochs // 5),
        "collapse_every": 0,
        "data.name": f"{sources.FOLDER}{folder}",
        "data.manifest": str(manifest),
        "views.size": photos_side(on_cpu, start),
        "views.crop_scale": (0.2, 1.0),
        "views.blur_probability": 0.0,
    }
    if start:
        choose_architecture(config, architecture_of(start))
        values["model.start"] = start
    elif on_cpu:
        values |= {"model.name": "resnet8", "model.width": 16, "model.stem": "cifar"}
        values |= {"projector.hidden": 128, "projector.out": 64}
    override(config, values)
    return config


def photos_side(on_cpu: bool, start: str = "") -> int:
    """Pixels of a copy's side, which is that of a view: what the encoder in the file `start` is for, if it says so."""
    small = on_cpu
    if start:
        found = architecture_of(start)
        if found.view:
            return found.view
        small = on_cpu and found.model.get("stem") == "cifar"  # others make nothing of 32 pixels
    return 32 if small else 128


def described_recipe(config: ConfigDict) -> str:
    """The recipe in a few words."""
    width = f" of width {config.model.width}" if "width" in config.model else ""
    start = config.model.get("start", "")
    return (
        f"{config.method}, {config.model.name}{width} on {config.views.size} x {config.views.size} pixels, "
        f"{config.epochs} epochs, {config.batch_size} images a step" + (f", from {start}" if start else "")
    )
