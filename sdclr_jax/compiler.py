"""What XLA is told where there are CPUs only: by its defaults some sums come out wrong, and convolutions are slow."""

import functools
import importlib.metadata
import importlib.util
import logging
import os

LOG = logging.getLogger(__name__)

FLAG = "--xla_cpu_experimental_ynn_fusion_type"
# Version of jaxlib -> what is not given to YNNPACK. Other versions may not know the flag, and an unknown one ends the
# process. `individual_convolution`: it takes twice the time for the gradient of a 3x3 kernel. `reduce`: some sums are
# wrong, and some end the process (jax-ml/jax#39103 and #40412); 0.12 is right.
NOT_FOR_YNNPACK = {"0.10.2": "-individual_convolution,-reduce", "0.12.0.1": "-individual_convolution"}


def set_flags() -> None:
    """Put XLA's flags into the environment, from where JAX takes them at its first computation.

    What the user has said of the same flag stays. Nothing is set where a GPU or TPU may be used.
    """
    given = os.environ.get("XLA_FLAGS", "")
    without = NOT_FOR_YNNPACK.get(importlib.metadata.version("jaxlib"))
    if without and FLAG not in given and _only_cpus():
        os.environ["XLA_FLAGS"] = f"{given} {FLAG}={without}".strip()


@functools.cache
def warn_if_wrong() -> None:
    """Say once, where this version of jaxlib, with the flags that it was given, computes sums wrong on CPUs. To know it
    takes 50 ms of CPU time."""
    if os.environ.get("JAX_DISABLE_MOST_OPTIMIZATIONS") == "1" or sums_are_right():  # what is compiled so is a test
        return
    version, given = importlib.metadata.version("jaxlib"), os.environ.get("XLA_FLAGS", "")
    if version not in NOT_FOR_YNNPACK:
        remedy = f"install a version of jaxlib that is right, such as {max(NOT_FOR_YNNPACK)}"
    elif FLAG in given:
        remedy = f"leave {FLAG} out of XLA_FLAGS, and sdclr_jax sets what is right"
    else:
        remedy = "set JAX_PLATFORMS=cpu, and use sdclr_jax before JAX computes anything, so that it sets what is right"
    LOG.warning("jaxlib %s with XLA_FLAGS=%r computes some sums wrong on CPUs: %s", version, given, remedy)


def sums_are_right() -> bool:
    """Whether a program comes out right that some versions compile wrong (jax-ml/jax#39103)."""
    import jax  # not above: who sets flags has not imported it
    import jax.numpy as jnp
    import numpy as np

    numbers = np.zeros((32_769, 3), np.float32)  # of one row less they come out right
    numbers[:, 0] = np.arange(len(numbers))
    squares = jax.jit(jax.vmap(lambda row: jnp.square(jnp.eye(3, dtype=jnp.float32) @ row).sum()))(numbers)
    return np.array_equal(squares, numbers[:, 0] ** 2)


def _only_cpus() -> bool:
    if platforms := os.environ.get("JAX_PLATFORMS"):
        return platforms == "cpu"
    return not any(map(importlib.util.find_spec, ("libtpu", "jax_plugins")))
