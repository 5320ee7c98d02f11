"""CSV files that a spreadsheet shows as they are: what would be a formula there stays text.

A name that begins with `=`, `+`, `-` or `@` may be a command to the program that opens the file, and names come from
images of other people. https://owasp.org/www-community/attacks/CSV_Injection
"""

import csv
import io
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    import pyarrow

MARK = b"\xef\xbb\xbf"  # of UTF-8: without it Excel shows `Köln.jpg` as `KÃ¶ln.jpg`
_STARTS = ("=", "+", "-", "@", "\t", "\r", "\uff1d", "\uff0b", "\uff0d", "\uff20")  # the last four are full-width


def cell(value: Any) -> Any:
    """The value, or text with a ' before it where a spreadsheet would take that for a formula; -1 is none.

    >>> cell("=1+1"), cell("-cat"), cell("-1"), cell(-1.0), cell("cat")
    ("'=1+1", "'-cat", '-1', -1.0, 'cat')
    """
    return f"'{value}" if isinstance(value, str) and value.startswith(_STARTS) and not _is_number(value) else value


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


def content(rows: "pyarrow.Table") -> bytes:
    """The table as a CSV file for people: no formulas, and the mark of UTF-8 at its start. pandas and pyarrow pass over
    the mark; Python's `csv` does where the file is opened with encoding="utf-8-sig".

    >>> import pyarrow
    >>> content(pyarrow.table({"place": [1, 2]}))
    b'\\xef\\xbb\\xbf"place"\\n1\\n2\\n'
    """
    import pyarrow.csv

    file = io.BytesIO()
    pyarrow.csv.write_csv(table(rows), file)
    return MARK + file.getvalue()


class Writer:
    """A CSV writer whose cells are no formulas."""

    def __init__(self, file: TextIO):
        self._writer = csv.writer(file, lineterminator="\n")

    def writerow(self, row: Iterable[Any]) -> None:
        self._writer.writerow([cell(value) for value in row])
