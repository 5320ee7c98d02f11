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
import contextlib
import json
import math
import pathlib
import subprocess
import sys
from typing import Any

import jobs
import ledger
import throughput

from sdclr_jax import files, records
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
        if status := subprocess.run([sys.executable, str(program), *step]).returncode:
            raise UserError(f"throughput.py ended with status {status}: see above")
        rates.append(throughput.read()[-1])
    return max(rates, key=lambda rate: float(rate.images_per_second))


def plan(out: pathlib.Path, config: str, fields: list[str], minutes: float, steps: int) -> dict[str, Any]:
    """The plan of the folder, which is made where there is none.

    Raises:
        UserError: it was made of another config or for other minutes, or is damaged; or something given is wrong.
    """
    from sdclr_jax import recipes

    path, asked = out / "plan.json", {"config": config, "minutes": minutes, "fields": fields}
    of_sdclr = jobs.config_of(jobs.Job("", f"{config}.py:sdclr", (SCORED, *fields)))
    with contextlib.suppress(FileNotFoundError):
        made = records.load(path, "put it back from a copy, or move that folder away", _planned)
        for name, value in asked.items():
            if made.get(name, value) != value:
                raise UserError(f"{path} was made with {name} {made[name]}: give the same, or another --out")
        return made
    # The lists and the archive are read before anything is measured.
    images = len(recipes.data(of_sdclr, None).part(of_sdclr.data.subset).ids)
    rate = timed(config, fields, steps)
    count = epochs(float(rate.images_per_second), images, minutes)
    made = {"epochs": count, "images": images, **asked, **rate._asdict()}
    files.write(path, f"{json.dumps(made, indent=1)}\n".encode())
    return made


def _planned(made: Any) -> dict[str, Any]:
    """What a plan.json holds; raises ValueError where that is no plan."""
    if not isinstance(made, dict):
        raise ValueError("not an object of fields")
    for name, kind in {"epochs": int, "dtype": str, "images_per_second": str, "unit": str}.items():
        if type(made.get(name)) is not kind:
            raise ValueError(f"{name} is not what it should be")
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="cifar10_lt", help="a file of configs/")
    parser.add_argument("--out", type=jobs.on_disk, default=pathlib.Path("runs/published_pair"))
    parser.add_argument("--minutes", type=float, default=9, help="of training, both methods together")
    parser.add_argument("--steps", type=jobs.at_least_one, default=20, help="that are timed")
    parser.add_argument("--third", action="store_true", help="SDCLR without private norms, after the pair")
    options, fields = parser.parse_known_args()
    try:
        _run(options, fields)
    except UserError as error:
        sys.exit(f"{error}")


def _run(options: argparse.Namespace, fields: list[str]) -> None:
    made = plan(options.out, options.config, fields, options.minutes, options.steps)
    length = f"--config.epochs={made['epochs']}"
    warmup = f"--config.optimizer.warmup_epochs={round(WARMUP * made['epochs'])}"
    every = (SCORED, length, warmup, f"--config.model.dtype={made['dtype']}", *fields)
    runs = [jobs.Job(method, f"{options.config}.py:{method}", every) for method in METHODS]
    if options.third:
        shared = (*every, "--config.prune.norms=shared")
        runs.append(jobs.Job("sdclr-shared-norms", f"{options.config}.py:sdclr", shared))
    for job in runs:
        jobs.config_of(job)  # which refuses fields that do not exist
    folders = jobs.run(runs, options.out, at_a_time=1)
    found = [ledger.read(folder) for folder in folders]
    scores = dict.fromkeys(name for run in found for name in run.scores if not name.startswith("metrics."))
    files.write(options.out / "runs.csv", ledger.to_csv(found, scores).encode())
    note = NOTE.format(epochs=made["epochs"])
    jobs.report(folders, (options.out / "report.html").absolute(), note)
    print(f"{note} {made['dtype']}, {made['images_per_second']} images per second of a {made['unit']}.")


if __name__ == "__main__":
    main()
