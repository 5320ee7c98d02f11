"""`sdclr report`: compare runs in the terminal and on a page."""

import argparse
import contextlib
from pathlib import Path

from sdclr_jax import files
from sdclr_jax.errors import UserError
from sdclr_jax.reports import curves, page, runs, tables, words


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
    contents = {
        output: page.render(found, options.note, output.parent),
        output.with_suffix(".md"): "\n".join([tables.to_markdown(levels), tables.to_markdown(differences, sign=True)]),
        output.with_suffix(".tex"): "\n".join([tables.to_latex(levels), tables.to_latex(differences, sign=True)]),
        output.with_suffix(".csv"): tables.to_csv(found),
        output.with_name(f"{output.stem}_means.csv"): tables.means_to_csv(levels, differences),
        output.with_name(f"{output.stem}_classes.csv"): tables.classes_to_csv(found),
        output.with_name(f"{output.stem}_curves.csv"): curves.to_csv(found),
    }
    with contextlib.ExitStack() as stack:  # each is complete before any takes its place
        for path, text in contents.items():
            stack.enter_context(files.replacing(path)).write_bytes(text.encode())
    print(tables.to_text(levels), end="\n\n")
    if differences:
        print(tables.to_text(differences, sign=True), end="\n\n")
    print(*words.summary(found), *(f"Note: {note}" for note in words.notes(found)), sep="\n")
    print("Wrote", ", ".join(map(str, contents)))
