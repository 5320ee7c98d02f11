"""Which images pruning makes a trained network forget, who they are, and a page to look at them."""

import contextlib
import dataclasses
import itertools
import numbers
import os
import pathlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from sdclr_jax import files, numerics, parallel, processes, recipes, records
from sdclr_jax.api import agreement, exemplar_files
from sdclr_jax.data import batches
from sdclr_jax.data.examples import Examples
from sdclr_jax.data.subsets import longtail
from sdclr_jax.errors import ArgumentError, UserError, shortened
from sdclr_jax.evaluation import exemplars as scoring
from sdclr_jax.evaluation import frozen, pruning_probe
from sdclr_jax.evaluation.neighbours import neighbours as nearest_others
from sdclr_jax.records import Summary, names
from sdclr_jax.run import folder
from sdclr_jax.run.checkpoints import Checkpoints
from sdclr_jax.trees import Tree

NEAREST = 10  # images that an image's `neighbour_distance` and `label_disagreement` are means over


class Asked(NamedTuple):
    """What is to be measured and shown: the arguments of `exemplars` of these names."""

    rates: tuple[float, ...] | None
    pairs_of_views: int
    against: str
    shown: int
    neighbours: int

    def checked(self) -> "Asked":
        """The same in numbers that JSON holds; raises ArgumentError where one is out of its bounds."""
        rates, against = self.rates, self.against
        if rates is not None:
            if len(rates) > 100:
                raise ArgumentError(
                    "rates", f"is {len(rates)} numbers: the network is pruned and run for each, so give at most 100"
                )
            in_bounds = all(isinstance(rate, numbers.Real) and 0 <= rate < 1 for rate in rates)
            if not rates or not in_bounds or len(set(rates)) < len(rates):
                raise ArgumentError("rates", f"is {rates}: it must be different numbers, each at least 0 and below 1")
            rates = tuple(map(float, rates))
        if against not in pruning_probe.AGAINST:
            raise ArgumentError("against", f"is {against!r}: it must be one of {', '.join(pruning_probe.AGAINST)}")
        # Each pair is a pass over all images; pictures, and those of neighbours, are all on one page.
        counts = {"pairs_of_views": (0, 1000), "shown": (1, 50_000), "neighbours": (0, 100)}
        plain: dict[str, Any] = {}
        for name, (least, most) in counts.items():
            given = getattr(self, name)
            if not isinstance(given, numbers.Integral):
                raise ArgumentError(name, f"is {given!r}: it must be a whole number")
            plain[name] = value = int(given)
            if not least <= value <= most:
                bound = f"at least {least}" if value < least else f"at most {most}"
                raise ArgumentError(name, f"is {shortened(value)}: it must be {bound}")
        return self._replace(rates=rates, **plain)


class Ranking(NamedTuple):
    """A run's images, and how much each was forgotten at its last checkpoint."""

    ids: np.ndarray  # str [N]
    scores: np.ndarray  # float64 [N]


def exemplars(
    run: Any,
    *,
    rates: Sequence[float] | None = None,
    pairs_of_views: int = 4,
    against: str = pruning_probe.AGAINST[0],
    shown: int = 2000,
    neighbours: int = 6,
    data: Mapping[str, Any] | None = None,
    data_dir: str | os.PathLike | None = None,
    progress: bool = False,
) -> records.Summary:
    """Find the images that pruning makes a run's network forget, and write the run's folder `exemplars`.

    Args:
        run: the run's folder, or an object whose `path` it is, of which later checkpoints than the one that it is open
            at are left out.
        rates: shares of the weights cut, different numbers from 0 to below 1; the last one ranks. None is 0.5, 0.7 and
            0.9; or, against 'sparse', the one rate of that branch, which has no other.
        pairs_of_views: augmented views of an image, beside the plain one.
        against: what the whole network is held against, one of `sdclr_jax.evaluation.pruning_probe.AGAINST`.
        shown: images on the page.
        neighbours: nearest images beside each.
        data: fields of `config.data` that say where the images are now, as of `sdclr_jax.evaluate`.
        data_dir: folder of prepared data sets; None is $SDCLR_DATA or ~/.cache/sdclr_jax/data.
        progress: whether to draw bars on the standard error.

    Returns:
        What summary.json holds.

    Raises:
        UserError: no run there, a field that is unknown or would make it another run, and as `exemplars_of_run`.
        ArgumentError: an argument is out of its bounds.

    >>> summary = sdclr_jax.exemplars("runs/sdclr", rates=[0.9], pairs_of_views=1)
    >>> summary.data.images, summary.ranked_by.rate
    (369, 0.9)
    """
    directory = files.expanded(getattr(run, "path", run))
    if rates is not None and (not isinstance(rates, Iterable) or isinstance(rates, str)):
        raise ArgumentError("rates", f"is {rates!r}: give several numbers, or one as (0.9,)")
    asked = Asked(None if rates is None else tuple(rates), pairs_of_views, against, shown, neighbours).checked()
    changed = {"data": recipes.mapping("data", data)}
    config = recipes.read(directory)
    recipes.override_free(config, changed)
    recipes.check_against(config, against, asked.rates)
    folder.check_writable(directory)
    return exemplars_of_run(
        config,
        directory,
        asked,
        data_dir=data_dir,
        progress=progress,
        until=getattr(run, "step", None),
    )[1]


@numerics.fixed()
def exemplars_of_run(
    config: ConfigDict,
    directory: pathlib.Path,
    asked: Asked,
    *,
    data_dir: str | os.PathLike | None = None,
    progress: bool = False,
    until: int | None = None,
) -> tuple[Ranking, Summary]:
    """Measure the checkpoints of a run, all or those up to a step, and write its folder `exemplars`; returns the
    ranking and what summary.json holds.

    Raises:
        UserError: no checkpoint there, or a run whose scores are not finite.
        ArgumentError: more neighbours than images.
    """
    with processes.together(stop=True):
        agreement.on_run(config, asked._asdict() | {"step of the run": until})
        if until is not None and processes.is_main():
            _warn_of_later(directory, until)
        shardings = parallel.shardings()
        data = recipes.data(config, data_dir)
        examples = data.part(config.data.subset)
        agreement.on_data(config, directory, data)
        if asked.neighbours >= (count := len(examples.ids)):
            raise ArgumentError(
                "neighbours", f"is {asked.neighbours}: the run has {count} images in all, so give at most {count - 1}"
            )
        with _pixels(config, examples, shardings) as pixels:
            probe = recipes.pruning_probe(
                config,
                pixels,
                count,
                rates=asked.rates,
                pairs=asked.pairs_of_views,
                against=asked.against,
                shardings=shardings,
                progress=progress and processes.is_main(),
            )
            found = _measured(config, directory, data, examples, probe, shardings, until)
        features = recipes.frozen_encoder(config, shardings).features(found.encoder, examples.images)
        near = nearest_others(features, max(asked.neighbours, min(NEAREST, count - 1)), shardings=shardings)
        summary = _summary(config, data, examples, probe, found.checkpoints)
        with processes.first("exemplars") as alone:
            if alone:
                exemplar_files.write(
                    directory, summary, examples, found.last.scores, near, asked.shown, asked.neighbours
                )
    return Ranking(examples.ids, found.last.scores[-1, 0]), summary


def _warn_of_later(directory: pathlib.Path, until: int) -> None:
    """Say, before it is replaced, that what is there is of later checkpoints, too."""
    path = directory / names.SUMMARY
    with contextlib.suppress(FileNotFoundError, UserError):
        if (step := records.read(Summary, path, folder=directory).last.step) > until:
            print(
                f"{path}  warning: it is of checkpoints up to step {step}, and will be of those up to step {until}: "
                "copy the folder first to keep it, or give the run's folder to measure all checkpoints",
                file=sys.stderr,
            )


class _Found(NamedTuple):
    """What the checkpoints of a run give."""

    checkpoints: list[records.exemplars.Checkpoint]
    last: pruning_probe.Measured
    encoder: Tree  # the variables of the last one's


def _measured(
    config: ConfigDict,
    directory: pathlib.Path,
    data: recipes.Data,
    examples: Examples,
    probe: pruning_probe.PruningProbe,
    shardings: parallel.Shardings,
    until: int | None,
) -> _Found:
    groups = _by_group(data.subsets.train_counts, _class_groups(config, data, examples))
    like = recipes.abstract_state(config, recipes.image_shape(config, examples.images), shardings)
    first: pruning_probe.Measured | None = None
    last: pruning_probe.Measured | None = None
    checkpoints, found = [], None
    with Checkpoints(directory / names.CHECKPOINTS, read_only=True) as kept:
        for step in (step for step in kept.steps_of_all() if until is None or step <= until):
            if not all(processes.exchange("checkpoint", "here" if step in kept.steps else "")):
                continue  # the run goes on, and has dropped it meanwhile
            state = kept.restore(like=like, step=step)
            before, last = last, probe.measure(state)
            first = first or last
            rates = [_of_rate(probe, i, examples.labels, groups, first, before, last) for i in range(len(probe.rates))]
            epoch = recipes.epoch(config, len(examples.ids), step)
            checkpoints.append(records.exemplars.Checkpoint(step=step, epoch=epoch, rates=tuple(rates)))
            found = _Found(checkpoints, last, frozen.encoder_variables(frozen.dense(state)))
    if found is None:
        raise folder.no_checkpoint(directory)
    return found


def _summary(
    config: ConfigDict,
    data: recipes.Data,
    examples: Examples,
    probe: pruning_probe.PruningProbe,
    checkpoints: list[records.exemplars.Checkpoint],
) -> Summary:
    class_groups = _class_groups(config, data, examples)
    summary = Summary(
        run=records.exemplars.SummaryRun(method=config.method, seed=config.seed),
        data=records.exemplars.SummaryData(
            name=config.data.name,
            subset=config.data.subset,
            split=config.data.split,
            seed=config.data.seed,
            images=len(examples.ids),
            list=longtail.list_hash(examples.ids),
            class_names=tuple(examples.class_names) if class_groups else (),
            class_groups=class_groups,
        ),
        settings=dataclasses.replace(probe.settings, nearest_images=min(NEAREST, len(examples.ids) - 1)),
        confidence=scoring.CONFIDENCE,
        ranked_by=records.exemplars.RankedBy(score=probe.scores[0], rate=probe.rates[-1]),
        checkpoints=tuple(checkpoints),
    )
    summary.check("")
    return summary


@contextlib.contextmanager
def _pixels(
    config: ConfigDict, examples: Examples, shardings: parallel.Shardings
) -> Iterator[Callable[[np.ndarray], np.ndarray]]:
    """(rows) -> uint8 [B, H, W, C]: images as the evaluation sees them; augmented views are made of these."""
    largest = recipes.shared_batch_size(config, len(examples.ids), shardings)
    workers = config.data.workers
    with batches.on_demand(examples.images, recipes.centre_crop(config), largest, workers) as crops_of:
        yield lambda rows: np.asarray(crops_of(0, rows))


def _class_groups(config: ConfigDict, data: recipes.Data, examples: Examples) -> tuple[str, ...]:
    """many, medium or few for each class; none where images have no labels, or any number of attributes."""
    if not examples.class_names or examples.targets.has_attributes:
        return ()
    return recipes.groups(config, data)


def _by_group(train_counts: np.ndarray, class_groups: tuple[str, ...]) -> dict[str, list[int]]:
    """The classes that are many, medium, few, and the rarer half of all; nothing without classes."""
    if not class_groups:
        return {}
    by_group = {name: [c for c, group in enumerate(class_groups) if group == name] for name in records.GROUPS}
    common_first = np.argsort(-np.asarray(train_counts), kind="stable")
    return by_group | {"rarer_half": common_first[-(-len(train_counts) // 2) :].tolist()}


def _of_rate(
    probe: pruning_probe.PruningProbe,
    i: int,
    labels: np.ndarray,
    groups: dict[str, list[int]],
    first: pruning_probe.Measured,
    before: pruning_probe.Measured | None,
    now: pruning_probe.Measured,
) -> records.exemplars.Rate:
    """What is found of a checkpoint at one rate, held against the first checkpoint and the one before."""
    scores = {
        name: records.exemplars.ScoreSummary(
            mean=float(now.scores[i, j].mean()),
            shares=scoring.shares(now.scores[i, j], labels, groups),
            since_previous=before and scoring.overlaps(before.scores[i, j], now.scores[i, j]),
        )
        for j, name in enumerate(probe.scores)
    }
    mask = records.exemplars.Mask(
        density={layer.removesuffix("/kernel"): float(kept.mean()) for layer, kept in now.masks[i].items()},
        since_first=scoring.drift(first.masks[i], now.masks[i]),
        since_previous=before and scoring.drift(before.masks[i], now.masks[i]),
    )
    return records.exemplars.Rate(rate=probe.rates[i], scores=scores, mask=mask)


def overlap(rankings: dict[pathlib.Path, Ranking]) -> dict:
    """How far every two of several runs forget the same images, as JSON holds it."""
    pairs = [_pair(*pair) for pair in itertools.combinations(rankings.items(), 2)]
    return {"format": 1, "score": "features", "pairs": pairs}


def _pair(a: tuple[pathlib.Path, Ranking], b: tuple[pathlib.Path, Ranking]) -> dict:
    """How far two runs forget the same images, of those that both were trained on."""
    (first, one), (second, other) = a, b
    common, in_one, in_other = np.intersect1d(one.ids, other.ids, return_indices=True)
    found = {"runs": [first.name, second.name], "common_images": len(common)}
    return found | (scoring.overlaps(one.scores[in_one], other.scores[in_other]).to_json() if len(common) else {})
