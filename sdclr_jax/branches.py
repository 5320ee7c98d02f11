"""A branch is a choice of variables for one and the same network (Jiang et al., ICML 2021, Section 3).

    dense   the weights, its norms, its statistics
    sparse  the mask applied to the same weights, its own norms and statistics
    target  moving averages of the dense weights and norms, its own statistics; encoder and projector only

Gradients flow to whatever a branch reads; what the target reads is not learnt, so it receives none. `prune.gradient`
stops them at the sparse branch's output, so that the dense branch alone learns.
"""

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

import flax.linen as nn

from sdclr_jax import pruning, trees
from sdclr_jax.errors import ArgumentError
from sdclr_jax.trees import Tree


class Branch(NamedTuple):
    """`norms`: whose norms and statistics it reads; `masked`: whether it reads the weights through the mask;
    `averaged`: whether it reads the moving averages instead of what is learnt; `stopped`: whether no gradient flows
    through what it gives."""

    norms: str
    masked: bool = False
    averaged: bool = False
    stopped: bool = False


BRANCHES = {
    "dense": Branch("dense"),
    "sparse": Branch("sparse", masked=True),
    "target": Branch("target", averaged=True),
}


def choose(names: set[str], norms: str, *, gradient: bool = True) -> dict[str, Branch]:
    """The branches named, in the order of `BRANCHES`; with norms 'shared', those that learn read the dense ones, and
    without `gradient` what the masked one gives is a constant to the loss."""
    chosen = {name: branch for name, branch in BRANCHES.items() if name in names}
    if norms == "shared":
        chosen = {name: b if b.averaged else b._replace(norms="dense") for name, b in chosen.items()}
    return {name: b._replace(stopped=b.stopped or (b.masked and not gradient)) for name, b in chosen.items()}


def is_norm(name: str, leaf: object) -> bool:
    """Whether a parameter belongs to a norm: its module is named `norm1`, `stem_norm`, `LayerNorm_0`, ..."""
    return "norm" in name.split("/")[-2].lower()


@contextlib.contextmanager
def norms_have_names() -> Iterator[None]:
    """Inside, a norm whose name does not say so is refused when its network is called: `is_norm` would miss it.

    Raises:
        ArgumentError: names the module.
    """

    def check(call, args, kwargs, context):
        kind, name = type(context.module).__name__, context.module.name or ""
        if kind.endswith("Norm") and "norm" not in name.lower():
            raise ArgumentError("name", f"of a {kind} is {name!r}: it must contain 'norm', or the branches share it")
        return call(*args, **kwargs)

    with nn.intercept_methods(check):
        yield


def split(params: Tree, norm_sets: set[str]) -> Tree:
    """A network's parameters as the state holds them: the weights once, and each set's own norms.

    Every set starts from the same values, so with an all-ones mask the branches are identical.
    """
    norms, weights = trees.partition(params, is_norm)
    return {"weights": weights, "norms": dict.fromkeys(sorted(norm_sets), norms)}


def dense(params: Tree) -> Tree:
    """The parameters that the dense branch reads, joined again."""
    return trees.combine(params["weights"], params["norms"]["dense"])


def backbone(variables: Tree) -> Tree:
    """What of a network's variables the target has: predictor and prototypes stand on the online side alone."""
    return {name: module for name, module in variables.items() if name in ("encoder", "projector")}


def variables(branch: Branch, params: Tree, stats: Tree, mask: Tree, target: Tree = None) -> Tree:
    """The variables that the network is applied with in this branch.

    Args:
        branch: which choice.
        params: {"weights": tree, "norms": {set: tree}}, as `split` makes it.
        stats: {set: batch statistics}.
        mask: bool tree of the prunable weights; read by a masked branch alone.
        target: moving average of `backbone(dense(params))`; read by an averaged branch alone.
    """
    if branch.averaged:
        return {"params": target, "batch_stats": stats[branch.norms]}
    weights = pruning.apply(mask, params["weights"]) if branch.masked else params["weights"]
    return {"params": trees.combine(weights, params["norms"][branch.norms]), "batch_stats": stats[branch.norms]}
