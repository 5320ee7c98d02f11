"""Compare evaluated runs: tables and a page with pictures."""

import contextlib
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from sdclr_jax import files
from sdclr_jax.errors import ArgumentError
from sdclr_jax.records import sheets
from sdclr_jax.reports import curves, page, runs, tables, templates, words


class Report(NamedTuple):
    """What `report` found: `text`, tables and sentences for a terminal; `paths` of the files it wrote."""

    text: str
    paths: tuple[pathlib.Path, ...]


def report(
    dirs: str | os.PathLike | Sequence[str | os.PathLike], output: str | os.PathLike = "report.html", *, note: str = ""
) -> Report:
    """Compare evaluated runs, and write the page with its tables beside it as .csv, .md and .tex.

    Args:
        dirs: runs, or folders of runs.
        output: the page, `NAME.html`.
        note: a note to the reader, shown on the page.

    Raises:
        ArgumentError: `dirs` is empty; `output` is no .html file; or it, or a file of its name that the tables would
            replace, is there and is none of a report.
        UserError: a folder without an evaluated run, or files that cannot be used.

    >>> found = sdclr_jax.report(["runs/simclr", "runs/sdclr"], "report.html")
    >>> [path.name for path in found.paths[:2]], "sdclr" in found.text
    (['report.html', 'report.md'], True)
    """
    output = files.expanded(output)
    if output.suffix != ".html":
        raise ArgumentError("output", f"is {output}: it must end in .html; the tables go beside it as .csv, .md, .tex")
    dirs = [dirs] if isinstance(dirs, str | os.PathLike) else list(dirs)
    if not dirs:
        raise ArgumentError("dirs", "is empty: give the folder of at least one run")
    found = runs.read(map(files.expanded, dirs))
    levels, differences = tables.compare(found), tables.differences(found)
    texts = [
        page.render(found, note, output.parent),
        "\n".join([tables.to_markdown(levels), tables.to_markdown(differences, sign=True)]),
        "\n".join([tables.to_latex(levels), tables.to_latex(differences, sign=True)]),
        tables.to_csv(found),
        tables.means_to_csv(levels, differences),
        tables.classes_to_csv(found),
        curves.to_csv(found),
    ]
    contents = dict(zip(_paths(output), texts, strict=True))
    _check_ours(contents)
    with contextlib.ExitStack() as stack:  # each is complete before any takes its place
        for path, text in contents.items():
            content = sheets.marked(text) if path.suffix == ".csv" else text.encode()
            stack.enter_context(files.replacing(path)).write_bytes(content)
    shown = [tables.to_text(levels), *([tables.to_text(differences, sign=True)] if differences else [])]
    sentences = [*words.summary(found), *(f"Note: {note}" for note in words.notes(found))]
    return Report("\n\n".join([*shown, "\n".join(sentences)]), tuple(contents))


_HEADS = {".tex": 3}  # lines of a table up to the names of its columns; of others it is the first
_LATER = b"data_seed,"  # a column that reports of older versions do not have
_ENDS = (".html", ".md", ".tex", ".csv", "_means.csv", "_classes.csv", "_curves.csv")


def _paths(output: files.Path) -> list[files.Path]:
    """The page, and the tables beside it."""
    return [output.with_name(output.stem + end) for end in _ENDS]


def _check_ours(contents: Mapping[files.Path, str]) -> None:
    """Refuse to replace what no report has written: a page begins as those of reports do, a table as the new one."""
    for path, text in contents.items():
        if path.is_file():
            there, end = files.content(path), path.suffix
            if not (templates.is_report(there) if end == ".html" else _head(there, end) == _head(text.encode(), end)):
                raise ArgumentError(
                    "output",
                    f"is for {path}, too, which is there, and it is not known that a report has written it: give "
                    "another name, or move it away",
                )


def _head(table: bytes, end: str) -> list[bytes]:
    """The words with which the tables of all reports begin, up to the names of their columns."""
    lines = table.removeprefix(sheets.MARK).splitlines()  # reports of older versions do not have the mark
    return b"\n".join(lines[: _HEADS.get(end, 1)]).replace(_LATER, b"").split()
