"""What stands below the tests on the page of experiments/factors.py: how far they depend on the model, and what was
explored. Each table is made from a file SCALE_NAME.csv that another program has written, and tests nothing.
"""

import csv
import pathlib

import numpy as np
from factors_analysis import Effect, Sorted, in_factor_model
from factors_design import runs
from tabulate import tabulate

FILES = ("checks", "statistics", "forgotten")  # of factors_check.py, factors_statistics.py and factors_forgotten.py
# Scores of factors_statistics.py, in its order: title, factor and digits here.
RESCORED = {
    "logistic.all": ("All", 100, 1),
    "knn.all": ("k-NN All", 100, 1),
    "features.effective_rank": ("effective rank", 1, 1),
}
RARER = 5  # classes

Rows = list[dict[str, str]]


def read(results: pathlib.Path, scale: str) -> dict[str, Rows]:
    """What the other programs have written of a scale; nothing where they have not."""
    paths = {name: results / f"{scale}_{name}.csv" for name in FILES}
    return {name: list(csv.DictReader(path.read_text().splitlines())) for name, path in paths.items() if path.exists()}


def interval(effect: Effect | None) -> str:
    return "" if effect is None else _shown(effect.estimate, effect.low, effect.high)


def _shown(estimate: float, low: float, high: float) -> str:
    return f"{estimate:+.1f} [{low:+.1f}, {high:+.1f}]".replace("-", "−")


def by_model(table: list[Effect], rows: Rows) -> str:
    """The tested differences under each model that was tried."""
    names = list(dict.fromkeys(row["check"] for row in rows if row["check"] != "explored"))
    by = {(row["check"], row["name"]): row for row in rows}
    lines = [
        [e.name, f"{interval(e)}, p {e.holm:.2g}", *(_cell(by.get((check, e.name))) for check in names)]
        for e in table
        if not np.isnan(e.holm)
    ]
    headers = ["difference, points of All", "as designed", *names]
    return tabulate(lines, headers, tablefmt="github", disable_numparse=True)


def rate_by_criterion(rows: Rows) -> str:
    by = {tuple(row["name"].split(", ")): row for row in rows if row["check"] == "explored"}
    rates = dict.fromkeys(rate for _, rate in by)
    table = [[cut, *(_cell(by.get((cut, rate))) for rate in rates)] for cut in dict.fromkeys(cut for cut, _ in by)]
    return tabulate(table, ["cut, points of All", *rates], tablefmt="github", disable_numparse=True)


def _cell(row: dict[str, str] | None) -> str:
    if row is None:
        return ""
    holm = f", p {float(row['holm']):.2g}" if row["holm"] else ""
    return _shown(*(float(row[name]) for name in ("estimate", "low", "high"))) + holm


def rescored(of: Sorted, rows: Rows) -> str:
    """Scores with the recorded statistics and with the dense branch's own, by norms and by what is cut; then by how
    much they change."""
    recorded = {(row["block"], row["arm"]): row["scores"] for row in of.used}
    again = {key: row for row in rows if (key := (int(row["block"]), row["arm"])) in recorded}
    fraction = [run for run in runs(of.used[0]["scale"]) if in_factor_model(run) and run.key in recorded]
    groups: dict[tuple[str, str], list[tuple[int, str]]] = {}
    for run in fraction:
        if run.key in again:
            x = run.arm.levels
            cut = f"{100 * x.rate:g} %, {x.criterion}" if x.rate else "nothing"
            groups.setdefault((x.norms, cut), []).append(run.key)
    table = []
    for (norms, cut), keys in sorted(groups.items(), reverse=True):
        cells = []
        for score, (_, factor, digits) in RESCORED.items():
            before, after = (
                factor * np.mean([float(of_run[key][score]) for key in keys]) for of_run in (recorded, again)
            )
            cells.append(f"{before:.{digits}f} to {after:.{digits}f}")
        table.append([norms, cut, str(len(keys)), *cells])
    headers = ["norms", "cut", "n", *(title for title, _, _ in RESCORED.values())]
    said = []
    for norms in ("shared", "private"):
        ended = [run.key for run in fraction if run.arm.levels.norms == norms]
        if keys := [key for key in ended if key in again]:
            changes = []
            for score in ("logistic.all", "knn.all"):
                title, factor, _ = RESCORED[score]
                by = [factor * (float(again[key][score]) - recorded[key][score]) for key in keys]
                ends = f"{min(by):+.1f} to {max(by):+.1f}".replace("-", "−")
                changes.append(f"{title} by {ends} points")
            said.append(f"{norms} norms, {len(keys)} of {len(ended)} runs: {', '.join(changes)}")
        else:
            said.append(f"{norms} norms: no run yet" + (", and so no control" if norms == "private" else ""))
    return f"{tabulate(table, headers, tablefmt='github', disable_numparse=True)}\n\nWhat changes: {'; '.join(said)}."


def forgotten(of: Sorted, rows: Rows) -> str:
    """Of the tenth of the images that pruning makes SimCLR forget: whose they are, in each block."""
    known = {row["block"] for row in of.used if row["arm"] == "simclr"}
    table = []
    for block in sorted(known & {int(row["block"]) for row in rows}):
        own = sorted((row for row in rows if int(row["block"]) == block), key=lambda row: -int(row["images"]))
        images, taken = (np.array([int(row[name]) for row in own]) for name in ("images", "forgotten"))
        shares = [
            images[-RARER:].sum() / images.sum(),
            taken[-RARER:].sum() / taken.sum(),
            np.mean(taken[-RARER:] / images[-RARER:]),
            np.mean(taken / images),
            taken.max() / taken.sum(),
        ]
        most = int(taken.argmax())
        cells = [f"{100 * share:.1f} %" for share in shares]
        table.append([str(block), *cells[:4], f"{cells[4]}, of {images[most]} images"])
    headers = [
        "block",
        "rarer classes, of all images",
        "of the forgotten",
        "forgotten of a rarer class",
        "of any class",
        "largest share of one class",
    ]
    return tabulate(table, headers, tablefmt="github", disable_numparse=True)
