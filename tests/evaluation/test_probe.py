"""The SGD probe against a plain NumPy loop, the logistic probe against scikit-learn."""

import functools

import jax
import numpy as np
import pytest
from scipy.special import log_softmax, softmax
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression, Ridge, RidgeClassifier
from sklearn.metrics import average_precision_score

from sdclr_jax.errors import ArgumentError
from sdclr_jax.evaluation import probe
from sdclr_jax.evaluation.protocols import PROTOCOLS

N, D, C, SEED = 37, 6, 4, 5  # 37 images in batches of 16: the last has 5
rng = np.random.default_rng(0)
LABELS = rng.integers(0, C, N)
CENTRES = rng.normal(size=(C, D))
FEATURES = (CENTRES[LABELS] + rng.normal(size=(N, D))).astype(np.float32)
V = 4000  # enough for one epoch's predictions to differ from the next one's, even at a hundredth of the learning rate
VALIDATION = rng.normal(size=(V, D)).astype(np.float32)


def fixed(step, indices):
    return FEATURES[indices]


def fresh(step, indices):
    """Features that differ at every step, as augmented images' do."""
    return FEATURES[indices] * np.float32(1 + 0.5 * np.sin(step))


@functools.cache
def oracle(features_of, epochs, drops, learning_rate, batch_size):
    """(kernel, bias) before training and after each epoch, in float64, each batch as long as it is."""
    kernel, bias = np.random.default_rng((SEED, 0)).normal(0, 0.01, (D, C)), np.zeros(C)
    kernel_velocity, bias_velocity = np.zeros((D, C)), np.zeros(C)
    weights, step = [(kernel, bias)], 0
    for epoch in range(1, epochs + 1):
        if epoch - 1 in drops:
            learning_rate /= 10
        order = np.random.default_rng((SEED, epoch)).permutation(N)
        for start in range(0, N, batch_size):
            batch = order[start : start + batch_size]
            x = features_of(step, batch).astype(np.float64)
            error = (softmax(x @ kernel + bias, axis=1) - np.eye(C)[LABELS[batch]]) / len(batch)
            kernel_velocity = 0.9 * kernel_velocity + x.T @ error
            bias_velocity = 0.9 * bias_velocity + error.sum(0)
            kernel, bias = kernel - learning_rate * kernel_velocity, bias - learning_rate * bias_velocity
            step += 1
        weights.append((kernel, bias))
    return weights


def run(features_of, validation_labels, *, validation=VALIDATION, **settings):
    settings = {"epochs": 5, "drops": (2, 4), "learning_rate": 0.5, "batch_size": 16, "seed": SEED} | settings
    return probe.sgd(features_of, LABELS, validation, validation_labels, num_classes=C, **settings)


def classes(weights):
    return (VALIDATION @ weights[0] + weights[1]).argmax(1)


@pytest.mark.parametrize("best_epoch", [1, 3, 5])
@pytest.mark.parametrize("batch_size", [16, 64])
@pytest.mark.parametrize("features_of", [fixed, fresh])
def test_sgd_equals_a_plain_loop_and_keeps_the_best_epoch(features_of, batch_size, best_epoch):
    weights = oracle(features_of, 5, (2, 4), 0.5, batch_size)
    labels = classes(weights[best_epoch])  # so that this epoch, and no other, has every validation image right
    result = run(probe.cached(FEATURES) if features_of is fixed else features_of, labels, batch_size=batch_size)
    np.testing.assert_allclose(result.kernel, weights[best_epoch][0], atol=1e-4)
    np.testing.assert_allclose(result.bias, weights[best_epoch][1], atol=1e-4)
    assert result.kernel.dtype == result.bias.dtype == np.float32
    assert result.best_epoch == best_epoch
    assert result.validation_accuracy == max(result.history)
    np.testing.assert_allclose(result.history, [np.mean(classes(w) == labels) for w in weights[1:]], atol=5e-4)


# Of a PyTorch loop with MultiStepLR, moved before an epoch as in the authors' train_cifar.py or after it as in their
# train_imagenet.py: the epoch that is kept, its kernel's norm, and right validation images of 400 after each epoch that
# is looked at, top-5 in the last two. Made with PyTorch 2.15 in float64.
PUBLISHED = {
    "train_cifar_full": (
        2,
        5.341200734636082,
        "147 162 157 137 152 151 158 144 146 147 146 146 146 146 147 147 148 149" + 12 * " 148",
    ),
    "train_cifar_few_shot": (
        20,
        17.672297838437412,
        "152 142 151 157 145 153 147 146 152 153" + 7 * " 154" + " 152 153 154",
    ),
    "train_imagenet_full": (10, 15.832495463038908, "367 360 362 365" + 11 * " 369"),
    "train_imagenet_few_shot": (10, 15.832495463038908, "369 368 368 362" + 6 * " 363"),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_authors_scripts(name):
    rng, p = np.random.default_rng(1), PROTOCOLS[name]
    labels, centres = rng.integers(0, 8, N), rng.normal(size=(8, D))
    features = (centres[labels] + 1.5 * rng.normal(size=(N, D))).astype(np.float32)
    validation_labels = rng.integers(0, 8, 400)
    validation = (centres[validation_labels] + 1.5 * rng.normal(size=(400, D))).astype(np.float32)
    given = probe.cached(features), labels, validation, validation_labels
    settings = {"epochs": p.epochs, "drops": p.drops, "choose_every": p.choose_every, "choose_top": p.choose_top}
    found = probe.sgd(*given, num_classes=8, learning_rate=0.5, batch_size=16, seed=SEED, **settings)
    epoch, norm, history = PUBLISHED[name]
    assert found.best_epoch == epoch
    assert np.linalg.norm(found.kernel) == pytest.approx(norm, rel=1e-4)
    np.testing.assert_array_equal(np.rint(400 * np.array(found.history)).astype(int), [int(x) for x in history.split()])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"choose_every": 0}, "choose_every is 0"),
        ({"choose_every": 6}, "epochs are 5, and the first to choose among is number 6"),
        ({"choose_top": C}, f"choose_top is {C}: it must be at least 1 and below the number of classes, {C}"),
        ({"batch_size": 0}, "batch_size is 0"),
    ],
)
def test_an_epoch_that_cannot_be_chosen(settings, said):
    with pytest.raises(ArgumentError, match=f"^{said}"):
        run(probe.cached(FEATURES), np.zeros(V, int), **settings)


def test_settings_that_fit_nothing_are_refused():
    for fit, settings, said in (
        (probe.ridge, {"l2": 0.0}, "l2 is 0.0"),
        (probe.adam, {"epochs": 0}, "epochs is 0"),
        (probe.adam, {"final_learning_rate": 1.0}, "final_learning_rate is 1.0"),
    ):
        with pytest.raises(ArgumentError, match=f"^{said}"):
            fit(FEATURES, LABELS, num_classes=C, **settings)
    with pytest.raises(ArgumentError, match=r"^l2 is \(1.0, 0.0\): each must be above 0"):
        probe.logistic(FEATURES, LABELS, FEATURES, LABELS, num_classes=C, l2=(1.0, 0.0))


def test_adam_equals_a_plain_loop():
    """The probe of the BCL authors: PyTorch's Adam with its decay in the gradient, a rate that falls every epoch."""
    epochs, batch_size, start, end, decay = 7, 16, 0.05, 1e-3, 0.01
    generator = np.random.default_rng((SEED, 0))
    weights = [generator.uniform(-(D**-0.5), D**-0.5, shape) for shape in ((D, C), C)]
    first, second = ([np.zeros_like(w) for w in weights] for _ in range(2))
    step = 0
    for epoch in range(1, epochs + 1):
        rate = start * (end / start) ** ((epoch - 1) / epochs)
        order = np.random.default_rng((SEED, epoch)).permutation(N)
        for begin in range(0, N, batch_size):
            batch, step = order[begin : begin + batch_size], step + 1
            x = FEATURES[batch].astype(np.float64)
            error = (softmax(x @ weights[0] + weights[1], axis=1) - np.eye(C)[LABELS[batch]]) / len(batch)
            for i, gradient in enumerate((x.T @ error, error.sum(0))):
                gradient = gradient + decay * weights[i]
                first[i] = 0.9 * first[i] + 0.1 * gradient
                second[i] = 0.999 * second[i] + 0.001 * gradient**2
                root = np.sqrt(second[i] / (1 - 0.999**step)) + 1e-8
                weights[i] = weights[i] - rate * first[i] / (1 - 0.9**step) / root
    settings = {"learning_rate": start, "final_learning_rate": end, "weight_decay": decay, "batch_size": batch_size}
    found = probe.adam(FEATURES, LABELS, num_classes=C, seed=SEED, epochs=epochs, **settings)
    np.testing.assert_allclose(found[0], weights[0], atol=1e-4)
    np.testing.assert_allclose(found[1], weights[1], atol=1e-4)


def test_the_first_of_equal_epochs_is_kept_and_training_starts_from_the_documented_weights():
    result = run(probe.cached(FEATURES), np.zeros(V, int), learning_rate=0.0)
    assert result.best_epoch == 1
    assert len(set(result.history)) == 1
    kernel, bias = oracle(fixed, 5, (2, 4), 0.5, 16)[0]
    np.testing.assert_array_equal(result.kernel, kernel.astype(np.float32))
    np.testing.assert_array_equal(result.bias, bias)


def test_every_epoch_asks_for_every_image_once_in_one_shape():
    asked = []

    def record(step, indices):
        asked.append((step, indices))
        return FEATURES[indices]

    run(record, np.zeros(V, int), epochs=2)
    assert [step for step, _ in asked] == [0, 1, 2, 3, 4, 5]
    assert {indices.shape for _, indices in asked} == {(16,)}
    assert asked[0][1].dtype == np.int32
    epochs = [np.concatenate([indices for _, indices in asked[i : i + 3]])[:N] for i in (0, 3)]
    for epoch in epochs:
        np.testing.assert_array_equal(np.sort(epoch), np.arange(N))
    assert (epochs[0] != epochs[1]).any()


def test_sgd_repeats_with_its_seed_and_not_with_another():
    first, again, other = (run(probe.cached(FEATURES), np.zeros(V, int), seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.kernel, again.kernel)
    assert (first.kernel != other.kernel).any()


def test_features_may_lie_on_many_devices():
    over_devices = jax.NamedSharding(jax.sharding.Mesh(np.array(jax.devices()), "data"), jax.P("data"))
    weights = oracle(fixed, 5, (2, 4), 0.5, 16)
    result = run(lambda step, indices: jax.device_put(FEATURES[indices], over_devices), classes(weights[5]))
    np.testing.assert_allclose(result.kernel, weights[5][0], atol=1e-4)


# Overlapping classes; a feature with a large mean, one of another scale, and one that is constant but for rounding.
ROW_LABELS = rng.integers(0, C, 100)
ROWS = CENTRES[ROW_LABELS] + 2 * rng.normal(size=(100, D))
UNSEEN = 2 * rng.normal(size=(1000, D))
ROWS, UNSEEN = ((x * [1, 1, 1, 100, 0.5, 0] + [0, 0, 1000, 0, 0, 0.1]).astype(np.float32) for x in (ROWS, UNSEEN))
ROWS[::2, -1] = np.nextafter(ROWS[::2, -1], np.float32(1))
MEAN, STD = ROWS.mean(0, dtype=np.float64), ROWS.std(0, dtype=np.float64)
STD[-1] = np.inf
L2 = (1e-6, 1e-4, 1e-2, 1e-1, 1e-3)


@functools.cache
def by_sklearn(l2):
    model = LogisticRegression(C=1 / (l2 * len(ROWS)), solver="newton-cholesky", tol=1e-12, max_iter=1000)
    return model.fit((ROWS - MEAN) / STD, ROW_LABELS)


@functools.cache
def logistic():
    labels = by_sklearn(1e-2).predict((UNSEEN - MEAN) / STD)  # so that this l2 is the best
    return probe.logistic(ROWS, ROW_LABELS, UNSEEN, labels, num_classes=C, l2=L2)


@pytest.mark.parametrize("i", range(len(L2)))
def test_every_logistic_fit_reaches_sklearns_minimum(i):
    fit, model = logistic().history[i], by_sklearn(L2[i])
    log_probabilities = log_softmax((ROWS - MEAN) / STD @ model.coef_.T + model.intercept_, axis=1)
    cross_entropy = -log_probabilities[np.arange(len(ROWS)), ROW_LABELS].mean()
    assert fit.l2 == L2[i]
    assert fit.loss == pytest.approx(cross_entropy + L2[i] / 2 * np.sum(model.coef_**2), abs=1e-5)
    assert fit.gradient_norm <= 1e-5
    assert 0 < fit.iterations < 1000
    agreement = np.mean(model.predict((UNSEEN - MEAN) / STD) == by_sklearn(1e-2).predict((UNSEEN - MEAN) / STD))
    assert fit.validation_score == pytest.approx(agreement, abs=5e-3)


def test_features_that_tell_all_classes_apart_are_fitted_to_the_minimum_too():
    """As an encoder's do: the loss at the minimum is then below 1e-3, of which a gap of 5e-6 is a noticeable part."""
    rng = np.random.default_rng(0)
    labels = np.arange(600) % C
    rows = rng.normal(size=(600, 64)) + 0.35 * rng.normal(size=(C, 64))[labels]
    rows = ((rows - rows.mean(0)) / rows.std(0)).astype(np.float32)
    (fit,) = probe.logistic(rows, labels, rows[:9], labels[:9], num_classes=C, l2=(1e-6,)).history
    model = LogisticRegression(C=1 / (1e-6 * 600), tol=1e-9, max_iter=20_000).fit(rows.astype(np.float64), labels)
    cross_entropy = -log_softmax(rows @ model.coef_.T + model.intercept_, axis=1)[np.arange(600), labels].mean()
    minimum = cross_entropy + 1e-6 / 2 * np.sum(model.coef_**2)
    assert 1e-4 < minimum < 2e-3
    assert fit.loss == pytest.approx(minimum, rel=2e-3)


def test_correlated_features_take_few_iterations():
    """Variances of 1e-7 to 10 along the axes: in the features' own units 1,000 iterations are too few for l2 = 1e-6."""
    rng = np.random.default_rng(1)
    rows = (rng.normal(size=(2000, 40)) * np.logspace(0, -2.5, 40)) @ rng.normal(size=(40, 40))
    labels = (rows[:, :C] + 3 * rng.normal(size=(2000, C))).argmax(axis=1)
    result = probe.logistic(rows.astype(np.float32), labels, rows[:9], labels[:9], num_classes=C, l2=(1e-6, 1e-3))
    assert max(fit.gradient_norm for fit in result.history) <= 1e-5
    assert max(fit.iterations for fit in result.history) < 60


def test_the_best_logistic_fit_is_folded_back_to_raw_features():
    result, model = logistic(), by_sklearn(1e-2)
    assert result.best.l2 == 1e-2
    assert result.best in result.history
    assert result.kernel.dtype == result.bias.dtype == np.float32
    np.testing.assert_array_equal(result.kernel[-1], 0)
    ours = UNSEEN.astype(np.float64) @ result.kernel + result.bias
    theirs = (UNSEEN - MEAN) / STD @ model.coef_.T + model.intercept_
    np.testing.assert_allclose(ours - ours.mean(1, keepdims=True), theirs - theirs.mean(1, keepdims=True), atol=2e-3)
    assert np.mean(probe.predict(UNSEEN, result.kernel, result.bias) == ours.argmax(1)) > 0.999


def test_of_equal_logistic_fits_the_larger_l2_wins_and_nothing_is_random():
    # The image that looks most like class 0, which all fits take for it.
    image = ROWS[[by_sklearn(1e-2).decision_function((ROWS - MEAN) / STD)[:, 0].argmax()]]
    again = probe.logistic(ROWS, ROW_LABELS, image, np.array([0]), num_classes=C, l2=L2)
    assert {fit.validation_score for fit in again.history} == {1.0}
    assert again.best.l2 == 1e-1
    assert [fit.loss for fit in again.history] == [fit.loss for fit in logistic().history]


# Attributes of the same rows: a frequent one, a rare one, and one of both at once, hardly to be told from noise.
A = 3
ATTRIBUTES = np.stack([ROW_LABELS < 3, ROW_LABELS == 3, np.arange(100) % 2 == 0], axis=1).astype(np.uint8)


@functools.cache
def attributes_by_sklearn(l2):
    model = LogisticRegression(C=1 / (l2 * len(ROWS)), solver="newton-cholesky", tol=1e-12, max_iter=1000)
    return [clone(model).fit((ROWS - MEAN) / STD, ATTRIBUTES[:, a]) for a in range(A)]


def sklearn_logits(l2, features):
    return np.stack([m.decision_function((features - MEAN) / STD) for m in attributes_by_sklearn(l2)], axis=1)


@functools.cache
def attributes():
    logits = sklearn_logits(1e-2, UNSEEN)
    labels = (logits > np.median(logits, axis=0)).astype(np.uint8)  # so that this l2 is the best
    return labels, probe.logistic(ROWS, ATTRIBUTES, UNSEEN, labels, num_classes=A, l2=L2)


@pytest.mark.parametrize("i", range(len(L2)))
def test_every_attribute_reaches_sklearns_minimum(i):
    labels, result = attributes()
    models, x = attributes_by_sklearn(L2[i]), sklearn_logits(L2[i], ROWS)
    cross_entropies = np.logaddexp(0, x).mean(axis=0) - (ATTRIBUTES * x).mean(axis=0)
    expected = sum(cross_entropies) + L2[i] / 2 * sum(np.sum(m.coef_**2) for m in models)
    assert result.history[i].loss == pytest.approx(expected, abs=1e-4)
    assert result.history[i].gradient_norm <= 1e-5
    precision = average_precision_score(labels, sklearn_logits(L2[i], UNSEEN), average="macro")
    assert result.history[i].validation_score == pytest.approx(precision, abs=1e-3)


def test_the_best_fit_of_attributes_is_chosen_by_average_precision_and_folded_back():
    _, result = attributes()
    assert result.best.l2 == 1e-2
    assert result.best.validation_score > 0.999
    assert (result.kernel.shape, result.bias.shape) == ((D, A), (A,))
    ours = probe.logits(UNSEEN, result.kernel, result.bias)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, sklearn_logits(1e-2, UNSEEN), atol=2e-3)


def test_an_attribute_that_no_validation_image_has_does_not_choose():
    labels, result = attributes()
    without = labels * np.array([1, 0, 1], np.uint8)
    again = probe.logistic(ROWS, ATTRIBUTES, UNSEEN, without, num_classes=A, l2=L2)
    assert again.best.validation_score > 0.999
    with pytest.raises(ArgumentError, match="^labels give no image any attribute"):
        probe.logistic(ROWS, ATTRIBUTES, UNSEEN, 0 * labels, num_classes=A, l2=L2[:1])


@pytest.mark.parametrize("l2", [1e-4, 1e-2, 1.0])
def test_ridge_equals_sklearns(l2):
    """sklearn's penalty is on the sum of squares, ours on their mean; the last feature is constant."""
    x, query = (ROWS - MEAN) / STD, (UNSEEN - MEAN) / STD
    kernel, bias = probe.ridge(ROWS, ROW_LABELS, num_classes=C, l2=l2)
    assert kernel.dtype == bias.dtype == np.float32
    np.testing.assert_array_equal(kernel[-1], 0)
    model = Ridge(alpha=l2 * len(ROWS)).fit(x, np.eye(C)[ROW_LABELS])
    np.testing.assert_allclose(probe.logits(UNSEEN, kernel, bias), model.predict(query), atol=1e-4)
    classes = RidgeClassifier(alpha=l2 * len(ROWS)).fit(x, ROW_LABELS).predict(query)
    assert np.mean(probe.predict(UNSEEN, kernel, bias) == classes) > 0.999
    kernel, bias = probe.ridge(ROWS, ATTRIBUTES, num_classes=A, l2=l2)
    model = Ridge(alpha=l2 * len(ROWS)).fit(x, ATTRIBUTES)
    np.testing.assert_allclose(probe.logits(UNSEEN, kernel, bias), model.predict(query), atol=1e-4)


def test_predict_takes_the_lowest_of_equal_classes():
    kernel, bias = np.eye(3, dtype=np.float32), np.array([0, 1, 0], np.float32)
    features = np.array([[5, 0, 0], [0, 0, 5], [1, 0, 0], [0, 0, 1]], np.float32)
    predictions = probe.predict(features, kernel, bias)
    assert predictions.dtype == np.int32
    np.testing.assert_array_equal(predictions, [0, 2, 0, 1])


def test_what_cannot_be_probed_names_the_argument():
    nothing = np.zeros((0, D), np.float32)
    with pytest.raises(ArgumentError, match="^validation_labels are none"):
        run(fixed, np.zeros(0, int), validation=nothing)
    with pytest.raises(ArgumentError, match="^epochs is 0"):
        run(fixed, np.zeros(V, int), epochs=0)
    with pytest.raises(ArgumentError, match="^validation_labels are none"):
        probe.logistic(FEATURES, LABELS, nothing, np.zeros(0, int), num_classes=C, l2=L2)
    with pytest.raises(ArgumentError, match="^l2 is empty"):
        probe.logistic(FEATURES, LABELS, FEATURES, LABELS, num_classes=C, l2=())
