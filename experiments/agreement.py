"""One run on any number of devices and processes: how far the numbers agree, and that what parts them is rounding.

    python experiments/agreement.py [--steps=60] [--out=runs/agreement]

Trains tiny SDCLR on digits, a batch of 64, on 1, 2, 4 and 8 devices of one process and on 2 and 4 processes, from
images on the devices and from images that are sent, in float32 and in float64; real processes on this machine. Against
one device, `table.md` has the largest difference after the first three steps, relative to the largest number of its
kind: of loss, gradient (the optimizer's first trace), parameters, statistics, and features; and how many bits of
the mask, nearest neighbours and predictions of k-NN differ. Then how the difference of the loss grows with the steps.
"""

import argparse
import itertools
import os
import pathlib
import socket
import subprocess
import sys
from typing import NamedTuple

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import numpy as np
from tabulate import tabulate

from sdclr_jax import compiler

FIRST = 3  # steps


class Layout(NamedTuple):
    processes: int
    devices: int  # of each process
    input: str
    dtype: str = "float32"

    def __str__(self) -> str:
        return f"{self.processes} x {self.devices}, {self.input}, {self.dtype}"


SINGLE = [Layout(1, 1, "resident"), Layout(1, 2, "resident"), Layout(1, 4, "resident"), Layout(1, 8, "resident")]
SEVERAL = [Layout(2, 1, "resident"), Layout(2, 2, "streamed"), Layout(4, 1, "resident"), Layout(4, 2, "streamed")]
LAYOUTS = [*SINGLE, Layout(1, 1, "streamed"), Layout(1, 4, "streamed"), *SEVERAL]
LAYOUTS += [layout._replace(dtype="float64") for layout in (SINGLE[0], SINGLE[1], SINGLE[3], SEVERAL[0], SEVERAL[3])]


def main() -> None:
    from jobs import on_disk

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--out", type=on_disk, default=pathlib.Path("runs/agreement"))
    parser.add_argument("--serve", nargs=3, type=int, metavar=("LAYOUT", "PORT", "NUMBER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options, *options.serve)
        return
    found = {}
    for number, layout in enumerate(LAYOUTS):
        path = options.out / f"{number}.npz"
        if not path.exists():
            run(options, number, layout)
        found[layout] = dict(np.load(path, allow_pickle=False))
        print(layout, flush=True)
    text = "\n\n".join((first_steps(found), long_run(found, options.steps)))
    (options.out / "table.md").write_text(text + "\n")
    print(text)


def run(options: argparse.Namespace, number: int, layout: Layout) -> None:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    environment = os.environ | {
        "JAX_NUM_CPU_DEVICES": str(layout.devices),
        "JAX_PLATFORMS": "cpu",
        "JAX_ENABLE_X64": str(int(layout.dtype == "float64")),
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # compiles in a third of the time
    }
    options.out.mkdir(parents=True, exist_ok=True)
    running = [
        subprocess.Popen(
            [sys.executable, __file__, f"--steps={options.steps}", f"--out={options.out}"]
            + ["--serve", str(number), str(port), str(i)],
            env=environment,
        )
        for i in range(layout.processes)
    ]
    if any([process.wait(timeout=1200) for process in running]):
        raise SystemExit(f"{layout} has failed")


def serve(options: argparse.Namespace, number: int, port: int, process: int) -> None:
    """What one process does: train, and where it is the first, write what is compared."""
    compiler.set_flags()
    import jax
    import jax.numpy as jnp

    layout = LAYOUTS[number]
    if layout.processes > 1:
        jax.distributed.initialize(f"localhost:{port}", layout.processes, process)
    from sdclr_jax import parallel, processes, recipes, trees
    from sdclr_jax.evaluation import frozen, knn
    from sdclr_jax.evaluation.neighbours import neighbours

    config = recipes.load("digits_lt:sdclr")
    width = {"model.width": 4, "projector.layers": 2, "projector.hidden": 16, "projector.out": 8}
    recipes.override(config, width | {"batch_size": 64, "epochs": options.steps // 5, "data.input": layout.input})
    dtype = config.model.dtype = layout.dtype
    shardings = parallel.shardings()
    data = recipes.data(config, str(options.out / "data"))
    images = data.part(config.data.subset).images
    batches = recipes.batches(config, images, shardings)
    method = recipes.method(config, batches.steps_per_epoch, shardings.replicated)
    make_views = method.make_views
    method.make_views = lambda key, images: tuple(view.astype(dtype) for view in make_views(key, images))

    def init(seed: jax.Array) -> object:
        state = method.init(seed, jnp.zeros((1, *images.shape[1:]), dtype))
        wide = lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x  # noqa: E731
        return jax.tree.map(wide, state)

    with processes.together():
        state = jax.jit(init, out_shardings=shardings.replicated)(np.uint32(0))
        kept, losses = {}, []
        for step in method.train(state, batches.from_step(0), until=options.steps):
            losses.append(float(step.scalars["loss"]))
            if step.number <= FIRST:
                part = {"parameters": step.state.params, "statistics": step.state.stats, "mask": step.state.mask}
                part |= {"gradient": step.state.opt_state} if step.number == 1 else {}
                for kind, tree in part.items():
                    kept |= {f"{step.number}/{kind}/{name}": np.asarray(x) for name, x in trees.named(tree).items()}
            if step.number == FIRST:
                encoder = recipes.frozen_encoder(config, shardings)
                variables = frozen.encoder_variables(frozen.dense(step.state))
                features, test = (encoder.features(variables, part) for part in (images, data.test.images))
                near = neighbours(features, 5, shardings=shardings)
                labels = data.part(config.data.subset).labels
                kept |= {"features": features, "neighbours": near.rows}
                kept["predictions"] = knn.predict(features, labels, test, num_classes=10, k=20)
        if process == 0:
            np.savez(options.out / f"{number}.npz", losses=np.array(losses), **kept)


def first_steps(found: dict[Layout, dict[str, np.ndarray]]) -> str:
    """The table of the first steps."""
    rows = []
    for layout, arrays in found.items():
        one = found[Layout(1, 1, "resident", layout.dtype)]
        loss = np.max(np.abs(arrays["losses"] / one["losses"] - 1)[:FIRST])
        row = {"processes x devices, images, type": str(layout), "loss": f"{loss:.0e}"}
        for kind in ("gradient", "parameters", "statistics"):
            names = [name for name in one if f"/{kind}/" in name and np.issubdtype(one[name].dtype, np.floating)]
            row[kind] = f"{apart(*(joined(each, names) for each in (arrays, one))):.0e}"
        masks = [name for name in one if "/mask/" in name]
        row["bits of masks"] = sum(np.count_nonzero(arrays[name] != one[name]) for name in masks)
        row["features"] = f"{apart(arrays['features'], one['features']):.0e}"
        row |= {name: np.count_nonzero(arrays[name] != one[name]) for name in ("neighbours", "predictions")}
        rows.append(row)
    return tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True)


def joined(arrays: dict[str, np.ndarray], names: list[str]) -> np.ndarray:
    return np.concatenate([arrays[name].ravel() for name in names])


def apart(a: np.ndarray, b: np.ndarray) -> float:
    """The largest difference against the largest number."""
    return float(np.max(np.abs(a - b)) / np.max(np.abs(b)))


def long_run(found: dict[Layout, dict[str, np.ndarray]], steps: int) -> str:
    """The table of the loss, step by step."""
    at = [s for s in (1, 3, 10, 20, 30, 40, 50, 60, 100, 200) if s <= steps]
    rows = []
    for layout, arrays in itertools.islice(found.items(), 1, None):
        difference = np.abs(arrays["losses"] / found[Layout(1, 1, "resident", layout.dtype)]["losses"] - 1)
        rows.append({"loss at step": str(layout)} | {str(s): f"{difference[:s].max():.0e}" for s in at})
    return tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True)


if __name__ == "__main__":
    main()
