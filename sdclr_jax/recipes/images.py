"""From images to what the network sees: batches, crops on the host, views on the device."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from sdclr_jax import parallel
from sdclr_jax.data import augment, order
from sdclr_jax.data import batches as batching
from sdclr_jax.data.batches import Batch, Cropped, Resident, Sent, Streamed
from sdclr_jax.data.crops import CentreCrop, RandomCrops
from sdclr_jax.data.images import Encoded, as_images
from sdclr_jax.errors import UserError, renamed
from sdclr_jax.parallel import Shardings
from sdclr_jax.recipes.configs import PER_VIEW
from sdclr_jax.recipes.sizes import check_batches
from sdclr_jax.train import Views

_BATCHED = {"batch_size": "batch_size", "last_batch": "data.last_batch", "workers": "data.workers"}
_NORMALISED = {"mean": "views.mean", "std": "views.std"}
VIEWS = {"digits": augment.digits_view, "simclr": augment.simclr_view}


@renamed(_BATCHED)
def batches(config: ConfigDict, images: np.ndarray | Encoded, shardings: Shardings) -> Resident | Sent | Streamed:
    """The batches of a run: as `data.input` has it, taken from images on the devices or on the host, or decoded and
    cropped as they are needed.

    Raises:
        UserError: batch_size does not fit the images, the devices or the memory; images of many sizes cannot lie on the
            devices; or more worker processes than the machine is good for.
    """
    check_batches(config, images, view_shape(config, image_shape(config, images)), view_count(config), shardings)
    common, last_batch = (images, config.batch_size, config.seed, shardings), config.data.last_batch
    if as_images(images).is_decoded:
        streamed = config.data.input == "streamed"
        if streamed:
            return Sent(*common, prefetch=config.data.prefetch, last_batch=last_batch)
        return Resident(*common, last_batch=last_batch)
    if config.data.input == "resident":
        raise UserError(
            f"data.input is 'resident', but the images of {config.data.name} have sizes of their own, and are decoded "
            "as they are needed: set it to 'auto'"
        )
    crops = tuple(
        RandomCrops(
            count=count,
            size=v["size"],
            scale=v["crop_scale"],
            ratio=v["crop_ratio"],
            seed=config.seed,
            first=n,
            interpolation=v.get("interpolation", "bicubic"),
        )
        for n, count, v in view_groups(config)
    )
    workers = {"workers": config.data.workers, "prefetch": config.data.prefetch}
    return Streamed(*common, crops=crops, last_batch=last_batch, **workers)


@renamed(_BATCHED)
def check_batch_size(config: ConfigDict, images: int, shardings: Shardings) -> None:
    """Raises UserError where batch_size or data.last_batch does not fit so many images, or the devices."""
    batching.check(images, config.batch_size, shardings, config.data.last_batch)


def shared_batch_size(config: ConfigDict, images: int, shardings: Shardings) -> int:
    """Images a step: those of training, as far up as the devices need to share them; of fewer images as many as can be
    shared, since an image that is twice in a batch would be a negative of itself.

    Raises:
        UserError: there are fewer images than devices.
    """
    fewest = shardings.batch.mesh.size
    if images < fewest:
        raise UserError(f"the run has {images} images, and there are {fewest} devices to share them: use fewer devices")
    return min(parallel.shareable(config.batch_size, shardings.batch), images // fewest * fewest)


@renamed(_BATCHED)
def epoch(config: ConfigDict, images: int, step: int) -> float:
    """Epochs of so many images that a step ends; 0 at step 0, where imported weights are, whatever the batch size.

    Raises:
        UserError: batch_size or data.last_batch does not fit the images.
    """
    return step / order.steps_per_epoch(images, config.batch_size, config.data.last_batch) if step else 0.0


def image_shape(config: ConfigDict, images: np.ndarray | Encoded) -> tuple[int, int, int, int]:
    """[N, H, W, C] of images; encoded ones are taken to have the size of a view."""
    return (len(images), *as_images(images).shape(config.views.get("size", 0)))


def view_shape(config: ConfigDict, image_shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """[1, h, w, C] of one view of images [N, H, W, C]."""
    size = config.views.get("size")
    height, width = (size, size) if size else image_shape[1:3]
    return (1, height, width, image_shape[3])


def views(config: ConfigDict) -> Callable[[jax.Array, Batch], Views]:
    """(key, batch) -> as many float views [B, h, w, C] as the pairs name; those of one size in one computation."""
    view, groups = VIEWS[config.views.name], view_groups(config)

    def make_views(key: jax.Array, batch: Batch) -> Views:
        made = ()
        for number, (_, count, fields) in enumerate(groups):
            own_key = jax.random.fold_in(key, number) if number else key
            # All views of an image in neighbouring rows: a batch split over devices is not moved between them.
            with renamed({name: f"views.{name}" for name in fields}):
                if isinstance(batch, Cropped):
                    crops = batch.crops[number]
                    rows = view(own_key, crops.reshape(-1, *crops.shape[2:]), cropped=True, **fields)
                else:
                    rows = view(own_key, jnp.repeat(batch, count, axis=0), **fields)
            rows = rows.reshape(len(batch), count, *rows.shape[1:])
            made += tuple(rows[:, i] for i in range(count))
        return made

    return make_views


def view_groups(config: ConfigDict) -> list[tuple[int, int, dict[str, Any]]]:
    """Views that are made together, since they have one size: number of the first, how many, and their fields."""
    fields = {k: v for k, v in config.views.items() if k not in ("name", "small_size", "small_crop_scale")}
    count, changed = view_count(config), {}
    large = min(count, 2) if config.views.get("small_size") else count
    if large < count:
        changed = {"size": config.views.small_size, "crop_scale": config.views.small_crop_scale}
    groups = []
    for first, end, own in ((0, large, fields), (large, count, fields | changed)):
        if first < end:
            own = {k: v[first:end] if k in PER_VIEW and isinstance(v, tuple) else v for k, v in own.items()}
            groups.append((first, end - first, own))
    return groups


def view_count(config: ConfigDict) -> int:
    return len({view for pair in config.pairs for _, view in pair})


def plain_view(config: ConfigDict):
    """uint8 images [B, H, W, C] -> float views, nothing random, for evaluation."""
    return renamed(_NORMALISED)(partial(augment.plain, mean=config.views.mean, std=config.views.std))


def centre_crop(config: ConfigDict) -> CentreCrop:
    """What is evaluated of an encoded image."""
    c = config.evaluate
    return CentreCrop(size=c.crop, resize=c.resize, interpolation=c.interpolation)


def probe_crops(config: ConfigDict) -> RandomCrops:
    """What the probe trains on of an encoded image: torchvision's RandomResizedCrop, as in the authors' code."""
    c = config.evaluate
    cut = {"size": c.crop, "scale": c.crop_scale, "ratio": (3 / 4, 4 / 3), "interpolation": c.interpolation}
    return RandomCrops(count=1, seed=config.seed, **cut)
