"""`sdclr exemplars`: which images pruning makes trained networks forget, and a page to look at them."""

import argparse
import pathlib

from ml_collections import ConfigDict

from sdclr_jax import files, processes, recipes, records
from sdclr_jax.api import exemplars
from sdclr_jax.commands import flags
from sdclr_jax.commands.parser import DATA_DIR, DISTRIBUTED, Parser
from sdclr_jax.errors import UserError, renamed
from sdclr_jax.evaluation import pruning_probe
from sdclr_jax.reports import gallery
from sdclr_jax.run import folder

DESCRIPTION = """\
Prunes the network of each run, and measures how much pruning changes the features of each training image, at every
checkpoint that was kept (--config.keep_every of pretrain). At the last checkpoint it also measures how far each image
is from the images most like it, and how many of these have another label. Writes to DIR/exemplars: the images ranked
by the change with all scores (exemplars.csv, exemplars.parquet); shares of classes among the most forgotten images,
beside what chance gives, by checkpoint (summary.json); the images themselves (gallery.html). It trains nothing and
changes no checkpoint. For images that have moved, give --config.data.FIELD=VALUE as to sdclr evaluate."""

# Arguments of `exemplars.exemplars`, and the flags that they come from.
FLAGS = {
    "rates": "--rates",
    "pairs_of_views": "--views",
    "against": "--against",
    "shown": "--gallery",
    "neighbours": "--neighbours",
}


def main(argv: list[str]) -> None:
    with flags.joined(argv):
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
        with renamed(FLAGS):
            recipes.check_against(config, options.against, options.rates)
        folder.check_writable(directory)
        jobs.append((directory, config))
    if len({config.data.name for _, config in jobs}) > 1:
        raise UserError("the runs are of different data sets, whose images cannot be compared: name those of one")
    return jobs


def _options(argv: list[str]) -> argparse.Namespace:
    parser = Parser(prog="sdclr exemplars", description=DESCRIPTION)
    add = parser.add_argument
    add("dirs", nargs="+", metavar="DIR", help="a run's folder")
    usual = ",".join(map(str, pruning_probe.RATES))
    rates = f"shares of the weights that are cut; the last one ranks the images; default {usual}"
    add("--rates", metavar="RATE,...", help=f"{rates}, and against sparse the one rate of that branch")
    views = "pairs of augmented views of each image, in addition to the plain view; default %(default)s"
    add("--views", type=int, default=4, metavar="N", help=views)
    add(
        "--against",
        choices=pruning_probe.AGAINST,
        default=pruning_probe.AGAINST[0],
        help="what the whole network is compared with. recalibrated: the pruned network, where both get new batch norm "
        "statistics from the same batches. pruned: the same, but both keep the statistics of training. sparse: the "
        "sparse branch as it was trained, which only self-damaging methods have. Default %(default)s",
    )
    add(
        "--gallery",
        type=int,
        default=2000,
        metavar="N",
        help="images on the page: the most and the least forgotten, and the first by the other ways to sort; "
        "default %(default)s",
    )
    neighbours = f"nearest images that the page shows beside each (scores use {exemplars.NEAREST}); default %(default)s"
    add("--neighbours", type=int, default=6, metavar="K", help=neighbours)
    add(
        "--overlap",
        default="exemplars_overlap.json",
        metavar="FILE",
        help="of several runs: how far every two of them forget the same images; default %(default)s",
    )
    add("--data_dir", metavar="DIR", help=DATA_DIR)
    add("--distributed", action="store_true", help=DISTRIBUTED)
    add("--noprogress", action="store_true", help="no progress bars")
    options, options.overrides = parser.parse_beside_config(argv)
    options.dirs = [files.expanded(path) for path in options.dirs]
    options.overlap = files.expanded(options.overlap)
    if len(options.dirs) > 1:
        if options.overlap.exists() and not _is_overlap(options.overlap):
            raise UserError(
                f"--overlap={options.overlap} is there, and is no such file: give another name, or move it away"
            )
        files.check_writable(options.overlap.parent)  # before hours of work, which is written last
    try:
        options.rates = None if options.rates is None else tuple(float(rate) for rate in options.rates.split(","))
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
