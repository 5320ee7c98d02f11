"""What `sdclr exemplars` writes to a run's folder: all images by rank with their scores, a page to look at them, and
what is said of the checkpoints."""

import pathlib

import numpy as np
import pyarrow

from sdclr_jax import files, records
from sdclr_jax.data import thumbnails
from sdclr_jax.data.examples import Examples
from sdclr_jax.evaluation import exemplars as scoring
from sdclr_jax.evaluation.neighbours import Neighbours
from sdclr_jax.records import Summary, names, sheets
from sdclr_jax.reports import gallery


def write(
    directory: pathlib.Path,
    summary: Summary,
    examples: Examples,
    scores: np.ndarray,
    near: Neighbours,
    shown: int,
    neighbours: int,
) -> None:
    """Write exemplars.csv, exemplars.parquet, gallery.html and summary.json.

    Args:
        directory: of the run.
        summary: what is said of the run and its checkpoints.
        examples: N images.
        scores: float64 [rates, scores, N] of the last checkpoint.
        near: the others that are nearest to each image.
        shown: images on the page.
        neighbours: nearest images beside each.
    """
    others = _others(summary, examples, scores, near)
    table = _table(summary, examples, scores, others)
    order = scoring.order(scores[-1, 0])
    chosen = gallery.chosen(order, list(others.values()), shown)
    beside = near.rows[chosen, :neighbours]
    pictured = np.array(list(dict.fromkeys([*chosen.tolist(), *beside.ravel().tolist()])))
    place = {image: i for i, image in enumerate(pictured.tolist())}
    page = gallery.render(
        summary,
        images=table.take(np.argsort(order)[pictured]).to_pylist(),
        neighbours=[[place[image] for image in row] for row in beside.tolist()],
        thumbnails=thumbnails.make(examples.images, pictured),
    )
    sheets.write(directory / names.RANKING, table)
    files.write(directory / names.GALLERY, page.encode())
    records.write(directory / names.SUMMARY, summary)


def _score_names(summary: Summary) -> list[str]:
    return list(summary.last.rates[-1].scores)


def _others(summary: Summary, examples: Examples, scores: np.ndarray, near: Neighbours) -> dict[str, np.ndarray]:
    """Scores [N] that have nothing to do with pruning. The mean distance to the nearest images is high for what is like
    nothing else; where there are classes, the share of these images that has another one is high for what is labelled
    wrong, but for images of rare classes, too. And the loss of the whole network, where it is known."""
    nearest = summary.settings.nearest_images
    rows, distances = near.rows[:, :nearest], 1 - near.similarities[:, :nearest]
    found = {"neighbour_distance": distances.mean(axis=1, dtype=np.float64)}
    if summary.data.class_groups:
        found["label_disagreement"] = (examples.labels[rows] != examples.labels[:, None]).mean(axis=1)
    names_ = _score_names(summary)
    if "loss" in names_:  # the same at each rate
        damaged, rise = (scores[-1, names_.index(name)] for name in ("loss", "loss_rise"))
        found["loss"] = damaged - rise
    return found


def _table(summary: Summary, examples: Examples, scores: np.ndarray, others: dict[str, np.ndarray]) -> pyarrow.Table:
    """A row an image, the most forgotten first; `score` is the one that ranks. Without labels, nor class nor group."""
    order, class_groups = scoring.order(scores[-1, 0]), summary.data.class_groups
    columns = {
        "rank": np.arange(1, len(order) + 1),
        "id": examples.ids[order],
        "path": [files.as_text(examples.path(row)) for row in order],
    }
    if class_groups:
        labels = examples.labels[order]
        columns["label"] = labels
        columns["class"] = [examples.class_names[label] for label in labels]
        columns["group"] = [class_groups[label] for label in labels]
    columns |= {"score": scores[-1, 0][order]} | {name: other[order] for name, other in others.items()}
    for i, rate in enumerate(summary.settings.rates):
        columns |= {f"{name}_{rate:g}": scores[i, j][order] for j, name in enumerate(_score_names(summary))}
    return pyarrow.table(columns)
