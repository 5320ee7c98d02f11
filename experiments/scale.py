"""A model of scale: what a step of SDCLR costs on 8 to 4,096 chips, and what begins to matter when.

    python experiments/scale.py [--encoders=resnet18,resnet50] [--markdown]

For each encoder the step is compiled for 8 pretended devices, and its collectives are read from the compiled program:
how many there are and how large. Operations are XLA's count. With published peaks and interconnect rates (`CHIPS`),
and with what is assumed (`ASSUMED`), this gives the time of each part of a step at a fixed batch per chip. The compiled
program is real; nothing else was measured on a large machine.
"""

import argparse
import json
import math
import os
import pathlib
import re
import sys
from typing import NamedTuple

DEVICES = 8
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={DEVICES}"
sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402

import sdclr_jax  # noqa: E402
from sdclr_jax import parallel, recipes  # noqa: E402
from sdclr_jax.run import versions  # noqa: E402


class Chip(NamedTuple):
    """Published figures of one chip: dense bfloat16 operations a second; bytes a second of its links together; chips
    behind one host; and how many chips lie between the farthest two of n."""

    peak: float
    links: float
    host: int
    diameter: str  # "torus2", "torus3" or "tree"


# cloud.google.com/tpu/docs/v4, /v5e, /v5p; NVIDIA H100 SXM data sheet, with one 400 Gbit/s port a GPU between nodes.
CHIPS = {
    "TPU v4": Chip(275e12, 300e9, 4, "torus3"),
    "TPU v5e": Chip(197e12, 200e9, 8, "torus2"),
    "TPU v5p": Chip(459e12, 600e9, 4, "torus3"),
    "H100, 400 Gbit/s": Chip(989e12, 50e9, 8, "tree"),
}
ASSUMED = {
    "share of the peak that convolutions reach": 0.35,
    "share of the links' rate that a collective reaches": 0.7,
    "seconds per hop of a collective": 1e-6,
    "seconds to start a collective": 5e-6,
}
SMALL = 64 * 1024  # bytes; a batch norm's sums are below this, everything else above
COUNTS = (8, 64, 256, 1024, 4096)


class Encoder(NamedTuple):
    config: str
    overrides: dict
    channels: tuple[int, int, int]
    per_chip: int  # images a chip
    encoded: int  # bytes of an image as the host reads it


ENCODERS = {
    "resnet18": Encoder("cifar10_lt:sdclr", {}, (32, 32, 3), 64, 32 * 32 * 3),
    "resnet50": Encoder("imagenet100_lt:sdclr", {"model.dtype": "bfloat16"}, (224, 224, 3), 32, 110_000),
    "vit_small": Encoder(
        "imagenet100_lt:sdclr", {"model.name": "vit_small", "model.dtype": "bfloat16"}, (224, 224, 3), 32, 110_000
    ),
}


class Compiled(NamedTuple):
    """What the compiler says of a step, at a batch size."""

    batch_size: int
    operations: float  # floating-point operations, of all chips
    parameters: int  # bytes of the weights, float32
    projection: int  # width of the embeddings
    collectives: list[tuple[str, int]]  # kind and bytes, in the compiled program


def compiled(encoder: Encoder, per_chip: int) -> Compiled:
    """Compile a step for `DEVICES` pretended devices, of shapes alone."""
    config = sdclr_jax.config(encoder.config, encoder.overrides | {"batch_size": per_chip * DEVICES})
    shardings = parallel.shardings(jax.devices()[:DEVICES])
    method = recipes.method(config, 100, shardings.replicated)
    state = recipes.abstract_state(config, (10_000, *encoder.channels), shardings)
    images = jax.ShapeDtypeStruct((config.batch_size, *encoder.channels), jnp.uint8, sharding=shardings.batch)
    lowered = method.jitted_step.lower(state, images)
    return Compiled(
        config.batch_size,
        lowered.cost_analysis()["flops"],
        sum(4 * leaf.size for leaf in jax.tree.leaves(state.params)),
        config.projector.out,
        collectives(lowered.compile().as_text()),
    )


BYTES = {"f32": 4, "bf16": 2, "f16": 2, "f64": 8, "s32": 4, "u32": 4, "s8": 1, "u8": 1, "pred": 1, "s64": 8}


def collectives(program: str) -> list[tuple[str, int]]:
    """Kind and bytes of what each collective of a compiled program gives.

    >>> collectives("x = (f32[8,2]{1,0}, f32[4]) all-reduce(a, b), to_apply=add")
    [('all-reduce', 80)]
    """
    found, program = [], re.sub(r"/\*.*?\*/", "", program)
    for shapes, kind in re.findall(
        r"= (\(?[^=]*?\)?) (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-start)?\(", program
    ):
        sizes = [
            BYTES[dtype] * math.prod(int(n) for n in shape.split(",") if n)
            for dtype, shape in re.findall(r"(\w+)\[([\d,]*)\]", shapes)
        ]
        found.append((kind, sum(sizes)))
    return found


def hops(chip: Chip, count: int) -> float:
    """Links between the farthest two chips."""
    if chip.diameter == "tree":
        return 2 * math.log2(count)
    dimensions = int(chip.diameter[-1])
    return dimensions * count ** (1 / dimensions) / 2


def step_time(step: Compiled, chip: Chip, count: int, per_chip: int, encoded: int) -> dict[str, float]:
    """Milliseconds of each part of a step on `count` chips, and what each host reads, in MB a second."""
    start = ASSUMED["seconds to start a collective"] + hops(chip, count) * ASSUMED["seconds per hop of a collective"]
    rate = chip.links * ASSUMED["share of the links' rate that a collective reaches"]
    useful = chip.peak * ASSUMED["share of the peak that convolutions reach"]
    ring = (count - 1) / count  # of the bytes, each way
    n, width = per_chip * count, step.projection
    reduced = [size for kind, size in step.collectives if kind == "all-reduce"]
    small, large = [size for size in reduced if size <= SMALL], [size for size in reduced if size > SMALL]
    seconds = {
        # XLA's count at the compiled batch; that of the logits grows with the whole batch, so it is taken out.
        "network": (step.operations - logits(step.batch_size, width)) / step.batch_size * per_chip / useful,
        "logits": logits(n, width) / count / useful,
        "gradients": 2 * ring * sum(large) / rate + len(large) * start,
        "batch norms": len(small) * start + 2 * ring * sum(small) / rate,
        # [2N, D] in float32 to each chip, and the gradient of it back.
        "embeddings": 3 * ring * (2 * n * width * 4) / rate + 4 * start,
    }
    total = sum(seconds.values())  # nothing overlaps: an upper bound of what these parts cost
    return {name: 1000 * x for name, x in seconds.items()} | {
        "step": 1000 * total,
        "images a second": n / total,
        "host reads, MB/s": per_chip * chip.host * encoded / total / 1e6,
        "logits, MiB a chip": 4 * (2 * per_chip) * (2 * n) / 2**20,
    }


def logits(n: int, width: int) -> float:
    """Operations of the [2N, 2N] products: forward, and two in the backward pass."""
    return 3 * 2 * (2 * n) ** 2 * width


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoders", default="resnet18,resnet50")
    parser.add_argument("--markdown", action="store_true", help="tables; without it, a line of JSON for each row")
    options = parser.parse_args()
    made_with = versions.current()
    print(json.dumps({k: made_with[k] for k in ("commit", "jax", "hardware")} | {"assumed": ASSUMED}))
    for name in options.encoders.split(","):
        encoder = ENCODERS[name]
        step = compiled(encoder, per_chip=8)
        kinds = {}
        for kind, size in step.collectives:
            small = "up to 64 KiB" if size <= SMALL else "larger"
            number, whole = kinds.get((kind, small), (0, 0))
            kinds[kind, small] = number + 1, whole + size
        gflop, weights = step.operations / step.batch_size / 1e9, step.parameters / 2**20
        print(f"\n{name}: {gflop:.2f} GFLOP an image, weights {weights:.1f} MiB\n")
        for (kind, small), (number, whole) in sorted(kinds.items()):
            print(f"- {number} {kind} {small}: {whole / 2**20:.2f} MiB")
        for chip_name, chip in CHIPS.items():
            rows = {n: step_time(step, chip, n, encoder.per_chip, encoder.encoded) for n in COUNTS}
            if not options.markdown:
                for count, row in rows.items():
                    print(json.dumps({"encoder": name, "chip": chip_name, "chips": count} | row))
                continue
            names = list(next(iter(rows.values())))
            print(f"\n{chip_name}, {encoder.per_chip} images a chip, milliseconds\n")
            print(f"| chips | batch | {' | '.join(names)} |\n|{'---|' * (len(names) + 2)}")
            for count, row in rows.items():
                cells = (f"{row[n]:,.0f}" if row[n] >= 100 else f"{row[n]:.2f}" for n in names)
                print(f"| {count:,} | {count * encoder.per_chip:,} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
