"""Curves of healthy and of sick runs on photographs, and the page made of them, docs/healthy.md.

    sdclr prepare cifar10 --archive=COPIES.tar.gz --accept_checksum=SHA256
    python experiments/healthy_curves.py --lists=LISTS [--out=runs/curves] [--only=NAME,...]
    python experiments/healthy_curves.py --page    # the pictures and the page again, from the committed files

`LISTS` is the folder of the authors' lists of CIFAR-10-LT. The runs are those of curves_config.py, one seed, one at a
time: the sixteen methods, and five runs with a fault. Started again, it goes on where it stopped. For each run that is
done it writes a CSV file to experiments/results/curves, with the names of metrics.jsonl; the pictures and the marked
parts of the page follow from these files alone. What the program says of a run is what it says of these numbers today.
"""

import argparse
import csv
import math
import pathlib
import re
import time
from typing import NamedTuple

import curves_config
import jobs
import matplotlib as mpl
from matplotlib.figure import Figure
from tabulate import tabulate

from configs.methods import METHODS
from sdclr_jax import branches, records
from sdclr_jax.errors import UserError
from sdclr_jax.evaluation import collapse
from sdclr_jax.records import names

STEM = "density/encoder/stem"
RESULTS = jobs.ROOT / "experiments" / "results" / "curves"
PAGE = jobs.ROOT / "docs" / "healthy.md"
# Fields of metrics.jsonl that are kept -> what a picture or a table calls them.
FIELDS = {
    "loss": "loss",
    "feature_rank/dense": "effective rank of the features",
    "projection_rank/dense": "effective rank of the projections",
    "alignment": "alignment",
    "alignment_ratio": "alignment ratio",
    "uniformity/dense": "uniformity",
    "knn/all": "k-NN on validation images",
    "density/all": "density of the mask; of the first layer",
    STEM: "first layer kept",
}
# Kept of all branches, since the program's warnings read them.
READ = ("projection_std", "projection_rank", "prototype_usage")
PANELS = ("loss", "feature_rank/dense", "alignment", "uniformity/dense", "density/all", "knn/all")
FAULTS = {  # of curves_config.SICK, as a title
    "temperature_0.01": "A temperature of 0.01 (SimCLR)",
    "learning_rate_x_30": "A learning rate 30 times too high (SimCLR)",
    "no_stop_gradient": "No stop-gradient (SimSiam)",
    "no_variance_term": "No variance term (VICReg)",
    "mask_from_noise": "A mask that is drawn at random (SDCLR)",
}
SILENT = {  # what a person can see of those of which the program says nothing
    "learning_rate_x_30": """\
The program says nothing: no number is out of bounds. The features use fewer directions than those of the healthy run,
from the first measurement on, and the loss stays above its loss. So compare a learning rate that you doubt with a lower
one over a few epochs.""",
    "mask_from_noise": """\
The program says nothing: no number is out of bounds. The mask keeps as small a share of the first layer as of all
others, where one that follows the weights keeps more.""",
}
HEALTHY = """\
## Healthy runs, by method

One run of each method on CIFAR-10 (JPEG copies)-LT, the authors' split 1, 11,165 images: a ResNet-8 of width 8, 32
features, batch 64, 3 epochs, one seed. Values at the first measurement and at the last. The damaged methods keep 10 %
of the weights in all, and more of the first layer."""
ALARMS = "The program warns of healthy runs, too: {}."
SICK = """\
## Sick runs

The same, with one fault each. Orange is the sick run, grey the healthy run of the same method. Below is everything
that the program says of these numbers, word by word."""
LIMITS = """\
## What these runs cannot show

Each is one seed of a small encoder, minutes long. For a larger encoder or a longer training the values are others:
the ranks are bounded by the number of features and by the batch, and everything moves on for hundreds of epochs.
Compare the shape of a curve first, and its height only with runs like yours. All images are JPEG copies, so these are
no CIFAR-10 results."""
COMMANDS = """\
Commands: [`healthy_curves.py`](../experiments/healthy_curves.py); configs:
[`curves_config.py`](../experiments/curves_config.py)."""
MARKED = re.compile(r"(<!-- curves: (\w+) -->\n)(.*?)(<!-- end -->\n)", re.DOTALL)


class Curves(NamedTuple):
    """A run: `columns` has a value for each line of its metrics, None where none was measured."""

    name: str
    columns: dict[str, list[float | None]]

    def measured(self, column: str) -> list[tuple[float, float]]:
        """(epoch, value) where there is one."""
        pairs = zip(self.columns["epoch"], self.columns.get(column, ()), strict=False)
        return [(epoch, value) for epoch, value in pairs if value is not None]

    def first(self, column: str) -> float | None:
        return next((value for _, value in self.measured(column)), None)

    def last(self, column: str) -> float | None:
        return next((value for _, value in reversed(self.measured(column))), None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lists", help="folder of the authors' lists")
    parser.add_argument("--out", type=jobs.on_disk, default=pathlib.Path("runs/curves"))
    parser.add_argument("--only", default=",".join([*METHODS, *curves_config.SICK]), help="names of runs")
    parser.add_argument("--page", action="store_true", help="run nothing")
    options = parser.parse_args()
    began = time.perf_counter()
    if not options.page:
        if not options.lists:
            parser.error("--lists=FOLDER is missing: that of the authors' lists of CIFAR-10-LT")
        lists = pathlib.Path(options.lists).absolute()
        for name in options.only.split(","):  # what has ended is written at once
            job = jobs.Job(name, config(name), (f"--config.data.lists={lists}",), labels=False)
            (directory,) = jobs.run([job], options.out)
            collect(directory, RESULTS)
    draw_all(RESULTS)
    PAGE.write_text(filled(PAGE.read_text(), RESULTS))
    print(f"{jobs.minutes_since(began)}. Wrote {PAGE}")


def config(name: str) -> str:
    """Where `sdclr pretrain --config` finds that of a run, from the folder configs/."""
    return f"../experiments/curves_config.py:{name}"


def collect(directory: pathlib.Path, results: pathlib.Path) -> None:
    """Write a run's curves, and what made it."""
    lines = records.read_metrics(directory / names.METRICS)
    if not lines:
        raise UserError(f"{directory / names.METRICS} has no line: run it again")
    versions = records.load_object(directory / names.VERSIONS, "put it back from a copy")
    there = dict.fromkeys(field for line in lines for field in line)
    fields = [field for field in FIELDS if field in there]
    fields += [field for field in there if field.partition("/")[0] in READ and field not in fields]
    results.mkdir(parents=True, exist_ok=True)
    with (results / f"{directory.name}.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["step", "epoch", *fields])
        for line in lines:
            values = (line.get(field) for field in ("epoch", *fields))
            writer.writerow([line["step"], *("" if value is None else f"{value:.4g}" for value in values)])
    about = [versions.get("commit", "")[:7], versions["jax"], versions["hardware"], round(lines[-1]["seconds"])]
    _replace(results / "runs.csv", directory.name, ("commit", "jax", "hardware", "seconds"), about)


def _replace(path: pathlib.Path, run: str, header: tuple[str, ...], row: list) -> None:
    """Put the row of a run in the place of that which a file of all runs has of it."""
    others = [list(other.values()) for other in _rows(path) if other["run"] != run]
    order = [*METHODS, *curves_config.SICK]
    table = sorted([*others, [run, *row]], key=lambda row: order.index(row[0]))
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([("run", *header), *table])


def _rows(path: pathlib.Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def read(results: pathlib.Path) -> dict[str, Curves]:
    """All runs that are there, by name, in the order of the methods."""
    found = {}
    for name in (*METHODS, *curves_config.SICK):
        if rows := _rows(results / f"{name}.csv"):
            found[name] = Curves(
                name, {key: [float(row[key]) if row[key] else None for row in rows] for key in rows[0]}
            )
    return found


def said(run: Curves) -> dict[str, tuple[int, str]]:
    """What the program says of a run's numbers: cause -> the first step with it, and the sentence."""
    # Of a sick run, the config of its method: the fields that are read here are the same, and one of the sick ones
    # changes its objective in this process.
    c = curves_config.get_config(curves_config.SICK.get(run.name, (run.name,))[0])
    compared = {branch for pair in c.pairs for branch, _ in pair}
    damaged = [name for name, branch in branches.choose(compared, c.prune.norms).items() if branch.masked]
    found: dict[str, tuple[int, str]] = {}
    for values in zip(*run.columns.values(), strict=True):
        line = dict(zip(run.columns, values, strict=True))
        for cause, message in collapse.warnings(
            line,
            epochs=c.epochs,
            dimensions=c.projector.out,
            images=c.batch_size,
            objective=c.objective.name,
            damaged=damaged,
        ):
            found.setdefault(cause, (int(line["step"]), message))
    return found


def draw_all(results: pathlib.Path) -> None:
    runs = read(results)
    for name, run in runs.items():
        method = curves_config.SICK[name][0] if name in curves_config.SICK else None
        draw(run, runs.get(method), results / f"{name}.svg")


def draw(run: Curves, healthy: Curves | None, path: pathlib.Path) -> None:
    """A panel for each of `PANELS`; with the healthy run of the method, in grey, beside a sick one."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams |= {"svg.hashsalt": run.name, "svg.fonttype": "none", "font.size": 10, "axes.grid": True}
        mpl.rcParams |= {"font.sans-serif": ["DejaVu Sans"], "figure.facecolor": "white"}
        mpl.rcParams |= {"grid.alpha": 0.3, "axes.spines.top": False, "axes.spines.right": False}
        figure = Figure(figsize=(9, 4.6), layout="constrained")
        for axes, column in zip(figure.subplots(2, 3).flat, PANELS, strict=True):
            axes.set_title(FIELDS[column], fontsize=10)
            looks = {"color": "#d55e00" if healthy else "#0072b2", "linewidth": 2}
            for curves, look in ((healthy, {"color": "0.55", "linewidth": 2}), (run, looks)):
                # The mask's density is set; that of the first layer, dashed, is what the weights make of it.
                for key, style in ((column, "-"), *([(STEM, "--")] if column == "density/all" else [])):
                    if curves and (points := curves.measured(key)):
                        few = {"marker": "o", "markersize": 4} if len(points) < 10 else {}
                        axes.plot(*zip(*points, strict=True), style, **look, **few, label=curves.name)
            if axes.lines:
                axes.set_ylim(**{"top" if column == "uniformity/dense" else "bottom": None if column == "loss" else 0})
            else:
                axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center")
            axes.set_xlim(left=0)
            axes.locator_params(nbins=4)
            axes.set_xlabel("epoch")
        if healthy:
            figure.axes[0].legend(fontsize=8)
        figure.savefig(path, metadata={"Date": None, "Creator": None})


def filled(page: str, results: pathlib.Path) -> str:
    """The page with its marked parts made again; where there are no runs they are empty."""
    runs = read(results)
    parts = {"healthy": healthy_part, "sick": sick_part, "made": made_part}
    return MARKED.sub(lambda match: match[1] + parts[match[2]](runs, results) + match[4], page)


def healthy_part(runs: dict[str, Curves], results: pathlib.Path) -> str:
    """The numbers of each healthy run, at the first measurement and the last, and the pictures."""
    found = [run for name, run in runs.items() if name not in curves_config.SICK]
    if not found:
        return ""
    headers = ["method", "loss", "effective rank", "alignment ratio", "uniformity", "k-NN, %", "first layer kept, %"]
    columns = ("loss", "feature_rank/dense", "alignment_ratio", "uniformity/dense", "knn/all", STEM)
    lines = [[f"`{run.name}`", *(_span(run, column) for column in columns)] for run in found]
    if len(found) > 1:
        ends = [[run.last(column) for run in found if run.last(column) is not None] for column in columns]
        ranges = [_range(column, x) for column, x in zip(columns, ends, strict=True)]
        lines.append(["all, at the end", "", *ranges[1:]])  # losses of different methods cannot be compared
    table = tabulate(lines, headers, tablefmt="github", disable_numparse=True)
    shown = "\n\n".join(f"**`{run.name}`**\n\n{_picture(run.name)}" for run in found)
    about = [f"`{run.name}` (step {step}: {cause})" for run in found for cause, (step, _) in said(run).items()]
    alarms = f"{ALARMS.format(', '.join(about))}\n\n" if about else ""
    return f"\n{HEALTHY}\n\n{table}\n\n{alarms}{shown}\n\n"


def _span(run: Curves, column: str) -> str:
    first, last = run.first(column), run.last(column)
    return "" if last is None else f"{_shown(column, first)} to {_shown(column, last)}"


def _range(column: str, values: list[float]) -> str:
    return f"{_shown(column, min(values))} … {_shown(column, max(values))}" if values else ""


def _shown(column: str, value: float) -> str:
    if column in ("knn/all", STEM):
        return f"{100 * value:.0f}"
    digits = 1 if column == "feature_rank/dense" else 2
    return f"{value:.{digits}f}".replace("-", "\N{MINUS SIGN}")


def sick_part(runs: dict[str, Curves], results: pathlib.Path) -> str:
    """A section of each sick run: its picture beside the healthy one, and what is said."""
    sections = []
    for name, title in FAULTS.items():
        if name in runs:
            about = [f"> step {step}: {message}" for step, message in said(runs[name]).values()]
            about = "The program says:\n\n" + "\n>\n".join(about) if about else SILENT[name]
            method = runs.get(curves_config.SICK[name][0])
            sections.append(f"### {title}\n\n{_picture(name)}\n\n{_beside(runs[name], method)}\n\n{about}\n\n")
    return f"\n{SICK}\n\n{''.join(sections)}" if sections else ""


def _picture(name: str) -> str:
    return f"![Curves of {name}](../experiments/results/curves/{name}.svg)"


def _beside(run: Curves, healthy: Curves | None) -> str:
    """The last values of a sick run, and of its method's healthy one."""
    ranks = ("feature_rank/dense", "projection_rank/dense")
    columns = ("loss", *ranks, "alignment_ratio", "uniformity/dense", "knn/all", STEM)
    columns = [column for column in columns if run.last(column) is not None]
    lines = [
        [label, *(_last(of, column) for column in columns)] for label, of in (("sick", run), ("healthy", healthy)) if of
    ]
    headers = ["at the end", *(FIELDS[column] for column in columns)]
    return tabulate(lines, headers, tablefmt="github", disable_numparse=True)


def _last(run: Curves, column: str) -> str:
    value = run.last(column)
    percent = " %" if column in ("knn/all", STEM) else ""
    return "" if value is None or math.isnan(value) else _shown(column, value) + percent


def made_part(runs: dict[str, Curves], results: pathlib.Path) -> str:
    """What the runs cannot show, which there are, and what made them."""
    rows = _rows(results / "runs.csv")
    if not rows:
        return ""
    kinds = "; ".join(sorted({f"commit {row['commit']}, jax {row['jax']}, {row['hardware']}" for row in rows}))
    minutes = sum(int(row["seconds"]) for row in rows) / 60
    done = f"{len(rows)} of {len(METHODS) + len(curves_config.SICK)} runs, {minutes:.0f} minutes of training"
    return f"\n{LIMITS}\n\n{done}: {kinds}. {COMMANDS}\n\n"


if __name__ == "__main__":
    main()
