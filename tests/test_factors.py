"""The designed experiment: the design is what its page says, and the analysis is right on numbers that are known."""

import collections
import contextlib
import itertools
import json
import pathlib
import re
import sys
import types

import numpy as np
import pytest
from scipy import stats

from sdclr_jax import recipes
from sdclr_jax.errors import Stopped, UserError

ROOT = pathlib.Path(__file__).parents[1]
sys.path.append(str(ROOT / "experiments"))
import factors  # noqa: E402
import factors_analysis as analysis  # noqa: E402
import factors_report as reports  # noqa: E402
from factors_design import SCALES, arms, fields, fraction, runs  # noqa: E402

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
    assert "; SDCLR − SimCLR, both with 3 layers +" in said and said.endswith("] points of All.")
    text, _ = reports.report("photos", rows[:-1])
    assert "were tested" not in text and "interim" in text
    assert "stands here is interim. So far, head: SimCLR" in reports.summary("photos", rows[:-1])


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
    assert "114.0 CPU hours" in text


@pytest.mark.parametrize("scale", SCALES)
def test_the_page_has_the_tables_of_the_committed_records(scale):
    rows = factors.read(factors.RESULTS / f"{scale}.jsonl")
    beside = (reports.rows_of(factors.RESULTS / f"{scale}_{name}.csv") for name in ("checks", "statistics"))
    text, found = reports.report(scale, rows, *beside)
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


def test_scores_with_other_statistics_stand_beside_the_recorded_ones_by_norms_and_cut():
    rows = factors.read(factors.RESULTS / "photos.jsonl")
    shared = [row for row in rows if row["arm"].startswith("rate-0.6-random-once-shared")][:2]
    again = {"logistic.all": 0.5, "knn.all": "0.25", "features.effective_rank": "12.34"}
    rescored = [{"block": str(row["block"]), "arm": row["arm"], **again} for row in shared]
    rescored.append({"block": "1", "arm": "rate-0-private-head-3-gradient-on", **again})
    text, _ = reports.report("photos", rows, [], rescored)
    table = text.partition("statistics of the dense branch's own views**\n\n")[2].splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table[:4] if not line.startswith("|--")]
    before = [np.mean([row["scores"][score] for row in shared]) for score in again]
    assert cells[0] == ["norms", "cut", "n", "All", "k-NN All", "effective rank"]
    assert cells[1][:3] == ["shared", "60 %, random", "2"] and cells[2][:3] == ["private", "nothing", "1"]
    assert cells[1][3:] == [
        f"{100 * before[0]:.1f} to 50.0", f"{100 * before[1]:.1f} to 25.0", f"{before[2]:.1f} to 12.3",
    ]  # fmt: skip


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


def test_what_a_second_analysis_found_stands_below_the_tests():
    rows = [record(run) for run in DESIGN]
    rows[5]["scores"] = rows[5]["scores"] | {"features.effective_rank": 1.0}
    plain, found = reports.report("photos", rows)
    kept = f"Collapsed as they were scored, and by the rule kept: block 1 {rows[5]['arm']} (effective rank 1.0)."
    assert kept in plain
    assert "Without what collapsed: " in plain and "The design assumed 1.20 and 0.80" in plain
    assert "explored" not in plain.lower()
    values = {"estimate": "-1.25", "low": "-2", "high": "-0.5", "p": "0.01", "holm": "0.04"}
    checked = [{"check": "HC3", "name": e.name} | values for e in found["All"]]
    names = [f"{cut}, rate {rate} − 0" for cut in ("smallest", "random") for rate in (0.3, 0.6)]
    checked += [{"check": "explored", "name": name} | values | {"holm": ""} for name in names]
    text = " ".join(reports.report("photos", rows, checked)[0].split())
    assert "| difference, points of All | as designed | HC3 |" in text
    assert re.search(r"\| norms: private − shared \| [^|]+, p 1 \| −1.2 \[−2.0, −0.5\], p 0.04 \|", text)
    assert text.count("p 0.04 |") == 14  # those that are tested
    assert "| random | −1.2 [−2.0, −0.5] | −1.2 [−2.0, −0.5] |" in text


def by_hc3(model, y):
    """Name -> estimate, low, high, p with errors that allow each run another variance (MacKinnon and White, 1985)."""
    inverse = np.linalg.pinv(model.matrix)
    hat = model.matrix @ inverse
    left = (y - hat @ y) / (1 - np.diag(hat))
    covariance = inverse @ np.diag(left**2) @ inverse.T
    freedom = len(y) - np.linalg.matrix_rank(model.matrix)
    found = {}
    for name, contrast in model.effects.items():
        estimate, error = contrast @ inverse @ y, np.sqrt(contrast @ covariance @ contrast)
        half = stats.t.ppf(0.975, freedom) * error
        found[name] = estimate, estimate - half, estimate + half, 2 * stats.t.sf(abs(estimate / error), freedom)
    return found


def least_squares(columns, y, of):
    """Estimate, low, high, p of one coefficient, by numpy alone."""
    x = np.array(columns, float)
    inverse, freedom = np.linalg.pinv(x), len(y) - np.linalg.matrix_rank(x)
    left = y - x @ inverse @ y
    estimate, error = (inverse @ y)[of], np.sqrt(left @ left / freedom * (inverse @ inverse.T)[of, of])
    half = stats.t.ppf(0.975, freedom) * error
    return estimate, estimate - half, estimate + half, 2 * stats.t.sf(abs(estimate / error), freedom)


def test_the_committed_checks_are_those_of_the_committed_records():
    """Every number of them, by another program than the one that wrote them."""
    rows = factors.read(factors.RESULTS / "digits.jsonl")
    design, y = runs("digits"), reports.points(rows, analysis.PRIMARY)
    collapsed = {(row["block"], row["arm"]) for row in rows if analysis.collapsed(row)}
    found = {}
    for belongs, make in (
        (analysis.in_factor_model, analysis.factor_model),
        (analysis.in_arm_model, analysis.arm_model),
    ):
        own = [run for run in design if belongs(run)]
        hc3 = by_hc3(make(own), np.array([y[run.key] for run in own]))
        found |= {("HC3", name): values for name, values in hc3.items()}
    for e in analysis.effects(design, {key: value for key, value in y.items() if key not in collapsed}):
        found["without collapsed runs", e.name] = e.estimate, e.low, e.high, e.p
    blocks = sorted({run.block for run in design})
    damaged = [run for run in design if run.arm.fraction]
    for cut in ("smallest", "random", "largest"):
        own = [run for run in damaged if run.arm.levels.criterion in ("", cut)]
        for i, rate in enumerate(analysis.RATES):
            columns = [
                [run.block == b for b in blocks]
                + [run.arm.levels.rate == r for r in analysis.RATES]
                + [run.arm.levels.norms == "private", run.arm.levels.head == 3, run.arm.levels.gradient == "on"]
                for run in own
            ]
            values = least_squares(columns, np.array([y[run.key] for run in own]), len(blocks) + i)
            found["explored", f"{cut}, rate {rate} − 0"] = values
    own = [run for run in damaged if run.arm.levels.criterion != "largest"]
    names = ["random − smallest", "norms: private − shared", "head: 3 − 2 layers", "gradient: on − off"]
    for i, name in enumerate(names):
        columns = [
            [run.block == b for b in blocks]
            + [x.criterion == "random", x.norms == "private", x.head == 3, x.gradient == "on"]
            + [x.rate == r for r in analysis.RATES]
            + [x.refresh == level for level in ("step", "once")]
            for run in own
            for x in [run.arm.levels]
        ]
        values = least_squares(columns, np.array([y[run.key] for run in own]), len(blocks) + i)
        found["without arms that cut the largest", name] = values
    checked = {(row["check"], row["name"]): row for row in reports.rows_of(factors.RESULTS / "digits_checks.csv")}
    assert checked.keys() == found.keys()
    for key, values in found.items():
        written = [float(checked[key][name]) for name in ("estimate", "low", "high", "p")]
        assert written == pytest.approx(list(values), rel=1e-4, abs=1e-5), key
    for check in ("HC3", "without collapsed runs"):
        p = {name: values[3] for (of, name), values in found.items() if of == check}
        adjusted = analysis.holm({name: p[name] for name in analysis.tested(list(p))})
        written = {n: float(row["holm"]) for (of, n), row in checked.items() if of == check and row["holm"]}
        assert written == pytest.approx(adjusted, rel=1e-4)


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
