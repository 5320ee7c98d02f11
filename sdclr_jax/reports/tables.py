"""Means, spreads and paired differences over runs, as rows, text, Markdown, LaTeX and CSV."""

import io
import math
import re
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, replace
from itertools import combinations
from typing import TypeVar

import numpy as np
from scipy import stats
from tabulate import LATEX_ESCAPE_RULES, tabulate

from sdclr_jax.records import SUMMARY
from sdclr_jax.records.sheets import Writer
from sdclr_jax.reports import published
from sdclr_jax.reports.groups import Group, by_data, compared, group, subset
from sdclr_jax.reports.runs import Run, plain

Sample = TypeVar("Sample", float, np.ndarray)
CONFIDENCE = 0.95  # of the intervals of differences
LOWER_IS_BETTER = {"std"}
TITLES = {
    "linear_full": "Linear probe (full)",
    "linear_few_shot": "Linear probe (few-shot)",
    "logistic": "Logistic regression",
    "knn": "Nearest neighbours",
    "bcl_full": "Adam probe (full)",
    "bcl_100_shot": "Adam probe (100-shot)",
    "bcl_50_shot": "Adam probe (50-shot)",
    "bcl_10_shot": "Adam probe (10-shot)",
    "ts_knn_1": "Nearest neighbour (long tail)",
    "ts_knn_10": "10 nearest neighbours (long tail)",
    "ts_few_shot": "Linear SVM (few-shot)",
    "ts_long_tail": "Linear SVM (long tail)",
    "fine_tune_1": "Fine-tuning (1 %)",
    "fine_tune_10": "Fine-tuning (10 %)",
    "probe": "Ridge probe",  # while a run is trained
}


@dataclass(frozen=True)
class Cell:
    """A score over n samples, in percent: mean and sample standard deviation (None for one sample).

    For a difference in points, also the 95 % confidence interval of the mean, None for one sample. A sample is a run or
    a pair of runs; see `samples`.
    """

    n: int
    mean: float | None = None
    sd: float | None = None
    stands_out: bool = False  # best of its column, or a difference with a clear direction
    interval: tuple[float, float] | None = None
    decimals: int = 1  # shown
    of_splits: bool = False  # whether n counts splits, each the mean of its runs

    def text(self, sign: bool = False) -> str:
        """`52.0 ± 2.0`, or with `sign` `+12.0 [+7.0, +17.0]`: what a difference could be says more than its spread."""
        return " ".join(filter(None, (self.middle(sign), self.around(sign))))

    def middle(self, sign: bool = False) -> str:
        return "–" if self.mean is None else self._shown(self.mean, sign)

    def around(self, sign: bool = False) -> str:
        if sign:
            return f"[{', '.join(self._shown(end, sign) for end in self.interval)}]" if self.interval else ""
        return "" if self.sd is None else f"± {self._shown(self.sd)}"

    def _shown(self, value: float, sign: bool = False) -> str:
        value = round(value, self.decimals) + 0.0  # + 0.0 turns minus zero into zero
        text = f"{value:{'+' if sign else ''}.{self.decimals}f}"
        return text.replace("-", "\N{MINUS SIGN}") if sign else text


@dataclass(frozen=True)
class Row:
    """One protocol of one group, or the difference of two groups in it: a cell for each score."""

    data: str
    protocol: str
    label: str
    on: str  # what else readers need to know the data, as of a group
    index: int
    n: int
    cells: dict[str, Cell]
    of_paper: bool = False  # what the authors report, not what runs were measured to have

    @property
    def counted(self) -> str:
        """`3`, or `3 splits` where splits are counted and not runs."""
        return f"{self.n}{' splits' * self.cells['all'].of_splits}"


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
    """The comparison table: a row for each protocol and group, and below them the paper's figures for their methods."""
    return compare_groups(group(runs))


def compare_groups(groups: list[Group]) -> list[Row]:
    """`compare`, of runs that are grouped already."""
    rows = []
    for protocol in protocols(groups):
        for part in by_data(groups):
            best = {score: _best(part, protocol, score) for score in SUMMARY}
            for member in part:
                cells = {
                    score: replace(level(member, protocol, score), stands_out=best[score] is member)
                    for score in SUMMARY
                }
                if n := cells["all"].n:
                    rows.append(Row(member.data_name, protocol, member.label, member.on, member.index, n, cells))
            for match in published.matches(part, protocol):
                rows.append(_of_paper(match.method, match, protocol, match.scores))
    return rows


def differences(runs: list[Run]) -> list[Row]:
    """For each protocol and two compared groups on the same data: the second minus the first, paired by seed and split.

    Below them the difference of the means that the paper reports, which has no interval: its pairs are not known.
    """
    return group_differences(group(runs))


def group_differences(groups: list[Group]) -> list[Row]:
    """`differences`, of runs that are grouped already."""
    rows = []
    for protocol in protocols(groups):
        for part in by_data(groups):
            for first, second in compared(part):
                cells = {score: difference(second, first, protocol, score) for score in SUMMARY}
                if n := cells["all"].n:
                    label = f"{second.label} − {first.label}"
                    rows.append(Row(second.data_name, protocol, label, second.on, second.index, n, cells))
            for first, second in combinations(published.matches(part, protocol), 2):
                gains = {
                    score: published.Figure(round(second.scores[score].mean - first.scores[score].mean, 2))
                    for score in second.scores.keys() & first.scores.keys()
                }
                rows.append(_of_paper(f"{second.method} − {first.method}", second, protocol, gains))
    return rows


def _of_paper(label: str, match: published.Match, protocol: str, scores: published.Scores) -> Row:
    # With the paper's own decimals: 75.55 rounded to one would be a figure that nobody printed.
    cells = {s: Cell(match.splits, *scores[s], decimals=2) if s in scores else Cell(0) for s in SUMMARY}
    mark = "paper, other images" if match.other_images else "paper"
    label = f"{plain(label)} ({mark})"
    member = match.group
    return Row(member.data_name, protocol, label, member.on, member.index, match.splits, cells, of_paper=True)


def difference(one: Group, other: Group, protocol: str, score: str) -> Cell:
    """`one` minus `other` over the runs that share seed, split and example lists.

    It stands out where the 95 % confidence interval of the mean (Student's t) does not hold zero, which takes two
    samples at least.
    """
    partner = {(run.seed, run.split, run.lists): run.score(protocol, score) for run in other.runs}
    values = []
    for run in one.runs:
        mine, theirs = run.score(protocol, score), partner.get((run.seed, run.split, run.lists))
        if mine is not None and theirs is not None:
            values.append((run.split, 100 * (mine - theirs)))
    cell = _cell(values)
    if cell.n < 2:
        return cell
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, cell.n - 1)) * cell.sd / math.sqrt(cell.n)
    # Sums of floats leave crumbs, which are no difference where all samples agree.
    stands_out = abs(cell.mean) > max(half, 1e-9)
    return replace(cell, stands_out=stands_out, interval=(cell.mean - half, cell.mean + half))


def leads(cell: Cell, score: str) -> bool:
    """Whether a difference says that the first of the two is clearly better."""
    return cell.stands_out and (cell.mean < 0) == (score in LOWER_IS_BETTER)


def level(member: Group, protocol: str, score: str) -> Cell:
    """The score of a group of runs."""
    values = ((run.split, run.score(protocol, score)) for run in member.runs)
    return _cell([(split, 100 * value) for split, value in values if value is not None])


def samples(values: Iterable[tuple[Hashable, Sample]]) -> list[Sample]:
    """What the mean and its spread are over, from the value of each run with its split: of one split its runs; of
    several the mean of each. The runs of a split share its images, so they are no independent samples of splits."""
    of_split: dict[Hashable, list[Sample]] = {}
    for split, value in values:
        of_split.setdefault(split, []).append(value)
    several = len(of_split) > 1
    return [x for found in of_split.values() for x in ([sum(found) / len(found)] if several else found)]


def _cell(values: list[tuple[Hashable, float]]) -> Cell:
    found = samples(values)
    n = len(found)
    mean, sd = float(np.mean(found)) if n else None, float(np.std(found, ddof=1)) if n > 1 else None
    return Cell(n, mean, sd, of_splits=n < len(values))


def _best(part: list[Group], protocol: str, score: str) -> Group | None:
    """The group that is clearly better than each other one on the same data; None where there is none."""
    means = {member: cell.mean for member in part if (cell := level(member, protocol, score)).mean is not None}
    if len(means) < 2:
        return None
    first = (min if score in LOWER_IS_BETTER else max)(means, key=means.get)
    rivals = (rival for rival in means if rival is not first)
    return first if all(leads(difference(first, rival, protocol, score), score) for rival in rivals) else None


def to_text(rows: list[Row], sign: bool = False) -> str:
    """The rows for a terminal; a star marks what stands out."""
    return _tabulate(*_cells(rows, sign, str, lambda text: f"{text} *"), "simple")


def to_markdown(rows: list[Row], sign: bool = False) -> str:
    """The rows as a Markdown table; bold marks what stands out."""
    return _tabulate(*_cells(rows, sign, markdown, lambda text: f"**{text}**"), "github") + "\n"


def markdown(text: str) -> str:
    """The text for a cell of a Markdown table: what has a meaning there is escaped, but for `_` within a word, which
    has none."""
    return re.sub(r"[\\`*<&~|$]|(?<!\w)_|_(?!\w)|(?<=\])\(", lambda found: f"\\{found[0]}", text)


def to_latex(rows: list[Row], sign: bool = False) -> str:
    """The rows as a LaTeX tabular that needs the package booktabs; bold marks what stands out."""
    header, body = _cells(rows, sign, latex, lambda text: f"\\textbf{{{text}}}")
    lines = [f"\\begin{{tabular}}{{llr{'l' * len(SUMMARY)}}}", "\\toprule", _latex_row(header), "\\midrule"]
    for place, cells in enumerate(body):
        if place and rows[place].protocol != rows[place - 1].protocol:
            lines.append("\\addlinespace")
        lines.append(_latex_row(cells))
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", ""])


def latex(text: str) -> str:
    """The text for LaTeX: what has a meaning there is escaped, signs are set as mathematics."""
    rules = LATEX_ESCAPE_RULES | {"±": "$\\pm$", "|": "$|$", "\N{MINUS SIGN}": "$-$", "–": "--"}
    escaped = "".join(rules.get(character, character) for character in text)
    return f"{{}}{escaped}" if escaped.startswith(("[", "*")) else escaped  # either has a meaning after a row's end


def _latex_row(cells: list[str]) -> str:
    return " & ".join(cells) + " \\\\"


def _tabulate(header: list[str], body: list[list[str]], style: str) -> str:
    align = ("left", "left", "right", *["left"] * len(SUMMARY))
    return tabulate(body, header, style, disable_numparse=True, colalign=align if body else None)


def _cells(
    rows: list[Row], sign: bool, escaped: Callable[[str], str], marked: Callable[[str], str]
) -> tuple[list[str], list[list[str]]]:
    """Header and body of a table; what stands out is marked after it was escaped."""
    body = []
    for row in rows:
        cells = [row.cells[score] for score in SUMMARY]
        texts = [escaped(cell.text(sign)) for cell in cells]
        texts = [marked(text) if cell.stands_out else text for text, cell in zip(texts, cells, strict=True)]
        body.append([escaped(plain(row.protocol)), escaped(row.label + row.on), row.counted, *texts])
    return ["protocol", "runs of", "n", *(score.capitalize() for score in SUMMARY)], body


def to_csv(runs: list[Run]) -> str:
    """One line for each run, protocol and score, as shares from 0 to 1 at full precision."""
    text = io.StringIO()
    writer = Writer(text)
    writer.writerow(
        ("run", "group", "method", "seed", "split", "data_seed", "data", "subset", "protocol", "score", "value")
    )
    for member in group(runs):
        for run in member.runs:
            data = plain(run.results.data.name), subset(run)
            facts = (run.name, member.label, run.method, run.seed, *run.split, *data)
            for protocol, record in run.protocols.items():
                for score in (*SUMMARY, f"validation_{record.metric}"):
                    value = run.score(protocol, score)
                    writer.writerow((*facts, plain(protocol), score, value))
    return text.getvalue()


def means_to_csv(levels: list[Row], differences: list[Row]) -> str:
    """One line for each number of the two tables, as shares from 0 to 1: n, mean, sample standard deviation, and of
    differences the confidence interval."""
    text = io.StringIO()
    writer = Writer(text)
    writer.writerow(("kind", "data", "protocol", "group", "score", "n", "mean", "sd", "low", "high"))
    for kind, rows in (("mean", levels), ("difference", differences)):
        for row in rows:
            kind_of_row = f"{kind} of paper" if row.of_paper else kind
            for score, cell in row.cells.items():
                numbers = [cell.mean, cell.sd, *(cell.interval or (None, None))]
                shares = [None if number is None else number / 100 for number in numbers]
                writer.writerow((kind_of_row, row.data, plain(row.protocol), row.label, score, cell.n, *shares))
    return text.getvalue()


def classes_to_csv(runs: list[Run]) -> str:
    """One line for each run, protocol and class, the most frequent class first: its score as a share from 0 to 1."""
    text = io.StringIO()
    writer = Writer(text)
    writer.writerow(("run", "group", "protocol", "rank", "class", "class_group", "train_images", "value"))
    for member in group(runs):
        for run in member.runs:
            data = run.results.data
            order = np.argsort(-np.array(data.train_counts), kind="stable")
            for protocol, record in run.protocols.items():
                for rank, c in enumerate(order, start=1):
                    facts = rank, data.class_names[c], data.groups[c], data.train_counts[c]
                    writer.writerow((run.name, member.label, plain(protocol), *facts, record.per_class[c]))
    return text.getvalue()
