"""Fine-tuning a run from the command line: which labels and images it sees, and what it must leave alone."""

import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from sdclr_jax import parallel, recipes, records
from sdclr_jax.api import evaluate
from sdclr_jax.commands import main
from sdclr_jax.data.subsets import longtail
from sdclr_jax.evaluation import finetuning
from tests.runs import arguments, config, run

EPOCHS = (3, 2)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def train(data_dir):
    return recipes.data(config(), str(data_dir)).part("probe_train")


@pytest.mark.parametrize(("share", "least"), [(0.1, 11), (0.01, 1), (1e-6, 1), (1.0, 100)])
def test_a_share_is_of_every_class_alike_and_of_the_seed(train, share, least):
    found = finetuning.share(train, share, seed=0)
    counts = np.bincount(found.labels, minlength=10)
    of_all = np.bincount(train.labels)
    np.testing.assert_array_equal(counts, np.maximum(1, np.rint(share * of_all)))
    assert counts.min() >= least
    rows = np.searchsorted(train.ids, found.ids)
    np.testing.assert_array_equal(train.labels[rows], found.labels)
    np.testing.assert_array_equal(found.ids, finetuning.share(train, share, seed=0).ids)
    assert set(finetuning.share(train, 0.01, seed=0).ids) <= set(found.ids) or share < 0.01
    assert share == 1.0 or set(found.ids) != set(finetuning.share(train, share, seed=1).ids)


def test_a_class_without_labelled_images_has_no_share(train):
    found = finetuning.share(train.take(train.labels != 3), 0.01, seed=0)
    assert np.bincount(found.labels, minlength=10)[3] == 0
    assert set(found.labels) == set(range(10)) - {3}


@pytest.mark.parametrize("batch_size", [16, 12])  # eight devices share the first, and have all of the second
def test_views_are_the_same_on_any_number_of_devices(train, batch_size):
    rows, views = np.arange(batch_size, dtype=np.int32)[::-1], []
    for devices in (1, 8):
        shardings = parallel.shardings(jax.devices()[:devices])
        with recipes.probe_views(config(), train.images).views_of(train.images, batch_size, shardings) as views_of:
            views.append(views_of(3, rows))
    assert views[1].sharding.is_fully_replicated == (batch_size == 12)
    np.testing.assert_array_equal(*views)


def test_evaluate_fine_tunes(data_dir, tmp_path, monkeypatch):
    """On its share of the labelled images; validation chooses; test images go through the encoder that came of it.

    The last epoch is made the best: of ten images an epoch is one step, the first of which gives the encoder no
    gradient (the head is zero), and whether this network learns from so few is a matter of rounding.
    """
    fine_tune = (
        "--config.evaluate.protocols=('fine_tune_1', 'fine_tune_10')",
        f"--config.evaluate.fine_tune_epochs={EPOCHS}",
        "--config.evaluate.fine_tune_batch_size=32",
        "--config.evaluate.fine_tune_learning_rate=1.0",
        "--config.evaluate.fine_tune_head_learning_rate=2.0",
    )
    directory, c = tmp_path / "run", config("simclr", *fine_tune)
    run(config("simclr", "--config.epochs=2"), directory, data_dir)
    one = parallel.shardings(jax.devices()[:1])
    monkeypatch.setattr(evaluate.parallel, "shardings", lambda: one)
    data = recipes.data(c, str(data_dir))
    train, validation = data.part("probe_train"), data.part("validation")
    seen, validated, fit = [], [], finetuning.fit

    def spy(encoder, variables, views_of, labels, validation_features, validation_labels, **settings):
        views = [np.asarray(views_of(step, np.arange(10))) for step in (0, 1, 0)]
        validated.clear()

        def features(tuned):
            validated.append((tuned, validation_features(tuned)))
            return validated[-1][1]

        fitted = fit(encoder, variables, views_of, labels, features, validation_labels, **settings)
        seen.append((views, labels, validation_labels, settings, variables, fitted, validated[-1]))
        return fitted

    def better_each_epoch(features, kernel, bias):
        return np.where(np.arange(len(features)) < len(validated), validation.labels, -1)

    monkeypatch.setattr(finetuning, "fit", spy)
    monkeypatch.setattr(finetuning, "probe", SimpleNamespace(predict=better_each_epoch, linear=finetuning.probe.linear))
    before = {p: p.read_bytes() for p in (directory / "checkpoints").rglob("*") if p.is_file()}
    assert main.main(["evaluate", str(directory), f"--data_dir={data_dir}", *fine_tune]) == 0
    assert all(p.read_bytes() == content for p, content in before.items())
    results, encoder = json.loads((directory / "results.json").read_text()), recipes.encoder(c.model)
    encode = jax.jit(lambda variables, views: encoder.apply(variables, views, False))

    def plain(images):
        return (images.astype(np.float32) / 255 - np.float32(0.305)) / np.float32(0.376)

    for name, part, epochs, (views, labels, validation_labels, settings, variables, fitted, last) in zip(
        ("fine_tune_1", "fine_tune_10"), (0.01, 0.1), EPOCHS, seen, strict=True
    ):
        chosen, protocol = finetuning.share(train, part, seed=0), results["protocols"][name]
        np.testing.assert_array_equal(labels, chosen.labels)
        np.testing.assert_array_equal(validation_labels, validation.labels)
        np.testing.assert_array_equal(views[0], views[2])
        assert abs(views[0] - views[1]).max() > 0.01
        same = np.isclose(views[0], plain(chosen.images[:10]), atol=1e-4).all(axis=(1, 2, 3))
        assert same.mean() < 0.6  # a shift by a pixel at most: one in nine is the image itself
        assert settings["batch_size"] == protocol["settings"]["batch_size"] == min(32, len(labels))
        for field, rate in (("learning_rate", 1.0), ("head_learning_rate", 2.0)):
            expected = pytest.approx(rate * settings["batch_size"] / 256)
            assert settings[field] == protocol["settings"][field] == expected
        assert settings["epochs"] == protocol["settings"]["epochs"] == len(fitted.history) == epochs
        assert protocol["settings"]["images"] == len(labels)
        assert protocol["settings"]["list"] == longtail.list_hash(chosen.ids) and "list" in protocol["found"]
        assert protocol["settings"]["padding"] == 1
        assert protocol["settings"]["best_epoch"] == fitted.best_epoch == epochs
        assert protocol["validation_accuracy"] == fitted.validation_accuracy == epochs / len(validation.labels)
        jax.tree.map(np.testing.assert_array_equal, last[0], fitted.variables)
        np.testing.assert_allclose(last[1], encode(fitted.variables, plain(validation.images)), atol=1e-4)
        moved = jax.tree.map(lambda a, b: float(abs(a - b).max()), variables, fitted.variables)
        assert max(jax.tree.leaves(moved["params"])) > 1e-4
        assert max(jax.tree.leaves(moved["batch_stats"])) > 1e-4
        features = encode(fitted.variables, plain(data.test.images))
        predicted = (np.asarray(features) @ fitted.kernel + fitted.bias).argmax(1)
        right = [float((predicted[data.test.labels == k] == k).mean()) for k in range(10)]
        np.testing.assert_allclose(protocol["per_class"], right, atol=1.5 / 43)  # but for a tie


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ("fine_tune_epochs=(60,)", "evaluate.fine_tune_epochs is (60,): it must be two numbers, each at least 1"),
        (
            "fine_tune_epochs=(60, 0)",
            "evaluate.fine_tune_epochs is (60, 0): it must be whole numbers, each at least 1",
        ),
        ("fine_tune_batch_size=1", "evaluate.fine_tune_batch_size is 1: it must be at least 2"),
        ("fine_tune_learning_rate=-0.1", "evaluate.fine_tune_learning_rate is -0.1: it must be at least 0"),
        ("fine_tune_head_learning_rate=0", "evaluate.fine_tune_head_learning_rate is 0.0: it must be above 0"),
    ],
)
def test_bad_fields_are_refused(more, sentence, data_dir, tmp_path, capsys):
    argv = arguments(tmp_path / "run", data_dir, "sdclr", "--noprogress", f"--config.evaluate.{more}")
    assert main.main(["pretrain", *argv]) == 2
    assert sentence in capsys.readouterr().err
    assert records.read_metrics(tmp_path / "run" / "metrics.jsonl") == []
