"""Names that a spreadsheet would take for formulas reach CSV files as text."""

import csv
import doctest
import io

import pyarrow.csv
import pyarrow.parquet
import pytest

from sdclr_jax.api.report import report
from sdclr_jax.records import sheets

EVIL = ['=HYPERLINK("http://evil")', "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)"]


def test_the_example_is_true():
    found = doctest.testmod(sheets)
    assert found.attempted and not found.failed


@pytest.mark.parametrize("text", [*EVIL, "\tx", "\r1", "\uff1d1", "-", "+ 1", "-1 "])
def test_formulas_become_text(text):
    assert sheets.cell(text) == f"'{text}"


@pytest.mark.parametrize("end", [";", "\t", "\n", "\r\n", ';"', ";;"])
def test_formulas_behind_what_may_end_a_cell_become_text(end):
    assert sheets.cell(f"x{end}=1+1;-y;-1;z") == f"x{end}'=1+1;'-y;-1;z"
    assert sheets.cell(f"{end}=1").endswith(f"{end}'=1")


@pytest.mark.parametrize("value", ["cat", "a=b", "-1", "+0.5", "-1e-3", "", "a;b\tc\n", "1;-2", -1, 0.5, None, "'=1"])
def test_the_rest_stays_as_it_is(value):
    assert sheets.cell(value) == value


def _cells(text):
    return [cell for row in csv.reader(io.StringIO(text)) for cell in row]


def test_no_file_of_a_report_holds_a_formula(make_run, tmp_path):
    def named(results):
        results["data"]["class_names"] = EVIL
        results["protocols"]["=knn"] = results["protocols"].pop("knn")

    found = report(
        [make_run(name, edit=named, seed=seed) for seed, name in enumerate(("=a", "-b"))], tmp_path / "r.html"
    )
    contents = {path.name: path.read_bytes() for path in found.paths if path.suffix == ".csv"}
    assert len(contents) == 4 and all(content.startswith(sheets.MARK) for content in contents.values())
    texts = {name: content.decode("utf-8-sig") for name, content in contents.items()}
    cells = [cell for text in texts.values() for cell in _cells(text)]
    assert {f"'{name}" for name in EVIL} <= set(cells)
    assert not [cell for cell in cells if cell != sheets.cell(cell)]


def test_names_of_all_languages_are_read_by_spreadsheets_and_by_programs():
    """Excel takes a file without a mark for Windows-1252."""
    table = pyarrow.table({"id": ["Köln.jpg", "東京.png"], "place": [1, 2]})
    content = sheets.content(table)
    assert content.startswith(b'\xef\xbb\xbf"id","place"\n"K\xc3\xb6ln.jpg",1\n')
    assert pyarrow.csv.read_csv(io.BytesIO(content)).equals(table)
    assert [row["id"] for row in csv.DictReader(io.StringIO(content.decode("utf-8-sig")))] == ["Köln.jpg", "東京.png"]


def test_what_is_written_for_people_holds_none_and_for_programs_all_as_it_is(tmp_path):
    table = pyarrow.table({"rank": [1, 2, 3, 4], "id": EVIL, "score": [-1.0, 0.5, -0.5, 0.0]})
    sheets.write(tmp_path / "exemplars", table)
    rows = list(csv.DictReader(io.StringIO((tmp_path / "exemplars.csv").read_text("utf-8-sig"))))
    assert [row["id"] for row in rows] == [f"'{name}" for name in EVIL]
    assert [float(row["score"]) for row in rows] == [-1.0, 0.5, -0.5, 0.0]
    assert pyarrow.parquet.read_table(tmp_path / "exemplars.parquet")["id"].to_pylist() == EVIL
