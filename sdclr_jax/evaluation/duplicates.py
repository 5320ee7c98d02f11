"""Near duplicates: the same picture twice, saved again, resized, slightly cropped or mirrored.

Nearest neighbours, by features and by a few pixels, say which pairs to look at. Features alone would not do: those of a
network that has trained for minutes also bring together different pictures of one kind. So each pair is laid one over
the other, mirrored or not, and moved until the pixels agree best, and only then counted. All functions are NumPy on the
host.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Integer, UInt8
from scipy import sparse

from sdclr_jax.evaluation.neighbours import neighbours

SIDE = 32  # pixels of the whole picture, whatever its shape, that are laid one over the other
# Two pictures are one where no more than this share of their pixels' variance differs. A copy saved again at a low
# quality differs by 0.04, and so do two pictures of one kind, such as a digit written twice. So it must also be far
# less than what the picture differs by from those most like it, but for what differs so little that any kind of copy
# does it, of which there may be many. The three numbers are chosen on one planted folder and reported on others
# (experiments/photos.py).
DIFFERENCE = 0.05
DIFFERENCE_TO_OTHERS = 0.25  # of the lower quartile of the differences to the images compared with it
ALWAYS = 0.01
NEIGHBOURS = 10  # of each image, by features and by pixels, that are compared with it
NOISE = 3.0  # grey levels: what saving again changes; a picture of less contrast than that has no content to compare
COLOUR = 40.0  # grey levels by which the mean colours of a picture and its copy may differ
_COARSE, _PROMISING = 8, 0.5  # pixels a side, and correlation there, from which a pair is aligned at all
# Where the search for the best part begins: top, bottom, left, right of the whole, of its middle, of its corners.
_STARTS = [(0, 1, 0, 1), (0.1, 0.9, 0.1, 0.9), *((*y, *x) for y in ((0, 0.9), (0.1, 1)) for x in ((0, 0.9), (0.1, 1)))]
# Shares of a side by which the search moves the borders of the part, and the correlation that it must have reached.
_STEPS = {0.05: 0.5, 0.025: 0.7, 0.0125: 0.8, 0.006: 0.88}
_FINE = 0.0125  # steps from which all pixels count
_MOVES = np.array([(1, 0, 0, 0), (0, 1, 0, 0), (1, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1), (0, 0, 1, 1)])
_MOVES = np.concatenate([_MOVES, -_MOVES])
_SMALLEST = 0.7  # share of a side below which a part is another picture
_BLOCK = 4096  # pairs at a time


class Pairs(NamedTuple):
    """Pairs of images that are the same picture."""

    rows: np.ndarray  # int32 [P, 2], the lower row first, in ascending order
    likeness: np.ndarray  # float32 [P], correlation of their pixels where they agree best
    mirrored: np.ndarray  # bool [P]


def find(
    features: Float[np.ndarray, "N D"] | None,
    thumbnails: UInt8[np.ndarray, "N S S 3"],
    *,
    neighbours: int = NEIGHBOURS,
) -> Pairs:
    """All pairs of near duplicates among images.

    Args:
        features: of the images, of any length; None looks for neighbours by pixels alone.
        thumbnails: each whole image, squeezed into a square of `SIDE` pixels.
        neighbours: nearest images of each, by features and again by pixels, that are compared with it.
    """
    # Exact copies first: they may be more than any number of neighbours, and each group needs one of them only.
    first, same = distinct(thumbnails)
    copies = np.stack([first[same], np.arange(len(same))], axis=1)
    copies = np.sort(copies[copies[:, 0] != copies[:, 1]], axis=1)
    single = np.sort(first)
    rows = single[candidates(None if features is None else features[single], thumbnails[single], neighbours)]
    likeness, mirrored = compare(thumbnails, rows)
    difference = 1 - likeness
    others = _lower_quartiles(rows, difference, len(thumbnails))[rows].min(axis=1)
    kept = (difference <= DIFFERENCE) & ((difference <= DIFFERENCE_TO_OTHERS * others) | (difference <= ALWAYS))
    rows = np.concatenate([rows[kept], copies])
    likeness = np.concatenate([likeness[kept], np.ones(len(copies))])
    mirrored = np.concatenate([mirrored[kept], np.zeros(len(copies), bool)])
    order = np.lexsort(rows.T[::-1])
    return Pairs(rows[order].astype(np.int32), likeness[order].astype(np.float32), mirrored[order])


def distinct(thumbnails: UInt8[np.ndarray, "N S S 3"]) -> tuple[Integer[np.ndarray, " M"], Integer[np.ndarray, " N"]]:
    """The rows of the first images of all M different pictures, and which of these each image is.

    >>> distinct(np.array([7, 5, 7], np.uint8)[:, None, None, None] + np.zeros((2, 2, 3), np.uint8))
    (array([1, 0]), array([1, 0, 1]))
    """
    # Compared as bytes, which takes a hundredth of the time of `axis=0` where pictures begin alike, as with white.
    flat = np.ascontiguousarray(thumbnails.reshape(len(thumbnails), -1))
    _, first, same = np.unique(flat.view(f"V{flat.shape[1]}")[:, 0], return_index=True, return_inverse=True)
    return first, same.reshape(-1)


def candidates(
    features: Float[np.ndarray, "N D"] | None, thumbnails: UInt8[np.ndarray, "N S S 3"], k: int
) -> Integer[np.ndarray, "P 2"]:
    """The pairs worth a look: the `k` nearest of each image by features, and the `k` nearest by pixels."""
    k = min(k, len(thumbnails) - 1)
    if k < 1:
        return np.empty((0, 2), np.int64)
    described = [_sketch(thumbnails)] if features is None else [_sketch(thumbnails), features]
    near = np.concatenate([neighbours(x, k).rows for x in described], axis=1)
    pairs = np.stack([np.repeat(np.arange(len(near)), near.shape[1]), near.ravel()], axis=1)
    return np.unique(np.sort(pairs, axis=1), axis=0)


def compare(
    thumbnails: UInt8[np.ndarray, "N S S 3"], rows: Integer[np.ndarray, "P 2"]
) -> tuple[Float[np.ndarray, " P"], np.ndarray]:
    """How far the pixels of the pairs `rows` agree at best, and whether they do so mirrored, bool [P].

    Of both images of a pair any part of at least `_SMALLEST` of each side is tried against the whole other one.
    """
    likeness, mirrored = np.zeros(len(rows)), np.zeros(len(rows), bool)
    small = _pooled(thumbnails, _COARSE)
    for block in _blocks(len(rows)):
        a, b = rows[block].T
        for turned in (False, True):
            there = small[b][:, :, ::-1] if turned else small[b]
            promising = _correlation(small[a], there) >= _PROMISING
            promising &= np.abs(small[a].mean((1, 2)) - there.mean((1, 2))).max(1) <= COLOUR
            if not promising.any():
                continue
            first = thumbnails[a[promising]].astype(np.float32)
            second = thumbnails[b[promising]].astype(np.float32)
            second = second[:, :, ::-1] if turned else second
            found = np.maximum(_best(first, second), _best(second, first))
            at = np.arange(block.start, block.stop)[promising]
            mirrored[at] = np.where(found > likeness[at], turned, mirrored[at])
            likeness[at] = np.maximum(likeness[at], found)
    return likeness, mirrored


def groups(pairs: Pairs, images: int) -> Integer[np.ndarray, " N"]:
    """The number of the group of copies that each image is in, from 0 on in the order of their first images; -1 for an
    image that is there once."""
    graph = sparse.coo_array((np.ones(len(pairs.rows)), pairs.rows.T), shape=(images, images))
    _, label = sparse.csgraph.connected_components(graph, directed=False)
    sizes = np.bincount(label, minlength=images)
    number = np.full(images, -1)
    several = np.unique(label[sizes[label] > 1], return_index=True)
    order = np.argsort(np.flatnonzero(sizes[label] > 1)[several[1]])
    for n, found in enumerate(several[0][order]):
        number[label == found] = n
    return number


def _lower_quartiles(rows: np.ndarray, values: np.ndarray, images: int) -> np.ndarray:
    """Of the `values` [P] of the pairs that each image is in, [images]; 1 for an image in less than four."""
    quartiles, image, value = np.ones(images), rows.ravel(), np.repeat(values, 2)
    order = np.lexsort((value, image))
    image, value = image[order], value[order]
    first, end = (np.searchsorted(image, np.arange(images), side) for side in ("left", "right"))
    enough = end - first >= 4
    quartiles[enough] = value[first[enough] + (end - first - 1)[enough] // 4]
    return quartiles


def _best(whole: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The best correlation [P] of a part of each `whole` [P, S, S, 3], at the size of the whole, with each `other`: a
    search by smaller and smaller steps of the part's four borders, all pairs at once, first on few pixels."""
    small, small_other = (_pooled(x, SIDE // 2) for x in (whole, other))
    best = np.full(len(whole), -1.0)
    at = np.tile([0.0, 1.0, 0.0, 1.0], (len(whole), 1))  # top, bottom, left, right as shares of a side
    for start in _STARTS:
        best, at = _better(small, small_other, np.tile(start, (len(whole), 1)), best, at)
    for step, needed in _STEPS.items():
        on = np.flatnonzero(best >= needed)
        if step <= _FINE:
            small, small_other = whole, other
            best[on] = _correlation(_part(whole[on], at[on]), other[on])
        for _ in range(2):
            for move in _MOVES:
                best[on], at[on] = _better(small[on], small_other[on], at[on] + step * move, best[on], at[on])
    return best


def _better(whole, other, tried, best, at):
    """The higher correlation of each pair, of the parts `tried` and `at`, and the part that has it."""
    inside = (tried[:, ::2] >= 0).all(1) & (tried[:, 1::2] <= 1).all(1)
    inside &= (tried[:, 1::2] - tried[:, ::2] >= _SMALLEST).all(1)
    found = np.full(len(whole), -1.0)
    if inside.any():
        found[inside] = _correlation(_part(whole[inside], tried[inside]), other[inside])
    higher = found > best
    return np.where(higher, found, best), np.where(higher[:, None], tried, at)


def _part(images: np.ndarray, part: np.ndarray) -> np.ndarray:
    """The parts [P, 4] of images [P, S, S, 3], bilinear, at the size of the images."""
    side, line = images.shape[1], images.shape[2] * images.shape[3]
    centres = (np.arange(side) + 0.5) / side

    def weights(low: np.ndarray, high: np.ndarray) -> np.ndarray:
        places = np.clip((low[:, None] + (high - low)[:, None] * centres) * side - 0.5, 0, side - 1)
        return np.maximum(0, 1 - np.abs(places[..., None] - np.arange(side))).astype(np.float32)

    rows = np.matmul(weights(part[:, 0], part[:, 1]), images.reshape(len(images), side, line))
    rows = rows.reshape(images.shape).swapaxes(1, 2).reshape(len(images), side, line)
    return np.matmul(weights(part[:, 2], part[:, 3]), rows).reshape(images.shape).swapaxes(1, 2)


def _correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Of the pixels of each pair [P, S, S, 3], each channel around its mean. Noise counts as if it were in both and
    agreed, so that two pictures of one colour do, too."""
    a, b = (x - x.mean((1, 2), keepdims=True) for x in (a, b))
    noise = NOISE**2 * np.prod(a.shape[1:])
    product = np.einsum("phwc,phwc->p", a, b) + noise
    return product / np.sqrt((np.einsum("phwc,phwc->p", a, a) + noise) * (np.einsum("phwc,phwc->p", b, b) + noise))


def _sketch(thumbnails: np.ndarray) -> np.ndarray:
    """A few numbers [N, 8 * 8 * 3 * 2] that mirroring does not change: the sum of an image and its mirror image, and
    the size of their difference."""
    small = _pooled(thumbnails, _COARSE)
    small = small - small.mean((1, 2), keepdims=True)
    turned = small[:, :, ::-1]
    return np.concatenate([small + turned, np.abs(small - turned)], axis=1).reshape(len(small), -1)


def _pooled(thumbnails: np.ndarray, side: int) -> np.ndarray:
    """Means of squares, float32 [N, side, side, 3]."""
    cell = thumbnails.shape[1] // side
    return thumbnails.reshape(len(thumbnails), side, cell, side, cell, 3).mean((2, 4), dtype=np.float32)


def _blocks(count: int) -> Iterator[slice]:
    return (slice(start, min(start + _BLOCK, count)) for start in range(0, count, _BLOCK))
