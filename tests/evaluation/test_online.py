"""Measurements while a run trains: right, on validation images alone, and without a trace in the run itself."""

import time
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from sklearn.linear_model import Ridge

from sdclr_jax import parallel, recipes, records
from sdclr_jax.api import agreement
from sdclr_jax.api.pretrain import train
from sdclr_jax.commands import main
from sdclr_jax.data.examples import Examples
from sdclr_jax.data.subsets import longtail
from sdclr_jax.errors import UserError
from sdclr_jax.evaluation import protocols
from sdclr_jax.evaluation.frozen import dense
from sdclr_jax.evaluation.online import OnlineProbe
from sdclr_jax.run import clock as clock_of_runs
from sdclr_jax.train import Method
from tests.runs import arguments, assert_same_bits, config, lines, power_cut, run

pytestmark = pytest.mark.usefixtures("one_trace")
EVERY = ("--config.evaluate.every=2", "--config.evaluate.live_images=500")
MEASURES = {f"{name}/{group}" for name in ("knn", "probe") for group in ("all", "many", "medium", "few", "std")}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def measured(tmp_path_factory, data_dir):
    """A run measured after its second epoch and at its end: folder, last state, and how often its step was traced."""
    directory, traced, step = tmp_path_factory.mktemp("runs") / "measured", [], Method.step
    compared = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Method, "step", lambda *given: traced.append(1) or step(*given))
        patch.setattr(agreement, "on_lists", compared.append)
        state = run(config("sdclr", *EVERY), directory, data_dir)
    return SimpleNamespace(directory=directory, state=state, traced=len(traced), compared=len(compared))


def test_a_run_is_the_same_with_and_without(measured, data_dir, tmp_path):
    """To the bit, and its step is traced once, before anything is written."""
    assert_same_bits(run(config(), tmp_path / "plain", data_dir), measured.state)
    assert measured.traced == 1
    assert measured.compared == 1  # by processes, which all see the same of the images
    often, plain = lines(measured.directory), {line["step"]: line for line in lines(tmp_path / "plain")}
    assert [line["step"] for line in often if MEASURES & line.keys()] == [10, 15]
    assert [line["step"] for line in often] == list(plain)
    for line in often:
        assert {k: v for k, v in line.items() if k not in MEASURES} == plain[line["step"]]


def test_what_is_measured(measured, data_dir):
    """Against features, neighbours and a regression made here; digits have few enough images for exact shares."""
    c, (*_, last) = config("sdclr", *EVERY), lines(measured.directory)
    data = recipes.data(c, str(data_dir))
    train, validation = data.part("probe_train"), data.part("validation")
    train = train.take(np.arange(500) * len(train.labels) // 500)

    def features(examples):
        views = (examples.images.astype(np.float32) / 255 - np.float32(0.305)) / np.float32(0.376)
        return np.asarray(recipes.network(c).apply(dense(measured.state), views, method="encode"), np.float64)

    x, query = features(train), features(validation)
    unit, unit_query = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (x, query))
    similarity = unit_query @ unit.T
    nearest = np.argsort(-similarity, axis=1)[:, : c.evaluate.knn_k]
    votes = np.zeros((len(query), 10))
    for row, neighbours in enumerate(nearest):
        np.add.at(votes[row], train.labels[neighbours], np.exp(similarity[row, neighbours] / 0.1))
    mean, std = x.mean(0), np.where(x.std(0) > 1e-6, x.std(0), np.inf)
    ridge = Ridge(alpha=protocols.PROTOCOLS["ridge"].l2 * len(x)).fit((x - mean) / std, np.eye(10)[train.labels])
    said = {"knn": votes, "probe": ridge.predict((query - mean) / std)}

    groups = np.array(longtail.groups(data.subsets.train_counts, "thirds"))
    for name, scores in said.items():
        right = scores.argmax(1) == validation.labels
        per_class = np.array([right[validation.labels == k].mean() for k in range(10)])
        means = [per_class[groups == g].mean() for g in ("many", "medium", "few")]
        found = [last[f"{name}/{group}"] for group in ("all", "many", "medium", "few", "std")]
        assert found == pytest.approx([per_class.mean(), *means, np.std(means)], abs=0.02)  # a tie or two
        assert last[f"{name}/all"] > 0.2  # chance is 0.1


def test_test_images_are_never_seen(measured, data_dir):
    data = recipes.data(config(), str(data_dir))
    c, one = config("sdclr", *EVERY), parallel.shardings(jax.devices()[:1])
    online = recipes.online_probe(c, data._replace(test=None), one)
    assert online.measure(measured.state).keys() == MEASURES


def test_any_protocol_can_score_while_a_run_trains(measured, data_dir):
    """The interface is that of `sdclr evaluate`; validation images stand in the place of test images."""
    c, data = config("sdclr", *EVERY), recipes.data(config(), str(data_dir))
    seen = []

    class Spy(type(protocols.PROTOCOLS["logistic"])):
        def measure(self, splits):
            seen.append(splits)
            return super().measure(splits)

    online = OnlineProbe(
        recipes.frozen_encoder(c, parallel.shardings(jax.devices()[:1])),
        data.part("few_shot"),
        data.part("validation"),
        groups=recipes.groups(c, data),
        protocols={"mine": Spy(l2_tried=(1e-2,))},
    )
    found = online.measure(measured.state)
    assert found.keys() == {f"mine/{group}" for group in ("all", "many", "medium", "few", "std")}
    assert found["mine/all"] > 0.2  # chance is 0.1
    (splits,) = seen
    np.testing.assert_array_equal(splits.train.labels, data.part("few_shot").labels)
    for scored in (splits.validation, splits.test):
        np.testing.assert_array_equal(scored.labels, data.part("validation").labels)


def test_a_stopped_run_measures_the_same(measured, data_dir, tmp_path, monkeypatch):
    with power_cut(monkeypatch, 12):
        run(config("sdclr", *EVERY), tmp_path / "cut", data_dir)
    assert_same_bits(run(config("sdclr", *EVERY), tmp_path / "cut", data_dir), measured.state)
    assert lines(tmp_path / "cut") == lines(measured.directory)


def test_its_time_is_told_apart_and_the_bar_shows_it(measured, data_dir, tmp_path, monkeypatch, capfd):
    for line in records.read_metrics(measured.directory / "metrics.jsonl"):
        assert ("evaluation_seconds" in line) == ("knn/all" in line)
    measure, late = OnlineProbe.measure, [0.0]

    def slow(self, state):
        late[0] += 1000.0
        return measure(self, state)

    clock = SimpleNamespace(perf_counter=lambda: time.perf_counter() + late[0])
    monkeypatch.setattr(clock_of_runs, "time", clock)
    monkeypatch.setattr(OnlineProbe, "measure", slow)
    train(config("sdclr", *EVERY), tmp_path / "slow", data_dir, devices=jax.devices()[:1], progress=True)
    found = records.read_metrics(tmp_path / "slow" / "metrics.jsonl")
    assert [line["step"] for line in found if line.get("evaluation_seconds", 0) >= 1000] == [10, 15]
    assert found[-1]["seconds"] < 1000
    assert all(line["images_per_second"] > 1 for line in found)
    last = found[-1]
    assert f"knn_all={100 * last['knn/all']:.1f}%, knn_few={100 * last['knn/few']:.1f}%" in capfd.readouterr().err


def test_any_number_of_devices_measures_the_same(measured, data_dir):
    data = recipes.data(config(), str(data_dir))
    expected = lines(measured.directory)[-1]
    eight = parallel.shardings(jax.devices())
    state = jax.device_put(jax.device_get(measured.state.replace(key=None)), eight.replicated)
    found = recipes.online_probe(config("sdclr", *EVERY), data, eight).measure(state)
    assert found == pytest.approx({name: expected[name] for name in found}, abs=0.02)


def test_attributes_are_measured_by_average_precision_and_an_empty_group_is_null(measured, data_dir):
    digits = {"odd": (1, 3, 5, 7, 9), "high": (5, 6, 7, 8, 9), "zero": (0,)}
    data = recipes.data(config(), str(data_dir))
    labels = np.stack([np.isin(data.train.labels, d) for d in digits.values()], axis=1).astype(np.uint8)
    counts = labels[data.subsets.long_tail].sum(axis=0, dtype=np.int64)
    data = data._replace(
        train=data.train._replace(labels=labels, class_names=tuple(digits)),
        subsets=data.subsets._replace(train_counts=counts, class_order=np.argsort(-counts)),
    )
    c = config("sdclr", *EVERY, "--config.data.groups=counts")
    found = recipes.online_probe(c, data, parallel.shardings(jax.devices()[:1])).measure(measured.state)
    assert found.keys() == MEASURES
    empty = {"many", "medium", "few"} - set(longtail.groups(counts, "counts"))
    assert empty
    assert {name for name, value in found.items() if value is None} == {
        f"{m}/{g}" for m in ("knn", "probe") for g in empty
    }
    chance = data.part("validation").labels.mean()
    assert chance + 0.1 < min(found["knn/all"], found["probe/all"])


def test_a_class_without_validation_images_is_left_out(measured, data_dir):
    """Means are over the others."""
    c, data = config("sdclr", *EVERY), recipes.data(config(), str(data_dir))
    held = data.part("validation").labels != 3
    seen = []

    class Spy(type(protocols.PROTOCOLS["knn"])):
        def measure(self, splits):
            seen.append(super().measure(splits))
            return seen[-1]

    groups = np.array(recipes.groups(c, data))
    online = OnlineProbe(
        recipes.frozen_encoder(c, parallel.shardings(jax.devices()[:1])),
        data.part("probe_train"),
        data.part("validation").take(np.flatnonzero(held)),
        groups=tuple(groups),
        protocols={"mine": Spy(k=5)},
    )
    found = online.measure(measured.state)
    per_class = np.array(seen[0].per_class, float)
    others = np.arange(10) != 3
    assert np.isnan(per_class[3]) and np.isfinite(per_class[others]).all()
    for group in ("many", "medium", "few"):
        assert found[f"mine/{group}"] == pytest.approx(per_class[others & (groups == group)].mean())


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--config.evaluate.every=-1"], "evaluate.every is -1: it must be at least 0"),
        (["--config.evaluate.live_images=0"], "evaluate.live_images is 0: it must be at least 1"),
    ],
)
def test_bad_fields_are_refused(more, sentence, data_dir, tmp_path, capsys):
    assert main.main(["pretrain", *arguments(tmp_path / "run", data_dir, "sdclr", "--noprogress"), *more]) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_attributes_that_no_validation_image_has_are_refused():
    """They would end the run at its first measurement."""
    labels, ids = np.eye(4, 3, dtype=np.uint8), np.array(list("abcd"))
    train = Examples(np.zeros((4, 8, 8, 1), np.uint8), labels, ids, tuple("xyz"))
    parts = {"probe_train": train, "validation": train.take(np.array([3]))}
    data = SimpleNamespace(train=train, part=parts.__getitem__)
    said = "^evaluate.every is 2, but no validation image of digits has an attribute to measure by while pretraining"
    with pytest.raises(UserError, match=said):
        recipes.online_probe(config("sdclr", *EVERY), data, parallel.shardings())


def test_images_without_labels_are_refused_before_anything_is_written(data_dir, tmp_path, capsys, monkeypatch):
    given = recipes.data

    def unlabelled(config, data_dir):
        found = given(config, data_dir)
        return found._replace(train=found.train._replace(class_names=(), labels=np.full(len(found.train.labels), -1)))

    monkeypatch.setattr(recipes, "data", unlabelled)
    argv = ["pretrain", *arguments(tmp_path / "run", data_dir, "sdclr", "--noprogress"), *EVERY]
    assert main.main(argv) == 2
    assert capsys.readouterr().err == (
        "sdclr: evaluate.every is 2, but digits has no labels to measure by while pretraining: set it to 0\n"
    )
    assert not (tmp_path / "run").exists()
