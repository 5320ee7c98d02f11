"""The pictures of a report: each function draws groups on one data set and gives an SVG element, or nothing."""

import itertools

import numpy as np

from sdclr_jax.records import SUMMARY
from sdclr_jax.reports import curves
from sdclr_jax.reports.groups import Group
from sdclr_jax.reports.runs import Run, plain
from sdclr_jax.reports.svg import INK, colour, dash, draw_line, drawing, finish
from sdclr_jax.reports.tables import samples, title

TOTAL = "all"  # the name of the density of all layers together
SIGNS = {  # of collapse: field of the metrics -> what its axis says
    "projection_std": "std",
    "projection_rank": "rank",
    "feature_rank": "feature rank",
    "uniformity": "uniformity",
    "alignment": "alignment",
    "alignment_ratio": "alignment ratio",
    "prototype_usage": "prototypes",
}
BRANCH_MARKERS = {"sparse": "v", "target": "o"}  # none for the dense branch, nor for what belongs to no branch
NAMED_CLASSES = 20  # up to which every class has its name on the axis
MOST_BARS = 60  # in a picture: thinner ones cannot be distinguished, and lines take their place
BARS = 0.8  # of the room of a class, for all its bars together
MOST_RUNS = 30  # of a group whose own lines are drawn beside their mean
MARKED_POINTS = 20  # of a line at most, up to which each has a marker


def loss(groups: list[Group], name: str) -> str:
    """The training loss: a thin line for each run, a thick one for the mean of its group. Empty without metrics."""
    found = {member: curves.of(member, "loss") for member in groups}
    if not any(found.values()):
        return ""
    with drawing(height=280) as axes:
        for member, lines in found.items():
            look = {"color": colour(member.index), "linestyle": dash(member.index)}
            for line in map(curves.thinned, lines[:MOST_RUNS]):
                axes.plot(line.epochs, line.values, **look | {"linestyle": "-"}, linewidth=0.8, alpha=0.45)
            if lines:
                line = curves.thinned(curves.mean(lines))
                axes.plot(line.epochs, line.values, **look, linewidth=2.2, marker=_point(line), markersize=5)
        axes.set_xlabel("epoch")
        axes.set_ylabel("training loss")
        names = " and ".join(member.label for member, lines in found.items() if lines)
        return finish(axes, name, f"Line chart: training loss by epoch of {names}.")


def _point(line: curves.Curve) -> str | None:
    """A marker for a line of one point, which could not be seen."""
    return "." if line.values.size == 1 else None


def collapse(groups: list[Group], name: str) -> str:
    """Signs of collapse over training: a panel each, and a line for every branch, the mean over the runs of a group.

    Empty where no run was measured; what no run has takes no panel.
    """
    measured_groups = [member for member in groups if any(map(measured, member.runs))]
    keys = curves.fields([run for member in measured_groups for run in member.runs])
    panels = {}
    for field in SIGNS:
        own = [key for key in keys if key.partition("/")[0] == field]
        lines = [(member, key, found) for member in measured_groups for key in own if (found := curves.of(member, key))]
        if lines:
            panels[field] = lines
    if not panels:
        return ""
    with drawing(height=40 + 120 * len(panels), rows=len(panels)) as rows:
        for axes, (field, lines) in zip(np.atleast_1d(rows), panels.items(), strict=True):
            for member, key, found in lines:
                line = curves.thinned(curves.mean(found), curves.POINTS // 3)
                look = {"color": colour(member.index), "linestyle": dash(member.index), "linewidth": 1.6}
                marker, few = BRANCH_MARKERS.get(key.partition("/")[2], _point(line)), line.values.size <= MARKED_POINTS
                axes.plot(line.epochs, line.values, marker=marker, markersize=5, markevery=1 if few else 0.17, **look)
            # Zero is where all has collapsed: a curve's height says how far from it the run is.
            axes.set_ylim(**{"top" if field == "uniformity" else "bottom": 0})
            axes.locator_params(axis="y", nbins=4)
            axes.set_ylabel(SIGNS[field])
        axes.set_xlabel("epoch")
        names = " and ".join(member.label for member in measured_groups)
        return finish(axes, name, f"Line chart: {', '.join(SIGNS[field] for field in panels)} by epoch of {names}.")


def measured(run: Run) -> bool:
    """Whether signs of collapse were measured, other than the standard deviation that every line of metrics has."""
    return any(key.startswith("projection_rank/") for row in run.metrics for key in row)


def accuracy(groups: list[Group], protocol: str, name: str) -> str:
    """Score of each class or attribute, the most frequent first: bars of the means over the runs, with a stroke of one
    standard deviation either way. Beyond `MOST_BARS` lines with a band, as so many bars are a hedge. An attribute that
    has no score leaves a gap."""
    measured = {member: [run for run in member.runs if protocol in run.protocols] for member in groups}
    measured = {member: found for member, found in measured.items() if found}
    runs = [run for found in measured.values() for run in found]
    if not runs:
        return ""
    with drawing(height=330) as axes:
        _draw_bands(axes, runs)
        bars = len(runs[0].results.data.class_names) * len(measured) <= MOST_BARS
        for place, (member, found) in enumerate(measured.items()):
            values = 100 * _by_class(found, protocol)
            mean, sd = values.mean(axis=0), values.std(axis=0, ddof=1) if len(values) > 1 else None
            if bars:
                _draw_bars(axes, member, mean, sd, place, len(measured))
            else:
                draw_line(axes, member.index, np.arange(mean.size), mean, sd, width=1.8)
        axes.set_xticks(*_class_ticks(runs), rotation=55, ha="right", rotation_mode="anchor")
        axes.set_ylim(0, 104)
        axes.set_yticks(range(0, 101, 20))
        axes.grid(axis="x", visible=False)
        what = subject(groups, protocol)
        axes.set_ylabel(f"{what.partition(' by ')[0]}, %")
        names = " and ".join(member.label for member in measured)
        kind = "Bar" if bars else "Line"
        return finish(axes, name, f"{kind} chart: {what}, most frequent first, of {names}; {title(protocol)}.")


def _by_class(runs: list[Run], protocol: str) -> np.ndarray:
    """[samples, C], the most frequent class first; NaN where an attribute has no score."""
    return np.array(
        samples((run.split, np.array(run.protocols[protocol].per_class, float)[_order(run)]) for run in runs)
    )


def _draw_bars(axes, member: Group, mean: np.ndarray, sd: np.ndarray | None, place: int, bars: int) -> None:
    """The group's bar is number `place` of so many `bars` of each class."""
    x = np.arange(mean.size) + BARS * ((place + 0.5) / bars - 0.5)
    axes.bar(x, mean, width=BARS / bars, color=colour(member.index), linewidth=0, alpha=0.85)
    if sd is not None:
        axes.vlines(x, mean - sd, mean + sd, color=INK, linewidth=1.2)


def over_training(groups: list[Group], measure: str, name: str) -> str:
    """Scores of `knn` or `probe` while the runs were trained: a panel each for All, the groups of classes and Std, a
    line for each group of runs with a band of one standard deviation. Empty where no run was scored on its way."""
    panels = {}
    for score in SUMMARY:
        lines = [(member, found) for member in groups if (found := curves.of(member, f"{measure}/{score}"))]
        means = [(member, curves.thinned(curves.mean(found))) for member, found in lines]
        # Where a group of classes is empty all its values are null.
        if means := [(member, line) for member, line in means if np.isfinite(line.values).any()]:
            panels[score] = means
    if not panels:
        return ""
    with drawing(height=45 + 95 * len(panels), rows=len(panels)) as rows:
        for axes, (score, means) in zip(np.atleast_1d(rows), panels.items(), strict=True):
            for member, line in means:
                sd = None if line.sd is None else 100 * line.sd
                marker = 4 if line.values.size <= MARKED_POINTS else 0
                draw_line(axes, member.index, line.epochs, 100 * line.values, sd, width=1.8, marker=marker)
            axes.locator_params(axis="y", nbins=4)
            axes.set_ylabel(f"{score.capitalize()}, %")
        # One height for all accuracies, so that one can be held against another.
        accuracies = [axes for axes, score in zip(np.atleast_1d(rows), panels, strict=True) if score != "std"]
        limits = np.array([axes.get_ylim() for axes in accuracies]).reshape(-1, 2)
        for axes in accuracies:
            axes.set_ylim(max(0, limits[:, 0].min()), min(100, limits[:, 1].max()))
        if "std" in panels:
            np.atleast_1d(rows)[-1].set_ylim(bottom=0)
        np.atleast_1d(rows)[-1].set_xlabel("epoch")
        names = " and ".join(dict.fromkeys(member.label for means in panels.values() for member, _ in means))
        shown = ", ".join(score.capitalize() for score in panels)
        return finish(axes, name, f"Line chart: {title(measure)} on validation images, {shown} by epoch of {names}.")


def subject(groups: list[Group], protocol: str) -> str:
    """What is drawn of a protocol: `accuracy by class`, or `average precision by attribute`."""
    scores = (run.protocols[protocol] for member in groups for run in member.runs if protocol in run.protocols)
    return "accuracy by class" if next(scores).metric == "accuracy" else "average precision by attribute"


def density(groups: list[Group], name: str) -> str:
    """Share of weights that the last mask keeps, by layer; a stroke marks the first mask. Empty without masks."""
    masked = {member: [(run.split, found) for run in member.runs if (found := masks(run))] for member in groups}
    masked = {member: found for member, found in masked.items() if found}
    if not masked:
        return ""
    layers = list(dict.fromkeys(layer for found in masked.values() for _, (_, last) in found for layer in last))
    layers.sort(key=TOTAL.__eq__)  # the total to the end, the layers as they come
    height = 0.8 / len(masked)
    with drawing(height=70 + len(layers) * max(17, 9 * len(masked))) as axes:
        for place, (member, found) in enumerate(masked.items()):
            y = np.arange(len(layers)) + (place + 0.5) * height - 0.4
            first, last = (
                [
                    100 * float(np.mean(samples((at, mask[when].get(layer, np.nan)) for at, mask in found)))
                    for layer in layers
                ]
                for when in (0, 1)
            )
            axes.barh(y, last, height=0.9 * height, color=colour(member.index), alpha=0.8, linewidth=0)
            axes.plot(first, y, "|", color=INK, markersize=min(11, 15 * height), markeredgewidth=1.6)
        axes.set_yticks(range(len(layers)), _shortened(layers))
        axes.set_ylim(len(layers) - 0.5, -0.5)
        axes.set_xlim(left=0)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("weights kept, %")
        names = " and ".join(member.label for member in masked)
        return finish(axes, name, f"Bar chart: share of weights that the last mask keeps in each layer, of {names}.")


def masks(run: Run) -> list[dict[str, float]]:
    """The first and the last mask's densities by layer, or nothing."""
    found = [
        {key.removeprefix("density/"): value for key, value in row.items() if key.startswith("density/")}
        for row in run.metrics
    ]
    found = list(filter(None, found))
    return [found[0], found[-1]] if found else []


def _order(run: Run) -> np.ndarray:
    return np.argsort(-np.array(run.results.data.train_counts), kind="stable")


def _class_ticks(runs: list[Run]) -> tuple[list[int], list[str]]:
    """Places and texts: the class and its training images, or its rank where splits rank the classes differently."""
    names = {tuple(np.take(run.results.data.class_names, _order(run))) for run in runs}
    counts = np.array([np.take(run.results.data.train_counts, _order(run)) for run in runs])  # [runs, C]
    last = counts.shape[1] - 1
    places = range(last + 1) if last < NAMED_CLASSES else np.linspace(0, last, 9).astype(int)
    texts = []
    for place in places:
        text = next(iter(names))[place] if len(names) == 1 else f"rank {place + 1}"
        text = text if len(text) <= 16 else text[:15] + "…"
        low, high = counts[:, place].min(), counts[:, place].max()
        texts.append(f"{text} ({low})" if low == high else f"{text} ({low} to {high})")
    return list(places), texts


def _draw_bands(axes, runs: list[Run]) -> None:
    """Many, medium and few as backgrounds, where all runs agree on them."""
    by_rank = {tuple(np.take(run.results.data.groups, _order(run))) for run in runs}
    if len(by_rank) != 1:
        return
    left = -0.5
    for place, (name, classes) in enumerate(itertools.groupby(by_rank.pop())):
        right = left + len(list(classes))
        if place % 2 == 0:
            axes.axvspan(left, right, color=INK, alpha=0.06, linewidth=0)
        axes.text((left + right) / 2, 1.02, name, transform=axes.get_xaxis_transform(), ha="center", va="bottom")
        left = right
    axes.set_xlim(-0.5, left)


def _shortened(layers: list[str]) -> list[str]:
    """Layer paths without the parts that all of them begin or end with; the total is no path."""
    paths = [layer.split("/") for layer in layers if layer != TOTAL]
    while paths and all(len(path) > 1 and path[0] == paths[0][0] for path in paths):
        paths = [path[1:] for path in paths]
    while paths and all(len(path) > 1 and path[-1] == paths[0][-1] for path in paths):
        paths = [path[:-1] for path in paths]
    return [plain("/".join(path))[-28:] for path in paths] + [TOTAL] * (TOTAL in layers)
