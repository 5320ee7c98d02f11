"""The step: what the branches share, what is private, where gradients go, and that devices do not matter."""

import copy
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sdclr_jax import parallel, pruning, trees
from tests import tiny


def largest_difference(a, b) -> float:
    return max(float(jnp.max(jnp.abs(x - y))) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def views(n=16):
    x = np.random.default_rng(1).standard_normal((2, n, 8, 8, 1)).astype(np.float32)
    return x[0], x[1]


@pytest.fixture(scope="module")
def stepped():
    """SDCLR: a refreshed state, the state after one step, and its scalars."""
    _, step, refresh = tiny.functions()
    state = refresh(tiny.state())
    return state, *step(state, tiny.images())


def test_an_all_ones_mask_makes_the_branches_identical():
    method, state = tiny.method(), tiny.state()
    same = views()[0]
    outputs, stats = jax.jit(method.forward)(state.params, state, (same, same))
    np.testing.assert_array_equal(outputs["dense", 0].projection, outputs["sparse", 1].projection)
    np.testing.assert_array_equal(outputs["dense", 0].features, outputs["sparse", 1].features)
    jax.tree.map(np.testing.assert_array_equal, stats["dense"], stats["sparse"])


def test_a_real_mask_makes_them_differ(stepped):
    method, state = tiny.method(), stepped[0]
    same = views()[0]
    outputs, _ = jax.jit(method.forward)(state.params, state, (same, same))
    assert largest_difference(outputs["dense", 0].projection, outputs["sparse", 1].projection) > 0.1


def test_pruned_entries_receive_the_dense_gradient_only(stepped):
    """Of the gradient of the loss: at a pruned entry, all of it is what flows through the dense branch."""
    method, state = tiny.method(), stepped[0]

    def loss(dense_weights, sparse_weights):
        outputs, _ = method.forward({**state.params, "weights": dense_weights}, state, views())
        damaged, _ = method.forward({**state.params, "weights": sparse_weights}, state, views())
        return method.objective.loss(None, outputs["dense", 0], damaged["sparse", 1], None)

    weights = state.params["weights"]
    dense, sparse = jax.jit(jax.grad(loss, argnums=(0, 1)))(weights, weights)
    for name, kept in trees.named(state.mask).items():
        assert not np.asarray(trees.named(sparse)[name])[~np.asarray(kept)].any(), name
        assert np.asarray(trees.named(sparse)[name])[np.asarray(kept)].any(), name
        assert np.asarray(trees.named(dense)[name])[~np.asarray(kept)].any(), name
    # and the step's own gradient (trace of momentum less the decay) is the sum of the two
    trace = optax.tree.get(stepped[1].opt_state, "trace")["weights"]
    expected = jax.jit(lambda s: jax.grad(step_loss(method))(s.params, s))(state)["weights"]
    for name, t in trees.named(trace).items():
        e = np.asarray(trees.named(expected)[name] + 1e-4 * trees.named(weights)[name])
        assert np.linalg.norm(t - e) <= 1e-4 * np.linalg.norm(e) + 1e-5, name


def step_loss(method):
    def loss(params, state):
        made = method.make_views(jax.random.fold_in(jax.random.fold_in(state.key, 1), state.step), tiny.images())
        outputs, _ = method.forward(params, state, made)
        return method.objective.loss(None, outputs["dense", 0], outputs["sparse", 1], None)

    return loss


def test_private_norms_part_and_shared_ones_do_not(stepped):
    _, after, _ = stepped
    assert after.params["norms"].keys() == after.stats.keys() == {"dense", "sparse"}
    assert largest_difference(after.params["norms"]["dense"], after.params["norms"]["sparse"]) > 1e-4
    assert largest_difference(after.stats["dense"], after.stats["sparse"]) > 1e-4

    _, step, refresh = tiny.functions(norms="shared")
    state = refresh(tiny.state(norms="shared"))
    after, _ = step(state, tiny.images())
    assert after.params["norms"].keys() == after.stats.keys() == {"dense"}


def test_shared_statistics_see_both_branches():
    """With one set of norms the dense forward updates the statistics first, then the sparse one."""
    shared, private = tiny.method(norms="shared"), tiny.method()
    a, b = tiny.state(norms="shared"), tiny.state()
    _, seen = jax.jit(shared.forward)(a.params, a, views())
    _, apart = jax.jit(private.forward)(b.params, b, views())
    for name, x in trees.named(seen["dense"]).items():
        start = 1.0 if name.endswith("var") else 0.0
        first, second = (np.asarray(trees.named(apart[k])[name]) for k in ("dense", "sparse"))
        np.testing.assert_allclose(x, 0.9 * first + (second - 0.9 * start), rtol=1e-4, atol=1e-5)


def test_simclr_is_one_forward_on_both_views():
    """Batch norm in SimCLR is over the 2N views together, and rows come back to the view they belong to."""
    method = tiny.method("simclr")
    state = tiny.state("simclr")
    assert state.mask is None
    assert state.stats.keys() == {"dense"}
    v = views()
    outputs, stats = jax.jit(method.forward)(state.params, state, v)
    variables = {
        "params": trees.combine(state.params["weights"], state.params["norms"]["dense"]),
        "batch_stats": state.stats["dense"],
    }
    joined, new = method.network.apply(variables, np.concatenate(v), train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(outputs["dense", 0].projection, joined.projection[:16], atol=1e-4)
    np.testing.assert_allclose(outputs["dense", 1].projection, joined.projection[16:], atol=1e-4)
    assert largest_difference(stats["dense"], new["batch_stats"]) < 1e-5


def test_several_pairs_share_the_forward_and_average_the_loss():
    method, state = tiny.method("both_ways"), tiny.state("both_ways")
    outputs, _ = jax.jit(method.forward)(state.params, state, views())
    assert outputs.keys() == {("dense", 0), ("dense", 1), ("sparse", 0), ("sparse", 1)}
    _, scalars = jax.jit(method.update)(state, views())
    pairs = [method.objective.loss(None, outputs[a], outputs[b], None) for a, b in method.pairs]
    assert float(scalars["loss"]) == pytest.approx(float(sum(pairs)) / 2, rel=1e-5)


@pytest.mark.parametrize("pairs", ["simclr", "sdclr"])
def test_one_and_eight_devices_agree(pairs):
    """In float64, so that what differs would be another computation and not another rounding."""
    start = jax.device_get(tiny.state(pairs).replace(key=None))
    results = []
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        method = tiny.method(pairs, dtype="float64")
        views = [x.astype(np.float64) for x in np.random.default_rng(1).standard_normal((2, 16, 8, 8, 1))]
        for devices in (jax.devices()[:1], jax.devices()):
            shardings = parallel.shardings(devices)
            doubled = jax.tree.map(lambda x: x.astype(np.float64) if x.dtype == np.float32 else x, start)
            state = jax.device_put(doubled.replace(key=jax.random.key(0)), shardings.replicated)
            update = jax.jit(lambda s, v: method.update(method.refresh(s) if method.damaged else s, v))
            losses = []
            for _ in range(2):
                state, scalars = update(state, tuple(jax.device_put(v, shardings.batch) for v in views))
                losses.append(float(scalars["loss"]))
            # the momentum holds the gradients of both steps
            results.append((losses, jax.device_get((state.params, state.stats, state.opt_state))))
    (one_losses, one), (eight_losses, eight) = results
    assert one_losses == pytest.approx(eight_losses, rel=1e-9)
    for name, x in trees.named(one).items():
        np.testing.assert_allclose(x, trees.named(eight)[name], rtol=1e-6, atol=1e-8, err_msg=name)
        assert x.dtype in (np.float64, np.int32)


def test_the_views_of_a_batch_do_not_depend_on_the_devices():
    make = jax.jit(tiny.two_views)
    batch = parallel.shardings().batch
    one, eight = (make(jax.random.key(0), x) for x in (tiny.images(), jax.device_put(tiny.images(), batch)))
    assert largest_difference(one, eight) < 1e-6


def test_one_trace_a_run_and_none_at_a_refresh_of_the_mask():
    method = tiny.method()
    traces = []

    def counted(state, images):
        traces.append("step")
        return method.step(state, images)

    sharding = parallel.shardings(jax.devices()[:1]).replicated
    step = jax.jit(counted, donate_argnums=0, out_shardings=(sharding, sharding))
    refresh = jax.jit(method.refresh, donate_argnums=0, out_shardings=sharding)
    init = jax.jit(method.init, out_shardings=sharding)
    state = init(np.uint32(0), jnp.zeros((1, 8, 8, 1)))
    images = jax.device_put(tiny.images(), sharding)
    for _ in range(3):
        state = refresh(state)
        for _ in range(2):
            state, _ = step(state, images)
    assert traces == ["step"]
    assert step._cache_size() == refresh._cache_size() == 1


def test_the_mask_follows_the_weights(stepped):
    _, step, refresh = tiny.functions()
    state = stepped[1]
    for _ in range(5):
        state, _ = step(state, tiny.images())
    fresh = refresh(state)
    expected = pruning.magnitude_mask(state.params["weights"], 0.5, prunable=tiny.method().network.prunable)
    jax.tree.map(np.testing.assert_array_equal, fresh.mask, expected)
    assert any((a != b).any() for a, b in zip(*map(jax.tree.leaves, (fresh.mask, stepped[0].mask)), strict=True))


def test_randomness_is_a_function_of_seed_and_step(stepped):
    _, step, _ = tiny.functions()
    state, after, scalars = stepped
    again, same = step(state, tiny.images())
    assert float(same["loss"]) == float(scalars["loss"])
    jax.tree.map(np.testing.assert_array_equal, again.params, after.params)
    _, later = step(state.replace(step=state.step + 1), tiny.images())
    assert float(later["loss"]) != float(scalars["loss"])
    init = tiny.functions()[0]
    assert largest_difference(init(np.uint32(1), jnp.zeros((1, 8, 8, 1))).params, tiny.state().params) > 0.1


def test_scalars(stepped):
    _, _, scalars = stepped
    assert scalars.keys() == {
        "loss", "learning_rate", "grad_norm", "weight_norm", "projection_std/dense", "projection_std/sparse",
    }  # fmt: skip
    assert float(scalars["learning_rate"]) == pytest.approx(0.1)
    assert 0 < float(scalars["projection_std/sparse"]) <= 1 / np.sqrt(4) + 1e-6


def test_the_loop_refreshes_the_mask_when_it_is_due_wherever_it_starts():
    """Masks are made before steps 0, 3, 6 of the weights of that moment, by a loop from 0 or from the middle."""
    _, step, refresh = tiny.functions()
    state, expected = tiny.state(), []
    for number in range(7):
        if number % 3 == 0:
            state = refresh(state)
        state, _ = step(state, tiny.images())
        expected.append(jax.device_get(state))
    method = copy.copy(tiny.method())
    method.refresh_every = 3

    def loop(state, until):
        for taken in method.train(state, itertools.repeat(tiny.images()), until=until):
            assert int(taken.state.step) == taken.number
            yield jax.device_get(taken.state)  # the next step takes its memory

    whole = list(loop(tiny.state(), 7))
    assert [int(s.step) for s in whole] == [1, 2, 3, 4, 5, 6, 7]
    jax.tree.map(np.testing.assert_array_equal, _numbers(whole[-1]), _numbers(expected[-1]))
    kept = [np.concatenate([m.ravel() for m in jax.tree.leaves(s.mask)]) for s in whole]
    assert [bool((a != b).any()) for a, b in itertools.pairwise(kept)] == [False, False, True, False, False, True]

    middle = jax.device_put(whole[3])  # one step after a refresh: the mask it holds goes on
    resumed = list(loop(middle, 7))
    assert [int(s.step) for s in resumed] == [5, 6, 7]
    jax.tree.map(np.testing.assert_array_equal, _numbers(resumed[-1]), _numbers(whole[-1]))
    assert list(loop(jax.device_put(whole[-1]), 7)) == []


def _numbers(state):
    return state.replace(key=jax.random.key_data(state.key))
