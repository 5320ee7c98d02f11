"""Pretraining, evaluation and report as a user calls them, on one tiny run."""

import hashlib
import json

import numpy as np
import pytest

from sdclr_jax import build, workdir
from sdclr_jax.commands import evaluate, main
from sdclr_jax.data import sources
from tests.commands.test_pretrain import arguments, config

QUICK = (
    "--config.evaluate.full_epochs=4",
    "--config.evaluate.full_drops=(2, 3)",
    "--config.evaluate.few_shot_epochs=5",
)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory, data_dir):
    directory = tmp_path_factory.mktemp("runs") / "sdclr"
    assert main.main(["pretrain", *arguments(directory, data_dir, "sdclr", *QUICK), "--noprogress"]) == 0
    before = {p: p.read_bytes() for p in directory.rglob("*") if p.is_file()}
    assert main.main(["evaluate", str(directory), f"--data_dir={data_dir}"]) == 0
    return directory, json.loads((directory / "results.json").read_text()), before


def test_evaluation_writes_results_and_touches_nothing_else(evaluated):
    directory, _, before = evaluated
    after = {p: p.read_bytes() for p in directory.rglob("*") if p.is_file()}
    assert after.keys() - before.keys() == {directory / "results.json"}
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
    test = sources.load("digits", "test", data_dir)
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


def test_evaluation_again_gives_the_same_scores(evaluated, data_dir):
    directory, results, _ = evaluated
    assert main.main(["evaluate", str(directory), f"--data_dir={data_dir}", "--config.evaluate.knn_k=3"]) == 0
    again = json.loads((directory / "results.json").read_text())
    assert again["encoder_checksum"] == results["encoder_checksum"]
    for name in ("linear_full", "linear_few_shot", "logistic"):
        assert again["protocols"][name]["per_class"] == results["protocols"][name]["per_class"]
    assert again["protocols"]["knn"]["settings"]["k"] == 3


def test_an_evaluation_that_changes_the_encoder_is_void(evaluated, data_dir, monkeypatch, capsys):
    directory, _, _ = evaluated
    before = (directory / "results.json").read_text()
    sums = iter((1, 2))
    monkeypatch.setattr(evaluate, "_checksum", lambda tree: next(sums))
    assert main.main(["evaluate", str(directory), f"--data_dir={data_dir}"]) == 2
    assert "changed the encoder's variables" in capsys.readouterr().err
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
    workdir.claim(tmp_path / "new", config())
    assert main.main(["evaluate", str(tmp_path / "new"), f"--data_dir={data_dir}"]) == 2
    assert "no checkpoint yet" in capsys.readouterr().err


def test_every_subset_can_be_pretrained_on(data_dir):
    data = build.data(config(), str(data_dir))
    sizes = {subset: len(data.part(subset).labels) for subset in build.SUBSETS}
    assert sizes == {"long_tail": 369, "balanced": 369, "probe_train": 1152}
