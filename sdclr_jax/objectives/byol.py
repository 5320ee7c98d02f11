"""The loss of BYOL (Grill et al., NeurIPS 2020, arXiv:2006.07733, Eq. 2)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from sdclr_jax.objectives.base import Objective, prediction, stateless
from sdclr_jax.objectives.vectors import check_alike, cosines


def byol(prediction: Float[ArrayLike, "N D"], target: Float[ArrayLike, "N D"]) -> Float[Array, ""]:
    """Squared distance of online prediction q and target projection z' at unit length, mean over the batch.

        loss = mean || q / |q| - z' / |z'| ||^2 = mean 2 - 2 cos(q, z')

    One of the paper's two directions; the other has the views exchanged. Both are [N, D]; no gradient to `target`.

    Raises:
        ArgumentError: the shapes are not [N, D] and alike.

    >>> prediction = np.array([[1.0, 0.0], [1.0, 0.0]], np.float32)
    >>> target = np.array([[3.0, 0.0], [0.0, 5.0]], np.float32)
    >>> round(float(byol(prediction, target)), 3)  # the mean of 0 and 2
    1.0
    """
    check_alike(prediction=prediction, target=target)
    return jnp.mean(2 - 2 * cosines(prediction, jax.lax.stop_gradient(target)))


def objective(scale: float = 1.0) -> Objective:
    """The prediction of one side against the projection of the other, times `scale`.

    The paper adds the two directions where a step takes the mean over its pairs: 2 is the published loss. LARS does not
    feel it but for the norms and biases that it leaves unadapted; SGD does.
    """
    return stateless(lambda a, b: scale * byol(prediction(a), b.projection))
