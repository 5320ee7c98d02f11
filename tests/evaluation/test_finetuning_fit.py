"""Fine-tuning against a plain NumPy loop around the network's gradient, and what it must leave alone."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sdclr_jax.errors import ArgumentError
from sdclr_jax.evaluation import finetuning, probe

N, SIDE, C, SEED = 20, 4, 3, 5
rng = np.random.default_rng(0)
LABELS = np.arange(N) % C
# Classes are directions of the pixels; the encoder at its start sees little of them.
IMAGES = (rng.normal(size=(C, SIDE))[LABELS] + 0.3 * rng.normal(size=(N, SIDE))).astype(np.float32)
VALIDATION = rng.normal(size=(400, SIDE)).astype(np.float32)  # enough for the predictions of epochs to differ


class Encoder(nn.Module):
    """A layer and a batch norm on "images" that are vectors: one matrix product, so that a test takes no time."""

    dropout: float = 0.0

    @nn.compact
    def __call__(self, views, train):
        x = nn.Dense(6, use_bias=False, name="layer")(views)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9, name="norm")(x))


ENCODER = Encoder()


@functools.cache
def variables():
    return ENCODER.init(jax.random.key(0), jnp.zeros((2, SIDE)), True)


@jax.jit
def encode(variables, views):
    return ENCODER.apply(variables, views, False)


def views_of(step, rows):
    """Views that differ from step to step, as augmented images do."""
    return jnp.asarray(IMAGES)[rows] * (1 + 0.1 * jnp.sin(jnp.float32(step)))


def fit(validation=IMAGES, validation_labels=LABELS, encoder=ENCODER, **changed):
    settings = {"epochs": 3, "learning_rate": 0.3, "head_learning_rate": 0.5, "batch_size": 8, "seed": SEED} | changed
    return finetuning.fit(
        encoder, variables(), views_of, LABELS, lambda v: np.asarray(encode(v, validation)), validation_labels,
        num_classes=C, **settings,
    )  # fmt: skip


@jax.jit
def gradient(params, stats, kernel, bias, views, labels):
    def loss(params, kernel, bias):
        given = {"params": params, "batch_stats": stats}
        features, new = ENCODER.apply(given, views, True, mutable=["batch_stats"])
        log_p = jax.nn.log_softmax(features @ kernel + bias[None, :])
        return -jnp.mean(log_p[jnp.arange(len(labels)), labels]), new["batch_stats"]

    return jax.grad(loss, argnums=(0, 1, 2), has_aux=True)(params, kernel, bias)


@functools.cache
def oracle(epochs, learning_rate, head_learning_rate, batch_size):
    """Variables, kernel and bias after each epoch: Nesterov's momentum written out, in float64."""
    params, stats = variables()["params"], variables()["batch_stats"]
    leaves, tree = jax.tree.flatten(params)
    weights = [np.asarray(x, np.float64) for x in leaves] + [np.zeros((6, C)), np.zeros(C)]
    velocity = [np.zeros_like(w) for w in weights]
    rates = [learning_rate] * len(leaves) + [head_learning_rate] * 2
    total, step, after = epochs * (N // batch_size), 0, []
    for epoch in range(1, epochs + 1):
        order = np.random.default_rng((SEED, epoch)).permutation(N)
        for start in range(0, N - batch_size + 1, batch_size):
            rows = order[start : start + batch_size]
            now = [w.astype(np.float32) for w in weights]
            given = tree.unflatten(now[:-2]), stats, *now[-2:], views_of(step, rows), LABELS[rows]
            (of_params, *of_head), stats = gradient(*given)
            factor = (1 + np.cos(np.pi * step / total)) / 2
            for i, g in enumerate([*jax.tree.leaves(of_params), *of_head]):
                velocity[i] = 0.9 * velocity[i] + np.asarray(g, np.float64)
                weights[i] = weights[i] - rates[i] * factor * (np.asarray(g, np.float64) + 0.9 * velocity[i])
            step += 1
        after.append((tree.unflatten(weights[:-2]), stats, *weights[-2:]))
    return after


def assert_close(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), a, b)


@pytest.mark.parametrize("best_epoch", [1, 2, 3])
@pytest.mark.parametrize("rates", [(0.3, 0.5), (0.0, 0.5)])
def test_it_equals_a_plain_loop_and_keeps_the_best_epoch(rates, best_epoch):
    after, predictions = oracle(3, *rates, batch_size=8), []
    for params, stats, kernel, bias in after:
        features = encode({"params": params, "batch_stats": stats}, VALIDATION)
        predictions.append((np.asarray(features) @ kernel + bias).argmax(1))
    labels = predictions[best_epoch - 1]  # so that this epoch, and no other, has every validation image right
    accuracies = [np.mean(found == labels) for found in predictions]
    assert sorted(accuracies)[1] < 0.99
    found = fit(VALIDATION, labels, learning_rate=rates[0], head_learning_rate=rates[1])
    np.testing.assert_allclose(found.history, accuracies, atol=2.5 / len(labels))  # ties that rounding decides
    assert found.best_epoch == best_epoch
    assert found.validation_accuracy == max(found.history)
    params, stats, kernel, bias = after[best_epoch - 1]
    assert_close(found.variables["params"], params)
    assert_close(found.variables["batch_stats"], stats)
    assert_close((found.kernel, found.bias), (kernel, bias))
    assert found.kernel.dtype == found.bias.dtype == np.float32


def test_more_images_than_there_are_make_one_batch():
    found, (*_, last) = fit(epochs=1, batch_size=64), oracle(1, 0.3, 0.5, batch_size=N)
    assert_close((found.kernel, found.bias), last[2:])


def test_it_learns_what_a_head_alone_cannot_and_is_a_function_of_its_seed():
    """Of what dropout leaves out, too."""
    before, dropping = jax.device_get(variables()), Encoder(dropout=0.1)
    found = fit(epochs=30, encoder=dropping)
    features = np.asarray(encode(found.variables, IMAGES))
    assert np.mean(probe.predict(features, found.kernel, found.bias) == LABELS) == 1
    assert found.validation_accuracy == 1
    jax.tree.map(np.testing.assert_array_equal, before, variables())
    again, other = (fit(epochs=30, encoder=dropping, seed=seed) for seed in (SEED, SEED + 1))
    jax.tree.map(np.testing.assert_array_equal, found, again)
    assert abs(found.kernel - other.kernel).max() > 1e-3
    assert abs(found.variables["params"]["layer"]["kernel"] - before["params"]["layer"]["kernel"]).max() > 0.1


def test_a_loss_that_is_not_finite_is_said():
    with pytest.raises(ArgumentError, match="^learning_rate is 1e.38.* after epoch 1, so lower"):
        fit(learning_rate=1e38, head_learning_rate=1e38, batch_size=4)
