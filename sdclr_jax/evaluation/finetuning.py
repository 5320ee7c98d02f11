"""Fine-tuning the whole encoder on few labels, as SimCLR does (Chen et al., ICML 2020, appendix B.5).

Nesterov momentum 0.9, no weight decay, no warm-up, a cosine to 0; batch norm is in training mode and its statistics
move on; the head starts from zero (the authors' code: model.py, `zero_init_logits_layer`). Encoder and head have rates
of their own, as in SwAV (github.com/facebookresearch/swav, eval_semisup.py); SimCLR has one for both.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from sdclr_jax.data.examples import Examples
from sdclr_jax.data.subsets import longtail
from sdclr_jax.data.targets import Classes
from sdclr_jax.errors import ArgumentError
from sdclr_jax.evaluation import fitting, probe
from sdclr_jax.trees import Tree

MOMENTUM = 0.9
RATES_ARE_FOR = 256  # images a batch: rates are in proportion to it (Chen et al., ICML 2020, appendix B.5)


class FineTuned(NamedTuple):
    variables: Tree  # the encoder's
    kernel: np.ndarray  # float32 [D, C], of the head, for `probe.predict`
    bias: np.ndarray  # float32 [C]
    best_epoch: int  # counted from 1: the first epoch with the best validation accuracy, whose weights these are
    validation_accuracy: float  # share of all validation images, at that epoch
    history: tuple[float, ...]  # validation accuracy after each epoch


def fit(
    encoder: nn.Module,
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

    Batches are whole, since batch norm would weigh an image in a small one more; images left over come up in other
    epochs. With fewer images than `batch_size` they are one batch. The rates fall along a half cosine over all steps.

    Args:
        encoder: Flax module, (views [B, h, w, C], train) -> features [B, D].
        variables: the encoder's; they stay as they are.
        views_of: (step, indices int32 [B]) -> views [B, h, w, C] of these images; steps count from 0 over all epochs.
        labels: int [N].
        validation_features: (variables of the encoder) -> features [V, D] of the validation images.
        validation_labels: int [V].

    Raises:
        ArgumentError: there are no images, epochs or images in a batch; or the loss is no longer finite.
    """
    for name, value in (("labels", len(labels)), ("epochs", epochs), ("batch_size", batch_size)):
        if value < 1:
            raise ArgumentError(name, f"is {value}: it must be at least 1" if name != "labels" else "are none")
    labels, batch_size = np.asarray(labels, np.int32), min(batch_size, len(labels))
    total = epochs * (len(labels) // batch_size)

    def inputs_of(step: int, rows: np.ndarray) -> tuple[Any, jax.Array]:
        return np.int32(step), views_of(step, rows)

    def loss(weights: Tree, stats: Tree, inputs: tuple[Any, jax.Array], labels: jax.Array) -> tuple[jax.Array, Tree]:
        step, views = inputs
        given = {"params": weights["encoder"], **stats}
        rngs = {"dropout": jax.random.fold_in(jax.random.key(seed), step)}
        features, stats = encoder.apply(given, views, True, mutable=["batch_stats"], rngs=rngs)
        return Classes.cross_entropy(probe.linear(features.astype(jnp.float32), *weights["head"]), labels), stats

    def rates(step: int) -> dict[str, float]:
        cosine = (1 + math.cos(math.pi * step / total)) / 2
        return {"encoder": learning_rate * cosine, "head": head_learning_rate * cosine}

    views = views_of(0, np.arange(batch_size, dtype=np.int32))  # for their shape
    dimensions = jax.eval_shape(lambda views: encoder.apply(variables, views, False), views).shape[1]
    fitted = fitting.epochs(
        {"encoder": variables["params"], "head": (jnp.zeros((dimensions, num_classes)), jnp.zeros(num_classes))},
        {kind: tree for kind, tree in variables.items() if kind != "params"},
        loss,
        inputs_of,
        labels,
        optimizer=optax.trace(MOMENTUM, nesterov=True),
        rates=rates,
        count=epochs,
        batch_size=batch_size,
        seed=seed,
        whole_batches=True,
    )

    def finite() -> Iterator[fitting.Epoch]:
        for number, epoch in enumerate(fitted, 1):
            if not np.isfinite(epoch.loss):
                raise ArgumentError(
                    "learning_rate",
                    f"is {learning_rate} and that of the head {head_learning_rate}: the loss of fine-tuning is "
                    f"{epoch.loss} after epoch {number}, so lower one of them",
                )
            yield epoch

    def tuned(epoch: fitting.Epoch) -> Tree:
        return {"params": epoch.weights["encoder"], **epoch.extra}

    validation = Classes(validation_labels, num_classes)
    best = fitting.best(
        finite(),
        lambda epoch: validation.score(probe.predict(validation_features(tuned(epoch)), *epoch.weights["head"])),
    )
    head = map(np.asarray, best.weights.weights["head"])
    return FineTuned(tuned(best.weights), *head, best.epoch, best.score, best.history)


def share(examples: Examples, share: float, seed: int) -> Examples:
    """This share of each class's images, to the nearest whole number and one at least, as the seed draws them; a
    smaller share is part of a larger one.

    Raises:
        ArgumentError: `share` is not above 0 and at most 1.
    """
    if not 0 < share <= 1:
        raise ArgumentError("share", f"is {share}: it must be above 0 and at most 1")
    present = np.bincount(examples.labels, minlength=len(examples.class_names))
    counts = np.where(present, np.maximum(1, np.rint(share * present)), 0).astype(np.int64)
    return examples.take(longtail.first_of_classes(examples.labels, None, counts, seed))
