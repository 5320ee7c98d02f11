"""The method of a config, and the shapes of its state."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax.errors import FlaxError
from ml_collections import ConfigDict

from sdclr_jax import branches, optim, parallel, pruning
from sdclr_jax.data import order
from sdclr_jax.data.batches import Cropped
from sdclr_jax.data.images import Encoded, as_images
from sdclr_jax.errors import UserError, first_line, renamed
from sdclr_jax.models import Head, Network, Prototypes
from sdclr_jax.objectives import OBJECTIVES, Objective
from sdclr_jax.optim import OPTIMIZERS
from sdclr_jax.parallel import Shardings
from sdclr_jax.recipes.checks import objective_fields
from sdclr_jax.recipes.configs import fields
from sdclr_jax.recipes.encoders import encoder, names_of_fields
from sdclr_jax.recipes.images import image_shape, view_groups, view_shape, views
from sdclr_jax.recipes.sizes import check_state
from sdclr_jax.train import Method, State
from sdclr_jax.trees import Tree

# Values of prune.every that are no number of steps.
EVERY_EPOCH, ONCE = 0, -1


def network(config: ConfigDict) -> Network:
    """The encoder and its heads."""
    dtype = jnp.dtype(config.model.dtype)
    projector, predictor, prototypes = config.projector, config.predictor, config.prototypes
    return Network(
        encoder(config.model),
        Head(
            projector.layers,
            projector.hidden,
            projector.out,
            hidden_norm=projector.hidden_norm,
            last=projector.last,
            dtype=dtype,
        ),
        Head(predictor.layers, predictor.hidden, projector.out, last=predictor.last, dtype=dtype)
        if predictor.layers
        else None,
        Prototypes(prototypes.count) if prototypes.count else None,
    )


def method(config: ConfigDict, steps_per_epoch: int, sharding: Tree = None) -> Method:
    """The method with its network, branches, views, objective and schedule; `sharding` is of its state, as that of
    `train.Method`."""
    total_steps = config.epochs * steps_per_epoch
    c = config.optimizer
    optimizer = OPTIMIZERS[c.name](
        learning_rate=c.learning_rate,
        momentum=c.momentum,
        weight_decay=c.weight_decay,
        decay_vectors=c.decay_vectors,
        warmup_steps=c.warmup_epochs * steps_per_epoch,
        total_steps=total_steps,
        final_learning_rate=c.final_learning_rate,
        constant_rate=c.constant_rate,
        rate_moves=c.rate_moves,
        steps_per_epoch=steps_per_epoch,
        frozen_prototype_steps=config.prototypes.frozen_epochs * steps_per_epoch if config.prototypes.count else None,
        **({"trust_coefficient": c.trust_coefficient} if c.name == "lars" else {}),
    )
    names = {branch for pair in config.pairs for branch, _ in pair}
    return Method(
        network=network(config),
        branches=branches.choose(names, config.prune.norms, gradient=config.prune.gradient),
        pairs=config.pairs,
        make_views=views(config),
        objective=objective(config, steps_per_epoch),
        optimizer=optimizer,
        prune=partial(
            pruning.magnitude_mask,
            rate=config.prune.rate,
            criterion=config.prune.criterion,
            random_rate=config.prune.random_rate,
        ),
        refresh_every={ONCE: total_steps, EVERY_EPOCH: steps_per_epoch}.get(config.prune.every, config.prune.every),
        target_momentum=optim.target_momentum(
            start=config.target.momentum, end=config.target.final_momentum, total_steps=total_steps
        ),
        steps_per_dispatch=config.steps_per_dispatch,
        sharding=sharding,
    )


def objective(config: ConfigDict, steps_per_epoch: int) -> Objective:
    """How two sides of a pair are compared.

    Raises:
        UserError: names the field that the objective does not accept.
    """
    with renamed(_names_of_fields(config)):
        return OBJECTIVES[config.objective.name](**objective_fields(config, steps_per_epoch))


def _names_of_fields(config: ConfigDict) -> dict[str, str]:
    """What a config calls the arguments of its encoder and its objective."""
    return (
        names_of_fields(config.model)
        | {field.replace("_epochs", "_steps"): f"objective.{field}" for field in config.objective}
        | {
            "prediction": f"predictor.layers is {config.predictor.layers}, so prediction",
            "prototypes": f"prototypes.count is {config.prototypes.count}, so prototypes",
        }
    )


def abstract_state(
    config: ConfigDict, image_shape: tuple[int, ...], shardings: Shardings, *, training: bool = False
) -> State:
    """Shapes, types and shardings of the state of a run on images [N, H, W, C]: what restoring one takes.

    Args:
        config: the run's.
        image_shape: of the images.
        shardings: of the devices.
        training: whether each device holds a share where `shard_state` says so; otherwise it holds all.

    Raises:
        UserError: the devices have no room for it; or the encoder makes nothing of such images.
    """
    with renamed(names_of_fields(config.model)):
        shapes = jax.eval_shape(
            method(config, steps_per_epoch=1).init,
            jax.ShapeDtypeStruct((), jnp.uint32),
            jax.ShapeDtypeStruct(view_shape(config, image_shape), jnp.float32),
        )
    placed = jax.tree.map(lambda _: shardings.replicated, shapes)
    if training and config.shard_state:
        # All that grows with the weights. Statistics are small, and a queue of the objective is read whole.
        parts = {name: getattr(shapes, name) for name in ("params", "mask", "target", "opt_state")}
        placed = placed.replace(**{name: parallel.spread(part, shardings) for name, part in parts.items()})
    like = jax.tree.map(lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), shapes, placed)
    check_state(like, shardings)
    return like


def try_step(
    config: ConfigDict, method: Method, state: State, images: np.ndarray | Encoded, sharding: jax.sharding.NamedSharding
) -> None:
    """Trace the step that `method.train` takes, without running it: what only shows then is refused before anything is
    written.

    Args:
        config: the run's.
        method: the run's.
        state: as `abstract_state` gives it.
        images: what is trained on.
        sharding: of a whole batch.

    Raises:
        UserError: the fields of the views, the model or the objective do not fit each other, the images or the last
            batch of an epoch.
    """
    queue = config.objective.get("queue", 0)
    if queue >= len(images):
        raise UserError(
            f"objective.queue is {queue}, and there are {len(images)} images: make it smaller, or half of the images "
            "and more meet their own earlier embeddings in it"
        )
    last_batch, values = config.data.last_batch, fields(config)
    steps_per_epoch = order.steps_per_epoch(len(images), config.batch_size, last_batch)
    for field in ("epochs", "prototypes.frozen_epochs", "objective.queue_start_epochs"):
        epochs = values.get(field, 0)
        if epochs * steps_per_epoch >= 2**31:  # steps are counted in int32
            most = (2**31 - 1) // steps_per_epoch
            raise UserError(f"{field} is {epochs}, of {steps_per_epoch} steps each: it must be at most {most}")
    shape = image_shape(config, images)[1:]
    try:
        with renamed(_names_of_fields(config)):
            method.jitted_step.eval_shape(state, _batch(config, images, config.batch_size, sharding))
    except UserError:
        raise
    except (TypeError, ValueError, FlaxError) as error:
        raise UserError(
            f"views.name {config.views.name!r}, the model and the objective do not fit images of shape "
            f"{shape} or each other: {first_line(error, 500)}"
        ) from error
    if count := order.part(len(images), config.batch_size, last_batch):
        try:
            method.jitted_step.eval_shape(state, _batch(config, images, count, sharding))
        except (TypeError, ValueError) as error:
            raise UserError(
                f"data.last_batch is 'kept', and the last batch of an epoch would have {count} images, which the "
                f"method does not take ({first_line(error)}): make it 'dropped'"
            ) from error


def _batch(
    config: ConfigDict, images: np.ndarray | Encoded, count: int, sharding: jax.sharding.NamedSharding
) -> jax.ShapeDtypeStruct | Cropped:
    """Shapes, types and shardings of a batch of so many of the images."""
    of_batch = partial(jax.ShapeDtypeStruct, dtype=jnp.uint8, sharding=parallel.of_batch(count, sharding))
    if as_images(images).is_decoded:
        return of_batch((count, *image_shape(config, images)[1:]))
    sizes = ((number, fields["size"]) for _, number, fields in view_groups(config))
    return Cropped(tuple(of_batch((count, number, size, size, 3)) for number, size in sizes))
