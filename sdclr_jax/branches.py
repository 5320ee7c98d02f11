"""A branch is a choice of variables for one and the same network (Jiang et al., ICML 2021, Section 3).

    dense   the weights, its norms, its statistics
    sparse  the mask applied to the same weights, its own norms and statistics

Gradients flow to whatever a branch reads.
"""

from typing import NamedTuple

from sdclr_jax import pruning, trees
from sdclr_jax.trees import Tree


class Branch(NamedTuple):
    """`norms`: whose norms and statistics it reads; `masked`: whether it reads the weights through the mask."""

    norms: str
    masked: bool


BRANCHES = {"dense": Branch("dense", masked=False), "sparse": Branch("sparse", masked=True)}


def choose(names: set[str], norms: str) -> dict[str, Branch]:
    """The branches named, in the order of `BRANCHES`; with norms 'shared', all of them read the dense ones."""
    chosen = {name: branch for name, branch in BRANCHES.items() if name in names}
    return {name: branch._replace(norms="dense") for name, branch in chosen.items()} if norms == "shared" else chosen


def is_norm(name: str, leaf: object) -> bool:
    """Whether a parameter belongs to a norm: its module is named `norm1`, `stem_norm`, ..."""
    return "norm" in name.split("/")[-2]


def split(params: Tree, norm_sets: set[str]) -> Tree:
    """A network's parameters as the state holds them: the weights once, and each set's own norms.

    Every set starts from the same values, so with an all-ones mask the branches are identical.
    """
    norms, weights = trees.partition(params, is_norm)
    return {"weights": weights, "norms": dict.fromkeys(sorted(norm_sets), norms)}


def variables(branch: Branch, params: Tree, stats: Tree, mask: Tree) -> Tree:
    """The variables that the network is applied with in this branch.

    Args:
        branch: which choice.
        params: {"weights": tree, "norms": {set: tree}}, as `split` makes it.
        stats: {set: batch statistics}.
        mask: bool tree of the prunable weights; not read by a branch that is not masked.
    """
    weights = pruning.apply(mask, params["weights"]) if branch.masked else params["weights"]
    return {"params": trees.combine(weights, params["norms"][branch.norms]), "batch_stats": stats[branch.norms]}
