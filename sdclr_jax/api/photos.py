"""A folder of images in one go: trained on, and searched for what is wrong and what is rare in it."""

import numbers
import os
import pathlib
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

import jax
import numpy as np
import pyarrow
import pyarrow.parquet
from ml_collections import ConfigDict

from sdclr_jax import files, numerics, parallel, recipes, records
from sdclr_jax.api import exemplars, lists
from sdclr_jax.api.load import Run
from sdclr_jax.api.pretrain import pretrain
from sdclr_jax.data import copies, images, sources
from sdclr_jax.errors import ArgumentError, UserError
from sdclr_jax.evaluation import duplicates
from sdclr_jax.records import EncoderRecord, Summary, names
from sdclr_jax.run import folder as run_folder

# In the folder that is written: the run, and of the images that it was trained on copies, names, and sizes of files.
RUN, SMALL, MANIFEST, SIZES = "run", "small", "images_of_run.csv", "sizes_of_run.csv"
RATE = 0.9  # share of the weights cut, by which images that are not learned yet are found
MOST_PIXELS = 1024  # of the side of a copy
_TIMED = 3  # steps that a step's time is the mean of


class Collection(NamedTuple):
    """The images of a folder, whatever its layout, in the order of their ids."""

    files: images.Files
    ids: np.ndarray  # str [N], paths below the folder
    splits: np.ndarray  # str [N]: train, val or test
    labels: np.ndarray | None  # int [N]; None without classes
    class_names: tuple[str, ...]
    skipped: int
    skipped_list: str
    why_no_labels: str  # '' where there are labels, or none at all


@numerics.fixed()
def photos(
    folder: str | os.PathLike,
    out: str | os.PathLike | None = None,
    *,
    method: str = "sdclr",
    minutes: float = 10.0,
    start: str | os.PathLike = "",
    manifest: str | os.PathLike = "",
    subset: int = 100,
    shown: int = 60,
    overrides: Mapping[str, Any] | None = None,
    data_dir: str | os.PathLike | None = None,
    progress: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> lists.Lists:
    """Train on a folder of images for some minutes, without labels, and list what to look at in it.

    The lists are near duplicates, images that do not belong, labels that look wrong, rare images, images that are not
    learned yet, and a diverse subset. Call it again to resume, or to look again after the folder has changed: what is
    trained is not trained again. An image that has come since, or has another content under its name, has no place
    among those that are not learned yet.

    Args:
        folder: of the images, in any layout of docs/images.md.
        out: where everything is written; None is `runs/NAME_lists`, of the folder's name.
        method: a row of configs/methods.py.
        minutes: how long training may take; a measured step says how many epochs that gives.
        start: file of weights to start from.
        manifest: a CSV file about the images; '' for none.
        subset: images in the diverse subset.
        shown: images of each list on the page; the tables have all.
        overrides: fields of the config, as of `sdclr_jax.config`, in place of what is chosen.
        data_dir: where it is kept which files are images; None is $SDCLR_DATA or ~/.cache/sdclr_jax/data.
        progress: whether to draw bars on the standard error.
        say: is told in sentences what is seen and done.

    Returns:
        The lists as tables, and where the page lies.

    Raises:
        UserError: no images there; a folder that cannot be written, or holds the lists of other images, or files of
            another program; or as `pretrain`; before anything is written.
        ArgumentError: an argument is out of its bounds.
        Stopped: a stop was asked for (Ctrl-C), and the state is saved.

    >>> found = sdclr_jax.photos("photos", "runs/photos_lists", subset=10)
    >>> found.page.name, found.tables["subset"].num_rows
    ('index.html', 10)
    """
    check(minutes=minutes, subset=subset, shown=shown)
    root = pathlib.Path(os.path.abspath(files.on_disk(folder, "photos are read from")))
    out = files.on_disk(out or pathlib.Path("runs") / f"{root.name}_lists", "lists are written to")
    out = pathlib.Path(os.path.abspath(out))
    start = str(files.expanded(start)) if start else ""
    if out.is_relative_to(root):
        raise ArgumentError("out", f"is {out}, which lies in the folder of the images: name another place")
    run_folder.check_writable(out)
    lists.check_ours(out)
    seen = look(root, str(manifest), data_dir)
    for line in described(seen):
        say(line)
    on_cpu, given = jax.devices()[0].platform == "cpu", records.flat(overrides or {})
    small = copies.make(seen.files, _side(out, start, on_cpu, given), duplicates.SIDE, progress)
    other = _other_than_known(out, seen, small)
    different = len(np.unique(small.thumbnails.reshape(len(small.thumbnails), -1), axis=0))
    features = forgotten = None
    if different < lists.LEAST:
        say(
            f"{different} different pictures are too few to learn from: only near duplicates are looked for "
            f"(at least {lists.LEAST} are needed for more)."
        )
    else:
        settings = {"method": method, "start": start, "on_cpu": on_cpu}
        run = _train(out, seen, small, settings, minutes, given, data_dir, progress, say)
        features = run.encode(small.squares, progress=progress)
        forgotten = _forgotten(run, seen.ids, data_dir, progress)
        if new := np.count_nonzero(np.isnan(forgotten)):
            say(f"{new} images have come since the network was trained, which has not seen them.")
        if changed := np.count_nonzero(other & ~np.isnan(forgotten)):
            say(f"{changed} images are others than those of these names that the network was trained on.")
        forgotten = np.where(other, np.nan, forgotten)
    found = lists.find(seen, small, features, forgotten, subset=subset)
    if features is not None and "subset" not in found.tables:
        say(f"Fewer than {lists.LEAST} images are left of near duplicates: no list is made but that of these.")
    return lists.write(found, seen, features, out, shown=shown, title=root.name)


def check(*, minutes: float, subset: int, shown: int) -> None:
    """Raises ArgumentError where one of these is out of its bounds."""
    if not isinstance(minutes, numbers.Real) or not 0 < minutes <= 10_000:
        raise ArgumentError("minutes", f"is {minutes!r}: it must be above 0 and at most 10000")
    for name, value, most in (("subset", subset, 10**6), ("shown", shown, 1000)):
        if not isinstance(value, numbers.Integral) or not 1 <= value <= most:
            raise ArgumentError(name, f"is {value!r}: it must be from 1 to {most}")


def look(root: pathlib.Path, manifest: str, data_dir: str | os.PathLike | None) -> Collection:
    """The images of a folder, with their labels and splits, where these can be used.

    Raises:
        UserError: no folder or no usable image there, or a manifest that is wrong.
    """
    source = cast(sources.Folder, sources.source(f"{sources.FOLDER}{root}", data_dir, manifest=manifest))
    why, test = "", None
    try:
        train, test = source.load("train"), source.load("test")
    except UserError as error:
        if manifest:
            raise
        train = source.unlabelled()  # which raises the same where there is no image at all
        why = str(error)
    held_out = train.held_out if train.held_out is not None else np.zeros(len(train.ids), bool)
    splits = np.where(held_out, "val", "train").astype("<U5")
    parts = [train] if test is None else [train, test]
    ids = np.concatenate([part.ids for part in parts])
    splits = np.concatenate([splits, *(np.full(len(part.ids), "test") for part in parts[1:])])
    labels = np.concatenate([part.labels for part in parts])
    order = np.argsort(ids, kind="stable")
    skipped, skipped_list = source.skipped
    if test is not None and "test" in source.provenance():  # drawn for scores, which are no matter here
        splits[:] = "train"
    classes = bool(train.class_names) and not train.targets.has_attributes
    if train.class_names and not classes:
        why = "the labels are attributes, any number of which an image has"
    return Collection(
        files=images.Files(root, ids[order]),
        ids=ids[order],
        splits=splits[order],
        labels=labels[order] if classes else None,
        class_names=train.class_names if classes else (),
        skipped=skipped,
        skipped_list=skipped_list,
        why_no_labels=why,
    )


def described(seen: Collection) -> list[str]:
    """What is in a folder, in sentences."""
    splits = Counter(seen.splits.tolist())
    said = [
        f"{len(seen.ids)} images: "
        + ", ".join(f"{splits[name]} {name}" for name in ("train", "val", "test") if splits[name])
    ]
    if seen.labels is not None:
        counts = np.bincount(seen.labels, minlength=len(seen.class_names))
        order = np.argsort(-counts, kind="stable").tolist()
        named = [f"{seen.class_names[c]} {counts[c]}" for c in order]
        middle = [f"{len(order) - 10} more"] if len(order) > 12 else []
        said.append(f"{len(order)} classes: " + ", ".join(named if not middle else named[:5] + middle + named[-5:]))
    else:
        said.append(f"No labels are used: {seen.why_no_labels}" if seen.why_no_labels else "There are no labels.")
    if seen.skipped:
        said.append(f"{seen.skipped} files are skipped, listed in {seen.skipped_list}")
    return said


def _side(out: pathlib.Path, start: str, on_cpu: bool, overrides: Mapping[str, Any]) -> int:
    """Pixels of a copy's side: what the run in `out` takes, or will take."""
    try:
        return records.read(EncoderRecord, out / RUN / names.ENCODER).view.height
    except FileNotFoundError:
        size = overrides.get("views.size")
    return size if isinstance(size, int) and 1 <= size <= MOST_PIXELS else recipes.photos_side(on_cpu, start)


def _sizes(seen: Collection, small: copies.Copies) -> pyarrow.Table:
    """What tells the files of images from others of their names, without a hash of all of them."""
    height, width = small.sizes.T
    return pyarrow.table({"id": seen.ids, "height": height, "width": width, "bytes": small.bytes})


def _other_than_known(out: pathlib.Path, seen: Collection, small: copies.Copies) -> np.ndarray:
    """bool [N]: whether an image is another one than the one of its name that the run in `out` was trained on. A file
    that has changed is the same image where its pixels are: programs write into files what they know of them.

    Raises:
        UserError: not one of the images is among those that `out` is about.
    """
    if not (out / RUN / names.CONFIG).exists():
        listed = set(lists.read_sizes(out / f"{lists.NAMES[0]}.parquet"))
        if listed and not listed & set(_rows(seen, small)):
            raise _other_images(out)
        return np.zeros(len(seen.ids), bool)
    rows, known = _rows(seen, small), set(lists.read_sizes(out / SIZES))
    trained = copies.names(out / SMALL)
    other = np.array([row[0] in trained and row not in known for row in rows])
    for i in np.flatnonzero(other):
        other[i] = not copies.is_same(small.squares[i], out / SMALL / rows[i][0])
    if trained and all(is_other or row[0] not in trained for is_other, row in zip(other, rows, strict=True)):
        raise _other_images(out)
    return other


def _rows(seen: Collection, small: copies.Copies) -> list[tuple]:
    return [tuple(row.values()) for row in _sizes(seen, small).to_pylist()]


def _other_images(out: pathlib.Path) -> UserError:
    return UserError(f"{out} holds the lists of other images: give another folder to write to with --out")


def _train(
    out: pathlib.Path,
    seen: Collection,
    small: copies.Copies,
    settings: dict[str, Any],
    minutes: float,
    overrides: dict[str, Any],
    data_dir: str | os.PathLike | None,
    progress: bool,
    say: Callable[[str], None],
) -> Run:
    """The run in `out`, trained to its end."""
    run, folder, manifest = out / RUN, out / SMALL, out / MANIFEST
    overrides = dict(overrides)
    if (run / names.CONFIG).exists():
        config = recipes.read(run)
        config.data.name, config.data.manifest = f"{sources.FOLDER}{folder}", str(manifest)
        if config.method != settings["method"]:
            raise UserError(f"{run} was trained with {config.method}: give that method, or another folder to write to")
        overrides |= {"model.start": settings["start"]} if settings["start"] else {}
        recipes.override(config, overrides)
    else:
        config = _chosen(folder, manifest, small, settings, minutes, overrides, say)
        copies.write(small.squares, seen.ids.tolist(), folder)
        lists.write_csv(out / SIZES, _sizes(seen, small), guarded=False)
        lists.write_csv(manifest, pyarrow.table({"path": seen.ids}), guarded=False)
    return pretrain(config, run, data_dir=data_dir, progress=progress)


def _chosen(
    folder: pathlib.Path,
    manifest: pathlib.Path,
    small: copies.Copies,
    settings: dict[str, Any],
    minutes: float,
    overrides: dict[str, Any],
    say: Callable[[str], None],
) -> ConfigDict:
    """The recipe for these images, trained for as many epochs as fit into the time."""
    count = len(small.squares)

    def recipe(epochs: int) -> ConfigDict:
        config = recipes.photos(folder, manifest, count, epochs=epochs, **settings)
        recipes.override(config, overrides)
        recipes.check(config)
        return config

    if "epochs" in overrides:
        config = recipe(overrides["epochs"])
        say(f"{recipes.described_recipe(config)}.")
        return config
    speed = _images_per_second(recipe(recipes.MOST_EPOCHS), small.squares)
    epochs = int(np.clip(60 * minutes * speed / count, recipes.LEAST_EPOCHS, recipes.MOST_EPOCHS))
    config = recipe(epochs)
    say(
        f"{recipes.described_recipe(config)}: about {epochs * count / speed / 60:.1f} minutes, since a step of "
        f"training takes {1000 * config.batch_size / speed:.0f} ms here."
    )
    if settings["on_cpu"]:
        say(f"An accelerator would train {recipes.ON_ACCELERATOR}, for up to {recipes.MOST_EPOCHS} epochs.")
    return config


def _images_per_second(config: ConfigDict, squares: np.ndarray) -> float:
    """How fast a step of training is, measured after it is compiled."""
    shardings = parallel.shardings()
    method = recipes.method(config, 1, shardings.replicated)
    shape = recipes.view_shape(config, squares.shape)
    state = jax.jit(method.init)(np.uint32(0), np.zeros(shape, np.float32))
    batch = parallel.split(
        squares[: config.batch_size], np.arange(config.batch_size), config.batch_size, shardings.batch
    )
    for step in range(1 + _TIMED):
        if step == 1:
            began = time.perf_counter()
        state, _ = method.jitted_step(state, batch)
        jax.block_until_ready(state)
    return _TIMED * config.batch_size / (time.perf_counter() - began)


def _forgotten(run: Run, ids: np.ndarray, data_dir: str | os.PathLike | None, progress: bool) -> np.ndarray:
    """How much pruning changes each image, as `sdclr exemplars` measures it; NaN for one that the run has not seen."""
    directory, ranking = run.path, run.path / f"{names.RANKING}.parquet"
    try:
        known = records.read(Summary, directory / names.SUMMARY, folder=directory).last.step == run.step
    except FileNotFoundError:
        known = False
    if not (known and ranking.is_file()):
        exemplars.exemplars(run, rates=[RATE], pairs_of_views=1, data_dir=data_dir, progress=progress)
    table = pyarrow.parquet.read_table(ranking, columns=["id", "score"]).to_pydict()
    scores = dict(zip(table["id"], table["score"], strict=True))
    return np.array([scores.get(image, np.nan) for image in ids.tolist()])
