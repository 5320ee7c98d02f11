"""Protocols: their published settings, and what each makes of features against scikit-learn and plain loops.

python -m tests.evaluation.test_protocols    # writes tests/golden/protocols.json
"""

import json
import pathlib
import textwrap
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import LinearSVC

from configs import base
from sdclr_jax import recipes
from sdclr_jax.data.targets import as_targets
from sdclr_jax.errors import ArgumentError, UserError
from sdclr_jax.evaluation import probe, protocols
from sdclr_jax.evaluation.frozen_features import Labelled, Splits

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "protocols.json"
CLASSES, DIMENSIONS = 4, 6
COUNTS = (150, 60, 20, 12)  # of the long tail


def settings() -> dict:
    """Of every protocol under its defaults."""
    return {name: {"train": p.train} | p.settings() for name, p in protocols.PROTOCOLS.items()}


def test_a_changed_setting_is_a_change_of_protocol():
    """Published settings are not to move unseen: figures under a protocol's name must mean one thing."""
    assert json.loads(json.dumps(settings())) == json.loads(GOLDEN.read_text())


def test_the_defaults_of_configs_are_those_of_the_protocols():
    c = base.get_config()
    assert {name: recipes.protocol(c, name) for name in protocols.PROTOCOLS} == protocols.PROTOCOLS


def test_a_config_changes_the_settings_that_it_has_fields_for():
    c = base.get_config()
    c.evaluate.knn_k, c.evaluate.few_shot_drops, c.evaluate.fine_tune_epochs = 7, (1, 2), (3, 4)
    c.evaluate.fine_tune_head_learning_rate, c.evaluate.augment = 9.0, False
    changed = {name: recipes.protocol(c, name) for name in protocols.PROTOCOLS}
    assert changed["knn"].settings() == {"k": 7, "temperature": 0.1}
    assert changed["linear_few_shot"].drops == (1, 2)
    assert not changed["linear_full"].augment and not changed["linear_few_shot"].augment
    assert [changed[f"fine_tune_{n}"].epochs for n in (1, 10)] == [3, 4]
    assert {changed[f"fine_tune_{n}"].head_learning_rate for n in (1, 10)} == {9.0}
    untouched = [name for name in changed if changed[name] == protocols.PROTOCOLS[name]]
    assert [name for name in untouched if name.startswith(("bcl", "ts"))] == [
        name for name in protocols.PROTOCOLS if name.startswith(("bcl", "ts"))
    ]


@dataclass(frozen=True, kw_only=True)
class Given(protocols.Protocol):
    """Finds what it is given."""

    gives: protocols.Found

    def settings(self):
        return {}

    def measure(self, splits):
        return self.gives


def given(*found):
    part = Labelled(np.zeros((4, 3), np.float32), as_targets(np.array([0, 1, 0, 1]), 2))
    return protocols.measure("mine", Given(gives=protocols.Found(*found)), Splits(part, part, part), ("many", "few"))


def test_numbers_of_numpy_and_jax_are_numbers():
    score = given(
        np.array([0.5, np.nan], np.float32), np.float32(0.25), {"best": np.int64(3)}, {"tried": jnp.arange(2)}
    )
    assert (score.per_class, score.all, score.few, score.validation) == ((0.5, None), 0.5, None, 0.25)
    assert score.found == {"best": 3} and score.settings["tried"] == [0, 1]
    assert type(score.found["best"]) is int


@pytest.mark.parametrize(
    "found",
    [
        (0.5,),
        ([0.5, 0.5, 0.5],),
        ([50.0, 100.0],),
        ([0.5, 1.0], 50.0),
        ([0.5, 1.0], None, {"best": object()}),
        ([0.5, 1.0], None, {"loss": float("nan")}),
        (["half", "all"],),
    ],
)
def test_what_results_cannot_hold_is_refused_under_the_name_of_the_protocol(found):
    with pytest.raises(ArgumentError, match=r"^protocols has mine, and its `measure` gave what results\.json cannot"):
        given(*found)


def labelled(rng, counts) -> Labelled:
    labels = rng.permutation(np.repeat(np.arange(CLASSES), counts)).astype(np.int32)
    centres = np.random.default_rng(0).normal(size=(CLASSES, DIMENSIONS))
    features = (centres[labels] + rng.normal(size=(len(labels), DIMENSIONS))).astype(np.float32) * 3
    return Labelled(features, as_targets(labels, CLASSES))


@pytest.fixture(scope="module")
def splits():
    """Of each part of the training images: features alone, without images or an encoder."""
    rng = np.random.default_rng(1)
    test = labelled(rng, [50] * CLASSES)
    parts = {"long_tail": labelled(rng, COUNTS), "probe_train": labelled(rng, [200] * CLASSES)}
    return {name: Splits(part, validation=test, test=test) for name, part in parts.items()}


def measured(name, splits):
    protocol = protocols.PROTOCOLS[name]
    return protocols.measure(name, protocol, splits[protocol.train], ("many", "medium", "few", "few")).to_json()


def per_class(splits, predictions):
    return splits["long_tail"].test.targets.per_class(predictions)


def unit(features):
    return features / np.linalg.norm(features, axis=1, keepdims=True)


@pytest.mark.parametrize("k", [1, 10])
def test_neighbours_of_the_temperature_schedules(splits, k):
    train, _, test, *_ = splits["long_tail"]
    expected = KNeighborsClassifier(k).fit(unit(train.features), train.labels).predict(unit(test.features))
    record = measured(f"ts_knn_{k}", splits)
    assert record["per_class"] == pytest.approx(per_class(splits, expected).tolist())
    assert record["settings"] == {"train": "long_tail", "images": 242, "k": k, "vote": "majority"}


def test_linear_svm_on_the_long_tail(splits):
    train, _, test, *_ = splits["long_tail"]
    svm = LinearSVC(random_state=42).fit(unit(train.features), train.labels)
    expected = per_class(splits, svm.predict(unit(test.features)))
    assert measured("ts_long_tail", splits)["per_class"] == pytest.approx(expected.tolist(), abs=1.5 / 50)


def test_linear_svm_on_as_many_of_each_class_as_the_rarest_has(splits, monkeypatch):
    seen = []
    fit = LinearSVC.fit
    monkeypatch.setattr(LinearSVC, "fit", lambda self, x, y: seen.append((x, y)) or fit(self, x, y))
    record = measured("ts_few_shot", splits)
    assert record["settings"]["images"] == 48
    (features, labels), train = seen[0], splits["long_tail"].train
    assert np.bincount(labels).tolist() == [12] * CLASSES
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, rtol=1e-5)
    # each of them is an image of the long tail with its label
    nearest = np.argmax(features @ unit(train.features).T, axis=1)
    assert len(set(nearest)) == 48
    np.testing.assert_array_equal(train.labels[nearest], labels)


def test_shots_are_drawn_five_times_and_averaged(splits, monkeypatch):
    seen = []
    adam = probe.adam

    def spy(features, labels, **settings):
        seen.append((features, labels, settings, adam(features, labels, **settings)))
        return seen[-1][-1]

    monkeypatch.setattr(probe, "adam", spy)
    record = measured("bcl_50_shot", splits)
    assert [np.bincount(labels).tolist() for _, labels, _, _ in seen] == [[50] * CLASSES] * 5
    assert len({features.tobytes() for features, _, _, _ in seen}) == 5
    _, _, settings, _ = seen[0]
    published = {"epochs": 500, "batch_size": 1000, "learning_rate": 0.01, "final_learning_rate": 1e-6}
    assert settings == published | {"weight_decay": 5e-6, "num_classes": CLASSES, "seed": 0}
    test = splits["probe_train"].test
    each = [per_class(splits, probe.predict(test.features, *weights)) for *_, weights in seen]
    np.testing.assert_allclose(record["per_class"], np.mean(each, axis=0))
    assert record["settings"]["all_of_draws"] == pytest.approx([x.mean() for x in each])
    assert record["settings"]["images"] == 200
    assert record["all"] > 0.5  # chance is 0.25
    assert record["validation_accuracy"] is None


def suited(names, train, test):
    wanted = {name: protocols.PROTOCOLS[name] for name in names}
    return list(protocols.suited(wanted, lambda part: as_targets(train, CLASSES), as_targets(test, CLASSES), "abcd"))


def test_a_protocol_is_refused_where_a_class_has_too_few_images():
    train, test = np.repeat(np.arange(CLASSES), (250, 250, 201, 99)), np.arange(CLASSES)
    assert suited(("knn", "bcl_50_shot"), train, test) == ["knn", "bcl_50_shot"]
    with pytest.raises(
        ArgumentError,
        match="^protocols has bcl_100_shot, which trains on 100 images of each class, and the smallest has 99 in",
    ):
        suited(("knn", "bcl_100_shot"), train, test)


def test_a_protocol_that_chooses_by_the_top_five_is_for_more_classes():
    labels = np.repeat(np.arange(CLASSES), 9)
    with pytest.raises(
        ArgumentError,
        match="^protocols has train_imagenet_full, which is for 6 classes or more, and there are 4",
    ):
        suited(("knn", "train_imagenet_full"), labels, labels)


def test_classes_without_test_images_are_named_and_the_others_scored(caplog):
    labels = np.repeat(np.arange(CLASSES), 9)
    assert suited(("knn",), labels, np.array([0, 2])) == ["knn"]
    (said,) = (record.getMessage() for record in caplog.records)
    assert said == "no test images of b, d: they have no score, and means are over the other classes"
    with pytest.raises(ArgumentError, match="^test has no images, so there is nothing to score: put some"):
        suited(("knn",), labels, np.array([], np.int64))


def test_a_long_tail_without_images_of_a_class_is_refused_before_anything_is_measured():
    """data.without may take them out."""
    tested = np.arange(CLASSES)
    said = "has ts_few_shot, which trains on 1 images of each class, and the smallest has 0 in long_tail: leave it out"
    with pytest.raises(ArgumentError, match=said):
        suited(("ts_few_shot",), np.array([0, 0, 2]), tested)
    assert suited(("ts_long_tail",), np.array([0, 0, 2]), tested) == ["ts_long_tail"]
    said = "has ts_long_tail, which trains on images of 2 classes or more, and long_tail has those of 1: leave it out"
    with pytest.raises(ArgumentError, match=said):
        suited(("ts_long_tail",), np.array([2, 2, 2]), tested)


def test_of_attributes_only_what_is_defined_is_measured():
    labels = np.eye(5, CLASSES, dtype=np.uint8)
    assert suited(protocols.PROTOCOLS, labels, labels) == ["logistic", "knn", "ridge"]
    with pytest.raises(
        ArgumentError, match="^protocols has none that is defined for images with attributes.*: give .* logistic, knn"
    ):
        suited(("ts_knn_1", "bcl_full"), labels, labels)


@pytest.mark.parametrize(("images", "said"), [(0, "has no images, so"), (3, "has no image with an attribute, so")])
def test_attributes_that_no_test_image_has_are_refused_before_anything_is_measured(images, said):
    labels = np.eye(5, CLASSES, dtype=np.uint8)
    with pytest.raises(ArgumentError, match=f"^test {said} there is nothing to score: put some"):
        suited(("knn",), labels, np.zeros((images, CLASSES), np.uint8))


def test_a_protocol_that_chooses_by_validation_images_without_an_attribute_is_refused():
    def train(part):
        return as_targets(np.eye(5, CLASSES, dtype=np.uint8) * (part != "validation"), CLASSES)

    wanted, test = dict(protocols.PROTOCOLS), as_targets(np.eye(5, CLASSES, dtype=np.uint8), CLASSES)
    with pytest.raises(ArgumentError, match="^protocols has logistic, which chooses by validation images, and none of"):
        protocols.suited(wanted, train, test, "abcd")
    del wanted["logistic"]
    assert list(protocols.suited(wanted, train, test, "abcd")) == ["knn", "ridge"]


def test_protocols_stand_in_the_order_of_the_table_and_an_unknown_one_is_named():
    c = recipes.load("digits_lt:sdclr")
    c.evaluate.protocols = ("knn", "knm")
    with pytest.raises(UserError, match="^unknown evaluate.protocols 'knm': known are linear_full"):
        recipes.check(c)


def test_fine_tuning_takes_more_than_features(splits):
    with pytest.raises(ArgumentError, match="^splits has features alone"):
        measured("fine_tune_1", splits)


def test_linear_sgd_of_features_alone_learns_from_fixed_ones(splits):
    record = measured("linear_full", splits)
    assert record["settings"]["augment"] is False
    assert record["all"] > 0.5  # chance is 0.25
    assert record["validation_accuracy"] == pytest.approx(record["all"])  # validation images are the test images here


@dataclass(frozen=True, kw_only=True)
class Centroids(protocols.Protocol):
    """A protocol from outside the package: the nearest class mean."""

    power: float = 1.0

    def measure(self, splits):
        train, test = splits.train, splits.test
        centroids = (train.targets.one_hot().T @ train.features).astype(np.float32)
        predictions = test.targets.decide(unit(test.features) @ unit(centroids).T ** self.power)
        return protocols.Found(test.targets.per_class(predictions), found={"norm": float(np.linalg.norm(centroids))})


def test_a_protocol_from_outside_is_one_entry(splits, monkeypatch):
    """Found by its name, with its settings, by `recipes` too."""
    monkeypatch.setitem(protocols.PROTOCOLS, "centroids", Centroids(train="long_tail", says="the nearest class mean"))
    record = measured("centroids", splits)
    train, _, test, *_ = splits["long_tail"]
    means = np.stack([train.features[train.labels == c].mean(axis=0) for c in range(CLASSES)])
    expected = per_class(splits, (unit(test.features) @ unit(means).T).argmax(axis=1))
    assert record["per_class"] == pytest.approx(expected.tolist(), abs=1.5 / 50)
    assert record["found"] == ["norm"]
    assert record["settings"] == {"train": "long_tail", "images": 242, "power": 1.0, "norm": record["settings"]["norm"]}
    assert record["validation_accuracy"] is None
    c = recipes.load("digits_lt:sdclr")
    c.evaluate.protocols = ("centroids",)
    recipes.check(c)
    assert recipes.protocol(c, "centroids") == protocols.PROTOCOLS["centroids"]


def test_the_example_of_the_module_is_the_nearest_class_mean(splits, monkeypatch):
    code = textwrap.dedent(protocols.__doc__.partition("`PROTOCOLS`:\n")[2])
    given = {"dataclass": dataclass, "Protocol": protocols.Protocol, "Found": protocols.Found, "PROTOCOLS": {}}
    exec(code, given | {"__name__": __name__})
    monkeypatch.setitem(protocols.PROTOCOLS, "centroids", given["PROTOCOLS"]["centroids"])
    record = measured("centroids", splits)
    train, _, test, *_ = splits[protocols.PROTOCOLS["centroids"].train]
    means = np.stack([train.features[train.labels == c].mean(axis=0) for c in range(CLASSES)])
    distances = np.linalg.norm(test.features[:, None] - means, axis=-1)
    expected = per_class(splits, distances.argmin(axis=1))
    assert record["per_class"] == pytest.approx(expected.tolist(), abs=1e-6)


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(settings(), indent=1) + "\n")
