"""What a slip in a call gives: one sentence with the name, its value and the remedy, before anything is written."""

import pathlib
import re
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

import sdclr_jax
from sdclr_jax import files, recipes, records
from sdclr_jax.data.examples import Examples
from sdclr_jax.data.sources import DATASETS
from tests import runs

CONFIG = runs.config()


@pytest.fixture(scope="module")
def run():
    """One whose folder is not there."""
    record = recipes.encoder_record(CONFIG, (1, 8, 8, 1), encoded=False)
    return sdclr_jax.Run(pathlib.Path("/nowhere/run"), CONFIG, 1, record, {})


def misspelt():
    config = sdclr_jax.config("digits_lt:sdclr")
    config.prune.raet = 0.7
    return config


def pairs_in_lists():
    config = sdclr_jax.config("digits_lt:sdclr")
    config.pairs = [[["dense", 0], ["sparse", 1]]]
    return config


SLIPS = {
    "config by name": (lambda run: sdclr_jax.pretrain("digits_lt:sdclr", "x"), "the config is 'digits_lt:sdclr': give"),
    "config as a dict": (lambda run: sdclr_jax.pretrain(CONFIG.to_dict(), "x"), "the config is {'batch_size': "),
    "order": (lambda run: sdclr_jax.pretrain("x", CONFIG), "batch_size: "),
    "a misspelt field": (lambda run: sdclr_jax.pretrain(misspelt(), "x"), "there is no field prune.raet: the neare"),
    "no folder": (lambda run: sdclr_jax.load(None), "None is no path: give text or a pathlib.Path"),
    "one protocol": (lambda run: sdclr_jax.evaluate(run, protocols="knn"), "protocols is 'knn': give a list of names,"),
    "no runs": (lambda run: sdclr_jax.report([]), "dirs is empty: give the folder of at least one run"),
    "a run": (lambda run: sdclr_jax.report(run), "/nowhere/run"),
    "runs": (lambda run: sdclr_jax.report([run]), "/nowhere/run"),
    "opened twice": (lambda run: sdclr_jax.load(run), "/nowhere/run holds no run"),
    "a config": (lambda run: sdclr_jax.import_weights("x.npz", "x", CONFIG), "the name of a config is a ConfigDict: g"),
    "a config again": (lambda run: sdclr_jax.config(CONFIG), "the name of a config is a ConfigDict: give text"),
    "a path": (lambda run: sdclr_jax.config(pathlib.Path("x.py")), "--config: there is no file x.py"),
    "fields as text": (lambda run: sdclr_jax.config("digits_lt:sdclr", "seed=1"), "the fields are 'seed=1': give a ma"),
    "settings as text": (lambda run: sdclr_jax.evaluate(run, settings="knn_k=5"), "settings is 'knn_k=5': give a map"),
    "data as text": (lambda run: sdclr_jax.evaluate(run, data="folder:/new"), "data is 'folder:/new': give a mapping "),
    "data as text again": (lambda run: sdclr_jax.exemplars(run, data="folder:/new"), "data is 'folder:/new': give a m"),
    "fields as text again": (lambda run: sdclr_jax.import_weights("x", "x", fields="seed=1"), "fields is 'seed=1': gi"),
    "a number as a field": (lambda run: sdclr_jax.config("digits_lt:sdclr", {1: 2}), "there is no field 1: the neares"),
    "one rate": (lambda run: sdclr_jax.exemplars(run, rates=0.9), "rates is 0.9: give several numbers, or one as (0.9"),
    "rates as text": (lambda run: sdclr_jax.exemplars(run, rates=["0.9"]), "rates is ('0.9',): it must be different n"),
    "pairs as text": (lambda run: sdclr_jax.exemplars(run, pairs_of_views="1"), "pairs_of_views is '1': it must be a"),
    "classes as text": (lambda run: sdclr_jax.export(run, "timm", classes="3"), "classes is '3': it must be a whole n"),
    "minutes as text": (lambda run: sdclr_jax.photos("/nowhere", minutes="5"), "minutes is '5': it must be above 0"),
    "batch as text": (lambda run: run.encode(ONE, batch_size="2"), "batch_size is '2': it must be a whole number of a"),
    "half an image": (lambda run: run.encode(ONE, batch_size=2.5), "batch_size is 2.5"),
    "workers as text": (lambda run: run.encode(ONE, workers="2"), "workers is '2'"),
    "no devices": (lambda run: run.encode(ONE, devices=[]), "devices is []: give a list of one or more of jax.device"),
    "no devices to train on": (lambda run: sdclr_jax.pretrain(CONFIG, "x", devices=[]), "devices is []: give a list"),
    "pairs in lists": (lambda run: sdclr_jax.pretrain(pairs_in_lists(), "x"), "pairs is ([['dense', 0], ['sparse', 1"),
    "two encoders": (lambda run: sdclr_jax.config("digits_lt:sdclr", {"model.name": ["vit_tiny"]}), "model.name is ['"),
    "fields of photos": (lambda run: sdclr_jax.photos("/nowhere", overrides="epochs=2"), "overrides is 'epochs=2': gi"),
    "epochs of photos": (lambda run: sdclr_jax.photos("/nowhere", overrides={"epochs": "2"}), "epochs is '2', str: it"),
    "misspelt in photos": (lambda run: sdclr_jax.photos("/nowhere", overrides={"epoch": 2}), "there is no field epoch"),
    "classes of NumPy": (lambda run: sdclr_jax.export(run, "timm", classes=np.int64(0)), "/nowhere/run holds no run"),
    "one device": (lambda run: run.encode(ONE, devices=jax.devices()[0]), "devices is "),
}  # fmt: skip
ONE = np.zeros((1, 8, 8, 1), np.uint8)


@pytest.mark.parametrize("slip", SLIPS)
def test_a_slip_is_one_sentence(run, slip, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    call, said = SLIPS[slip]
    with pytest.raises(ValueError, match=re.escape(said)) as raised:
        call(run)
    assert "\n" not in str(raised.value) and not list(tmp_path.iterdir())


def test_groups_of_fields_may_be_config_dicts():
    given = ConfigDict({"rate": 0.5})
    assert sdclr_jax.config("digits_lt:sdclr", prune=given).prune.rate == 0.5
    assert records.flat({"prune": given, "seed": 0}) == {"prune.rate": 0.5, "seed": 0}


def test_numbers_of_numpy_and_jax_are_numbers():
    numbers = {"seed": np.int64(3), "prune.rate": np.float32(0.5), "optimizer.decay_vectors": np.bool_(False)}
    several = {"evaluate.logistic_l2": (np.float64(1.0), jnp.float32(2.0)), "evaluate.full_drops": np.array([3, 4])}
    pairs = {"pairs": ([["dense", np.int32(0)], ["sparse", 1]],)}
    found = recipes.fields(sdclr_jax.config("digits_lt:sdclr", numbers | several | pairs))
    expected = (3, 0.5, False, (1.0, 2.0), (3, 4), ((("dense", 0), ("sparse", 1)),))
    assert repr(tuple(found[name] for name in numbers | several | pairs)) == repr(expected)


def test_a_config_file_may_lie_at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    named = pathlib.Path(recipes.configs.FOLDER, "digits_lt.py").read_text()
    (tmp_path / "mine.py").write_text(named)
    assert sdclr_jax.config("~/mine.py:simclr", seed=3).seed == 3


def test_configs_are_made_in_several_threads():
    methods = ["sdclr", "simclr", "byol", "sd_vicreg"] * 5
    with ThreadPoolExecutor(4) as threads:
        made = threads.map(lambda method: sdclr_jax.config(f"digits_lt:{method}").method, methods)
        assert list(made) == methods


def test_errors_are_at_the_door():
    assert issubclass(sdclr_jax.UserError, ValueError) and issubclass(sdclr_jax.Stopped, KeyboardInterrupt)
    with pytest.raises(sdclr_jax.UserError):
        files.expanded(3)


def grey(count):
    labels = np.arange(count, dtype=np.int32) % 2
    return Examples(
        np.zeros((count, 8, 8, 1), np.uint8), labels, np.array([f"{i:03d}" for i in range(count)]), ("a", "b")
    )


NO_SPLITS = {
    "labels as a list": ({"labels": [0, 1] * 30}, "labels: are a list: give an array"),
    "labels as text": ({"labels": np.array(["a", "b"] * 30)}, "labels: have shape [60] of <U1"),
    "labels as floats": ({"labels": np.zeros(60)}, "labels: have shape [60] of float64"),
    "some unlabelled": ({"labels": np.arange(60) % 3 - 1}, "labels: go from -1 to 1: they must"),
    "labels from 1": ({"labels": np.arange(60) % 2 + 1}, "labels: go from 1 to 2"),
    "labels without names": ({"class_names": ()}, "labels: are there without class_names"),
    "names as a list": ({"class_names": ["a", "b"]}, "class_names: are a list: give a tuple"),
    "ids of numbers": ({"ids": np.arange(60)}, "ids: are an array [60] of int64: give an arr"),
    "ids unsorted": ({"ids": np.array([str(i) for i in range(60)])}, "ids: have '9' before '10'"),
    "ids twice": ({"ids": np.array(["x"] * 60)}, "ids: have 'x' before 'x': sort all"),
    "images too few": ({"images": grey(55).images}, "images: are 55, and ids 60"),
    "images of floats": ({"images": np.zeros((60, 8, 8, 1))}, "images: are an array [60, 8, 8"),
    "images as a list": ({"images": list(grey(60).images)}, "images: are a list: give uint8"),
    "names of numbers": ({"class_names": (0, 1)}, "class_names: have 0: give each class a name, a text"),
    "a name twice": ({"class_names": ("a", "a")}, "class_names: have 'a' more than once: give each"),
    "held out as a list": ({"held_out": [True] * 60}, "held_out: is a list: give bool [60], or None"),
    "held out by number": ({"held_out": np.arange(60)}, "held_out: is an array [60] of int64"),
}  # fmt: skip


@pytest.mark.parametrize("fault", NO_SPLITS)
def test_a_split_of_an_own_data_source_is_looked_at(fault, monkeypatch):
    changed, said = NO_SPLITS[fault]

    class Mine:
        def __init__(self, data_dir):
            pass

        def load(self, split):
            return grey(60)._replace(**changed)

        def provenance(self):
            return None

    monkeypatch.setitem(DATASETS, "mine", Mine)
    config = sdclr_jax.config("digits_lt:simclr", {"data.name": "mine", "data.n_max": 20, "data.imbalance": 2.0})
    field, rest = said.split(": ", 1)
    said = f"{field} of the train images of mine {rest}"
    with pytest.raises(sdclr_jax.UserError, match=f"^{re.escape(said)}"):
        recipes.data(config, None)
