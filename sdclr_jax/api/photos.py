"""A folder of images in one go: trained on, and searched for what is wrong and what is rare in it."""

import numbers
import os
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import pyarrow
import pyarrow.parquet
from ml_collections import ConfigDict

from sdclr_jax import files, numerics, parallel, recipes, records
from sdclr_jax.api import exemplars, lists, photos_folder
from sdclr_jax.api.collection import Collection, described, look
from sdclr_jax.api.load import Run
from sdclr_jax.api.loop import quick_compile
from sdclr_jax.api.photos_folder import MANIFEST, RUN, SIZES, SMALL, TABLES
from sdclr_jax.api.pretrain import pretrain
from sdclr_jax.data import copies, sources
from sdclr_jax.errors import ArgumentError, UserError
from sdclr_jax.evaluation import duplicates, pruning_probe
from sdclr_jax.records import EncoderRecord, Summary, names
from sdclr_jax.run import folder as run_folder

RATE = 0.9  # share of the weights cut, by which images that are not learned yet are found
MOST_PIXELS = 1024  # of the side of a copy
_TIMED = 3  # steps that a step's time is the mean of
# Fields that would train or evaluate on other images than those that are listed -> what to give instead.
_NOT_FIELDS = {"data.name": "FOLDER", "data.root": "FOLDER", "data.manifest": "--manifest"}
_NOT_FIELDS |= dict.fromkeys(("evaluate.resize", "evaluate.crop"), "views.size")


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
        UserError: no images there; a folder that cannot be written, or holds the lists of other images, or files and
            folders of another program; or as `pretrain`; before anything is written.
        ArgumentError: an argument is out of its bounds; `out` lies among the images, or would be written over them.
        Stopped: a stop was asked for (Ctrl-C), and the state is saved.

    >>> found = sdclr_jax.photos("photos", "runs/photos_lists", subset=10)
    >>> found.page.name, found.tables["subset"].num_rows
    ('index.html', 10)
    """
    check(minutes=minutes, subset=subset, shown=shown)
    root = pathlib.Path(os.path.abspath(files.on_disk(folder, "photos are read from")))
    out = out or pathlib.Path("runs") / f"{run_folder.fit_name(root.name)}_lists"
    out = files.on_disk(out, "lists are written to")
    out = pathlib.Path(os.path.abspath(out))
    start = str(files.expanded(start)) if start else ""
    photos_folder.check_apart(out, [root])
    run_folder.check_path(out)
    run_folder.check_writable(out)
    photos_folder.check_ours(out)
    given = records.flat(recipes.mapping("overrides", overrides))
    side, gray_range = _settings(out, method, given)
    on_cpu = jax.devices()[0].platform == "cpu"
    settings = {"method": method, "start": start, "on_cpu": on_cpu}
    _check_fields(out, settings, given)
    seen = look(root, manifest=str(manifest), gray_range=gray_range, data_dir=data_dir)
    places = {os.path.dirname(name) for name in seen.ids.tolist()}
    photos_folder.check_apart(out, [root / place for place in places])  # where links lead
    for line in described(seen):
        say(line)
    small = copies.make(seen.files, side or recipes.photos_side(on_cpu, start), duplicates.SIDE, progress)
    other = _other_than_known(out, seen, small)
    different = len(duplicates.distinct(small.thumbnails)[0])
    features = forgotten = None
    if different < lists.LEAST:
        say(
            f"{different} different pictures are too few to learn from: only near duplicates are looked for "
            f"(at least {lists.LEAST} are needed for more)."
        )
    else:
        run = _train(out, seen, small, settings, minutes, given, data_dir, progress, say)
        features = run.encode(small.squares, progress=progress)
        forgotten = _forgotten(run, seen.ids, data_dir, progress, say)
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


def _settings(out: pathlib.Path, method: str, overrides: Mapping[str, Any]) -> tuple[int | None, tuple[float, ...]]:
    """Pixels of a copy's side, and the range of gray images: what the run in `out` takes, or what it is told to; None
    where neither says the side.

    Raises:
        UserError: there is no such method; a value is of another type, or views.size is too large; a field is given
            that is not to be chosen here; or the run was trained in another range.
    """
    config = recipes.load(f"folder:{method}")
    for name in overrides:
        if instead := _NOT_FIELDS.get(name):
            raise UserError(f"{name} would have it train on other images than it lists: give {instead} instead")
    recipes.override(config, {name: overrides[name] for name in ("data.gray_range", "views.size") if name in overrides})
    if config.views.size > MOST_PIXELS:
        raise UserError(f"views.size is {config.views.size}, the side of the copies: it must be at most {MOST_PIXELS}")
    try:
        known = records.read(EncoderRecord, out / RUN / names.ENCODER)
        side = recipes.read(out / RUN).views.size if known.crop else known.view.height
    except FileNotFoundError:
        size = config.views.size if config.views.size >= 1 and "views.size" in overrides else None
        return size, config.data.gray_range
    before, now = known.gray_range or (0.0, 0.0), config.data.gray_range
    if "data.gray_range" in overrides and before != now:
        raise UserError(
            f"{out / RUN} was trained with data.gray_range {before}, and not {now}: give that range, or another folder "
            "to write to"
        )
    return side, before


def _check_fields(out: pathlib.Path, settings: dict[str, Any], overrides: Mapping[str, Any]) -> None:
    """Refuse fields that there are not, and values of another type, before the images are looked at, which takes long.

    Raises:
        UserError: names the field.
    """
    if (out / RUN / names.CONFIG).exists():
        config = recipes.read(out / RUN)
    else:
        shardings, epochs = parallel.shardings(), recipes.MOST_EPOCHS
        config = recipes.photos(out / SMALL, out / MANIFEST, 10**6, epochs=epochs, shardings=shardings, **settings)
    recipes.override(config, overrides)


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
        listed = set(lists.read_sizes(out / f"{TABLES[0]}.parquet"))
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
        say(
            f"The earlier run is used, with its {config.epochs} epochs, however many minutes are given: to train "
            "another one, name another folder to write to."
        )
    else:
        config = _chosen(folder, manifest, small, settings, minutes, overrides, say)
        copies.write(small.squares, seen.ids.tolist(), folder)
        lists.write_csv(out / SIZES, _sizes(seen, small))
        lists.write_csv(manifest, pyarrow.table({"path": seen.ids}))
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
    count, shardings = len(small.squares), parallel.shardings()

    def recipe(epochs: int) -> ConfigDict:
        config = recipes.photos(folder, manifest, count, epochs=epochs, shardings=shardings, **settings)
        recipes.override(config, overrides)
        # Where copies are too many for memory they are seen as files, of which the evaluation would see the middle.
        config.evaluate.resize = config.evaluate.crop = config.views.size
        recipes.check(config)
        recipes.check_batch_size(config, count, shardings)
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
    # Placed as a step leaves it, or the second step would be compiled again, in the time that is measured.
    init = jax.jit(method.init, out_shardings=shardings.replicated, compiler_options=quick_compile(shardings))
    state = init(np.uint32(0), np.zeros(shape, np.float32))
    batch = parallel.split(
        squares[: config.batch_size], np.arange(config.batch_size), config.batch_size, shardings.batch
    )
    for step in range(1 + _TIMED):
        if step == 1:
            began = time.perf_counter()
        state, _ = method.jitted_step(state, batch)
        jax.block_until_ready(state)
    return _TIMED * config.batch_size / (time.perf_counter() - began)


def _forgotten(
    run: Run, ids: np.ndarray, data_dir: str | os.PathLike | None, progress: bool, say: Callable[[str], None]
) -> np.ndarray:
    """How much pruning changes each image, as `sdclr exemplars` measures it; NaN for one that the run has not seen.
    What is there of another rate or kind is measured again."""
    directory, ranking = run.path, run.path / f"{names.RANKING}.parquet"
    kind = pruning_probe.AGAINST[0]
    try:
        found = records.read(Summary, directory / names.SUMMARY, folder=directory)
        known = (found.last.step, found.ranked_by.rate, found.settings.against) == (run.step, RATE, kind)
        if not known:
            say(f"{directory / names.SUMMARY} is of another step, rate or kind: it is measured again, and replaced.")
    except FileNotFoundError:
        known = False
    if not (known and ranking.is_file()):
        exemplars.exemplars(run, rates=[RATE], pairs_of_views=1, against=kind, data_dir=data_dir, progress=progress)
    table = pyarrow.parquet.read_table(ranking, columns=["id", "score"]).to_pydict()
    scores = dict(zip(table["id"], table["score"], strict=True))
    return np.array([scores.get(image, np.nan) for image in ids.tolist()])
