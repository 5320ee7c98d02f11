import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sdclr_jax import optim
from sdclr_jax.errors import ArgumentError

SETTINGS = {"learning_rate": 0.5, "momentum": 0.9, "weight_decay": 1e-2, "final_learning_rate": 1e-6}


TORCH = {
    "before_update": [0.25, 0.5, 0.42677684174324626, 0.2500005, 0.07322415825675373, 1e-06],
    "after_update": [0.0, 0.25, 0.5, 0.42677684174324626, 0.2500005, 0.07322415825675373],
}


def published_rate(step: int, total: int, warmup: int) -> float:
    """Linear from 0, then half a cosine down to the final rate, per step."""
    if step < warmup:
        return 0.5 * step / warmup
    return 1e-6 + (0.5 - 1e-6) * 0.5 * (1 + np.cos(np.pi * (step - warmup) / (total - warmup)))


@pytest.mark.parametrize("warmup", [0, 10])
def test_schedule(warmup):
    schedule = optim.sgd(warmup_steps=warmup, total_steps=100, **SETTINGS).schedule
    for step in range(101):
        assert float(schedule(step)) == pytest.approx(published_rate(step, 100, warmup), rel=1e-5, abs=1e-7)


@pytest.mark.parametrize(
    ("rate_moves", "place"),
    [("before_update", lambda k: k + 1), ("after_update", lambda k: k), ("after_epoch", lambda k: k // 22 * 22)],
)
def test_when_the_rate_moves(rate_moves, place):
    """The SDCLR loop calls `scheduler.step()` before `optimizer.step()`: no update has a rate of 0, and the last one
    has the final rate. MoCo's and SimSiam's set the rate once an epoch."""
    moves = {"rate_moves": rate_moves, "steps_per_epoch": 22}
    schedule = optim.sgd(warmup_steps=44, total_steps=220, **SETTINGS, **moves).schedule
    for k in range(220):
        assert float(schedule(k)) == pytest.approx(published_rate(place(k), 220, 44), rel=1e-5, abs=1e-7)


def test_the_rates_are_those_of_pytorch():
    """Of LambdaLR over 6 updates with a warm-up of 2, moved before and after each (PyTorch 2.15)."""
    for rate_moves, expected in TORCH.items():
        schedule = optim.sgd(warmup_steps=2, total_steps=6, **SETTINGS, rate_moves=rate_moves).schedule
        np.testing.assert_allclose([float(schedule(k)) for k in range(6)], expected, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rate_moves": "never"}, "rate_moves is 'never': known are before_update, after_update, after_epoch"),
        ({"steps_per_epoch": 0}, "steps_per_epoch is 0"),
        ({"constant_rate": "predictor"}, r"constant_rate is 'predictor': give a tuple of names, \('predictor',\)"),
        ({"warmup_steps": 20}, "warmup_steps is 20: it must be at least 0 and below all steps, 20"),
        ({"final_learning_rate": 0.6}, "final_learning_rate is 0.6: it must be from 0 to the learning rate, 0.5"),
    ],
)
def test_numbers_that_make_no_curve_are_refused(change, said):
    with pytest.raises(ArgumentError, match=f"^{said}"):
        optim.sgd(**{"warmup_steps": 0, "total_steps": 20} | SETTINGS | change)


def test_a_share_that_no_target_keeps_is_refused():
    for numbers, said in (({"start": 1.5, "end": 1}, "start is 1.5"), ({"start": 1, "end": 1, "steps": 0}, "total_st")):
        with pytest.raises(ArgumentError, match=f"^{said}"):
            optim.target_momentum(total_steps=numbers.pop("steps", 5), **numbers)


def test_update_is_torch_sgd():
    """buffer = momentum * buffer + (gradient + decay * w); w -= rate * buffer, on every parameter, biases too."""
    transform = optim.sgd(warmup_steps=2, total_steps=20, **SETTINGS).transform
    rng = np.random.default_rng(0)
    params = {"kernel": jnp.asarray(rng.standard_normal((2, 3)), jnp.float32), "bias": jnp.ones(3)}
    expected = jax.tree.map(lambda p: np.array(p, np.float64), params)
    buffer = jax.tree.map(np.zeros_like, expected)
    state = transform.init(params)
    for step in range(8):
        gradient = jax.tree.map(lambda p: jnp.asarray(rng.standard_normal(p.shape), jnp.float32), params)
        updates, state = transform.update(gradient, state, params)
        params = jax.tree.map(jnp.add, params, updates)
        buffer = jax.tree.map(lambda b, g, w: 0.9 * b + g + 1e-2 * w, buffer, gradient, expected)
        rate = published_rate(step, 20, 2)
        expected = jax.tree.map(lambda w, b, rate=rate: w - rate * b, expected, buffer)
    jax.tree.map(lambda p, e: np.testing.assert_allclose(p, e, rtol=1e-4, atol=1e-5), params, expected)


COMMON = {"momentum": 0.9, "weight_decay": 0.1, "warmup_steps": 2, "total_steps": 10, "final_learning_rate": 0.0}


def tree(rng):
    shapes = {
        "projector": {"kernel": (4, 3), "bias": (3,)},
        "predictor": {"kernel": (3, 3)},
        "prototypes": {"kernel": (3, 5)},
    }
    return jax.tree.map(
        lambda s: jnp.asarray(rng.standard_normal(s), jnp.float32), shapes, is_leaf=lambda s: isinstance(s, tuple)
    )


def updates(optimizer, steps, params=None):
    """The parameters before each step and after the last, with the gradients."""
    rng = np.random.default_rng(0)
    params = [params or tree(rng)]
    state, gradients = optimizer.transform.init(params[0]), []
    update = jax.jit(optimizer.transform.update)
    for _ in range(steps):
        gradients.append(tree(rng))
        change, state = update(gradients[-1], state, params[-1])
        params.append(jax.tree.map(jnp.add, params[-1], change))
    return params, gradients


@pytest.mark.parametrize("decay_vectors", [True, False])
def test_lars_as_written_by_hand(decay_vectors):
    """Of each tensor the decayed gradient times trust * |w| / |it|, momentum, rate; excluded vectors plainly."""
    optimizer = optim.lars(learning_rate=0.5, trust_coefficient=0.02, decay_vectors=decay_vectors, **COMMON)
    params, gradients = updates(optimizer, 4)
    for module, leaf in (("projector", "kernel"), ("projector", "bias"), ("predictor", "kernel")):
        w, buffer = np.asarray(params[0][module][leaf], np.float64), 0.0
        for k, gradient in enumerate(gradients):
            g = np.asarray(gradient[module][leaf], np.float64)
            if leaf == "kernel" or decay_vectors:
                g = g + 0.1 * w
                g = g * 0.02 * np.linalg.norm(w) / np.linalg.norm(g)
            buffer = 0.9 * buffer + g
            w = w - float(optimizer.schedule(k)) * buffer
            np.testing.assert_allclose(params[k + 1][module][leaf], w, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("decay_vectors", [True, False])
def test_decay_can_skip_norms_and_biases(decay_vectors):
    params, gradients = updates(
        optim.sgd(learning_rate=0.5, decay_vectors=decay_vectors, **COMMON | {"warmup_steps": 0}), 1
    )
    for leaf, decayed in (("kernel", True), ("bias", decay_vectors)):
        before, after, g = (x["projector"][leaf] for x in (*params, *gradients))
        np.testing.assert_allclose(after, before - 0.5 * (g + (0.1 * before if decayed else 0)), rtol=1e-4, atol=1e-6)


def test_adam_as_written_by_hand():
    params, gradients = updates(optim.adam(learning_rate=0.5, **COMMON | {"warmup_steps": 0, "total_steps": 10**6}), 3)
    w = np.asarray(params[0]["projector"]["kernel"], np.float64)
    m = v = 0.0
    for k, gradient in enumerate(gradients, 1):
        g = np.asarray(gradient["projector"]["kernel"], np.float64) + 0.1 * w
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        w = w - 0.5 * (m / (1 - 0.9**k)) / (np.sqrt(v / (1 - 0.999**k)) + 1e-8)
        np.testing.assert_allclose(params[k]["projector"]["kernel"], w, rtol=1e-3, atol=1e-5)


def test_a_module_can_keep_its_rate():
    """SimSiam's predictor: without momentum and decay an update is the rate times the gradient."""
    plain = COMMON | {"momentum": 0.0, "weight_decay": 0.0}
    optimizer = optim.sgd(learning_rate=0.5, constant_rate=("predictor",), **plain)
    params, gradients = updates(optimizer, 6)
    for k, gradient in enumerate(gradients):
        for module, rate in (("predictor", 0.5), ("projector", float(optimizer.schedule(k)))):
            moved = params[k + 1][module]["kernel"] - params[k][module]["kernel"]
            np.testing.assert_allclose(moved, -rate * gradient[module]["kernel"], rtol=1e-4, atol=1e-6)


def test_a_module_that_is_not_there_is_named():
    """But for a part of a network that this one does without."""
    start = tree(np.random.default_rng(1))
    optim.sgd(learning_rate=0.5, constant_rate=("prototypes",), **COMMON).transform.init({"encoder": start})
    with pytest.raises(ArgumentError, match="^constant_rate has 'predicter', and no parameter lies in such a module"):
        optim.sgd(learning_rate=0.5, constant_rate=("predicter",), **COMMON).transform.init(start)


def test_prototypes_are_frozen_first_and_keep_unit_length():
    """While frozen they gather neither momentum nor decay: the first update after is of its own gradient alone."""
    optimizer = optim.sgd(learning_rate=0.5, frozen_prototype_steps=3, **COMMON | {"warmup_steps": 0})
    start = tree(np.random.default_rng(1))
    start["prototypes"]["kernel"] /= jnp.linalg.norm(start["prototypes"]["kernel"], axis=0, keepdims=True)
    params, gradients = updates(optimizer, 5, start)
    kernels = [np.asarray(p["prototypes"]["kernel"], np.float64) for p in params]
    for kernel in kernels[1:4]:
        np.testing.assert_allclose(kernel, kernels[0], atol=1e-6)
    g = np.asarray(gradients[3]["prototypes"]["kernel"], np.float64)
    moved = kernels[3] - float(optimizer.schedule(3)) * (g + 0.1 * kernels[3])
    np.testing.assert_allclose(kernels[4], moved / np.linalg.norm(moved, axis=0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(kernels[5], axis=0), 1, rtol=1e-5)


@pytest.mark.parametrize(("start", "end"), [(0.996, 1.0), (0.99, 0.99)])
def test_target_momentum(start, end):
    schedule = optim.target_momentum(start=start, end=end, total_steps=50)
    for k in (0, 1, 25, 49, 50):
        expected = end - (end - start) * (np.cos(np.pi * k / 50) + 1) / 2
        assert float(schedule(k)) == pytest.approx(expected, abs=1e-6)
