"""`sdclr exemplars`: which images pruning makes trained networks forget, and a page to look at them."""

import argparse
import pathlib

from ml_collections import ConfigDict

from sdclr_jax import files, processes, recipes, records
from sdclr_jax.api import exemplars
from sdclr_jax.commands import flags
from sdclr_jax.commands.parser import DISTRIBUTED, Parser
from sdclr_jax.errors import UserError, renamed
from sdclr_jax.evaluation import pruning_probe
from sdclr_jax.reports import gallery
from sdclr_jax.run import folder

DESCRIPTION = """\
Prunes the network of each run, measures how much that changes what it makes of each image it was trained on, at every
checkpoint that was kept (--config.keep_every of pretrain); and at the last one how far each is from the images most
like it, and how many of those have another label. Writes to DIR/exemplars: the images ranked by the change with all
scores (exemplars.csv, exemplars.parquet); shares of classes among the most forgotten, with what chance gives, by
checkpoint (summary.json); the images themselves (gallery.html). Nothing is trained and no checkpoint changed.
Images that have moved: --config.data.FIELD=VALUE, as of sdclr evaluate."""

# Arguments of `exemplars.exemplars`, and the flags that they come from.
FLAGS = {
    "rates": "--rates",
    "pairs_of_views": "--views",
    "against": "--against",
    "shown": "--gallery",
    "neighbours": "--neighbours",
}


def main(argv: list[str]) -> None:
    if flags.is_distributed(argv):
        processes.join()
    with processes.telling():  # what is wrong with one command line is told to processes that wait for this one
        options = _options(argv)
        settings = {argument: getattr(options, flag.removeprefix("--")) for argument, flag in FLAGS.items()}
        with renamed(FLAGS):
            asked = exemplars.Asked(**settings).checked()
        jobs = _jobs(options)
    rankings = {}
    for directory, config in jobs:
        with renamed(FLAGS):
            rankings[directory], summary = exemplars.exemplars_of_run(
                config, directory, asked, data_dir=options.data_dir, progress=not options.noprogress
            )
        if processes.is_main():
            for line in gallery.sentences(summary):
                print(f"{directory}  {line}")
            trained_on, written = summary.data.images, directory / "exemplars"
            all_of_them = f"exemplars.csv has all {trained_on} training images"
            print(f"Wrote {written}: open gallery.html there; {all_of_them}", flush=True)
    if len(jobs) > 1 and processes.is_main():
        records.write(options.overlap, exemplars.overlap(rankings))
        print(f"Wrote {options.overlap}")


def _jobs(options: argparse.Namespace) -> list[tuple[pathlib.Path, ConfigDict]]:
    """Run and config of each folder."""
    jobs = []
    for directory in options.dirs:
        config = recipes.read(directory)
        identity = recipes.identity(config)
        config = flags.overridden(config, options.overrides)
        recipes.check_same_run(identity, config)
        recipes.check(config)
        recipes.check_against(config, options.against)
        folder.check_writable(directory)
        jobs.append((directory, config))
    if len({config.data.name for _, config in jobs}) > 1:
        raise UserError("the runs are of different data sets, whose images cannot be compared: name those of one")
    return jobs


def _options(argv: list[str]) -> argparse.Namespace:
    parser = Parser(prog="sdclr exemplars", description=DESCRIPTION)
    add = parser.add_argument
    add("dirs", nargs="+", metavar="DIR", help="a run's folder")
    add("--rates", default="0.5,0.7,0.9", metavar="RATE,...", help="shares of the weights cut; the last one ranks")
    add("--views", type=int, default=4, metavar="N", help="pairs of augmented views an image, beside the plain one")
    add(
        "--against",
        choices=pruning_probe.AGAINST,
        default=pruning_probe.AGAINST[0],
        help="what the whole network is held against",
    )
    add(
        "--gallery",
        type=int,
        default=2000,
        metavar="N",
        help="images on the page: the most and the least forgotten, and the first by the other ways to sort",
    )
    add("--neighbours", type=int, default=6, metavar="K", help="nearest images in feature space beside each")
    add("--overlap", default="exemplars_overlap.json", metavar="FILE", help="of several runs")
    add("--data_dir", metavar="DIR", help="prepared data sets; default $SDCLR_DATA or ~/.cache/sdclr_jax/data")
    add("--distributed", action="store_true", help=DISTRIBUTED)
    add("--noprogress", action="store_true", help="no progress bars")
    is_override = [arg.startswith(("--config.", "--noconfig.")) for arg in argv]
    options = parser.parse_args([arg for arg, other in zip(argv, is_override, strict=True) if not other])
    options.overrides = [arg for arg, other in zip(argv, is_override, strict=True) if other]
    options.dirs = [files.expanded(path) for path in options.dirs]
    options.overlap = files.expanded(options.overlap)
    if len(options.dirs) > 1 and options.overlap.exists() and not _is_overlap(options.overlap):
        raise UserError(
            f"--overlap={options.overlap} is there, and is no such file: give another name, or move it away"
        )
    try:
        options.rates = tuple(float(rate) for rate in options.rates.split(","))
    except ValueError:
        raise UserError(f"--rates={options.rates}: give numbers with commas between, such as 0.5,0.7,0.9") from None
    if len({path.name for path in options.dirs}) < len(options.dirs):
        raise UserError("two runs have one name, so their columns would be alike: give runs of different names")
    return options


def _is_overlap(path: files.Path) -> bool:
    """Whether a file is one that this command has written."""
    try:
        return "pairs" in records.load_object(path, "delete it")
    except UserError:
        return False
