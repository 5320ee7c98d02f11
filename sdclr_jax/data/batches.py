"""Batches of images on the device, the same interface for every way to get them there.

Which images a step sees is in order.py. The last batch of an epoch may be a smaller one: where the devices cannot share
it evenly, each of them gets all of it (`parallel.of_batch`). It is made in shares all the same, and put together on the
devices, where a step is taken and not in the thread that makes batches: all processes compute in one order.
"""

import contextlib
import itertools
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import wait
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from sdclr_jax import parallel, stops
from sdclr_jax.data import order, threads
from sdclr_jax.data.crops import Crops, Unreadable
from sdclr_jax.data.images import Encoded, as_images
from sdclr_jax.data.order import rows
from sdclr_jax.data.workers import Croppers, Task
from sdclr_jax.errors import ArgumentError, UserError
from sdclr_jax.parallel import Shardings

LOG = logging.getLogger(__name__)
T = TypeVar("T")

_LOOK = 1.0  # seconds between two looks at whether a stop was asked for, while a batch is waited for
_LONG = 60  # seconds after which it is said that none comes
LEAST_WORKERS = 32  # processes that a machine of few cores is allowed too: each takes 35 MB and more


@struct.dataclass
class Cropped:
    """A batch of encoded images: random crops of each, made on the host."""

    crops: tuple[jax.Array, ...]  # uint8 [B, V, S, S, 3], V views of each image, for each size S of view

    def __len__(self) -> int:
        return len(self.crops[0])


Batch = jax.Array | Cropped  # whole images uint8 [B, H, W, C], or crops


class _Ordered:
    """The order that all of them have, and how its batches lie on the devices.

    Raises:
        ArgumentError: the batch is larger than the set, or cannot be split evenly over the devices; or a last batch
            that is kept would be one image.
    """

    def __init__(self, size: int, batch_size: int, seed: int, shardings: Shardings, last_batch: str):
        check(size, batch_size, shardings, last_batch)
        self._order = size, batch_size, seed
        self._last_batch = last_batch
        self.steps_per_epoch = order.steps_per_epoch(size, batch_size, last_batch)
        counts = (batch_size, order.part(size, batch_size, last_batch))
        self._sharding = shardings.batch
        self._places = {count: parallel.places(count, shardings.batch) for count in counts if count}

    def images_before(self, step: int) -> int:
        """Images that the steps before this one see, in all."""
        size, batch_size, _ = self._order
        return order.images_before(size, batch_size, step, self._last_batch)

    def is_part(self, step: int) -> bool:
        """Whether the batch of this step is a smaller one, which a whole one of the same epoch comes before."""
        return len(self._rows(step)) < self._order[1]

    def _rows(self, step: int) -> np.ndarray:
        return rows(*self._order, step, self._last_batch)


class Resident(_Ordered):
    """A set small enough to live on the devices as uint8.

    Args:
        images: uint8 [N, H, W, C] on the host.
        batch_size: images a step over all devices.
        seed: of the order.
        shardings: how arrays lie on the devices.
        last_batch: of an epoch, as `order.LAST_BATCHES` has it.

    Raises:
        ArgumentError: the batch is larger than the set, or cannot be split evenly over the devices; or a last batch
            that is kept would be one image.
    """

    def __init__(
        self, images: np.ndarray, batch_size: int, seed: int, shardings: Shardings, *, last_batch: str = "dropped"
    ):
        super().__init__(len(images), batch_size, seed, shardings, last_batch)
        self._replicated = shardings.replicated
        self._images = parallel.replicate(images, shardings.replicated)
        self._take = {
            count: jax.jit(
                lambda images, rows: jnp.take(images, rows, axis=0),
                out_shardings=parallel.of_batch(count, shardings.batch),
            )
            for count in self._places
        }

    def from_step(self, step: int) -> Generator[jax.Array, None, None]:
        """Batches [batch_size, H, W, C], split over the devices, of this step and those after it, without end."""
        while True:
            picked = self._rows(step).astype(np.int32)
            yield self._take[len(picked)](self._images, parallel.replicate(picked, self._replicated))
            step += 1

    def counts(self) -> dict[str, float]:
        """What there is to say of the batches handed out since the last call, for a line of metrics: nothing."""
        return {}


class Sent(_Ordered):
    """A set in the memory of the host, for one that the devices have no room for: each batch is sent to them.

    Gives the batches of `Resident`. Every process sends its own share.

    Args:
        images, batch_size, seed, shardings, last_batch: as of `Resident`.
        prefetch: batches sent ahead.

    Raises:
        ArgumentError: as in `Resident`.
    """

    def __init__(
        self,
        images: np.ndarray,
        batch_size: int,
        seed: int,
        shardings: Shardings,
        *,
        prefetch: int,
        last_batch: str = "dropped",
    ):
        super().__init__(len(images), batch_size, seed, shardings, last_batch)
        self._images, self._prefetch = images, prefetch

    def from_step(self, step: int) -> Generator[jax.Array, None, None]:
        """As of `Resident`; to be closed."""
        with contextlib.closing(_ahead(self._made(step), self._prefetch)) as made:
            for batch, count in made:
                yield parallel.cut(batch, count)

    def counts(self) -> dict[str, float]:
        """As of `Resident`."""
        return {}

    def _made(self, step: int) -> Iterator[tuple[jax.Array, int]]:
        for number in itertools.count(step):
            picked = self._rows(number)
            count, places = len(picked), self._places[len(picked)]
            yield parallel.split(self._images[picked[places]], places, count, self._sharding), count


class Streamed(_Ordered):
    """Crops of encoded images, made while the devices are busy with the batches before.

    An image that has become unreadable since the set was listed is replaced by the next one that can be read, with one
    warning for each; `counts` says how often. Every process decodes its own share of a batch.

    Args:
        images: N encoded images.
        batch_size: images a step over all devices.
        seed: of the order; that of the crops is in `crops`.
        shardings: how arrays lie on the devices.
        crops: what is cut out of each image, the crops of one size together.
        workers: processes that decode, beside this one; 0 decodes in this one, -1 is one a core.
        prefetch: batches made ahead.
        last_batch: as of `Resident`.

    Raises:
        ArgumentError: as in `Resident`.
    """

    def __init__(
        self,
        images: Encoded,
        batch_size: int,
        seed: int,
        shardings: Shardings,
        *,
        crops: Sequence[Crops],
        workers: int,
        prefetch: int,
        last_batch: str = "dropped",
    ):
        super().__init__(len(images), batch_size, seed, shardings, last_batch)
        self._images, self._crops, self._workers, self._prefetch = images, crops, processes(workers), prefetch
        self._unreadable, self._warned = 0, set()

    def from_step(self, step: int) -> Generator[Cropped, None, None]:
        """Batches, split over the devices, of this step and those after it, without end: one array for each of `crops`.

        To be closed, which ends the processes: `with contextlib.closing(batches.from_step(0)) as stream`.

        Raises:
            UserError: a process was killed, or the whole data set is gone.
        """
        workers = {"workers": self._workers, "ahead": self._prefetch}
        largest = max(map(len, self._places.values()))
        with (
            Croppers(self._images, self._crops, largest=largest, **workers) as croppers,
            contextlib.closing(_ahead(self._made(croppers, step), self._prefetch, croppers.stop)) as made,
        ):
            for batch, count, unreadable in made:
                self._count(unreadable)
                yield parallel.cut(batch, count)

    def counts(self) -> dict[str, float]:
        """For a line of metrics: images of this process's share that were replaced since the last call; those of a line
        are the sum over the processes."""
        count, self._unreadable = self._unreadable, 0
        return {"unreadable_images": count}

    def _made(self, croppers: Croppers, step: int) -> Iterator[tuple[Cropped, int, list[Unreadable]]]:
        def task(number: int) -> Task:
            picked = self._rows(number)
            places = self._places[len(picked)]
            return Task(number, picked[places], places)

        counts = (len(self._rows(number)) for number in itertools.count(step))
        for count, (made, unreadable) in zip(counts, croppers.crops(map(task, itertools.count(step))), strict=True):
            split = (parallel.split(x, self._places[count], count, self._sharding) for x in made)
            yield Cropped(tuple(split)), count, unreadable

    def _count(self, unreadable: list[Unreadable]) -> None:
        self._unreadable += len(unreadable)
        for image in unreadable:
            if image.name not in self._warned:
                self._warned.add(image.name)
                LOG.warning("%s cannot be read (%s): another image is taken instead", image.name, image.reason)


def in_order(
    images: np.ndarray | Encoded, crops: Crops, batch_size: int, workers: int, places: np.ndarray | None = None
) -> Generator[np.ndarray, None, None]:
    """One crop uint8 [b, S, S, 3] of every image, in order, `batch_size` of them at a time and the rest at the end.

    Images that are one array are given whole. Of each batch only the rows at `places`, int ascending, are made; None is
    all of them. To be closed, which ends the processes.

    Raises:
        UserError: an image cannot be read: scores over other images than were asked for would be wrong.
    """
    places = np.arange(batch_size) if places is None else places
    shares = (
        start + places[: np.searchsorted(places, len(images) - start)] for start in range(0, len(images), batch_size)
    )
    if as_images(images).is_decoded:
        yield from (images[share] for share in shares)
        return
    tasks = (Task(0, share, places) for share in shares)
    with Croppers(images, (crops,), largest=len(places), workers=processes(workers), ahead=1) as croppers:
        for made, unreadable in croppers.crops(tasks):
            _refuse(unreadable)
            yield made[0][:, 0].copy()


@contextlib.contextmanager
def on_demand(
    images: np.ndarray | jax.Array | Encoded, crops: Crops | None, batch_size: int, workers: int
) -> Iterator[Callable[[int, np.ndarray], np.ndarray | jax.Array]]:
    """A function (step, rows [M]) -> one crop uint8 [M, S, S, 3] of those images, for as long as the context lasts.

    Images that are one array are given as they are, whole, where they lie: on the host or on the device.
    `batch_size` is the largest M. The function raises UserError where an image cannot be read, as above.
    """
    if as_images(images).is_decoded:
        yield lambda step, rows: images[rows]
        return
    with Croppers(images, (crops,), largest=batch_size, workers=processes(workers)) as croppers:

        def crops_of(step: int, rows: np.ndarray) -> np.ndarray:
            ((made, unreadable),) = croppers.crops([Task(step, rows, np.arange(len(rows)))])
            _refuse(unreadable)
            return made[0][:, 0].copy()

        yield crops_of


def processes(workers: int) -> int:
    """The number of worker processes that `workers` asks for.

    Raises:
        ArgumentError: many more than the machine has cores, which would take its memory and stop it.
    """
    # A scheduler such as Slurm gives a process some of a machine's cores.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    most = max(LEAST_WORKERS, 4 * cores)
    if workers > most:
        raise ArgumentError("workers", f"is {workers}, but there are {cores} cores: it must be at most {most}")
    return workers if workers >= 0 else cores


def _refuse(unreadable: list[Unreadable]) -> None:
    if unreadable:
        name, reason = unreadable[0]
        raise UserError(f"{name} cannot be read ({reason}): put it back, or the scores would be of other images")


def _ahead(items: Iterator[T], count: int, end: Callable[[], None] = lambda: None) -> Generator[T, None, None]:
    """The items of an endless iterator, made in a thread, up to `count` of them before they are asked for. `end` is
    called when no more are: it makes an error of what the thread waits for."""
    said = False
    with threads.pool(1, "batches") as thread:
        coming = deque(thread.submit(next, items) for _ in range(count))
        try:
            while True:
                since = time.monotonic()
                while wait([coming[0]], _LOOK).not_done:
                    stops.look()
                    if not said and time.monotonic() - since > _LONG:
                        said = True
                        LOG.warning("no batch of images has come for %d seconds: see whether their disk answers", _LONG)
                item = coming.popleft().result()
                coming.append(thread.submit(next, items))
                yield item
        finally:
            end()


def check(size: int, batch_size: int, shardings: Shardings, last_batch: str) -> None:
    """Raises ArgumentError where so many images cannot be cut into such batches, as `Resident` says it."""
    if not 2 <= batch_size <= size:
        raise ArgumentError(
            "batch_size",
            f"is {batch_size}, but there are {size} images: it must be at least 2 and at most {size}, or take more of "
            "the data set",
        )
    devices = shardings.batch.mesh.size
    if batch_size % devices:
        raise ArgumentError("batch_size", f"is {batch_size}, which {devices} devices cannot share: make it a multiple")
    order.part(size, batch_size, last_batch)
