"""Every method, plain and damaged, on long-tailed digits: the table of the README.

    python experiments/methods_table.py [--out=DIR] [--seeds=3] [--methods=NAME,...] [--config.X=VALUE ...]

Each seed draws its own class order, long tail and weights, the same ones for all methods. `untrained` is the encoder as
it is drawn, whose norms alone have seen the images: what a probe makes of random features. Writes `table.md` and
`table.csv` (a row a run) to the folder. Started again, it goes on where it stopped.
"""

import argparse
import csv
import json
import pathlib
import statistics
import time

import jobs
from tabulate import tabulate

from configs.methods import METHODS

# A learning rate at which no weight moves, and epochs enough for the running statistics to settle.
UNTRAINED = tuple(
    f"--config.{field}"
    for field in (
        "epochs=40", "optimizer.learning_rate=1e-30", "optimizer.final_learning_rate=0.0", "optimizer.weight_decay=0.0",
    )
)  # fmt: skip
COLUMNS = {
    "All": ("linear_full", "all"),
    "Many": ("linear_full", "many"),
    "Medium": ("linear_full", "medium"),
    "Few": ("linear_full", "few"),
    "Std": ("linear_full", "std"),
    "k-NN": ("knn", "all"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/methods_table"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--methods", default=",".join(METHODS))
    options, fields = parser.parse_known_args()
    methods = options.methods.split(",")
    began = time.perf_counter()
    names = {
        f"{label}-{seed}": (label, seed) for seed in range(options.seeds) for label in ("untrained", *methods)
    }  # folder -> row, seed
    directories = jobs.run([_job(name, *row, fields) for name, row in names.items()], options.out)
    rows = [_row(*names[path.name], path) for path in directories]
    _write(rows, ["untrained", *methods], options.out)
    print(f"{jobs.minutes_since(began)}. Wrote {options.out / 'table.md'} and {options.out / 'table.csv'}")


def _job(name: str, label: str, seed: int, fields: list[str]) -> jobs.Job:
    own = (f"--config.seed={seed}", f"--config.data.seed={seed}", *fields)
    if label == "untrained":
        return jobs.Job(name, "digits_lt.py:simclr", (*own, *UNTRAINED))
    return jobs.Job(name, f"digits_lt.py:{label}", own)


def _row(label: str, seed: int, directory: pathlib.Path) -> dict:
    """A run's scores in percent, and the effective rank of its features of the test images."""
    results = json.loads((directory / "results.json").read_text())
    scores = {name: 100 * results["protocols"][protocol][score] for name, (protocol, score) in COLUMNS.items()}
    return {"method": label, "seed": seed, **scores, "Effective rank": results["features"]["effective_rank"]}


def _write(rows: list[dict], labels: list[str], out: pathlib.Path) -> None:
    columns = [name for name in rows[0] if name not in ("method", "seed")]
    lines = []
    for label in labels:
        of_label = [row for row in rows if row["method"] == label]
        lines.append([label, *(_spread([row[name] for row in of_label]) for name in columns)])
    table = tabulate(lines, headers=["", *columns], tablefmt="github", disable_numparse=True)
    print("\n" + table)
    (out / "table.md").write_text(table + "\n")
    with (out / "table.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _spread(values: list[float]) -> str:
    mean = f"{statistics.mean(values):.1f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.1f}"


if __name__ == "__main__":
    main()
