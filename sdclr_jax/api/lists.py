"""What `sdclr photos` finds in a folder, as tables for other programs and as a page."""

import io
import pathlib
from typing import NamedTuple

import numpy as np
import pyarrow
import pyarrow.csv
import pyarrow.parquet

from sdclr_jax import files
from sdclr_jax.api import photos_folder
from sdclr_jax.api.collection import Collection
from sdclr_jax.api.photos_folder import PAGE, TABLES, VECTORS
from sdclr_jax.data import thumbnails
from sdclr_jax.data.copies import Copies
from sdclr_jax.errors import UserError, first_line
from sdclr_jax.evaluation import curation, duplicates
from sdclr_jax.records import sheets
from sdclr_jax.reports import photos as report

LEAST = 20  # different pictures, below which there is nothing to learn from
SHARE = 0.05  # of the images, that are listed as rare and as not learned yet


class Lists(NamedTuple):
    """What was found, and where it was written."""

    tables: dict[str, pyarrow.Table]  # by the list's name; each also lies beside the page as NAME.csv and NAME.parquet
    images: pyarrow.Table  # a row an image, with all scores
    page: pathlib.Path | None = None


def find(
    seen: Collection,
    small: Copies,
    features: np.ndarray | None,
    forgotten: np.ndarray | None,
    *,
    subset: int,
) -> Lists:
    """The lists of a folder.

    Args:
        seen: its images.
        small: copies of these.
        features: float32 [N, D]; None where nothing was learned, and only copies are looked for.
        forgotten: float64 [N], how much pruning changes each image; NaN where that is not known.
        subset: images in the diverse subset.
    """
    count, labels = len(seen.ids), seen.labels
    pairs = duplicates.find(features, small.thumbnails)
    copies = duplicates.groups(pairs, count)
    group = _numbered(copies, seen)
    kept = _kept(group, small)
    columns = _about(seen) | {"height": small.sizes[:, 0], "width": small.sizes[:, 1], "bytes": small.bytes}
    columns |= {"copies": pyarrow.array(group, mask=group < 0), "keep": kept}
    tables = {"duplicates": _duplicates(seen, pairs, group, kept)}
    if features is None or forgotten is None or np.count_nonzero(kept) < LEAST:
        return Lists(tables, pyarrow.table(columns))

    looks = curation.appearance(small.thumbnails)
    near, some = (np.full(count, np.nan) for _ in range(2))
    near[kept], some[kept] = curation.distances(features[kept], looks[kept])  # copies are near for another reason
    alone, group_alone = (np.zeros(count) for _ in range(2))
    alone[kept], group_alone[kept] = curation.above_median(near[kept]), curation.above_median(some[kept])
    apart = np.maximum(alone, group_alone)
    foreign = apart > curation.APART
    columns |= {"apart": apart, "outlier": foreign}
    why = np.where(alone >= group_alone, "like no other", "a small group apart")
    tables["outliers"] = _ranked(seen, apart, foreign, {"apart": apart, "why": why})
    if labels is not None:
        issues = curation.label_issues(np.concatenate([features, looks], axis=1), labels, len(seen.class_names), copies)
        suggested = np.array(seen.class_names)[issues.suggested]
        columns |= {"label_probability": issues.probability, "suggested": suggested, "label_issue": issues.suspect}
        scores = {"suggested": suggested, "label_probability": issues.probability}
        tables["labels"] = _ranked(seen, -issues.probability, issues.suspect, scores)
    ordinary = kept & ~foreign
    rare = _highest(alone, ordinary, SHARE)
    tables["rare"] = _ranked(seen, alone, rare, {"apart": alone})
    columns["rare"] = rare
    known = np.isfinite(forgotten)
    late = _highest(np.where(known, forgotten, -np.inf), known, SHARE)
    columns |= {"change": pyarrow.array(forgotten, mask=~known), "not_learned": late}
    tables["not_learned"] = _ranked(seen, forgotten, late, {"change": forgotten})
    rows = curation.diverse(features, subset, ordinary)
    place = np.zeros(count, np.int64)
    place[rows] = np.arange(1, len(rows) + 1)
    columns["subset"] = pyarrow.array(place, mask=place == 0)
    tables["subset"] = _rows(seen, rows, {"place": place[rows]})
    return Lists(tables, pyarrow.table(columns))


def write(
    found: Lists, seen: Collection, features: np.ndarray | None, out: pathlib.Path, *, shown: int, title: str
) -> Lists:
    """Write each list, the table of all images, the features and the page to `out`, each file whole or not at all. What
    an earlier run has written, and this one has not made, is removed.

    Raises:
        UserError: it cannot be written.
    """
    # First the table by which the folder is known again.
    for name, table in ({TABLES[0]: found.images} | found.tables).items():
        sheets.write(out / name, table)
    if features is not None:
        file = io.BytesIO()
        np.savez(file, ids=seen.ids, features=features)
        files.write(out / f"{VECTORS}.npz", file.getvalue())
        vectors = pyarrow.FixedSizeListArray.from_arrays(features.astype(np.float32).ravel(), features.shape[1])
        table = pyarrow.table(_about(seen) | {"features": vectors})
        files.write(out / f"{VECTORS}.parquet", sheets.parquet(table))
    first = {name: table.slice(0, shown if name != "duplicates" else 3 * shown) for name, table in found.tables.items()}
    pictured = sorted({image for table in first.values() for image in table["id"].to_pylist()})
    place = {image: i for i, image in enumerate(pictured)}
    rows = np.searchsorted(seen.ids, np.array(pictured, str)) if pictured else np.empty(0, int)
    page = report.render(
        title,
        images=len(seen.ids),
        totals={name: table.num_rows for name, table in found.tables.items()},
        lists={name: table.to_pylist() for name, table in first.items()},
        place=place,
        thumbnails=thumbnails.make(seen.files, rows) if pictured else np.zeros((0, 1, 1, 3), np.uint8),
    )
    files.write(out / PAGE, page.encode())
    photos_folder.remove_others(out, [TABLES[0], *found.tables, *([] if features is None else [VECTORS])])
    return found._replace(page=out / PAGE)


def read_sizes(path: pathlib.Path) -> list[tuple[str, int, int, int]]:
    """Id, height, width and bytes of each image of a table, CSV or Parquet; none where there is no such file.

    Raises:
        UserError: it is damaged.
    """
    columns = ("id", "height", "width", "bytes")
    if not path.exists():
        return []
    try:
        if path.suffix == ".csv":
            as_text = pyarrow.csv.ConvertOptions(column_types={"id": "string"})  # also names such as 0001
            lines = pyarrow.csv.ParseOptions(newlines_in_values=True)  # names of files may have them
            table = pyarrow.csv.read_csv(path, convert_options=as_text, parse_options=lines)
        else:
            table = pyarrow.parquet.read_table(path, columns=list(columns))
        return list(zip(*(table[name].to_pylist() for name in columns), strict=True))
    except (pyarrow.ArrowException, KeyError, OSError) as error:
        raise UserError(
            f"{path} cannot be read ({first_line(error)}): delete it, or give another folder with --out"
        ) from error


def write_csv(path: pathlib.Path, table: pyarrow.Table) -> None:
    """A table as CSV that is read again: each text as it is."""
    file = io.BytesIO()
    pyarrow.csv.write_csv(table, file)
    files.write(path, file.getvalue())


def _about(seen: Collection) -> dict[str, list]:
    """Which image, of each."""
    columns = {
        "id": seen.ids.tolist(),
        "path": [files.as_text(seen.files.name(row)) for row in range(len(seen.ids))],
        "split": seen.splits.tolist(),
    }
    if seen.labels is not None:
        columns["class"] = [seen.class_names[label] for label in seen.labels]
    return columns


def _rows(seen: Collection, rows: np.ndarray, scores: dict[str, np.ndarray]) -> pyarrow.Table:
    """These rows, in this order, with scores [len(rows)]."""
    table = pyarrow.table(_about(seen)).take(pyarrow.array(rows, pyarrow.int64()))
    for name, values in scores.items():
        table = table.append_column(name, pyarrow.array(values))
    return table


def _ranked(seen: Collection, score: np.ndarray, chosen: np.ndarray, scores: dict[str, np.ndarray]) -> pyarrow.Table:
    """The chosen images, bool [N], by descending score [N]."""
    rows = np.flatnonzero(chosen)
    rows = rows[np.argsort(-score[rows], kind="stable")]
    return _rows(seen, rows, {name: values[rows] for name, values in scores.items()})


def _highest(score: np.ndarray, among: np.ndarray, share: float) -> np.ndarray:
    """bool [N]: of those `among`, that share of all with the highest scores, whole numbers up."""
    chosen = np.zeros(len(score), bool)
    rows = np.flatnonzero(among)
    chosen[rows[np.argsort(-score[rows], kind="stable")][: int(np.ceil(share * len(score)))]] = True
    return chosen


def _kept(group: np.ndarray, small: Copies) -> np.ndarray:
    """bool [N]: of each group of copies the one of most pixels, of several that of most bytes, and of those the first;
    and every image that has none."""
    order = np.lexsort((np.arange(len(group)), -small.bytes, -np.prod(small.sizes, axis=1, dtype=np.int64)))
    kept = group < 0
    _, first = np.unique(group[order], return_index=True)
    kept[order[first]] = True
    return kept


def _numbered(group: np.ndarray, seen: Collection) -> np.ndarray:
    """The groups of copies, int [N], numbered from 1: first those whose images have different labels, then those that
    lie in different splits. -1 stays for an image that has no copies."""
    splits, classes = _in_several(group, seen)
    numbers, first = np.unique(group, return_index=True)
    place = np.full(len(numbers), -1)
    order = np.lexsort((numbers, ~splits[first], ~classes[first]))
    order = order[numbers[order] >= 0]
    place[order] = np.arange(1, len(order) + 1)
    return place[np.searchsorted(numbers, group)]


def _in_several(group: np.ndarray, seen: Collection) -> tuple[np.ndarray, np.ndarray]:
    """bool [N], twice: whether an image's group of copies lies in more than one split, and in more than one class."""

    def several(values: np.ndarray | None) -> np.ndarray:
        if values is None:
            return np.zeros(len(group), bool)
        pairs = np.unique(np.stack([group, np.unique(values, return_inverse=True)[1]], axis=1), axis=0)
        numbers, counts = np.unique(pairs[:, 0], return_counts=True)
        return (group >= 0) & np.isin(group, numbers[counts > 1])

    return several(seen.splits), several(seen.labels)


def _duplicates(seen: Collection, pairs: duplicates.Pairs, group: np.ndarray, kept: np.ndarray) -> pyarrow.Table:
    """A row an image of each group of copies, by its number, and in it the one that is kept first."""
    nearest, mirrored = np.zeros(len(group)), np.zeros(len(group), bool)
    for (a, b), likeness, turned in zip(pairs.rows.tolist(), pairs.likeness.tolist(), pairs.mirrored, strict=True):
        for row in (a, b):
            if likeness > nearest[row]:
                nearest[row], mirrored[row] = likeness, turned
    splits, classes = _in_several(group, seen)
    rows = np.flatnonzero(group >= 0)
    rows = rows[np.lexsort((~kept[rows], group[rows]))]
    return _rows(
        seen,
        rows,
        {
            "group": group[rows],
            "likeness": nearest[rows],
            "mirrored": mirrored[rows],
            "keep": kept[rows],
            "in_several_splits": splits[rows],
            "in_several_classes": classes[rows],
        },
    )
