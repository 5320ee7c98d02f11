"""How many images a second a config's step takes on this machine: a line of the file that tables are priced by.

    python experiments/throughput.py --config=NAME:METHOD [--config.FIELD=VALUE ...] [--steps=3]

The step is the whole one, with its views, on images of noise that lie on one device. Prints the line and appends it to
`experiments/results/throughput.csv`. On CPUs, where others may be at work, what counts is processor time: images per
core and second. On an accelerator it is the clock: images per chip and second.
"""

import csv
import datetime
import os
import pathlib
import shlex
import statistics
import sys
import time
from typing import NamedTuple

FILE = pathlib.Path(__file__).parent / "results" / "throughput.csv"


class Rate(NamedTuple):
    """A line of the file: images per second of one `unit`, a core or a chip."""

    hardware: str
    unit: str
    method: str
    encoder: str
    width: str  # '' of encoders without
    size: str
    batch_size: str
    dtype: str
    images_per_second: str
    steps: str
    jax: str
    commit: str
    date: str
    command: str


def read(file: pathlib.Path = FILE) -> list[Rate]:
    """All lines."""
    with file.open(newline="") as lines:
        return [Rate(**row) for row in csv.DictReader(lines)]


def kind(config) -> dict[str, str]:
    """What of a config decides how long a step takes, as the file has it."""
    return {
        "method": config.method,
        "encoder": config.model.name,
        "width": str(config.model.get("width", "")),
        "size": str(config.views.get("size", 8)),
        "batch_size": str(config.batch_size),
        "dtype": str(config.model.get("dtype", "float32")),
    }


def measure(config, steps: int) -> tuple[str, float]:
    """The unit, and images per second of one: the median over steps, after one that compiles and one that warms up."""
    import jax
    import numpy as np

    from sdclr_jax import parallel, recipes

    side, channels = (8, 1) if config.views.name == "digits" else (config.views.size, 3)
    images = np.random.default_rng(0).integers(0, 256, (config.batch_size, side, side, channels), np.uint8)
    shardings = parallel.shardings(jax.devices()[:1])
    batches = recipes.batches(config, images, shardings)
    method = recipes.method(config, batches.steps_per_epoch, shardings.replicated)
    state = jax.jit(method.init)(np.uint32(config.seed), np.zeros((1, side, side, channels), np.float32))
    on_cpu = jax.devices()[0].platform == "cpu"
    clock = time.process_time if on_cpu else time.perf_counter
    times, before = [], None
    for step in method.train(state, batches.from_step(0), until=steps + 2):
        jax.block_until_ready(step.scalars)
        now = clock()
        times += [now - before] if before is not None else []
        before = now
    return "core" if on_cpu else "chip", config.batch_size / statistics.median(times[1:])


def main() -> None:
    from sdclr_jax import recipes
    from sdclr_jax.commands import flags, main
    from sdclr_jax.errors import UserError
    from sdclr_jax.run import versions

    argv = [arg for arg in sys.argv[1:] if not arg.startswith("--steps=")]
    steps = int(next((arg.partition("=")[2] for arg in sys.argv[1:] if arg.startswith("--steps=")), 3))
    if not argv or not argv[0].startswith("--config="):
        sys.exit(__doc__)
    try:
        config = flags.overridden(recipes.load(argv[0].removeprefix("--config=")), argv[1:])
        recipes.check(config)
    except UserError as error:
        sys.exit(f"{error}")
    main.compiler.set_flags()  # as `sdclr pretrain` does, before JAX starts
    unit, rate = measure(config, steps)
    about = versions.current()
    hardware = about["hardware"].partition(",")[0] if unit == "core" else about["devices"].partition(" x ")[2]
    line = Rate(
        hardware=hardware,
        unit=unit,
        **kind(config),
        images_per_second=f"{rate:.4g}",
        steps=str(steps),
        jax=about["jax"],
        commit=about["commit"][:7] + "-dirty" * about["commit"].endswith("-dirty"),
        date=datetime.date.today().isoformat(),
        command=shlex.join(["python", "experiments/throughput.py", *sys.argv[1:]]),
    )
    new = not FILE.exists()
    with FILE.open("a", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([Rate._fields, line] if new else [line])
    print(*(f"{name}: {value}" for name, value in line._asdict().items()), sep="\n")


if __name__ == "__main__":
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
    main()
