"""Fields of the metrics over training: of each run, and as the mean of a group's runs."""

import io
from collections.abc import Hashable
from typing import NamedTuple

import numpy as np

from sdclr_jax.records.sheets import Writer
from sdclr_jax.reports.groups import Group, by_data, group
from sdclr_jax.reports.runs import Run, plain
from sdclr_jax.reports.tables import samples

POINTS = 150  # of a curve in a picture at most; more cannot be seen, and would make the page heavy
POINTS_IN_FILES = 400


class Curve(NamedTuple):
    """A field of one run, or the mean over several: one value for each line of the metrics that has it."""

    steps: np.ndarray  # [N]
    epochs: np.ndarray  # [N]
    values: np.ndarray  # [N], NaN where the field is no number
    sd: np.ndarray | None = None  # [N], sample standard deviation over the samples of a mean
    n: int = 1  # samples of a mean: runs, or splits; see `tables.samples`
    split: Hashable = None  # of a run


def of(member: Group, field: str) -> list[Curve]:
    """A curve for each run of the group that has the field."""
    found = []
    for run in member.runs:
        if rows := [row for row in run.metrics if field in row]:
            steps, epochs, values = (
                np.array([row.get(key, row["step"]) for row in rows], float) for key in ("step", "epoch", field)
            )
            found.append(Curve(steps, epochs, np.where(np.isfinite(values), values, np.nan), split=run.split))
    return found


def mean(curves: list[Curve]) -> Curve:
    """Mean over the runs, or over several splits, only where all runs have arrived: a mean over fewer would jump."""
    shared = sorted(set.intersection(*(set(curve.steps) for curve in curves)))
    rows = [np.isin(curve.steps, shared) for curve in curves]
    values = np.array(samples((curve.split, curve.values[row]) for curve, row in zip(curves, rows, strict=True)))
    sd = values.std(axis=0, ddof=1) if len(values) > 1 else None
    return Curve(np.array(shared), curves[0].epochs[rows[0]], values.mean(axis=0), sd, len(values))


def thinned(curve: Curve, points: int = POINTS) -> Curve:
    """Means over neighbours, `points` of them at most."""
    if curve.steps.size <= points:
        return curve

    def fewer(line: np.ndarray) -> np.ndarray:
        return np.array([part.mean() for part in np.array_split(line, points)])

    lines = {name: line for name, line in curve._asdict().items() if isinstance(line, np.ndarray)}
    return curve._replace(**{name: fewer(line) for name, line in lines.items()})


def fields(runs: tuple[Run, ...] | list[Run]) -> list[str]:
    """Every field of the metrics of these runs but those that tell when a line was written."""
    return sorted({key for run in runs for row in run.metrics for key in row} - {"step", "epoch"})


def to_csv(runs: list[Run]) -> str:
    """The mean of each group in each field of the metrics, thinned to `POINTS_IN_FILES`; empty where no number is."""
    text = io.StringIO()
    writer = Writer(text)
    writer.writerow(("data", "group", "field", "n", "step", "epoch", "mean", "sd"))
    for member in (member for part in by_data(group(runs)) for member in part):
        for field in fields(member.runs):
            curve = thinned(mean(of(member, field)), POINTS_IN_FILES)
            deviations = [None] * len(curve.steps) if curve.sd is None else curve.sd
            for step, epoch, value, sd in zip(curve.steps, curve.epochs, curve.values, deviations, strict=True):
                numbers = [
                    "" if number is None or np.isnan(number) else f"{number:.6g}" for number in (step, epoch, value, sd)
                ]
                writer.writerow((member.data_name, member.label, plain(field), curve.n, *numbers))
    return text.getvalue()
