"""VICReg without its variance term, and without its covariance term: two kinds of collapse, measured and warned of.

    python experiments/vicreg_ablation.py [--out=runs/vicreg_ablation] [--seeds=3] [--config.FIELD=VALUE ...]

The paper's own ablation (Bardes et al., ICLR 2022, Section 5) on long-tailed digits. Without variance the projections
draw together to one point, and what unit length makes of the rest is noise: images are not distinguished. Without
covariance they use few directions. Writes `table.md` and `table.json` (a row a
run) to the folder. Started again, it goes on where it stopped.
"""

import argparse
import json
import pathlib
import statistics
import time

import jobs
from tabulate import tabulate

from sdclr_jax.run import metrics

VARIANTS = {
    "full": (),
    "without variance": ("--config.objective.variance=0.0",),
    "without covariance": ("--config.objective.covariance=0.0",),
}
EVERY = "--config.collapse_every=20"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/vicreg_ablation"))
    parser.add_argument("--seeds", type=int, default=3)
    options, fields = parser.parse_known_args()
    began = time.perf_counter()
    names = {
        f"{variant.replace(' ', '-')}-{seed}": (variant, seed) for seed in range(options.seeds) for variant in VARIANTS
    }  # folder -> variant, seed
    directories = jobs.run([_job(name, *row, fields) for name, row in names.items()], options.out)
    rows = [_row(*names[path.name], path) for path in directories]
    (options.out / "table.json").write_text(json.dumps(rows, indent=1) + "\n")
    (options.out / "table.md").write_text(table := _table(rows))
    print(f"\n{table}\n{jobs.minutes_since(began)}. Wrote {options.out / 'table.md'} and {options.out / 'table.json'}")


def _job(name: str, variant: str, seed: int, fields: list[str]) -> jobs.Job:
    seeds = (f"--config.seed={seed}", f"--config.data.seed={seed}")
    return jobs.Job(name, "digits_lt.py:vicreg", (*seeds, EVERY, *VARIANTS[variant], *fields))


def _row(variant: str, seed: int, directory: pathlib.Path) -> dict:
    """The last measures of a run, its scores in percent, and what it was first warned of."""
    last = metrics.read(directory / "metrics.jsonl")[-1]
    results = json.loads((directory / "results.json").read_text())
    even = json.loads((directory / "config.json").read_text())["projector"]["out"] ** -0.5
    said = directory / "warnings.jsonl"
    warnings = [json.loads(line) for line in said.read_text().splitlines()] if said.exists() else []
    return {
        "variant": variant,
        "seed": seed,
        "std, % of even": 100 * last["projection_std/dense"] / even,
        "rank": last["projection_rank/dense"],
        "alignment ratio": last["alignment_ratio"],
        "uniformity": last["uniformity/dense"],
        "feature rank": last["feature_rank/dense"],
        "k-NN, %": 100 * results["protocols"]["knn"]["all"],
        "linear, %": 100 * results["protocols"]["linear_full"]["all"],
        "warnings": [{name: warning[name] for name in ("step", "cause")} for warning in warnings],
    }


def _table(rows: list[dict]) -> str:
    columns = [name for name in rows[0] if name not in ("variant", "seed", "warnings")]
    lines = []
    for variant in VARIANTS:
        own = [row for row in rows if row["variant"] == variant]
        steps = {}
        for warning in (warning for row in own for warning in row["warnings"]):
            steps.setdefault(warning["cause"], []).append(warning["step"])
        warned = "; ".join(
            f"{cause} (in {len(at)} of {len(own)} runs, first at step {min(at)})" for cause, at in steps.items()
        )
        lines.append(
            [
                variant,
                *(_spread([row[name] for row in own], 2 if name == "alignment ratio" else 1) for name in columns),
                warned or "none",
            ]
        )
    return tabulate(lines, ["VICReg", *columns, "warned of"], tablefmt="github", disable_numparse=True) + "\n"


def _spread(values: list[float], digits: int) -> str:
    mean = f"{statistics.mean(values):.{digits}f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.{digits}f}"


if __name__ == "__main__":
    main()
