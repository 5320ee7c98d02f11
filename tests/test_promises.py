"""Each promise of docs/faults.md names a test that exists."""

import ast
import pathlib
import re

ROOT = pathlib.Path(__file__).parents[1]


def test_each_promise_names_a_test_that_exists():
    page = (ROOT / "docs" / "faults.md").read_text()
    table = page.partition("## Promises")[2].partition("\n## ")[0]
    rows = [row.strip("|").split(" | ") for row in table.splitlines() if row.startswith("| ")][1:]
    assert len(rows) > 15
    for fault, promise, test in rows:
        path, name = re.fullmatch(r"`(tests/[\w/]+\.py)::(test_\w+)`", test.strip()).groups()
        functions = {
            node.name for node in ast.parse((ROOT / path).read_text()).body if isinstance(node, ast.FunctionDef)
        }
        assert name in functions, (fault, promise)
