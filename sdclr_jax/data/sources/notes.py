"""What a person should be told of a folder of images: what may be meant in another way than it is taken."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from sdclr_jax.data.sources.index import Entry, Index
from sdclr_jax.data.sources.layouts import Table
from sdclr_jax.data.targets import are_attributes
from sdclr_jax.errors import first_ones, shortened

_SPLITS = ("train", "val", "test")  # those trained on first
_TO = {"train": "images that are trained on", "val": "validation images"}
_NAMES = {"val": "validation", "test": "test"}
SMALL = 1 / 16  # of the range from black to white: what 12 bits are of 16


def about(found: Index, table: Table, gray_range: tuple[float, ...]) -> list[str]:
    """Sentences, none where there is nothing to say."""
    entries = {path: found.usable[path] for path in table.paths}
    said = [*table.notes, *_columns(table), *_empty(found, table)]
    said += [*_gray(entries, gray_range), *_more(entries), *_damaged(entries), *_copies(entries, table)]
    if found.of_systems:
        passed = _several(found.of_systems, "folder")
        said.append(f"Passed over: {passed} that systems make, such as {found.of_systems[0]}.")
    return [*said, *others(found.others)]


def others(files: Mapping[str, int]) -> list[str]:
    """A sentence on the files that were passed over: ending -> how many; none where there are none."""
    if not files:
        return []
    most = sorted(files, key=lambda ending: (-files[ending], ending))
    listed = first_ones([f"{shortened(ending, 20)} ({files[ending]:,})" for ending in most], 5)
    count = sum(files.values())
    return [f"Passed over: {count:,} {'file' if count == 1 else 'files'} of endings that are not read: {listed}."]


def _columns(table: Table) -> list[str]:
    unused = [column for column, use in table.columns.items() if not use]
    return [f"The manifest's {_columns_named(unused)} not used."] if unused else []


def _columns_named(names: Sequence[str]) -> str:
    listed = first_ones([repr(name) for name in names], 10)
    return f"column {listed} is" if len(names) == 1 else f"columns {listed} are"


def _empty(found: Index, table: Table) -> list[str]:
    """Directories that would be classes, but for their files being skipped."""
    if not table.class_names or table.columns:
        return []
    tops = {path.partition("/")[0] for path in table.paths}
    depth = 1 if tops == set(table.class_names) else 2  # of a class, or of one in a split

    def classes(paths: Iterable[str]) -> set[str]:
        return {"/".join(path.split("/")[:depth]) for path in paths if path.count("/") >= depth}

    empty = sorted(classes(found.skipped) - classes(found.usable))
    if not empty:
        return []
    return [f"All files were skipped of {_several(empty, 'class directory', 'class directories')}, such as {empty[0]}."]


def _gray(entries: dict[str, Entry], gray_range: tuple[float, ...]) -> list[str]:
    said = []
    for fixed in (False, True):
        few = {p: e.gray for p, e in entries.items() if e.gray and e.gray.fixed == fixed and e.gray.share <= SMALL}
        if not few:
            continue
        lowest, highest = min(gray.lowest for gray in few.values()), max(gray.highest for gray in few.values())
        path, gray = next(iter(few.items()))
        name = "image of 16 bits in colour or with an alpha channel" if fixed else "gray image"
        names = "images of 16 bits in colour or with an alpha channel" if fixed else ""
        remedy = ": scale them to eight bits" if fixed else f", and data.gray_range is {gray_range or 'not set'}"
        said.append(
            f"Almost uniform, as at most a sixteenth of the range from black to white, {gray.black:g} to "
            f"{gray.white:g}, is used: {_several(few, name, names)}, such as {path}; their values are {lowest:g} to "
            f"{highest:g}{remedy}."
        )
    return said


def _more(entries: dict[str, Entry]) -> list[str]:
    more = [path for path, entry in entries.items() if entry.has_more]
    return [f"Only the first page or frame is used: {_several(more, 'file')}, such as {more[0]}."] if more else []


def _damaged(entries: dict[str, Entry]) -> list[str]:
    damaged = {path: e.damage for path, e in entries.items() if e.damage}
    if not damaged:
        return []
    path, damage = next(iter(damaged.items()))
    return [f"Damaged metadata, beside pixels that are used: {_several(damaged, 'image')}, such as {path} ({damage})."]


def _copies(entries: dict[str, Entry], table: Table) -> list[str]:
    """Images of the same bytes where they do harm: in training and in another split, or in two classes."""
    first, classes, mixed = {}, {}, []
    across = {("train", "val"): [], ("train", "test"): [], ("val", "test"): []}
    of_classes = table.class_names and not are_attributes(table.labels)
    for row in np.argsort([_SPLITS.index(split) for split in table.splits], kind="stable").tolist():
        path, sha256 = table.paths[row], entries[table.paths[row]].sha256
        other = first.setdefault(sha256, row)
        if (splits := (table.splits[other], table.splits[row])) in across:
            across[splits].append((path, table.paths[other]))
        if of_classes and classes.setdefault(sha256, table.labels[row]) != table.labels[row]:
            mixed.append((path, table.paths[other]))
    said = [
        f"Copies of {_TO[split]}: {_several(found, f'{_NAMES[other]} image')}, such as {found[0][0]} of {found[0][1]}; "
        f"scores on them say {'nothing' if split == 'train' else 'too much'}."
        for (split, other), found in across.items()
        if found
    ]
    if mixed:
        such = f"such as {mixed[0][0]} of {mixed[0][1]}"
        said.append(f"Copies of an image of another class: {_several(mixed, 'image')}, {such}.")
    return said


def _several(things: Sequence | dict, name: str, names: str = "") -> str:
    return f"{len(things):,} {name if len(things) == 1 else names or f'{name}s'}"
