"""`sdclr report`: compare runs in the terminal and on a page."""

from sdclr_jax import errors
from sdclr_jax.api import report
from sdclr_jax.commands.parser import Parser


def main(argv: list[str]) -> None:
    """Read the run folders named in `argv`, print their comparison, and write it as HTML, Markdown, LaTeX and CSV."""
    parser = Parser(prog="sdclr report", description="Compare evaluated runs on one page.")
    parser.add_argument("dirs", nargs="+", metavar="DIR", help="a run folder, or a folder of run folders")
    parser.add_argument(
        "--output",
        default="report.html",
        metavar="FILE.html",
        help="the page, with .csv, .md and .tex beside it; default %(default)s",
    )
    parser.add_argument("--note", default="", metavar="TEXT", help="a note to the reader, shown on the page")
    options = parser.parse_args(argv)
    with errors.renamed({"output": "--output"}):
        found = report.report(options.dirs, options.output, note=options.note)
    print(found.text)
    print("Wrote", ", ".join(map(str, found.paths)))
