"""Which images each step sees: a function of (seed, step), so there is nothing to save, and resume is exact."""

from functools import lru_cache

import numpy as np

from sdclr_jax.errors import ArgumentError

# What becomes of the images of an epoch that do not fill a batch.
#   dropped  the epoch ends before them; in another epoch's order they come up.
#   kept     they are a last, smaller batch: a PyTorch loader without `drop_last`.
LAST_BATCHES = ("dropped", "kept")


def rows(size: int, batch_size: int, seed: int, step: int, last_batch: str = "dropped") -> np.ndarray:
    """Indices of the images of a step, counted from 0, out of `size`: [batch_size], fewer in a last batch that is kept.

    Each epoch is a permutation drawn from (seed, epoch), whatever becomes of the last batch.
    """
    epoch, place = divmod(step, steps_per_epoch(size, batch_size, last_batch))
    return _order(size, seed, epoch)[place * batch_size : (place + 1) * batch_size]


def steps_per_epoch(size: int, batch_size: int, last_batch: str) -> int:
    """
    Raises:
        ArgumentError: there are fewer images than a batch has; an unknown `last_batch`; or a last batch that is kept
            would be one image, which has nothing that it could be compared with.

    >>> steps_per_epoch(11165, 512, "dropped"), steps_per_epoch(11165, 512, "kept")  # CIFAR-10-LT
    (21, 22)
    """
    if not 1 <= batch_size <= size:
        raise ArgumentError("batch_size", f"is {batch_size}, but there are {size} images: it must be from 1 to {size}")
    return size // batch_size + bool(part(size, batch_size, last_batch))


def part(size: int, batch_size: int, last_batch: str) -> int:
    """Images in the last batch of an epoch where that is kept and not a whole one, else 0; raises as above.

    >>> part(11165, 512, "kept"), part(11165, 512, "dropped"), part(1024, 512, "kept")
    (413, 0, 0)
    """
    if last_batch not in LAST_BATCHES:
        raise ArgumentError("last_batch", f"is {last_batch!r}: known are {', '.join(LAST_BATCHES)}")
    rest = size % batch_size if last_batch == "kept" else 0
    if rest == 1 < batch_size:
        raise ArgumentError(
            "last_batch",
            f"is 'kept', and of {size} images in batches of {batch_size} one alone is left, with no other to compare "
            "it with: make it 'dropped', or take another batch size",
        )
    return rest


def images_before(size: int, batch_size: int, step: int, last_batch: str) -> int:
    """Images that the steps before this one see, in all.

    >>> images_before(11165, 512, 22, "kept"), images_before(11165, 512, 22, "dropped")
    (11165, 11264)
    """
    epoch, place = divmod(step, steps_per_epoch(size, batch_size, last_batch))
    of_epoch = size if part(size, batch_size, last_batch) else size // batch_size * batch_size
    return epoch * of_epoch + place * batch_size


@lru_cache(maxsize=2)  # of a million images it takes as long as a step
def _order(size: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(size)
