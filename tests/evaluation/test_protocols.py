"""Protocols: their published settings, and what each makes of features against scikit-learn and plain loops.

python -m tests.commands.test_protocols    # writes tests/golden/protocols.json afresh
"""

import json
import pathlib
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import LinearSVC

from configs import base
from sdclr_jax.data.examples import Examples
from sdclr_jax.errors import UserError
from sdclr_jax.evaluation import probe, protocols, scores
from sdclr_jax.evaluation.frozen_features import Labelled

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "protocols.json"
CLASSES, DIMENSIONS = 4, 6
COUNTS = (150, 60, 20, 12)  # of the long tail


def settings() -> dict:
    """Of every protocol under the defaults."""
    c = base.get_config().evaluate
    return {name: {"train": p.train} | p.settings(c) for name, p in protocols.PROTOCOLS.items()}


def test_a_changed_setting_is_a_change_of_protocol():
    """Published settings are not to move unseen: figures under a protocol's name must mean one thing."""
    assert json.loads(json.dumps(settings())) == json.loads(GOLDEN.read_text())


def labelled(rng, counts) -> Labelled:
    labels = rng.permutation(np.repeat(np.arange(CLASSES), counts)).astype(np.int32)
    centres = np.random.default_rng(0).normal(size=(CLASSES, DIMENSIONS))
    features = (centres[labels] + rng.normal(size=(len(labels), DIMENSIONS))).astype(np.float32) * 3
    ids = np.array([f"{i:04d}" for i in range(len(labels))])
    return Labelled(Examples(np.zeros((len(labels), 1, 1, 1), np.uint8), labels, ids, tuple("abcd")), features)


@pytest.fixture(scope="module")
def probed():
    rng = np.random.default_rng(1)
    test = labelled(rng, [50] * CLASSES)
    return SimpleNamespace(
        config=SimpleNamespace(seed=0, evaluate=base.get_config().evaluate),
        num_classes=CLASSES,
        groups=("many", "medium", "few", "few"),
        has_attributes=False,
        parts={"long_tail": labelled(rng, COUNTS), "probe_train": labelled(rng, [200] * CLASSES)},
        test=test,
        per_class=lambda predictions: scores.per_class_accuracy(predictions, test.labels, CLASSES),
    )


def measured(name, probed):
    return protocols.measure(name, protocols.PROTOCOLS[name], probed)


def unit(features):
    return features / np.linalg.norm(features, axis=1, keepdims=True)


@pytest.mark.parametrize("k", [1, 10])
def test_neighbours_of_the_temperature_schedules(probed, k):
    train = probed.parts["long_tail"]
    expected = KNeighborsClassifier(k).fit(unit(train.features), train.labels).predict(unit(probed.test.features))
    record = measured(f"ts_knn_{k}", probed)
    assert record["per_class"] == pytest.approx(probed.per_class(expected).tolist())
    assert record["settings"] == {"train": "long_tail", "images": 242, "k": k, "vote": "majority"}


def test_linear_svm_on_the_long_tail(probed):
    train = probed.parts["long_tail"]
    svm = LinearSVC(random_state=42).fit(unit(train.features), train.labels)
    expected = probed.per_class(svm.predict(unit(probed.test.features)))
    assert measured("ts_long_tail", probed)["per_class"] == pytest.approx(expected.tolist(), abs=1.5 / 50)


def test_linear_svm_on_as_many_of_each_class_as_the_rarest_has(probed, monkeypatch):
    seen = []
    fit = LinearSVC.fit
    monkeypatch.setattr(LinearSVC, "fit", lambda self, x, y: seen.append((x, y)) or fit(self, x, y))
    record = measured("ts_few_shot", probed)
    assert record["settings"]["images"] == 48
    (features, labels), train = seen[0], probed.parts["long_tail"]
    assert np.bincount(labels).tolist() == [12] * CLASSES
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, rtol=1e-5)
    # each of them is an image of the long tail with its label
    nearest = np.argmax(features @ unit(train.features).T, axis=1)
    assert len(set(nearest)) == 48
    np.testing.assert_array_equal(train.labels[nearest], labels)


def test_shots_are_drawn_five_times_and_averaged(probed, monkeypatch):
    seen = []
    adam = probe.adam

    def spy(features, labels, **settings):
        seen.append((features, labels, settings, adam(features, labels, **settings)))
        return seen[-1][-1]

    monkeypatch.setattr(probe, "adam", spy)
    record = measured("bcl_50_shot", probed)
    assert [np.bincount(labels).tolist() for _, labels, _, _ in seen] == [[50] * CLASSES] * 5
    assert len({features.tobytes() for features, _, _, _ in seen}) == 5
    _, _, settings, _ = seen[0]
    published = {"epochs": 500, "batch_size": 1000, "learning_rate": 0.01, "final_learning_rate": 1e-6}
    assert settings == published | {"weight_decay": 5e-6, "num_classes": CLASSES, "seed": 0}
    each = [probed.per_class(probe.predict(probed.test.features, *weights)) for *_, weights in seen]
    np.testing.assert_allclose(record["per_class"], np.mean(each, axis=0))
    assert record["settings"]["all_of_draws"] == pytest.approx([x.mean() for x in each])
    assert record["settings"]["images"] == 200
    assert record["all"] > 0.5  # chance is 0.25
    assert record["validation_accuracy"] is None


def test_a_protocol_is_refused_where_a_class_has_too_few_images(probed):
    train = probed.parts["probe_train"].examples._replace(labels=np.repeat(np.arange(CLASSES), (250, 250, 201, 99)))
    data = SimpleNamespace(train=train, test=probed.test.examples, part=lambda name: train)
    c = base.get_config()
    c.evaluate.protocols = ("bcl_50_shot", "knn")
    assert list(protocols.chosen(c, data)) == ["knn", "bcl_50_shot"]
    c.evaluate.protocols = ("knn", "bcl_100_shot")
    with pytest.raises(UserError, match="bcl_100_shot trains on 100 images of each class, and the smallest has 99 in"):
        protocols.chosen(c, data)


def test_of_attributes_only_what_is_defined_is_measured(probed):
    labels = np.zeros((len(probed.test.labels), CLASSES), np.uint8)
    attributes = probed.test.examples._replace(labels=labels)
    data = SimpleNamespace(train=attributes, test=attributes, part=lambda name: attributes)
    c = base.get_config()
    assert list(protocols.chosen(c, data)) == ["logistic", "knn"]
    c.evaluate.protocols = ("ts_knn_1", "bcl_full")
    with pytest.raises(UserError, match="whose images have attributes: give one or more of logistic, knn"):
        protocols.chosen(c, data)


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(settings(), indent=1) + "\n")
