"""How much pruning changes what a trained network makes of each image: the scores behind `sdclr exemplars`."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from sdclr_jax import parallel, pruning, trees
from sdclr_jax.branches import Branch
from sdclr_jax.branches import variables as branch_variables
from sdclr_jax.data import order
from sdclr_jax.errors import ArgumentError, UserError
from sdclr_jax.models import Network, Outputs
from sdclr_jax.objectives.nt_xent import nt_xent_per_image
from sdclr_jax.objectives.vectors import cosines
from sdclr_jax.parallel import Shardings
from sdclr_jax.progress import bar, progressed
from sdclr_jax.records.exemplars import SummarySettings
from sdclr_jax.trees import Tree

# What the whole network is held against:
#   recalibrated  the same network with the smallest weights at zero; both get batch norm statistics of their own, from
#                 the same batches of training views. A rate of 0 changes nothing at all.
#   pruned        the same, but with the statistics that the whole network was trained with in both: what is measured is
#                 then as much that these no longer fit as what was forgotten.
#   sparse        the sparse branch as it was trained, with its own mask, norms and statistics; of self-damaging
#                 methods only.
AGAINST = ("recalibrated", "pruned", "sparse")
RATES = 0.5, 0.7, 0.9  # shares of the weights that are cut, unless others are asked for
# Batches whose statistics are averaged: 6,400 views at batch 64. A few thousand suffice, and a plain mean is better
# than the moving one of training (Wu & Johnson, Rethinking "Batch" in BatchNorm, arXiv:2105.07576, Section 3).
CALIBRATION = 50


class Measured(NamedTuple):
    """What one checkpoint gives."""

    scores: np.ndarray  # float64 [rates, scores, N], higher is more changed
    masks: list[dict[str, np.ndarray]]  # bool by layer, for each rate


def batch_statistics(network: nn.Module, variables: Tree, views: Sequence[jax.Array]) -> Tree:
    """Means and variances of this batch alone, as a network's `batch_stats`.

    Args:
        network: Flax module, (views, train) -> anything.
        variables: its own, `batch_stats` among them.
        views: float32 [B, h, w, C] each, all of one size; those of an image are taken together.
    """
    both = jnp.stack(views, axis=1).reshape(-1, *views[0].shape[1:])

    # Flax gives m * old + (1 - m) * new; from old values 0 and 1 both m and the new ones follow, and XLA computes the
    # network once.
    def updated(old: float) -> Tree:
        start = jax.tree.map(lambda x: jnp.full_like(x, old), variables["batch_stats"])
        given, rngs = {**variables, "batch_stats": start}, {"dropout": jax.random.key(0)}
        return network.apply(given, both, train=True, mutable=["batch_stats"], rngs=rngs)[1]

    return jax.tree.map(lambda zero, one: zero / (1 - (one - zero)), updated(0), updated(1))["batch_stats"]


class PruningProbe:
    """Measures training states of one network; what is compiled serves all of them.

    Scores, for each rate and the mean over the views of an image (of both networks on the same view): `features` and
    `projections` are 1 - cosine between the whole and the pruned network; `loss` is the image's NT-Xent between its
    first view through the whole and its second through the pruned network, with the negatives of a batch; `loss_rise`
    how much higher that is than with both views through the whole network. The losses need a `temperature` and `pairs`.

    Views and batches are a function of the seed: the same for every state and rate. With several processes each of them
    takes part, and gets all scores.

    Args:
        network: (views [B, h, w, C], train) -> Outputs; its `prunable` says what is cut.
        branches: name -> Branch, those of the method.
        plain_view: uint8 images [B, H, W, C] -> float views, nothing random.
        make_views: (key, images) -> two augmented views or more, of which the first two are a pair.
        pixels: rows [B] of the images -> uint8 [B, H, W, C].
        size: how many images there are.
        rates: shares of the weights cut.
        pairs: of augmented views, beside the plain one.
        against: one of `AGAINST`; with 'sparse' give one rate, that of the sparse branch.
        batch_size: images a step, which the devices can share.
        seed: of views and batches.
        temperature: of NT-Xent; None where the network was not trained with it.
        shardings: how arrays lie on the devices.
        progress: whether to draw a bar for each state on the standard error.

    Raises:
        ArgumentError: `against` is 'sparse' and no branch is sparse.
    """

    def __init__(
        self,
        network: Network,
        branches: Mapping[str, Branch],
        *,
        plain_view: Callable[[jax.Array], jax.Array],
        make_views: Callable[[jax.Array, jax.Array], tuple[jax.Array, ...]],
        pixels: Callable[[np.ndarray], np.ndarray],
        size: int,
        rates: Sequence[float],
        pairs: int,
        against: str,
        batch_size: int,
        seed: int,
        temperature: float | None,
        shardings: Shardings,
        progress: bool = False,
    ):
        if against == "sparse" and "sparse" not in branches:
            raise ArgumentError("against", "is 'sparse', and there is no sparse branch: take 'recalibrated'")
        self._branches, self._pixels, self._size, self._pairs = branches, pixels, size, pairs
        self._against, self._shardings, self._progress = against, shardings, progress
        self._batch_size, self._seed, self.rates = batch_size, seed, tuple(rates)
        losses = temperature is not None and pairs > 0
        self.scores = ("features", "projections", *(("loss", "loss_rise") if losses else ()))
        self.settings = SummarySettings(
            against=against,
            rates=self.rates,
            pairs_of_views=pairs,
            batch_size=batch_size,
            calibration_batches=CALIBRATION if against == "recalibrated" else 0,
        )

        def outputs(variables: Tree, views: jax.Array) -> Outputs:
            return network.apply(variables, views, train=False)

        def compare(whole: list[Outputs], pruned: list[Outputs]) -> jax.Array:
            """[B, scores] from the outputs of the plain view, then of each augmented one."""
            found = [
                sum(1 - cosines(getattr(a, part), getattr(b, part)) for a, b in zip(whole, pruned, strict=True))
                / len(whole)
                for part in ("features", "projection")
            ]
            if losses:
                z, z_pruned = ([out.projection for out in each] for each in (whole, pruned))
                damaged, plain = (
                    sum(nt_xent_per_image(a, b, temperature) for a, b in zip(z[1::2], other[2::2], strict=True)) / pairs
                    for other in (z_pruned, z)
                )
                found += [damaged, damaged - plain]
            return jnp.stack(found, axis=1)

        # Weights and statistics are arguments, so that one program serves every checkpoint and rate.
        self._outputs, self._compare = jax.jit(outputs), jax.jit(compare, out_shardings=shardings.replicated)
        self._batch_statistics = jax.jit(partial(batch_statistics, network))
        self._plain, self._views = jax.jit(plain_view), jax.jit(make_views)
        mask = partial(pruning.magnitude_mask, prunable=network.prunable)
        self._mask = jax.jit(mask, static_argnums=1, out_shardings=shardings.replicated)
        self._variables = jax.jit(branch_variables, static_argnums=0)

    def measure(self, state: Any) -> Measured:
        """Scores of every image, once each, from a training state.

        Raises:
            UserError: a score is not finite.
        """
        masks = self._masks(state)
        norms = self._branches["sparse"].norms if self._against == "sparse" else "dense"
        networks = [self._variables(Branch("dense", masked=False), state.params, state.stats, None)]
        networks += [self._variables(Branch(norms, masked=True), state.params, state.stats, mask) for mask in masks]
        if self._against == "recalibrated":
            networks = self._recalibrated(networks)
        with bar(f"step {int(state.step)}", self._size, self._progress, unit="image") as shown:
            scores = self._compared(networks, shown.update)
        if not np.isfinite(scores).all():
            raise UserError(
                f"scores at step {int(state.step)} are not finite: the run diverged, or the pruned network breaks down "
                "and lower rates help"
            )
        return Measured(scores, [{k: np.asarray(v) for k, v in trees.named(mask).items()} for mask in masks])

    def _masks(self, state: Any) -> list[Tree]:
        if self._against == "sparse":
            return [state.mask]
        return [self._mask(state.params["weights"], rate) for rate in self.rates]

    def _recalibrated(self, networks: list[Tree]) -> list[Tree]:
        """The networks with statistics of training views, from the same ones for all."""
        size, seed = self._size, self._seed
        sums = [None] * len(networks)
        for step in range(CALIBRATION):
            rows = order.rows(size, min(self._batch_size, size), seed, step)
            views = self._views(self._key(0, step), self._put(rows))[:2]
            for i, variables in enumerate(networks):
                found = self._batch_statistics(variables, views)
                sums[i] = found if sums[i] is None else jax.tree.map(jnp.add, sums[i], found)
        return [
            {**variables, "batch_stats": jax.tree.map(lambda x: x / CALIBRATION, total)}
            for variables, total in zip(networks, sums, strict=True)
        ]

    def _compared(self, networks: list[Tree], done: Callable[[int], object]) -> np.ndarray:
        size = self._size
        order = np.random.default_rng(self._seed).permutation(size)
        scores = np.empty((len(networks) - 1, len(self.scores), size))
        for start in range(0, size, self._batch_size):
            # The last batch is filled up with images of the first, as negatives; they are not counted again.
            rows = order[(start + np.arange(self._batch_size)) % size]
            whole, *pruned = self._outputs_of(networks, rows, start)
            counted = rows[: size - start]
            for i, outputs in enumerate(pruned):
                scores[i][:, counted] = np.asarray(self._compare(whole, outputs))[: len(counted)].T
            done(len(counted))
        return scores

    def _outputs_of(self, networks: list[Tree], rows: np.ndarray, start: int) -> list[list[Outputs]]:
        """The outputs of each network for the plain view and for each augmented one."""
        images = self._put(rows)
        views = [self._plain(images)]
        for pair in range(self._pairs):
            views += self._views(self._key(1, start, pair), images)[:2]  # later ones may be small crops
        return [[self._outputs(variables, view) for view in views] for variables in networks]

    def _key(self, *stream: int) -> jax.Array:
        key = jax.random.key(self._seed)
        for number in stream:
            key = jax.random.fold_in(key, number)
        return key

    def _put(self, rows: np.ndarray) -> Any:
        """The images of these rows on the devices, of which each process decodes its share."""
        progressed()
        places = parallel.places(len(rows), self._shardings.batch)
        return parallel.split(self._pixels(rows[places]), places, len(rows), self._shardings.batch)
