import json

import pytest

from sdclr_jax.errors import UserError
from sdclr_jax.reports import runs


def test_folder_of_runs_stands_for_them_and_each_is_read_once(make_run, monkeypatch):
    first = make_run("b", seed=1)
    make_run("a", seed=2)
    monkeypatch.chdir(first.parent)
    (first.parent / "notes").mkdir()
    assert [run.name for run in runs.read([first, first.parent, "b", "."])] == ["runs/b", "runs/a"]


def test_runs_whose_paths_end_alike_have_longer_names(make_run):
    """`a` alone is no other run's, and stays short."""
    folders = [make_run(name, seed=seed) for seed, name in enumerate(("x/in/s/0", "y/in/s/0", "a"))]
    assert [run.name for run in runs.read(folders)] == ["x/in/s/0", "y/in/s/0", "runs/a"]


def test_facts_of_a_run(make_run):
    run = runs.read([make_run("a", "sdclr", seed=3, split=2, accuracy=[0.1, 0.2, 0.3, 0.4])])[0]
    assert (run.method, run.seed, run.split, run.has_sparse_branch) == ("sdclr", 3, (0, 2), True)
    assert run.score("knn", "few") == 0.1
    assert run.score("unheard of", "few") is None
    assert [row["step"] for row in run.metrics] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("end", ['{"step": 7, "lo', '{"step": 7, "loss": 1.0', "\xff"])
def test_metrics_of_a_run_in_progress_are_read_up_to_the_broken_line(make_run, end):
    folder = make_run("a")
    with open(folder / "metrics.jsonl", "a", encoding="latin-1") as file:
        file.write(end)
    assert [row["step"] for row in runs.read([folder])[0].metrics] == [1, 2, 3, 4, 5, 6]


def test_metrics_in_the_middle_must_be_whole(make_run):
    folder = make_run("a")
    (folder / "metrics.jsonl").write_text('{"step": 1, "loss": 2}\n{"step"\n{"step": 3, "loss": 1}\n')
    with pytest.raises(UserError, match=r"line 2 of .*metrics\.jsonl is damaged .*: mend or delete"):
        runs.read([folder])


def test_warnings_must_be_whole_but_for_a_last_line_that_is_being_written(make_run):
    folder = make_run(
        "a", warnings=[{"step": 7, "epoch": 1, "message": "two"}, {"step": 2, "epoch": 0, "message": "one"}]
    )
    with open(folder / "warnings.jsonl", "a") as file:
        file.write('{"step": 9')
    assert [warning["message"] for warning in runs.read([folder])[0].warnings] == ["one", "two"]
    (folder / "warnings.jsonl").write_text('{"step": 1, "epoch": 1}\n{}\n')
    with pytest.raises(UserError, match=r"line 1 of .*warnings\.jsonl is damaged .*: mend or delete"):
        runs.read([folder])


def test_repeated_steps_count_once_and_null_is_no_number(make_run):
    folder = make_run("a")
    (folder / "metrics.jsonl").write_text('{"step": 2, "loss": 9}\n{"step": 1, "loss": null}\n{"step": 2, "loss": 3}\n')
    losses = [row["loss"] for row in runs.read([folder])[0].metrics]
    assert losses[0] != losses[0]
    assert losses[1] == 3


def test_metrics_and_versions_may_be_missing(make_run):
    folder = make_run("a")
    (folder / "metrics.jsonl").unlink()
    (folder / "versions.json").unlink()
    run = runs.read([folder])[0]
    assert (run.metrics, run.versions) == ([], {})


def _set(*keys, value):
    def edit(results):
        for key in keys[:-1]:
            results = results[key]
        results[keys[-1]] = value

    return edit


FULL = ("protocols", "linear_full")


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (_set("format", value=2), "format 2"),
        (_set("format", value=True), "format"),
        (lambda results: results.pop("protocols"), "lacks protocols"),
        (lambda results: results["protocols"]["knn"].pop("few"), r"lacks protocols\.knn\.few"),
        (_set("protocols", value={}), "protocols"),
        (_set("protocols", value=[1]), "protocols"),
        (_set(*FULL, value="high"), "linear_full"),
        (_set(*FULL, "per_class", value=[0.5] * 3), "per_class"),
        (_set(*FULL, "per_class", value=[0.5, 0.5, 0.5, "0.5"]), "per_class"),
        (_set(*FULL, "per_class", value=0.5), "per_class"),
        (_set(*FULL, "all", value=float("nan")), "NaN is no finite number"),
        (_set(*FULL, "all", value=None), "all"),
        (_set(*FULL, "many", value=1.01), "many"),
        (_set(*FULL, "std", value=-0.1), "std"),
        (_set(*FULL, "few", value=True), "few"),
        (_set(*FULL, "settings", value=None), "settings"),
        (_set(*FULL, "all", value=0.7), r"linear_full\.all is not what follows from per_class"),
        (_set(*FULL, "many", value=0.01), r"linear_full\.many is not what follows"),
        (_set(*FULL, "few", value=None), r"linear_full\.few is not what follows"),
        (_set(*FULL, "std", value=0.5), r"linear_full\.std is not what follows"),
        (_set("data", "provenance", value="a web page"), r"data\.provenance"),
        (_set("data", "provenance", value={"warning": 5}), r"data\.provenance\.warning"),
        (_set("data", "train_counts", value=[1, 2]), "train_counts"),
        (_set("data", "train_counts", value=[1, 2, 3, -4]), "train_counts"),
        (_set("data", "groups", value=["many", "some", "few", "few"]), "groups"),
        (_set("data", "class_names", value=[]), "class_names"),
        (_set("data", "lists", value={"train": 5}), "lists"),
        (_set("data", value=None), "data is not"),
        (_set("run", "epoch", value="2"), "epoch"),
        (_set("run", "epoch", value=float("inf")), "Infinity is no finite number"),
        (_set("run", "seed", value=5), "not that of config"),
        (_set("data", "seed", value=5), "not that of config"),
    ],
)
def test_wrong_results_name_file_field_and_remedy(make_run, edit, says):
    folder = make_run("a", edit=edit)
    with pytest.raises(
        UserError, match=rf"results\.json cannot be used \(.*{says}.*\): delete it and run `sdclr evaluate .*` again"
    ):
        runs.read([folder])


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"format": 1', "[" * 100_000, "\x00", '{"format": 1e999}'])
def test_damaged_results(make_run, text):
    folder = make_run("a")
    (folder / "results.json").write_text(text)
    with pytest.raises(UserError, match=r"results\.json .* run `sdclr evaluate .*` again"):
        runs.read([folder])


def test_bytes_that_are_no_text(make_run):
    folder = make_run("a")
    (folder / "results.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(UserError, match="not text in UTF-8"):
        runs.read([folder])


def test_run_that_is_not_evaluated_yet(make_run):
    folder = make_run("a")
    (folder / "results.json").unlink()
    with pytest.raises(UserError, match=r"results\.json is missing: run `sdclr evaluate.* without labels"):
        runs.read([folder])


@pytest.mark.parametrize("config", ["{", "{}", "3", '{"method": 1}', '{"method": "a", "seed": 0, "data": 1}'])
def test_damaged_config(make_run, config):
    folder = make_run("a")
    (folder / "config.json").write_text(config)
    with pytest.raises(UserError, match=r"config\.json cannot be used .* run `sdclr pretrain` again"):
        runs.read([folder])


def test_damaged_versions(make_run):
    folder = make_run("a")
    (folder / "versions.json").write_text(json.dumps(["jax"]))
    with pytest.raises(UserError, match=r"versions\.json cannot be used .* delete it"):
        runs.read([folder])


def test_folders_that_hold_no_run(tmp_path):
    with pytest.raises(UserError, match="is not a folder"):
        runs.read([tmp_path / "nowhere"])
    with pytest.raises(UserError, match=r"has no config\.json"):
        runs.read([tmp_path])


def test_plain_replaces_what_cannot_be_shown():
    assert runs.plain("a\x00b\x1b[1m\ud800 漢é") == "a\ufffdb\ufffd[1m\ufffd 漢é"
