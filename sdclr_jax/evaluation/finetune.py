"""Fine-tuning the whole encoder on few labels, as SimCLR does (Chen et al., ICML 2020, appendix B.5).

Nesterov momentum 0.9, no weight decay, no warm-up, a cosine to 0; batch norm is in training mode and its statistics
move on; the head starts from zero (the authors' code: model.py, `zero_init_logits_layer`). Rates of encoder and head
are given apart, as in SwAV (github.com/facebookresearch/swav, eval_semisup.py); SimCLR has one for both.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from sdclr_jax.errors import UserError
from sdclr_jax.evaluation import probe

MOMENTUM = 0.9
Tree = Any


class FineTuned(NamedTuple):
    variables: Tree  # those given, but for the encoder's
    kernel: np.ndarray  # float32 [D, C], of the head, for `probe.predict`
    bias: np.ndarray  # float32 [C]
    best_epoch: int  # counted from 1: the first epoch with the best validation accuracy, whose weights these are
    validation_accuracy: float  # share of all validation images, at that epoch
    history: tuple[float, ...]  # validation accuracy after each epoch


def fit(
    network: nn.Module,
    variables: Tree,
    views_of: Callable[[int, np.ndarray], jax.Array],
    labels: np.ndarray,
    validation_features: Callable[[Tree], np.ndarray],
    validation_labels: np.ndarray,
    *,
    num_classes: int,
    epochs: int,
    learning_rate: float,
    head_learning_rate: float,
    batch_size: int,
    seed: int,
) -> FineTuned:
    """Train encoder and head on images with `labels`, int [N]; the epoch that is best on validation images is kept.

    `network` has a method `encode(views, train)`, and an encoder among its `variables`, which stay as they are.
    `views_of(step, indices)` gives the views [B, h, w, C] of the images `indices`, int32 [B], at `step`, counted from 0
    over all epochs. `validation_features(variables)` gives the features [V, D] that an encoder makes of the validation
    images, whose labels are int [V]. Epoch e visits the images in the order
    `np.random.default_rng((seed, e)).permutation(N)`, e counted from 1, in whole batches, since batch norm would weigh
    an image in a small one more; those left over come up in other epochs. With fewer images than `batch_size` they are
    one batch. The rates fall along a half cosine over all steps.
    Raises UserError where the loss is no longer finite.
    """
    labels, batch_size = np.asarray(labels, np.int32), min(batch_size, len(labels))
    steps_per_epoch = len(labels) // batch_size
    rates = {"encoder": learning_rate, "head": head_learning_rate}
    total, momentum = epochs * steps_per_epoch, optax.trace(MOMENTUM, nesterov=True)

    @jax.jit
    def step_fn(trained: Tree, stats: Tree, velocity: Tree, views: jax.Array, labels: jax.Array, cosine: float):
        def loss_of(trained):
            given = {"params": {"encoder": trained["encoder"]}, "batch_stats": {"encoder": stats}}
            features, new = network.apply(given, views, train=True, method="encode", mutable=["batch_stats"])
            kernel, bias = trained["head"]
            logits = jnp.dot(features.astype(jnp.float32), kernel, precision="highest") + bias[None, :]
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            return losses.mean(), new["batch_stats"]["encoder"]

        (loss, stats), gradient = jax.value_and_grad(loss_of, has_aux=True)(trained)
        updates, velocity = momentum.update(gradient, velocity)
        updates = {
            name: jax.tree.map(lambda u, rate=rate: -rate * cosine * u, updates[name]) for name, rate in rates.items()
        }
        return optax.apply_updates(trained, updates), stats, velocity, loss

    views = views_of(0, np.arange(batch_size, dtype=np.int32))  # for their shape
    dimensions = jax.eval_shape(lambda views: network.apply(variables, views, method="encode"), views).shape[1]
    trained = {
        "encoder": variables["params"]["encoder"],
        "head": (jnp.zeros((dimensions, num_classes)), jnp.zeros(num_classes)),
    }
    stats, velocity = variables["batch_stats"]["encoder"], momentum.init(trained)
    best, history, step = None, [], 0
    for epoch in range(1, epochs + 1):
        order = np.random.default_rng((seed, epoch)).permutation(len(labels)).astype(np.int32)
        for rows in order[: steps_per_epoch * batch_size].reshape(steps_per_epoch, batch_size):
            cosine = (1 + math.cos(math.pi * step / total)) / 2
            trained, stats, velocity, loss = step_fn(
                trained, stats, velocity, views_of(step, rows), labels[rows], cosine
            )
            step += 1
        if not np.isfinite(loss):
            raise UserError(
                f"the loss of fine-tuning is {loss} after epoch {epoch}: lower evaluate.fine_tune_learning_rate or "
                "evaluate.fine_tune_head_learning_rate"
            )
        tuned, head = _with_encoder(variables, trained["encoder"], stats), trained["head"]
        right = probe.predict(validation_features(tuned), *head) == np.asarray(validation_labels)
        history.append(float(np.mean(right)))
        if best is None or history[-1] > best.validation_accuracy:
            best = FineTuned(tuned, *map(np.asarray, head), epoch, history[-1], ())
    return best._replace(history=tuple(history))


def _with_encoder(variables: Tree, params: Tree, stats: Tree) -> Tree:
    """A network's variables with this encoder in them."""
    return {
        **variables,
        "params": {**variables["params"], "encoder": params},
        "batch_stats": {**variables["batch_stats"], "encoder": stats},
    }
