import json
import os

import pytest
from ml_collections import ConfigDict

from sdclr_jax import workdir
from sdclr_jax.errors import UserError

DATA = {"images": 3, "sha256": "0" * 64}
CONFIG = ConfigDict({"seed": 0, "pairs": ((("dense", 0), ("dense", 1)),), "prune": {"rate": 0.9}})


def test_a_config_comes_back_with_its_tuples(tmp_path):
    workdir.claim(tmp_path / "run", CONFIG, DATA)
    assert workdir.read_config(tmp_path / "run").to_dict() == CONFIG.to_dict()
    assert (tmp_path / "run" / "config.json").stat().st_mode & 0o777 == 0o644


def test_the_same_config_may_go_on_and_another_is_refused_by_field(tmp_path):
    workdir.check(tmp_path / "run", CONFIG)
    workdir.claim(tmp_path / "run", CONFIG, DATA)
    workdir.check(tmp_path / "run", CONFIG)
    other = CONFIG.copy_and_resolve_references()
    other.prune.rate, other.seed = 0.5, 3
    with pytest.raises(UserError, match=r"prune\.rate \(0\.9 there, 0\.5 given\); seed \(0 there, 3 given\)"):
        workdir.check(tmp_path / "run", other)
    del other.prune
    with pytest.raises(UserError, match=r"prune\.rate \(0\.9 there, absent given\)"):
        workdir.check(tmp_path / "run", other)


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(UserError, match="not empty"):
        workdir.check(tmp_path, CONFIG)
    with pytest.raises(UserError, match="is a file"):
        workdir.check(tmp_path / "thesis.tex" / "run", CONFIG)


def test_a_read_only_place_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
    with pytest.raises(UserError, match="read-only"):
        workdir.check(tmp_path / "new" / "run", CONFIG)
    assert not (tmp_path / "new").exists()


def test_missing_and_damaged_configs(tmp_path):
    with pytest.raises(UserError, match="holds no run"):
        workdir.read_config(tmp_path)
    (tmp_path / "config.json").write_text('{"seed": ')
    with pytest.raises(UserError, match="cannot be read"):
        workdir.read_config(tmp_path)


def test_versions_name_commit_libraries_and_devices():
    versions = workdir.versions()
    assert all(isinstance(v, str) for v in versions.values())
    assert versions["devices"] == "8 x cpu"
    assert {"commit", "jax", "flax", "optax", "orbax-checkpoint", "python", "hardware"} <= versions.keys()


def test_metrics_are_continued_after_a_step(tmp_path):
    first = workdir.Metrics(tmp_path, 0)
    for step in (10, 20, 30):
        first.write({"step": step, "loss": step / 10, "seconds": float(step)})
    first.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 40, "lo')  # cut short by a crash
    again = workdir.Metrics(tmp_path, 20)
    assert again.seconds == 20.0
    again.write({"step": 30, "loss": 7.0, "knn/few": None, "seconds": 31.0})
    again.close()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["loss"]) for line in lines] == [(10, 1.0), (20, 2.0), (30, 7.0)]
    assert lines[-1]["knn/few"] is None
    assert list((tmp_path / "tensorboard").glob("events.*"))


@pytest.mark.parametrize("damage", ["{nonsense}", "123", '{"loss": 1}', "[1]", "\udcff"])
def test_a_damaged_line_is_an_error_and_loses_nothing(tmp_path, damage):
    path = tmp_path / "metrics.jsonl"
    good = '{"step": 10, "seconds": 1.0}\n'
    path.write_text(good + damage + "\n" + good, errors="surrogateescape")
    before = path.read_bytes()
    with pytest.raises(UserError, match=r"line 2 of .*metrics.jsonl is damaged"):
        workdir.Metrics(tmp_path, 20)
    assert path.read_bytes() == before
    path.write_text(good + damage, errors="surrogateescape")  # the last line only: a crash while writing
    assert workdir.read_metrics(path) == [{"step": 10, "seconds": 1.0}]


def test_other_images_are_noticed(tmp_path):
    assert workdir.about_other_data(tmp_path, DATA) == ""  # nothing is known
    workdir.claim(tmp_path / "run", CONFIG, DATA)
    workdir.claim(tmp_path / "run", CONFIG, DATA | {"images": 2})
    assert workdir.trained_on(tmp_path / "run") == DATA
    assert workdir.about_other_data(tmp_path / "run", DATA) == ""
    said = workdir.about_other_data(tmp_path / "run", {"images": 2, "sha256": "1" * 64})
    assert "was trained on 3 images (SHA-256 of their list 00000000…), where its data set now has 2 images" in said
    (tmp_path / "run" / "data.json").write_text("{}")
    with pytest.raises(UserError, match=r"data.json cannot be read \('images'\): put it back"):
        workdir.about_other_data(tmp_path / "run", DATA)


def test_versions_of_the_first_start_stay(tmp_path, monkeypatch):
    workdir.claim(tmp_path / "run", CONFIG, DATA)
    first = json.loads((tmp_path / "run" / "versions.json").read_text())
    monkeypatch.setattr(workdir, "versions", lambda: first | {"jax": "9.9"})
    workdir.claim(tmp_path / "run", CONFIG, DATA)
    assert json.loads((tmp_path / "run" / "versions.json").read_text()) == first | {"resumed_jax": "9.9"}


def test_a_start_killed_while_claiming_can_be_repeated(tmp_path, monkeypatch):
    def killed():
        raise KeyboardInterrupt

    monkeypatch.setattr(workdir, "versions", killed)
    with pytest.raises(KeyboardInterrupt):
        workdir.claim(tmp_path / "run", CONFIG, DATA)
    monkeypatch.undo()
    workdir.check(tmp_path / "run", CONFIG)
    workdir.claim(tmp_path / "run", CONFIG, DATA)


def test_json_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "results.json"
    workdir.write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="JSON"):
        workdir.write_json(path, {"a": float("nan")})
    assert json.loads(path.read_text()) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["results.json"]
