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


def lowered(batch_size: int, size: int = 32, **model: str):
    """The SDCLR step and the bare forward and backward, ResNet-18 on 32 x 32 images unless fields of `model` and `size`
    say otherwise, from shapes alone: the method, and by name the programs before XLA compiles them."""
    config = base.get_config()
    methods.choose(config, "sdclr")
    config.batch_size, config.views.size = batch_size, size
    config.model.update(model)
    method = recipes.method(config, steps_per_epoch=1)
    view = jax.ShapeDtypeStruct((batch_size, size, size, 3), jnp.float32)
    images = jax.ShapeDtypeStruct(view.shape, jnp.uint8)
    state = jax.eval_shape(method.init, jax.ShapeDtypeStruct((), jnp.uint32), view)

    def bare(params, stats, view):
        def loss(params):
            out, new = method.network.apply(
                {"params": params, "batch_stats": stats}, view, train=True, mutable=["batch_stats"]
            )
            return jnp.sum(out.projection), new

        return jax.grad(loss, has_aux=True)(params)

    return method, {
        "step": jax.jit(method.step).lower(state, images),
        "bare": jax.jit(bare).lower(*network_of(state), view),
    }


def network_of(state):
    """Parameters and statistics of the dense branch."""
    return trees.combine(state.params["weights"], state.params["norms"]["dense"]), state.stats["dense"]


def flops(batch_size: int) -> tuple[float, float]:
    """Floating-point operations of the step and of the bare forward and backward, as they are handed to XLA."""
    _, programs = lowered(batch_size)
    return tuple(programs[name].cost_analysis()["flops"] for name in ("step", "bare"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    method, programs = lowered(options.batch_size)
    programs = {name: program.compile() for name, program in programs.items()}
    step, bare = (programs[name].cost_analysis()["flops"] for name in ("step", "bare"))
    print(f"batch {options.batch_size}: step {step / 1e9:.2f} GFLOP, bare forward + backward {bare / 1e9:.2f} GFLOP")
    print(f"step / (2 forwards + 2 backwards): {step / (2 * bare):.4f} in operations")
    images = np.random.default_rng(0).integers(0, 256, (options.batch_size, 32, 32, 3), np.uint8)
    state = jax.jit(method.refresh)(jax.jit(method.init)(np.uint32(0), jnp.zeros((1, 32, 32, 3))))
    arguments = {"step": (state, images), "bare": (*network_of(state), jnp.asarray(images, jnp.float32))}
    times = {"step": [], "bare": []}
    for _ in range(options.repeats + 1):  # the first is warm-up
        for name, program in programs.items():
            before = time.perf_counter()
            jax.block_until_ready(program(*arguments[name]))
            times[name].append(time.perf_counter() - before)
    step_time, bare_time = (statistics.median(times[name][1:]) for name in ("step", "bare"))
    print(f"step / (2 forwards + 2 backwards): {step_time / (2 * bare_time):.3f} in time ({step_time:.2f} s a step)")
    made_with = versions.current()
    print({k: made_with[k] for k in ("commit", "jax", "devices", "hardware")})


if __name__ == "__main__":
    main()
