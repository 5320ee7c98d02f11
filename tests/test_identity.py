"""What makes a run this run, and what may differ from one start to the next."""

import json
import pathlib
import re

import pytest

from sdclr_jax import recipes
from sdclr_jax.errors import UserError
from sdclr_jax.recipes import configs
from sdclr_jax.records import EncoderRecord, TrainedOn, View
from sdclr_jax.records.config import FREE
from sdclr_jax.run import folder

DATA = TrainedOn(images=3, sha256="0" * 64)
FEWER = TrainedOn(images=2, sha256="1" * 64)
ENCODER = EncoderRecord(
    model={"name": "resnet8"},
    view=View(height=8, width=8, channels=3),
    mean=(0.0,),
    std=(1.0,),
    resize=None,
    crop=None,
    features=8,
)


def config(**fields):
    made = recipes.load("folder:sdclr")
    recipes.override(made, {name.replace("__", "."): value for name, value in fields.items()})
    return made


def other(value):
    """Another value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, tuple):
        return value[1:] or (("dense", 1),)
    return value + (f"{value}2" if isinstance(value, str) else 1)


def test_every_field_is_identity_but_those_that_change_nothing_of_what_is_learnt():
    before = recipes.identity(config(data__name="cifar10"))
    counts = set()
    for name, value in recipes.fields(config()).items():
        changed = config(data__name="cifar10").copy_and_resolve_references()
        with changed.ignore_type():
            changed.update_from_flattened_dict({name: other(value)})
        counts |= {name} if recipes.identity(changed) != before else set()
    free = set(recipes.fields(config())) - counts
    assert {name.split(".")[0] for name in free} == {
        *("log_every", "checkpoint_every", "keep_every", "collapse_every", "wandb", "evaluate", "data", "model"),
        *("objective", "shard_state", "steps_per_dispatch"),
    }
    assert {name for name in free if name.startswith("model.")} == {
        "model.start",
        "model.remat",
    }  # a file's content counts
    assert {name for name in free if name.startswith("objective.")} == {"objective.chunk"}
    assert {name for name in free if name.startswith("data.")} == {
        f"data.{name}"
        for name in ("root", "manifest", "lists", "without", "class_order", "groups", "input", "workers", "prefetch")
    }
    assert all(name in configs.DECLARED or name in configs.base.FIELDS for name in FREE)


def test_a_folder_is_the_same_wherever_it_lies_and_another_data_set_is_another():
    here, there, elsewhere = (recipes.identity(config(data__name=n)) for n in ("folder:/a", "folder:/b", "cifar10"))
    assert here == there != elsewhere


def test_a_field_that_an_older_version_did_not_have_counts_as_its_default():
    old, given = config(), config()
    for group, name in (("prune", "norms"), ("optimizer", "trust_coefficient"), ("views", "small_size")):
        with old[group].unlocked():
            del old[group][name]
    assert recipes.identity(old) == recipes.identity(given)
    given.prune.norms = "shared"
    assert recipes.identity(old) != recipes.identity(given)


def test_another_identity_is_refused_by_field_and_values():
    before = recipes.identity(config())
    recipes.check_same_run(before, config(data__workers=3, data__name="folder:/moved", evaluate__knn_k=5))
    with pytest.raises(UserError, match=r"^config\.prune\.rate=0\.5 would make it another run.* 0\.3"):
        recipes.check_same_run(before, config(prune__rate=0.5))


def test_places_are_written_down_so_that_they_are_found_from_any_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    found = recipes.located(config(data__name="folder:photos", data__manifest="~/labels.csv"))
    assert found.data.name == f"folder:{tmp_path}/photos"
    assert (found.data.manifest, found.data.root) == (f"{tmp_path}/labels.csv", "")
    assert recipes.located(config(data__name="cifar10")).data.name == "cifar10"


def claimed(directory: pathlib.Path, **fields) -> pathlib.Path:
    with folder.lock(directory):
        folder.claim(directory, recipes.located(config(**fields)), DATA, ENCODER, recipes.identity)
    return directory


def test_a_run_goes_on_under_other_free_fields_and_says_what_changed(tmp_path):
    run = claimed(tmp_path / "run", data__name="folder:/old")
    assert not (run / "changes.jsonl").exists()
    claimed(run, data__name="folder:/new", data__workers=3)
    kept = recipes.read(run)
    assert (kept.data.name, kept.data.workers) == ("folder:/new", 3)
    changes = [json.loads(line) for line in (run / "changes.jsonl").read_text().splitlines()]
    assert [(line["field"], line["from"], line["to"]) for line in changes] == [
        ("data.name", "folder:/old", "folder:/new"),
        ("data.workers", -1, 3),
    ]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", line["time"]) for line in changes)
    before = {path: path.read_bytes() for path in run.glob("*.json*")}
    claimed(run, data__name="folder:/new", data__workers=3)
    assert {path: path.read_bytes() for path in run.glob("*.json*")} == before
    with pytest.raises(UserError, match=r"holds a run of another config: seed \(0 there, 5 given\): give another"):
        claimed(run, data__name="folder:/new", seed=5)


def test_moved_images_are_taken_where_they_are_the_same_and_refused_where_not(tmp_path):
    run = claimed(tmp_path / "run", data__name="folder:/old")
    moved, before = config(data__name="folder:/new", evaluate__knn_k=7), (run / "config.json").read_text()
    with pytest.raises(UserError, match=r"trained on 3 images .* has 2 images .*data\.name=folder:/new"):
        recipes.note_places(run, moved, FEWER)
    assert (run / "config.json").read_text() == before
    assert "now has 2 images" in recipes.note_places(run, config(data__name="folder:/old"), FEWER)
    assert recipes.note_places(run, moved, DATA) == ""
    kept = recipes.read(run)
    assert (kept.data.name, kept.evaluate.knn_k) == ("folder:/new", 20)  # what a measurement uses is its own
    assert json.loads((run / "changes.jsonl").read_text())["from"] == "folder:/old"


def test_a_folder_run_of_an_older_version_keeps_the_order_of_its_classes_and_goes_on(tmp_path):
    run = claimed(tmp_path / "run", data__name="folder:/photos")
    written = json.loads((run / "config.json").read_text())
    del written["data"]["class_order"], written["data"]["gray_range"]
    (run / "config.json").write_text(json.dumps(written))
    assert (recipes.read(run).data.class_order, recipes.read(run).data.gray_range) == ("text", (0.0, 0.0))
    claimed(run, data__name="folder:/photos", data__class_order="text")
    assert not (run / "changes.jsonl").exists()
    claimed(run, data__name="folder:/photos")  # the hash of the list says whether the order matters
    assert json.loads((run / "changes.jsonl").read_text())["field"] == "data.class_order"
    with pytest.raises(UserError, match=r"another config: data\.gray_range"):
        claimed(run, data__name="folder:/photos", data__gray_range=(0.0, 4095.0))


def test_a_run_of_an_older_version_goes_on_by_the_rules_that_it_began_with(tmp_path):
    """Before there were fields for them: the rate moved after each update, the last batch was dropped, and evaluation
    was bicubic."""
    made = recipes.load("cifar10_lt:sdclr")
    older = {"optimizer.rate_moves": "after_update", "data.last_batch": "dropped", "evaluate.interpolation": "bicubic"}
    with folder.lock(tmp_path):
        folder.claim(tmp_path, made, DATA, ENCODER, recipes.identity)
    written = json.loads((tmp_path / "config.json").read_text())
    for field in older:
        group, name = field.split(".")
        del written[group][name]
    (tmp_path / "config.json").write_text(json.dumps(written))
    assert {field: recipes.fields(recipes.read(tmp_path))[field] for field in older} == older
    said = r"data\.last_batch \(dropped there, kept given\); optimizer\.rate_moves \(after_update there, "
    with pytest.raises(UserError, match=said):
        folder.check(tmp_path, made, recipes.identity)
    recipes.override(made, older)
    folder.check(tmp_path, made, recipes.identity)


def test_a_run_of_an_older_version_is_read_with_defaults_of_what_changes_nothing(tmp_path):
    run = claimed(tmp_path / "run")
    written = json.loads((run / "config.json").read_text())
    del written["evaluate"]["map_images"], written["log_every"]
    (run / "config.json").write_text(json.dumps(written))
    assert (recipes.read(run).evaluate.map_images, recipes.read(run).log_every) == (2000, 20)
    del written["prune"]["norms"]
    (run / "config.json").write_text(json.dumps(written))
    with pytest.raises(UserError, match=r"lacks prune\.norms, as that of a run of an older version"):
        recipes.read(run)
