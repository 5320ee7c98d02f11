"""Pictures of what pruning forgets over training: rare classes among the most forgotten images; the mask's drift."""

from collections.abc import Callable, Mapping

import numpy as np

from sdclr_jax.records import Summary
from sdclr_jax.records.exemplars import Checkpoint, GroupShare
from sdclr_jax.reports import curves
from sdclr_jax.reports.curves import Curve
from sdclr_jax.reports.groups import Group
from sdclr_jax.reports.runs import Run
from sdclr_jax.reports.svg import INK, colour, draw_line, drawing, finish

Found = Mapping[Run, Summary]  # of the runs that have any
TOP = 0.1  # of the images: the forgotten set of which shares are shown
DRIFT = {"since_first": "first", "since_previous": "previous"}


def rare(groups: list[Group], found: Found, name: str) -> str:
    """Share of few-shot images in the most forgotten tenth by epoch, with the interval that chance gives for one run.

    Empty where no run has both exemplars and few-shot classes.
    """
    lines = _means(groups, found, lambda summary, point: getattr(_few(summary, point), "share", None))
    if not lines:
        return ""
    # Of one data set all runs have as many images of few-shot classes, and so one interval.
    null = next(few for summary in found.values() if (few := _few(summary, summary.checkpoints[0])))
    epochs = [min(line.epochs[0] for _, line in lines), max(line.epochs[-1] for _, line in lines)]
    with drawing(height=280) as axes:
        low, expected, high = (100 * getattr(null, key) for key in ("low", "expected", "high"))
        room = (epochs[1] - epochs[0]) / 50 or 1
        around = [epochs[0] - room, epochs[1] + room]
        axes.fill_between(around, low, high, color=INK, alpha=0.12, linewidth=0)
        axes.plot(around, [expected, expected], color=INK, linewidth=0.8)
        for member, line in lines:
            _draw(axes, member, line)
        axes.set_xlim(*around)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("epoch")
        axes.set_ylabel("few-shot images, %")
        names = " and ".join(member.label for member, _ in lines)
        return finish(axes, name, f"Line chart: share of few-shot images in the most forgotten tenth, of {names}.")


def drift(groups: list[Group], found: Found, name: str) -> str:
    """Weights that the masks of two checkpoints share, by epoch: with the first mask, and with the one before.

    Empty where no run has two checkpoints.
    """
    panels = {}
    for since in DRIFT:
        jaccard, chance = (_means(groups, found, _drift(since, key), least=2) for key in ("jaccard", "chance"))
        if jaccard:
            panels[since] = jaccard, chance
    if not panels:
        return ""
    with drawing(height=50 + 130 * len(panels), rows=len(panels)) as rows:
        for axes, (since, (jaccard, chance)) in zip(np.atleast_1d(rows), panels.items(), strict=True):
            for member, line in jaccard:
                _draw(axes, member, line)
            for member, line in chance:
                axes.plot(line.epochs, 100 * line.values, color=colour(member.index), linewidth=0.8)
            axes.set_ylim(0, 104)
            axes.set_ylabel(f"with {DRIFT[since]}, %")
        axes.set_xlabel("epoch")
        names = " and ".join(member.label for member, _ in panels["since_first"][0])
        return finish(axes, name, f"Line chart: weights that two masks share, of those that either keeps, of {names}.")


def _few(summary: Summary, point: Checkpoint) -> GroupShare | None:
    shares = point.at(summary.ranked_by.rate).scores[summary.ranked_by.score].shares
    return next((part.groups.get("few") for part in shares if part.fraction == TOP), None)


def _drift(since: str, key: str) -> Callable[[Summary, Checkpoint], float | None]:
    return lambda summary, point: getattr(getattr(point.at(summary.ranked_by.rate).mask, since), key, None)


def _means(
    groups: list[Group], found: Found, value: Callable[[Summary, Checkpoint], float | None], least: int = 1
) -> list[tuple[Group, Curve]]:
    """The mean over the runs of each group that have the value at so many checkpoints."""
    means = []
    for member in groups:
        lines = []
        for run, summary in ((run, found[run]) for run in member.runs if run in found):
            points = [(point.step, point.epoch, value(summary, point)) for point in summary.checkpoints]
            points = [point for point in points if point[2] is not None]
            if points and len(summary.checkpoints) >= least:
                lines.append(Curve(*np.array(points, float).T, split=run.split))
        if lines and (mean := curves.mean(lines)).steps.size:
            means.append((member, mean))
    return means


def _draw(axes, member: Group, line: Curve) -> None:
    sd = None if line.sd is None else 100 * line.sd
    draw_line(axes, member.index, line.epochs, 100 * line.values, sd, width=2, marker=5)
