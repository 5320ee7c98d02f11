"""`sdclr prepare`: get a data set ready, once."""

import argparse
import contextlib
import pathlib
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from sdclr_jax.commands.parser import DATA_DIR, DISTRIBUTED, Parser, asks_for_help
from sdclr_jax.data import sources
from sdclr_jax.data.examples import Examples
from sdclr_jax.data.sources.folders import Skipped
from sdclr_jax.errors import ArgumentError, printable, renamed
from sdclr_jax.files import on_disk

_CLASSES = 40  # lines of them, at most


class _Prepared(NamedTuple):
    folder: pathlib.Path
    source: sources.Source
    train: Examples
    test: Examples


def main(argv: list[str]) -> None:
    """Prepare the data set named in `argv`, read it back, and say what is where."""
    if "--distributed" not in argv or asks_for_help(argv):  # without JAX, which takes a second to import
        _show(options := _options(argv), _prepared(options))
        return
    from sdclr_jax import processes
    from sdclr_jax.api import agreement
    from sdclr_jax.commands import flags
    from sdclr_jax.run import versions

    with flags.joined(argv):
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
    archive = on_disk(options.archive, "archives are read from") if options.archive else None
    given = {name: f"--{name}" for name in ("root", "manifest", "gray_range")}
    with renamed({"name": "DATASET", "names": "the names of the classes"} | given):
        where = {name: getattr(options, name) for name in given} | {"gray_range": _numbers(options.gray_range)}
        source = sources.source(options.dataset, options.data_dir, **where)
        folder = source.prepare(archive, options.accept_checksum, not options.noprogress)
        train = source.load("train")
        return _Prepared(folder, source, train, source.load("test").of_classes(train.class_names))


def _options(argv: list[str]) -> argparse.Namespace:
    parser = Parser(
        prog="sdclr prepare",
        description="Check a data set and write it where the other commands, and tfds, find it. "
        "One that is prepared already is used as it is.",
    )
    known = f"{', '.join(sorted(sources.DATASETS))}, or {sources.FOLDER}PATH for your own images"
    parser.add_argument("dataset", metavar="DATASET", help=known)
    parser.add_argument(
        "--archive",
        metavar="FILE",
        help="the published archive; default: that in --data_dir/downloads, else downloaded",
    )
    parser.add_argument("--data_dir", metavar="DIR", help=DATA_DIR)
    parser.add_argument(
        "--root", metavar="DIR", default="", help="data.root: the folder of a large data set, as published"
    )
    parser.add_argument(
        "--manifest", metavar="FILE", default="", help="data.manifest: a CSV file about the images of folder:PATH"
    )
    parser.add_argument(
        "--gray_range",
        metavar="BLACK,WHITE",
        default="",
        help="data.gray_range: values that are black and white in gray images of more than eight bits of folder:PATH",
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
    for note in made_from.get("notes", ()):
        print(f"note: {printable(note)}", file=sys.stderr)
    if made_from.get("skipped"):
        print(f"skipped files: {made_from['skipped']}, listed in {made_from['skipped_list']}", file=sys.stderr)
        skipped = Skipped(made_from["skipped"], made_from["skipped_list"], made_from.get("skipped_reasons", {}))
        for line in skipped.why():
            print(printable(line), file=sys.stderr)
    kept = 0 if train.held_out is None else np.count_nonzero(train.held_out)
    counts = f"{len(train.ids) - kept} train{f', {kept} validation' if kept else ''} and {len(test.ids)} test images"
    print(f"{folder} holds {name}: {counts} {_kind(train)}")
    for line in _columns(made_from):
        print(line)
    for line in _classes(train, test):
        print(line)


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(number) for number in text.strip("()").split(",") if text)
    except ValueError:
        raise ArgumentError("gray_range", f"is {text!r}: it must be two numbers, such as 0,4095") from None


def _columns(made_from: dict[str, Any]) -> Iterator[str]:
    """What a manifest's columns are used for."""
    columns = made_from.get("manifest_columns", {})
    if columns:
        used = ", ".join(f"{column} ({use})" if use != column else column for column, use in columns.items() if use)
        unused = ", ".join(column for column, use in columns.items() if not use)
        yield printable(f"columns used: {used}; not used: {unused or 'none'}")
    if made_from.get("not_in_manifest"):
        yield f"images that the manifest does not name, and which are left out: {made_from['not_in_manifest']:,}"


def _classes(train: Examples, test: Examples) -> Iterator[str]:
    """A line for each class: its name, and its images to train on, to validate with and to test with."""
    if not train.class_names:
        return
    held_out = np.zeros(len(train.ids), bool) if train.held_out is None else train.held_out
    splits = {"train": train.take(~held_out), "validation": train.take(held_out), "test": test}
    counts = {split: _counts(examples) for split, examples in splits.items() if len(examples.ids)}
    shown = [printable(name) for name in train.class_names[:_CLASSES]]
    width = min(max(map(len, shown)), 40)
    yield f"  {'':{width}}" + "".join(f"{split:>12}" for split in counts)
    for c, name in enumerate(shown):
        yield f"  {name:{width}}" + "".join(f"{counts[split][c]:>12,}" for split in counts)
    if more := len(train.class_names) - len(shown):
        rest = counts["train"][len(shown) :]
        yield f"  and {more:,} more, of {min(rest):,} to {max(rest):,} images to train on"


def _counts(examples: Examples) -> list[int]:
    """Images of each class or attribute."""
    if examples.targets.has_attributes:
        return examples.labels.sum(axis=0, dtype=int).tolist()
    return np.bincount(examples.labels, minlength=len(examples.class_names)).tolist()


def _kind(train: Examples) -> str:
    if not train.class_names:
        return "without labels"
    count = len(train.class_names)
    return f"with {count} attributes" if train.targets.has_attributes else f"of {count} classes"
