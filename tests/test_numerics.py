"""What a program has set JAX to changes no run."""

import jax
import jax.numpy as jnp

from sdclr_jax import numerics
from sdclr_jax.api import determinism, evaluate, exemplars, export, import_weights, load, photos, pretrain


@numerics.fixed()
def draw(seed):
    return jax.random.normal(jax.random.key(seed), (2,)), jnp.arange(2.0)


def test_numbers_are_those_of_jax_as_it_comes():
    expected = draw(0)
    with jax.enable_x64(True), jax.default_prng_impl("rbg"), jax.threefry_partitionable(False):
        assert jnp.ones(1).dtype == jnp.float64
        found = draw(0)
        assert jnp.ones(1).dtype == jnp.float64
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype == jnp.float32
        assert one.tolist() == other.tolist()


def test_all_that_computes_for_python_or_a_command_is_so():
    wrapped = numerics.fixed()(print).__code__
    for function in (
        pretrain.train, evaluate.evaluate_run, exemplars.exemplars_of_run, import_weights.import_run, export.written,
        determinism.check_determinism, load.load, load.Run.encode, photos.photos,
    ):  # fmt: skip
        assert function.__code__ is wrapped
