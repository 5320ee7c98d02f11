"""The effects of experiments/factors.py computed a second time, by statsmodels and with another coding.

    pip install statsmodels
    python experiments/factors_check.py digits

It reads the records of the runs, and of the first analysis its numbers, SCALE_effects.json, which it compares with its
own. Levels are indicators here, and effects are contrasts of them; p-values are adjusted by statsmodels.

Where the two agree and all runs have ended, it also writes SCALE_checks.csv: how far each difference depends on the
model, and rate by criterion. `factors.py SCALE --analyse` then shows them below the tests, which they do not change.
"""

import json
import pathlib
import re
import sys
from collections import Counter
from typing import Any

import pandas as pd
import statsmodels.formula.api as smf
from factors_analysis import collapsed
from factors_design import SCALES
from statsmodels.stats.multitest import multipletests

RESULTS = pathlib.Path(__file__).parent / "results" / "factors"
ARM = re.compile(r"rate-(?P<rate>0(?:\.\d)?)(?:-(?P<criterion>[a-z]+)-(?P<refresh>[a-z]+))?-(?P<norms>private|shared)-head-(?P<head>\d)-gradient-(?P<gradient>on|off)")  # fmt: skip  # noqa: E501
REFERENCES = {
    "simclr-head-2": "a",
    "simclr": "b",
    "rate-0-private-head-3-gradient-on": "c",
    "rate-0.9-smallest-epoch-private-head-3-gradient-on": "d",
    "without-forgotten": "e",
    "without-random": "f",
}
MEAN = "(random + largest) / 3 + (step + once) / 3"
FACTORS = {
    **{f"rate {r} − 0": f"C(rate)[T.{r}] + {MEAN}" for r in (0.3, 0.6, 0.9)},
    "random − smallest": "random",
    "largest − smallest": "largest",
    "every step − every epoch": "step",
    "once − every epoch": "once",
    "norms: private − shared": "private",
    "head: 3 − 2 layers": "three",
    "gradient: on − off": "on",
}
# The interaction of rate and criterion. Products of centred indicators leave the contrasts above what they are.
CROSSED = {
    f"{criterion}_{number}": (criterion, rate)
    for criterion in ("random", "largest")
    for number, rate in ((6, 0.6), (9, 0.9))
}
REFERENCE_STEPS = {  # differences of two arms by their letters; the first three and the sixth are tested
    "head: SimCLR with 3 − 2 layers": "ba",
    "private norms, nothing cut − SimCLR": "cb",
    "SDCLR − the same with nothing cut": "dc",
    "SDCLR − SimCLR, both with 3 layers": "db",
    "as published: SDCLR − SimCLR with 2 layers": "da",
    "without the most forgotten − without random ones": "ef",
    "without the most forgotten − SimCLR with all": "eb",
}
UNTESTED = ("SDCLR − SimCLR, both", "as published", "without the most forgotten − SimCLR")


def main(scale: str) -> None:
    rows = [json.loads(line) for line in (RESULTS / f"{scale}.jsonl").read_text().splitlines()]
    rows = [row for row in rows if row["commit"] == rows[0]["commit"] and row["state"] in ("done", "diverged")]
    if len({(row["block"], row["arm"]) for row in rows}) < len(rows):
        sys.exit("a run is recorded twice: factors.py --collect keeps one")
    counts = Counter(row["block"] for row in rows)
    for row in rows:  # without a SimCLR, nothing says what the two arms of the premise leave out
        counts[row["block"]] += 2 * (row["arm"] == "simclr" and row["state"] == "diverged")
    whole = {block for block, count in counts.items() if count == (19 if block in (1, 5) else 20)}
    if len(whole) < 3:
        sys.exit(f"{len(whole)} whole blocks have ended: three determine all effects")
    rows = [row for row in rows if row["block"] in whole and row["state"] == "done"]
    ours = {e["name"]: e for e in json.loads((RESULTS / f"{scale}_effects.json").read_text())["All"]}
    theirs = differences(rows)
    largest = 0.0
    for name, row in theirs.iterrows():
        apart = [abs(row[column] - ours[name][column]) for column in ("estimate", "error", "low", "high", "p")]
        apart += [] if pd.isna(row.holm) else [abs(row.holm - ours[name]["holm"])]
        largest = max(largest, *apart)
        print(f"{name:50s} {row.estimate:+.3f} [{row.low:+.3f}, {row.high:+.3f}]")
    print(
        f"{len(theirs)} effects of {len(rows)} runs; the largest difference from {scale}_effects.json is {largest:.1e}"
    )
    if missing := ours.keys() ^ set(theirs.index):
        sys.exit(f"only in one of the two: {missing}")
    if largest > 1e-6:
        sys.exit("the two analyses differ")
    if len(whole) == SCALES[scale].blocks:
        path = RESULTS / f"{scale}_checks.csv"
        table = checks(rows)
        table.to_csv(path, index=False, float_format="%.6g", lineterminator="\n")
        print(f"{path}: {len(table)} lines")


def differences(rows: list[dict], **how: Any) -> pd.DataFrame:
    """All differences with their p-values by Holm; `how` is of `fitted`."""
    found = pd.concat([by_factor(rows, **how), by_arm(rows, **how)])
    tested = [name for name in found.index if not name.startswith(UNTESTED)]
    return found.assign(holm=pd.Series(multipletests(found.p[tested], method="holm")[1], index=tested))


def checks(rows: list[dict]) -> pd.DataFrame:
    """A line for each difference and check: with errors that allow another variance for each run (HC3: MacKinnon and
    White, 1985); without the runs that collapsed; for the differences that need none of them, without the arms that
    cut the largest weights; from the means of cells; and with the interaction of rate and what is cut, in its model.

    Then, explored and not tested, each rate against nothing cut by one criterion: its own runs and those of rate 0, so
    that a criterion whose runs vary more does not widen the intervals of another.
    """
    tables = {"HC3": differences(rows, covariance="HC3")}
    if any(map(collapsed, rows)):
        tables["without collapsed runs"] = differences([row for row in rows if not collapsed(row)])
    kept = [row for row in rows if "-largest-" not in row["arm"]]
    terms = "C(rate) + random + step + once + private + three + on"
    names = ("random − smallest", "norms: private − shared", "head: 3 − 2 layers", "gradient: on − off")
    tables["without arms that cut the largest"] = by_factor(
        kept, terms=terms, contrasts={name: FACTORS[name] for name in names}
    )
    tables["means of cells"] = by_cell(rows)
    crossed = " + ".join(["C(rate) + random + largest + step + once + private + three + on", *CROSSED])
    tables["with rate x what is cut"] = by_factor(rows, terms=crossed)
    explored = []
    for criterion in ("smallest", "random", "largest"):
        kept = [row for row in rows if f"-{criterion}-" in row["arm"] or row["arm"].startswith("rate-0-")]
        names = {f"{criterion}, rate {rate} − 0": f"C(rate)[T.{rate}]" for rate in (0.3, 0.6, 0.9)}
        terms = "C(rate) + private + three + on"
        explored.append(by_factor(kept, terms=terms, contrasts=names))
    tables["explored"] = pd.concat(explored)
    lines = [table.assign(check=check).rename_axis("name").reset_index() for check, table in tables.items()]
    return pd.concat(lines)[["check", "name", "estimate", "low", "high", "p", "holm"]]


def by_factor(
    rows: list[dict],
    terms: str = "C(rate) + random + largest + step + once + private + three + on",
    contrasts: dict[str, str] = FACTORS,
    **how: Any,
) -> pd.DataFrame:
    return fitted(fraction(rows), terms, contrasts, **how)


def by_cell(rows: list[dict]) -> pd.DataFrame:
    """From the mean over the runs of each cell, which have one rate, criterion and refresh, and all norms and heads.

    Rate, criterion and refresh vary between cells only, so their errors are between cells, too. A cell that lacks a run
    has no such mean.
    """
    of_cell = ["block", "rate", "random", "largest", "step", "once"]
    cells = fraction(rows).groupby(of_cell, as_index=False).agg(y=("y", "mean"), runs=("y", "size"))
    cells = cells[cells.runs == cells.rate.map(lambda rate: 4 if rate else 2)]
    names = [name for name, contrast in FACTORS.items() if contrast not in ("private", "three", "on")]
    return fitted(cells, "C(rate) + random + largest + step + once", {name: FACTORS[name] for name in names})


def fraction(rows: list[dict]) -> pd.DataFrame:
    """The runs of the fraction: in it are all damaged ones but those that are of the ladder alone."""
    of_ladder = ("rate-0-private-head-3-gradient-on", "rate-0.9-smallest-epoch-private-head-3-gradient-on")
    table = []
    for row in rows:
        found = ARM.fullmatch(row["arm"])
        # The rate-0 run of the ladder belongs to the fraction in blocks 1 and 5.
        if found and (row["arm"] not in of_ladder or (row["arm"] == of_ladder[0] and row["block"] in (1, 5))):
            x = found.groupdict()
            table.append(
                {
                    "y": 100 * row["scores"]["logistic.all"],
                    "block": row["block"],
                    "rate": (rate := float(x["rate"])),
                    **{name: int(x["criterion"] == name) for name in ("random", "largest")},
                    **{name: int(x["refresh"] == name) for name in ("step", "once")},
                    "private": int(x["norms"] == "private"),
                    "three": int(x["head"] == "3"),
                    "on": int(x["gradient"] == "on"),
                    **{
                        name: ((x["criterion"] == criterion) - 1 / 3) * ((rate == of) - 1 / 3) if rate else 0.0
                        for name, (criterion, of) in CROSSED.items()
                    },
                }
            )
    return pd.DataFrame(table)


def by_arm(rows: list[dict], **how: Any) -> pd.DataFrame:
    table = pd.DataFrame(
        {"y": 100 * row["scores"]["logistic.all"], "block": row["block"], "arm": REFERENCES[row["arm"]]}
        for row in rows
        if row["arm"] in REFERENCES
    )
    there = set(table.arm)
    steps = {
        name: " - ".join(f"C(arm)[T.{letter}]" if letter != "a" else "0" for letter in letters)
        for name, letters in REFERENCE_STEPS.items()
        if set(letters) <= there
    }
    return fitted(table, "C(arm)", steps, **how)


def fitted(table: pd.DataFrame, terms: str, contrasts: dict[str, str], covariance: str = "nonrobust") -> pd.DataFrame:
    """The contrasts, by least squares; a column `runs` says of how many runs a row is the mean."""
    weights = table.runs if "runs" in table else 1.0
    plain = smf.wls(f"y ~ C(block) + {terms}", table, weights=weights).fit(cov_type=covariance, use_t=True)
    if plain.model.rank < plain.model.exog.shape[1]:
        sys.exit(f"the {len(table)} runs do not determine C(block) + {terms}")
    found = {}
    for name, contrast in contrasts.items():
        test = plain.t_test(f"{contrast} = 0")
        low, high = test.conf_int()[0]
        found[name] = {
            "estimate": test.effect[0],
            "error": test.sd[0][0],
            "low": low,
            "high": high,
            "p": float(test.pvalue),
        }
    return pd.DataFrame(found).T


if __name__ == "__main__":
    main(*sys.argv[1:])
