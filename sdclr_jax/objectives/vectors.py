"""What several objectives share: float32 at least, unit length, products and covariances at full precision."""

import numbers
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from sdclr_jax.errors import ArgumentError

# On accelerators the default for float32 is a product of fewer bits.
matmul = partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


def at_least_float32(x: jax.Array) -> jax.Array:
    """float64 stays what it is, everything else becomes float32."""
    x = jnp.asarray(x)
    return x if x.dtype == jnp.float64 else x.astype(jnp.float32)


def check_alike(rows: int = 1, **arrays: jax.Array) -> None:
    """Refuse what is not [N, D] each and all of one shape: some of it would be broadcast to a number without meaning.

    Args:
        rows: the smallest N that is accepted.

    Raises:
        ArgumentError: names the arguments and their shapes.
    """
    shapes = {name: np.shape(x) for name, x in arrays.items()}
    if len(set(shapes.values())) > 1 or any(len(s) != 2 or s[0] < rows or s[1] < 1 for s in shapes.values()):
        first, *others = (f"{name} is {list(shape)}" for name, shape in shapes.items())
        alike = "they must both be [N, D], of one shape" if others else "it must be [N, D]"
        found = " and ".join([first.partition(" ")[2], *others])
        least = "no dimension of 0" if rows == 1 else f"at least {rows} rows"
        raise ArgumentError(next(iter(shapes)), f"{found}: {alike}, a row an image, with {least}")


def check_above_0(**values: float) -> None:
    """Refuse a temperature, a size or a number of repeats that is not above 0; what is traced cannot be looked at.

    Raises:
        ArgumentError: names it.

    >>> check_above_0(temperature=0.2)
    """
    for name, value in values.items():
        known = isinstance(value, numbers.Real | jax.Array) and not isinstance(value, jax.core.Tracer)
        if known and np.ndim(value) == 0 and not float(value) > 0:
            raise ArgumentError(name, f"is {value}: it must be above 0")


def unit(x: Float[ArrayLike, "N D"]) -> Float[Array, "N D"]:
    """The rows of [N, D] at length 1, float32 at least; a zero vector stays zero."""
    x = at_least_float32(x)
    # The floor keeps value and gradient finite at a zero vector; it is the square of torch's 1e-12.
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, axis=1, keepdims=True), 1e-24))


def cosines(x: Float[ArrayLike, "N D"], y: Float[ArrayLike, "N D"]) -> Float[Array, " N"]:
    """Cosine of row i of `x` with row i of `y`, both [N, D]: [N].

    Raises:
        ArgumentError: the shapes are not [N, D] and alike.
    """
    check_alike(x=x, y=y)
    return jnp.sum(unit(x) * unit(y), axis=1)


def centred(x: Float[ArrayLike, "N D"]) -> Float[Array, "N D"]:
    """[N, D] less its mean over the batch, float32 at least."""
    x = at_least_float32(x)
    return x - jnp.mean(x, axis=0, keepdims=True)


def covariance(x: Float[ArrayLike, "N D"]) -> Float[Array, "D D"]:
    """Unbiased covariance over the batch, [N, D] -> [D, D]: the sum over N rows divided by N - 1.

    Raises:
        ArgumentError: N is 1.
    """
    check_alike(rows=2, x=x)
    x = centred(x)
    return matmul(x.T, x) / (len(x) - 1)
