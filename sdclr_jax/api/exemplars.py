"""Which images pruning makes a trained network forget, who they are, and a page to look at them."""

import contextlib
import io
import itertools
import os
import pathlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow
import pyarrow.csv
import pyarrow.parquet
from ml_collections import ConfigDict

from sdclr_jax import files, parallel, recipes, records
from sdclr_jax.data import batches, thumbnails
from sdclr_jax.data.examples import Examples
from sdclr_jax.data.subsets import longtail
from sdclr_jax.errors import ArgumentError
from sdclr_jax.evaluation import exemplars as scoring
from sdclr_jax.evaluation import frozen, knn, pruning_probe
from sdclr_jax.records import Summary, names
from sdclr_jax.reports import gallery, sheets
from sdclr_jax.run import folder
from sdclr_jax.run.checkpoints import Checkpoints

NEAREST = 10  # images that an image's `neighbour_distance` and `label_disagreement` are means over


class Ranking(NamedTuple):
    """A run's images, and how much each was forgotten at its last checkpoint."""

    ids: np.ndarray  # str [N]
    scores: np.ndarray  # float64 [N]


def exemplars(
    run: Any,
    *,
    rates: Sequence[float] = (0.5, 0.7, 0.9),
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
        run: the run's folder, or an object whose `path` it is.
        rates: shares of the weights cut, different numbers from 0 to below 1; the last one ranks.
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
    settings = {
        "rates": tuple(rates),
        "pairs_of_views": pairs_of_views,
        "against": against,
        "shown": shown,
        "neighbours": neighbours,
    }
    check(**settings)
    config = recipes.read(directory)
    recipes.override_free(config, {"data": dict(data or {})})
    recipes.check_against(config, against)
    folder.check_writable(directory)
    return exemplars_of_run(config, directory, **settings, data_dir=data_dir, progress=progress)[1]


def check(rates: tuple[float, ...], *, pairs_of_views: int, against: str, shown: int, neighbours: int) -> None:
    """Raises ArgumentError where one of these is out of its bounds."""
    if not rates or len(set(rates)) < len(rates) or not all(0 <= rate < 1 for rate in rates):
        raise ArgumentError("rates", f"is {rates}: it must be different numbers, each at least 0 and below 1")
    if against not in pruning_probe.AGAINST:
        raise ArgumentError("against", f"is {against!r}: it must be one of {', '.join(pruning_probe.AGAINST)}")
    counts = {"pairs_of_views": (pairs_of_views, 0), "shown": (shown, 1), "neighbours": (neighbours, 0)}
    for name, (value, least) in counts.items():
        if value < least:
            raise ArgumentError(name, f"is {value}: it must be at least {least}")


def exemplars_of_run(
    config: ConfigDict,
    directory: pathlib.Path,
    *,
    rates: tuple[float, ...],
    pairs_of_views: int,
    against: str,
    shown: int,
    neighbours: int,
    data_dir: str | os.PathLike | None = None,
    progress: bool = False,
) -> tuple[Ranking, Summary]:
    """Measure all checkpoints of a run, and write its folder `exemplars`; returns the ranking and what
    summary.json holds.

    Raises:
        UserError: no checkpoint there, or a run whose scores are not finite.
        ArgumentError: more neighbours than images.
    """
    shardings = parallel.shardings()
    data = recipes.data(config, data_dir)
    examples = data.part(config.data.subset)
    if changed := recipes.note_places(directory, config, data.about(config.data.subset)):
        print(f"{directory}  warning: {changed}: what is measured is measured on the data of now", file=sys.stderr)
    if neighbours >= len(examples.ids):
        raise ArgumentError(
            "neighbours",
            f"is {neighbours}: the run has {len(examples.ids)} images in all, so give at most {len(examples.ids) - 1}",
        )
    class_groups = _class_groups(config, data, examples)
    groups = _by_group(data.subsets.train_counts, class_groups)
    epoch = len(examples.ids) // config.batch_size
    first = before = last = None
    checkpoints = []
    with (
        Checkpoints(directory / names.CHECKPOINTS, read_only=True) as kept,
        _pixels(config, examples, shardings) as pixels,
    ):
        if not kept.steps:
            raise folder.no_checkpoint(directory)
        settings = {"rates": rates, "pairs": pairs_of_views, "against": against}
        probe = recipes.pruning_probe(
            config, pixels, len(examples.ids), **settings, shardings=shardings, progress=progress
        )
        like = recipes.abstract_state(config, recipes.image_shape(config, examples.images), shardings)
        for step in kept.steps:
            if step not in kept.steps:
                continue  # the run goes on, and has dropped it meanwhile
            state = kept.restore(like=like, step=step)
            before, last = last, probe.measure(state)
            first = first or last
            rates = [_of_rate(probe, i, examples.labels, groups, first, before, last) for i in range(len(probe.rates))]
            checkpoints.append({"step": step, "epoch": step / epoch, "rates": rates})
    features = recipes.frozen_encoder(config, shardings).features(
        frozen.encoder_variables(frozen.dense(state)), examples.images
    )
    nearest = min(NEAREST, len(features) - 1)
    near = knn.neighbours(features, max(neighbours, nearest))
    labels = examples.labels if class_groups else None
    others = _others(near.rows[:, :nearest], near.distances[:, :nearest], labels)
    found = {
        "format": Summary.FORMAT,
        "run": {"method": config.method, "seed": config.seed},
        "data": {
            "name": config.data.name,
            "subset": config.data.subset,
            "split": config.data.split,
            "seed": config.data.seed,
            "images": len(examples.ids),
            "list": longtail.list_hash(examples.ids),
            "class_names": list(examples.class_names) if class_groups else [],
            "class_groups": list(class_groups),
        },
        "settings": probe.settings | {"nearest_images": nearest},
        "confidence": scoring.CONFIDENCE,
        "ranked_by": {"score": probe.scores[0], "rate": probe.rates[-1]},
        "checkpoints": checkpoints,
    }
    summary = records.decode(Summary, found)
    ranking = Ranking(examples.ids, last.scores[-1, 0])
    if "loss" in probe.scores:  # that of the whole network, the same at each rate
        damaged, rise = (last.scores[-1, probe.scores.index(name)] for name in ("loss", "loss_rise"))
        others["loss"] = damaged - rise
    table = _table(probe, examples, class_groups, last.scores, others)
    order = scoring.order(ranking.scores)
    pictured_first = gallery.chosen(order, list(others.values()), shown)
    near = near.rows[pictured_first, :neighbours]
    pictured = np.array(list(dict.fromkeys([*pictured_first.tolist(), *near.ravel().tolist()])))
    place = {image: i for i, image in enumerate(pictured.tolist())}
    page = gallery.render(
        summary,
        images=table.take(np.argsort(order)[pictured]).to_pylist(),
        neighbours=[[place[image] for image in row] for row in near.tolist()],
        thumbnails=thumbnails.make(examples.images, pictured),
    )
    _write(directory / names.EXEMPLARS, table, page)
    records.write(directory / names.SUMMARY, summary)
    return ranking, summary


@contextlib.contextmanager
def _pixels(
    config: ConfigDict, examples: Examples, shardings: parallel.Shardings
) -> Iterator[Callable[[np.ndarray], np.ndarray]]:
    """(rows) -> uint8 [B, H, W, C]: images as the evaluation sees them; augmented views are made of these."""
    largest, workers = recipes.probe_batch_size(config, shardings), config.data.workers
    with batches.on_demand(examples.images, recipes.centre_crop(config), largest, workers) as crops_of:
        yield lambda rows: crops_of(0, rows)


def _others(rows: np.ndarray, distances: np.ndarray, labels: np.ndarray | None) -> dict[str, np.ndarray]:
    """Scores [N] that have nothing to do with pruning, by the nearest images of each: their `rows` and `distances`
    [N, k]. The mean distance is high for what is like nothing else; where there are labels [N], the share of these
    images that has another one is high for what is labelled wrong, but for images of rare classes, too."""
    scores = {"neighbour_distance": distances.mean(axis=1, dtype=np.float64)}
    if labels is not None:
        scores["label_disagreement"] = (labels[rows] != labels[:, None]).mean(axis=1)
    return scores


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
    rarest = np.argsort(-np.asarray(train_counts), kind="stable")[-(len(train_counts) // 2) :]
    return by_group | {"rarer_half": rarest.tolist()}


def _of_rate(
    probe: pruning_probe.PruningProbe,
    i: int,
    labels: np.ndarray,
    groups: dict[str, list[int]],
    first: pruning_probe.Measured,
    before: pruning_probe.Measured | None,
    now: pruning_probe.Measured,
) -> dict:
    """What summary.json says of a checkpoint at one rate, held against the first checkpoint and the one before."""
    scores = {
        name: {
            "mean": float(now.scores[i, j].mean()),
            "shares": scoring.shares(now.scores[i, j], labels, groups),
            "since_previous": before and scoring.overlaps(before.scores[i, j], now.scores[i, j]),
        }
        for j, name in enumerate(probe.scores)
    }
    mask = {
        "density": {layer.removesuffix("/kernel"): float(kept.mean()) for layer, kept in now.masks[i].items()},
        "since_first": scoring.drift(first.masks[i], now.masks[i]),
        "since_previous": before and scoring.drift(before.masks[i], now.masks[i]),
    }
    return {"rate": probe.rates[i], "scores": scores, "mask": mask}


def _table(
    probe: pruning_probe.PruningProbe,
    examples: Examples,
    class_groups: tuple[str, ...],
    scores: np.ndarray,
    others: dict[str, np.ndarray],
) -> pyarrow.Table:
    """A row an image, the most forgotten first; `score` is the one that ranks. Without labels, nor class nor group."""
    order = scoring.order(scores[-1, 0])
    columns = {
        "rank": np.arange(1, len(order) + 1),
        "id": examples.ids[order],
        "path": [examples.path(row) for row in order],
    }
    if class_groups:
        labels = examples.labels[order]
        columns["label"] = labels
        columns["class"] = [examples.class_names[label] for label in labels]
        columns["group"] = [class_groups[label] for label in labels]
    columns |= {"score": scores[-1, 0][order]} | {name: other[order] for name, other in others.items()}
    for i, rate in enumerate(probe.rates):
        columns |= {f"{name}_{rate:g}": scores[i, j][order] for j, name in enumerate(probe.scores)}
    return pyarrow.table(columns)


def overlap(rankings: dict[pathlib.Path, Ranking]) -> dict:
    """How far every two of several runs forget the same images, as JSON holds it."""
    pairs = [_pair(*pair) for pair in itertools.combinations(rankings.items(), 2)]
    return {"format": 1, "score": "features", "pairs": pairs}


def _pair(a: tuple[pathlib.Path, Ranking], b: tuple[pathlib.Path, Ranking]) -> dict:
    """How far two runs forget the same images, of those that both were trained on."""
    (first, one), (second, other) = a, b
    common, in_one, in_other = np.intersect1d(one.ids, other.ids, return_indices=True)
    found = {"runs": [first.name, second.name], "common_images": len(common)}
    return found | scoring.overlaps(one.scores[in_one], other.scores[in_other]) if len(common) else found


def _write(folder: pathlib.Path, table: pyarrow.Table, page: str) -> None:
    """The ranking and the page, each whole or not at all."""
    tables = {"exemplars.csv": io.BytesIO(), "exemplars.parquet": io.BytesIO()}
    pyarrow.csv.write_csv(_for_sheets(table), tables["exemplars.csv"])
    pyarrow.parquet.write_table(table, tables["exemplars.parquet"])
    contents = {name: table.getvalue() for name, table in tables.items()} | {"gallery.html": page.encode()}
    for name, content in contents.items():
        files.write(folder / name, content)


def _for_sheets(table: pyarrow.Table) -> pyarrow.Table:
    """The table, whose text no spreadsheet takes for a formula."""
    for place, field in enumerate(table.schema):
        if pyarrow.types.is_string(field.type):
            texts = [sheets.cell(text) for text in table.column(place).to_pylist()]
            table = table.set_column(place, field, pyarrow.array(texts, field.type))
    return table
