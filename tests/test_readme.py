"""What the README says: its Python runs, its files and commands exist."""

import pathlib
import re

import jax

from sdclr_jax.models import Outputs

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_python_runs(capsys):
    use, own_objective = [b for b in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "import" in b]
    exec(use, {})
    assert "all" in capsys.readouterr().out
    exec(own_objective, names := {})
    views = jax.random.normal(jax.random.key(0), (2, 4, 3))
    sides = [Outputs(features=z, projection=z, prediction=None, prototypes=None) for z in views]
    found = names["objective"](sharpness=10.0).loss(None, *sides, None)
    assert float(found) == float(names["mine"](*views, 10.0))


def test_links_lead_somewhere():
    headings = {f"#{heading.lower().replace(' ', '-')}" for heading in re.findall(r"^#+ (.+)$", README, re.MULTILINE)}
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert target.startswith("https://") or target in headings or (ROOT / target).exists(), target


def test_make_targets_and_folders_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", README, re.MULTILINE):
        assert f"\n{target}:" in makefile
    listing = README.split("## How it is built")[1].split("```")[1]
    for name in re.findall(r"^  (\S+)", listing, re.MULTILINE):
        assert (ROOT / "sdclr_jax" / name).exists(), name
    written = {name.rstrip("/") for name in re.findall(r"^  (\S+)", listing, re.MULTILINE)}
    there = {p.name for p in (ROOT / "sdclr_jax").iterdir() if not p.name.startswith(("_", "."))}
    assert there == written | {"errors.py"}
