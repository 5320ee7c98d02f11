"""The designed experiment at work: the fields of its arms, what the premise leaves out, plan, status and picture."""

import json
import os
import re
import types

import factors_power as power
import numpy as np
import pytest
from factors_design import PREMISE, PUBLISHED, SCALES, Arm, Levels, Run

from sdclr_jax import recipes, records
from tests.test_factors import DESIGN, analysis, factors, record, reports, run_main, runs
from tests.test_factors import fields as fields_of

TWO_IN_TEN = [f"{i:02d}" for i in range(20)]


@pytest.mark.parametrize("scale", SCALES)
def test_the_published_arm_has_the_published_recipe_and_another_its_own_levels(scale):
    published = records.flat(recipes.load(f"{SCALES[scale].config}:sdclr").to_dict())
    method, given = fields_of(SCALES[scale], 1, Arm(PUBLISHED.name, PUBLISHED))
    of_levels = [name for name in given if name.startswith(("prune.", "projector.layers"))]
    assert method == "sdclr" and len(of_levels) == 6
    assert {name: given[name] for name in of_levels} == {name: published[name] for name in of_levels}
    method, given = fields_of(SCALES[scale], 1, Arm("", Levels(0.3, "largest", "step", "shared", 2, "off")))
    assert method == "sdclr"
    assert {name: given[name] for name in of_levels} == {
        "prune.rate": 0.3,
        "prune.criterion": "largest",
        "prune.every": 1,
        "prune.norms": "shared",
        "prune.gradient": False,
        "projector.layers": 2,
    }
    once = Levels(0.3, "random", "once", "private", 3, "on")
    assert fields_of(SCALES[scale], 1, Arm("", once))[1]["prune.every"] == -1
    assert fields_of(SCALES[scale], 1, Arm("simclr-head-2", head=2))[0] == "simclr"
    assert fields_of(SCALES[scale], 1, Arm("simclr-head-2", head=2))[1]["projector.layers"] == 2


def test_the_forgotten_images_are_the_tenth_that_changes_most(monkeypatch, tmp_path):
    asked = []
    ranking = types.SimpleNamespace(ids=TWO_IN_TEN, scores=np.roll(np.arange(20.0), 3))  # 19 is the score of image 02
    monkeypatch.setattr(
        "sdclr_jax.api.exemplars.exemplars_of_run", lambda *given: (asked.append(given[-1]) or ranking, 0)
    )
    monkeypatch.setattr(recipes, "read", lambda folder: None)
    assert factors._forgotten(tmp_path) == ["01", "02"]
    assert [(each.rates, each.against) for each in asked] == [((0.9,), "recalibrated")]


def test_the_premise_leaves_out_the_forgotten_images_or_as_many_at_random(monkeypatch, tmp_path):
    part = types.SimpleNamespace(ids=np.array(TWO_IN_TEN))
    monkeypatch.setattr(recipes, "data", lambda *_: types.SimpleNamespace(part=lambda subset: part))
    config = types.SimpleNamespace(data=types.SimpleNamespace(subset="long_tail"))
    forgotten = ["03", "05", "08", "13"]
    ended = [{"block": block, "arm": "simclr", "forgotten": forgotten} for block in (1, 2)]

    def left_out(block, arm):
        return factors._left_out(Run("digits", block, arm), tmp_path, config, ended).read_text().split()

    forgotten_ones, random_ones = PREMISE
    assert left_out(1, forgotten_ones) == forgotten
    drawn = left_out(1, random_ones)
    assert len(set(drawn)) == 4 and set(drawn) < set(TWO_IN_TEN) and drawn != forgotten
    assert drawn == left_out(1, random_ones) != left_out(2, random_ones)
    with pytest.raises(LookupError, match="block 3 has no SimCLR that has ended"):
        left_out(3, forgotten_ones)


def test_a_run_that_diverged_has_the_score_of_chance_in_the_second_tables(monkeypatch):
    given = []
    monkeypatch.setattr(reports, "effects", lambda of, y: given.append(y) or [])
    rows = [record(run) for run in DESIGN]
    rows[40] |= {"state": "diverged", "scores": {}}
    reports.report("photos", rows)
    key = (rows[40]["block"], rows[40]["arm"])
    assert key not in given[0]
    assert given[-1] == given[0] | {key: 100 / 10}  # of ten classes


def test_a_run_that_has_not_ended_is_left_out_by_its_state():
    rows = [record(run) for run in DESIGN[:3]]
    rows[1]["state"] = "begun"
    found = analysis.sort("photos", rows)
    assert found.left_out == [f"block 1 {rows[1]['arm']} is begun"]
    assert (len(found.used), found.diverged) == (2, [])


def test_a_difference_that_the_runs_do_not_determine_is_not_given():
    private = [run for run in DESIGN if run.arm.fraction and run.arm.levels.norms == "private"]
    model = analysis.factor_model(private)
    found = analysis.fit(model, np.arange(float(len(private))))
    assert set(model.effects) - set(found) == {"norms: private − shared"}


def test_the_smallest_difference_grows_with_the_noise_that_is_assumed(monkeypatch):
    """What main effects do not fit is noise of the fraction alone; the ladder is a model of each arm."""
    seen = {}
    for lack in (0.0, 0.8):
        monkeypatch.setitem(SCALES, "digits", SCALES["digits"]._replace(noise=(0.6, lack)))
        seen[lack] = power.smallest_seen("digits", blocks=2, simulations=50)
    assert len(seen[0.0]) == 14
    for name, size in seen[0.0].items():
        of_arms = name in analysis.LADDER_STEPS | analysis.PREMISE_STEPS
        assert seen[0.8][name] == pytest.approx(size * (1 if of_arms else 1.0 / 0.6), abs=1e-3), name


def test_the_plan_says_how_often_an_interval_of_cells_misses_0_as_the_pages_do(monkeypatch):
    said = reports._false_alarms("photos")
    (shares,) = re.findall(r"in (\d+ to \d+ %) of experiments", said)
    for page in (factors.PAGE, factors.RESULTS / "DESIGN.md"):
        assert f"interval without 0 in {shares} of" in " ".join(page.read_text().split())
    # Where cells do not vary, each interval is at its 95 %.
    monkeypatch.setitem(SCALES, "photos", SCALES["photos"]._replace(noise=(0.8, 0.0)))
    assert list(power.false_alarms("photos", 4000).values()) == pytest.approx([0.05] * 10, abs=0.015)


def test_the_plan_counts_what_the_runs_that_are_left_cost(monkeypatch):
    monkeypatch.setattr(reports, "smallest_seen", lambda *_: {"a difference": 1.234})
    scale = SCALES["digits"]
    steps = scale.images * scale.fields["epochs"] * scale.milliseconds / 1000
    lines = reports.plan("digits", {(1, "simclr")}).splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("|")]
    cost = {
        (int(block), arm): (float(seconds), recorded) for block, arm, _, seconds, recorded in rows[2 : 2 + len(DESIGN)]
    }
    published, off = PUBLISHED.name, next(arm for _, arm in cost if arm.endswith("gradient-off"))
    for arm, share in (("simclr", 1), (published, 1), (off, 0.75), ("without-random", 0.9)):
        seconds = next(found for (_, name), (found, _) in cost.items() if name == arm)
        assert seconds == pytest.approx(scale.overhead + share * steps, abs=0.6), arm
    assert [key for key, (_, recorded) in cost.items() if recorded == "True"] == [(1, "simclr")]
    left = sum(seconds for seconds, _ in cost.values()) - cost[1, "simclr"][0]
    assert f"{len(cost)} runs; {left / 3600:.1f} CPU hours" in "\n".join(lines)
    assert "| a difference | 1.23" in "\n".join(lines)
    assert "0.0 CPU hours for those that are not recorded" in reports.plan("digits", set(cost))


def test_the_picture_has_each_difference_with_its_interval(monkeypatch, tmp_path):
    drawn = []

    class Kept(reports.Figure):
        def savefig(self, *_, **__):
            drawn.append(self)

    monkeypatch.setattr(reports, "Figure", Kept)
    table = [
        analysis.Effect("one", "factor", 1.0, 0.1, 0.5, 2.0, 0.01, 0.01),
        analysis.Effect("two", "ladder", -1.0, 0.1, -3.0, 1.5, 0.5, 0.5),
    ]
    reports.draw(table, tmp_path / "a.svg", "points of All, digits")
    (axes,) = drawn[0].axes
    assert axes.get_xlabel() == "points of All, digits"
    one, at_one, two, at_two, zero = (list(line.get_xdata()) for line in axes.lines)
    assert (one, at_one, two, at_two, zero) == ([0.5, 2.0], [1.0], [-3.0, 1.5], [-1.0], [0, 0])
    assert [line.get_ydata()[0] for line in axes.lines[:4]] == [0, 0, -1, -1]
    labels = {label.get_position()[1]: label.get_text() for label in axes.get_yticklabels()}
    assert labels == {0: "one", -1: "two"}


def test_the_status_says_whether_runs_are_left(monkeypatch, tmp_path, capsys):
    started = types.SimpleNamespace(start=lambda: None, join=lambda: None)
    context = types.SimpleNamespace(Value=lambda *_: None, Process=lambda **_: started)
    monkeypatch.setattr(factors.multiprocessing, "get_context", lambda kind: context)
    monkeypatch.setattr(factors.signal, "signal", lambda *_: None)
    monkeypatch.setattr(factors, "_check_same", lambda *_: None)
    monkeypatch.setattr(os, "environ", dict(os.environ))  # which is added to
    diverged = {"state": "diverged", "scores": {}}  # SimCLR, which is the first: then two of 19 cannot be made
    for count, status, first in ((18, 1, {}), (19, 0, {}), (16, 1, diverged), (17, 0, diverged)):
        rows = [record(run) for run in runs("digits")[:count]]
        rows[0] |= first
        (tmp_path / "digits.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        with pytest.raises(SystemExit) as end:
            run_main("digits", "--run", "--blocks=1", f"--records={tmp_path}", f"--out={tmp_path / 'out'}")
        assert end.value.code == status
        said = capsys.readouterr().out
        assert f"{count} of 19 runs are recorded" in said
        assert ("2 cannot be made, as the SimCLR of their block diverged" in said) == bool(first)


@pytest.mark.parametrize("argument", ["--config.epochs=3", "--config.data.lists", "--lists=here"])
def test_a_field_that_the_design_gives_is_refused(argument, capsys):
    with pytest.raises(SystemExit) as end:
        run_main("digits", "--plan", argument)
    assert end.value.code == 2
    assert f"unknown argument {argument}: the design gives all fields" in capsys.readouterr().err
