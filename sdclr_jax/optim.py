"""Learning-rate schedule and optimizer, as published."""

from typing import NamedTuple

import jax.numpy as jnp
import optax


class Optimizer(NamedTuple):
    """`transform`, an optax chain, and `schedule`, step -> learning rate, for the log."""

    transform: optax.GradientTransformation
    schedule: optax.Schedule


def sgd(
    *,
    learning_rate: float,
    momentum: float,
    weight_decay: float,
    warmup_steps: int,
    total_steps: int,
    final_learning_rate: float,
) -> Optimizer:
    """SGD as PyTorch does it: decay is added to the gradient of every parameter, then momentum, then the rate.

    The rate rises linearly from 0 over `warmup_steps` and falls along a half cosine to `final_learning_rate` at
    `total_steps`, a new value every step.
    """
    curve = optax.warmup_cosine_decay_schedule(
        init_value=0.0 if warmup_steps else learning_rate,
        peak_value=learning_rate,
        warmup_steps=warmup_steps,
        decay_steps=total_steps,  # warm-up included
        end_value=final_learning_rate,
    )

    def schedule(step):
        # Optax mixes the integer step with floats, which strict type promotion refuses.
        return curve(jnp.asarray(step, jnp.float32))

    return Optimizer(
        optax.chain(optax.add_decayed_weights(weight_decay), optax.sgd(schedule, momentum=momentum)), schedule
    )


OPTIMIZERS = {"sgd": sgd}
