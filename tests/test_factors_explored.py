"""The designed experiment: what stands below its tests is made of the committed files, and they of the records."""

import json
import re
import types

import factors_forgotten
import factors_statistics
import numpy as np
import pytest
from scipy import stats

from sdclr_jax.errors import UserError
from tests.test_factors import DESIGN, SCALES, analysis, explored, factors, record, reports, runs


def test_scores_with_other_statistics_stand_beside_the_recorded_ones_by_norms_and_cut():
    rows = factors.read(factors.RESULTS / "photos.jsonl")
    shared = [row for row in rows if row["arm"].startswith("rate-0.6-random-once-shared")][:2]
    again = {"logistic.all": 0.5, "knn.all": "0.25", "features.effective_rank": "12.34"}
    rescored = [{"block": str(row["block"]), "arm": row["arm"], **again} for row in shared]
    rescored.append({"block": "1", "arm": "rate-0-private-head-3-gradient-on", **again})
    text, _ = reports.report("photos", rows, {"statistics": rescored})
    table = text.partition("statistics of the dense branch's own views**\n\n")[2].splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table[:4] if not line.startswith("|--")]
    before = [np.mean([row["scores"][score] for row in shared]) for score in again]
    assert cells[0] == ["norms", "cut", "n", "All", "k-NN All", "effective rank"]
    assert cells[1][:3] == ["shared", "60 %, random", "2"] and cells[2][:3] == ["private", "nothing", "1"]
    assert cells[1][3:] == [
        f"{100 * before[0]:.1f} to 50.0", f"{100 * before[1]:.1f} to 25.0", f"{before[2]:.1f} to 12.3",
    ]  # fmt: skip
    changes = [
        [100 * (0.5, 0.25)[i] - 100 * row["scores"][score] for row in shared] for i, score in enumerate(again) if i < 2
    ]
    ended = [row["arm"] for row in rows if "-shared-" in row["arm"]]
    said = [f"by {min(by):+.1f} to {max(by):+.1f} points".replace("-", "−") for by in changes]
    assert (
        f"What changes: shared norms, 2 of {len(ended)} runs: All {said[0]}, k-NN All {said[1]}; private norms, 1 of"
        in text
    )
    alone, _ = reports.report("photos", rows, {"statistics": rescored[:2]})
    assert "; private norms: no run yet, and so no control." in alone


def test_runs_are_scored_again_once_and_those_whose_folders_are_gone_are_left_out(tmp_path, monkeypatch, capsys):
    damaged = [run for run in DESIGN if run.arm.fraction and run.arm.levels.norms == "shared"][:3]
    known, new, gone = (run.arm.name for run in damaged)
    (tmp_path / "photos.jsonl").write_text("".join(json.dumps(record(run)) + "\n" for run in damaged))
    header, written = "block,arm,logistic.all,knn.all,features.effective_rank\n", tmp_path / "photos_statistics.csv"
    monkeypatch.setattr(factors, "RESULTS", tmp_path)
    factors_statistics.main(["photos", f"--out={tmp_path / 'runs'}"])
    assert not written.exists()
    assert "3 of 3 runs have no folder" in capsys.readouterr().out
    written.write_text(f"{header}1,{known},0.1,0.2,3\n")
    (tmp_path / "runs" / "block-1" / new).mkdir(parents=True)
    again = {"logistic.all": 0.25, "knn.all": 0.5, "features.effective_rank": 6.0}
    monkeypatch.setattr(factors_statistics, "scores", lambda folder: again)
    there = types.SimpleNamespace(scores=record(damaged[1])["scores"] | {"knn.all": 0.4})
    monkeypatch.setattr(factors_statistics.ledger, "read", lambda folder: there)
    with pytest.raises(SystemExit, match=f"{new} is not the run that is recorded: give the --out"):
        factors_statistics.main(["photos", f"--out={tmp_path / 'runs'}"])
    there.scores = record(damaged[1])["scores"] | {"more": 1.0}
    added = f"1,{new},0.250000,0.500000,6.000000\n"
    for _ in range(2):
        factors_statistics.main(["photos", f"--out={tmp_path / 'runs'}"])
    assert written.read_text() == f"{header}1,{known},0.1,0.2,3\n{added}"
    written.write_text("")  # as a full disk leaves it
    factors_statistics.main(["photos", f"--out={tmp_path / 'runs'}"])
    assert written.read_text() == header + added
    assert f"1 of 2 runs have no folder in {tmp_path / 'runs'}, and are not scored" in capsys.readouterr().out


def test_whom_pruning_makes_simclr_forget_is_told_by_class():
    counts = [40, 30, 20, 10, 10, 8, 4, 4, 2, 2]
    taken = [10, 0, 0, 0, 0, 2, 1, 0, 0, 0]
    lines = [
        {"block": str(block), "label": str(i), "images": str(n), "forgotten": str(k)}
        for block in (1, 2)
        for i, (n, k) in enumerate(zip(counts, taken, strict=True))
    ]
    text, _ = reports.report("photos", [record(DESIGN[0])], {"forgotten": lines[::-1]})  # block 2 is not recorded
    (row,) = [line for line in text.splitlines() if line.startswith("| 1 ")]
    # 20 of 130 images; 3 of 13; 2 of 8 and 1 of 4 and three times none; and with them 10 of 40.
    assert [cell.strip() for cell in row.split("|")[1:-1]] == [
        "1", "15.4 %", "23.1 %", "10.0 %", "7.5 %", "76.9 %, of 40 images",
    ]  # fmt: skip


@pytest.mark.parametrize("scale", SCALES)
def test_the_committed_classes_of_the_forgotten_are_of_the_committed_records(scale):
    rows = [row for row in factors.read(factors.RESULTS / f"{scale}.jsonl") if row.get("forgotten")]
    lines = explored.read(factors.RESULTS, scale)["forgotten"]
    for row in rows:
        own = [line for line in lines if int(line["block"]) == row["block"]]
        if own or scale == "digits":  # those of photographs take the data set
            assert sum(int(line["images"]) for line in own) == SCALES[scale].images
            assert sum(int(line["forgotten"]) for line in own) == len(row["forgotten"])
    if scale == "digits":
        made = factors_forgotten.by_class(scale, rows[0], {})
        assert [{name: str(x) for name, x in line.items()} for line in made] == lines[:10]
        with pytest.raises(UserError, match="block 1 was trained on the images of another list .SHA-256 abc"):
            factors_forgotten.by_class(scale, rows[0] | {"images": "abc"}, {})


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
    text = " ".join(reports.report("photos", rows, {"checks": checked})[0].split())
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


def test_the_page_says_by_how_much_another_processor_may_have_moved_a_difference():
    rows = factors.read(factors.RESULTS / "photos.jsonl")
    y, processor = reports.points(rows, analysis.PRIMARY), {(row["block"], row["arm"]): row["hardware"] for row in rows}
    most = 0.0
    for belongs, make in (
        (analysis.in_factor_model, analysis.factor_model),
        (analysis.in_arm_model, analysis.arm_model),
    ):
        own = [run for run in runs("photos") if belongs(run)]
        points, plain = np.array([y[run.key] for run in own]), make(own)
        term = np.array([[float(processor[run.key] == processor[6, "simclr"])] for run in own])
        effects = {name: np.append(contrast, 0.0) for name, contrast in plain.effects.items()}
        before = analysis.fit(plain, points)
        after = analysis.fit(analysis.Model(np.hstack([plain.matrix, term]), effects), points)
        most = max(most, *(abs(after[name][0] - before[name][0]) for name in before))
    assert f"no difference changes by more than {most:.2f} points" in factors.PAGE.read_text()


@pytest.mark.parametrize("scale", [scale for scale in SCALES if (factors.RESULTS / f"{scale}_checks.csv").exists()])
def test_the_committed_checks_are_those_of_the_committed_records(scale):
    """Every number of them, by another program than the one that wrote them."""
    rows = factors.read(factors.RESULTS / f"{scale}.jsonl")
    design, y = runs(scale), reports.points(rows, analysis.PRIMARY)
    design = [run for run in design if run.key in y]
    collapsed = {(row["block"], row["arm"]) for row in rows if analysis.collapsed(row)}
    found = {}
    for belongs, make in (
        (analysis.in_factor_model, analysis.factor_model),
        (analysis.in_arm_model, analysis.arm_model),
    ):
        own = [run for run in design if belongs(run)]
        hc3 = by_hc3(make(own), np.array([y[run.key] for run in own]))
        found |= {("HC3", name): values for name, values in hc3.items()}
    if collapsed:
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
    # The mean of a cell counts as often as it has runs; the same design has norms, head and gradient left out.
    model, cells = analysis.factor_model(damaged), {}
    for i, run in enumerate(damaged):
        cells.setdefault((run.block, *run.arm.levels[:3]), []).append(i)
    cells = {key: own for key, own in cells.items() if len(own) == (4 if key[1] else 2)}
    root = np.sqrt([len(own) for own in cells.values()])
    mean_of = {own[0]: np.mean([y[damaged[i].key] for i in own]) for own in cells.values()}
    names = [name for name in model.effects if not name.startswith(("norms", "head", "gradient"))]
    columns = root[:, None] * model.matrix[list(mean_of), :-3]
    for name in names:
        of = int(model.effects[name].argmax())
        found["means of cells", name] = least_squares(columns, root * list(mean_of.values()), of)
    crossed = np.array([
        [(x.rate > 0) * ((x.rate == r) - 1 / 3) * ((x.criterion == cut) - 1 / 3)
         for r in (0.6, 0.9) for cut in ("random", "largest")]
        for x in (run.arm.levels for run in damaged)
    ])  # fmt: skip
    columns = np.hstack([model.matrix, crossed])
    for name, contrast in model.effects.items():
        values = least_squares(columns, np.array([y[run.key] for run in damaged]), int(contrast.argmax()))
        found["with rate x what is cut", name] = values
    # The page says that cells vary less than the runs within them.
    of_cells = np.array([[float(i in own) for own in cells.values()] for i in range(len(damaged))])
    saturated = analysis.Model(np.hstack([of_cells, model.matrix[:, -3:]]), {})
    values = np.array([y[run.key] for run in damaged])
    (whole, all_left), (within, left) = (analysis.residual(of, values) for of in (model, saturated))
    f = (whole * all_left - within * left) / (all_left - left) / within
    assert f"{scale if scale == 'digits' else 'photographs'} (F = {f:.2f})" in " ".join(
        factors.PAGE.read_text().split()
    )
    checked = {(row["check"], row["name"]): row for row in explored.read(factors.RESULTS, scale)["checks"]}
    assert checked.keys() == found.keys()
    for key, values in found.items():
        written = [float(checked[key][name]) for name in ("estimate", "low", "high", "p")]
        assert written == pytest.approx(list(values), rel=1e-4, abs=1e-5), key
    for check in ("HC3", *["without collapsed runs"] * bool(collapsed)):
        p = {name: values[3] for (of, name), values in found.items() if of == check}
        adjusted = analysis.holm({name: p[name] for name in analysis.tested(list(p))})
        written = {n: float(row["holm"]) for (of, n), row in checked.items() if of == check and row["holm"]}
        assert written == pytest.approx(adjusted, rel=1e-4)
