"""What the flags of sdclr_jax/compiler.py gain: the SDCLR step of a ResNet-18 on this CPU, with and without them.

    python experiments/cpu_flags.py [--batch_size=64] [--rounds=3] [--steps=3]

Each setting has a process of its own, as flags are read once; they take turns, and each round is the median of a few
steps. Prints a line of JSON for each setting: seconds a step, by round, and images a second at the median.
"""

import argparse
import importlib.metadata
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from sdclr_jax import compiler

SETTINGS = {
    "XLA's defaults": "",
    "ours": f"{compiler.FLAG}={compiler.NOT_FOR_YNNPACK[importlib.metadata.version('jaxlib')]}",
    "convolutions alone": f"{compiler.FLAG}=-individual_convolution",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        return serve(options)
    running = {}
    for name, flags in SETTINGS.items():
        environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
        command = [sys.executable, __file__, "--serve", *sys.argv[1:]]
        running[name] = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        assert running[name].stdout.readline() == "ready\n"
    times = {name: [] for name in running}
    for _ in range(options.rounds):
        for name, process in running.items():
            process.stdin.write("\n")
            process.stdin.flush()
            times[name].append(float(process.stdout.readline()))
    for name, process in running.items():
        process.stdin.close()
        process.wait()
        rate = options.batch_size / statistics.median(times[name])
        print(json.dumps({"flags": name, "seconds_a_step": times[name], "images_per_second": round(rate, 1)}))
    return None


def serve(options: argparse.Namespace) -> None:
    """Say `ready` after the first step; then for each line the median seconds of a few."""
    import flops
    import jax
    import jax.numpy as jnp
    import numpy as np

    method, programs = flops.lowered(options.batch_size)
    step = programs["step"].compile()
    view = np.zeros((options.batch_size, 32, 32, 3), np.float32)
    state = jax.jit(method.refresh)(jax.jit(method.init)(np.uint32(0), view))
    images = jnp.asarray(np.random.default_rng(0).integers(0, 256, view.shape, np.uint8))
    jax.block_until_ready(step(state, images))
    print("ready", flush=True)
    for _ in sys.stdin:
        taken = []
        for _ in range(options.steps):
            began = time.perf_counter()
            jax.block_until_ready(step(state, images))
            taken.append(time.perf_counter() - began)
        print(statistics.median(taken), flush=True)


if __name__ == "__main__":
    main()
