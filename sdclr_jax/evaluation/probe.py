"""Linear classifiers on frozen features: published probes, a deterministic one without settings of its own, and one in
closed form, for many measurements at little cost.

None sees test images; those that choose, choose on validation images. All give a kernel [D, C] and a bias [C] for
`predict`.
Products are asked for in full float32, which some accelerators do not give by default.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sdclr_jax.errors import UserError
from sdclr_jax.evaluation import scores

MOMENTUM = 0.9
# A fit ends where the gradient's norm g is below the first and the loss, at most g^2 / (2 l2) above its minimum, is
# within the second of it: of features that tell all classes apart the minimum is below 1e-3.
_TOLERANCE, _GAP = 1e-5, 5e-7
_MAX_ITERATIONS = 1000


class SgdProbe(NamedTuple):
    kernel: np.ndarray  # float32 [D, C]
    bias: np.ndarray  # float32 [C]
    best_epoch: int  # counted from 1: the first epoch with the best validation accuracy, whose weights these are
    validation_accuracy: float  # share of all validation images, at that epoch
    history: tuple[float, ...]  # validation accuracy after each epoch


class LogisticFit(NamedTuple):
    l2: float
    loss: float  # what is minimised, on standardised features
    # At most 1e-5, less for an l2 below 1e-4, unless the iterations ran out or float32 gives no smaller one.
    gradient_norm: float
    iterations: int
    validation_score: float  # accuracy, or the mean of the attributes' average precision


class LogisticProbe(NamedTuple):
    kernel: np.ndarray  # float32 [D, C], for raw features
    bias: np.ndarray  # float32 [C], for raw features
    best: LogisticFit
    history: tuple[LogisticFit, ...]  # one for each l2, in the order given


def predict(features: np.ndarray, kernel: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Class of each row of `features` [N, D], the lowest on ties: int32 [N]."""
    return np.asarray(_predict(features, kernel, bias))


def logits(features: np.ndarray, kernel: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """What a linear classifier says for each class or attribute of each row of `features` [N, D]: float32 [N, C]."""
    return np.asarray(_logits(features, kernel, bias))


def cached(features: np.ndarray) -> Callable[[int, np.ndarray], jax.Array]:
    """The `features_of` of a protocol that does not augment: rows of `features` [N, D], kept on the device."""
    return partial(_rows, jnp.asarray(features, jnp.float32))


def sgd(
    features_of: Callable[[int, np.ndarray], jax.Array],
    labels: np.ndarray,
    validation_features: np.ndarray,
    validation_labels: np.ndarray,
    *,
    num_classes: int,
    epochs: int,
    drops: Sequence[int],
    learning_rate: float,
    batch_size: int,
    seed: int,
) -> SgdProbe:
    """The published probe (Jiang et al., ICML 2021, supplement): SGD with momentum 0.9 and no weight decay.

    `features_of(step, indices)` gives the features [batch_size, D] of the training images `indices`, int32
    [batch_size], at `step`, counted from 0 over all epochs: `cached(features)` where they are fixed, else views made
    afresh, their randomness a function of the step. `labels` is int [N]; the validation set is [V, D] and int [V].
    The learning rate falls to a tenth after each of the epochs `drops`. Weights start from normal(0, 0.01), the bias
    from 0. Epoch e visits the images in the order `np.random.default_rng((seed, e)).permutation(N)`, e counted from 1.
    The last batch of an epoch is the mean over the images it has, as in a PyTorch loader that keeps it.
    Raises UserError where there are no validation images, or fewer than one epoch.
    """
    _need_validation(validation_labels)
    if epochs < 1:
        raise UserError(
            f"A probe of {epochs} epochs learns nothing: set evaluate.full_epochs and few_shot_epochs above 0."
        )
    labels = np.asarray(labels, np.int32)
    validation_features = jnp.asarray(validation_features, jnp.float32)
    # NumPy's generator: the same on every device, and no time to compile. Epochs count from 1, so 0 is free for this.
    kernel = np.random.default_rng((seed, 0)).normal(0.0, 0.01, (validation_features.shape[1], num_classes))
    weights = (jnp.asarray(kernel, jnp.float32), jnp.zeros(num_classes))
    velocity = jax.tree.map(jnp.zeros_like, weights)
    best, best_epoch, history, step = weights, 0, [], 0
    for epoch in range(1, epochs + 1):
        # After the epoch, as published; the authors' script moves its schedule first, so it drops one epoch sooner.
        rate = learning_rate * 0.1 ** sum(epoch > drop for drop in drops)
        order = np.random.default_rng((seed, epoch)).permutation(len(labels)).astype(np.int32)
        for start in range(0, len(order), batch_size):
            indices = order[start : start + batch_size]
            # One shape for every batch: what is missing is filled with image 0 and the label -1, which counts nothing.
            missing = (0, batch_size - len(indices))
            targets = np.pad(labels[indices], missing, constant_values=-1)
            features = features_of(step, np.pad(indices, missing))
            weights, velocity = _sgd_step(weights, velocity, features, targets, rate)
            step += 1
        accuracy = _accuracy(validation_features, validation_labels, *weights)
        if accuracy > max(history, default=-1.0):
            best, best_epoch = weights, epoch
        history.append(accuracy)
    return SgdProbe(np.asarray(best[0]), np.asarray(best[1]), best_epoch, max(history), tuple(history))


def logistic(
    features: np.ndarray,
    labels: np.ndarray,
    validation_features: np.ndarray,
    validation_labels: np.ndarray,
    *,
    num_classes: int,
    l2: Sequence[float],
) -> LogisticProbe:
    """Logistic regression, to its minimum for every `l2`; the best on validation images is kept.

    It minimises mean cross-entropy + l2 / 2 * |kernel|^2, the bias free, by L-BFGS from zero, on features standardised
    with the training set's mean and standard deviation, so that one `l2` means the same for every encoder; a feature
    that is constant there, but for rounding, counts for nothing. The result is folded back to raw features. Nothing is
    random. Features are [N, D] and [V, D].

    Labels int [N] and [V] are classes: the regression is multinomial, and accuracy chooses. Labels of 0 and 1, [N, A]
    and [V, A], are attributes, each with a regression of its own: the cross-entropy is the sum of theirs, so one `l2`
    means for each what it would mean for it alone, and the mean of their average precisions chooses, over those that
    a validation image has. Of equal scores the larger `l2` wins.
    Raises UserError where there are no validation images, none with an attribute, or no `l2`; all `l2` are above 0.
    """
    _need_validation(validation_labels)
    if not len(l2):
        raise UserError("evaluate.logistic_l2 is empty: give at least one value, such as (1e-3,).")
    mean, scale = _standard(features)
    standardised = ((features - mean) / scale).astype(np.float32)
    # Along the principal axes features are uncorrelated, which the solver needs; the loss and |kernel| are the same.
    variances, axes = np.linalg.eigh(standardised.T @ standardised / np.float32(len(standardised)))
    principal, variances = standardised @ axes, np.maximum(variances, 0)
    # The start is an argument, not made inside: on CPU, XLA of jaxlib 0.10.2 multiplies wrongly by a constant matrix.
    start = (jnp.zeros((num_classes, standardised.shape[1])), jnp.zeros(num_classes))
    targets = np.asarray(labels, np.int32)
    fitted = jax.device_get(_fit_logistic(principal, variances, targets, np.asarray(l2, np.float32), start))
    history, candidates = [], []
    for value, kernel, bias, loss, gradient_norm, iterations in zip(l2, *fitted, strict=True):
        candidates.append(_for_raw_features(axes @ kernel.T, bias, mean, scale))
        score = _score(validation_features, np.asarray(validation_labels), *candidates[-1])
        history.append(LogisticFit(float(value), float(loss), float(gradient_norm), int(iterations), score))
    best = max(range(len(l2)), key=lambda i: (history[i].validation_score, history[i].l2))
    return LogisticProbe(*candidates[best], history[best], tuple(history))


def adam(
    features: np.ndarray,
    labels: np.ndarray,
    *,
    num_classes: int,
    seed: int,
    epochs: int = 500,
    batch_size: int = 1000,
    learning_rate: float = 1e-2,
    final_learning_rate: float = 1e-6,
    weight_decay: float = 5e-6,
) -> tuple[np.ndarray, np.ndarray]:
    """The probe of Zhou et al., ICML 2022 (BCL; github.com/MediaBrain-SJTU/BCL, eval_cifar.py), after W-MSE's: Adam on
    fixed features, the weights of the last epoch. No validation images are seen.

    `features` is [N, D], `labels` int [N]; returns the kernel [D, C] and the bias [C]. The rate falls by one factor
    after each epoch and would reach `final_learning_rate` after the last. Weight decay is added to the gradient, of
    kernel and bias. Both start uniform in +-1 / sqrt(D), as PyTorch's linear layers. Epoch e visits the images in the
    order `np.random.default_rng((seed, e)).permutation(N)`, e counted from 1; its last batch is what is left.
    """
    features, labels = jnp.asarray(features, jnp.float32), np.asarray(labels, np.int32)
    count, dimensions = features.shape
    batch_size = min(batch_size, count)
    batches = -(-count // batch_size)
    bound, generator = dimensions**-0.5, np.random.default_rng((seed, 0))
    weights = (
        jnp.asarray(generator.uniform(-bound, bound, (dimensions, num_classes)), jnp.float32),
        jnp.asarray(generator.uniform(-bound, bound, num_classes), jnp.float32),
    )
    state = _adam(weight_decay).init(weights)
    gamma = (final_learning_rate / learning_rate) ** (1 / epochs)
    missing = (0, batches * batch_size - count)
    for epoch in range(1, epochs + 1):
        order = np.random.default_rng((seed, epoch)).permutation(count).astype(np.int32)
        rows = np.pad(order, missing).reshape(batches, batch_size)
        targets = np.pad(labels[order], missing, constant_values=-1).reshape(batches, batch_size)
        rate = learning_rate * gamma ** (epoch - 1)
        weights, state = _adam_epoch(weights, state, features, rows, targets, rate, weight_decay=weight_decay)
    return np.asarray(weights[0]), np.asarray(weights[1])


def ridge(features: np.ndarray, labels: np.ndarray, *, num_classes: int, l2: float) -> tuple[np.ndarray, np.ndarray]:
    """Ridge regression of one-hot labels, in closed form: kernel [D, C] and bias [C] for raw features, float32.

    It minimises the mean over the images of the squared error, summed over the classes, + l2 * |kernel|^2, the bias
    free, on features [N, D] standardised as in `logistic`. Labels are classes, int [N], or attributes of 0 and 1,
    [N, C]. `l2` is above 0.
    """
    labels = np.asarray(labels)
    targets = np.eye(num_classes)[labels] if labels.ndim == 1 else labels.astype(np.float64)
    mean, scale = _standard(features)
    standardised, bias = (features - mean) / scale, targets.mean(axis=0)
    covariance = standardised.T @ standardised / len(features) + l2 * np.eye(features.shape[1])
    kernel = np.linalg.solve(covariance, standardised.T @ (targets - bias) / len(features))
    return _for_raw_features(kernel, bias, mean, scale)


def _standard(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What to subtract from features [N, D] and to divide them by, so that a constant one becomes 0: float64 [D]."""
    mean, std = np.mean(features, axis=0, dtype=np.float64), np.std(features, axis=0, dtype=np.float64)
    # Below float32's resolution of the mean a deviation is rounding noise: dividing by it would make it a feature.
    return mean, np.where(std > 1e-6 * np.abs(mean), std, np.inf)


def _for_raw_features(kernel, bias, mean: np.ndarray, scale: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A classifier of standardised features as one of the features themselves, float32."""
    kernel = kernel / scale[:, None]
    return kernel.astype(np.float32), (bias - mean @ kernel).astype(np.float32)


@jax.jit
def _sgd_step(weights, velocity, features: jax.Array, labels: jax.Array, learning_rate: float):
    """One step of SGD; the momentum takes the gradient in whole, and the rate scales both, as PyTorch does."""
    gradient = jax.grad(_cross_entropy)(weights, features, labels)
    velocity = jax.tree.map(lambda v, g: MOMENTUM * v + g, velocity, gradient)
    return jax.tree.map(lambda w, v: w - learning_rate * v, weights, velocity), velocity


def _adam(weight_decay: float) -> optax.GradientTransformation:
    return optax.chain(optax.add_decayed_weights(weight_decay), optax.scale_by_adam())


@partial(jax.jit, static_argnames="weight_decay")
def _adam_epoch(weights, state, features: jax.Array, rows: jax.Array, labels: jax.Array, rate: float, *, weight_decay):
    """One epoch: `rows` int [batches, B] of `features` [N, D], and their `labels`, -1 where there is no image."""

    def step(carry, batch):
        weights, state = carry
        gradient = jax.grad(_cross_entropy)(weights, features[batch[0]], batch[1])
        with jax.numpy_dtype_promotion("standard"):  # optax raises a float to the power of the integer step
            updates, state = _adam(weight_decay).update(gradient, state, weights)
        return (jax.tree.map(lambda w, u: w - rate * u, weights, updates), state), None

    return jax.lax.scan(step, (weights, state), (rows, labels))[0]


@jax.jit
def _fit_logistic(features: jax.Array, variances: jax.Array, labels: jax.Array, l2: jax.Array, start):
    """(kernels [L, C, D], biases [L, C], losses [L], gradient norms [L], iterations [L]) for `l2` [L].

    The features are uncorrelated and have the mean 0 and the `variances` [D]. With a row a class in the kernels, XLA on
    CPU makes the gradient without transposing all features: an evaluation takes a third of the time.
    """
    solver = optax.lbfgs()
    cross_entropy = _cross_entropy if labels.ndim == 1 else _binary_cross_entropies
    # The second derivative of the cross-entropy by a logit where all are 0; of many classes, but for a factor.
    curvature = 1 / start[1].size if labels.ndim == 1 else 1 / 4

    def fit(l2):
        tolerance = jnp.minimum(_TOLERANCE, jnp.sqrt(2 * l2 * _GAP))

        # Weights are counted in units in which the objective is curved alike in every direction, while they are small:
        # of correlated features that saves most of the iterations.
        roots = (jnp.sqrt(curvature * variances + l2)[None, :], jnp.sqrt(curvature))

        def weights_of(scaled):
            return jax.tree.map(lambda w, root: w / root, scaled, roots)

        def objective(scaled):
            kernel, bias = weights_of(scaled)
            return cross_entropy((kernel.T, bias), features, labels) + 0.5 * l2 * jnp.sum(kernel**2)

        def norm(gradient):
            return optax.tree.norm(jax.tree.map(lambda g, root: g * root, gradient, roots))

        def unfinished(carry):
            _, _, _, gradient, iterations = carry
            return (norm(gradient) > tolerance) & (iterations < _MAX_ITERATIONS)

        def iterate(carry):
            scaled, state, loss, gradient, iterations = carry
            updates, state = solver.update(gradient, state, scaled, value=loss, grad=gradient, value_fn=objective)
            # The line search has been where this step ends: it need not be evaluated again.
            loss, gradient = optax.tree.get(state, "value"), optax.tree.get(state, "grad")
            return optax.apply_updates(scaled, updates), state, loss, gradient, iterations + 1

        first = (start, solver.init(start), *jax.value_and_grad(objective)(start), 0)
        scaled, _, loss, gradient, iterations = jax.lax.while_loop(unfinished, iterate, first)
        return *weights_of(scaled), loss, norm(gradient), iterations

    # One after the other in one call: under vmap all of them would run until the slowest has converged.
    return jax.lax.map(fit, l2)


def _cross_entropy(weights, features: jax.Array, labels: jax.Array) -> jax.Array:
    """Mean over the rows of `features` [B, D] whose label is not -1: one-hot, such a row is zero and drops out."""
    targets = jax.nn.one_hot(labels, weights[1].shape[0])
    return -jnp.sum(targets * jax.nn.log_softmax(_logits(features, *weights))) / jnp.sum(targets)


def _binary_cross_entropies(weights, features: jax.Array, labels: jax.Array) -> jax.Array:
    """Sum over the attributes of the mean over the rows of `features` [N, D], with `labels` [N, A] of 0 and 1."""
    targets = labels.astype(jnp.float32)
    return jnp.sum(jnp.mean(optax.sigmoid_binary_cross_entropy(_logits(features, *weights), targets), axis=0))


@jax.jit
def _logits(features: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
    return jnp.dot(features, kernel, precision="highest") + bias[None, :]


@jax.jit
def _predict(features: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
    return jnp.argmax(_logits(features, kernel, bias), axis=1)


@jax.jit
def _rows(features: jax.Array, step: int, indices: jax.Array) -> jax.Array:
    return features[indices]


def _accuracy(features: np.ndarray, labels: np.ndarray, kernel: np.ndarray, bias: np.ndarray) -> float:
    return float(np.mean(predict(features, kernel, bias) == np.asarray(labels)))


def _score(features: np.ndarray, labels: np.ndarray, kernel: np.ndarray, bias: np.ndarray) -> float:
    if labels.ndim == 1:
        return _accuracy(features, labels, kernel, bias)
    return float(np.nanmean(scores.average_precision(logits(features, kernel, bias), labels)))


def _need_validation(labels: np.ndarray) -> None:
    if not len(labels):
        raise UserError("There are no validation images to choose a probe by: set data.validation_per_class above 0.")
