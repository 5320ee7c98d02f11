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
import subprocess
import time

import jobs
import matplotlib as mpl
from matplotlib.figure import Figure
from tabulate import tabulate

METHODS = ("simclr", "sdclr")
GROUP, FRACTION, RATE = "rarer_half", 0.1, 0.9
NOTE = f"""\
Share of the five rarer classes among the tenth of the training images whose representation changes most when \
{RATE:.0%} of the convolution weights are pruned; at the last checkpoint. `recalibrated`, `pruned` and `sparse` are \
the ways to prune of `sdclr exemplars`. Chance is the central 95 % interval of the share in a random tenth \
(hypergeometric); `beyond` counts the seeds above and below it."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/digits_exemplars"))
    parser.add_argument("--seeds", type=int, default=4)
    options, fields = parser.parse_known_args()
    began = time.perf_counter()
    runs = {f"{method}-{seed}": method for seed in range(options.seeds) for method in METHODS}
    own = {name: (f"--config.seed={name[-1]}", f"--config.data.split={name[-1]}") for name in runs}
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
        command = [*jobs.SDCLR, "exemplars", *map(str, measured), f"--against={against}"]
        subprocess.run([*command, f"--overlap={options.out.absolute() / 'overlap.json'}"], check=True, cwd=jobs.ROOT)
        rows += [row for path in measured for row in _rows(path)]
    _write(rows, options.out)
    print(f"{jobs.minutes_since(began)}. Wrote {options.out / 'table.md'}")


def _rows(directory: pathlib.Path) -> list[dict]:
    """A run's shares of the rarer half among the most forgotten tenth."""
    summary = json.loads((directory / "exemplars" / "summary.json").read_text())
    results = json.loads((directory / "results.json").read_text())
    return [
        {
            "method": summary["run"]["method"],
            "seed": summary["run"]["seed"],
            "against": summary["settings"]["against"],
            "rate": found["rate"],
            "score": name,
            "epoch": point["epoch"],
            **next(part for part in score["shares"] if part["fraction"] == FRACTION)["groups"][GROUP],
            "linear_full_all": results["protocols"]["linear_full"]["all"],
        }
        for point in summary["checkpoints"]
        for found in point["rates"]
        for name, score in found["scores"].items()
    ]


def _write(rows: list[dict], out: pathlib.Path) -> None:
    with (out / "shares.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: f"{v:.4g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)
    at_rate = [row for row in rows if row["rate"] == RATE]
    last = [row for row in at_rate if row["epoch"] == max(r["epoch"] for r in rows)]
    table = []
    for method, against, score in dict.fromkeys((row["method"], row["against"], row["score"]) for row in last):
        found = [r for r in last if (r["method"], r["against"], r["score"]) == (method, against, score)]
        shares = [100 * row["share"] for row in found]
        spread = f" ± {statistics.stdev(shares):.0f}" if len(shares) > 1 else ""
        above, below = (sum(test(row) for row in found) for test in (_above, _below))
        table.append(
            {
                "method": method,
                "pruned how": against,
                "score": score.replace("_", " "),
                "share by seed, %": ", ".join(f"{share:.0f}" for share in shares),
                "mean ± sd": f"{statistics.mean(shares):.0f}{spread}",
                "in the data": f"{100 * found[0]['expected']:.0f}",
                "chance": f"{100 * min(r['low'] for r in found):.0f} to {100 * max(r['high'] for r in found):.0f}",
                "beyond": f"{above} above, {below} below of {len(found)}",
            }
        )
    table.sort(key=lambda row: ("recalibrated", "sparse", "pruned").index(row["pruned how"]))
    (out / "table.md").write_text(f"{NOTE}\n\n{tabulate(table, headers='keys', tablefmt='github')}\n")
    _draw([row for row in at_rate if row["against"] == "recalibrated"], out / "figure.svg")


def _above(row: dict) -> bool:
    return row["share"] > row["high"]


def _below(row: dict) -> bool:
    return row["share"] < row["low"]


def _draw(rows: list[dict], path: pathlib.Path) -> None:
    """A panel for each method: thin lines are seeds, thick lines their means, grey is chance."""
    mpl.rcParams |= {"svg.hashsalt": "digits_exemplars", "font.size": 11}
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    panels = figure.subplots(1, len(METHODS), sharey=True)
    for axes, method in zip(panels, METHODS, strict=True):
        epochs = sorted({row["epoch"] for row in rows})
        for score, colour in (("features", "#0072b2"), ("projections", "#d55e00")):
            found = [row for row in rows if (row["method"], row["score"]) == (method, score)]
            for seed in sorted({row["seed"] for row in found}):
                line = [100 * row["share"] for row in found if row["seed"] == seed]
                axes.plot(epochs, line, color=colour, linewidth=0.8, alpha=0.6)
            means = [100 * statistics.mean(r["share"] for r in found if r["epoch"] == epoch) for epoch in epochs]
            axes.plot(epochs, means, color=colour, linewidth=2.5, marker="os"[score == "projections"], label=score)
        low, high = (100 * f(row[key] for row in rows) for f, key in ((min, "low"), (max, "high")))
        axes.axhspan(low, high, color="black", alpha=0.12, linewidth=0, label="chance")
        axes.axhline(100 * rows[0]["expected"], color="black", linewidth=0.8)
        axes.set_title(method)
        axes.set_xlabel("epoch")
        axes.set_ylim(bottom=0)
    panels[0].set_ylabel("five rarer classes in the\nmost forgotten tenth, %")
    panels[0].legend(frameon=False)
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main()
