"""Linear classifiers on frozen features: published probes, a deterministic one without settings of its own, and one in
closed form, for many measurements at little cost.

None sees test images; those that choose, choose on validation images. All give a kernel [D, C] and a bias [C] for
`predict`.
Products are asked for in full float32, which some accelerators do not give by default.
"""

from collections import deque
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import ArrayLike, Float, Int32, Integer

from sdclr_jax.data.targets import Classes, labels_of
from sdclr_jax.errors import ArgumentError
from sdclr_jax.evaluation import fitting

MOMENTUM = 0.9
# A fit ends where the gradient's norm g is below the first and the loss, at most g^2 / (2 l2) above its minimum, is
# within the second of it: of features that separate all classes the minimum is below 1e-3.
_TOLERANCE, _GAP = 1e-5, 5e-7
_MAX_ITERATIONS = 1000


class SgdProbe(NamedTuple):
    kernel: np.ndarray  # float32 [D, C]
    bias: np.ndarray  # float32 [C]
    best_epoch: int  # counted from 1: the first epoch with the best validation score, whose weights these are
    validation_accuracy: float  # share of all validation images, at that epoch
    history: tuple[float, ...]  # validation score after each epoch among which is chosen: accuracy, or among the top


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


def predict(
    features: Float[ArrayLike, "N D"], kernel: Float[ArrayLike, "D C"], bias: Float[ArrayLike, " C"]
) -> Int32[np.ndarray, " N"]:
    """Class of each row of `features` [N, D], the lowest on ties: int32 [N]."""
    return np.asarray(_predict(features, kernel, bias))


def logits(
    features: Float[ArrayLike, "N D"], kernel: Float[ArrayLike, "D C"], bias: Float[ArrayLike, " C"]
) -> Float[np.ndarray, "N C"]:
    """What a linear classifier says for each class or attribute of each row of `features` [N, D]: float32 [N, C]."""
    return np.asarray(linear(features, kernel, bias))


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
    epochs: int = 30,
    drops: Sequence[int] = (10, 20),
    learning_rate: float = 30.0,
    batch_size: int = 128,
    choose_every: int = 1,
    choose_top: int = 1,
    seed: int = 0,
) -> SgdProbe:
    """The published probe (Jiang et al., ICML 2021, supplement): SGD with momentum 0.9 and no weight decay.

    `features_of(step, indices)` gives the features [batch_size, D] of the training images `indices`, int32
    [batch_size], at `step`, counted from 0 over all epochs: `cached(features)` where they are fixed, else those of new
    views, their randomness a function of the step. `labels` is int [N]; the validation set is [V, D] and int [V].
    The learning rate falls to a tenth after each of the epochs `drops`. Weights start from normal(0, 0.01), the bias
    from 0. Epochs are those of `fitting.epochs`; the last batch of an epoch is the mean over the images it has, as in a
    PyTorch loader that keeps it. The epoch is chosen among every `choose_every`th, by the share of validation images
    whose class is among the `choose_top` of highest score.

    Raises:
        ArgumentError: no validation images; no epoch to choose; a batch of none; or so many of the top that all classes
            are among them.
    """
    _need_validation(validation_labels)
    labels_of("labels", labels, num_classes, len(labels))
    if batch_size < 1:
        raise ArgumentError("batch_size", f"is {batch_size}: it must be at least 1")
    if not (choose_top == 1 or 1 < choose_top < num_classes):
        raise ArgumentError(
            "choose_top", f"is {choose_top}: it must be at least 1 and below the number of classes, {num_classes}"
        )
    validation_features = jnp.asarray(validation_features, jnp.float32)
    # NumPy's generator: the same on every device, and no time to compile. Epochs count from 1, so 0 is free for this.
    kernel = np.random.default_rng((seed, 0)).normal(0.0, 0.01, (validation_features.shape[1], num_classes))
    batches = -(-len(labels) // batch_size)
    fitted = fitting.epochs(
        (jnp.asarray(kernel, jnp.float32), jnp.zeros(num_classes)),
        None,
        _loss,
        features_of,
        labels,
        optimizer=_SGD,
        rates=lambda step: learning_rate * 0.1 ** sum(step >= drop * batches for drop in drops),
        count=epochs,
        batch_size=batch_size,
        seed=seed,
    )
    validation = labels_of("validation_labels", validation_labels, num_classes, len(validation_features))

    def accuracy(weights) -> float:
        return validation.score(predict(validation_features, *weights))

    def among_top(weights) -> float:
        return top(choose_top, logits(validation_features, *weights), validation_labels)

    score = accuracy if choose_top == 1 else among_top
    best = fitting.best((epoch.weights for epoch in fitted), score, choose_every)
    return SgdProbe(*map(np.asarray, best.weights), best.epoch, accuracy(best.weights), best.history)


def top(k: int, scores: Float[np.ndarray, "N C"], labels: Integer[np.ndarray, " N"]) -> float:
    """The share of rows of `scores` in which fewer than `k` classes have a higher score than the row's own. A NaN
    counts as higher, so that scores that mean nothing are not right.

    >>> top(2, np.array([[0.1, 0.7, 0.2], [0.1, 0.7, 0.2]]), np.array([2, 0]))
    0.5
    >>> top(1, np.full((1, 2), np.nan), np.array([0]))
    0.0
    """
    own = np.take_along_axis(scores, np.asarray(labels)[:, None], axis=1)
    return float(np.mean(np.sum(~(scores <= own), axis=1) < k))


def logistic(
    features: Float[np.ndarray, "N D"],
    labels: Integer[np.ndarray, "N ..."],
    validation_features: Float[np.ndarray, "V D"],
    validation_labels: Integer[np.ndarray, "V ..."],
    *,
    num_classes: int,
    l2: Sequence[float] = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1),
) -> LogisticProbe:
    """Logistic regression, to its minimum for every `l2`; the best on validation images is kept.

    It minimises mean cross-entropy + l2 / 2 * |kernel|^2, the bias free, by L-BFGS from zero, on features standardised
    with the training set's mean and standard deviation, so that one `l2` means the same for every encoder; a feature
    that is constant there, but for rounding, counts for nothing. The result is folded back to raw features. Nothing is
    random. Features are [N, D] and [V, D].

    Labels int [N] and [V] are classes: the regression is multinomial, and accuracy chooses. Labels of 0 and 1, [N, A]
    and [V, A], are attributes, each with a regression of its own: the cross-entropy is the sum of theirs, so one `l2`
    means for each what it would mean for it alone, and the mean of their average precisions chooses, over those that
    a validation image has. The larger `l2` wins where scores are equal.

    Raises:
        ArgumentError: no validation images, none with an attribute, no `l2`, or one that is not above 0; or labels
            that are not those of these images and classes.
    """
    _need_validation(validation_labels)
    if not len(l2):
        raise ArgumentError("l2", "is empty: give at least one value, such as (1e-3,)")
    if not min(l2) > 0:
        raise ArgumentError("l2", f"is {tuple(l2)}: each must be above 0, or separable classes have no minimum")
    targets = labels_of("labels", labels, num_classes, len(features))
    validation = labels_of("validation_labels", validation_labels, num_classes, len(validation_features))
    mean, scale = _standard(features)
    standardised = ((features - mean) / scale).astype(np.float32)
    # Along the principal axes features are uncorrelated, which the solver needs; the loss and |kernel| are the same.
    variances, axes = np.linalg.eigh(standardised.T @ standardised / np.float32(len(standardised)))
    principal, variances = standardised @ axes, np.maximum(variances, 0)
    # The start is an argument, not made inside: on CPU, XLA of jaxlib 0.10.2 multiplies wrongly by a constant matrix.
    start = (jnp.zeros((num_classes, standardised.shape[1])), jnp.zeros(num_classes))
    given = principal, variances, targets.labels.astype(np.int32), np.asarray(l2, np.float32), start
    fitted = jax.device_get(_fit_logistic(*given, kind=type(targets)))
    history, candidates = [], []
    for value, kernel, bias, loss, gradient_norm, iterations in zip(l2, *fitted, strict=True):
        candidates.append(_for_raw_features(axes @ kernel.T, bias, mean, scale))
        score = validation.score(validation.decide(logits(validation_features, *candidates[-1])))
        history.append(LogisticFit(float(value), float(loss), float(gradient_norm), int(iterations), score))
    best = max(range(len(l2)), key=lambda i: (history[i].validation_score, history[i].l2))
    return LogisticProbe(*candidates[best], history[best], tuple(history))


def adam(
    features: Float[np.ndarray, "N D"],
    labels: Integer[np.ndarray, " N"],
    *,
    num_classes: int,
    seed: int = 0,
    epochs: int = 500,
    batch_size: int = 1000,
    learning_rate: float = 1e-2,
    final_learning_rate: float = 1e-6,
    weight_decay: float = 5e-6,
) -> tuple[Float[np.ndarray, "D {num_classes}"], Float[np.ndarray, " {num_classes}"]]:
    """The probe of Zhou et al., ICML 2022 (BCL; github.com/MediaBrain-SJTU/BCL, eval_cifar.py), after W-MSE's: Adam on
    fixed features, the weights of the last epoch. No validation images are seen.

    `features` is [N, D], `labels` int [N]; returns the kernel [D, C] and the bias [C]. The rate falls by one factor
    after each epoch and would reach `final_learning_rate` after the last. Weight decay is added to the gradient, of
    kernel and bias. Both start uniform in +-1 / sqrt(D), as PyTorch's linear layers. Epoch e visits the images in the
    order `np.random.default_rng((seed, e)).permutation(N)`, e counted from 1; its last batch is what is left.
    """
    count, dimensions = features.shape
    for name, value, least in (("features", count, 1), ("epochs", epochs, 1), ("batch_size", batch_size, 1)):
        if value < least:
            raise ArgumentError(name, f"is {value}: it must be at least {least}")
    if not 0 < final_learning_rate <= learning_rate:
        raise ArgumentError(
            "final_learning_rate", f"is {final_learning_rate}: it must be above 0 and at most {learning_rate}"
        )
    labels_of("labels", labels, num_classes, count)
    batch_size = min(batch_size, count)
    bound, generator = dimensions**-0.5, np.random.default_rng((seed, 0))
    weights = (
        jnp.asarray(generator.uniform(-bound, bound, (dimensions, num_classes)), jnp.float32),
        jnp.asarray(generator.uniform(-bound, bound, num_classes), jnp.float32),
    )
    gamma, batches = (final_learning_rate / learning_rate) ** (1 / epochs), -(-count // batch_size)
    fitted = fitting.epochs(
        weights,
        None,
        _loss,
        cached(features),
        labels,
        optimizer=_adam(weight_decay),
        rates=lambda step: learning_rate * gamma ** (step // batches),
        count=epochs,
        batch_size=batch_size,
        seed=seed,
    )
    (last,) = deque(fitted, maxlen=1)
    return tuple(map(np.asarray, last.weights))


def ridge(
    features: Float[np.ndarray, "N D"],
    labels: Integer[np.ndarray, "N ..."],
    *,
    num_classes: int,
    l2: float = 1e-2,
) -> tuple[Float[np.ndarray, "D {num_classes}"], Float[np.ndarray, " {num_classes}"]]:
    """Ridge regression of one-hot labels, in closed form: kernel [D, C] and bias [C] for raw features, float32.

    It minimises the mean over the images of the squared error, summed over the classes, + l2 * |kernel|^2, the bias
    free, on features [N, D] standardised as in `logistic`. Labels are classes, int [N], or attributes of 0 and 1,
    [N, C].

    Raises:
        ArgumentError: `l2` is not above 0, or the labels are not those of N images and of these classes.
    """
    if not l2 > 0:
        raise ArgumentError("l2", f"is {l2}: it must be above 0, or some features have no solution")
    targets = labels_of("labels", labels, num_classes, len(features)).one_hot()
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


_SGD = optax.trace(MOMENTUM)


@cache  # one object for each weight decay, for which a step is compiled
def _adam(weight_decay: float) -> optax.GradientTransformation:
    return optax.chain(optax.add_decayed_weights(weight_decay), optax.scale_by_adam())


def _loss(weights, extra, features: jax.Array, labels: jax.Array):
    return Classes.cross_entropy(linear(features, *weights), labels), extra


@partial(jax.jit, static_argnames="kind")
def _fit_logistic(features: jax.Array, variances: jax.Array, labels: jax.Array, l2: jax.Array, start, *, kind):
    """(kernels [L, C, D], biases [L, C], losses [L], gradient norms [L], iterations [L]) for `l2` [L].

    The features are uncorrelated and have the mean 0 and the `variances` [D]. With a row a class in the kernels, XLA on
    CPU makes the gradient without transposing all features: an evaluation takes a third of the time.
    """
    solver = optax.lbfgs()
    curvature = kind.curvature(start[1].size)

    def fit(l2):
        tolerance = jnp.minimum(_TOLERANCE, jnp.sqrt(2 * l2 * _GAP))

        # Weights are counted in units in which the objective is curved alike in every direction, while they are small:
        # of correlated features that saves most of the iterations.
        roots = (jnp.sqrt(curvature * variances + l2)[None, :], jnp.sqrt(curvature))

        def weights_of(scaled):
            return jax.tree.map(lambda w, root: w / root, scaled, roots)

        def objective(scaled):
            kernel, bias = weights_of(scaled)
            return kind.cross_entropy(linear(features, kernel.T, bias), labels) + 0.5 * l2 * jnp.sum(kernel**2)

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


@jax.jit
def linear(features: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
    """Logits [B, C] of a linear classifier, in full float32."""
    return jnp.dot(features, kernel, precision="highest") + bias[None, :]


@jax.jit
def _predict(features: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
    return jnp.argmax(linear(features, kernel, bias), axis=1)


@jax.jit
def _rows(features: jax.Array, step: int, indices: jax.Array) -> jax.Array:
    return features[indices]


def _need_validation(labels: np.ndarray) -> None:
    if not len(labels):
        raise ArgumentError("validation_labels", "are none: a probe is chosen by validation images")
