"""Which part of self-damaging helps? A designed experiment over six parts of SDCLR, with its premise as an arm.

    python experiments/factors.py digits --plan       # the arms, their cost, and the smallest difference to be seen
    python experiments/factors.py digits --run        # goes on where it stopped; nothing recorded is run again
    python experiments/factors.py digits --collect    # adds what has ended to experiments/results/factors/digits.jsonl
    python experiments/factors.py digits --analyse    # effects with intervals, tables and a picture from that file

`photos` in place of `digits` is CIFAR-10-LT with the authors' lists, which takes `--config.data.lists=FOLDER`. The
design is written down in experiments/results/factors/DESIGN.md. A block is a data split with a seed, the same ones for
all of its arms; blocks are run one after the other, so that what has ended is made of whole blocks but for the last.
`--records=FOLDER` keeps records of your own in place of the committed ones, for a whole experiment of your own.
"""

import argparse
import fcntl
import functools
import hashlib
import json
import multiprocessing
import os
import pathlib
import random
import signal
import sys
import time
from dataclasses import asdict
from typing import Any

import factors_analysis
import jobs
import numpy as np
from factors_design import PROTOCOLS, SCALES, TENTH, Run, fields, runs

import sdclr_jax
from sdclr_jax.errors import Diverged, Stopped, UserError
from sdclr_jax.records import metrics

RESULTS = jobs.ROOT / "experiments" / "results" / "factors"
PAGE = jobs.ROOT / "docs" / "factors.md"  # which has the tables


def work(run: Run, out: pathlib.Path, given: dict[str, str], recorded: list[dict[str, Any]]) -> dict[str, Any]:
    """Pretrain and evaluate a run, or go on with it; its record. That it diverged is a record, too."""
    import ledger

    from sdclr_jax.run import versions

    method, settings = fields(SCALES[run.scale], run.block, run.arm)
    config = sdclr_jax.config(f"{SCALES[run.scale].config}:{method}", settings | given)
    folder = out / f"block-{run.block}" / run.arm.name
    if run.arm.without:
        config.data.without = str(_left_out(run, out, config, recorded))
    began, cpu = time.monotonic(), time.process_time()
    forgotten = []
    try:
        sdclr_jax.pretrain(config, folder)
        found = sdclr_jax.evaluate(folder)
        if run.arm.name == "simclr":
            forgotten = _forgotten(folder)
    except Diverged as error:
        print(f"{folder}: {error}", file=sys.stderr)
        found = None
    record = asdict(ledger.read(folder))
    kept = [f"{protocol}.{name}" for protocol in PROTOCOLS for name in ("all", "many", "medium", "few", "std")]
    kept += ["features.effective_rank", "metrics.loss", "metrics.images_per_second"]
    return record | {
        "scale": run.scale,
        "block": run.block,
        "arm": run.arm.name,
        "scores": {name: record["scores"][name] for name in kept if name in record["scores"]},
        "per_class": {name: list(score.per_class) for name, score in found.protocols.items()} if found else {},
        "lists": found.data.lists if found else {},
        "pixels": _pixels(config.data.name),
        "jaxlib": versions.current()["jaxlib"],
        # Of this process: a run that was stopped and resumed has taken more.
        "cpu_seconds": round(time.process_time() - cpu, 1),
        "wall_seconds": round(time.monotonic() - began, 1),
        **({"forgotten": forgotten} if forgotten else {}),
    }


@functools.cache
def _pixels(name: str) -> str:
    """SHA-256 of all images in the order of their ids: an archive that is packed again has another hash, and the same
    images."""
    from sdclr_jax.data import sources

    digest, source = hashlib.sha256(), sources.source(name, None)
    for split in ("train", "test"):
        examples = source.load(split)
        digest.update(np.ascontiguousarray(examples.images[np.argsort(examples.ids)]).tobytes())
    return digest.hexdigest()


def _forgotten(folder: pathlib.Path) -> list[str]:
    """Ids of the tenth of the training images whose features change most when 90 % of the weights are cut."""
    from sdclr_jax import recipes
    from sdclr_jax.api.exemplars import Asked, exemplars_of_run

    asked = Asked(rates=(0.9,), pairs_of_views=1, against="recalibrated", shown=1, neighbours=1)
    ranking, _ = exemplars_of_run(recipes.read(folder), folder, asked)
    order = sorted(range(len(ranking.ids)), key=lambda i: -ranking.scores[i])
    return sorted(str(ranking.ids[i]) for i in order[: round(TENTH * len(order))])


def _left_out(run: Run, out: pathlib.Path, config: Any, recorded: list[dict[str, Any]]) -> pathlib.Path:
    """The file of the ids that an arm of the premise leaves out; as many at random as the forgotten ones."""
    from sdclr_jax import recipes

    simclr = [row for row in recorded if (row["block"], row["arm"]) == (run.block, "simclr")]
    if not simclr or not simclr[0].get("forgotten"):
        raise LookupError(f"block {run.block} has no SimCLR that has ended, whose images {run.arm.name} leaves out")
    ids = simclr[0]["forgotten"]
    if run.arm.without == "random":
        every = recipes.data(config, None).part(config.data.subset).ids.tolist()
        ids = sorted(random.Random(f"random-{run.block}").sample(sorted(every), len(ids)))
    path = out / f"block-{run.block}" / f"{run.arm.name}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(ids) + "\n")
    return path


def read(path: pathlib.Path) -> list[dict[str, Any]]:
    """The records in a file. A last line that a crash has cut short is none.

    Raises:
        UserError: another line is damaged, or not what `work` records.
    """
    return metrics.lines(path, ("scale", "block", "arm", "state", "commit", "data", "images", "scores"))


def _record(path: pathlib.Path, row: dict[str, Any]) -> None:
    """Add a line to a file that several processes write, in place of a last one that a crash has cut short."""
    with path.open("a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        _, _, tail = (content := file.read()).rpartition(b"\n")
        try:
            json.loads(tail or b"{}")
            end = b"\n" if tail else b""
        except ValueError:
            file.truncate(len(content) - len(tail))
            end = b""
        file.write(end + (json.dumps(row, allow_nan=False) + "\n").encode())


def _check_same(scale: str, recorded: list[dict[str, Any]], given: dict[str, str]) -> None:
    from sdclr_jax.run import versions

    if not recorded:
        return
    first, now = recorded[0], versions.commit()
    way_out = "go on from there (docs/factors.md), or give --records=FOLDER and --out=FOLDER for runs of your own"
    if first["commit"] != now:
        raise UserError(
            f"the runs that are recorded are of commit {first['commit']}, this is {now}, and runs of two commits are "
            f"not compared: {way_out}"
        )
    run = runs(scale)[0]
    method, settings = fields(SCALES[scale], run.block, run.arm)
    pixels = _pixels(sdclr_jax.config(f"{SCALES[scale].config}:{method}", settings | given).data.name)
    if first.get("pixels", pixels) != pixels:
        raise UserError(
            f"the runs that are recorded are of other images (SHA-256 of the pixels {first['pixels'][:12]}…, here "
            f"{pixels[:12]}…), and runs on two sets of images are not compared: {way_out}"
        )


def run_all(
    scale: str, out: pathlib.Path, given: dict[str, str], at_a_time: int, until: int, results: pathlib.Path
) -> bool:
    """Take the runs that are not recorded, in their order, in so many processes of one thread each; whether all of them
    are recorded then.

    Raises:
        UserError: what is recorded is of another commit, or of other images.
    """
    _check_same(scale, everything(scale, out, results), given)
    out.mkdir(parents=True, exist_ok=True)
    # A thread each: so many runs side by side take fewer CPU seconds than one on all cores. Read when XLA starts.
    os.environ |= {"NPROC": "1", "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_multi_thread_eigen=false"}
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(out / "compiled"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
    waiting = [run for run in runs(scale) if run.block <= until]
    context = multiprocessing.get_context("spawn")
    place = context.Value("i", 0)
    workers = [
        context.Process(target=_worker, args=(waiting, place, scale, out, given, results)) for _ in range(at_a_time)
    ]
    for worker in workers:
        worker.start()

    def stop(*_: Any) -> None:
        place.value = len(waiting)  # for a worker whose run ends before it is stopped
        for worker in workers:
            worker.terminate()  # its run saves, and goes on from there

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    for worker in workers:
        worker.join()
    far = factors_analysis.progress(scale, factors_analysis.sort(scale, everything(scale, out, results)))
    done, cannot = (sum(run.key in of for run in waiting) for of in (far.ended, far.cannot))
    left = done + cannot < len(waiting)
    print(
        f"{done} of {len(waiting)} runs are recorded"
        + (f", {cannot} cannot be made, as the SimCLR of their block diverged" if cannot else "")
        + (", run it again" if left else "")
    )
    return not left


def recorded_keys(scale: str, records: list[dict[str, Any]]) -> set[tuple[int, str]]:
    """The runs that need not be run again: those that the analysis uses."""
    return factors_analysis.progress(scale, factors_analysis.sort(scale, records)).ended


def _worker(
    waiting: list[Run],
    place: Any,
    scale: str,
    out: pathlib.Path,
    given: dict[str, str],
    results: pathlib.Path,
) -> None:
    import jax

    while True:
        with place.get_lock():
            number, place.value = place.value, place.value + 1
        if number >= len(waiting):
            return
        run, recorded = waiting[number], everything(scale, out, results)
        if run.key in recorded_keys(scale, recorded):
            continue
        try:
            row = work(run, out, given, recorded)
        except Stopped:
            return
        except LookupError as error:
            print(error, file=sys.stderr)
            continue
        except UserError as error:  # as of lists that are not there, or a full disk
            print(f"block {run.block} {run.arm.name}: {error}", file=sys.stderr)
            return
        _record(out / f"{scale}.jsonl", row)
        said = f"All {100 * row['scores']['logistic.all']:.1f} %" if row["state"] == "done" else row["state"]
        print(f"block {run.block} {run.arm.name}: {said}, {row['cpu_seconds']:.0f} CPU seconds", flush=True)
        jax.clear_caches()  # programs of hundreds of runs take gigabytes


def everything(scale: str, out: pathlib.Path, results: pathlib.Path) -> list[dict[str, Any]]:
    """What is recorded, committed or not, in the order of the design; each run once."""
    found = {}
    for row in [*read(results / f"{scale}.jsonl"), *read(out / f"{scale}.jsonl")]:
        found.setdefault((row["block"], row["arm"], row["commit"], row.get("pixels"), row["images"]), row)
    order = {run.key: i for i, run in enumerate(runs(scale))}
    return sorted(found.values(), key=lambda row: order.get((row["block"], row["arm"]), len(order)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scale", choices=SCALES)
    for name in ("plan", "run", "collect", "analyse"):
        parser.add_argument(f"--{name}", action="store_true")
    parser.add_argument("--out", type=jobs.on_disk, help="folder of the runs; default runs/factors/SCALE")
    parser.add_argument("--at_a_time", type=jobs.at_least_one, default=2, help="runs side by side")
    parser.add_argument("--blocks", type=jobs.at_least_one, help="run the first ones alone")
    parser.add_argument("--records", type=pathlib.Path, default=RESULTS, help="folder of the records and what is made")
    options, rest = parser.parse_known_args()
    given = {}
    for argument in rest:
        name, equals, value = argument.removeprefix("--config.").partition("=")
        if not argument.startswith("--config.data.") or not equals:
            parser.error(f"unknown argument {argument}: the design gives all fields but --config.data.lists")
        given[name] = value
    out = (options.out or pathlib.Path("runs/factors") / options.scale).absolute()
    try:
        whole = _do(options, out, options.records.absolute(), given)
    except (UserError, OSError) as error:
        sys.exit(f"factors.py: {error}")
    sys.exit(0 if whole else 1)


def _do(options: argparse.Namespace, out: pathlib.Path, results: pathlib.Path, given: dict[str, str]) -> bool:
    """What the options ask for; whether all runs that were to be run are recorded."""
    scale, whole = options.scale, True
    if options.plan or options.analyse:
        import factors_report
    if options.plan:
        rows = everything(scale, out, results)
        print(factors_report.plan(scale, recorded_keys(scale, rows)))
    if options.run:
        whole = run_all(scale, out, given, options.at_a_time, options.blocks or SCALES[scale].blocks, results)
    if options.collect:
        rows = everything(scale, out, results)
        results.mkdir(parents=True, exist_ok=True)
        (results / f"{scale}.jsonl").write_text("".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))
        print(f"{results / scale}.jsonl: {len(rows)} of {len(runs(scale))} runs")
    if options.analyse:
        page = PAGE if results == RESULTS else None
        print(factors_report.analyse(scale, read(results / f"{scale}.jsonl"), results, page))
    return whole


if __name__ == "__main__":
    main()
