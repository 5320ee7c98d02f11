"""Train a method, or resume a run that was stopped: what is looked at and refused before anything is written."""

import contextlib
import logging
import os
import pathlib
import sys

import jax
from ml_collections import ConfigDict

from sdclr_jax import numerics, parallel, processes, recipes
from sdclr_jax.api import agreement, loop
from sdclr_jax.api.load import Run, load
from sdclr_jax.data.images import as_images
from sdclr_jax.errors import UserError, renamed
from sdclr_jax.files import expanded, in_bucket
from sdclr_jax.records import names
from sdclr_jax.run import folder, profile, wandb
from sdclr_jax.run.checkpoints import Checkpoints
from sdclr_jax.train import State

LOG = logging.getLogger(__name__)


def pretrain(
    config: ConfigDict,
    workdir: str | os.PathLike,
    *,
    data_dir: str | os.PathLike | None = None,
    devices: list[jax.Device] | None = None,
    progress: bool = False,
) -> Run:
    """Train a method to its last step; where `workdir` holds this run already, resume it.

    Args:
        config: as `sdclr_jax.config` gives it, or a ConfigDict of your own with the same fields.
        workdir: the run's folder, which is made.
        data_dir: folder of prepared data sets; None is $SDCLR_DATA or ~/.cache/sdclr_jax/data.
        devices: those to train on; None is all of all processes.
        progress: whether to draw a progress bar on the standard error.

    Returns:
        The run, as `sdclr_jax.load` opens it.

    Raises:
        UserError: bad input, before anything is written.
        Diverged: something is no longer finite; the last good checkpoint stays.
        Stopped: a stop was asked for (Ctrl-C, SIGTERM, SIGHUP, SIGUSR1), and the state is saved.

    >>> config = sdclr_jax.config("digits_lt:sdclr", epochs=2, optimizer={"warmup_epochs": 0})
    >>> run = sdclr_jax.pretrain(config, "runs/example")
    >>> run.step  # 369 images, 64 a step
    10
    """
    directory = expanded(workdir)
    train(config, directory, data_dir, devices=devices, progress=progress)
    return load(directory)


@numerics.fixed()
def train(
    config: ConfigDict,
    directory: pathlib.Path,
    data_dir: str | os.PathLike | None = None,
    *,
    devices: list[jax.Device] | None = None,
    progress: bool = False,
    profiled_steps: int = 0,
) -> State:
    """Train to the last step, from the newest checkpoint in `directory` if there is one; returns the last state.

    `profiled_steps` of them are traced into the folder `profile`, and what they cost is printed.

    Raises:
        UserError: bad input, before anything is written; in every process what one of them finds.
        Diverged: something is no longer finite; the last good checkpoint stays.
        Stopped: a stop was asked for, and the state is saved.
    """
    with processes.together():
        recipes.check(config)
        with renamed({"project": "wandb"}):
            wandb.check(config.wandb)
        config = recipes.with_hash_of_start(recipes.located(config), directory)
        if not (directory / names.CONFIG).exists():
            recipes.check_new(config)
        folder.check(directory, config, recipes.identity)
        agreement.on_run(config, {"--profile": profiled_steps})
        shardings = parallel.shardings(devices)
        if config.steps_per_dispatch > 1 and shardings.batch.mesh.devices.flat[0].platform == "cpu":
            LOG.warning(
                "steps_per_dispatch is %d, and on CPUs convolutions in a loop are a hundred times slower: set it to 1",
                config.steps_per_dispatch,
            )
        data = recipes.data(config, data_dir)
        online = recipes.online_probe(config, data, shardings) if config.evaluate.every else None
        images, trained_on = data.part(config.data.subset).images, data.about(config.data.subset)
        if changed := folder.about_other_data(directory, trained_on):
            raise UserError(
                f"{changed}: put the images back, and their labels, which decide what is kept for testing and "
                "validation; or give another --workdir"
            )
        folder.check_seen(directory, as_images(images).whole_shape)
        batches, shape = recipes.batches(config, images, shardings), recipes.image_shape(config, images)
        total = config.epochs * batches.steps_per_epoch
        if profiled_steps:
            profile.check(profiled_steps, profile.WARM_UP * config.steps_per_dispatch, total)
            if in_bucket(directory):
                raise UserError(f"--profile needs a --workdir on a disk, and {directory} is in a bucket: leave it out")
        like = recipes.abstract_state(config, shape, shardings, training=True)
        method = recipes.method(config, batches.steps_per_epoch, parallel.of(like))
        taken = recipes.start(config, like) if config.model.start and not _has_checkpoint(directory) else None
        recipes.try_step(config, method, like, images, shardings.batch)
        # No process writes before all have looked and found the same.
        agreement.on_images({"training": data.part(config.data.subset)} | ({"all": data.train} if online else {}))
        if online:
            agreement.on_lists(data.subsets)
        folder.check_shared(directory)
        parts = loop.Parts(
            config=config,
            method=method,
            batches=batches,
            online=online,
            like=like,
            start=taken.branches if taken else {},
            view_shape=recipes.view_shape(config, shape),
            shardings=shardings,
        )
        with folder.lock(directory) if processes.is_main() else contextlib.nullcontext(lambda: None) as still_held:
            if processes.is_main():
                encoder = recipes.encoder_record(config, shape, encoded=not as_images(images).is_decoded)
                folder.claim(directory, config, trained_on, encoder, recipes.identity)
            processes.exchange("the start of training")
            if taken and processes.is_main():
                print(f"{config.model.start}: {taken}", file=sys.stderr)
            if processes.is_main() and (origins := (data.provenance or {}).get("subsets")):
                print(f"{config.data.lists}: " + ", ".join(f"{k}: {v}" for k, v in origins.items()), file=sys.stderr)
            return loop.train(parts, directory, still_held, progress=progress, profiled_steps=profiled_steps)


def _has_checkpoint(directory: pathlib.Path) -> bool:
    """Whether there is one to go on from; what a killed process had begun is none."""
    with Checkpoints(directory / names.CHECKPOINTS, read_only=True) as found:
        return bool(found.steps)
