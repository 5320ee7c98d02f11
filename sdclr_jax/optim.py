"""Learning-rate schedules and optimizers, as published."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from sdclr_jax import trees
from sdclr_jax.errors import ArgumentError
from sdclr_jax.models import Network


class Optimizer(NamedTuple):
    """`transform`, an optax chain, and `schedule`, step -> learning rate, for the log."""

    transform: optax.GradientTransformation
    schedule: optax.Schedule


def sgd(*, momentum: float, **common) -> Optimizer:
    """SGD as PyTorch does it: decay is added to the gradient, then momentum, then the rate."""
    return _optimizer(lambda affected: optax.trace(momentum), **common)


def lars(*, momentum: float, trust_coefficient: float, **common) -> Optimizer:
    """LARS (You et al., 2017, arXiv:1708.03888): the decayed gradient of each tensor times

        trust_coefficient * |weight| / |decayed gradient|,

    then momentum, then the rate, in the order of the authors of BYOL, Barlow Twins and VICReg (`optax.lars` has the
    rate before the momentum). What is not decayed is not scaled either.
    """

    def direction(affected):
        return optax.chain(
            optax.masked(optax.scale_by_trust_ratio(trust_coefficient=trust_coefficient), affected),
            optax.trace(momentum),
        )

    return _optimizer(direction, **common)


def adam(*, momentum: float, **common) -> Optimizer:
    """Adam as PyTorch does it, with the decay added to the gradient; `momentum` is its first beta, the second 0.999."""
    scale = optax.scale_by_adam(b1=momentum)

    def update(updates, state, params=None):
        with jax.numpy_dtype_promotion("standard"):  # optax raises a float to the power of the integer step
            return scale.update(updates, state, params)

    return _optimizer(lambda affected: optax.GradientTransformation(scale.init, update), **common)


def target_momentum(*, start: float, end: float, total_steps: int) -> optax.Schedule:
    """step k -> end - (end - start) (cos(pi k / K) + 1) / 2 (Grill et al., NeurIPS 2020, section 3.1, with end 1).

    Raises:
        ArgumentError: a share is not from 0 to 1, or there are no steps.
    """
    for name, share in (("start", start), ("end", end)):
        if not 0 <= share <= 1:
            raise ArgumentError(name, f"is {share}: the share that the target keeps must be from 0 to 1")
    if total_steps < 1:
        raise ArgumentError("total_steps", f"is {total_steps}: it must be at least 1")
    rest = optax.cosine_decay_schedule(end - start, total_steps)
    return lambda step: end - rest(jnp.asarray(step, jnp.float32))


OPTIMIZERS = {"sgd": sgd, "lars": lars, "adam": adam}
# When the rate moves on along its curve -> (update k from 0, steps of an epoch) -> place on the curve.
RATE_MOVES: dict[str, Callable[[jax.Array, int], jax.Array]] = {
    "before_update": lambda k, epoch: k + 1,  # a PyTorch loop that calls scheduler.step() before optimizer.step()
    "after_update": lambda k, epoch: k,
    "after_epoch": lambda k, epoch: k // epoch * epoch,
}


def _optimizer(
    direction: Callable[[Callable], optax.GradientTransformation],
    *,
    learning_rate: float,
    final_learning_rate: float,
    warmup_steps: int,
    total_steps: int,
    weight_decay: float,
    decay_vectors: bool = True,
    constant_rate: Sequence[str] = (),
    frozen_prototype_steps: int | None = None,
    rate_moves: str = "after_update",
    steps_per_epoch: int = 1,
) -> Optimizer:
    """What all optimizers have in common.

    The rate rises linearly from 0 over `warmup_steps` and falls along a half cosine to `final_learning_rate` at
    `total_steps`. Where on this curve an update is, `rate_moves` says.

    Args:
        direction: (mask of the parameters that are affected by decay) -> a transform of the decayed gradient.
        decay_vectors: whether norms and biases are decayed too.
        constant_rate: modules of the network whose rate is `learning_rate` from first to last.
        frozen_prototype_steps: how long the prototypes stay where they are; afterwards they keep unit length. None
            where there are no prototypes.
        rate_moves: 'before_update': update k, counted from 0, has the rate curve(k + 1), so that the first one of a
            warm-up is not 0 and the last one is `final_learning_rate`; 'after_update': curve(k); 'after_epoch': all
            updates of an epoch have the rate of its first one.
        steps_per_epoch: read with 'after_epoch'.

    Raises:
        ArgumentError: numbers that make no curve, an unknown `rate_moves`, or one text for `constant_rate`; and from
            `transform.init`, where no parameter lies in a module that `constant_rate` names.
    """
    _check_curve(learning_rate, final_learning_rate, warmup_steps, total_steps)
    if rate_moves not in RATE_MOVES:
        raise ArgumentError("rate_moves", f"is {rate_moves!r}: known are {', '.join(RATE_MOVES)}")
    if isinstance(constant_rate, str):  # each letter of which would be a module
        raise ArgumentError("constant_rate", f"is {constant_rate!r}: give a tuple of names, ({constant_rate!r},)")
    if steps_per_epoch < 1:
        raise ArgumentError("steps_per_epoch", f"is {steps_per_epoch}: it must be at least 1")
    place = RATE_MOVES[rate_moves]
    curve = optax.warmup_cosine_decay_schedule(
        init_value=0.0 if warmup_steps else learning_rate,
        peak_value=learning_rate,
        warmup_steps=warmup_steps,
        decay_steps=total_steps,  # warm-up included
        end_value=final_learning_rate,
    )

    def schedule(step):
        # Optax mixes the integer step with floats, which strict type promotion refuses.
        return curve(jnp.asarray(place(jnp.asarray(step, jnp.int32), steps_per_epoch), jnp.float32))

    def affected(params):
        return jax.tree.map(lambda x: decay_vectors or x.ndim > 1, params)

    decay, rate = optax.add_decayed_weights(weight_decay, affected), optax.scale_by_learning_rate(schedule)
    if constant_rate:
        rate = optax.partition(
            {"scheduled": rate, "constant": optax.scale_by_learning_rate(learning_rate)},
            lambda params: _constant(params, constant_rate),
        )
    parts = [decay, direction(affected), rate]
    if frozen_prototype_steps is not None:
        thaw = optax.scale_by_schedule(lambda step: jnp.float32(step >= frozen_prototype_steps))
        # Before the direction, so that no momentum gathers while they are frozen.
        parts = [decay, _on_prototypes(thaw), *parts[1:], _on_prototypes(optax.stateless(_keep_unit_length))]
    return Optimizer(optax.chain(*parts), schedule)


def _check_curve(learning_rate: float, final_learning_rate: float, warmup_steps: int, total_steps: int) -> None:
    """Optax makes a curve of any numbers, and of these one that is NaN or does not reach its peak."""
    if not 0 <= final_learning_rate <= learning_rate:
        raise ArgumentError(
            "final_learning_rate",
            f"is {final_learning_rate}: it must be from 0 to the learning rate, {learning_rate}, from which the rate "
            "falls to it",
        )
    if not 0 <= warmup_steps < total_steps:
        raise ArgumentError(
            "warmup_steps", f"is {warmup_steps}: it must be at least 0 and below all steps, {total_steps}"
        )


def _constant(params: trees.Tree, modules: Sequence[str]) -> trees.Tree:
    """A tree that says of each parameter whether its rate is 'constant' or 'scheduled'."""
    known = {part for name in trees.named(params) for part in name.split("/")} | set(Network.__annotations__)
    if unknown := [module for module in modules if module not in known]:
        raise ArgumentError(
            "constant_rate", f"has {unknown[0]!r}, and no parameter lies in such a module: leave it out"
        )
    return _by_module(params, modules, "constant", "scheduled")


def _by_module(params: trees.Tree, modules: Sequence[str], inside, outside) -> trees.Tree:
    """A tree that says of each parameter whether it is inside one of the modules."""

    def label(path, leaf):
        return inside if set(trees.name(path).split("/")) & set(modules) else outside

    return jax.tree_util.tree_map_with_path(label, params)


def _on_prototypes(transform: optax.GradientTransformation) -> optax.GradientTransformation:
    return optax.masked(transform, lambda params: _by_module(params, ("prototypes",), True, False))


def _keep_unit_length(updates: optax.Updates, params: optax.Params) -> optax.Updates:
    """The update that ends at the nearest columns of unit length."""

    def of(update, prototypes):
        moved = prototypes + update
        return moved / jnp.linalg.norm(moved, axis=0, keepdims=True) - prototypes

    return jax.tree.map(of, updates, params)
