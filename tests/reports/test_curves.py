"""Curves over training: means of runs that have arrived, thinned, on the page and as CSV."""

import csv
import io
import json
import re

import numpy as np
import pytest

from sdclr_jax.reports import curves, page, runs
from sdclr_jax.reports.groups import group
from tests.reports.test_report_page import pictures


def write(folder, rows):
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def live(score, steps=(10, 20, 30), few=True):
    """Lines of metrics, of which every second one has scores of neighbours and of the probe."""
    rows = []
    for step in steps:
        rows.append({"step": step - 5, "epoch": (step - 5) / 10, "loss": 1.0})
        rows.append({"step": step, "epoch": step / 10, "loss": 1.0})
        for measure, value in (("knn", score), ("probe", score / 2)):
            rows[-1] |= {f"{measure}/{name}": value * step / 100 for name in ("all", "many", "medium")}
            rows[-1] |= {f"{measure}/few": value * step / 200 if few else None, f"{measure}/std": 0.01 * step / 10}
    return rows


def test_a_mean_ends_where_the_first_run_does(make_run):
    folders = [write(make_run("a"), live(0.5)), write(make_run("b", seed=1), live(0.7, steps=(10, 20)))]
    (member,) = group(runs.read(folders))
    curve = curves.mean(curves.of(member, "knn/all"))
    assert curve.steps.tolist() == [10, 20]
    assert curve.epochs.tolist() == [1, 2]
    np.testing.assert_allclose(curve.values, [0.06, 0.12])
    np.testing.assert_allclose(curve.sd, [0.02 / 2**0.5, 0.04 / 2**0.5])
    assert curves.mean(curves.of(member, "knn/all")[:1]).sd is None


def test_thinning_keeps_the_mean_and_the_number_of_points_small():
    steps = np.arange(2000.0)
    curve = curves.thinned(curves.Curve(steps, steps / 10, 3 * steps))
    assert curve.steps.size == curve.values.size == curves.POINTS
    assert curve.values.mean() == pytest.approx(3 * curve.steps.mean())
    np.testing.assert_allclose(curve.values, 3 * curve.steps)
    short = curves.Curve(*([np.array([1.0, 2.0])] * 3))
    assert curves.thinned(short).values.tolist() == [1, 2]


def test_live_scores_have_a_chart_each_with_a_panel_for_every_group(make_run):
    folders = [write(make_run(f"{m}-{s}", m, s), live(0.5 + 0.1 * s)) for m in ("simclr", "sdclr") for s in range(2)]
    html = page.render(runs.read(folders))
    assert "<h3>Nearest neighbours over training</h3>" in html
    assert "<h3>Ridge probe over training</h3>" in html
    knn = next(p for p in pictures(html) if "Nearest neighbours on validation images" in p.get("aria-label"))
    assert "All, Many, Medium, Few, Std by epoch of simclr and sdclr" in knn.get("aria-label")
    drawn = ["".join(text.itertext()) for text in knn.iter("{http://www.w3.org/2000/svg}text")]
    assert [text for text in drawn if text[0].isalpha()] == [
        "All, %",
        "Many, %",
        "Medium, %",
        "Few, %",
        "epoch",
        "Std, %",
    ]
    lines = [p.get("style", "") for p in knn.iter("{http://www.w3.org/2000/svg}path") if p.get("d").count("L") == 2]
    assert sum("var(--g0)" in style for style in lines) == sum("var(--g1)" in style for style in lines) == 5


def test_runs_without_live_scores_have_no_chart_and_empty_groups_no_panel(make_run):
    plain, some = make_run("a"), write(make_run("b", seed=1), live(0.5, few=False))
    assert "over training</h3>" not in page.render(runs.read([plain]))
    html = page.render(runs.read([some]))
    assert "All, Many, Medium, Std by epoch" in html
    assert re.search(r"Few, %", html) is None


@pytest.mark.parametrize("scores", [{0: (0.5, 0.7)}, {0: (0.4, 0.6), 1: (0.7,)}])
def test_curves_as_csv_are_means_with_the_number_of_runs_or_of_splits_in_which_they_are_averaged_first(
    make_run, scores
):
    folders = [
        write(make_run(f"{split}-{seed}", seed=seed, split=split), live(score))
        for split, of_split in scores.items()
        for seed, score in enumerate(of_split)
    ]
    rows = list(csv.DictReader(io.StringIO(curves.to_csv(runs.read(folders)))))
    few = [row for row in rows if row["field"] == "probe/few"]
    assert [(row["data"], row["group"], row["n"], row["step"], row["epoch"]) for row in few] == [
        ("digits (long_tail)", "simclr", "2", step, epoch) for step, epoch in (("10", "1"), ("20", "2"), ("30", "3"))
    ]
    assert [float(row["mean"]) for row in few] == pytest.approx([0.015, 0.03, 0.045])
    assert [float(row["sd"]) for row in few] == pytest.approx([0.005 / 2**0.5, 0.01 / 2**0.5, 0.015 / 2**0.5], rel=1e-4)
    assert {row["field"] for row in rows} >= {"loss", "knn/all", "knn/std"}
    assert not {row["field"] for row in rows} & {"step", "epoch"}


def test_what_is_no_number_is_empty_in_the_csv(make_run):
    rows = list(csv.DictReader(io.StringIO(curves.to_csv(runs.read([write(make_run("a"), live(0.5, few=False))])))))
    assert {row["mean"] for row in rows if row["field"] == "knn/few"} == {""}
    assert {row["sd"] for row in rows} == {""}


def test_curves_as_csv_are_thinned(make_run):
    lines = [{"step": step, "epoch": step, "loss": 1.0} for step in range(2000)]
    text = curves.to_csv(runs.read([write(make_run("a"), lines)]))
    assert text.count("\n") == 1 + curves.POINTS_IN_FILES
