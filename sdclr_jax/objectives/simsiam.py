"""The loss of SimSiam (Chen and He, CVPR 2021, arXiv:2011.10566, Eq. 1 and 3)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from sdclr_jax.objectives.base import Objective, prediction, stateless
from sdclr_jax.objectives.vectors import check_alike, cosines


def simsiam(prediction: Float[ArrayLike, "N D"], projection: Float[ArrayLike, "N D"]) -> Float[Array, ""]:
    """Negative cosine of prediction p and the other view's projection z, mean over the batch: -1 where they agree.

        loss = mean -cos(p, stop_gradient(z))

    One of the paper's two directions; the other has the views exchanged. Both are [N, D].

    Raises:
        ArgumentError: the shapes are not [N, D] and alike.

    >>> prediction = np.array([[1.0, 0.0], [1.0, 0.0]], np.float32)
    >>> projection = np.array([[3.0, 0.0], [0.0, 5.0]], np.float32)
    >>> round(float(simsiam(prediction, projection)), 3)  # the mean of -1 and 0
    -0.5
    """
    check_alike(prediction=prediction, projection=projection)
    return -jnp.mean(cosines(prediction, jax.lax.stop_gradient(projection)))


def objective() -> Objective:
    """The prediction of one side against the projection of the other."""
    return stateless(lambda a, b: simsiam(prediction(a), b.projection))
