"""Self-damaging contrastive learning: the state, its first value, one step, and the refresh of the mask.

All functions are pure. `images` are global arrays split over the devices, the state lies on each of them: batch norm
and the loss are over the global batch, on any number of devices.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import struct

from sdclr_jax import branches, pruning
from sdclr_jax.branches import Branch
from sdclr_jax.models import Outputs
from sdclr_jax.objectives import Objective
from sdclr_jax.objectives.vectors import unit
from sdclr_jax.optim import Optimizer
from sdclr_jax.trees import Tree

Pairs = tuple[tuple[tuple[str, int], tuple[str, int]], ...]
Scalars = dict[str, jax.Array]


@struct.dataclass
class State:
    """Everything that changes in a run, and the key all its randomness comes from."""

    step: jax.Array  # int32 scalar, steps done
    key: jax.Array  # constant; a step's keys are folded from it
    params: Tree  # {"weights": tree, "norms": {set: tree}}
    stats: Tree  # {set: batch statistics}
    mask: Tree  # bool leaves for convolution kernels, None elsewhere; None where no branch is sparse
    opt_state: optax.OptState
    objective: Any  # what the objective remembers


class Method:
    """A method put together from its parts: `init`, `step` and `refresh` are the whole of training.

    Args:
        network: Flax module, (views [B, H, W, C], train) -> Outputs.
        branches: name -> Branch, those that the pairs name.
        pairs: which branch sees which view, and what is compared with what; the loss is the mean over the pairs.
        make_views: (key, uint8 images [B, H, W, C]) -> two float views [B, h, w, C].
        objective: compares the outputs of a pair.
        optimizer: optax chain and schedule.
        prune: (weights, key) -> mask.
    """

    def __init__(
        self,
        *,
        network: nn.Module,
        branches: dict[str, Branch],
        pairs: Pairs,
        make_views: Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]],
        objective: Objective,
        optimizer: Optimizer,
        prune: Callable[[Tree, jax.Array], Tree],
    ):
        self.network, self.branches, self.pairs, self.make_views = network, branches, pairs, make_views
        self.objective, self.optimizer, self.prune = objective, optimizer, prune
        self.damaged = any(branch.masked for branch in branches.values())

    def init(self, seed: jax.Array, view: jax.Array) -> State:
        """The state before the first step.

        Args:
            seed: uint32 scalar.
            view: [1, h, w, C]; only its shape is read.
        """
        key = jax.random.key(seed)
        variables = self.network.init(jax.random.fold_in(key, 0), view, train=True)
        norm_sets = {branch.norms for branch in self.branches.values()} | {"dense"}
        params = branches.split(variables["params"], norm_sets)
        return State(
            step=jnp.int32(0),
            key=key,
            params=params,
            stats=dict.fromkeys(sorted(norm_sets), variables["batch_stats"]),
            mask=pruning.ones(params["weights"]) if self.damaged else None,
            opt_state=self.optimizer.transform.init(params),
            objective=self.objective.init(),
        )

    def refresh(self, state: State) -> State:
        """Make the mask afresh from the weights."""
        key = jax.random.fold_in(jax.random.fold_in(state.key, 2), state.step)
        return state.replace(mask=self.prune(state.params["weights"], key))

    def diagnose(self, state: State, images: jax.Array) -> dict[tuple[str, int], Outputs]:
        """What the next step would make of images uint8 [B, H, W, C], {(branch, view): Outputs}; the state is left."""
        return self.encode(state.params, state, self._views(state, images))[0]

    def step(self, state: State, images: jax.Array) -> tuple[State, Scalars]:
        """One step on images uint8 [B, H, W, C]."""
        return self.update(state, self._views(state, images))

    def _views(self, state: State, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        return self.make_views(jax.random.fold_in(jax.random.fold_in(state.key, 1), state.step), images)

    def update(self, state: State, views: tuple[jax.Array, jax.Array]) -> tuple[State, Scalars]:
        """The step from its views on: every branch once, one gradient, one update."""

        def loss_of(params: Tree) -> tuple[jax.Array, tuple[dict[tuple[str, int], Outputs], Tree, Any]]:
            outputs, stats = self.encode(params, state, views)
            losses, memory = [], state.objective
            for a, b in self.pairs:
                loss, memory = self.objective.apply(memory, outputs[a], outputs[b])
                losses.append(loss)
            return sum(losses) / len(losses), (outputs, stats, memory)

        (loss, (outputs, stats, memory)), gradient = jax.value_and_grad(loss_of, has_aux=True)(state.params)
        updates, opt_state = self.optimizer.transform.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
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
            opt_state=opt_state,
            objective=memory,
        )
        return state, scalars

    def encode(
        self, params: Tree, state: State, views: tuple[jax.Array, jax.Array]
    ) -> tuple[dict[tuple[str, int], Outputs], Tree]:
        """Each branch once, on all the views it sees: {(branch, view): Outputs} and the new batch statistics."""
        outputs, stats = {}, state.stats
        for name, branch in self.branches.items():
            seen = sorted({view for pair in self.pairs for side, view in pair if side == name})
            # Rows of one image stay together, so that a batch split over devices is not moved between them.
            batch = jnp.stack([views[v] for v in seen], axis=1).reshape(-1, *views[0].shape[1:])
            variables = branches.variables(branch, params, stats, state.mask)
            out, new = self.network.apply(variables, batch, train=True, mutable=["batch_stats"])
            stats = {**stats, branch.norms: new["batch_stats"]}
            for i, view in enumerate(seen):
                outputs[name, view] = Outputs(*(x.reshape(-1, len(seen), x.shape[-1])[:, i] for x in out))
        return outputs, stats


def _spread(z: jax.Array) -> jax.Array:
    """Mean over the dimensions of the standard deviation of unit-length embeddings [N, P]."""
    return unit(z).std(axis=0).mean()
