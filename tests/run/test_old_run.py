"""The folder of a run that an older commit made: opened, resumed, evaluated and reported, now and from now on."""

import json
import pathlib
import shutil

import jax
import numpy as np
import pytest

from sdclr_jax import parallel, recipes, records
from sdclr_jax.api.load import load
from sdclr_jax.api.pretrain import train
from sdclr_jax.commands import main
from sdclr_jax.data import sources
from sdclr_jax.records import EncoderRecord, Results, Summary, View
from sdclr_jax.run.checkpoints import Checkpoints

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return str(tmp_path_factory.mktemp("data"))


@pytest.fixture
def old(tmp_path):
    return shutil.copytree(GOLDEN / "run_f1e7a00", tmp_path / "run")


def files(directory):
    return {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


def test_it_is_loaded_and_encodes_as_it_did(old, data_dir):
    before = files(old)
    run = load(old)
    assert (run.step, run.config.method, run.path) == (20, "sdclr", old)
    assert run.encoder == EncoderRecord(
        model={"name": "resnet8", "stem": "cifar", "width": 2, "dtype": "float32"},
        view=View(height=8, width=8, channels=1),
        mean=(0.305,),
        std=(0.376,),
        resize=None,
        crop=None,
        features=8,
    )
    features = run.encode(sources.source("digits", data_dir).load("test").images)
    expected = np.load(GOLDEN / "run_f1e7a00_test_features.npy", allow_pickle=False)
    np.testing.assert_allclose(features, expected, atol=1e-4)
    one = np.full((1, 8, 8, 1), 99, np.uint8)
    assert np.abs(load(old, step=10).encode(one) - run.encode(one)).max() > 0.01
    assert files(old) == before


def test_fields_that_have_another_name_now(old):
    """What a command of today gives for it is the same run: one number was for the lists and for what is drawn."""
    path = old / "config.json"
    today, written = recipes.read(old), json.loads(path.read_text())
    written["data"]["split"] = 3
    path.write_text(json.dumps(written))
    today.data.seed = 3
    recipes.check_same_run(recipes.identity(recipes.read(old)), today)
    written["data"] |= {"name": "cifar10", "lists": "lists"}
    written["views"] = {"name": "simclr", "grey_probability": 0.1, "mean": [0.5], "std": [0.2]}
    path.write_text(json.dumps(written))
    found = recipes.read(old)
    assert (found.data.split, found.data.seed, found.views.grayscale_probability) == (3, 3, 0.1)
    assert "grey_probability" not in found.views


def test_it_is_resumed(old, data_dir):
    """From step 10 to step 20, where another processor has rounded 10 steps otherwise."""
    like = recipes.abstract_state(recipes.read(old), (0, 8, 8, 1), parallel.shardings(jax.devices()[:1]))
    with Checkpoints(old / "checkpoints", read_only=True) as checkpoints:
        start, end = (checkpoints.restore(like=like, step=step) for step in (10, 20))
    for step in (15, 20):
        shutil.rmtree(old / "checkpoints" / str(step))
    resumed = train(recipes.read(old), old, data_dir, devices=jax.devices()[:1])
    assert int(resumed.step) == 20
    weights, expected, before = (
        np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves((state.params, state.stats))])
        for state in (resumed, end, start)
    )
    # Rounding made 2e-7 of it on two processors. A state that was not wholly restored makes a tenth or more.
    assert np.linalg.norm(weights - expected) < 1e-3 * np.linalg.norm(before - expected)
    assert records.read_metrics(old / "metrics.jsonl")[-1]["step"] == 20
    assert json.loads((old / "encoder.json").read_text())["features"] == 8
    assert load(old).step == 20


def test_it_is_evaluated_and_reported(old, data_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = records.read(Results, old / "results.json")
    options = ["--config.evaluate.protocols=('knn',)", "--config.evaluate.map_images=0", f"--data_dir={data_dir}"]
    assert main.main(["evaluate", str(old), *options]) == 0
    after = records.read(Results, old / "results.json")
    assert (after.run, after.data, after.encoder_checksum) == (before.run, before.data, before.encoder_checksum)
    assert after.protocols["logistic"] == before.protocols["logistic"]
    assert after.protocols["logistic"].found.keys() == {"l2", "loss", "gradient_norm", "iterations"}
    knn = after.protocols["knn"]
    assert knn.settings == before.protocols["knn"].settings
    np.testing.assert_allclose(knn.per_class, before.protocols["knn"].per_class, atol=0.05)  # two images of a class
    assert main.main(["report", str(old)]) == 0
    page = (tmp_path / "report.html").read_text()
    assert "Drift of the mask" in page and "logistic" in page


def test_what_it_holds_is_read(old):
    for kind, name in (
        (Summary, "exemplars/summary.json"),
        (records.Embedding, "embedding.json"),
        (records.TrainedOn, "data.json"),
    ):
        found, written = records.read(kind, old / name).to_json(), json.loads((old / name).read_text())
        if kind is Summary:
            assert found["data"].pop("seed") == written["data"]["split"] == 0
        if kind is records.TrainedOn:
            assert found.pop("provenance") is None
        assert found == written
    summary = records.read(Summary, old / "exemplars" / "summary.json")
    assert [checkpoint.step for checkpoint in summary.checkpoints] == [10, 15, 20]
