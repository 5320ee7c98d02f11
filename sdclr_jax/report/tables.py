"""Means, spreads and paired differences over runs, as rows, text, Markdown and CSV."""

import csv
import io
import math
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from scipy import stats
from tabulate import tabulate

from sdclr_jax.report.groups import Group, by_data, group
from sdclr_jax.report.runs import SCORES, Run, metric, plain

LOWER_IS_BETTER = {"std"}
TITLES = {
    "linear_full": "Linear probe (full)",
    "linear_few_shot": "Linear probe (few-shot)",
    "logistic": "Logistic regression",
    "knn": "Nearest neighbours",
}


@dataclass(frozen=True)
class Cell:
    """A score over n runs, in percent: mean, sample standard deviation (None for one run)."""

    n: int
    mean: float | None = None
    sd: float | None = None
    stands_out: bool = False  # best of its column, or a difference with a clear direction

    def text(self, sign: bool = False) -> str:
        if self.mean is None:
            return "–"
        mean = round(self.mean, 1) + 0.0  # + 0.0 turns minus zero into zero
        text = f"{mean:+.1f}".replace("-", "\N{MINUS SIGN}") if sign else f"{mean:.1f}"
        return text if self.sd is None else f"{text} ± {self.sd:.1f}"


@dataclass(frozen=True)
class Row:
    """One protocol of one group, or the difference of two groups in it: a cell for each score."""

    protocol: str
    label: str
    index: int
    n: int
    cells: dict[str, Cell]


def title(protocol: str) -> str:
    name, bracket, metric = protocol.partition(" (")
    return plain(TITLES.get(name, name) + bracket + metric)


def protocols(groups: list[Group]) -> list[str]:
    """All protocols of these groups: the known ones in their own order, then the others by name."""
    found = {protocol for member in groups for run in member.runs for protocol in run.protocols}
    order = list(TITLES)
    return sorted(
        found, key=lambda name: (order.index(kind) if (kind := name.partition(" (")[0]) in order else len(order), name)
    )


def compare(runs: list[Run]) -> list[Row]:
    """The comparison table: a row for each protocol and group."""
    groups = group(runs)
    return [
        Row(protocol, member.label, member.index, n, {s: _score_cell(member, groups, protocol, s) for s in SCORES})
        for protocol in protocols(groups)
        for member in groups
        if (n := sum(protocol in run.protocols for run in member.runs))
    ]


def differences(runs: list[Run]) -> list[Row]:
    """For each protocol and two groups on the same data: the second minus the first, paired by seed and split."""
    groups = group(runs)
    pairs = [pair for part in by_data(groups) for pair in combinations(part, 2)]
    rows = []
    for protocol in protocols(groups):
        for first, second in pairs:
            cells = {score: difference(second, first, protocol, score) for score in SCORES}
            if cells["all"].n:
                rows.append(Row(protocol, f"{second.label} − {first.label}", second.index, cells["all"].n, cells))
    return rows


def difference(one: Group, other: Group, protocol: str, score: str) -> Cell:
    """`one` minus `other` over the runs that share seed, split and example lists.

    It stands out where the 95 % confidence interval of the mean (Student's t) does not hold zero, which takes two
    pairs at least.
    """
    partner = {(run.seed, run.split, run.lists): run.score(protocol, score) for run in other.runs}
    values = []
    for run in one.runs:
        mine, theirs = run.score(protocol, score), partner.get((run.seed, run.split, run.lists))
        if mine is not None and theirs is not None:
            values.append(100 * (mine - theirs))
    n, mean, sd = _statistics(values)
    # Sums of floats leave crumbs, which are no difference where all pairs agree.
    clear = n > 1 and abs(mean) > max(float(stats.t.ppf(0.975, n - 1)) * sd / math.sqrt(n), 1e-9)
    return Cell(n, mean, sd, clear)


def leads(cell: Cell, score: str) -> bool:
    """Whether a difference says that the first of the two is clearly better."""
    return cell.stands_out and (cell.mean < 0) == (score in LOWER_IS_BETTER)


def level(member: Group, protocol: str, score: str) -> Cell:
    """The score of a group of runs."""
    values = [100 * value for run in member.runs if (value := run.score(protocol, score)) is not None]
    return Cell(*_statistics(values))


def _score_cell(member: Group, groups: list[Group], protocol: str, score: str) -> Cell:
    rivals = [rival for rival in groups if rival is not member and rival.data == member.data]
    best = bool(rivals) and all(leads(difference(member, rival, protocol, score), score) for rival in rivals)
    return replace(level(member, protocol, score), stands_out=best)


def _statistics(values: list[float]) -> tuple[int, float | None, float | None]:
    n = len(values)
    return n, float(np.mean(values)) if n else None, float(np.std(values, ddof=1)) if n > 1 else None


def to_text(rows: list[Row], sign: bool = False) -> str:
    """The rows for a terminal; a star marks what stands out."""
    return _tabulate(rows, "simple", sign, lambda text, stands_out: f"{text} *" if stands_out else text)


def to_markdown(rows: list[Row], sign: bool = False) -> str:
    """The rows as a Markdown table; bold marks what stands out."""
    table = _tabulate(rows, "github", sign, lambda text, stands_out: f"**{text}**" if stands_out else text, "\\|")
    return table + "\n"


def _tabulate(rows: list[Row], style: str, sign: bool, mark, bar: str = "|") -> str:
    header = ["protocol", "runs of", "n", *(score.capitalize() for score in SCORES)]
    body = []
    for row in rows:
        names = [name.replace("|", bar) for name in (plain(row.protocol), row.label)]
        cells = [row.cells[score] for score in SCORES]
        body.append([*names, row.n, *(mark(cell.text(sign), cell.stands_out) for cell in cells)])
    align = ("left", "left", "right", *["left"] * len(SCORES))
    return tabulate(body, header, style, disable_numparse=True, colalign=align if body else None)


def to_csv(runs: list[Run]) -> str:
    """One line for each run, protocol and score, as shares from 0 to 1 at full precision."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("run", "group", "method", "seed", "split", "data", "subset", "protocol", "score", "value"))
    for member in group(runs):
        for run in member.runs:
            data = run.results["data"]
            facts = (run.name, member.label, run.method, run.seed, run.split, plain(data["name"]))
            for protocol, record in run.protocols.items():
                for score in (*SCORES, f"validation_{metric(record)}"):
                    value = run.score(protocol, score)
                    writer.writerow((*facts, plain(data["subset"]), plain(protocol), score, value))
    return text.getvalue()
