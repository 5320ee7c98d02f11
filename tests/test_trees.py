import hashlib

import jax
import jax.numpy as jnp
import numpy as np

from sdclr_jax import parallel, trees

TREE = {"a": {"kernel": jnp.arange(6.0).reshape(2, 3), "bias": jnp.ones(3)}, "b": {"mask": jnp.array([True, False])}}


def test_partition_and_combine_are_inverse():
    kernels, rest = trees.partition(TREE, lambda name, leaf: name.endswith("kernel"))
    assert trees.named(kernels).keys() == {"a/kernel"}
    assert trees.named(rest).keys() == {"a/bias", "b/mask"}
    jax.tree.map(np.testing.assert_array_equal, trees.combine(kernels, rest), TREE)
    jax.tree.map(np.testing.assert_array_equal, trees.combine(rest, kernels), TREE)


def _with(name, change):
    """TREE with `change`, NumPy in place, of one leaf."""

    def changed(path, leaf):
        if trees.name(path) != name:
            return leaf
        raw = np.array(leaf)
        change(raw.reshape(-1).view(np.uint8))
        return jnp.asarray(raw)

    return jax.tree_util.tree_map_with_path(changed, BLOCKS)


KINDS = ("float32", "bfloat16", "float16", "int8", "uint32", "int32", "bool")
BLOCKS = {kind: jnp.asarray(np.random.default_rng(0).integers(0, 2, (8, 64)), kind) for kind in KINDS}
BLOCKS |= {"twin": BLOCKS["float32"] + 1, "empty": jnp.zeros((0, 3)), "scalar": jnp.int32(5), "none": None}


def flip(*places):
    def change(content):
        for place in places:
            content[place] ^= 128

    return change


def zero(content):
    content[32:64] = 0


def swap(content):
    content[:64], content[64:128] = content[64:128].copy(), content[:64].copy()


def test_digest_sees_what_disks_do():
    """A bit of any kind of number, two top bits, all signs, zeroed and swapped blocks, leaves that changed places."""
    seen = [trees.digest(BLOCKS)]
    for kind in KINDS:
        last = BLOCKS[kind].nbytes - 1
        for change in (swap, zero, *(flip(place) for place in (0, 5, last)), flip(3, 7), flip(3, 11), flip(7, last)):
            if kind != "bool" or change in (swap, zero):  # a bool is one bit
                seen.append(trees.digest(_with(kind, change)))
    seen.append(trees.digest(jax.tree.map(lambda x: -x if x.dtype == jnp.float32 else x, BLOCKS)))
    seen.append(trees.digest(BLOCKS | {"twin": BLOCKS["float32"], "float32": BLOCKS["twin"]}))
    seen.append(trees.digest(BLOCKS | {"int32": BLOCKS["uint32"]}))
    seen.append(trees.digest(BLOCKS | {"empty": jnp.zeros((3, 0))}))
    seen.append(trees.digest(BLOCKS | {"int8": BLOCKS["int8"].T}))
    seen.append(trees.digest({name: BLOCKS[name] for name in BLOCKS if name != "none"}))
    assert seen.pop() == seen[0]  # None is no leaf
    assert len(set(seen)) == len(seen)


def test_digest_does_not_depend_on_the_sharding_nor_on_where_arrays_are():
    x = np.random.default_rng(0).standard_normal((16, 3)).astype(np.float32)
    given = [x, np.asfortranarray(x), *(jax.device_put(x, sharding) for sharding in parallel.shardings())]
    assert len({trees.digest({"x": each}) for each in given}) == 1


def test_digest_takes_keys():
    keys = [jax.random.key(3), jax.random.key(4), jax.random.key(3, impl="rbg"), jax.random.key_data(jax.random.key(3))]
    assert len({trees.digest({"key": key}) for key in keys}) == 4


def test_digest_stays_what_it_was():
    """Checkpoints carry it."""
    tree = {"b": np.arange(3, dtype=np.int32), "a": {"w": np.ones((2, 2), np.float32)}}
    leaves = (b"a/w float32 (2, 2)\n" + tree["a"]["w"].tobytes(), b"b int32 (3,)\n" + tree["b"].tobytes())
    expected = hashlib.sha256(b"".join(hashlib.sha256(leaf).digest() for leaf in leaves))
    assert trees.digest(tree) == expected.hexdigest()


def test_the_checksum_of_old_checkpoints_stays_what_it_was():
    assert int(trees.checksum(TREE)) == 65012739
    assert int(trees.checksum({"key": jax.random.key(3), "half": jnp.ones(3, jnp.bfloat16), "none": None})) == 4535466
    x = np.random.default_rng(0).standard_normal((16, 3)).astype(np.float32)
    sums = {int(trees.checksum({"x": jax.device_put(x, sharding)})) for sharding in parallel.shardings()}
    assert sums == {int(trees.checksum({"x": jnp.asarray(x)}))}
