"""The designed experiment: the design is what its page says, and the analysis is right on numbers that are known."""

import collections
import contextlib
import itertools
import json
import re
import sys
import types

import factors
import factors_analysis as analysis
import factors_explored as explored
import factors_report as reports
import numpy as np
import pytest
from factors_design import SCALES, arms, fields, fraction, runs
from scipy import stats

from sdclr_jax import recipes
from sdclr_jax.errors import Stopped, UserError

DESIGN = runs("photos")


@pytest.mark.parametrize("blocks", [range(1, 4), range(4, 7), range(1, 7)])
def test_every_pair_of_levels_of_two_factors_occurs_equally_often(blocks):
    damaged = [x for block in blocks for x in fraction(block) if x.rate]
    assert len(damaged) == 12 * len(blocks) == len(set(damaged))
    for a, b in itertools.combinations(range(6), 2):
        counts = collections.Counter((x[a], x[b]) for x in damaged)
        assert len(set(counts.values())) == 1
        assert len(counts) == len({x[a] for x in damaged}) * len({x[b] for x in damaged})
    for block in blocks:  # and no factor is confounded with the blocks
        for factor in range(6):
            counts = collections.Counter(x[factor] for x in fraction(block) if x.rate)
            assert len(set(counts.values())) == 1


def test_two_level_factors_are_aliased_in_half_of_the_design_and_not_in_all_of_it():
    def product(x):
        signs = (x.norms == "private", x.head == 3, x.gradient == "on")
        return np.prod([1 if sign else -1 for sign in signs])

    signs = [{product(x) for x in fraction(block) if x.rate} for block in range(1, 7)]
    assert signs == [{1}] * 3 + [{-1}] * 3


def test_every_arm_is_a_config_of_its_own():
    hashes = set()
    for run in DESIGN[: len(arms(1))] + runs("digits")[: len(arms(1))]:
        method, given = fields(SCALES[run.scale], run.block, run.arm)
        config = recipes.load(f"{SCALES[run.scale].config}:{method}")
        recipes.override(config, given | {"data.without": run.arm.without, "data.lists": "/lists"})
        recipes.check(config)
        hashes.add(json.dumps(recipes.identity(config) | {"left out": run.arm.without}, sort_keys=True))
    assert len(hashes) == 2 * len(arms(1)) == 38
    assert len({run.key for run in DESIGN}) == len(DESIGN) == 118


def test_planted_effects_are_found_exactly_where_nothing_else_varies():
    def response(run):
        x = run.arm.levels
        if x is None:
            return 40 + run.block + (5 if run.arm.without == "forgotten" else 0) - (run.arm.head == 2)
        cut = 0 if not x.rate else {"smallest": 0, "random": -1, "largest": -4}[x.criterion] + (x.refresh == "once")
        return 40 + run.block + 2 * (x.norms == "private") - (x.head == 2) + (x.gradient == "on") + 3 * x.rate + cut

    found = {e.name: e.estimate for e in analysis.effects(DESIGN, {run.key: response(run) for run in DESIGN})}
    mean_cut = -5 / 3 + 1 / 3
    expected = {
        "rate 0.3 − 0": 0.9 + mean_cut,
        "rate 0.9 − 0": 2.7 + mean_cut,
        "random − smallest": -1,
        "largest − smallest": -4,
        "every step − every epoch": 0,
        "once − every epoch": 1,
        "norms: private − shared": 2,
        "head: 3 − 2 layers": 1,
        "gradient: on − off": 1,
        "head: SimCLR with 3 − 2 layers": 1,
        "private norms, nothing cut − SimCLR": 3,
        "SDCLR − the same with nothing cut": 2.7,
        "as published: SDCLR − SimCLR with 2 layers": 6.7,
        "without the most forgotten − without random ones": 5,
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-9)


def test_a_conclusion_is_drawn_when_all_runs_have_ended_and_names_what_was_found():
    rng = np.random.default_rng(0)
    rows = [record(run) for run in DESIGN]
    for row in rows:
        gain = 0.04 if "private" in row["arm"] else 0
        row["scores"] = {score: 0.5 + gain + rng.normal(0, 0.005) for score in analysis.RESPONSES.values()}
    text, found = reports.report("photos", rows)
    seen = [e.name for e in found["All"] if e.holm < 0.05]
    assert f"14 differences on All were tested; {len(seen)} are distinguished" in text
    assert "- norms: private − shared: +" in text
    assert "- private norms, nothing cut − SimCLR: +" in text
    assert {e.name: e.estimate for e in found["All"]}["norms: private − shared"] == pytest.approx(4, abs=0.3)
    said = reports.summary("photos", rows)
    assert said.startswith("118 of 118 runs have ended. head: SimCLR with 3 − 2 layers ")
    of_private = said.partition("; private norms, nothing cut − SimCLR +")[2].partition(";")[0]
    assert of_private.endswith("] points of All (distinguished from 0 after Holm)")
    assert said.count(" (not distinguished from 0 after Holm)") == 2 and said.count(" (not tested)") == 2
    text, _ = reports.report("photos", rows[:-1])
    assert "were tested" not in text and "interim" in text
    assert "stands here is interim. So far, head: SimCLR" in reports.summary("photos", rows[:-1])


def test_a_difference_whose_own_interval_excludes_0_while_holm_does_not_reject_it_stands_apart():
    def effect(name, low, high, holm):
        return analysis.Effect(name, "factor", (low + high) / 2, 0.5, low, high, 0.04, holm)

    table = [effect("seen", 2.0, 4.0, 0.001), effect("alone", -3.0, -1.0, 0.3), effect("open", -1.0, 1.5, 0.9)]
    table.append(effect("sum", 1.0, 2.0, float("nan")))
    assert reports.conclusion(table).splitlines() == [
        "3 differences on All were tested; 1 is distinguished from 0 after Holm, at 5 %.",
        "- seen: +3.0 [+2.0, +4.0] points, p 0.001",
        "- alone: −2.0 [−3.0, −1.0] points, p 0.3: not distinguished after Holm, though its own interval excludes "
        "0, so nothing is concluded",
        "- not distinguished, with what the interval leaves open: open +0.2 [−1.0, +1.5]",
        "- of all that are not distinguished the interval that reaches farthest leaves 3.0 points open: alone",
    ]
    assert [reports._verdict(e) for e in (table[0], table[1], table[3])] == [
        " (distinguished from 0 after Holm)",
        " (not distinguished from 0 after Holm)",
        " (not tested)",
    ]


def test_a_simclr_that_diverges_does_not_keep_the_experiment_open():
    """Nothing says what the two arms of its premise leave out: they cannot be made, and nothing waits for them."""
    rng = np.random.default_rng(0)
    rows = [
        record(run, scores={score: rng.normal(0.5, 0.01) for score in analysis.RESPONSES.values()}) for run in DESIGN
    ]
    rows = [row for row in rows if not (row["block"] == 6 and row["arm"].startswith("without-"))]
    assert "116 of 118 runs have ended, and 5 of 6 blocks. **In progress:**" in reports.report("photos", rows)[0]
    simclr = next(row for row in rows if (row["block"], row["arm"]) == (6, "simclr"))
    simclr |= {"state": "diverged", "scores": {}}
    far = analysis.progress("photos", analysis.sort("photos", rows))
    assert (len(far.ended), far.cannot) == (116, [(6, "without-forgotten"), (6, "without-random")])
    assert (far.whole, far.interim) == ([1, 2, 3, 4, 5, 6], False)
    text, found = reports.report("photos", rows)
    assert text.startswith(
        "116 of 118 runs have ended, and 2 cannot be made, as their blocks have no SimCLR: block 6 without-forgotten, "
        "block 6 without-random. 1 diverged: block 6 simclr."
    )
    assert "14 differences on All were tested" in text
    assert {e.name: e.holm for e in found["All"]}["without the most forgotten − without random ones"] <= 1
    assert "without-random. head: SimCLR with 3 − 2 layers " in reports.summary("photos", rows)


def test_two_arms_are_compared_as_by_a_paired_t_test():
    rng = np.random.default_rng(0)
    two = [run for run in DESIGN if run.arm.name in ("simclr", "simclr-head-2")]
    y = {run.key: rng.normal(50, 3) for run in two}
    (effect,) = analysis.effects(two, y)
    a, b = ([y[block, name] for block in range(1, 7)] for name in ("simclr", "simclr-head-2"))
    expected = stats.ttest_rel(a, b)
    assert (effect.estimate, effect.p) == pytest.approx((np.mean(a) - np.mean(b), expected.pvalue))
    assert (effect.low, effect.high) == pytest.approx(tuple(expected.confidence_interval()))


def test_holm():
    """His procedure: the smallest times their number, and none below the one before."""
    p = {"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005}
    assert analysis.holm(p) == pytest.approx({"d": 0.02, "a": 0.03, "c": 0.06, "b": 0.06})
    assert analysis.holm({"a": 0.9, "b": 0.8}) == pytest.approx({"a": 1.0, "b": 1.0})


def record(run, **changes):
    scores = {score: 0.5 for score in analysis.RESPONSES.values()}
    row = {"state": "done", "commit": "abc", "data": "cifar10", "images": f"list {run.block}", "scores": scores}
    row |= {
        "scale": run.scale,
        "block": run.block,
        "arm": run.arm.name,
        "jax": "0",
        "hardware": "cpu",
        "cpu_seconds": 3600.0,
    }
    return row | changes


def test_what_is_of_another_commit_or_other_data_is_listed_and_never_averaged_in():
    rows = [record(run) for run in DESIGN]
    damaged = next(i for i, row in enumerate(rows) if row["arm"].startswith("rate-0."))
    rows[damaged]["commit"] = "def"
    rows[damaged + 1]["images"] = "list 9"
    rows[damaged + 2]["data"] = "cifar10 (JPEG copies)"
    rows[40]["state"], rows[40]["scores"] = "diverged", {}
    for row in rows:
        row["images"] = "fewer" if row["arm"].startswith("without-") else row["images"]
    found = analysis.sort("photos", [*rows, record(DESIGN[0], arm="simclr-0")])
    assert (len(found.used), len(found.diverged)) == (118 - 4, 1)
    whys = [line.partition(" is ")[2] for line in found.left_out]
    assert whys == ["of commit def", "of other data (cifar10, list 9)", "of other data (cifar10 (JPEG copies), list 1)",
                    "no run of the design"]  # fmt: skip
    text, _ = reports.report("photos", rows)
    assert text.startswith("115 of 118 runs have ended, and 5 of 6 blocks. **In progress:** no conclusion is drawn")
    assert f"1 diverged: block 3 {rows[40]['arm']}." in text
    assert "p of All" not in text and "| simclr                                             | 5 " in text
    assert "with chance as the score of runs that diverged" in text
    assert "at least 114.0 CPU hours" in text
    assert "Until all six blocks are there, the gradient overlaps with norms x head" in text


@pytest.mark.parametrize("scale", SCALES)
def test_the_page_has_the_tables_of_the_committed_records(scale):
    rows = factors.read(factors.RESULTS / f"{scale}.jsonl")
    text, found = reports.report(scale, rows, explored.read(factors.RESULTS, scale))
    assert f"<!-- {scale} -->\n\n{text}\n" in factors.PAGE.read_text()
    if rows:
        kept = json.loads((factors.RESULTS / f"{scale}_effects.json").read_text())
        for response, table in found.items():
            for effect, other in zip(table, kept[response], strict=True):
                assert list(effect._fields) == list(other)
                for field, value in effect._asdict().items():
                    if isinstance(value, str):
                        assert value == other[field]
                    else:  # null is what is not tested
                        near = pytest.approx(value, abs=1e-9, nan_ok=True)
                        assert (float("nan") if other[field] is None else other[field]) == near


@pytest.mark.parametrize("scale", SCALES)
def test_what_is_written_about_a_scale_quotes_its_tables(scale):
    written, _, rest = factors.PAGE.read_text().partition(f"<!-- {scale} -->")
    tables = rest.partition(f"<!-- end of {scale} -->")[0]
    quoted = re.findall(r"[−+][\d.]+\s\[[^\]]+\]", written.rpartition("\n## ")[2])
    assert bool(quoted) == ("p of All, Holm" in tables)  # once all runs have ended
    assert [text for text in quoted if " ".join(text.split()) not in tables] == []


def test_what_a_model_leaves_and_who_has_collapsed():
    rng = np.random.default_rng(0)
    two = [run for run in DESIGN if run.arm.name in ("simclr", "simclr-head-2") or run.arm.fraction]
    y = {run.key: rng.normal(50, 3) for run in two}
    fraction_left, arms_left = analysis.residuals(two, y)
    apart = [y[block, "simclr"] - y[block, "simclr-head-2"] for block in range(1, 7)]
    rate_0 = [run for run in two if run.arm.name == "rate-0-private-head-3-gradient-on"]
    assert len(rate_0) == 2  # of the fraction and of the ladder, and so it has a say in both
    without = [run for run in two if run not in rate_0]
    assert analysis.residuals(without, y)[1] == pytest.approx(np.std(apart, ddof=1) / np.sqrt(2))
    assert fraction_left == pytest.approx(3, rel=0.2) and arms_left > 0
    row = {"scores": {"features.effective_rank": 1.99}}
    assert analysis.collapsed(row) and not analysis.collapsed({"scores": {"features.effective_rank": 2.0}})


def test_runs_are_taken_in_order_once_and_again_only_if_they_have_not_ended(tmp_path, monkeypatch):
    committed = tmp_path / "committed"
    committed.mkdir()
    waiting, taken = runs("digits")[:4], []

    def work(run, out, given, recorded):
        taken.append(run.key)
        if len(taken) == 2:
            raise Stopped("stopped")
        return record(run, scores={"logistic.all": 0.5})

    monkeypatch.setattr(factors, "work", work)
    (committed / "digits.jsonl").write_text(json.dumps(record(waiting[1])) + "\n")

    def worker():
        place = types.SimpleNamespace(value=0, get_lock=contextlib.nullcontext)
        factors._worker(waiting, place, "digits", tmp_path, {}, committed)

    worker()  # the second that it takes is stopped
    assert taken == [waiting[0].key, waiting[2].key]
    worker()
    assert taken[2:] == [waiting[2].key, waiting[3].key]
    worker()
    assert len(taken) == 4
    assert [(row["block"], row["arm"]) for row in factors.everything("digits", tmp_path, committed)] == [
        r.key for r in waiting
    ]


def test_a_record_that_is_there_twice_or_of_another_sample_is_listed_and_never_averaged_in():
    rows = [record(run, lists={"test": "all", "probe_train": f"probe {run.block}"}) for run in DESIGN]
    for row in rows:
        row["images"] = "fewer" if row["arm"].startswith("without-") else row["images"]
    whole, found = reports.report("photos", rows)
    assert "left out" not in whole
    twice = record(DESIGN[3], scores=dict.fromkeys(analysis.RESPONSES.values(), 0.1))
    text, again = reports.report("photos", [*rows, twice])
    assert str(again) == str(found)
    assert f"1 record is left out: block 1 {DESIGN[3].arm.name} is there twice: the first one counts." in text
    premise = next(i for i, row in enumerate(rows) if row["arm"] == "without-random")
    for i, change, why in [
        (3, {"seed": 9}, "has another seed than the design"),
        (3, {"split": 4, "method": "vicreg"}, "has another method and split than the design"),
        (premise, {"lists": {"test": "others"}}, "is of other data (cifar10, fewer)"),
        (premise, {"lists": {"test": "all", "probe_train": "probe 2"}}, "is of other data (cifar10, fewer)"),
    ]:
        changed = [*rows[:i], rows[i] | change, *rows[i + 1 :]]
        assert analysis.sort("photos", changed).left_out == [f"block 1 {rows[i]['arm']} {why}"]


def test_records_that_are_cut_short_or_damaged(tmp_path):
    path = tmp_path / "digits.jsonl"
    rows = [record(run, scores={"logistic.all": 0.5}) for run in runs("digits")[:3]]
    for row in rows[:2]:
        factors._record(path, row)
    path.write_text(path.read_text()[:-20])  # killed while it wrote
    assert factors.read(path) == rows[:1]
    factors._record(path, rows[2])
    assert factors.read(path) == [rows[0], rows[2]]
    path.write_text(path.read_text().rstrip("\n"))  # by hand: whole, but for the end of its last line
    factors._record(path, rows[1])
    assert factors.read(path) == [rows[0], rows[2], rows[1]]
    path.write_text("{}\n" + path.read_text())
    with pytest.raises(UserError, match=r"line 1 of .*digits.jsonl is damaged \(it lacks scale\)"):
        factors.read(path)
    with pytest.raises(SystemExit, match="line 1 of .*digits.jsonl is damaged"):
        run_main("digits", "--plan", f"--records={tmp_path}")


def run_main(*argv):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["factors.py", *map(str, argv)])
        factors.main()


def test_runs_of_other_images_are_refused_and_count_as_not_run(tmp_path, monkeypatch, capsys):
    """Nor are they looked for where a person has records of their own."""
    monkeypatch.setattr(factors, "_pixels", lambda name: "here")
    monkeypatch.setattr("sdclr_jax.run.versions.commit", lambda: "abc")
    committed, other = tmp_path / "committed", runs("digits")[1]
    committed.mkdir()
    factors._record(committed / "digits.jsonl", record(runs("digits")[0], pixels="there", cpu_seconds=1.0))
    with pytest.raises(
        SystemExit, match="are of other images .* --records=FOLDER and --out=FOLDER for runs of your own"
    ):
        run_main("digits", "--run", f"--records={committed}", f"--out={tmp_path / 'out'}")
    assert not (tmp_path / "out").exists()
    with pytest.raises(SystemExit, match="are of commit abc, this is def"):
        monkeypatch.setattr("sdclr_jax.run.versions.commit", lambda: "def")
        run_main("digits", "--run", f"--records={committed}", f"--out={tmp_path / 'out'}")
    factors._record(tmp_path / "digits.jsonl", record(other, pixels="elsewhere"))
    rows = factors.everything("digits", tmp_path, committed)
    assert len(rows) == 2 and factors.recorded_keys("digits", rows) == {runs("digits")[0].key}
    with pytest.raises(SystemExit) as end:
        run_main("digits", "--collect", "--analyse", f"--records={committed}", f"--out={tmp_path}")
    assert end.value.code == 0
    assert "1 record is left out" in (committed / "digits.md").read_text()
    assert len(factors.read(committed / "digits.jsonl")) == 2
