"""SimCLR and SDCLR as published, for the minutes that an accelerator is there: one pair of runs.

    python experiments/published_pair.py --config.data.lists=LISTS --config.data.split=1 [--minutes=9] [--third]
        [--out=runs/published_pair] [--config=cifar10_lt] [--config.FIELD=VALUE ...]

ResNet-18, batch 512, a projector of 3 layers for both. First the step of SDCLR is timed in
bfloat16 and in float32 (`throughput.py`, which keeps both lines). Then both methods train in the faster of the two, for
as many epochs as `minutes` allow for the pair, and are scored by k-NN and linear probes, full and few-shot. `--third`
trains SDCLR without norms of its own, too, for as many epochs more. Writes `plan.json`, `runs.csv` and `report.html` to
the folder. Run it again to resume: the plan is made once.
"""

import argparse
import json
import math
import pathlib
import subprocess
import sys
from typing import Any

import jobs
import ledger
import throughput

from sdclr_jax.errors import UserError

DTYPES = ("bfloat16", "float32")
SCORED = "--config.evaluate.protocols=('train_cifar_full','train_cifar_few_shot','knn')"
METHODS = ("simclr", "sdclr")
WARMUP = 10 / 2000  # the published share of the epochs
NOTE = "One pair of runs; epochs: {epochs}, in the paper 2,000. One pair has no spread: it shows no difference."


def epochs(images_per_second: float, images: int, minutes: float) -> int:
    """How many epochs each method can have in `minutes` of training, one after the other; at least one."""
    return max(1, math.floor(60 * minutes * images_per_second / (len(METHODS) * images)))


def timed(config: str, fields: list[str], steps: int) -> throughput.Rate:
    """The faster of the lines that `throughput.py` adds; each in a process of its own, which gives its memory back."""
    program, rates = jobs.ROOT / "experiments" / "throughput.py", []
    for dtype in DTYPES:
        step = [f"--config={config}:sdclr", *fields, f"--config.model.dtype={dtype}", f"--steps={steps}"]
        subprocess.run([sys.executable, str(program), *step], check=True, cwd=jobs.ROOT)
        rates.append(throughput.read()[-1])
    return max(rates, key=lambda rate: float(rate.images_per_second))


def plan(out: pathlib.Path, config: str, fields: list[str], minutes: float, steps: int) -> dict[str, Any]:
    """The plan of the folder, which is made where there is none."""
    from sdclr_jax import recipes

    path = out / "plan.json"
    if path.exists():
        return json.loads(path.read_text())
    # Before anything is measured: the fields, the lists and the archive.
    of_sdclr = jobs.config_of(jobs.Job("", f"{config}.py:sdclr", (SCORED, *fields)))
    images = len(recipes.data(of_sdclr, None).part(of_sdclr.data.subset).ids)
    rate = timed(config, fields, steps)
    count = epochs(float(rate.images_per_second), images, minutes)
    made = {"epochs": count, "images": images, "minutes": minutes, **rate._asdict()}
    out.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(made, indent=1) + "\n")
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="cifar10_lt", help="a file of configs/")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/published_pair"))
    parser.add_argument("--minutes", type=float, default=9, help="of training, both methods together")
    parser.add_argument("--steps", type=jobs.at_least_one, default=20, help="that are timed")
    parser.add_argument("--third", action="store_true", help="SDCLR without private norms, after the pair")
    options, fields = parser.parse_known_args()
    try:
        made = plan(options.out, options.config, fields, options.minutes, options.steps)
    except UserError as error:
        sys.exit(f"{error}")
    length = f"--config.epochs={made['epochs']}"
    warmup = f"--config.optimizer.warmup_epochs={round(WARMUP * made['epochs'])}"
    every = (SCORED, length, warmup, f"--config.model.dtype={made['dtype']}", *fields)
    runs = [jobs.Job(method, f"{options.config}.py:{method}", every) for method in METHODS]
    if options.third:
        shared = (*every, "--config.prune.norms=shared")
        runs.append(jobs.Job("sdclr-shared-norms", f"{options.config}.py:sdclr", shared))
    folders = jobs.run(runs, options.out, at_a_time=1)
    found = [ledger.read(folder) for folder in folders]
    scores = dict.fromkeys(name for run in found for name in run.scores if not name.startswith("metrics."))
    (options.out / "runs.csv").write_text(ledger.to_csv(found, scores))
    note = NOTE.format(epochs=made["epochs"])
    jobs.report(folders, (options.out / "report.html").absolute(), note)
    print(f"{note} {made['dtype']}, {made['images_per_second']} images per second of a {made['unit']}.")


if __name__ == "__main__":
    main()
