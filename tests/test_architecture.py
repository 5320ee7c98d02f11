"""A file imports only from lower floors, and the layout is the one that the README shows."""

import ast
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1] / "sdclr_jax"
FLOORS = {
    "": 0,
    "errors": 0,
    "compiler": 0,
    "numerics": 0,
    "output": 0,
    "signals": 0,
    "trees": 0,
    "parallel": 0.25,
    "progress": 0.25,
    "joining": 0.4,
    "stops": 0.4,
    "processes": 0.5,
    "buckets": 0.4,
    "files": 0.5,
    "records": 0.6,
    "run": 0.75,
    "models": 0.5,
    "objectives": 1,
    "data": 1,
    "pruning": 1,
    "optim": 1,
    "reports": 1,
    "branches": 2,
    "train": 3,
    "evaluation": 3,
    "interop": 3,
    "recipes": 4,
    "api": 5,
    "commands": 6,
}
FILES = sorted(ROOT.rglob("*.py"))


def room(module: str) -> str:
    """sdclr_jax.data.augment -> data"""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def imported(path: pathlib.Path) -> set[str]:
    """Rooms of the package that a file imports."""
    modules = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            # `from sdclr_jax import trees` and `from sdclr_jax.data import augment` both name a module
            modules |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {room(m) for m in modules if m.split(".")[0] == "sdclr_jax"}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_imports_only_from_lower_floors(path):
    own = path.relative_to(ROOT).with_suffix("").parts[0]
    own = "" if own == "__init__" else own
    if path == ROOT / "__init__.py":
        return  # the door stands above all rooms; `test_the_door_imports_nothing` holds it
    for other in imported(path) - {own}:
        name = other if other in FLOORS else ""
        assert FLOORS[name] < FLOORS[own] or name == "", f"{path} on floor {FLOORS[own]} imports {other}"


def test_the_door_imports_nothing():
    """Only for type checkers, and each function when it is first used."""
    code = (
        "import sys, sdclr_jax; print([m for m in sys.modules if m.split('.')[0] in ('jax', 'flax', 'numpy', 'absl')])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert found.stdout == "[]\n"
    code = "import sdclr_jax; print([name for name in sdclr_jax.__all__ if not callable(getattr(sdclr_jax, name))])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert found.stdout == "[]\n"


def test_training_and_evaluation_do_not_know_each_other():
    evaluation = list((ROOT / "evaluation").glob("*.py"))
    assert evaluation and not [path for path in evaluation if "train" in imported(path)]
    assert "evaluation" not in imported(ROOT / "train.py")


def test_evaluation_takes_objects_and_no_config():
    paths = sorted((ROOT / "evaluation").glob("*.py"))
    assert paths
    for path in paths:
        text = path.read_text()
        assert "ml_collections" not in text and "ConfigDict" not in text, path
        assert not re.search(r"\b(evaluate|data)\.(knn|full|few|logistic|sgd|name|validation)\w*", text), path


def test_orbax_stands_in_one_file():
    assert [p.name for p in FILES if "orbax" in p.read_text() and "import orbax" in p.read_text()] == ["checkpoints.py"]


def test_report_reads_only_files():
    reports = list((ROOT / "reports").glob("*.py"))
    assert reports
    for path in reports:
        assert "import jax" not in path.read_text()
        assert imported(path) <= {"errors", "files", "records", "reports"}
