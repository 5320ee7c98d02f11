"""InfoNCE with a queue of negatives, the loss of MoCo (He et al., CVPR 2020, arXiv:1911.05722, Eq. 1)."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from sdclr_jax.errors import ArgumentError
from sdclr_jax.objectives.base import Objective
from sdclr_jax.objectives.queue import push
from sdclr_jax.objectives.vectors import check_above_0, check_alike, cosines, matmul, unit


def info_nce(
    query: Float[ArrayLike, "N D"], key: Float[ArrayLike, "N D"], queue: Float[ArrayLike, "K D"], temperature: float
) -> Float[Array, ""]:
    """Cross-entropy of picking a query's own key out of the queue, mean over the queries.

    With q, k+ and the K entries k of the queue at unit length:

        loss = mean -log( exp(q . k+ / T) / (exp(q . k+ / T) + sum_k exp(q . k / T)) )

    Args:
        query: embeddings of one view, [N, D]; the only argument that receives gradient.
        key: embeddings of the other view by the target branch, [N, D]; row i of both is the same image.
        queue: keys of earlier batches, [K, D].
        temperature: T > 0.

    Returns:
        A scalar, float32 at least whatever the type of the embeddings.

    Raises:
        ArgumentError: the shapes are not [N, D] and alike; the queue is empty, so that there is nothing to tell a key
            from, or its entries have not D numbers; or T is not above 0.

    >>> query = np.eye(2, dtype=np.float32)
    >>> queue = np.array([[0.0, 1.0], [-1.0, 0.0]], np.float32)
    >>> round(float(info_nce(query, query, queue, temperature=1.0)), 3)
    0.635
    """
    check_alike(query=query, key=key)
    check_above_0(temperature=temperature)
    if np.ndim(queue) != 2 or np.shape(queue)[1] != np.shape(key)[1] or not len(queue):
        rule = f"it must be [K, {np.shape(key)[1]}], an entry a row, with one or more"
        raise ArgumentError("queue", f"is {list(np.shape(queue))}: {rule}")
    key, queue = jax.lax.stop_gradient((key, queue))
    positives = cosines(query, key)[:, None]
    logits = jnp.concatenate([positives, matmul(unit(query), unit(queue).T)], axis=1) / temperature
    return jnp.mean(jax.nn.logsumexp(logits, axis=1) - logits[:, 0])


def objective(temperature: float, queue: int) -> Objective:
    """InfoNCE of a side's projections with the other's, against the last `queue` of these; random directions at first.

    MoCo shuffles the batch over the devices for the keys, since the statistics of a device's few images would tell
    which belong together; batch norm over the global batch has no such groups.

    Raises:
        ArgumentError: the queue is empty, so there is nothing to tell a key from.
    """
    if queue < 1:
        raise ArgumentError("queue", f"is {queue}: info_nce has its negatives from there, so it must be at least 1")

    def init(key, b):
        return unit(jax.random.normal(key, (queue, b.projection.shape[-1])))

    def loss(state, a, b, key):
        return info_nce(a.projection, b.projection, state, temperature)

    return Objective(init, loss, update=lambda state, b: push(state, b.projection))
