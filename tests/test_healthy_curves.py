"""The page `Is my run healthy?` follows from the committed curves, and its sick runs have the faults that it says."""

import json
import pathlib
import re

import healthy_curves as curves
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.methods import METHODS
from sdclr_jax import recipes
from sdclr_jax.errors import UserError
from sdclr_jax.models import Outputs
from sdclr_jax.objectives import OBJECTIVES

ROOT = pathlib.Path(__file__).parents[1]


def test_the_page_is_made_of_the_committed_curves(tmp_path):
    page = curves.PAGE.read_text()
    assert curves.filled(page, curves.RESULTS) == page
    page = curves.filled(page, tmp_path) + page  # without runs nothing is said of any
    pictures = re.findall(r"\(\.\./experiments/results/curves/(\w[\w.]*)\.svg\)", page)
    assert sorted(pictures) == sorted(curves.read(curves.RESULTS))
    assert all((curves.RESULTS / f"{name}.svg").exists() for name in pictures)
    assert curves.FAULTS.keys() == curves.curves_config.SICK.keys()


def test_all_methods_are_healthy_and_who_is_sick_is_told_or_described():
    """The thresholds of the warnings, on real runs: no false alarm, and what each sick run is told of."""
    runs = curves.read(curves.RESULTS)
    assert list(runs) == [*METHODS, *curves.curves_config.SICK]
    found = {name: set(curves.said(run)) for name, run in runs.items()}
    assert {name: causes for name, causes in found.items() if causes} == {
        "temperature_0.01": {"few directions", "one point"},
        "no_stop_gradient": {"few directions", "images not distinguished"},
        "no_variance_term": {"images not distinguished"},
    }
    assert {name for name in curves.curves_config.SICK if not found[name]} == curves.SILENT.keys()
    fast, simclr = runs["learning_rate_x_30"], runs["simclr"]
    for column, sign in (("feature_rank/dense", -1), ("loss", 1)):  # as its description says
        pairs = zip(fast.measured(column), simclr.measured(column), strict=True)
        assert all(sign * (sick - healthy) > 0 for (_, sick), (_, healthy) in pairs)


def test_the_numbers_do_what_the_page_says_of_healthy_and_sick_runs():
    runs = curves.read(curves.RESULTS)
    ends = {
        column: {name: (run.measured(column)[0][1], run.measured(column)[-1][1]) for name, run in runs.items()}
        for column in ("loss", "feature_rank/dense", "alignment", "alignment_ratio", "uniformity/dense", "knn/all")
    }
    ranks = {name: [x for x in run.columns["projection_rank/dense"] if x] for name, run in runs.items()}
    for name in METHODS:
        assert ends["loss"][name][1] < ends["loss"][name][0]
        assert ends["alignment_ratio"][name][1] < ends["alignment_ratio"][name][0]
        assert ends["feature_rank/dense"][name][1] >= 0.8 * ends["feature_rank/dense"][name][0]
        assert ranks[name][-1] > ranks[name][0] / 3
        assert -3.1 < ends["uniformity/dense"][name][1] < -0.6
        assert ends["knn/all"][name][1] > ends["knn/all"][name][0] - 0.015
        assert (ends["alignment"][name][1] > ends["alignment"][name][0]) == ("moco" in name)
    crowded = {name for name in curves.curves_config.SICK if ends["uniformity/dense"][name][1] > -0.2}
    assert crowded == {"temperature_0.01", "no_stop_gradient"}
    behind = {
        name: round(100 * (ends["knn/all"][method][1] - ends["knn/all"][name][1]))
        for name, (method, _) in curves.curves_config.SICK.items()
    }
    assert behind.pop("mask_from_noise") == 1
    assert (min(behind.values()), max(behind.values()), len(behind)) == (8, 10, 4)


@pytest.fixture
def run(tmp_path):
    """run(name, metrics): the folder of a run that has ended."""

    def make(name, metrics):
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in metrics))
        (folder / "versions.json").write_text(json.dumps({"commit": "a" * 40, "jax": "1.2", "hardware": "an abacus"}))
        return folder

    return make


LINES = [
    {"step": 20, "epoch": 0.5, "seconds": 30.0, "loss": 5.0, "alignment_ratio": 1.0, "density/encoder/stem": 0.5},
    {"step": 40, "epoch": 1.0, "seconds": 60.0, "loss": 4.25, "alignment_ratio": 0.25, "knn/all": 0.41},
]


def test_a_run_becomes_a_table_a_picture_and_a_sentence(run, tmp_path):
    results = tmp_path / "results"
    curves.collect(run("sdclr", LINES), results)
    flat = {"projection_std/dense": 0.125, "projection_std/sparse": 0.001}
    curves.collect(run("mask_from_noise", [LINES[0] | flat, LINES[1] | {"knn/all": 0.125}]), results)
    assert (results / "sdclr.csv").read_text().splitlines() == [
        "step,epoch,loss,alignment_ratio,knn/all,density/encoder/stem", "20,0.5,5,1,,0.5", "40,1,4.25,0.25,0.41,",
    ]  # fmt: skip
    both = curves.read(results)
    curves.draw(both["mask_from_noise"], both["sdclr"], results / "picture.svg")
    assert (results / "picture.svg").read_text().count(">mask_from_noise<") == 1  # in the legend
    page = curves.filled(
        "".join(f"<!-- curves: {part} -->\n<!-- end -->\n" for part in ("healthy", "sick", "made")), results
    )
    assert re.search(r"\| `sdclr` +\| 5.00 to 4.25 +\| +\| 1.00 to 0.25 +\| +\| 41 to 41 +\| 50 to 50", page)
    assert re.search(r"\| sick +\| 4.25 +\| 0.25 +\| 12 % +\| 50 % +\|", page)
    assert re.search(r"\| healthy +\| 4.25 +\| 0.25 +\| 41 % +\| 50 % +\|", page)
    assert "The program says:\n\n> step 20: the projections of the sparse branch have collapsed to one point (" in page
    assert curves.collapse.DAMAGE in page
    assert "healthy runs, too" not in page
    curves.collect(run("byol", [LINES[0], LINES[1] | flat]), tmp_path / "other")
    found = curves.healthy_part(curves.read(tmp_path / "other"), tmp_path / "other")
    assert "healthy runs, too: `byol` (step 40: one point)." in found
    assert "2 of 21 runs, 2 minutes of training: commit aaaaaaa, jax 1.2, an abacus." in page
    before = (results / "byol.csv").exists()
    with pytest.raises(UserError, match="metrics.jsonl has no line"):
        curves.collect(run("moco", []), results)
    assert (before, (results / "moco.csv").exists()) == (False, False)
    curves.collect(tmp_path / "runs" / "sdclr", results)  # again: nothing stands twice
    assert [row["run"] for row in curves._rows(results / "runs.csv")] == ["sdclr", "mask_from_noise"]


def test_the_sick_runs_have_their_faults(monkeypatch):
    for objective in list(OBJECTIVES):
        monkeypatch.setitem(OBJECTIVES, objective, OBJECTIVES[objective])  # one of the configs replaces it
    configs = {name: recipes.load(str(ROOT / "configs" / curves.config(name))) for name in curves.curves_config.SICK}
    assert configs["temperature_0.01"].objective.temperature == 0.01
    assert configs["learning_rate_x_30"].optimizer.learning_rate == pytest.approx(3.0)
    assert configs["no_variance_term"].objective.variance == 0
    assert (configs["mask_from_noise"].prune.rate, configs["mask_from_noise"].prune.random_rate) == (0.0, 0.9)
    from sdclr_jax.objectives.simsiam import objective as simsiam

    a, b = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)

    def loss(b, objective):
        return objective.loss(
            None, Outputs(features=a, projection=a, prediction=a), Outputs(features=b, projection=b), None
        )

    healthy, sick = simsiam(), OBJECTIVES["simsiam"]()
    assert loss(b, sick) == pytest.approx(float(loss(b, healthy)))
    assert not np.any(jax.grad(loss)(jnp.asarray(b), healthy))
    assert np.any(jax.grad(loss)(jnp.asarray(b), sick))
