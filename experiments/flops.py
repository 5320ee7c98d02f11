"""What the SDCLR step costs: compiled floating-point operations and time against 2 forwards + 2 backwards.

    python experiments/flops.py [--batch_size=128] [--repeats=5]

The published step flips a flag and runs 3 forwards and 2 backwards; one gradient of both branches needs 2 and 2. The
peer, timed in the same process in turns with the step, is the bare network on one view: forward, backward, twice.
Operations are XLA's own count of the compiled program.
"""

import argparse
import pathlib
import statistics
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from configs import base, methods
from sdclr_jax import recipes, trees
from sdclr_jax.run import versions


def compiled(batch_size: int):
    """The SDCLR step and the bare forward and backward, ResNet-18 on 32 x 32 images, with their arguments."""
    config = base.get_config()
    methods.choose(config, "sdclr")
    config.batch_size = batch_size
    images = np.random.default_rng(0).integers(0, 256, (batch_size, 32, 32, 3), np.uint8)
    method = recipes.method(config, steps_per_epoch=1)
    state = jax.jit(method.init)(np.uint32(0), jnp.zeros((1, 32, 32, 3)))
    state = jax.jit(method.refresh)(state)
    view = jnp.asarray(images, jnp.float32)
    variables = {
        "params": trees.combine(state.params["weights"], state.params["norms"]["dense"]),
        "batch_stats": state.stats["dense"],
    }

    def bare(params, stats, view):
        def loss(params):
            out, new = method.network.apply(
                {"params": params, "batch_stats": stats}, view, train=True, mutable=["batch_stats"]
            )
            return jnp.sum(out.projection), new

        return jax.grad(loss, has_aux=True)(params)

    arguments = {"step": (state, images), "bare": (variables["params"], variables["batch_stats"], view)}
    functions = {"step": method.step, "bare": bare}
    return {name: (jax.jit(f).lower(*arguments[name]).compile(), arguments[name]) for name, f in functions.items()}


def flops(batch_size: int) -> tuple[float, float]:
    """Floating-point operations of the step and of the bare forward and backward."""
    programs = compiled(batch_size)
    return tuple(programs[name][0].cost_analysis()["flops"] for name in ("step", "bare"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    programs = compiled(options.batch_size)
    step, bare = (programs[name][0].cost_analysis()["flops"] for name in ("step", "bare"))
    print(f"batch {options.batch_size}: step {step / 1e9:.2f} GFLOP, bare forward + backward {bare / 1e9:.2f} GFLOP")
    print(f"step / (2 forwards + 2 backwards): {step / (2 * bare):.4f} in operations")
    times = {"step": [], "bare": []}
    for _ in range(options.repeats + 1):  # the first is warm-up
        for name, (program, arguments) in programs.items():
            before = time.perf_counter()
            jax.block_until_ready(program(*arguments))
            times[name].append(time.perf_counter() - before)
    step_time, bare_time = (statistics.median(times[name][1:]) for name in ("step", "bare"))
    print(f"step / (2 forwards + 2 backwards): {step_time / (2 * bare_time):.3f} in time ({step_time:.2f} s a step)")
    made_with = versions.current()
    print({k: made_with[k] for k in ("commit", "jax", "devices", "hardware")})


if __name__ == "__main__":
    main()
