"""Whom pruning makes SimCLR and SDCLR forget on long-tailed digits: shares of rare classes over training, by seed.

    python experiments/digits_exemplars.py [--out=runs/digits_exemplars] [--seeds=4] [--config.FIELD=VALUE ...]

Each seed draws its own class order, long tail and weights, the same ones for both methods. Writes to the folder
`table.md`, `shares.csv` (a row for each method, seed, way of pruning, rate, score and checkpoint), `overlap.json`
(between the runs) and `figure.svg`; beside each run lies its gallery. Started again, it trains nothing twice.
"""

import argparse
import csv
import json
import pathlib
import statistics
import time
from collections.abc import Iterable

import jobs
import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats
from tabulate import tabulate

from sdclr_jax import records
from sdclr_jax.records import names

METHODS = ("simclr", "sdclr")
GROUP, FRACTION, RATE = "rarer_half", 0.1, 0.9
NOTE = f"""\
The five rarer classes among the tenth of the training images whose representation changes most when {RATE:.0%} of the \
convolution weights are pruned; at the last checkpoint. `recalibrated`, `sparse` and `pruned` are the ways to prune of \
`sdclr exemplars`. `share` is theirs of that tenth, seed by seed; `chance` the central 95 % interval of a random \
tenth, and `beyond` counts the seeds above and below it. `by class` is the share of a class's images that is \
forgotten, mean over the five; `beyond` again, against any five classes; and `excess` how much that is above the mean \
over all classes, in points, with the 95 % interval of its mean over the seeds (Student's t). Images of one class are \
forgotten alike, so only the last two say whether it is rarity."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=jobs.on_disk, default=pathlib.Path("runs/digits_exemplars"))
    parser.add_argument("--seeds", type=jobs.at_least_one, default=4)
    options, fields = parser.parse_known_args()
    began = time.perf_counter()
    runs = {f"{method}-{seed}": method for seed in range(options.seeds) for method in METHODS}
    own = {name: (f"--config.seed={name[-1]}", f"--config.data.seed={name[-1]}") for name in runs}
    directories = jobs.run(
        [
            jobs.Job(name, f"digits_lt.py:{method}", ("--config.keep_every=50", *own[name], *fields))
            for name, method in runs.items()
        ],
        options.out,
    )
    rows = []
    # The last one stays beside the runs.
    for against in ("sparse", "pruned", "recalibrated"):
        measured = [path for path in directories if against != "sparse" or runs[path.name] == "sdclr"]
        overlap = f"--overlap={options.out.absolute() / 'overlap.json'}"
        jobs.sdclr("exemplars", *measured, f"--against={against}", overlap)
        rows += [row for path in measured for row in _rows(path)]
    _write(rows, json.loads((directories[0] / "versions.json").read_text()), options.out)
    print(f"{jobs.minutes_since(began)}. Wrote {options.out / 'table.md'}")


def _rows(directory: pathlib.Path) -> list[dict]:
    """A run's shares of the rarer half among the most forgotten tenth."""
    summary = records.read(records.Summary, directory / names.SUMMARY, folder=directory)
    results = records.read(records.Results, directory / names.RESULTS)
    found = []
    points = [(point.epoch, at_rate) for point in summary.checkpoints for at_rate in point.rates]
    for epoch, at_rate in points:
        for name, score in at_rate.scores.items():
            share = next(part for part in score.shares if part.fraction == FRACTION).groups[GROUP].to_json()
            by_class = {f"class_{key}": value for key, value in share.pop("by_class").items()}
            found.append(
                {
                    "method": summary.run.method,
                    "seed": summary.run.seed,
                    "against": summary.settings.against,
                    "rate": at_rate.rate,
                    "score": name,
                    "epoch": epoch,
                    **share,
                    **by_class,
                    "linear_full_all": results.protocols["linear_full"].all,
                }
            )
    return found


def _write(rows: list[dict], versions: dict, out: pathlib.Path) -> None:
    with (out / "shares.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: f"{v:.4g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)
    at_rate = [row for row in rows if row["rate"] == RATE]
    last = [row for row in at_rate if row["epoch"] == max(r["epoch"] for r in rows)]
    table = []
    for method, against, score in dict.fromkeys((row["method"], row["against"], row["score"]) for row in last):
        found = [r for r in last if (r["method"], r["against"], r["score"]) == (method, against, score)]
        excess = [100 * (row["class_share"] - row["class_expected"]) for row in found]
        table.append(
            {
                "method": method,
                "pruned how": against,
                "score": score.replace("_", " "),
                "share, %": _listed(row["share"] for row in found),
                "in the data": f"{100 * found[0]['expected']:.0f}",
                "chance": f"{100 * min(r['low'] for r in found):.0f} to {100 * max(r['high'] for r in found):.0f}",
                "beyond": _beyond(found, ""),
                "by class, %": _listed(row["class_share"] for row in found),
                "beyond ": _beyond(found, "class_"),
                "excess": _interval(excess),
            }
        )
    table.sort(key=lambda row: ("recalibrated", "sparse", "pruned").index(row["pruned how"]))
    trained = f"Trained at commit {versions['commit'][:7]}, jax {versions['jax']}, {versions['hardware']}."
    text = tabulate(table, headers="keys", tablefmt="github")
    (out / "table.md").write_text(f"{NOTE}\n\n{text}\n\n{trained}\n")
    _draw([row for row in at_rate if row["against"] == "recalibrated"], out / "figure.svg")


def _listed(shares: Iterable[float]) -> str:
    return ", ".join(f"{100 * share:.0f}" for share in shares)


def _beyond(rows: list[dict], prefix: str) -> str:
    above = sum(row[f"{prefix}share"] > row[f"{prefix}high"] for row in rows)
    below = sum(row[f"{prefix}share"] < row[f"{prefix}low"] for row in rows)
    return f"{above} above, {below} below"


def _interval(values: list[float]) -> str:
    """Mean, and where there are several values its 95 % interval."""
    mean = statistics.mean(values)
    if len(values) < 2:
        return f"{mean:+.0f}"
    half = stats.t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
    return f"{mean:+.0f} [{mean - half:+.0f}, {mean + half:+.0f}]"


def _draw(rows: list[dict], path: pathlib.Path) -> None:
    """A column for each method, shares of the forgotten images above, of the classes below: thin lines are seeds, thick
    ones their means, grey is chance."""
    mpl.rcParams |= {"svg.hashsalt": "digits_exemplars", "font.size": 11}
    figure = Figure(figsize=(8, 6.4), layout="constrained")
    panels = figure.subplots(2, len(METHODS), sharex=True, sharey="row")
    for of, line in zip(("", "class_"), panels, strict=True):
        for method, axes in zip(METHODS, line, strict=True):
            _draw_panel(axes, [row for row in rows if row["method"] == method], of)
        line[0].set_ylim(bottom=0)
    for axes, method in zip(panels[0], METHODS, strict=True):
        axes.set_title(method)
    for axes in panels[1]:
        axes.set_xlabel("epoch")
    panels[0, 0].set_ylabel("five rarer classes in the\nmost forgotten tenth, %")
    panels[1, 0].set_ylabel("of a rarer class's images in it,\nmean over the five, %")
    panels[1, 0].legend(frameon=False)
    figure.savefig(path, metadata={"Date": None})


def _draw_panel(axes: Axes, rows: list[dict], of: str) -> None:
    epochs = sorted({row["epoch"] for row in rows})

    def mean(key: str, score: str) -> list[float]:
        return [
            100 * statistics.mean(row[of + key] for row in rows if (row["score"], row["epoch"]) == (score, epoch))
            for epoch in epochs
        ]

    for score, colour in (("features", "#0072b2"), ("projections", "#d55e00")):
        for seed in sorted({row["seed"] for row in rows}):
            line = [100 * row[of + "share"] for row in rows if (row["seed"], row["score"]) == (seed, score)]
            axes.plot(epochs, line, color=colour, linewidth=0.8, alpha=0.6)
        axes.plot(
            epochs, mean("share", score), color=colour, linewidth=2.5, marker="os"[score == "projections"], label=score
        )
    # Of features; where it differs from seed to seed, its mean.
    low, high = mean("low", "features"), mean("high", "features")
    axes.fill_between(epochs, low, high, color="black", alpha=0.12, linewidth=0, label="chance, of one seed")
    axes.plot(epochs, mean("expected", "features"), color="black", linewidth=0.8)


if __name__ == "__main__":
    main()
