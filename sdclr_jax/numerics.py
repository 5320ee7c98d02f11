"""Numbers that do not depend on how the program around has set JAX."""

import contextlib
from collections.abc import Iterator

import jax


@contextlib.contextmanager
def fixed() -> Iterator[None]:
    """Inside, floats have 32 bits and random numbers are those of JAX's own generator, in this thread, whatever
    JAX_ENABLE_X64, JAX_DEFAULT_PRNG_IMPL and JAX_THREEFRY_PARTITIONABLE say: one config is one run. As a decorator, it
    is so for a whole function.

    >>> with jax.enable_x64(True), fixed():
    ...     print(jnp.ones(1).dtype)
    float32
    """
    with jax.enable_x64(False), jax.default_prng_impl("threefry2x32"), jax.threefry_partitionable(True):
        yield
