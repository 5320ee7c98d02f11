"""Self-damaging contrastive learning: the state, its first value, one step, the refresh of the mask, and the loop.

All functions but the loop are pure. `images` are global arrays split over the devices, the state lies on each of them:
batch norm and the loss are over the global batch, on any number of devices.
"""

import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct

from sdclr_jax import branches, pruning
from sdclr_jax.branches import Branch
from sdclr_jax.errors import ArgumentError
from sdclr_jax.models import Network, Outputs
from sdclr_jax.objectives import Objective
from sdclr_jax.objectives.vectors import unit
from sdclr_jax.optim import Optimizer
from sdclr_jax.trees import Tree

Side = tuple[str, int]  # (branch, view)
Pairs = tuple[tuple[Side, Side], ...]
Views = tuple[jax.Array, ...]
Scalars = dict[str, jax.Array]


@struct.dataclass
class State:
    """Everything that changes in a run, and the key all its randomness comes from."""

    step: jax.Array  # int32 scalar, steps done
    key: jax.Array  # constant; a step's keys are folded from it
    params: Tree  # {"weights": tree, "norms": {set: tree}}
    stats: Tree  # {set: batch statistics}
    mask: Tree  # bool leaves for the kernels that can be pruned, None elsewhere; None where no branch is sparse
    target: Tree  # moving average of the dense encoder and projector; None where no branch reads it
    opt_state: optax.OptState
    objective_state: dict[str, Any]  # {side: what the objective keeps of it}, for the sides compared with


class Step(NamedTuple):
    """A step that the loop has taken, or several that were one dispatch. The next one takes the memory of `state`: read
    from it first, or copy it."""

    number: int  # of steps done
    state: State
    images: Any  # the batch of the last of them
    scalars: Scalars  # on the devices: reading them waits for the step; [K] each where K steps were one dispatch


class Method:
    """A method put together from its parts: `init` and `train` are the whole of training.

        state = jax.jit(method.init)(np.uint32(0), np.zeros((1, 8, 8, 1), np.float32))
        for step in method.train(state, batches, until=100):
            print(step.number, float(step.scalars["loss"]))

    Args:
        network: (views [B, H, W, C], train) -> Outputs; `network.prunable` says what the mask covers.
        branches: name -> Branch, those that the pairs name.
        pairs: ((branch, view), (branch, view)): the first side learns from the second, or both from each other, as
            the objective has it; the loss is the mean over the pairs.
        make_views: (key, uint8 images [B, H, W, C]) -> as many float views [B, h, w, C] as the pairs name; h and w may
            differ from view to view.
        objective: compares the outputs of a pair.
        optimizer: optax chain and schedule.
        prune: (weights, *, prunable, key) -> mask, with `prunable` of the network.
        refresh_every: steps between two refreshes of the mask; the first is before the first step.
        target_momentum: step -> share that the target keeps of itself; read where a branch is averaged.
        steps_per_dispatch: steps that are one program, where nothing is due between them. On accelerators it hides the
            host; on CPUs convolutions inside a loop are slow.
        sharding: how the state lies on the devices, one sharding for all of it or a `State` of them; None leaves it to
            the arguments. Where a device holds a share of a weight, the whole is gathered for each step (Rajbhandari et
            al., SC 2020: ZeRO).
    """

    def __init__(
        self,
        *,
        network: Network,
        branches: dict[str, Branch],
        pairs: Pairs,
        make_views: Callable[[jax.Array, jax.Array], Views],
        objective: Objective,
        optimizer: Optimizer,
        prune: Callable[..., Tree],
        refresh_every: int = 1,
        target_momentum: optax.Schedule | None = None,
        steps_per_dispatch: int = 1,
        sharding: Tree = None,
    ):
        if both := [name for name, branch in branches.items() if branch.masked and branch.averaged]:
            raise ArgumentError("branches", f"has {both[0]!r}, masked and averaged: it must be one of the two")
        for name, steps in (("refresh_every", refresh_every), ("steps_per_dispatch", steps_per_dispatch)):
            if steps < 1:
                raise ArgumentError(name, f"is {steps}: it must be at least 1")
        self.network, self.branches, self.pairs, self.make_views = network, branches, pairs, make_views
        self.objective, self.optimizer = objective, optimizer
        self.prune, self.refresh_every = prune, refresh_every
        self.target_momentum, self.steps_per_dispatch = target_momentum, steps_per_dispatch
        self.damaged = any(branch.masked for branch in branches.values())
        self.averaged = any(branch.averaged for branch in branches.values())
        # One object each, so that what is traced once is not traced again.
        self._whole = sharding.step if isinstance(sharding, State) else sharding
        self._is_split = not all(leaf.is_fully_replicated for leaf in jax.tree.leaves(sharding))
        self.jitted_step = jax.jit(self.step, donate_argnums=0, out_shardings=(sharding, self._whole))
        self.jitted_diagnose = jax.jit(self.diagnose)
        self._jitted_steps = jax.jit(self.steps, donate_argnums=0, out_shardings=(sharding, self._whole))
        self._jitted_refresh = jax.jit(self.refresh, donate_argnums=0, out_shardings=sharding)

    def init(self, seed: jax.Array, view: jax.Array) -> State:
        """The state before the first step.

        Args:
            seed: uint32 scalar.
            view: [1, h, w, C]; only its shape is read.
        """
        key = jax.random.key(seed)
        with branches.norms_have_names():
            outputs, variables = self.network.init_with_output(jax.random.fold_in(key, 0), view, train=True)
        if other := sorted(variables.keys() - {"params", "batch_stats"}):
            raise ArgumentError("variables", f"are in {other[0]!r}, too: only those in params and batch_stats are kept")
        learnt = {branch.norms for branch in self.branches.values() if not branch.averaged} | {"dense"}
        own_stats = variables.get("batch_stats", {})  # without batch norm there are none
        params, stats = branches.split(variables["params"], learnt), dict.fromkeys(learnt, own_stats)
        compared_with = sorted({b for _, b in self.pairs})
        return State(
            step=jnp.int32(0),
            key=key,
            params=params,
            stats=stats | ({"target": branches.backbone(own_stats)} if self.averaged else {}),
            mask=pruning.ones(params["weights"], self.network.prunable) if self.damaged else None,
            target=branches.backbone(variables["params"]) if self.averaged else None,
            opt_state=self.optimizer.transform.init(params),
            objective_state={
                _name(b): self.objective.init(jax.random.fold_in(jax.random.fold_in(key, 4), i), outputs)
                for i, b in enumerate(compared_with)
            },
        )

    def train(
        self, state: State, batches: Iterator[Any], *, until: int, due: Callable[[int], bool] = lambda number: False
    ) -> Iterator[Step]:
        """Take the steps after the state's, up to number `until`, and yield each; refresh the mask when it is due.

        Args:
            state: its memory is reused.
            batches: images of each step, beginning with the one after the state's.
            until: number of the last step.
            due: number of a step -> whether the caller needs the state after it; read where several steps may be one
                dispatch, which ends there then.

        Raises:
            ArgumentError: the batches end before the last step, after those that they are enough for.
        """
        number, batches = int(state.step), iter(batches)
        while images := tuple(itertools.islice(batches, self._together(number, until, due))):
            if self._refreshed_after(number):
                state = self._jitted_refresh(state)
            for together in (images,) if _alike(images) else zip(images):
                if len(together) == 1:
                    state, scalars = self.jitted_step(state, together[0])
                else:
                    state, scalars = self._jitted_steps(state, together)
                number += len(together)
                yield Step(number, state, together[-1], scalars)
        if number < until:
            raise ArgumentError("batches", f"ended after step {number}, and until is {until}: give one for each step")

    def _together(self, number: int, until: int, due: Callable[[int], bool]) -> int:
        """How many of the steps after this one are the next dispatch: all that may be, or one, so that two programs are
        compiled and not one for each count."""
        several = self.steps_per_dispatch
        between = range(number + 1, number + several)
        whole = number + several <= until and not any(due(n) or self._refreshed_after(n) for n in between)
        return several if whole else int(number < until)

    def _refreshed_after(self, number: int) -> bool:
        return self.damaged and number % self.refresh_every == 0

    def refresh(self, state: State) -> State:
        """Make the mask again from the weights as they are."""
        mask = self.prune(state.params["weights"], prunable=self.network.prunable, key=_key(state, 2))
        return state.replace(mask=mask)

    def step(self, state: State, images: jax.Array) -> tuple[State, Scalars]:
        """One step on images uint8 [B, H, W, C]."""
        return self.update(state, self.make_views(_key(state, 1), images))

    def steps(self, state: State, batches: tuple[Any, ...]) -> tuple[State, Scalars]:
        """K steps, one after the other, on K batches; scalars [K]."""
        return jax.lax.scan(self.step, state, jax.tree.map(lambda *images: jnp.stack(images), *batches))

    def diagnose(self, state: State, images: jax.Array) -> dict[Side, Outputs]:
        """What the step would compare on these images, in training mode; the state stays as it is."""
        return self.forward(state.params, state, self.make_views(_key(state, 1), images))[0]

    def update(self, state: State, views: Views) -> tuple[State, Scalars]:
        """The step from its views on: every branch once, one gradient, one update."""
        key = _key(state, 3)

        def loss_of(params: Tree) -> tuple[jax.Array, tuple[dict[Side, Outputs], Tree]]:
            outputs, stats = self.forward(params, state, views)
            losses = [
                self.objective.loss(state.objective_state[_name(b)], outputs[a], outputs[b], key) for a, b in self.pairs
            ]
            return sum(losses) / len(losses), (outputs, stats)

        (loss, (outputs, stats)), gradient = jax.value_and_grad(loss_of, has_aux=True)(state.params)
        updates, opt_state = self.optimizer.transform.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        target = state.target
        if self.averaged:
            online = branches.backbone(branches.dense(params))
            target = optax.incremental_update(online, target, 1 - self.target_momentum(state.step))
        scalars = {
            "loss": loss,
            "learning_rate": self.optimizer.schedule(state.step),
            "grad_norm": optax.tree.norm(gradient),
            "weight_norm": optax.tree.norm(params),  # after the step: not finite if the step broke the weights
            # At 1 / sqrt(P) the directions are spread evenly, at 0 they have collapsed to one point.
            **{f"projection_std/{branch}": _spread(out.projection) for (branch, _), out in outputs.items()},
        }
        state = state.replace(
            step=state.step + 1,
            params=params,
            stats=stats,
            target=target,
            opt_state=opt_state,
            objective_state={
                _name(b): self.objective.update(state.objective_state[_name(b)], outputs[b]) for _, b in self.pairs
            },
        )
        return state, scalars

    def forward(self, params: Tree, state: State, views: Views) -> tuple[dict[Side, Outputs], Tree]:
        """Each branch once, on all the views of one size that it sees: {side: Outputs} and the new batch statistics.

        Batch norm is over all of these views together, as in SimCLR. SwAV's code has that of the projector
        over the views of all sizes.
        """
        outputs, stats = {}, state.stats
        for number, (name, branch) in enumerate(self.branches.items()):
            key = jax.random.fold_in(_key(state, 5), number)
            network = self.network.clone(predictor=None, prototypes=None) if branch.averaged else self.network
            seen = sorted({view for pair in self.pairs for side, view in pair if side == name})
            for shape in dict.fromkeys(views[v].shape for v in seen):
                alike = [v for v in seen if views[v].shape == shape]
                # Rows of one image stay together, so that a batch split over devices is not moved between them.
                batch = jnp.stack([views[v] for v in alike], axis=1).reshape(-1, *shape[1:])
                variables = self._gathered(branches.variables(branch, params, stats, state.mask, state.target))
                rngs = {"dropout": jax.random.fold_in(key, alike[0])}
                out, new = network.apply(variables, batch, train=True, mutable=["batch_stats"], rngs=rngs)
                out = jax.lax.stop_gradient(out) if branch.stopped else out
                stats = {**stats, branch.norms: new.get("batch_stats", {})}
                outputs |= {(name, view): out.of_view(i, len(alike)) for i, view in enumerate(alike)}
        return outputs, stats

    def _gathered(self, variables: Tree) -> Tree:
        """The variables whole on each device, where a device holds a share of the state."""
        # Left alone, the partitioner splits activations along the axes of the weights, and moves them between devices.
        return jax.lax.with_sharding_constraint(variables, self._whole) if self._is_split else variables


def _alike(batches: tuple[Any, ...]) -> bool:
    """Whether the batches have one shape: the last one of an epoch may be smaller."""
    return len({tuple(leaf.shape for leaf in jax.tree.leaves(batch)) for batch in batches}) == 1


def _key(state: State, purpose: int) -> jax.Array:
    """The key of this step for: 1 views, 2 pruning, 3 the objective, 5 dropout. (0 and 4 are for the start.)"""
    return jax.random.fold_in(jax.random.fold_in(state.key, purpose), state.step)


def _name(side: Side) -> str:
    """('target', 1) -> 'target1', a key that a checkpoint can hold."""
    return f"{side[0]}{side[1]}"


def _spread(z: jax.Array) -> jax.Array:
    """Mean over the dimensions of the standard deviation of unit-length embeddings [N, P]."""
    return unit(z).std(axis=0).mean()
