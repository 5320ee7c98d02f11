"""The one loop that fits weights to labelled images, epoch by epoch, and the choice among its epochs."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
import optax

from sdclr_jax.errors import ArgumentError
from sdclr_jax.trees import Tree

W = TypeVar("W")


class Epoch(NamedTuple):
    """What an epoch ends with."""

    weights: Tree
    extra: Tree
    loss: jax.Array  # of its last batch


def epochs(
    weights: Tree,
    extra: Tree,
    loss: Callable[[Tree, Tree, Any, jax.Array], tuple[jax.Array, Tree]],
    inputs_of: Callable[[int, np.ndarray], Any],
    labels: np.ndarray,
    *,
    optimizer: optax.GradientTransformation,
    rates: Callable[[int], Any],
    count: int,
    batch_size: int,
    seed: int,
    whole_batches: bool = False,
) -> Iterator[Epoch]:
    """Fit for `count` epochs, each yielded when it is done.

    Epoch e visits the images in the order `np.random.default_rng((seed, e)).permutation(N)`, e counted from 1. All
    batches have one shape, so that a step compiles once.

    Args:
        weights: what is fitted.
        extra: what moves on beside it, such as batch statistics.
        loss: (weights, extra, inputs, labels [B]) -> (loss, extra); compiled once for each such function, so give one
            that stands in a module where it serves several fits.
        inputs_of: (step, rows int32 [B]) -> what the loss takes of these images; steps count from 0 over all epochs.
        labels: int [N].
        optimizer: makes updates of gradients; they are multiplied by -rate.
        rates: step -> rate, or a tree of rates whose leaves each stand for a part of the weights.
        count: of epochs.
        batch_size: images a step.
        seed: of the orders.
        whole_batches: whether the images that do not fill a batch are left out of an epoch. Else they are a batch,
            filled up with image 0 under the label -1, which a loss is to leave out.
    """
    labels = np.asarray(labels, np.int32)
    state, step = _init(weights, optimizer=optimizer), 0
    for epoch in range(1, count + 1):
        order = np.random.default_rng((seed, epoch)).permutation(len(labels)).astype(np.int32)
        end = len(order) // batch_size * batch_size if whole_batches else len(order)
        for start in range(0, end, batch_size):
            rows = order[start : start + batch_size]
            missing = (0, batch_size - len(rows))
            targets = np.pad(labels[rows], missing, constant_values=-1)
            inputs = inputs_of(step, np.pad(rows, missing))
            weights, state, extra, value = _step(
                weights, state, extra, inputs, targets, rates(step), loss=loss, optimizer=optimizer
            )
            step += 1
        yield Epoch(weights, extra, value)


class Best(NamedTuple):
    """The first epoch with the best score."""

    weights: Any
    epoch: int  # counted from 1
    score: float
    history: tuple[float, ...]  # score of each epoch that was looked at


def best(weights_of_epochs: Iterable[W], score: Callable[[W], float], every: int = 1) -> Best:
    """The best of the weights that epochs end with, among epochs `every`, 2 `every` and so on.

    Raises:
        ArgumentError: no such epoch.
    """
    if every < 1:
        raise ArgumentError("choose_every", f"is {every}: it must be at least 1")
    found, epoch, history, number = None, 0, [], 0
    for number, weights in enumerate(weights_of_epochs, 1):
        if number % every:
            continue
        history.append(score(weights))
        if history[-1] > max(history[:-1], default=-1.0):
            found, epoch = weights, number
    if not epoch:
        if every > 1:
            raise ArgumentError("epochs", f"are {number}, and the first to choose among is number {every}: add some")
        raise ArgumentError("epochs", "is 0: nothing is learnt in fewer than one")
    return Best(found, epoch, max(history), tuple(history))


@partial(jax.jit, static_argnames="optimizer")
def _init(weights: Tree, *, optimizer: optax.GradientTransformation) -> optax.OptState:
    return optimizer.init(weights)


@partial(jax.jit, static_argnames=("loss", "optimizer"))
def _step(weights: Tree, state: optax.OptState, extra: Tree, inputs: Any, labels: jax.Array, rates, *, loss, optimizer):
    """One step; the momentum takes the gradient in whole, and the rate scales both, as PyTorch does."""
    (value, extra), gradient = jax.value_and_grad(loss, has_aux=True)(weights, extra, inputs, labels)
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam raises a float to the power of the integer step
        updates, state = optimizer.update(gradient, state, weights)
    updates = jax.tree.map(lambda rate, part: jax.tree.map(lambda u: -rate * u, part), rates, updates)
    return optax.apply_updates(weights, updates), state, extra, value
