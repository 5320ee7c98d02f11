"""`sdclr prepare`: get a data set ready, once."""

import argparse
import sys

from sdclr_jax.data import sources


def main(argv: list[str]) -> None:
    """Prepare the data set named in `argv`, read it back, and say what is where."""
    parser = argparse.ArgumentParser(
        prog="sdclr prepare",
        description="Check a data set and write it where the other commands, and tfds, find it. "
        "One that is prepared already is used as it is.",
    )
    parser.add_argument("dataset", metavar="DATASET", help=", ".join(sorted(sources.DATASETS)))
    parser.add_argument(
        "--archive", metavar="FILE", help="the published archive; default: look in DIR/downloads, else download it"
    )
    parser.add_argument("--data_dir", metavar="DIR", help="default $SDCLR_DATA or ~/.cache/sdclr_jax/data")
    parser.add_argument(
        "--accept_checksum",
        metavar="SHA256",
        default="",
        help="take an archive of this checksum though it is not the published one; a warning stays with all results",
    )
    parser.add_argument("--noprogress", action="store_true", help="no progress bars")
    options = parser.parse_args(argv)
    name = options.dataset
    folder = sources.prepare(
        name,
        options.data_dir,
        archive=options.archive,
        accept_checksum=options.accept_checksum,
        progress=not options.noprogress,
    )
    train, test = (sources.load(name, split, options.data_dir) for split in ("train", "test"))
    made_from = sources.provenance(name, options.data_dir) or {}
    if "warning" in made_from:
        print(f"warning: {name} was {made_from['warning']}", file=sys.stderr)
    print(
        f"{folder} holds {name}: {len(train.labels)} train and {len(test.labels)} test images of "
        f"{len(train.class_names)} classes"
    )
