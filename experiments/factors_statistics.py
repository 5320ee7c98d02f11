"""Whose batch statistics score the network: the runs of experiments/factors.py, scored once more.

    python experiments/factors_statistics.py photos --out=FOLDER    # the folder that factors.py --run had

With shared norms both branches add to one set of running statistics, and the dense network is scored with it. Here the
same weights are scored with the statistics of the dense branch's own training views. Runs with private norms have no
others, so they say what another way of taking statistics changes by itself. A line a run goes to
experiments/results/factors/SCALE_statistics.csv, and `factors.py SCALE --analyse` shows them; runs that are there are
not scored again, and those whose folders are gone are left out. Added when the digits were complete and 52 of 118 runs
on photographs: it explores, and tests nothing.
"""

import argparse
import csv
import pathlib
import sys
import tempfile
from functools import partial
from typing import Any

import factors
import factors_explored
import jax
import jax.numpy as jnp
import jobs
import ledger
import numpy as np
from factors_design import SCALES, runs

from sdclr_jax import compiler, parallel, recipes
from sdclr_jax.data import order
from sdclr_jax.evaluation import collapse, frozen
from sdclr_jax.evaluation.protocols import measure
from sdclr_jax.evaluation.pruning_probe import batch_statistics
from sdclr_jax.records import names
from sdclr_jax.run.checkpoints import Checkpoints

BATCHES = 16  # of training views, over which statistics are averaged


def dense_statistics(config: Any, state: Any, images: np.ndarray) -> Any:
    """The encoder's variables, with statistics of the training views that the dense branch sees."""
    method = recipes.method(config, steps_per_epoch=1)
    seen = sorted({view for pair in method.pairs for side, view in pair if side == "dense"})
    views, of_batch = jax.jit(method.make_views), jax.jit(partial(batch_statistics, method.network.encoder))
    variables, total = frozen.encoder_variables(frozen.dense(state)), None
    for step in range(BATCHES):
        rows = order.rows(len(images), config.batch_size, config.seed, step)
        made = views(jax.random.fold_in(jax.random.key(config.seed), step), jnp.asarray(images[rows]))
        found = of_batch(variables, [made[view] for view in seen])
        total = found if total is None else jax.tree.map(jnp.add, total, found)
    return {**variables, "batch_stats": jax.tree.map(lambda x: x / BATCHES, total)}


def scores(folder: pathlib.Path) -> dict[str, float]:
    """Of a run's encoder with those statistics; nothing is written into its folder."""
    config, shardings = recipes.read(folder), parallel.shardings()
    data = recipes.data(config, None)
    images = data.part(config.data.subset).images
    like = recipes.abstract_state(config, recipes.image_shape(config, images), shardings)
    with Checkpoints(folder / names.CHECKPOINTS, read_only=True) as checkpoints:
        state = checkpoints.restore(like=like)
    with tempfile.TemporaryDirectory() as scratch:
        variables = dense_statistics(config, state, images)
        features = recipes.frozen_features(config, variables, data, shardings, pathlib.Path(scratch))
        rank = float(collapse.effective_rank(features.test.features))
        found = {"features.effective_rank": rank}
        for name, protocol in recipes.protocols(config, data).items():
            if f"{name}.all" in factors_explored.RESCORED:
                measured = measure(name, protocol, features.splits(protocol.train), recipes.groups(config, data))
                found[f"{name}.all"] = measured.all
    return found


def _add(path: pathlib.Path, row: dict[str, Any]) -> None:
    """Write a row to the end of a file, which begins with the names of its columns."""
    with path.open("a", newline="") as file:
        lines = csv.DictWriter(file, ("block", "arm", *factors_explored.RESCORED), lineterminator="\n")
        if not file.tell():
            lines.writeheader()
        lines.writerow(row)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scale", choices=SCALES)
    parser.add_argument("--out", type=jobs.on_disk, required=True, help="the folder of the runs")
    options = parser.parse_args(argv)
    compiler.set_flags()
    recorded = {(row["block"], row["arm"]): row for row in factors.read(factors.RESULTS / f"{options.scale}.jsonl")}
    path = factors.RESULTS / f"{options.scale}_statistics.csv"
    there = factors_explored.read(factors.RESULTS, options.scale).get("statistics", [])
    known = {(int(row["block"]), row["arm"]) for row in there}
    wanted = [run for run in runs(options.scale) if run.arm.fraction and run.key in recorded.keys() - known]
    folders = {run: options.out / f"block-{run.block}" / run.arm.name for run in wanted}
    gone = [run for run in wanted if not folders[run].is_dir()]
    # Those that can differ come first.
    for run in sorted(folders.keys() - set(gone), key=lambda run: (run.arm.levels.norms != "shared", run.key)):
        found, known_as = ledger.read(folders[run]), recorded[run.key]["scores"]
        if found is None or not known_as.items() <= found.scores.items():
            sys.exit(
                f"factors_statistics.py: {folders[run]} is not the run that is recorded: give the --out that "
                "factors.py had"
            )
        again = scores(folders[run])
        _add(path, {"block": run.block, "arm": run.arm.name} | {name: f"{x:.6f}" for name, x in again.items()})
        print(f"block {run.block} {run.arm.name}: {again}", flush=True)
    if gone:
        print(f"{len(gone)} of {len(wanted)} runs have no folder in {options.out}, and are not scored")


if __name__ == "__main__":
    main()
