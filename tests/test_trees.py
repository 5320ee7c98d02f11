import jax
import jax.numpy as jnp
import numpy as np

from sdclr_jax import trees

TREE = {"a": {"kernel": jnp.arange(6.0).reshape(2, 3), "bias": jnp.ones(3)}, "b": {"mask": jnp.array([True, False])}}


def test_partition_and_combine_are_inverse():
    kernels, rest = trees.partition(TREE, lambda name, leaf: name.endswith("kernel"))
    assert trees.named(kernels).keys() == {"a/kernel"}
    assert trees.named(rest).keys() == {"a/bias", "b/mask"}
    jax.tree.map(np.testing.assert_array_equal, trees.combine(kernels, rest), TREE)
    jax.tree.map(np.testing.assert_array_equal, trees.combine(rest, kernels), TREE)


def test_checksum_sees_every_bit_and_every_place():
    base = int(trees.checksum(TREE))
    assert base == int(jax.jit(trees.checksum)(TREE))
    for leaf in trees.named(TREE):
        changed = jax.tree_util.tree_map_with_path(
            lambda path, x, leaf=leaf: _flip(x) if trees.name(path) == leaf else x, TREE
        )
        assert int(trees.checksum(changed)) != base, leaf
    swapped = {**TREE, "a": {**TREE["a"], "kernel": TREE["a"]["kernel"][:, ::-1]}}
    assert int(trees.checksum(swapped)) != base


def _flip(x):
    """The lowest bit of the first entry, flipped."""
    raw = np.array(x).reshape(-1)
    raw.view(np.uint8)[0] ^= 1
    return jnp.asarray(raw.reshape(x.shape))


def test_checksum_does_not_depend_on_the_sharding():
    from sdclr_jax import parallel

    x = np.random.default_rng(0).standard_normal((16, 3)).astype(np.float32)
    shardings = parallel.shardings()
    sums = {int(jax.jit(trees.checksum)({"x": jax.device_put(x, s)})) for s in shardings}
    assert sums == {int(trees.checksum({"x": jnp.asarray(x)}))}


def test_checksum_takes_keys_and_half_precision():
    tree = {"key": jax.random.key(3), "half": jnp.ones(3, jnp.bfloat16), "none": None}
    assert int(trees.checksum(tree)) != int(trees.checksum({**tree, "key": jax.random.key(4)}))
