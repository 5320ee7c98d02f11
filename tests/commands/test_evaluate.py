"""Pretraining, evaluation and report as a user calls them, on one tiny run."""

import hashlib
import json
import os
import pathlib
import shutil
import types
from dataclasses import dataclass, replace
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from sklearn.manifold import TSNE
from sklearn.metrics import average_precision_score

from sdclr_jax import parallel, recipes, records, trees
from sdclr_jax.api import evaluate
from sdclr_jax.api.pretrain import train
from sdclr_jax.commands import main
from sdclr_jax.data import sources
from sdclr_jax.data.subsets import longtail
from sdclr_jax.errors import UserError
from sdclr_jax.evaluation import embedding, frozen, knn, probe, protocols
from sdclr_jax.recipes import configs
from sdclr_jax.run import folder
from sdclr_jax.run.checkpoints import Checkpoints
from tests.runs import arguments, config

QUICK = (
    "--config.evaluate.full_epochs=4",
    "--config.evaluate.full_drops=(2, 3)",
    "--config.evaluate.few_shot_epochs=5",
    "--config.evaluate.map_images=40",
)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module", autouse=True)
def one_device():
    """Eight pretended ones on two cores are slow: a run is pretrained on all of them, and evaluated on three once."""
    made, one = parallel.shardings, jax.devices()[:1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parallel, "shardings", lambda devices=None: made(one if devices is None else devices))
        yield


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory, data_dir):
    directory = tmp_path_factory.mktemp("runs") / "sdclr"
    train(config("sdclr", *QUICK), directory, str(data_dir), devices=jax.devices())
    before = {p: p.read_bytes() for p in directory.rglob("*") if p.is_file()}
    assert main.main(["evaluate", str(directory), f"--data_dir={data_dir}"]) == 0
    return directory, json.loads((directory / "results.json").read_text()), before


def test_evaluation_writes_results_and_touches_nothing_else(evaluated):
    directory, _, before = evaluated
    after = {p: p.read_bytes() for p in directory.rglob("*") if p.is_file()}
    new = after.keys() - before.keys()
    kept = {path for path in new if path.parent == directory / "features" and path.suffix == ".npy"}
    assert new - kept == {directory / "results.json", directory / "embedding.json"}
    sizes = sorted(len(np.load(path, allow_pickle=False)) for path in kept)
    # Places on the map; features of test images, and of those for training and validation, each once.
    assert sizes == [40, 445, 1152 + 200]
    assert all(after[p] == content for p, content in before.items())


def test_results_say_what_was_done(evaluated, data_dir):
    _, results, _ = evaluated
    assert results["format"] == 1
    assert results["run"] == {"method": "sdclr", "seed": 0, "step": 15, "epoch": 3.0}
    data = results["data"]
    counts = data["train_counts"]
    assert sorted(counts, reverse=True) == [int(110 * 20 ** (-k / 9)) for k in range(9)] + [5]
    assert [data["groups"].count(g) for g in ("many", "medium", "few")] == [4, 3, 3]
    assert min(n for n, g in zip(counts, data["groups"], strict=True) if g == "many") > max(
        n for n, g in zip(counts, data["groups"], strict=True) if g == "medium"
    )
    test = sources.source("digits", data_dir).load("test")
    assert data["lists"]["test"] == hashlib.sha256("\n".join(sorted(test.ids)).encode()).hexdigest()
    assert len(set(data["lists"].values())) == 5
    settings = {name: p["settings"] for name, p in results["protocols"].items()}
    assert settings["knn"]["k"] == 20
    assert settings["knn"]["temperature"] == 0.1
    assert settings["linear_full"]["learning_rate"] == 30.0
    assert settings["linear_full"]["epochs"] == 4
    assert settings["linear_full"]["images"] == settings["logistic"]["images"] == 1152
    assert settings["linear_few_shot"]["images"] == 50


def test_scores_follow_from_the_classes(evaluated):
    _, results, _ = evaluated
    groups = np.array(results["data"]["groups"])
    for protocol in results["protocols"].values():
        per_class = np.array(protocol["per_class"])
        assert protocol["all"] == pytest.approx(per_class.mean())
        means = [per_class[groups == g].mean() for g in ("many", "medium", "few")]
        assert [protocol[g] for g in ("many", "medium", "few")] == pytest.approx(means)
        assert protocol["std"] == pytest.approx(np.std(means))
    assert results["protocols"]["logistic"]["all"] > 0.3  # chance is 0.1


@pytest.fixture(scope="module")
def derived(evaluated, data_dir):
    """Features of the dense branch and the labels they belong to, put together without commands/evaluate.py."""
    directory, _, _ = evaluated
    c = folder.read_config(directory)
    train, test = (sources.source("digits", data_dir).load(split) for split in ("train", "test"))
    subsets = longtail.draw(
        train.labels, num_classes=10, n_max=110, imbalance=20.0, validation_per_class=20, few_shot_per_class=5, seed=0
    )
    shardings = parallel.shardings(jax.devices()[:1])
    with Checkpoints(directory / "checkpoints", read_only=True) as checkpoints:
        state = checkpoints.restore(like=recipes.abstract_state(c, train.images.shape, shardings))
    variables = {
        "params": trees.combine(state.params["weights"], state.params["norms"]["dense"]),
        "batch_stats": state.stats["dense"],
    }
    network = recipes.network(c)

    def features(images):
        views = (images.astype(np.float32) / 255 - np.float32(0.305)) / np.float32(0.376)
        return np.asarray(network.apply(variables, views, method="encode"))

    parts = {
        name: (train.images[rows], train.labels[rows]) for name, rows in subsets._asdict().items() if rows.size > 10
    }
    parts["test"] = (test.images, test.labels)
    return {name: (features(images), labels) for name, (images, labels) in parts.items()}


def per_class(predictions, labels):
    return [float((predictions[labels == c] == c).mean()) for c in range(10)]


def test_neighbours_are_of_the_dense_branch_and_the_labelled_train_images(evaluated, derived):
    x, y = derived["probe_train"]
    query, labels = derived["test"]
    unit, query = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (x, query))
    similarity = query @ unit.T
    nearest = np.argsort(-similarity, axis=1)[:, :20]
    votes = np.zeros((len(query), 10))
    for row, neighbours in enumerate(nearest):
        np.add.at(votes[row], y[neighbours], np.exp(similarity[row, neighbours] / 0.1))
    found = evaluated[1]["protocols"]["knn"]["per_class"]
    # Equal but for a tie that rounding decides.
    np.testing.assert_allclose(found, per_class(votes.argmax(axis=1), labels), atol=1.5 / 43)


def test_logistic_regression_is_fitted_on_train_and_chosen_on_validation(evaluated, derived, data_dir, monkeypatch):
    """The fit is repeated on the very features it was given: which `l2` is best, rounding in them may decide."""
    seen, logistic = [], probe.logistic
    monkeypatch.setattr(
        probe, "logistic", lambda *given, **named: seen.append((given, named)) or logistic(*given, **named)
    )
    argv = ["evaluate", str(evaluated[0]), f"--data_dir={data_dir}", "--config.evaluate.protocols=('logistic',)"]
    assert main.main(argv) == 0
    ((given, named),) = seen
    for found, expected in zip(given, (*derived["probe_train"], *derived["validation"]), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-4)
    assert named == {"num_classes": 10, "l2": (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)}
    fitted, protocol = logistic(*given, **named), evaluated[1]["protocols"]["logistic"]
    features, labels = derived["test"]
    predictions = probe.predict(features, fitted.kernel, fitted.bias)
    assert protocol["settings"]["l2"] == fitted.best.l2
    assert protocol["validation_accuracy"] == fitted.best.validation_score
    np.testing.assert_allclose(protocol["per_class"], per_class(predictions, labels), atol=1.5 / 43)


def test_the_published_probes_see_the_right_images_and_new_views_each_step(evaluated, derived, data_dir, monkeypatch):
    directory, _, _ = evaluated
    seen = []
    sgd = probe.sgd

    def spy(features_of, labels, validation_features, validation_labels, **settings):
        rows = np.arange(settings["batch_size"], dtype=np.int32) % len(labels)
        views = [np.asarray(features_of(step, rows)) for step in (0, 1, 0)]
        seen.append((labels, validation_features, validation_labels, views, rows))
        return sgd(features_of, labels, validation_features, validation_labels, **settings)

    monkeypatch.setattr(probe, "sgd", spy)
    evaluate.evaluate_run(folder.read_config(directory), directory, str(data_dir))
    for part, (labels, validation_features, validation_labels, views, rows) in zip(
        ("probe_train", "few_shot"), seen, strict=True
    ):
        np.testing.assert_array_equal(labels, derived[part][1])
        np.testing.assert_array_equal(validation_labels, derived["validation"][1])
        np.testing.assert_allclose(validation_features, derived["validation"][0], atol=1e-4)
        np.testing.assert_array_equal(views[0], views[2])
        assert abs(views[0] - views[1]).max() > 0.01
        # A view is a shift by a pixel at most, so one in nine is the image itself.
        same = np.isclose(views[0], derived[part][0][rows], atol=1e-4).all(axis=1)
        assert 0.01 < same.mean() < 0.4


@dataclass(frozen=True, kw_only=True)
class Constant(protocols.Protocol):
    """A protocol from outside the package: every image is of one class."""

    guess: int = 3

    def measure(self, splits):
        test = splits.test.targets
        return protocols.Found(test.per_class(np.full(len(test), self.guess)))


def test_python_evaluates_by_names_and_settings_on_any_number_of_devices(evaluated, data_dir, tmp_path, monkeypatch):
    """Three devices could not share the batch of pretraining, nor that of the evaluation as it stands. A protocol that
    is registered from outside is evaluated by its name, and stays in the results when this process forgets it."""
    directory, results, _ = evaluated
    three = parallel.shardings(jax.devices()[:3])
    monkeypatch.setattr(evaluate.parallel, "shardings", lambda *of: three)
    copy = shutil.copytree(directory, tmp_path / "copy", ignore=shutil.ignore_patterns("features"))
    with pytest.MonkeyPatch.context() as registered:
        registered.setitem(protocols.PROTOCOLS, "constant", Constant(train="few_shot", says="always three"))
        names, settings = ["constant", "logistic"], {"logistic_l2": [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1]}
        again = evaluate.evaluate(
            SimpleNamespace(path=copy), protocols=names, settings=settings, data_dir=str(data_dir)
        )
    assert list(again.protocols) == [*results["protocols"], "constant"]
    found = again.protocols["constant"]
    assert found.per_class == tuple(float(c == 3) for c in range(10))
    assert found.all == pytest.approx(0.1)
    assert found.settings == {"train": "few_shot", "images": 50, "guess": 3}
    later = evaluate.evaluate(str(copy), protocols=("knn",), settings={"knn_k": 5}, data_dir=str(data_dir))
    assert later.protocols["knn"].settings["k"] == 5
    assert later.protocols["constant"] == found
    assert records.read(records.Results, copy / "results.json") == later
    before = (copy / "results.json").read_text()
    for protocol, setting, sentence in (
        (("constant",), {}, "unknown evaluate.protocols 'constant'"),
        (None, {"knn_kk": 5}, "no field evaluate.knn_kk: the nearest is evaluate.knn_k"),
        (None, {"knn_k": "many"}, "evaluate.knn_k is .many., str: it must be int"),
        (None, {"knn_k": 0}, "evaluate.knn_k is 0"),
        (["knn"], {"knn_k": 5000}, "evaluate.knn_k is 5000: there are"),
    ):
        with pytest.raises(UserError, match=sentence):
            evaluate.evaluate(copy, protocols=protocol, settings=setting, data_dir=str(data_dir))
    assert (copy / "results.json").read_text() == before
    assert len(list((copy / "features").iterdir())) == 3  # two lists of images, and the map
    assert again.encoder_checksum == results["encoder_checksum"]
    np.testing.assert_allclose(
        again.protocols["logistic"].per_class, results["protocols"]["logistic"]["per_class"], atol=1.5 / 43
    )


def test_evaluation_again_gives_the_same_scores(evaluated, data_dir):
    directory, results, _ = evaluated
    assert main.main(["evaluate", str(directory), f"--data_dir={data_dir}", "--config.evaluate.knn_k=3"]) == 0
    again = json.loads((directory / "results.json").read_text())
    assert again["encoder_checksum"] == results["encoder_checksum"]
    for name in ("linear_full", "linear_few_shot", "logistic"):
        assert again["protocols"][name]["per_class"] == results["protocols"][name]["per_class"]
    assert again["protocols"]["knn"]["settings"]["k"] == 3


def test_the_map_is_of_test_images(evaluated, derived):
    drawn = json.loads((evaluated[0] / "embedding.json").read_text())
    features, labels = derived["test"]
    expected = embedding.about(features, labels, 0, limit=40)
    assert drawn["settings"] == expected.settings
    assert [point[2] for point in drawn["points"]] == [point[2] for point in expected.points]
    assert len(drawn["points"]) == 40


def test_features_are_extracted_and_the_map_is_drawn_once(evaluated, data_dir, monkeypatch):
    """Also for protocols that come later; what was found before stays, unless it was of another encoder."""
    directory, results, _ = evaluated
    monkeypatch.setattr(frozen.FrozenEncoder, "features", None)  # not called
    monkeypatch.setattr(TSNE, "fit_transform", None)  # nor this
    drawn = (directory / "embedding.json").read_text()
    argv = ["evaluate", str(directory), f"--data_dir={data_dir}", "--config.evaluate.protocols=('ts_knn_1',)"]
    path = directory / "results.json"
    before = json.loads(path.read_text())
    assert main.main(argv) == 0
    after = json.loads(path.read_text())
    assert after["protocols"].keys() == results["protocols"].keys() | {"ts_knn_1"}
    assert all(after["protocols"][name] == before["protocols"][name] for name in results["protocols"])
    assert (directory / "embedding.json").read_text() == drawn
    path.write_text(json.dumps(after | {"encoder_sha256": "of another"}))
    assert main.main(argv) == 0
    assert json.loads(path.read_text())["protocols"].keys() == {"ts_knn_1"}
    path.write_text(json.dumps(before))


def test_scores_of_another_checkpoint_are_kept_aside(evaluated, tmp_path, capsys):
    """Two passes over two checkpoints, each with protocols of its own: nothing is lost."""
    directory, _, _ = evaluated
    path = pathlib.Path(shutil.copy(directory / "results.json", tmp_path))
    before = records.read(records.Results, path)
    path.unlink()

    def scored(step, *names, **changed):
        some = {name: before.protocols[name] for name in names}
        found = replace(before, run=replace(before.run, step=step), protocols=some, **changed)
        records.write(path, evaluate._with_others(found, path))
        return records.read(records.Results, path)

    for names in (["linear_full", "logistic"], ["knn"]):
        for step in (50, 100):
            scored(step, *names)
    assert "the scores of step 50 are kept as results.step50.json" in capsys.readouterr().err
    aside, every = tmp_path / "results.step50.json", {"linear_full", "logistic", "knn"}
    assert records.read(records.Results, path).protocols.keys() == every
    assert records.read(records.Results, aside).protocols.keys() == every
    assert scored(50, "linear_few_shot").protocols.keys() == {*every, "linear_few_shot"}
    scored(100, "knn")
    # Of another encoder, and damaged: neither is joined, and neither is lost.
    assert scored(50, "knn", encoder_sha256="of another").protocols.keys() == {"knn"}
    scored(100, "knn")
    (other,) = tmp_path.glob("results.step50.other.*.json")
    assert records.read(records.Results, other).protocols.keys() == {*every, "linear_few_shot"}
    aside.write_text("{")
    scored(50, "knn")
    scored(100, "knn")
    assert {found.read_text() for found in tmp_path.glob("results.step50.other.*.json")} == {other.read_text(), "{"}


def test_scores_by_other_labels_are_not_kept(evaluated, tmp_path, capsys):
    directory, _, _ = evaluated
    path = pathlib.Path(shutil.copy(directory / "results.json", tmp_path))
    before = records.read(records.Results, path)
    assert set(before.data.labels) == set(before.data.lists) and set(before.data.labels.values()).isdisjoint(
        before.data.lists.values()
    )
    one = {"knn": before.protocols["knn"]}
    corrected = replace(before.data, labels=before.data.labels | {"test": "of other labels"})
    assert evaluate._with_others(replace(before, data=corrected, protocols=one), path).protocols == one
    assert "logistic went, being of another encoder, other data" in capsys.readouterr().err
    # As older versions wrote it.
    records.write(path, replace(before, data=replace(before.data, labels={}), encoder_sha256=None))
    joined = evaluate._with_others(replace(before, protocols=one), path)
    assert (joined.protocols, joined.encoder_sha256) == (before.protocols, None)
    assert evaluate._with_others(replace(before, protocols=one, encoder_checksum=1), path).protocols == one


def test_data_that_changed_since_are_told_of(evaluated, data_dir, tmp_path, monkeypatch, capsys):
    """By an evaluation, which says too what results it does away with, by the report, and by a run that would go on."""
    directory, results, _ = evaluated
    copy, given = shutil.copytree(directory, tmp_path / "copy"), recipes.data

    def fewer(config, data_dir):
        found = given(config, data_dir)
        return found._replace(subsets=found.subsets._replace(long_tail=found.subsets.long_tail[:150]))

    argv = ["evaluate", str(copy), f"--data_dir={data_dir}", "--config.evaluate.protocols=('ts_knn_1',)"]
    assert main.main(argv) == 0
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(recipes, "data", fewer)
    assert main.main(argv) == 0
    told, gone = capsys.readouterr().err.splitlines()
    assert f"warning: {copy} was trained on 369 images (SHA-256 of their list " in told
    assert "where its data set now has 150 images" in told
    assert "linear_full, linear_few_shot, logistic, knn went, being of another encoder, other data, or" in gone
    assert json.loads((copy / "results.json").read_text())["run"] == results["run"]  # epochs are those of training
    assert main.main(["report", str(copy), f"--output={tmp_path / 'report.html'}"]) == 0
    assert "was trained on are not those that digits had when it was evaluated." in capsys.readouterr().out
    before = {p: p.read_bytes() for p in copy.rglob("*") if p.is_file()}
    assert main.main(["pretrain", *arguments(copy, data_dir, "sdclr", *QUICK), "--noprogress"]) == 2
    assert "now has 150 images" in capsys.readouterr().err
    assert before == {p: p.read_bytes() for p in copy.rglob("*") if p.is_file()}


def test_an_evaluation_that_changes_the_encoder_is_void(evaluated, data_dir, monkeypatch, capsys):
    directory, _, _ = evaluated
    before = (directory / "results.json").read_text()
    dense, earlier = frozen.dense, []

    def turned(state):  # on disk, afterwards: every sign, which the checksum does not see
        earlier.append(dense(state))
        return jax.tree.map(jax.numpy.negative, earlier[0]) if earlier[1:] else earlier[0]

    monkeypatch.setattr(frozen, "dense", turned)
    assert main.main(["evaluate", str(directory), f"--data_dir={data_dir}"]) == 2
    assert "changed during its evaluation" in capsys.readouterr().err
    assert (directory / "results.json").read_text() == before
    assert trees.checksum(earlier[0]) == trees.checksum(jax.tree.map(jax.numpy.negative, earlier[0]))


def test_what_is_measured_stays_when_a_later_protocol_is_stopped(evaluated, data_dir, tmp_path, monkeypatch):
    directory, results, _ = evaluated
    copy = shutil.copytree(directory, tmp_path / "copy", ignore=shutil.ignore_patterns("results.json"))

    class Stopped(protocols.Protocol):
        def measure(self, splits):
            raise KeyboardInterrupt

    monkeypatch.setitem(protocols.PROTOCOLS, "mine", Stopped())
    with pytest.raises(KeyboardInterrupt):
        evaluate.evaluate(copy, protocols=["knn", "mine"], data_dir=data_dir)
    (found,) = records.read(records.Results, copy / "results.json").protocols.items()
    assert found == ("knn", records.decode(records.Score, results["protocols"]["knn"], "knn"))


def test_a_run_that_goes_on_and_drops_the_checkpoint_costs_no_evaluation(evaluated, data_dir, tmp_path, monkeypatch):
    directory, results, _ = evaluated
    shutil.copytree(directory, tmp_path / "run")
    measure = evaluate.measure

    def meanwhile(*given):
        shutil.rmtree(tmp_path / "run" / "checkpoints" / "15", ignore_errors=True)
        return measure(*given)

    monkeypatch.setattr(evaluate, "measure", meanwhile)
    argv = ["evaluate", str(tmp_path / "run"), f"--data_dir={data_dir}", "--config.evaluate.protocols=('knn',)"]
    assert main.main(argv) == 0
    found = json.loads((tmp_path / "run" / "results.json").read_text())
    assert found["run"]["step"] == 15
    assert found["protocols"]["knn"] == results["protocols"]["knn"]


@pytest.mark.parametrize("command", ["evaluate", "exemplars"])
def test_a_run_that_cannot_be_written_is_refused_before_the_work(evaluated, data_dir, monkeypatch, capsys, command):
    directory, _, _ = evaluated
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
    monkeypatch.setattr(recipes, "data", None)  # not called
    assert main.main([command, str(directory), f"--data_dir={data_dir}"]) == 2
    assert capsys.readouterr().err == f"sdclr: {directory} cannot be written: {directory} is read-only\n"


def test_the_features_rank_is_that_of_the_test_images(evaluated, derived):
    features, _ = derived["test"]
    s = np.linalg.svd(features.astype(np.float64), compute_uv=False)
    p = s / s.sum()
    assert evaluated[1]["features"] == {
        "images": len(features),
        "dimensions": features.shape[1],
        "effective_rank": pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-3),
    }


ATTRIBUTES = {"odd": (1, 3, 5, 7, 9), "high": (5, 6, 7, 8, 9), "zero": (0,), "never": ()}


@pytest.fixture(scope="module")
def attributes(evaluated, data_dir, tmp_path_factory):
    """A copy of the run, whose digits have attributes instead of classes: results.json, attributes of the test images.
    `never` is had by a training image and by no test image."""
    given = recipes.data

    def told_by(examples):
        labels = np.stack([np.isin(examples.labels, digits) for digits in ATTRIBUTES.values()], axis=1)
        return examples._replace(labels=labels.astype(np.uint8), class_names=tuple(ATTRIBUTES))

    def data(config, data_dir):
        found = given(config, data_dir)
        train, test = told_by(found.train), told_by(found.test)
        train.labels[found.subsets.probe_train[0], 3] = 1
        counts = train.labels[found.subsets.long_tail].sum(axis=0, dtype=np.int64)
        subsets = found.subsets._replace(train_counts=counts, class_order=np.argsort(-counts))
        return found._replace(train=train, test=test, subsets=subsets)

    directory = tmp_path_factory.mktemp("runs") / "attributes"
    shutil.copytree(evaluated[0], directory)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipes, "data", data)
        assert main.main(["evaluate", str(directory), f"--data_dir={data_dir}"]) == 0
    return directory, json.loads((directory / "results.json").read_text()), data(config(), str(data_dir))


def test_attributes_are_scored_by_average_precision(attributes, derived):
    _, results, data = attributes
    assert results["data"]["class_names"] == list(ATTRIBUTES)
    groups = np.array(results["data"]["groups"])
    assert results["protocols"].keys() == {"logistic", "knn"}  # the published probes are of classes
    features, labels = derived["probe_train"][0], data.part("probe_train").labels
    validation = derived["validation"][0], data.part("validation").labels
    c = config().evaluate
    fitted = probe.logistic(features, labels, *validation, num_classes=4, l2=c.logistic_l2)
    query = derived["test"][0]
    expected = {
        "logistic": probe.logits(query, fitted.kernel, fitted.bias),
        "knn": knn.predict(features, labels, query, k=c.knn_k, temperature=c.knn_temperature, num_classes=4),
    }
    for name, scored in expected.items():
        protocol = results["protocols"][name]
        assert protocol["metric"] == "average_precision"
        precisions = [average_precision_score(data.test.labels[:, a], scored[:, a]) for a in range(3)]
        assert protocol["per_class"][:3] == pytest.approx(precisions, abs=0.02)
        assert protocol["per_class"][3] is None
        assert protocol["all"] == pytest.approx(np.mean(protocol["per_class"][:3]))
        for group in ("many", "medium", "few"):
            of_group = [x for x, g in zip(protocol["per_class"], groups, strict=True) if g == group and x is not None]
            assert protocol[group] == (pytest.approx(np.mean(of_group)) if of_group else None)
    validated = results["protocols"]["logistic"]["validation_average_precision"]
    assert validated == pytest.approx(fitted.best.validation_score, abs=0.02)
    assert results["protocols"]["knn"]["all"] > 0.4  # chance is the share of images: 0.5, 0.5, 0.1


def test_a_report_says_what_is_average_precision(attributes, evaluated, tmp_path, capsys):
    directories = [str(attributes[0]), str(evaluated[0])]
    assert main.main(["report", *directories, f"--output={tmp_path / 'report.html'}"]) == 0
    printed = capsys.readouterr().out
    assert "logistic (average precision)" in printed
    page = (tmp_path / "report.html").read_text()
    for sentence in (
        "Average precision by attribute: Nearest neighbours (average precision)",
        "Accuracy by class: Nearest neighbours",
        "average precision, %",
        "each attribute's average precision stands where a class has its accuracy",
    ):
        assert sentence in page
    assert "logistic (average precision),validation_average_precision" in (tmp_path / "report.csv").read_text()


def test_a_class_without_test_images_has_no_score_and_the_others_have(evaluated, data_dir, monkeypatch, tmp_path):
    directory = shutil.copytree(evaluated[0], tmp_path / "run")
    given = recipes.data

    def untested(config, data_dir):
        found = given(config, data_dir)
        return found._replace(test=found.test.take(~np.isin(found.test.labels, (3, 7))))

    monkeypatch.setattr(recipes, "data", untested)
    options = [f"--data_dir={data_dir}", "--config.evaluate.protocols=('knn',)", "--config.evaluate.map_images=0"]
    assert main.main(["evaluate", str(directory), *options]) == 0
    found = json.loads((directory / "results.json").read_text())["protocols"]["knn"]
    scored = [score for score in found["per_class"] if score is not None]
    assert [c for c, score in enumerate(found["per_class"]) if score is None] == [3, 7]
    assert found["all"] == pytest.approx(np.mean(scored))


def test_images_without_labels_cannot_be_probed(evaluated, data_dir, monkeypatch, capsys):
    directory, _, _ = evaluated
    given = recipes.data

    def unlabelled(config, data_dir):
        found = given(config, data_dir)
        return found._replace(train=found.train._replace(class_names=(), labels=np.full(len(found.train.labels), -1)))

    before = (directory / "results.json").read_text()
    monkeypatch.setattr(recipes, "data", unlabelled)
    assert main.main(["evaluate", str(directory), f"--data_dir={data_dir}"]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("sdclr: digits has no labels, so there is nothing to probe: ")
    assert errors.count("\n") == 1
    assert (directory / "results.json").read_text() == before


def test_report_of_the_run(evaluated, tmp_path, capsys):
    directory, _, _ = evaluated
    assert main.main(["report", str(directory), f"--output={tmp_path / 'report.html'}"]) == 0
    assert "linear_full" in capsys.readouterr().out
    assert "density" in (tmp_path / "report.html").read_text().lower()


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        ([], "give the folder of a run"),
        (["/nonexistent/run"], "holds no run"),
        (["RUN", "--config.prune.rate=0.5"], "would make it another run"),
        (["RUN", "--config.evaluate.knn_kk=5"], "the nearest is --config.evaluate.knn_k"),
        (["RUN", "--config.evaluate.knn_k=5000"], "evaluate.knn_k"),
        (["RUN", "--config.evaluate.protocols=('knm',)"], "unknown evaluate.protocols 'knm': known are linear_full"),
        (["RUN", "--config.evaluate.map_images=3"], "evaluate.map_images is 3: a map takes at least 4"),
        (
            ["RUN", "--config.evaluate.protocols=()"],
            "evaluate.protocols has none that is defined for images of one class each: give one or more of linear",
        ),
    ],
)
def test_bad_input(evaluated, data_dir, capsys, argv, sentence):
    directory, _, _ = evaluated
    before = (directory / "results.json").read_text()
    argv = [str(directory) if arg == "RUN" else arg for arg in argv]
    assert main.main(["evaluate", *argv, f"--data_dir={data_dir}"]) == 2
    assert sentence in capsys.readouterr().err
    assert (directory / "results.json").read_text() == before


def test_a_run_without_a_checkpoint(data_dir, tmp_path, capsys):
    trained_on = records.TrainedOn(images=1, sha256="0" * 64)
    encoder = recipes.encoder_record(config(), (1, 8, 8, 1), encoded=False)
    folder.claim(tmp_path / "new", config(), trained_on, encoder, recipes.identity)
    assert main.main(["evaluate", str(tmp_path / "new"), f"--data_dir={data_dir}"]) == 2
    assert "no checkpoint yet" in capsys.readouterr().err


def test_a_config_that_lacks_fields(tmp_path, data_dir, capsys):
    older = json.loads(config().to_json())
    del older["evaluate"]["map_images"], older["method"]  # the first changes nothing of what is learnt
    for content, sentence in (
        ([1], "not an object of fields"),
        ({"seed": 0}, "lacks batch_size, data."),
        (older, f"{tmp_path / 'config.json'} lacks method, as that of a run of an older version"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(content))
        for command in ("evaluate", "exemplars"):
            assert main.main([command, str(tmp_path), f"--data_dir={data_dir}"]) == 2
            assert sentence in capsys.readouterr().err


def test_every_subset_can_be_pretrained_on(data_dir):
    data = recipes.data(config(), str(data_dir))
    sizes = {subset: len(data.part(subset).labels) for subset in configs.DECLARED["data.subset"].accepted}
    assert sizes == {"long_tail": 369, "balanced": 360, "probe_train": 1152}


def test_damaged_results_are_kept_aside_and_what_cannot_be_read_is_left_alone(tmp_path, capsys):
    """A results.json without its last byte holds other protocols' scores, which are not lost without a word."""
    golden = pathlib.Path(__file__).parents[1] / "golden" / "run_f1e7a00" / "results.json"
    path, whole = tmp_path / "results.json", golden.read_bytes().rstrip()
    found = records.read(records.Results, golden)
    one = replace(found, protocols={"knn": found.protocols["knn"]})
    path.write_bytes(whole)
    assert evaluate._with_others(one, path) == found
    for cut in (1, 7, len(whole)):
        path.write_bytes(whole[: len(whole) - cut])
        assert evaluate._with_others(one, path) == one
        (aside,) = tmp_path.iterdir()
        said = capsys.readouterr().err
        assert f"{path} cannot be used (not complete JSON)" in said and f"it is kept as {aside.name}" in said
        assert aside.read_bytes() == whole[: len(whole) - cut]
        aside.unlink()
    os.mkfifo(path)  # stands for a file that may not be read, which root may
    for read in (lambda: evaluate._with_others(one, path), lambda: folder.check_writable(tmp_path)):
        with pytest.raises(UserError, match=r"results.json cannot be read \(not a file of data\)"):
            read()
    assert [path] == list(tmp_path.iterdir())


def test_scores_of_images_that_were_cropped_otherwise_are_not_kept_beside_new_ones(tmp_path, capsys):
    golden = pathlib.Path(__file__).parents[1] / "golden" / "run_f1e7a00" / "results.json"
    before, path = records.read(records.Results, golden), tmp_path / "results.json"
    one = replace(before, protocols={"knn": before.protocols["knn"]}, seen={"mean": [0.5], "resize": 36, "crop": 32})
    records.write(path, replace(before, seen=one.seen))
    assert evaluate._with_others(one, path).protocols.keys() == {"logistic", "knn"}
    smaller = replace(one, seen=one.seen | {"crop": 6})
    assert evaluate._with_others(smaller, path) == smaller
    assert "logistic went, being of another encoder, other data, or images that were cropped" in capsys.readouterr().err
    records.write(path, before)  # of an older version, which does not say it
    both = evaluate._with_others(smaller, path)
    assert both.protocols.keys() == {"logistic", "knn"} and both.seen is None  # nor can the file of both


@pytest.mark.parametrize("images", [3, 4])
def test_there_is_no_map_of_three_test_images_and_no_error(images, tmp_path, capsys):
    features, labels = np.eye(images, 5, dtype=np.float32), np.zeros(images, np.int64)
    test = types.SimpleNamespace(features=features, labels=labels, targets=types.SimpleNamespace(has_attributes=False))
    path = tmp_path / "embedding.json"
    path.write_text("of an earlier evaluation")
    evaluate._write_map(config(), types.SimpleNamespace(test=test), tmp_path)
    assert path.exists() == (images == 4)
    assert ("no map is made of fewer than 4 test images" in capsys.readouterr().err) == (images == 3)
