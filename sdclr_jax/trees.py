"""Trees of arrays: split one in two and join it again, name its leaves, take its digest."""

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

Tree = Any


def name(path: tuple) -> str:
    """The path of a leaf as text, `encoder/stem/kernel`."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def named(tree: Tree) -> dict[str, Any]:
    """The leaves of a tree by name, in the tree's order."""
    return {name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def partition(tree: Tree, predicate: Callable[[str, Any], bool]) -> tuple[Tree, Tree]:
    """Split into the leaves for which `predicate(name, leaf)` holds and the others.

    Both trees have the shape of the whole, with None in the holes; `combine` joins them again.
    """
    chosen = jax.tree_util.tree_map_with_path(lambda path, leaf: predicate(name(path), leaf), tree)
    return (
        jax.tree.map(lambda leaf, ours: leaf if ours else None, tree, chosen),
        jax.tree.map(lambda leaf, ours: None if ours else leaf, tree, chosen),
    )


def combine(first: Tree, second: Tree) -> Tree:
    """Join two trees of equal shape: where the first has a hole (None), the second's leaf."""
    return jax.tree.map(lambda a, b: b if a is None else a, first, second, is_leaf=lambda leaf: leaf is None)


def digest(tree: Tree) -> str:
    """SHA-256 of every leaf: its name, type, shape and bytes. It does not depend on devices or shardings.

    All leaves are brought to the host, as `on_host` does it. Several threads share the work.
    """
    leaves = named(tree)
    kinds = [str(leaf.dtype) for leaf in leaves.values()]  # a key's type names its generator
    with ThreadPoolExecutor() as threads:
        hashes = threads.map(_leaf_digest, leaves, kinds, [on_host(_data(leaf)) for leaf in leaves.values()])
        return hashlib.sha256(b"".join(hashes)).hexdigest()


def on_host(leaf: Any) -> np.ndarray:
    """The whole of an array. Where it is split over several processes, all of them take part, and each gets it."""
    if isinstance(leaf, jax.Array) and not (leaf.is_fully_addressable or leaf.is_fully_replicated):
        return multihost_utils.process_allgather(leaf, tiled=True)
    return jax.device_get(leaf)


def _leaf_digest(name: str, kind: str, leaf: np.ndarray) -> bytes:
    leaf = np.asarray(leaf)
    total = hashlib.sha256(f"{name} {kind} {leaf.shape}\n".encode())
    total.update(np.ascontiguousarray(leaf).reshape(-1).view(np.uint8).data)
    return total.digest()


def _data(leaf: Any) -> Any:
    return jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf


@jax.jit
def checksum(tree: Tree) -> jax.Array:
    """One uint32 over the bits of every leaf and their places, in checkpoints of formats 1 and 2 and in results.json.

    It does not see an even number of highest bits flipped, such as those of two signs: `digest` guards all else.
    """
    total = jnp.uint32(0)
    for index, leaf in enumerate(map(_data, jax.tree.leaves(tree))):
        if leaf.dtype == jnp.bool_:
            leaf = leaf.astype(jnp.uint8)
        bits = jax.lax.bitcast_convert_type(leaf, jnp.dtype(f"uint{8 * leaf.dtype.itemsize}"))
        words = [bits.astype(jnp.uint32)]
        if leaf.dtype.itemsize == 8:
            words.append((bits >> jnp.uint64(32)).astype(jnp.uint32))
        for word in words:
            word = word.ravel()
            weight = jnp.uint32(2) * jax.lax.iota(jnp.uint32, word.size) + jnp.uint32(1)
            total = total * jnp.uint32(31) + jnp.uint32(index + 1) + jnp.sum(word * weight, dtype=jnp.uint32)
    return total
