"""Pruning: one magnitude threshold over all weights that can be pruned (Jiang et al., ICML 2021, Section 3.2)."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from sdclr_jax import trees
from sdclr_jax.errors import ArgumentError
from sdclr_jax.trees import Tree

Prunable = Callable[[str, jax.Array], bool]  # (name, leaf) -> whether it can be pruned; `Network.prunable` is one


def _chosen(weights: Tree, prunable: Prunable) -> Tree:
    chosen = trees.partition(weights, prunable)[0]
    if not jax.tree.leaves(chosen):
        raise ArgumentError("prunable", "chooses none of the weights: a sparse branch needs some that can be pruned")
    return chosen


def ones(weights: Tree, prunable: Prunable) -> Tree:
    """The mask that keeps everything: bool in the shape of every prunable leaf, None elsewhere.

    Raises:
        ArgumentError: no leaf is prunable.

    >>> weights = {"conv": {"kernel": jnp.ones((1, 2)), "bias": jnp.zeros(2)}}
    >>> ones(weights, lambda name, leaf: name.endswith("kernel"))
    {'conv': {'bias': None, 'kernel': Array([[ True,  True]], dtype=bool)}}
    """
    return jax.tree.map(lambda w: jnp.ones(w.shape, bool), _chosen(weights, prunable))


def apply(mask: Tree, weights: Tree) -> Tree:
    """The weights with the pruned entries at zero; a pruned entry gets no gradient through the result.

    `where` and not a product: a product would pass on a NaN, and strict types refuse bool times float.

    >>> mask = {"kernel": jnp.array([True, False]), "bias": None}
    >>> apply(mask, {"kernel": jnp.array([3.0, 1.0]), "bias": jnp.ones(1)})
    {'bias': Array([1.], dtype=float32), 'kernel': Array([3., 0.], dtype=float32)}
    """
    return jax.tree.map(
        lambda m, w: w if m is None else jnp.where(m, w, jnp.zeros_like(w)), mask, weights, is_leaf=lambda x: x is None
    )


def _of_one_type(weights: list[jax.Array]) -> list[jax.Array]:
    """The same values in the smallest type that holds all of them, as the bits of two types do not compare."""
    weights = [jnp.asarray(w) for w in weights]
    with jax.numpy_dtype_promotion("standard"):  # asked for here, and exact
        common = jnp.result_type(*weights)
    return [w.astype(common) for w in weights]


def _entry(bits: list[jax.Array], rank: int) -> jax.Array:
    """Entry number `rank`, counted from 0, of all these unsigned integers in ascending order; none has its highest bit
    set.

    It is found by bisection on the bits: one counting pass a bit, exact, without a copy, on sharded arrays too. Sorting
    11 million weights takes XLA 20 times as long on a CPU.
    """
    dtype = bits[0].dtype
    width = 8 * dtype.itemsize

    def settle(i: jax.Array, low: jax.Array) -> jax.Array:
        # `low` holds the bits found so far; the next one is set if at most `rank` entries lie below it.
        high = low | (jnp.ones((), dtype) << (jnp.asarray(width - 2, dtype) - i.astype(dtype)))
        below = sum(jnp.sum(b < high, dtype=jnp.int32) for b in bits)
        return jnp.where(below <= rank, high, low)

    return jax.lax.fori_loop(0, width - 1, settle, jnp.zeros((), dtype))


def _magnitude_bits(w: jax.Array) -> jax.Array:
    # Non-negative floats order like their bits.
    return jax.lax.bitcast_convert_type(jnp.abs(w), jnp.dtype(f"uint{8 * w.dtype.itemsize}"))


def _random_bits(w: jax.Array, key: jax.Array) -> jax.Array:
    return jax.random.bits(key, w.shape, _magnitude_bits(w).dtype) >> 1


def _reversed_bits(w: jax.Array) -> jax.Array:
    dtype = jnp.dtype(f"uint{8 * w.dtype.itemsize}")
    return jnp.asarray(jnp.iinfo(dtype).max >> 1, dtype) - _magnitude_bits(w)


# What is cut -> (leaf, key) -> a rank of each weight, as `_entry` takes it: those of the lowest ranks are cut.
CRITERIA: dict[str, Callable[[jax.Array, jax.Array | None], jax.Array]] = {
    "smallest": lambda w, key: _magnitude_bits(w),  # the published one
    "random": _random_bits,
    "largest": lambda w, key: _reversed_bits(w),
}


def magnitude_mask(
    weights: Tree,
    rate: float,
    *,
    prunable: Prunable,
    criterion: str = "smallest",
    random_rate: float = 0.0,
    key: jax.Array | None = None,
) -> Tree:
    """The mask of the sparse branch, made from the weights as they are.

    Of all n prunable weights together the threshold is entry number ceil(rate * n) of the sorted |w|; what is not
    below it is kept (so equal magnitudes stay or go together), the largest in any case. Of what is kept, a random part
    of expected size ceil(random_rate * n) goes too.

    Two other criteria are here as controls, which cut as many: the largest |w| instead, or weights drawn at random.

    Args:
        weights: tree of arrays.
        rate: share cut by the criterion, 0 <= rate < 1.
        prunable: (name, leaf) -> whether a leaf is masked.
        criterion: which weights are cut, one of `CRITERIA`.
        random_rate: share cut at random in addition, 0 <= random_rate < 1 - rate.
        key: for what is random; not read with another criterion than 'random' and a `random_rate` of 0.

    Returns:
        Bool leaves where a weight can be pruned, None elsewhere.

    Raises:
        ArgumentError: no leaf is prunable, a rate is out of its range, an unknown criterion, or no key for what is
            random.

    >>> weights = {"a": {"kernel": jnp.array([0.1, -4.0])}, "b": {"kernel": jnp.array([3.0, -0.3])}}
    >>> magnitude_mask(weights, 0.5, prunable=lambda name, leaf: True)
    {'a': {'kernel': Array([False,  True], dtype=bool)}, 'b': {'kernel': Array([ True, False], dtype=bool)}}
    """
    if not 0 <= rate < 1:
        raise ArgumentError("rate", f"is {rate}: it must be at least 0 and below 1")
    if not 0 <= random_rate < 1 - rate:
        raise ArgumentError("random_rate", f"is {random_rate}: it must be at least 0 and below 1 - rate, {1 - rate:g}")
    if criterion not in CRITERIA:
        raise ArgumentError("criterion", f"is {criterion!r}: known are {', '.join(CRITERIA)}")
    if key is None and (random_rate or criterion == "random"):
        what = f"random_rate is {random_rate}" if random_rate else "criterion is 'random'"
        raise ArgumentError("key", f"is None, and {what}: give a key to draw with")
    leaves, treedef = jax.tree.flatten(_chosen(weights, prunable))
    leaves = _of_one_type(leaves)
    size = sum(leaf.size for leaf in leaves)
    cut = min(math.ceil(rate * size), size - 1)
    # Not the keys of the random part below, which would then be no second draw.
    keys = [None if key is None else jax.random.fold_in(jax.random.fold_in(key, 1), i) for i in range(len(leaves))]
    ranks = [CRITERIA[criterion](leaf, k) for leaf, k in zip(leaves, keys, strict=True)]
    limit = _entry(ranks, cut)
    masks = [rank >= limit for rank in ranks]
    if random_rate:
        chance = math.ceil(random_rate * size) / (size - cut)
        keys = jax.random.split(key, len(masks))
        masks = [m & ~jax.random.bernoulli(k, chance, m.shape) for m, k in zip(masks, keys, strict=True)]
    return jax.tree.unflatten(treedef, masks)


def density(mask: Tree) -> dict[str, jax.Array]:
    """Share of weights kept in each layer, by the layer's name, and in `all` together.

    >>> {name: float(share) for name, share in density({"conv": {"kernel": jnp.array([True, False])}}).items()}
    {'conv': 0.5, 'all': 0.5}
    """
    layers = {name.removesuffix("/kernel"): leaf for name, leaf in trees.named(mask).items()}
    kept = {name: jnp.sum(leaf, dtype=jnp.int32) for name, leaf in layers.items()}
    shares = {name: kept[name].astype(jnp.float32) / leaf.size for name, leaf in layers.items()}
    total = sum(leaf.size for leaf in layers.values())
    return {**shares, "all": sum(kept.values()).astype(jnp.float32) / total}
