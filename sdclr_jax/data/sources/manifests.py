"""How a CSV file says which images of a folder count, and which split and class each of them belongs to.

One column says where an image lies, relative to the folder. Others may say its split and its class; without a class,
columns of 0 and 1 only are attributes. Columns are known by the names that people give them, in any case.
"""

import codecs
import csv
import io
import pathlib
import re
import unicodedata
from collections.abc import Callable, Iterable

import numpy as np

from sdclr_jax import files
from sdclr_jax.data.sources.layouts import Table, labelled, split_of
from sdclr_jax.errors import UserError

LARGEST = 2**30  # bytes of a manifest
_COLUMNS = {  # what a column is for -> its names without spaces and the like; the first one wins over the others
    "path": ("path", "file", "filename", "filepath", "imagepath", "image", "imagefile", "imagename", "img", "imgpath"),
    "label": ("label", "labels", "class", "classname", "classlabel", "labelname", "category", "categoryname", "target"),
    "split": ("split", "subset", "set", "partition", "fold", "phase", "usage", "dataset"),
}
_DELIMITERS = ",;\t|"
_NO_LABEL = ("nan", "null", "n/a", "#n/a", "<na>")  # as programs write a value that is missing
_BLANK = " \t\xa0\ufeff"  # str.strip() would take control characters away, too


def from_manifest(
    path: pathlib.Path, usable: Iterable[str], skipped: Iterable[str], class_order: str = "natural"
) -> Table:
    """The table that a CSV file tells. Rows of skipped images are left out, and so are images without a row.

    Args:
        path: of the CSV file; its fields are separated by commas, semicolons, tabs or bars.
        usable, skipped: paths of the images that can be decoded and of those that cannot.
        class_order: of `layouts.CLASS_ORDERS`.

    Raises:
        UserError: names the file, the line and what is wrong with it.
    """

    def refuse(number: int, what: str) -> UserError:
        return UserError(f"the manifest {path}, line {number}, {what}.")

    columns, lines = _rows(path)
    if len(set(columns)) < len(columns) or "" in columns[1:]:
        raise refuse(1, f"has the columns {columns}: each must have its own name")
    uses = _uses(columns)
    notes = ()
    if uses.pop("", None) is not None:  # row numbers, as pandas writes them
        notes = ("The manifest's first column has no name, and is not used.",)
    by_use = {use: column for column, use in uses.items() if use}
    for use, names in _COLUMNS.items():
        if use not in by_use and len(found := [column for column in columns if _bare(column) in names]) > 1:
            raise refuse(1, f"has the columns {found[0]!r} and {found[1]!r}: name the one that says the {use} {use!r}")
    if "path" not in by_use:
        raise refuse(1, f"has the columns {columns}: there must be one named path")

    find, found = _Finder(usable, skipped), {}
    for number, row in lines:
        if len(row) != len(columns):
            raise refuse(number, f"does not have {len(columns)} fields: give each line one field a column")
        row = dict(zip(columns, row, strict=True))
        name = row[by_use["path"]]
        if (there := find(name)) is None:
            remedy = "is no image in the folder: correct the path, or leave the line out"
            if _leads_out(name):
                remedy = "leads out of the folder: give paths relative to the folder"
            raise refuse(number, f"names {name!r}, which {remedy}")
        if there in found:
            raise refuse(number, f"names {there!r} a second time: keep one of the lines")
        found[there] = number, row
    names = sorted(name for name in found if name in find.usable)
    if not names:
        raise UserError(f"the manifest {path} names no usable image; list the images of the folder in it.")
    rows = [found[name] for name in names]
    if left_out := [name for name in found if name not in find.usable]:
        notes += (f"Lines of the manifest that name skipped files: {len(left_out):,}, such as that of {left_out[0]}.",)

    splits = ["train"] * len(names)
    if column := by_use.get("split"):
        found_splits = [split_of(row[column]) for _, row in rows]
        # A column of another name than `split` is none, unless it holds what only splits do.
        if not any(found_splits) and _bare(column) != "split":
            uses[column] = ""
        elif None in found_splits:
            number, row = rows[found_splits.index(None)]
            raise refuse(number, f"has the split {row[column]!r}: write train, val or test")
        else:
            splits = found_splits
    if "label" in by_use:
        labels = _labels(rows, by_use["label"], refuse)
        table = labelled(names, splits, labels, f"the manifest {path} has the class", class_order)
        return table._replace(columns=uses, notes=notes)
    attributes = [column for column, use in uses.items() if not use]
    uses |= dict.fromkeys(attributes, "attribute")
    if not attributes:
        return Table(names, splits, np.full(len(names), -1, np.int32), (), notes=notes, columns=uses)
    values = np.zeros((len(names), len(attributes)), np.uint8)
    for i, (number, row) in enumerate(rows):
        for a, column in enumerate(attributes):
            if (value := row[column].strip(_BLANK)) not in ("0", "1"):
                raise refuse(
                    number, f"has {row[column]!r} for {column}: without a column label, all others must be 0 or 1"
                )
            values[i, a] = int(value)
    return Table(names, splits, values, tuple(attributes), notes=notes, columns=uses)


def _rows(path: pathlib.Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The names of the columns, and the number and fields of each line that has any. Columns without a name and without
    content, as spreadsheets write them, are left out."""
    try:
        data = files.read(path, LARGEST)
        utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))  # as spreadsheets write text
        text = data.decode("utf-16" if utf16 else "utf-8-sig")
        written = (line[0] for line in re.finditer(r"[^\r\n]+", text))
        head = next((line for line in written if line.strip(_BLANK + _DELIMITERS)), "")
        says = re.fullmatch(f"sep=([{_DELIMITERS}])", head, re.IGNORECASE)  # Excel's first line
        # Else the one that gives a column of paths, or else a comma.
        headings = {d: _columns(next(csv.reader([head], delimiter=d), [])) for d in _DELIMITERS}
        delimiter = next((d for d, columns in headings.items() if "path" in _uses(columns).values()), ",")
        delimiter = says[1] if says else delimiter
        reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=delimiter)
        lines = [(reader.line_num, row) for row in reader if any(_columns(row))][1 if says else 0 :]
    except (OSError, UnicodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"the manifest {path} cannot be read as CSV ({reason}); give a UTF-8 CSV file.") from error
    columns, lines = _columns(lines[0][1]) if lines else [], lines[1:]
    used = {
        place for row in (columns, *(row for _, row in lines)) for place, field in enumerate(row) if field.strip(_BLANK)
    }

    def kept(row: list[str]) -> list[str]:
        return [field for place, field in enumerate(row) if place in used]

    return kept(columns), [(number, kept(row)) for number, row in lines]


def _columns(fields: list[str]) -> list[str]:
    return [field.strip(_BLANK) for field in fields]


def _bare(column: str) -> str:
    return re.sub(r"[\W_]+", "", column.casefold())


def _uses(columns: list[str]) -> dict[str, str]:
    """Column -> what it is for; '' for none. Of several for one use, only the use's own name counts."""
    uses = dict.fromkeys(columns, "")
    for use, names in _COLUMNS.items():
        own = [column for column in columns if _bare(column) == use]
        candidates = own or [column for column in columns if _bare(column) in names]
        if len(candidates) == 1:
            uses[candidates[0]] = use
    return uses


def _leads_out(name: str) -> bool:
    windows = pathlib.PureWindowsPath(name)
    return name.startswith("/") or ".." in name.split("/") or bool(windows.drive) or ".." in windows.parts


class _Finder:
    """The image of a folder that a manifest means: by its path, or the same one written in another way."""

    def __init__(self, usable: Iterable[str], skipped: Iterable[str]):
        self.usable = set(usable)
        self._all = self.usable | set(skipped)
        self._composed = {}
        for path in self._all:
            self._composed.setdefault(unicodedata.normalize("NFC", path), []).append(path)

    def __call__(self, name: str) -> str | None:
        """None where there is none, or more than one."""
        for written in (name, name.replace("\\", "/")):
            path = str(pathlib.PurePosixPath(written))
            if path in self._all:
                return path
            found = self._composed.get(unicodedata.normalize("NFC", path), ())
            if len(found) == 1:
                return found[0]
        return None


def _labels(rows: list[tuple[int, dict[str, str]]], column: str, refuse: Callable[[int, str], UserError]) -> list[str]:
    labels = [unicodedata.normalize("NFC", row[column].strip()) for _, row in rows]
    classes = set(labels)
    # Among classes that are numbered, a negative number says that there is none, unless -1 and 1 are all.
    numbered = all(re.fullmatch(r"-?[0-9]+(\.0*)?", label) for label in classes) and classes != {"-1", "1"}
    for (number, _), label in zip(rows, labels, strict=True):
        if not label:
            raise refuse(number, f"has no label: fill it in, or remove the column {column}")
        if label.casefold() in _NO_LABEL or (numbered and label.startswith("-")):
            raise refuse(number, f"has the label {label!r}, which stands for none: fill it in, or leave the line out")
    return labels
