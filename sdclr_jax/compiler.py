"""What XLA is told where there are CPUs only: by its defaults some sums come out wrong, and convolutions are slow."""

import importlib.metadata
import importlib.util
import os

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


def _only_cpus() -> bool:
    if platforms := os.environ.get("JAX_PLATFORMS"):
        return platforms == "cpu"
    return not any(map(importlib.util.find_spec, ("libtpu", "jax_plugins")))
