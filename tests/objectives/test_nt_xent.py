"""What NT-Xent costs in memory, from XLA's analysis of what it compiles; its numbers are in test_oracles.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sdclr_jax import parallel
from sdclr_jax.objectives import nt_xent, nt_xent_chunked
from tests.objectives.oracles import COMPILED, inputs

VIEW = (4096, 128)
MATRIX = (2 * 4096) ** 2 * 4  # bytes of the similarities of both views in float32


def memory(loss, sharding=None):
    """Bytes a device needs forward and backward: arguments, results and scratch."""
    view = jax.ShapeDtypeStruct(VIEW, jnp.float32, sharding=sharding)
    compiled = jax.jit(jax.value_and_grad(loss, argnums=(0, 1))).lower(view, view).compile()
    found = compiled.memory_analysis()
    return found.argument_size_in_bytes + found.output_size_in_bytes + found.temp_size_in_bytes


def test_memory_is_little_more_than_the_similarity_matrix():
    whole = memory(lambda a, b: nt_xent(a, b, 0.2))
    assert MATRIX < whole < 1.5 * MATRIX  # 3 is what is promised; scattering into the matrix made it 2


def test_chunks_never_hold_the_matrix():
    """The scratch goes with the chunk, not with the matrix: 8192 / 256 blocks."""
    assert memory(lambda a, b: nt_xent_chunked(a, b, 0.2, chunk=256)) < 0.25 * MATRIX
    assert memory(lambda a, b: nt_xent_chunked(a, b, 0.2)) < 0.5 * MATRIX


def test_each_device_holds_its_part():
    batch = parallel.shardings().batch
    assert memory(lambda a, b: nt_xent(a, b, 0.2), batch) < 0.25 * MATRIX
    # Blocks of neighbouring rows would need 0.05.
    assert memory(lambda a, b: nt_xent_chunked(a, b, 0.2, chunk=256), batch) < 0.03 * MATRIX


@pytest.mark.parametrize("chunk", [1, 1024])
def test_any_chunk_gives_the_same(chunk):
    a, b = inputs("nt_xent", dtype=np.float32)
    assert float(jax.jit(lambda a, b: nt_xent_chunked(a, b, 0.2, chunk))(a, b)) == pytest.approx(
        float(COMPILED["nt_xent"](a, b)[0]), rel=1e-6
    )
