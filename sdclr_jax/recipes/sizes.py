"""What a run takes in memory at least, compared with what the machine has: fields that are each within their bounds may
together ask for more than there is."""

import math

import numpy as np
from ml_collections import ConfigDict

from sdclr_jax import parallel, trees
from sdclr_jax.data.images import Encoded, as_images
from sdclr_jax.errors import UserError
from sdclr_jax.parallel import Shardings
from sdclr_jax.trees import Tree

# Part of a state, as a word in the names of its leaves -> the fields that make it large.
_PARTS = {
    "projector": "projector.hidden, projector.out or projector.layers",
    "predictor": "predictor.hidden, projector.out or predictor.layers",
    "prototypes": "prototypes.count or projector.out",
    "objective_state": "objective.queue or projector.out",
    "encoder": "the model",
}


def check_state(state: Tree, shardings: Shardings) -> None:
    """Refuse a state that no device of the run can hold.

    Args:
        state: shapes, types and shardings, as `abstract_state` gives them.
        shardings: of the run.

    Raises:
        UserError: says how much it takes, and the fields to make smaller.
    """
    taken = dict.fromkeys(_PARTS, 0)
    total = 0
    for name, leaf in trees.named(state).items():
        held = math.prod(leaf.sharding.shard_shape(leaf.shape))
        # A device that holds a share of a weight has the whole of it during a step.
        gathered = (
            math.prod(leaf.shape) if name.startswith(("params/", "target/")) and held < math.prod(leaf.shape) else 0
        )
        size = (held + gathered) * leaf.dtype.itemsize
        part = next((part for part in _PARTS if part in name), "encoder")
        taken[part], total = taken[part] + size, total + size
    most = _PARTS[max(taken, key=taken.__getitem__)]
    _compare("the weights and the optimizer take", total, _memory(shardings), f"make {most} smaller")


def check_batches(
    config: ConfigDict, images: np.ndarray | Encoded, view: tuple[int, ...], views: int, shardings: Shardings
) -> None:
    """Refuse batches that the host or the devices cannot hold.

    Args:
        config: the run's.
        images: what is trained on.
        view: [1, h, w, C] of a view; those of another size are smaller.
        views: how many there are of an image.
        shardings: of the run; the devices share a batch.

    Raises:
        UserError: says how much they take, and the fields to make smaller.
    """
    numbers, devices = config.batch_size * math.prod(view), shardings.batch.mesh.size
    many_sizes = not as_images(images).is_decoded
    if "chunk" in config.objective:
        columns = 2 * config.batch_size
        held = min(config.objective.chunk or columns, columns) * columns * np.dtype(np.float32).itemsize // devices
        remedy = "set objective.chunk, such as 1024, or make batch_size smaller"
        _compare("the similarities of a batch take", held, _memory(shardings), remedy)
    if not many_sizes:  # views are cut out of whole images on the devices
        size = config.batch_size * math.prod(images.shape[1:]) * np.dtype(np.float32).itemsize // devices
        _compare("the whole images of a batch take", size, _memory(shardings), "make batch_size or the images smaller")
    # The first two views have the full size; in float32, and what goes through the network is more.
    size = numbers * min(views, 2) * np.dtype(np.float32).itemsize // devices
    fields = "batch_size or views.size" if "size" in config.views else "batch_size"
    _compare("the views of a batch take", size, _memory(shardings), f"make {fields} smaller")
    if config.steps_per_dispatch > 1:  # its batches of uint8, as they come and one behind the other
        size = 2 * config.steps_per_dispatch * numbers * (min(views, 2) if many_sizes else 1) // devices
        _compare("the batches of a dispatch take", size, _memory(shardings), "make steps_per_dispatch smaller")
    if many_sizes or config.data.input == "streamed":
        ahead = (1 + config.data.prefetch) * numbers * (min(views, 2) if many_sizes else 1)
        _compare("the batches made ahead take", ahead, parallel.host_memory(), f"make data.prefetch, {fields} smaller")


def check_evaluated(config: ConfigDict, images: np.ndarray | Encoded) -> None:
    """Refuse batches of images to evaluate that the host cannot hold: crops, or whole images where all have one size.

    Raises:
        UserError: as above.
    """
    decoded = as_images(images).is_decoded
    one = math.prod(images.shape[1:]) if decoded else config.evaluate.crop**2 * 3
    _compare(
        "a batch of images to evaluate takes",
        config.evaluate.batch_size * one * np.dtype(np.float32).itemsize,
        parallel.host_memory(),
        f"make evaluate.batch_size{'' if decoded else ' or evaluate.crop'} smaller",
    )


def _memory(shardings: Shardings) -> int | None:
    return parallel.memory(shardings.batch.mesh.local_mesh.devices.flat[0])


def _compare(what: str, size: int, there: int | None, remedy: str) -> None:
    if there is not None and size > there:
        raise UserError(f"{what} {_gigabytes(size)}, and there are {_gigabytes(there)} of memory: {remedy}")


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:,.1f} GB"
