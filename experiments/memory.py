"""Memory of a step on each device, by the compiler's own analysis: large batches, and what makes room for them.

    python experiments/memory.py resnet18 --batch=32768 [--topology=v5e:2x4]
    python experiments/memory.py resnet50 --batch=32768 --topology=v5e:16x16
    python experiments/memory.py nt_xent [--topology=v5e:2x4]

The SDCLR step is compiled from shapes alone, and nothing runs. With `--topology` it is compiled for such TPUs, by the
compiler of the package libtpu (pip install -e ".[tpu]"), on any machine; without, for 8 pretended CPU devices, whose
compiler uses other memory than an accelerator's. A program that does not fit a TPU is refused by its compiler, which
says what it would use. `nt_xent` is the loss alone, forward and backward, of embeddings of 128 numbers, on one device
and on all.
"""

import argparse
import json
import os
import pathlib
import re
import sys

os.environ.setdefault("JAX_PLATFORMS", "cpu")
sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
sys.path.insert(0, str(pathlib.Path(__file__).parent))

from scale import ENCODERS, collectives  # noqa: E402, I001  # which sets the number of pretended devices

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
from jax.experimental import topologies  # noqa: E402

import sdclr_jax  # noqa: E402
from sdclr_jax import parallel, recipes  # noqa: E402
from sdclr_jax.models import Outputs, norms  # noqa: E402
from sdclr_jax.objectives import OBJECTIVES  # noqa: E402
from sdclr_jax.run import versions  # noqa: E402

# What libtpu else asks of the machine, which need not be a TPU's.
ELSEWHERE = {"TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_ID": "0", "TPU_WORKER_HOSTNAMES": "localhost"}
FIELDS = {
    "float32": {"model.dtype": "float32"},
    "bfloat16": {"model.dtype": "bfloat16"},
    "remat": {"model.remat": True},
    "chunk": {"objective.chunk": 1024},
    "shard_state": {"shard_state": True},
}
ROWS = "float32; bfloat16; bfloat16 remat; bfloat16 remat chunk; bfloat16 remat chunk shard_state"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("encoder", choices=[*ENCODERS, "nt_xent"])
    parser.add_argument("--batch", type=int, default=32768)
    parser.add_argument("--topology", default="", help="of TPUs, such as v5e:2x4; none is 8 devices of a CPU")
    parser.add_argument("--rows", default=ROWS, help=f"of the table: words of {', '.join(FIELDS)}")
    parser.add_argument("--effort", type=float, default=0.0, help="-1 to 1: of the compiler; less is faster")
    options = parser.parse_args()
    devices = jax.devices()
    if options.topology:
        os.environ.update(ELSEWHERE)
        norms.by_hand = lambda: False  # as where such a device is
        devices = list(topologies.get_topology_desc(options.topology, platform="tpu").devices)
    made_with = versions.current()
    print(json.dumps({k: made_with[k] for k in ("commit", "jax", "jaxlib")} | vars(options)))
    print(f"{len(devices)} x {devices[0].device_kind}, {options.batch // len(devices)} images each\n")
    if options.encoder == "nt_xent":
        print(losses(devices))
        return
    print("| settings | state, MiB | step, MiB | together, GiB | gathered and reduced, MiB |\n|---|---|---|---|---|")
    for words in options.rows.split(";"):
        fields = {field: value for word in words.split() for field, value in FIELDS[word].items()}
        print(f"| {words.strip()} | {row(options, devices, fields)} |", flush=True)


def losses(devices: list[jax.Device]) -> str:
    """The table of NT-Xent alone: GiB of one device."""
    rows = ["| images | devices | whole, GiB | chunk 1024, GiB |", "|---|---|---|---|"]
    for images in (4096, 32768):
        for count in dict.fromkeys((1, len(devices))):
            batch = parallel.shardings(devices[:count]).batch
            views = [jax.ShapeDtypeStruct((images, 128), jnp.float32, sharding=batch)] * 2
            cells = []
            for chunk in (0, 1024):
                loss = OBJECTIVES["nt_xent"](temperature=0.2, chunk=chunk).loss
                compared = jax.value_and_grad(
                    lambda a, b, loss=loss: loss(None, Outputs(a, a), Outputs(b, b), None), argnums=(0, 1)
                )
                cells.append(used(jax.jit(compared).lower(*views)))
            rows.append(f"| {images:,} | {count} | {' | '.join(cells)} |")
    return "\n".join(rows)


def used(lowered: jax.stages.Lowered) -> str:
    """GiB that a device holds at once."""
    try:
        found = lowered.compile().memory_analysis()
    except jax.errors.JaxRuntimeError as error:
        return refused(error)
    return f"{(found.argument_size_in_bytes + found.output_size_in_bytes + found.temp_size_in_bytes) / 2**30:.2f}"


def refused(error: Exception) -> str:
    """What a TPU's compiler says of a program that does not fit."""
    for pattern in (r"Used ([\d.]+)([GM]) of ([\d.]+)G hbm", r"([\d.]+)([GM])\) exceeds available HBM \(([\d.]+)G"):
        if said := re.search(pattern, str(error)):
            return f"{float(said[1]) / (1 if said[2] == 'G' else 1024):.2f}: more than {said[3]}"
    raise error


def row(options: argparse.Namespace, devices: list[jax.Device], fields: dict[str, object]) -> str:
    """What one device holds: between steps, more in a step, and both; and the bytes of all collectives above 64 KiB."""
    encoder = ENCODERS[options.encoder]
    parallel.memory = lambda device: None  # nothing is put on them
    shardings = parallel.shardings(devices)
    config = sdclr_jax.config(encoder.config, encoder.overrides | fields | {"batch_size": options.batch})
    state = recipes.abstract_state(config, (10_000, *encoder.channels), shardings, training=True)
    method = recipes.method(config, 100, parallel.of(state))
    images = jax.ShapeDtypeStruct((config.batch_size, *encoder.channels), jnp.uint8, sharding=shardings.batch)
    how = {"exec_time_optimization_effort": options.effort} if options.effort else None
    try:
        step = method.jitted_step.lower(state, images).compile(how)
    except jax.errors.JaxRuntimeError as error:
        return f" | | {refused(error)} | "
    found = step.memory_analysis()
    held, more = found.argument_size_in_bytes, found.temp_size_in_bytes
    moved = sum(size for _, size in collectives(step.as_text()) if size > 2**16)
    return f"{held / 2**20:,.0f} | {more / 2**20:,.0f} | {(held + more) / 2**30:.2f} | {moved / 2**20:,.0f}"


if __name__ == "__main__":
    main()
