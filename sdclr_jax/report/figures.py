"""The pictures of a report: each function draws groups on one data set and gives an SVG element, or nothing."""

import itertools

import numpy as np

from sdclr_jax.report.groups import Group
from sdclr_jax.report.runs import Run, metric, plain
from sdclr_jax.report.svg import INK, colour, dash, drawing, finish
from sdclr_jax.report.tables import title

MARKERS = "os^Dv"
POINTS = 150  # of a curve at most; more cannot be seen, and would make the page heavy
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


def loss(groups: list[Group], name: str) -> str:
    """The training loss: a thin line for each run, a thick one for the mean of its group. Empty without metrics."""
    curves = {member: _curves(member, "loss") for member in groups}
    if not any(curves.values()):
        return ""
    with drawing(height=280) as axes:
        for member, lines in curves.items():
            look = {"color": colour(member.index), "linestyle": dash(member.index)}
            for _, epochs, losses in lines:
                axes.plot(*_thinned(epochs, losses), **look | {"linestyle": "-"}, linewidth=0.8, alpha=0.45)
            if lines:
                axes.plot(*_thinned(*_mean(lines)), **look, linewidth=2.2)
        axes.set_xlabel("epoch")
        axes.set_ylabel("training loss")
        names = " and ".join(member.label for member, lines in curves.items() if lines)
        return finish(axes, name, f"Line chart: training loss by epoch of {names}.")


def collapse(groups: list[Group], name: str) -> str:
    """Signs of collapse over training: a panel each, and a line for every branch, the mean over the runs of a group.

    Empty where no run was measured; what no run has takes no panel.
    """
    measured_groups = [member for member in groups if any(map(measured, member.runs))]
    keys = sorted({key for member in measured_groups for run in member.runs for row in run.metrics for key in row})
    panels = {}
    for field in SIGNS:
        own = [key for key in keys if key.partition("/")[0] == field]
        lines = [(member, key, found) for member in measured_groups for key in own if (found := _curves(member, key))]
        if lines:
            panels[field] = lines
    if not panels:
        return ""
    with drawing(height=40 + 120 * len(panels), rows=len(panels)) as rows:
        for axes, (field, lines) in zip(np.atleast_1d(rows), panels.items(), strict=True):
            for member, key, found in lines:
                epochs, mean = _thinned(*_mean(found), points=POINTS // 3)
                look = {"color": colour(member.index), "linestyle": dash(member.index), "linewidth": 1.6}
                marker = BRANCH_MARKERS.get(key.partition("/")[2])
                axes.plot(epochs, mean, marker=marker, markersize=5, markevery=0.17, **look)
            # Zero is where all has collapsed: a curve's height says how far from it the run is.
            axes.set_ylim(**{"top" if field == "uniformity" else "bottom": 0})
            axes.locator_params(axis="y", nbins=4)
            axes.set_ylabel(SIGNS[field])
        axes.set_xlabel("epoch")
        names = " and ".join(member.label for member in measured_groups)
        return finish(axes, name, f"Line chart: {', '.join(SIGNS[field] for field in panels)} by epoch of {names}.")


def measured(run: Run) -> bool:
    """Whether signs of collapse were measured besides the standard deviation that every line of metrics has."""
    return any(key.startswith("projection_rank/") for row in run.metrics for key in row)


def accuracy(groups: list[Group], protocol: str, name: str) -> str:
    """Score of each class or attribute, the most frequent first: mean over the runs, and a band of one standard
    deviation. An attribute that has no score leaves a gap."""
    measured = {member: [run for run in member.runs if protocol in run.protocols] for member in groups}
    runs = [run for found in measured.values() for run in found]
    if not runs:
        return ""
    with drawing(height=330) as axes:
        _draw_bands(axes, runs)
        for member, found in measured.items():
            if not found:
                continue
            values = 100 * np.array(
                [np.take(run.protocols[protocol]["per_class"], _order(run)) for run in found], float
            )
            x, mean = np.arange(values.shape[1]), values.mean(axis=0)
            look = {"color": colour(member.index)}
            if len(found) > 1:
                sd = values.std(axis=0, ddof=1)
                axes.fill_between(x, mean - sd, mean + sd, alpha=0.18, linewidth=0, **look)
            marker = MARKERS[member.index % len(MARKERS)] if len(x) <= NAMED_CLASSES else None
            axes.plot(x, mean, marker=marker, markersize=5.5, linewidth=1.8, linestyle=dash(member.index), **look)
        axes.set_xticks(*_class_ticks(runs), rotation=55, ha="right", rotation_mode="anchor")
        axes.set_ylim(0, 104)
        axes.set_yticks(range(0, 101, 20))
        axes.grid(axis="x", visible=False)
        what = subject(groups, protocol)
        axes.set_ylabel(f"{what.partition(' by ')[0]}, %")
        names = " and ".join(member.label for member, found in measured.items() if found)
        return finish(axes, name, f"Line chart: {what}, most frequent first, of {names}; {title(protocol)}.")


def subject(groups: list[Group], protocol: str) -> str:
    """What is drawn of a protocol: `accuracy by class`, or `average precision by attribute`."""
    records = (run.protocols[protocol] for member in groups for run in member.runs if protocol in run.protocols)
    return "accuracy by class" if metric(next(records)) == "accuracy" else "average precision by attribute"


def density(groups: list[Group], name: str) -> str:
    """Share of weights that the last mask keeps, by layer; a stroke marks the first mask. Empty without masks."""
    masked = {member: [found for run in member.runs if (found := masks(run))] for member in groups}
    masked = {member: found for member, found in masked.items() if found}
    if not masked:
        return ""
    layers = list(dict.fromkeys(layer for found in masked.values() for _, last in found for layer in last))
    layers.sort(key=TOTAL.__eq__)  # the total to the end, the layers as they come
    height = 0.8 / len(masked)
    with drawing(height=70 + len(layers) * max(17, 9 * len(masked))) as axes:
        for place, (member, found) in enumerate(masked.items()):
            y = np.arange(len(layers)) + (place + 0.5) * height - 0.4
            first, last = (
                [100 * float(np.mean([mask[when].get(layer, np.nan) for mask in found])) for layer in layers]
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


def _curves(member: Group, field: str) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Steps, epochs and values of a field of the metrics, for each run that has it."""
    found = []
    for run in member.runs:
        if rows := [row for row in run.metrics if field in row]:
            steps, epochs, values = (
                np.array([row.get(key, row["step"]) for row in rows], float) for key in ("step", "epoch", field)
            )
            found.append((steps, epochs, np.where(np.isfinite(values), values, np.nan)))
    return found


def _mean(curves: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Epochs and mean over the runs, only where all of them have arrived: a mean over fewer would jump."""
    shared = sorted(set.intersection(*(set(steps) for steps, _, _ in curves)))
    rows = [np.isin(steps, shared) for steps, _, _ in curves]
    mean = np.mean([values[row] for (_, _, values), row in zip(curves, rows, strict=True)], axis=0)
    return curves[0][1][rows[0]], mean


def _thinned(*lines: np.ndarray, points: int = POINTS) -> list[np.ndarray]:
    """Means over neighbours, `points` of them at most."""
    return [np.array([part.mean() for part in np.array_split(y, min(points, y.size))]) for y in lines if y.size]


def _order(run: Run) -> np.ndarray:
    return np.argsort(-np.array(run.results["data"]["train_counts"]), kind="stable")


def _class_ticks(runs: list[Run]) -> tuple[list[int], list[str]]:
    """Places and texts: the class and its training images, or its rank where splits rank the classes differently."""
    data = runs[0].results["data"]
    order = _order(runs[0])
    places = range(len(order)) if len(order) <= NAMED_CLASSES else np.linspace(0, len(order) - 1, 9).astype(int)
    named = len({tuple(np.take(run.results["data"]["class_names"], _order(run))) for run in runs}) == 1
    texts = []
    for place in places:
        text = data["class_names"][order[place]] if named else f"rank {place + 1}"
        text = text if len(text) <= 16 else text[:15] + "…"
        texts.append(f"{text} ({data['train_counts'][order[place]]})")
    return list(places), texts


def _draw_bands(axes, runs: list[Run]) -> None:
    """Many, medium and few as backgrounds, where all runs agree on them."""
    by_rank = {tuple(np.take(run.results["data"]["groups"], _order(run))) for run in runs}
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
