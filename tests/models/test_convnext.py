"""ConvNeXt: names, shapes and count of timm's, and what the initialiser and the norms are. Its features against timm's
own are in tests/interop/test_features.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sdclr_jax import branches, trees
from sdclr_jax.models import ENCODERS, Head, Network


def test_parameter_count_norms_and_kernels():
    """Of `convnext_tiny`, 28,589,128 parameters with the classifier of 769,000."""
    network = Network(ENCODERS["convnext_tiny"](), Head(2, 8, 4))
    params = jax.eval_shape(lambda: network.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=True))["params"]
    encoder = trees.named(params["encoder"])
    assert sum(np.prod(x.shape) for x in encoder.values()) == 28_589_128 - 769_000
    norms = trees.named(branches.split({"encoder": params["encoder"]}, {"dense"})["norms"]["dense"])
    # The stem's, three before a stage is entered, eighteen blocks' and the last.
    assert len(norms) == 2 * (1 + 3 + 18 + 1)
    pruned = {name for name, x in encoder.items() if network.prunable(f"encoder/{name}", x)}
    assert pruned == {name for name, x in encoder.items() if x.ndim > 1}
    assert len(pruned) == 1 + 3 + 3 * 18
    assert encoder["stage3_block9/conv/kernel"].shape == (7, 7, 1, 384)


def test_the_start_is_timms():
    """Kernels have the standard deviation 0.02, biases are 0, the last scale of a block 1e-6."""
    encoder = ENCODERS["convnext_tiny"](depths=(1,), width=32)
    params = jax.jit(lambda: encoder.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), train=True))()["params"]
    for name, x in trees.named(params).items():
        kind = name.split("/")[-1]
        if kind == "kernel":
            assert float(np.std(x)) == pytest.approx(0.02, rel=4 / np.sqrt(x.size)), name
        else:
            assert (x == {"scale": 1, "bias": 0, "gamma": np.float32(1e-6)}[kind]).all(), name
