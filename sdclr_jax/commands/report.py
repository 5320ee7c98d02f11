"""`sdclr report`: compare runs in the terminal and on a page."""

import argparse
import os
from pathlib import Path

from sdclr_jax.errors import UserError
from sdclr_jax.report import curves, page, runs, tables, words


def main(argv: list[str]) -> None:
    """Read the run folders named in `argv`, print their comparison, and write it as HTML, Markdown, LaTeX and CSV."""
    parser = argparse.ArgumentParser(prog="sdclr report", description="Compare evaluated runs on one page.")
    parser.add_argument("dirs", nargs="+", metavar="DIR", help="a run folder, or a folder of run folders")
    parser.add_argument(
        "--output", default="report.html", metavar="FILE.html", help="the page, with .csv, .md and .tex beside it"
    )
    parser.add_argument("--note", default="", metavar="TEXT", help="a note to the reader, shown on the page")
    options = parser.parse_args(argv)
    output = Path(options.output)
    if output.suffix != ".html":
        raise UserError(f"--output={output} must end in .html: the tables go beside it as .csv, .md and .tex")

    found = runs.read(options.dirs)
    levels, differences = tables.compare(found), tables.differences(found)
    files = {
        output: page.render(found, options.note, output.parent),
        output.with_suffix(".md"): "\n".join([tables.to_markdown(levels), tables.to_markdown(differences, sign=True)]),
        output.with_suffix(".tex"): "\n".join([tables.to_latex(levels), tables.to_latex(differences, sign=True)]),
        output.with_suffix(".csv"): tables.to_csv(found),
        output.with_name(f"{output.stem}_means.csv"): tables.means_to_csv(levels, differences),
        output.with_name(f"{output.stem}_classes.csv"): tables.classes_to_csv(found),
        output.with_name(f"{output.stem}_curves.csv"): curves.to_csv(found),
    }
    _write(files)
    print(tables.to_text(levels), end="\n\n")
    if differences:
        print(tables.to_text(differences, sign=True), end="\n\n")
    print(*words.summary(found), *(f"Note: {note}" for note in words.notes(found)), sep="\n")
    print("Wrote", ", ".join(map(str, files)))


def _write(files: dict[Path, str]) -> None:
    """All files or none: each is complete before any takes its place."""
    parts = {path: path.with_name(f".{path.name}.{os.getpid()}.part") for path in files}
    try:
        for path, part in parts.items():
            if path.is_dir():
                raise UserError(f"{path} is a folder: give --output another name")
            part.write_text(files[path], encoding="utf-8", newline="\n")
        for path, part in parts.items():
            os.replace(part, path)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}): give another --output") from error
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)
