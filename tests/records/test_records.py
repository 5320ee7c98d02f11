"""Files of a run's folder: read, refused in a sentence, written, and the same read again."""

import dataclasses
import doctest
import importlib
import json
import math
import pathlib
import re
import subprocess
import sys

import pytest

from sdclr_jax import records
from sdclr_jax.errors import UserError
from sdclr_jax.records import Embedding, EncoderRecord, Results, Score, Summary, TrainedOn, View
from sdclr_jax.records import metrics as fields

ROOT = pathlib.Path(__file__).parents[2]
OLD = ROOT / "tests" / "golden" / "run_f1e7a00"
STORED = ROOT / "experiments" / "results" / "cifar10_jpeg_lt"
ENCODER = EncoderRecord(
    model={"name": "resnet8", "width": 2},
    view=View(height=224, width=224, channels=3),
    mean=(0.5, 0.5, 0.5),
    std=(0.25, 0.25, 0.25),
    resize=256,
    crop=224,
    features=8,
)
FILES = {
    Results: OLD / "results.json",
    Summary: OLD / "exemplars" / "summary.json",
    Embedding: OLD / "embedding.json",
    TrainedOn: OLD / "data.json",
}


def content(kind):
    """As this version writes it, with what the old files lack."""
    found = ENCODER.to_json() if kind is EncoderRecord else json.loads(FILES[kind].read_text())
    found |= {TrainedOn: {"provenance": None}, Results: {"seen": None, "encoder_sha256": None}}.get(kind, {})
    if "data" in found:
        found["data"] |= {"seed": found["data"]["split"]} | ({"labels": {}} if kind is Results else {})
    return found


@pytest.mark.parametrize("kind", [Results, Summary, Embedding, TrainedOn, EncoderRecord])
def test_what_is_written_is_read_again(kind, tmp_path):
    found = records.decode(kind, content(kind))
    records.write(tmp_path / "a.json", found)
    assert records.read(kind, tmp_path / "a.json") == found
    again = json.loads((tmp_path / "a.json").read_text())
    if kind is Results:
        for score in again["protocols"].values():
            assert set(score.pop("found")) <= score["settings"].keys()
    assert again == content(kind)


def test_what_is_not_finite_is_not_written(tmp_path):
    records.write(tmp_path / "a.json", {"a": 1})
    with pytest.raises(ValueError, match="JSON"):
        records.write(tmp_path / "a.json", {"a": math.nan})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_what_a_protocol_found_stands_apart_from_its_settings():
    scores = records.read(Results, STORED / "results_sdclr.json").protocols
    assert {name: set(score.found) for name, score in scores.items() if score.found} == {
        "linear_full": {"best_epoch"},
        "linear_few_shot": {"best_epoch"},
        "logistic": {"l2", "loss", "gradient_norm", "iterations"},
        **{name: {"images", "all_of_draws"} for name in ("bcl_full", "bcl_100_shot", "bcl_50_shot", "bcl_10_shot")},
        **{name: {"images", "iterations"} for name in ("ts_few_shot", "ts_long_tail")},
    }
    assert scores["ts_few_shot"].settings["loss"] == "squared_hinge"
    assert scores["knn"].settings == {"train": "probe_train", "images": 45000, "k": 200, "temperature": 0.1}
    assert scores["knn"].summary.keys() == {"all", "many", "medium", "few", "std"}


def test_a_file_may_say_what_was_found():
    score = content(Results)["protocols"]["knn"]
    score["settings"] |= {"chosen": 3}
    found = records.decode(Score, score | {"found": ["chosen"]}, "knn")
    assert (found.found, "chosen" in found.settings) == ({"chosen": 3}, False)
    assert found.to_json()["settings"] == score["settings"]
    with pytest.raises(ValueError, match=r"knn\.found is not what it should be"):
        records.decode(Score, score | {"found": ["never"]}, "knn")


@pytest.mark.parametrize("kind", [Results, Summary, Embedding, TrainedOn, EncoderRecord])
@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not complete JSON"),
        ("{", "not complete JSON"),
        ("[" * 100_000, "not complete JSON"),
        ("[1]", "not an object of fields"),
        ("null", "not an object of fields"),
        ('{"a": NaN}', "NaN is no finite number"),
        ('{"a": [-Infinity]}', "-Infinity is no finite number"),
        ('{"a": 1e999}', "1e999 is no finite number"),
        (f'{{"a": {"[" * 70}1{"]" * 70}}}', "nested deeper than 64 levels"),
        ("{}", "it lacks"),
    ],
)
def test_damaged_files_are_refused_in_a_sentence(kind, text, says, tmp_path):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UserError, match=re.escape(f"{tmp_path / 'a.json'} cannot be used ({says}")) as error:
        records.read(kind, tmp_path / "a.json")
    assert "\n" not in str(error.value) and "): " in str(error.value)


def test_bytes_that_are_no_text_and_no_file(tmp_path):
    (tmp_path / "a.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(UserError, match="not text in UTF-8"):
        records.read(TrainedOn, tmp_path / "a.json")
    with pytest.raises(FileNotFoundError):
        records.read(TrainedOn, tmp_path / "b.json")


@pytest.mark.parametrize(
    ("kind", "change", "says"),
    [
        (Results, {"format": 2}, "format 2 is not the format 1 that this version reads"),
        (Results, {"format": 1.0}, "format is not what it should be"),
        (Results, {"encoder_checksum": True}, "encoder_checksum is not"),
        (Results, {"data": 3}, "data is not"),
        (Results, {"features": {"images": -1, "dimensions": 8, "effective_rank": 2}}, r"features\.images is not"),
        (Results, {"protocols": {}}, "protocols is not"),
        (Summary, {"confidence": 1.1}, "confidence is not"),
        (Summary, {"ranked_by": {"score": "loss", "rate": 0.2}}, r"checkpoints\.0\.rates is not"),
        (Summary, {"checkpoints": [[]]}, "checkpoints is not"),
        (Embedding, {"images": 39}, "images is not"),
        (Embedding, {"points": [[0, 1, 0.5]], "images": 1}, "points is not"),
        (Embedding, {"settings": {"of": True}}, r"settings\.of is not"),
        (TrainedOn, {"images": 10**400}, None),
        (TrainedOn, {"sha256": 5}, "sha256 is not"),
        (EncoderRecord, {"model": {"width": 2}}, r"model\.name is not"),
        (EncoderRecord, {"mean": [0.5, 0.5]}, "mean is not"),
        (EncoderRecord, {"mean": [0.5, "0.5", 0.5]}, "mean is not"),
        (EncoderRecord, {"mean": [0.5, 10**400, 0.5]}, "mean is not"),
        (EncoderRecord, {"std": [0.5, 0, 0.5]}, "std is not"),
        (EncoderRecord, {"resize": None}, "crop is not"),
        (EncoderRecord, {"resize": 200}, "crop is not"),
        (EncoderRecord, {"view": {"height": 0, "width": 8, "channels": 1}}, r"view\.height is not"),
        (EncoderRecord, {"view": {"height": 8, "width": 8, "channels": 3}}, "view is not"),
    ],
)
def test_wrong_fields_are_named(kind, change, says):
    if says is None:
        assert records.decode(kind, content(kind) | change)
        return
    with pytest.raises(ValueError, match=says):
        records.decode(kind, content(kind) | change)


def test_unknown_fields_are_passed_over():
    assert records.decode(EncoderRecord, ENCODER.to_json() | {"new": 1}) == ENCODER


@pytest.mark.parametrize("kind", [Results, Summary, Embedding, TrainedOn, EncoderRecord])
def test_every_field_is_described(kind):
    about = records.about(kind)
    assert all(about.values())
    assert {field.name for field in dataclasses.fields(kind)} <= about.keys()


def test_names_of_fields_in_records_say_where_they_stand():
    assert {"data.lists", "protocols.NAME.per_class", "run.epoch"} <= records.about(Results).keys()
    assert {"view.height", "mean"} <= records.about(EncoderRecord).keys()
    assert "checkpoints[].rates[].scores.NAME.shares[].groups.NAME.by_class.low" in records.about(Summary)


def test_every_field_of_a_line_of_metrics_is_described():
    patterns = [re.sub(r"[A-Z]+", ".+", name) for name in fields.METRICS]
    lines = records.read_metrics(OLD / "metrics.jsonl", ("step", "seconds"))
    assert [line["step"] for line in lines][-1] == 20
    for name in {name for line in lines for name in line}:
        assert any(re.fullmatch(pattern, name) for pattern in patterns), name


GOOD = {
    records.read_metrics: ({"step": 1, "loss": 0.5}, {"step": 2, "loss": None}),
    records.read_warnings: tuple({"step": n, "epoch": n / 2, "cause": "a", "message": "b"} for n in (1, 2)),
}
DAMAGED_LINES = (
    "{",
    "[]",
    "3",
    "{}",
    '{"step": NaN}',
    '{"step": 1, "loss": 1e999}',
    "\xff",
    "[" * 100_000,
    "",
    "\0" * 9,
)
WRONG_FIELDS = {
    records.read_metrics: ({"step": "2"}, {"step": None}, {"step": 1.5}, {"step": -1}, {"step": True})
    + ({"loss": "0.5"}, {"loss": [1]}, {"loss": 10**400}, {"loss": True}, {"knn/all": {}}),
    records.read_warnings: ({"step": "2"}, {"epoch": None}, {"epoch": "1"}, {"message": 5}, {"cause": ["x"]}),
}


@pytest.mark.parametrize("read", GOOD)
def test_lines_are_read_up_to_one_that_is_being_written_and_others_must_be_right(tmp_path, read):
    path, good = tmp_path / "a.jsonl", GOOD[read]
    assert read(path) == []
    first, second = (json.dumps(line) for line in good)
    path.write_text(f"{first}\n{second}\n{second[:9]}")
    assert read(path) == list(good)
    damages = [*DAMAGED_LINES, *(json.dumps(good[1] | field) for field in WRONG_FIELDS[read])]
    damages += [json.dumps({name: x for name, x in good[1].items() if name != "step"})]
    for damage in damages:
        for rest in ("", f"{second}\n"):
            path.write_text(f"{first}\n{damage}\n{rest}", encoding="latin-1")
            with pytest.raises(UserError, match=r"line 2 of .*a.jsonl is damaged \(.+\): mend or delete") as error:
                read(path)
            assert len(str(error.value)) < 1000
    path.unlink()
    path.mkdir()
    with pytest.raises(UserError, match=r"a.jsonl cannot be read \(Is a directory\)"):
        read(path)


def test_seconds_must_be_a_number_where_they_are_needed(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"step": 1, "seconds": null}\n')
    assert records.read_metrics(path) == [{"step": 1, "seconds": None}]
    with pytest.raises(UserError, match="seconds is no number"):
        records.read_metrics(path, ("step", "seconds"))


def test_the_room_imports_no_jax():
    program = "import sys, sdclr_jax.records; assert not {'jax', 'scipy', 'orbax'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)


@pytest.mark.parametrize("module", ["record", "groups", "config", "sheets"])
def test_the_examples_are_true(module):
    found = doctest.testmod(importlib.import_module(f"sdclr_jax.records.{module}"))
    assert found.attempted and not found.failed
