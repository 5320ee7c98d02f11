"""`sdclr prepare`: get a data set ready, once."""

import argparse
import contextlib
import pathlib
import sys
from typing import NamedTuple

from sdclr_jax.commands.parser import DISTRIBUTED, Parser
from sdclr_jax.data import sources
from sdclr_jax.data.examples import Examples
from sdclr_jax.errors import renamed
from sdclr_jax.files import expanded


class _Prepared(NamedTuple):
    folder: pathlib.Path
    source: sources.Source
    train: Examples
    test: Examples


def main(argv: list[str]) -> None:
    """Prepare the data set named in `argv`, read it back, and say what is where."""
    if "--distributed" not in argv:  # without JAX, which takes a second to import
        _show(options := _options(argv), _prepared(options))
        return
    from sdclr_jax import processes
    from sdclr_jax.api import agreement
    from sdclr_jax.run import versions

    processes.join()
    with processes.telling():  # what is wrong with one command line is told to processes that wait for this one
        options = _options(argv)
    with processes.together(stop=True):
        is_folder = options.dataset.startswith(sources.FOLDER)
        given = {"DATASET": sources.FOLDER if is_folder else options.dataset, "checksum": options.accept_checksum}
        processes.agree(versions.alike() | given)
        # The processes share the look at a person's images. Other data sets are made by the first of them, and found by
        # those that see its disk.
        with contextlib.nullcontext() if is_folder else processes.first("the data set") as alone:
            prepared = _prepared(options) if is_folder or alone else None
        prepared = prepared or _prepared(options)
        agreement.on_images({"training": prepared.train, "test": prepared.test})
    if processes.is_main():
        _show(options, prepared)


def _prepared(options: argparse.Namespace) -> _Prepared:
    archive = expanded(options.archive) if options.archive else None
    with renamed({"name": "DATASET", "root": "--root", "manifest": "--manifest"}):
        source = sources.source(options.dataset, options.data_dir, root=options.root, manifest=options.manifest)
        folder = source.prepare(archive, options.accept_checksum, not options.noprogress)
        return _Prepared(folder, source, source.load("train"), source.load("test"))


def _options(argv: list[str]) -> argparse.Namespace:
    parser = Parser(
        prog="sdclr prepare",
        description="Check a data set and write it where the other commands, and tfds, find it. "
        "One that is prepared already is used as it is.",
    )
    known = f"{', '.join(sorted(sources.DATASETS))}, or {sources.FOLDER}PATH for your own images"
    parser.add_argument("dataset", metavar="DATASET", help=known)
    parser.add_argument(
        "--archive", metavar="FILE", help="the published archive; default: look in DIR/downloads, else download it"
    )
    parser.add_argument("--data_dir", metavar="DIR", help="default $SDCLR_DATA or ~/.cache/sdclr_jax/data")
    parser.add_argument(
        "--root", metavar="DIR", default="", help="data.root: the folder of a large data set, as published"
    )
    parser.add_argument(
        "--manifest", metavar="FILE", default="", help="data.manifest: a CSV file about the images of folder:PATH"
    )
    parser.add_argument(
        "--accept_checksum",
        metavar="SHA256",
        default="",
        help="take an archive of this checksum though it is not the published one; a warning stays with all results",
    )
    parser.add_argument("--distributed", action="store_true", help=DISTRIBUTED)
    parser.add_argument("--noprogress", action="store_true", help="no progress bars")
    return parser.parse_args(argv)


def _show(options: argparse.Namespace, prepared: _Prepared) -> None:
    name, (folder, source, train, test) = options.dataset, prepared
    made_from = source.provenance() or {}
    if "warning" in made_from:
        print(f"warning: {name} was {made_from['warning']}", file=sys.stderr)
    if made_from.get("skipped"):
        print(f"skipped files: {made_from['skipped']}, listed in {made_from['skipped_list']}", file=sys.stderr)
    print(f"{folder} holds {name}: {len(train.ids)} train and {len(test.ids)} test images {_kind(train)}")


def _kind(train: Examples) -> str:
    if not train.class_names:
        return "without labels"
    count = len(train.class_names)
    return f"with {count} attributes" if train.targets.has_attributes else f"of {count} classes"
