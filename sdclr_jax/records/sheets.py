"""CSV files that a spreadsheet shows as they are: what would be a formula there stays text.

A name that begins with `=`, `+`, `-` or `@` may be a command to the program that opens the file, and names come from
images of other people. A spreadsheet may also begin a cell at a separator within a text: Excel does at a semicolon
where numbers are written with a decimal comma. https://owasp.org/www-community/attacks/CSV_Injection
"""

import csv
import io
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TextIO

from sdclr_jax import files

if TYPE_CHECKING:
    import pyarrow

MARK = b"\xef\xbb\xbf"  # of UTF-8: without it Excel shows `Köln.jpg` as `KÃ¶ln.jpg`
_SIGNS = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")  # the last four are full-width
_BLANKS = ("\t", "\r")  # that a spreadsheet may pass over at the start of a text
_ENDS = re.compile(r'([;\t\r\n]"*)')  # where a cell may end within a text, and the quotes that may begin the next one


def cell(value: Any) -> Any:
    """The value, or text with a ' before whatever a spreadsheet would take for a formula; -1 is none.

    >>> cell("=1+1"), cell("-cat"), cell("-1"), cell(-1.0), cell("cat"), cell("cat;=1+1;-1")
    ("'=1+1", "'-cat", '-1', -1.0, 'cat', "cat;'=1+1;-1")
    """
    if not isinstance(value, str):
        return value
    parts = [f"'{part}" if part.startswith(_SIGNS) and not _is_number(part) else part for part in _ENDS.split(value)]
    return "'" * value.startswith(_BLANKS) + "".join(parts)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return text.isascii() and text.strip() == text


def table(table: "pyarrow.Table") -> "pyarrow.Table":
    """The table, whose text no spreadsheet takes for a formula.

    >>> import pyarrow
    >>> table(pyarrow.table({"id": ["=1+1", "-1"]}))["id"].to_pylist()
    ["'=1+1", '-1']
    """
    import pyarrow  # which those who write no tables need not wait for

    for place, field in enumerate(table.schema):
        if pyarrow.types.is_string(field.type):
            texts = [cell(text) for text in table.column(place).to_pylist()]
            table = table.set_column(place, field, pyarrow.array(texts, field.type))
    return table


def marked(text: str) -> bytes:
    """The text of a CSV file for people, with the mark of UTF-8 at its start. pandas and pyarrow pass over the mark;
    Python's `csv` does where the file is opened with encoding="utf-8-sig"."""
    return MARK + text.encode(errors="backslashreplace")


def content(rows: "pyarrow.Table") -> bytes:
    """The table as a CSV file for people: no formulas, and `marked`.

    >>> import pyarrow
    >>> content(pyarrow.table({"place": [1, 2]}))
    b'\\xef\\xbb\\xbf"place"\\n1\\n2\\n'
    """
    import pyarrow.csv

    file = io.BytesIO()
    pyarrow.csv.write_csv(table(rows), file)
    return MARK + file.getvalue()


def parquet(rows: "pyarrow.Table") -> bytes:
    """The table as a Parquet file, each text as it is."""
    import pyarrow.parquet

    file = io.BytesIO()
    pyarrow.parquet.write_table(rows, file)
    return file.getvalue()


def write(path: files.Path, rows: "pyarrow.Table") -> None:
    """The table as PATH.parquet and as PATH.csv for people, each whole or not at all."""
    for ending, made in ((".parquet", parquet), (".csv", content)):
        files.write(path.with_name(path.name + ending), made(rows))


class Writer:
    """A CSV writer whose cells are no formulas."""

    def __init__(self, file: TextIO):
        self._writer = csv.writer(file, lineterminator="\n")

    def writerow(self, row: Iterable[Any]) -> None:
        self._writer.writerow([cell(value) for value in row])
