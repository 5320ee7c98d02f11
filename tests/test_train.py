"""The step: what the branches share, what is private, where gradients go, and that devices do not matter."""

import copy
import inspect
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sdclr_jax import branches, parallel, pruning, trees
from sdclr_jax.branches import Branch
from sdclr_jax.errors import ArgumentError
from sdclr_jax.models import Encoder, Head, Network
from sdclr_jax.train import Method, State
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


def test_without_the_sparse_gradient_its_output_is_a_constant_to_the_loss(stepped):
    state = stepped[0]
    method = copy.copy(tiny.method())
    method.branches = branches.choose({"dense", "sparse"}, "private", gradient=False)

    def loss(params):
        outputs, _ = method.forward(params, state, views())
        return method.objective.loss(None, outputs["dense", 0], outputs["sparse", 1], None)

    def loss_with_a_constant(params, constant):
        outputs, _ = tiny.method().forward(params, state, views())
        return tiny.method().objective.loss(None, outputs["dense", 0], constant, None)

    constant = jax.jit(tiny.method().forward)(state.params, state, views())[0]["sparse", 1]
    gradient = jax.jit(jax.grad(loss))(state.params)
    expected = jax.jit(jax.grad(loss_with_a_constant))(state.params, constant)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), gradient, expected)
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(gradient["norms"]["sparse"]))
    assert optax.tree.norm(gradient["norms"]["dense"]) > 0.01


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
    method = copy.copy(tiny.method())
    method.refresh_every = 3
    state = tiny.state()
    for number in range(7):
        if number % 3 == 0:
            state = method._jitted_refresh(state)
        state, _ = method.jitted_step(state, tiny.images())  # the loop's program, as another one may round differently
    expected = jax.device_get(_numbers(state))

    def loop(state, until):
        for taken in method.train(state, itertools.repeat(tiny.images()), until=until):
            assert int(taken.state.step) == taken.number
            yield jax.device_get(taken.state)  # the next step takes its memory

    whole = list(loop(tiny.state(), 7))
    assert [int(s.step) for s in whole] == [1, 2, 3, 4, 5, 6, 7]
    jax.tree.map(np.testing.assert_array_equal, _numbers(whole[-1]), expected)
    kept = [np.concatenate([m.ravel() for m in jax.tree.leaves(s.mask)]) for s in whole]
    assert [bool((a != b).any()) for a, b in itertools.pairwise(kept)] == [False, False, True, False, False, True]

    middle = jax.device_put(whole[3])  # one step after a refresh: the mask it holds goes on
    resumed = list(loop(middle, 7))
    assert [int(s.step) for s in resumed] == [5, 6, 7]
    jax.tree.map(np.testing.assert_array_equal, _numbers(resumed[-1]), _numbers(whole[-1]))
    assert list(loop(jax.device_put(whole[-1]), 7)) == []


def test_steps_are_one_dispatch_where_nothing_is_due_between_them():
    """With a step that adds up what it sees, and a refresh that doubles it."""
    method = copy.copy(tiny.method())

    def add(state, images):
        total = state.key * 3 + images.sum(dtype=jnp.int32) + state.step
        return state.replace(key=total, step=state.step + 1), {"loss": total}

    method.step, method.refresh_every = add, 4
    method.jitted_step, method._jitted_steps = jax.jit(add), jax.jit(method.steps)
    method._jitted_refresh = jax.jit(lambda state: state.replace(key=2 * state.key))
    start = State(*[None] * 8).replace(step=jnp.int32(0), key=jnp.int32(1))
    batches = [np.full(2, n, np.int32) for n in range(20)]

    def taken(due=lambda number: False, state=start, until=13):
        found = list(method.train(state, batches[int(state.step) :], until=until, due=due))
        assert all(step.images is batches[step.number - 1] and step.state.step == step.number for step in found)
        numbers = [step.number for step in found]
        return numbers, np.concatenate([np.ravel(s.scalars["loss"]) for s in found]), found[-1].state

    _, losses, last = taken()
    method.steps_per_dispatch = 3
    # The mask is made again after 4, 8 and 12.
    numbers, several, end = taken()
    assert numbers == [3, 4, 7, 8, 11, 12, 13]
    np.testing.assert_array_equal(several, losses)
    assert end == last
    assert taken(due=lambda number: number in (5, 8))[0] == [3, 4, 5, 8, 11, 12, 13]
    assert taken(due=lambda number: number % 3 == 0)[0] == [3, 4, 5, 6, 7, 8, 9, 12, 13]
    resumed = taken(state=start.replace(step=jnp.int32(6)))
    assert resumed[0] == [7, 8, 11, 12, 13]
    method.damaged = False  # there is nothing to refresh
    assert taken(until=10)[0] == [3, 6, 9, 10]
    whole, batches[4] = taken(until=10)[1], batches[4][:1]  # the last one of an epoch, which may be smaller
    numbers, smaller, _ = taken(until=10)
    assert numbers == [3, 4, 5, 6, 9, 10]
    np.testing.assert_array_equal(smaller - whole != 0, np.arange(10) >= 4)
    assert list(method.train(last, batches, until=12)) == []
    few = method.train(start, batches[:4], until=10)
    assert [next(few).number, next(few).number] == [3, 4]
    with pytest.raises(ArgumentError, match="^batches ended after step 4, and until is 10: give one for each step"):
        next(few)


def test_steps_of_one_dispatch_are_those_of_several():
    _, step, refresh = tiny.functions()
    state = refresh(tiny.state())
    batches = [tiny.images(), tiny.images()[::-1]]
    several, scalars = jax.jit(tiny.method().steps)(state, tuple(batches))
    losses = []
    for images in batches:
        state, found = step(state, images)
        losses.append(float(found["loss"]))
    np.testing.assert_allclose(scalars["loss"], losses, rtol=1e-4)
    one, other = (trees.named(jax.device_get(_numbers(s))) for s in (state, several))
    for name, x in one.items():
        assert np.linalg.norm(np.float64(other[name]) - x) <= 1e-3 * np.linalg.norm(np.float64(x)) + 1e-4, name


def test_bfloat16_is_for_products_and_all_else_is_float32():
    method = tiny.method(dtype="bfloat16")
    after, scalars = jax.eval_shape(method.step, tiny.state(), tiny.images())
    floats = [x.dtype for x in jax.tree.leaves((after, scalars)) if jnp.issubdtype(x.dtype, jnp.inexact)]
    assert len(floats) > 80
    assert set(floats) == {jnp.dtype("float32")}
    types = {}

    def visit(jaxpr):
        for equation in getattr(jaxpr, "eqns", ()):
            found = types.setdefault(equation.primitive.name, set())
            found |= {str(x.aval.dtype) for x in equation.invars if jnp.issubdtype(x.aval.dtype, jnp.inexact)}
            for inner in jax.tree.leaves(list(equation.params.values())):
                visit(getattr(inner, "jaxpr", inner))

    visit(jax.make_jaxpr(method.step)(tiny.state(), tiny.images()).jaxpr)
    assert types["conv_general_dilated"] == {"bfloat16"}
    # Norms, unit lengths, logits and the loss.
    for name in ("rsqrt", "exp", "log", "reduce_max", "sqrt", "div"):
        assert types[name] == {"float32"}, name
    assert types["dot_general"] == {"bfloat16", "float32"}  # the head's; the logits' and those of norms


class Dropping(Encoder):
    """One layer, half of whose features are dropped; or that counts what it sees."""

    counts: bool = False

    @nn.compact
    def __call__(self, views, train):
        if self.counts:
            self.variable("seen", "views", lambda: jnp.int32(0))
        x = nn.Dense(32, name="layer")(views.reshape(len(views), -1))
        return nn.Dropout(0.5, deterministic=not train)(x)


def test_dropout_is_a_function_of_seed_step_and_branch():
    method, view = copy.copy(tiny.method()), views()[0]
    method.network = Network(Dropping(), Head(1, 4, 4))
    state = jax.jit(method.init)(np.uint32(0), view[:1])
    forward = jax.jit(lambda state: method.forward(state.params, state, (view, view))[0])
    one, again, later = forward(state), forward(state), forward(state.replace(step=jnp.int32(1)))
    np.testing.assert_array_equal(one["dense", 0].features, again["dense", 0].features)
    for other in (one["sparse", 1], later["dense", 0]):
        assert 0.4 < np.mean((one["dense", 0].features == 0) != (other.features == 0)) < 0.6


def test_variables_that_the_state_does_not_keep_are_refused():
    method = copy.copy(tiny.method())
    method.network = Network(Dropping(counts=True), Head(1, 4, 4))
    with pytest.raises(ArgumentError, match="^variables are in 'seen', too: only those in params and batch_stats are"):
        jax.eval_shape(method.init, np.uint32(0), views()[0][:1])


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ({"branches": {"both": Branch("dense", masked=True, averaged=True)}}, "branches has .both., masked and"),
        ({"refresh_every": 0}, "refresh_every is 0: it must be at least 1"),
        ({"steps_per_dispatch": 0}, "steps_per_dispatch is 0: it must be at least 1"),
    ],
)
def test_parts_that_make_no_method_are_refused(part, said):
    taken = inspect.signature(Method).parameters
    parts = {name: value for name, value in vars(tiny.method()).items() if name in taken}
    with pytest.raises(ArgumentError, match=f"^{said}"):
        Method(**(parts | part))


def test_the_step_takes_the_memory_of_its_state():
    method = tiny.method()
    lowered = method.jitted_step.lower(tiny.state(), tiny.images())
    donated = [info.donated for info in jax.tree.leaves(lowered.args_info[0][0])]
    assert all(donated)
    assert not any(info.donated for info in jax.tree.leaves(lowered.args_info[0][1]))
    text = lowered.as_text()
    leaves = len(jax.tree.leaves(tiny.state()))
    assert text.count("tf.aliasing_output") == leaves


def _numbers(state):
    return state.replace(key=jax.random.key_data(state.key))
