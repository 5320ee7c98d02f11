"""The contract of every row of configs/methods.py, plain and damaged, and what only some of them have."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import base, digits_lt, methods
from sdclr_jax import branches, parallel, recipes, trees
from sdclr_jax.errors import UserError
from sdclr_jax.models import Outputs
from sdclr_jax.objectives.vectors import unit
from sdclr_jax.run.checkpoints import Checkpoints
from tests import tiny

STEPS = 4  # past the epoch in which prototypes are frozen and before which SwAV's queue is not read
ONE = jax.sharding.SingleDeviceSharding(jax.devices()[0])
every = pytest.mark.parametrize("name", methods.METHODS)
damaged = pytest.mark.parametrize("name", [name for name, (_, damaged) in methods.METHODS.items() if damaged])
averaged = pytest.mark.parametrize("name", ["moco", "sd_moco", "byol", "sd_byol"])


@cache
def step(name):
    """The step with the refresh of the mask before it, jitted once for all tests of a method."""
    method = tiny.row(name)
    return jax.jit(lambda state, images: method.step(method.refresh(state) if method.damaged else state, images))


@cache
def run(name):
    """The states before the first step and after each, and the losses."""
    first = jax.jit(tiny.row(name).init)(np.uint32(0), jnp.zeros((1, 8, 8, 1)))
    states, losses = [jax.device_put(first, ONE)], []
    for _ in range(STEPS):
        state, scalars = step(name)(states[-1], tiny.images())
        states.append(state)
        losses.append(float(scalars["loss"]))
    assert step(name)._cache_size() == 1  # nothing that changes in a run compiles the step again
    return states, losses


def weights(state, module):
    return trees.named(state.params["weights"][module])


@every
def test_every_weight_of_the_encoder_moves(name):
    states, losses = run(name)
    assert np.isfinite(losses).all()
    assert len(set(losses)) == STEPS
    for before, after in zip(states[:-1], states[1:], strict=True):
        for leaf, x in weights(before, "encoder").items():
            assert (x != weights(after, "encoder")[leaf]).any(), leaf


@every
def test_it_resumes_to_the_bit(name, tmp_path):
    states, _ = run(name)
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(2, states[2])
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=ONE), states[2])
    with Checkpoints(tmp_path / "checkpoints", read_only=True) as checkpoints:
        state = checkpoints.restore(like=like)
    for _ in range(2, STEPS):
        state, _ = step(name)(state, tiny.images())
    expected = trees.named(states[STEPS].replace(key=None))
    found = trees.named(state.replace(key=None))
    assert found.keys() == expected.keys()
    for leaf, x in expected.items():
        np.testing.assert_array_equal(found[leaf], x, err_msg=leaf)


@every
def test_one_and_eight_devices_agree(name):
    """Another compilation rounds otherwise; a mean over a device's share would be off by far more."""
    states, losses = run(name)
    shardings = parallel.shardings()
    state = jax.device_put(states[2], shardings.replicated)
    state, scalars = step(name)(state, jax.device_put(tiny.images(), shardings.batch))
    assert float(scalars["loss"]) == pytest.approx(losses[2], rel=1e-4)
    expected = trees.named(states[3].replace(key=None))
    for leaf, x in trees.named(state.replace(key=None)).items():
        # The small elements of an array are differences of large ones, and round as these.
        scale = max(1.0, float(np.abs(expected[leaf]).max(initial=0)))
        np.testing.assert_allclose(x, expected[leaf], rtol=1e-3, atol=1e-4 * scale, err_msg=leaf)


@damaged
def test_the_sparse_norms_receive_gradient(name):
    """Biases start at 0, so decay alone does not move them."""
    states, _ = run(name)
    biases = {k: v for k, v in trees.named(states[1].params["norms"]["sparse"]).items() if k.endswith("bias")}
    assert biases
    assert all((np.asarray(x) != 0).any() for x in biases.values())
    mask = trees.named(states[1].mask)
    assert all(float(x.mean()) > 0 for x in mask.values())
    assert any(float(x.mean()) < 1 for x in mask.values())


@pytest.mark.parametrize("name", methods.ROWS)
def test_damage_is_a_matter_of_pairs_alone(name):
    damaged = methods.DAMAGED_NAMES.get(name, f"sd_{name}")
    plain, sparse = tiny.row(name), tiny.row(damaged)
    assert plain.network == sparse.network
    assert not plain.damaged
    assert sparse.damaged
    a, b = run(name)[0][0], run(damaged)[0][0]
    jax.tree.map(np.testing.assert_array_equal, a.params["weights"], b.params["weights"])


@averaged
def test_the_target_is_the_average_that_the_schedule_says(name):
    states, _ = run(name)
    schedule = {
        "moco": lambda k: 0.999,
        "byol": lambda k: 1 - (1 - 0.996) * (np.cos(np.pi * k / (10 * tiny.STEPS_PER_EPOCH)) + 1) / 2,
    }[name.removeprefix("sd_")]
    expected = {k: np.asarray(x, np.float64) for k, x in trees.named(states[0].target).items()}
    assert {k.split("/")[0] for k in expected} == {"encoder", "projector"}
    for k in range(STEPS):
        online = trees.named(branches.dense(states[k + 1].params))
        expected = {leaf: schedule(k) * x + (1 - schedule(k)) * online[leaf] for leaf, x in expected.items()}
        for leaf, x in trees.named(states[k + 1].target).items():
            np.testing.assert_allclose(x, expected[leaf], rtol=1e-6, atol=1e-6, err_msg=leaf)
    assert any((x != expected[leaf]).any() for leaf, x in trees.named(states[0].target).items())


@averaged
def test_the_target_has_statistics_of_its_own(name):
    states, _ = run(name)
    target, dense = (trees.named(states[STEPS].stats[k]) for k in ("target", "dense"))
    assert not any("predictor" in k for k in target)
    assert all((np.asarray(x) != np.asarray(dense[k])).any() for k, x in target.items())


@pytest.mark.parametrize("name", ["moco", "sd_moco"])
def test_the_queue_holds_the_last_keys_in_order(name):
    """A batch of 16 in a queue of 20: four of the batch before are left. Each side has its own queue."""
    states, _ = run(name)
    sides = sorted({b for _, b in tiny.row(name).pairs})
    assert set(states[0].objective_state) == {f"target{view}" for _, view in sides}
    outputs = jax.jit(tiny.row(name).diagnose)(states[1], tiny.images())
    for branch, view in sides:
        before, after = (np.asarray(s.objective_state[f"{branch}{view}"]) for s in states[1:3])
        np.testing.assert_array_equal(after[:4], before[16:])
        np.testing.assert_allclose(after[4:], unit(outputs[branch, view].projection), atol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(states[0].objective_state[f"{branch}{view}"], axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize("name", ["swav", "sd_swav"])
def test_prototypes_stay_for_an_epoch_and_then_move_at_unit_length(name):
    states, _ = run(name)
    kernels = [np.asarray(weights(state, "prototypes")["kernel"]) for state in states]
    for kernel in kernels:
        np.testing.assert_allclose(np.linalg.norm(kernel, axis=0), 1, rtol=1e-5)
    np.testing.assert_allclose(kernels[tiny.STEPS_PER_EPOCH], kernels[0], atol=1e-6)
    assert np.abs(kernels[tiny.STEPS_PER_EPOCH + 1] - kernels[0]).max() > 1e-3


def test_what_is_compared_can_be_looked_at_without_a_step():
    states, _ = run("sd_moco")
    outputs = jax.jit(tiny.row("sd_moco").diagnose)(states[1], tiny.images())
    assert outputs.keys() == {("dense", 0), ("sparse", 1), ("target", 0), ("target", 1)}
    assert {out.projection.shape for out in outputs.values()} == {(16, 4)}


@every
def test_the_state_can_be_donated(name):
    """No two leaves of the first state are one buffer."""
    state = run(name)[0][0]
    pointers = [x.unsafe_buffer_pointer() for x in jax.tree.leaves(state.replace(key=None)) if x.size]
    assert len(pointers) == len(set(pointers))


def test_multi_crop_is_data_too():
    """Two views of 8 and two of 4 pixels: the small ones only predict. A size is encoded at once."""
    config = base.get_config()
    recipe = tiny.RECIPE | {"swav": tiny.RECIPE["swav"] | {"number_of_views": 4}}
    methods.choose(config, "sd_swav", recipe)
    config.views.update({"size": 8, "small_size": 4})
    method = recipes.method(config, tiny.STEPS_PER_EPOCH)
    method.network = tiny.row("swav").network
    images = np.random.default_rng(0).integers(0, 256, (16, 12, 12, 3), np.uint8)
    views = jax.eval_shape(method.make_views, jax.random.key(0), images)
    assert [v.shape for v in views] == [(16, 8, 8, 3)] * 2 + [(16, 4, 4, 3)] * 2
    views = tuple(np.random.default_rng(i).standard_normal(v.shape).astype(np.float32) for i, v in enumerate(views))

    def all_of(seed):
        state = method.init(seed, views[0][:1])
        return method.forward(state.params, state, views)[0], method.update(state, views)[1]["loss"], state

    outputs, loss, state = jax.jit(all_of)(np.uint32(0))
    assert outputs.keys() == {("dense", 0), ("dense", 2), ("sparse", 1), ("sparse", 3)}
    assert len(method.pairs) == 2 * 3
    assert {b for _, b in method.pairs} == {("dense", 0), ("sparse", 1)}
    loss_of = method.objective.loss
    expected = [float(loss_of(state.objective_state["dense0"], outputs[a], outputs[b], None)) for a, b in method.pairs]
    assert float(loss) == pytest.approx(np.mean(expected), rel=1e-5)


def test_nt_xent_in_chunks_is_a_field_and_the_same_loss():
    """Value and gradient, of 2 x 16 rows, which 5 does not divide."""
    rng = np.random.default_rng(0)
    a, b = (Outputs(features=z, projection=z) for z in rng.standard_normal((2, 16, 4)).astype(np.float32))
    found = []
    for chunk in (0, 5):
        methods.choose(config := base.get_config(), "sdclr")
        config.objective.chunk = chunk
        recipes.check(config)
        loss = recipes.method(config, tiny.STEPS_PER_EPOCH).objective.loss
        compiled = jax.jit(jax.value_and_grad(lambda a, b, loss=loss: loss(None, a, b, None), argnums=(0, 1)))
        found.append(compiled(a, b))
        assert ("while" in compiled.lower(a, b).as_text()) == (chunk > 0)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6), *found)


def test_w_mse_of_four_views_compares_all_six_pairs():
    pairs = methods.each_other(4, damaged=True)
    assert len(pairs) == 6
    assert {side for pair in pairs for side in pair} == {("dense", 0), ("sparse", 1), ("dense", 2), ("sparse", 3)}


@pytest.mark.parametrize(
    ("name", "field", "value", "said"),
    [
        ("w_mse", "objective.slice_size", 5, "objective.slice_size is 5: it must divide the batch, 16"),
        ("w_mse", "projector.out", 16, "objective.shrinkage is 0.*has no inverse: make the batch larger than 16"),
        ("moco", "objective.queue", 100, "100 images: make it smaller, or half of the images and more meet their own"),
        ("moco", "objective.queue", 0, "objective.queue is 0: info_nce has its negatives from there"),
        ("simclr", "epochs", 10**9, "epochs is 1000000000, of 6 steps each: it must be at most 357913941"),
        ("swav", "prototypes.frozen_epochs", 10**9, "prototypes.frozen_epochs is 1000000000, of 6 steps each"),
        ("swav", "objective.queue_start_epochs", 10**9, "objective.queue_start_epochs is 1000000000, of 6 steps"),
        (
            "byol",
            "predictor.layers",
            0,
            "predictor.layers is 0, so prediction is None",
        ),
        ("swav", "prototypes.count", 0, "prototypes.count is 0, so prototypes is None"),
    ],
)
def test_what_does_not_fit_is_refused_before_the_first_step(name, field, value, said):
    config = digits_lt.get_config(name)
    config.batch_size = 16
    if name == "w_mse":
        config.objective.slice_size = 16
    *parent, last = field.split(".")
    (config[parent[0]] if parent else config)[last] = value
    recipes.check(config)
    with pytest.raises(UserError, match=said):
        shardings, images = parallel.shardings(), np.zeros((100, 8, 8, 1), np.uint8)
        state = recipes.abstract_state(config, images.shape, shardings)
        method = recipes.method(config, len(images) // 16, shardings.replicated)
        recipes.try_step(config, method, state, images, shardings.batch)
