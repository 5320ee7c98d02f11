"""A state of which each device holds a share is that of which each holds all; so are its checkpoints."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sdclr_jax import parallel, recipes, trees
from sdclr_jax.recipes import sizes
from sdclr_jax.run.checkpoints import Checkpoints
from sdclr_jax.train import Method
from tests import tiny

PARTS = ("params", "mask", "target", "opt_state")
ARGUMENTS = ("network", "branches", "pairs", "make_views", "objective", "optimizer", "prune")  # of a `Method`


@pytest.fixture
def smallest(monkeypatch):
    """Also what is small is split, as the networks here are."""
    monkeypatch.setattr(parallel, "LEAST", 32)


def shares(state, devices):
    """A state with a share on each of so many devices."""
    shardings = parallel.shardings(jax.devices()[:devices])
    placed = jax.tree.map(lambda _: shardings.replicated, state)
    placed = placed.replace(**{part: parallel.spread(getattr(state, part), shardings) for part in PARTS})
    return jax.tree.map(lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), state, placed)


def same(one, other):
    one, other = (trees.named(state.replace(key=jax.random.key_data(state.key))) for state in (one, other))
    assert one.keys() == other.keys()
    for name, x in one.items():
        np.testing.assert_array_equal(x, other[name], err_msg=name)


def test_a_large_array_is_split_along_its_longest_axis_that_the_devices_divide():
    shardings = parallel.shardings()
    shapes = {
        "conv": (3, 3, 64, 128),
        "both": (256, 256),
        "rows": (4096, 9),
        "odd": (999, 33),
        "small": (64, 64),
        "scalar": (),
    }
    tree = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}
    found = {name: tuple(sharding.spec) for name, sharding in parallel.spread(tree, shardings).items()}
    assert found == {
        "conv": (None, None, None, "data"),
        "both": (None, "data"),
        "rows": ("data",),
        "odd": (),
        "small": (),
        "scalar": (),
    }


def test_steps_and_masks_are_those_of_a_state_that_is_whole_everywhere(smallest):
    """In float64, so that what differs would be another computation and not another rounding."""
    start, results = jax.device_get(tiny.state().replace(key=None)), []
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        plain = tiny.method(dtype="float64")
        doubled = jax.tree.map(lambda x: x.astype(np.float64) if x.dtype == np.float32 else x, start)
        state = doubled.replace(key=jax.random.key(0))
        views = [x.astype(np.float64) for x in np.random.default_rng(1).standard_normal((2, 16, 8, 8, 1))]
        shardings = parallel.shardings(jax.devices()[:4])
        for sharding in (shardings.replicated, parallel.of(shares(state, 4))):
            method = Method(**{name: getattr(plain, name) for name in ARGUMENTS}, sharding=sharding)
            update = jax.jit(
                lambda state, views, method=method: method.update(method.refresh(state), views),
                out_shardings=(sharding, shardings.replicated),
            )
            now = jax.device_put(state, sharding)
            for _ in range(2):
                now, scalars = update(now, tuple(jax.device_put(v, shardings.batch) for v in views))
            results.append((now, float(scalars["loss"])))
    (whole, loss), (sharded, same_loss) = results
    assert same_loss == pytest.approx(loss, rel=1e-9)
    for part in (*PARTS, "stats"):
        found, expected = (trees.named(getattr(state, part)) for state in (sharded, whole))
        for name, x in expected.items():
            np.testing.assert_allclose(found[name], x, rtol=1e-6, atol=1e-8, err_msg=name)
    kernel = sharded.params["weights"]["encoder"]["stage1_block1"]["conv1"]["kernel"]
    assert kernel.addressable_shards[0].data.size == kernel.size // 4
    assert sharded.mask["encoder"]["stage1_block1"]["conv1"]["kernel"].sharding == kernel.sharding


def test_a_checkpoint_of_shares_is_read_whole_and_the_other_way_round_and_on_other_devices(smallest, tmp_path):
    state = tiny.state()
    forms = [state, *(shares(state, devices) for devices in (8, 2))]
    for number, form in enumerate(forms):
        placed = state if number == 0 else jax.device_put(state, parallel.of(form))
        assert trees.digest(placed.params) == trees.digest(state.params)
        with Checkpoints(tmp_path / str(number)) as checkpoints:
            checkpoints.save(0, placed)
        for like in forms:
            with Checkpoints(tmp_path / str(number), read_only=True) as checkpoints:
                found = checkpoints.restore(like=like)
            same(found, state)
            assert parallel.of(found.params) == parallel.of(like.params)


def test_what_a_device_holds_is_compared_with_its_memory(monkeypatch):
    """A share of all, and the weights whole in a step."""
    config = recipes.load("digits_lt:sdclr")
    shardings, seen = parallel.shardings(), []
    monkeypatch.setattr(sizes, "_compare", lambda what, size, there, remedy: seen.append(size))
    whole = recipes.abstract_state(config, (9, 8, 8, 1), shardings, training=True)
    recipes.override(config, {"shard_state": True, "projector.hidden": 2048})
    like = recipes.abstract_state(config, (9, 8, 8, 1), shardings, training=True)
    assert not parallel.of(like.params["weights"]["projector"]["linear2"]["kernel"]).is_fully_replicated
    assert all(leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(whole))
    replicated = recipes.abstract_state(config, (9, 8, 8, 1), shardings)
    assert all(leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(replicated))
    assert seen[0] < seen[1] < seen[2] * 0.7
