"""A wheel, installed where there is no clone."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from tests.runs import TINY

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder into which the package's wheel is installed."""
    source, site = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site")
    for name in ("setup.cfg", "setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("sdclr_jax", "configs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index", "--no-deps"]
    subprocess.run([*pip, "--no-build-isolation", f"--target={site}", source], check=True)
    return site


def test_a_wheel_holds_every_file_and_no_top_level_configs(site):
    for folder, there in ((ROOT / "sdclr_jax", site / "sdclr_jax"), (ROOT / "configs", site / "sdclr_jax" / "configs")):
        files = {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}
        files = {path for path in files if path.suffix != ".pyc"}
        assert {path for path in files if not (there / path).is_file()} == set()
    assert not (site / "configs").exists()


def test_it_trains_in_an_empty_folder_beside_a_foreign_package_named_configs(site, tmp_path):
    (tmp_path / "foreign" / "configs").mkdir(parents=True)
    (tmp_path / "foreign" / "configs" / "__init__.py").write_text("raise RuntimeError('the foreign package')")
    (tmp_path / "empty").mkdir()
    path = os.pathsep.join(map(str, (tmp_path / "foreign", site)))
    command = [site / "bin" / "sdclr", "pretrain", "--config=digits_lt:sdclr", "--workdir=run", "--data_dir=data"]
    more = [*TINY, "--config.epochs=1", "--config.optimizer.warmup_epochs=0"]
    environment = os.environ | {"PYTHONPATH": path, "JAX_NUM_CPU_DEVICES": "1"}
    subprocess.run([*command, *more, "--noprogress"], check=True, cwd=tmp_path / "empty", env=environment)
    run = tmp_path / "empty" / "run"
    assert json.loads((run / "config.json").read_text())["method"] == "sdclr"
    assert json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["step"] == 5
    assert json.loads((run / "versions.json").read_text())["commit"] == "unknown"  # not that of the clone
