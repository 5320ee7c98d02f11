"""`sdclr exemplars`: which images pruning makes a trained network forget, who they are, and a page to look at them."""

import argparse
import csv
import io
import itertools
import os
import pathlib
from typing import NamedTuple

import numpy as np
import pyarrow
import pyarrow.parquet
from ml_collections import ConfigDict

from sdclr_jax import build, parallel, workdir
from sdclr_jax.checkpoint import Checkpoints
from sdclr_jax.commands import damage, thumbnails
from sdclr_jax.data import longtail
from sdclr_jax.data.sources import Examples
from sdclr_jax.errors import UserError
from sdclr_jax.evaluation import exemplars
from sdclr_jax.report import gallery

DESCRIPTION = """\
Prunes the network of each run, measures how much that changes what it makes of each image it was trained on, at every
checkpoint that was kept (--config.keep_every of pretrain), and writes to DIR/exemplars: the images ranked by it with
all scores (exemplars.csv, exemplars.parquet); shares of classes among the most forgotten, with what chance gives, by
checkpoint (summary.json); the images themselves (gallery.html). Nothing is trained and no checkpoint changed."""


def main(argv: list[str]) -> None:
    options = _options(argv)
    jobs = []
    for directory in options.dirs:
        config = workdir.read_config(directory)
        build.check(config)
        damage.check(config, options.against)
        jobs.append((directory, config))
    if len({config.data.name for _, config in jobs}) > 1:
        raise UserError("the runs are of different data sets, whose images cannot be compared: name those of one")
    rankings = {}
    for directory, config in jobs:
        rankings[directory], summary = run(config, directory, options)
        for line in gallery.sentences(summary):
            print(f"{directory}  {line}", flush=True)
    if len(jobs) > 1:
        pairs = [_pair(*pair) for pair in itertools.combinations(rankings.items(), 2)]
        workdir.write_json(options.overlap, {"format": 1, "score": "features", "pairs": pairs})
        print(f"Wrote {options.overlap}")


def _options(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="sdclr exemplars", description=DESCRIPTION)
    add = parser.add_argument
    add("dirs", nargs="+", metavar="DIR", type=lambda path: pathlib.Path(path).expanduser(), help="a run's folder")
    add("--rates", default="0.5,0.7,0.9", metavar="RATE,...", help="shares of the weights cut; the last one ranks")
    add("--views", type=int, default=4, metavar="N", help="pairs of augmented views an image, beside the plain one")
    add("--against", choices=damage.AGAINST, default=damage.AGAINST[0], help="what the whole network is held against")
    add("--gallery", type=int, default=2000, metavar="N", help="images on the page, half of them the least forgotten")
    add("--neighbours", type=int, default=6, metavar="K", help="nearest images in feature space beside each")
    add("--overlap", type=pathlib.Path, default="exemplars_overlap.json", metavar="FILE", help="of several runs")
    add("--data_dir", metavar="DIR", help="prepared data sets; default $SDCLR_DATA or ~/.cache/sdclr_jax/data")
    options = parser.parse_args(argv)
    try:
        options.rates = tuple(float(rate) for rate in options.rates.split(","))
    except ValueError:
        raise UserError(f"--rates={options.rates}: give numbers with commas between, such as 0.5,0.7,0.9") from None
    if len(set(options.rates)) < len(options.rates) or not all(0 <= rate < 1 for rate in options.rates):
        raise UserError("--rates must be different numbers, each at least 0 and below 1")
    for name, least in (("views", 0), ("gallery", 1), ("neighbours", 0)):
        if getattr(options, name) < least:
            raise UserError(f"--{name} is {getattr(options, name)}: it must be at least {least}")
    if len(set(options.dirs)) < len(options.dirs):
        raise UserError("a folder is named twice: name each run once")
    return options


class Ranking(NamedTuple):
    """A run's images, and how much each was forgotten at its last checkpoint."""

    ids: np.ndarray  # str [N]
    scores: np.ndarray  # [N]


def run(config: ConfigDict, directory: pathlib.Path, options: argparse.Namespace) -> tuple[Ranking, dict]:
    """Measure all checkpoints of a run, and write its folder `exemplars`; returns the ranking and summary.json.

    Raises:
        UserError: no run or no checkpoint there, or a pruned network whose outputs are not finite.
    """
    shardings = parallel.shardings()
    data = build.data(config, options.data_dir)
    examples = data.part(config.data.subset)
    if options.neighbours >= len(examples.ids):
        raise UserError(f"--neighbours is {options.neighbours}: the run has {len(examples.ids)} images in all")
    groups = _groups(config, data, examples.labels)
    meter = damage.Meter(
        config, examples.images, rates=options.rates, pairs=options.views, against=options.against, shardings=shardings
    )
    like = build.abstract_state(config, examples.images.shape, shardings)
    epoch = len(examples.ids) // config.batch_size
    first = previous = None
    checkpoints = []
    with Checkpoints(directory / "checkpoints", read_only=True) as kept:
        if not kept.steps:
            raise UserError(f"{directory} has no checkpoint yet: let sdclr pretrain reach its first one")
        for step in kept.steps:
            measured = meter.measure(kept.restore(like=like, step=step))
            first = first or measured
            rates = [_of_rate(meter, i, groups, measured, first, previous) for i in range(len(meter.rates))]
            checkpoints.append({"step": step, "epoch": step / epoch, "rates": rates})
            previous = measured
    summary = {
        "format": 1,
        "run": {"method": config.method, "seed": config.seed},
        "data": {
            "name": config.data.name,
            "subset": config.data.subset,
            "split": config.data.split,
            "images": len(examples.ids),
            "class_names": list(examples.class_names),
            "groups": {name: float(member.mean()) for name, member in groups.items()},
            "list": longtail.list_hash(examples.ids),
        },
        "settings": meter.settings,
        "confidence": exemplars.CONFIDENCE,
        "ranked_by": {"score": meter.scores[0], "rate": meter.rates[-1]},
        "checkpoints": checkpoints,
    }
    scores = measured.scores[-1, 0]
    class_groups = longtail.groups(data.subsets.train_counts, config.data.groups) if groups else ()
    table = _table(meter, examples, class_groups, measured.scores)
    order = exemplars.order(scores)
    shown = _shown(order, options.gallery)
    near = exemplars.neighbours(measured.features, shown, options.neighbours)
    pictured = np.array(list(dict.fromkeys([*shown.tolist(), *near.ravel().tolist()])))
    page = gallery.render(
        summary,
        rows=[{name: column[i] for name, column in table.items()} for i in np.argsort(order)[pictured]],
        thumbnails=thumbnails.make(examples.images, pictured),
        neighbours=np.searchsorted(pictured, near, sorter=np.argsort(pictured)),
        class_groups=class_groups,
    )
    return Ranking(examples.ids, scores), summary
