"""The ledger of a table: what the paper has, what our runs have, what is not run; and which runs are listed only.

Averages are over runs of one commit and one set of images. What is of another commit, of other images or of another
config, or is not evaluated by all that the table shows, is named and left out; a run that diverged is counted as that.
"""

import csv
import io
import json
import statistics
from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

import jobs
import ledger
from ledger import DONE, OVER, Finished
from lists import WARNED, Column, Planned, Row, Table, kind_of
from tabulate import tabulate

from sdclr_jax import records
from sdclr_jax.errors import UserError
from sdclr_jax.reports import published
from sdclr_jax.reports.published import Figure
from sdclr_jax.reports.tables import samples

UNKNOWN, NOT_RUN, NOT_AVERAGED = "not at hand", "not run", "not averaged"
_RESUMED, _DIRTY = " then ", "-dirty"  # what `ledger` and versions.json mark a commit with


@dataclass
class Line:
    """A row of a table with its runs."""

    row: Row
    planned: int = 0
    done: list[Finished] = field(default_factory=list)
    diverged: list[str] = field(default_factory=list)
    under_way: list[str] = field(default_factory=list)
    not_run: list[str] = field(default_factory=list)
    listed: dict[str, str] = field(default_factory=dict)  # run -> why it is not averaged

    @property
    def label(self) -> str:
        label = self.row.label or self.row.name
        return label + (f" ({len(self.diverged)} of {self.planned} diverged)" if self.diverged else "")

    def paper(self, table: Table, score: str) -> Figure | None:
        """The paper's figure for a score, `PROTOCOL.NAME`; None where it is not at hand."""
        protocol, _, name = score.partition(".")
        scores = published.DATA_SETS[table.paper].scores if table.paper else {}
        return scores.get((kind_of(protocol), self.row.paper), {}).get(name)

    def values(self, column: Column) -> list[float]:
        """A value for each run, or for each split where there are several: what a mean and its spread are over."""
        runs = [run for run in self.done if column.score in run.scores]
        return samples(((run.split, run.data_seed), column.scale * run.scores[column.score]) for run in runs)

    def shown(self, column: Column) -> str:
        if column.score == WARNED:
            return self._warned()
        values = self.values(column)
        return _spread(values, column.decimals) if values else self.nothing

    @property
    def nothing(self) -> str:
        """What stands for no value: why there is none."""
        return "–" if self.done or self.diverged else NOT_AVERAGED if self.listed else NOT_RUN

    def _warned(self) -> str:
        steps: dict[str, list[int]] = {}
        for run in self.done:
            for cause, step in run.warnings.items():
                steps.setdefault(cause, []).append(step)
        n = len(self.done)
        said = [f"{cause} (in {len(at)} of {n} runs, first at step {min(at)})" for cause, at in steps.items()]
        return "; ".join(said) or ("none" if n else self.nothing)


@dataclass(frozen=True)
class Collected:
    """A table and its lines, with what all averaged runs share."""

    table: Table
    lines: list[Line]
    commit: str
    data: str

    @property
    def runs(self) -> list[Finished]:
        return [run for line in self.lines for run in line.done]

    def facts(self, name: str) -> str:
        """What the averaged runs have of a field, each value once."""
        return "; ".join(sorted({getattr(run, name) for run in self.runs} - {""}))


def collect(table: Table, runs: list[Finished], planned: list[Planned], commit: str = "") -> Collected:
    """Sort the runs of a folder into the lines of a table.

    Args:
        table: the table.
        runs: what is in the folder, by `ledger.read_all`.
        planned: the table's runs.
        commit: that whose runs are averaged, or how it begins; '' is that of most runs. One that made its runs alone
            and without changes of its own comes before others.

    Raises:
        UserError: no run has the commit.
    """
    there, shown = {run.run: run for run in runs}, _protocols(table)
    lines = {row.name: Line(row) for row in table.rows}
    sound: list[_Sound] = []
    for each in planned:
        line, run, name = lines[each.row.name], there.get(each.job.name), each.job.name
        line.planned += 1
        if run is None:
            line.not_run.append(name)
            continue
        config = jobs.config_of(each.job)
        if run.config and run.config != ledger.config_hash(records.flat(json.loads(config.to_json()))):
            line.listed[name] = "another config"
        elif run.sample != (config.seed, config.data.split, config.data.seed):
            line.listed[name] = "another seed or split"
        elif run.fault:
            line.listed[name] = run.fault
        elif run.state not in (DONE, OVER):
            line.under_way.append(name)
        elif lacks := shown - {score.partition(".")[0] for score in run.scores} if run.state == DONE else ():
            line.listed[name] = f"not evaluated by {', '.join(sorted(lacks))}"
        else:
            drawn = json.dumps({field: x for field, x in config.data.items() if field != "subset"}, default=str)
            images = config.data.subset, config.data.without
            sound.append(_Sound(line, each, run, images, config.evaluate.to_json(), drawn))
    chosen = _chosen([of.run for of in sound], commit)
    of_sample: dict[tuple, Counter] = {}
    of_list: dict[tuple, Counter] = {}
    of_protocol: dict[tuple, Counter] = {}
    for of in sound:
        counted = (of.run.commit, of.run.data) == chosen
        of_sample.setdefault((of.images, of.run.sample), Counter())[of.run.images] += counted
        for name, sha256 in of.run.lists.items():
            of_list.setdefault((of.drawn, name), Counter())[sha256] += counted
        for protocol, settings in of.run.settings.items():
            of_protocol.setdefault((of.evaluate, protocol), Counter())[settings] += counted
    for of in sound:
        if why := _why_not(of, table, chosen, of_sample, of_list, of_protocol):
            of.line.listed[of.run.run] = why
        elif of.run.state == OVER:
            of.line.diverged.append(of.run.run)
        else:
            of.line.done.append(of.run)
    return Collected(table, list(lines.values()), *chosen)


def _protocols(table: Table) -> set[str]:
    """The protocols whose scores a table shows."""
    return {column.score.partition(".")[0] for column in table.shown()} - {"metrics", "features", WARNED}


def _chosen(runs: list[Finished], commit: str) -> tuple[str, str]:
    """The commit and the images of the runs that are averaged."""
    of_it = [run for run in runs if run.commit.startswith(commit) or _short(run.commit) == commit]
    if runs and not of_it:
        known = ", ".join(sorted({_short(run.commit) for run in runs}))
        raise UserError(f"--commit is {commit}, which no run has: those of the runs are {known}")
    # What has diverged has no scores to choose by, and what its images are called is not always known.
    most = Counter((run.commit, run.data) for run in [run for run in of_it if run.state == DONE] or of_it)

    def order(key: tuple[str, str]) -> tuple:
        made_by = key[0]
        clean = made_by not in ("", "unknown") and _RESUMED not in made_by and _DIRTY not in made_by
        return commit in (made_by, _short(made_by)) and commit != "", clean, most[key], key

    return max(most, key=order) if most else ("", "")


class _Sound(NamedTuple):
    """A run that is what its table plans; whether it is averaged depends on the others."""

    line: Line
    planned: Planned
    run: Finished
    images: tuple[str, str]  # the subset that it is trained on, and the file of those that are left out
    evaluate: str  # fields of the config
    drawn: str  # those that say which lists of images an evaluation has


def _why_not(
    of: _Sound, table: Table, chosen: tuple[str, str], of_sample: dict, of_list: dict, of_protocol: dict
) -> str:
    """Why a run is not averaged with those of the chosen commit and images; '' where it is."""
    subset, without = of.images
    pinned = None if without else table.lists.get(subset, {}).get(str(of.planned.split))

    def odd(own: dict[str, str], of_all: dict, of_what: str) -> str:
        return ", ".join(name for name, x in own.items() if x != of_all[of_what, name].most_common(1)[0][0])

    if of.run.data not in ("", chosen[1]):
        return f"other images: {of.run.data}"
    if of.run.images != (pinned or of_sample[of.images, of.run.sample].most_common(1)[0][0]):
        return f"another list of images: {of.run.images[:8]}…"
    if of.run.commit != chosen[0]:
        return f"commit {_short(of.run.commit)}"
    if lists := odd(of.run.lists, of_list, of.drawn):
        return f"another list of {lists}"
    shown = {name: x for name, x in of.run.settings.items() if name in _protocols(table)}
    settings = odd(shown, of_protocol, of.evaluate)
    return f"other settings of {settings}" if settings else ""


def markdown(found: Collected) -> str:
    """The table, with a sentence on what is not in its averages."""
    made = _by_protocol(found) if found.table.protocols else _by_column(found)
    return "\n".join([made, *(f"\n{sentence}" for sentence in sentences(found))]) + "\n"


def sentences(found: Collected) -> list[str]:
    """What a reader must know of the runs that a table averages, and of those that it does not."""
    said = [f"Averaged: {_made_by(found.commit)}."] if found.runs else []
    for what, kind in (("diverged", "diverged"), ("is under way", "under_way")):
        names = [name for line in found.lines for name in getattr(line, kind)]
        said += [f"{', '.join(names)} {what if len(names) == 1 else what.replace('is ', 'are ')}."] if names else []
    if any(len({(run.split, run.data_seed) for run in line.done}) not in (1, len(line.done)) for line in found.lines):
        said.append("The seeds of each split are averaged first: ± is over the splits.")
    missing = [f"{len(line.not_run)} of {line.planned} of {line.row.name}" for line in found.lines if line.not_run]
    if missing and found.runs and not found.table.protocols:  # where these stand, n says it
        said.append(f"Not run: {', '.join(missing)}.")
    listed = {name: why for line in found.lines for name, why in line.listed.items()}
    if listed:
        said.append(f"Not averaged: {'; '.join(f'{name} ({why})' for name, why in listed.items())}.")
    return said


def _by_column(found: Collected) -> str:
    columns = found.table.shown()
    body = [[line.label, *(line.shown(column) for column in columns)] for line in found.lines]
    headers = [found.table.corner, *(column.title for column in columns)]
    return tabulate(body, headers, tablefmt="github", disable_numparse=True)


def _by_protocol(found: Collected) -> str:
    parts = []
    for protocol in found.table.protocols:
        columns = [column for column in found.table.shown() if column.score.startswith(f"{protocol}.")]
        body = []
        for line in found.lines:
            if line.row.paper:
                figures = [line.paper(found.table, column.score) for column in columns]
                n = str(published.DATA_SETS[found.table.paper].splits) if any(figures) else ""
                body.append([line.label, "paper", n, *(_figure(figure) for figure in figures)])
            whose = f"ours, {found.data}" if line.done else "ours"
            n = f"{len(line.done)} of {line.planned}"
            body.append([line.label, whose, n, *(line.shown(column) for column in columns)])
        headers = [protocol, "whose", "n", *(column.title for column in columns)]
        parts.append(tabulate(body, headers, tablefmt="github", disable_numparse=True))
    return "\n\n".join(parts)


def _figure(figure: Figure | None) -> str:
    if figure is None:
        return UNKNOWN
    return f"{figure.mean:.2f}" + (f" ± {figure.sd:.2f}" if figure.sd is not None else "")


def to_csv(found: Collected) -> str:
    """The ledger: a line a cell."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = "table,row,score,paper,paper_sd,paper_n,ours,sd,n,planned,diverged,under_way,not_run,listed"
    writer.writerow([*columns.split(","), "commit", "data", "hardware", "jax"])
    for line in found.lines:
        counts = [line.planned, *(len(x) for x in (line.diverged, line.under_way, line.not_run))]
        listed = "; ".join(f"{name}: {why}" for name, why in line.listed.items())
        for column in found.table.shown():
            figure = line.paper(found.table, column.score)
            paper = [UNKNOWN if line.row.paper else "", "", ""]
            if figure:
                paper = [figure.mean, figure.sd, published.DATA_SETS[found.table.paper].splits]
            if column.score == WARNED:
                ours = [line.shown(column), "", len(line.done)]
            else:
                values = line.values(column)
                ours = [statistics.mean(values) if values else line.nothing]
                ours += [statistics.stdev(values) if len(values) > 1 else "", len(values)]
            made = [found.commit, found.data, found.facts("hardware"), found.facts("jax")] if line.done else [""] * 4
            row = [
                found.table.name,
                line.row.label or line.row.name,
                column.score,
                *paper,
                *ours,
                *counts,
                listed,
                *made,
            ]
            writer.writerow(["" if value is None else value for value in row])
    return text.getvalue()


def _spread(values: list[float], decimals: int) -> str:
    mean = f"{statistics.mean(values):.{decimals}f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.{decimals}f}"


def _short(commit: str) -> str:
    """A commit as a person writes it.

    >>> _short("1" * 40 + "-dirty then " + "2" * 40), _short("")
    ('1111111-dirty then 2222222', 'unknown')
    """
    parts = commit.split(_RESUMED)
    return _RESUMED.join(part[:7] + _DIRTY * part.endswith(_DIRTY) for part in parts) or "unknown"


def _made_by(commit: str) -> str:
    said = f"runs of commit {_short(commit)}" if commit not in ("", "unknown") else "runs of a commit that is not known"
    said += ", which another commit resumed" * (_RESUMED in commit)
    return said + f"; {_DIRTY.strip('-')} means: with changes that are not committed" * (_DIRTY in commit)
