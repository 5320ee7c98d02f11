"""The notebook for Colab: what is committed with it is what its cells show. tests/test_docs.py runs it whole."""

import ast
import importlib.util
import json
import os
import pathlib
import shutil
import subprocess
import sys
import types
import zipfile

import pytest

import sdclr_jax
from sdclr_jax import recipes

NOTEBOOK = pathlib.Path(__file__).parents[1] / "experiments" / "colab.ipynb"
CELLS = json.loads(NOTEBOOK.read_text())["cells"]


def code():
    return ["".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "code"]


def test_on_an_accelerator_it_trains_on_cifar(monkeypatch):
    """Which the whole run of tests/test_docs.py does not see: training and scores are left out, configs are checked."""
    commands, trained = [], []

    def pretrain(config, directory, progress):
        recipes.check(config)
        trained.append((config.method, config.data.name, config.epochs, directory))

    monkeypatch.setattr(subprocess, "run", lambda command, check: commands.append(command[-2:]))
    monkeypatch.setattr(sdclr_jax, "pretrain", pretrain, raising=False)
    scores = types.SimpleNamespace(protocols={"knn": types.SimpleNamespace(all=0.5, few=0.2)})
    monkeypatch.setattr(sdclr_jax, "evaluate", lambda run, protocols: scores, raising=False)
    (cell,) = (source for source in code() if "cifar10_lt" in source)
    names = {"has_accelerator": True, "sdclr_jax": sdclr_jax, "subprocess": subprocess, "sys": sys}
    exec(compile(cell, str(NOTEBOOK), "exec"), names)
    assert commands == [["prepare", "cifar10"]]
    assert trained == [(m, "cifar10", 100, f"runs/colab/cifar10_{m}") for m in ("simclr", "sdclr")]


@pytest.mark.parametrize(
    ("smi", "status", "package"),
    [
        (None, 0, "sdclr_jax"),
        ("/bin/nvidia-smi", 9, "sdclr_jax"),
        ("/bin/nvidia-smi", 0, "sdclr_jax[cuda12]"),
        (None, 0, "sdclr_jax[tpu]"),
    ],
)
def test_jax_is_installed_for_the_accelerator_that_is_there(monkeypatch, smi, status, package):
    commands = []
    monkeypatch.setattr(os, "environ", {"TPU_ACCELERATOR_TYPE": "v5litepod-1"} if "tpu" in package else {})

    def run(command, **_):
        commands.append(command)
        return types.SimpleNamespace(returncode=status)

    monkeypatch.setattr(os.path, "exists", lambda path: False)
    monkeypatch.setattr(shutil, "which", lambda name: smi)
    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    (cell,) = (source for source in code() if "REPOSITORY = " in source)
    exec(cell.replace('REPOSITORY = ""', 'REPOSITORY = "https://x/y"'), {})
    assert [command[-1] for command in commands] == [*([smi] if smi else []), f"{package} @ git+https://x/y"]
    extras = (NOTEBOOK.parents[1] / "setup.cfg").read_text()
    assert "\ncuda12 = jax[cuda12]\ntpu = jax[tpu]\n" in extras


@pytest.mark.parametrize(
    ("has_gpu", "has_tpu", "said"),
    [
        (True, False, "There is a GPU, and JAX sees a CPU only: run `pip install 'jax[cuda12]'`"),
        (False, True, "There is a TPU, and JAX sees a CPU only: run `pip install 'jax[tpu]'`"),
        (False, False, "There is no"),
    ],
)
def test_an_accelerator_that_jax_does_not_see_is_not_said_to_be_missing(capsys, has_gpu, has_tpu, said):
    (cell,) = (source for source in code() if "cifar10_lt" in source)
    exec(cell, {"has_accelerator": False, "has_gpu": has_gpu, "has_tpu": has_tpu})
    assert capsys.readouterr().out.startswith(said)


def test_photos_are_unpacked_and_what_was_made_is_kept(tmp_path, monkeypatch, capsys):
    """A browser uploads files, and no folder; and Colab deletes its disk."""
    monkeypatch.chdir(tmp_path)
    looked_at = []

    def photos(folder, out, **settings):
        looked_at.append(sorted(path.relative_to(folder).as_posix() for path in pathlib.Path(folder).rglob("*.jpg")))
        pathlib.Path(out).mkdir(parents=True, exist_ok=True)
        (pathlib.Path(out) / "index.html").write_text("lists")
        return types.SimpleNamespace(tables={}, page="index.html")

    monkeypatch.setattr(sdclr_jax, "photos", photos, raising=False)
    *_, looks, keeps = code()
    names = {"os": os, "shutil": shutil, "sys": sys, "sdclr_jax": sdclr_jax}
    of_macos = ["__MACOSX/my photos/._a.jpg", ".DS_Store"]
    for number, held in enumerate((["a.jpg"], ["cats/a.jpg", "dogs/a.jpg"])):
        for top in ("", "my photos/"):
            archive = tmp_path / f"{number}{bool(top)}.zip"
            with zipfile.ZipFile(archive, "w") as file:
                for name in [*(top + name for name in held), *of_macos]:
                    file.writestr(name, b"a photo")
            exec(looks.replace('PHOTOS = ""', f'PHOTOS = "{archive}"'), names)
            assert [name for name in looked_at.pop() if not name.startswith("__MACOSX")] == held
    exec(keeps, names)
    assert not (tmp_path / "colab_runs.zip").exists()
    assert capsys.readouterr().out.endswith("".join(CELLS[-1]["outputs"][0]["text"]))

    downloaded = []
    files = types.SimpleNamespace(download=downloaded.append)
    monkeypatch.setitem(sys.modules, "google.colab", types.SimpleNamespace(files=files))
    exec(keeps.replace("KEEP = False", "KEEP = True"), names)
    assert downloaded == [str(tmp_path / "colab_runs.zip")]
    with zipfile.ZipFile(downloaded[0]) as kept:
        assert kept.read("photos/index.html") == b"lists"


def test_its_outputs_are_those_of_a_whole_run_without_an_error():
    cells = [cell for cell in CELLS if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error" or output.get("name") == "stderr"]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 4
    assert NOTEBOOK.stat().st_size < 600_000
    assert "/tmp" not in NOTEBOOK.read_text() and "/home" not in NOTEBOOK.read_text()


def test_it_ends_with_your_own_photos_and_calls_only_what_there_is():
    assert "Your own photos" in "".join(CELLS[-4]["source"])
    used = {
        node.attr
        for source in code()
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "sdclr_jax"
    }
    assert used == {"config", "pretrain", "evaluate", "exemplars", "load", "photos"} <= set(sdclr_jax.__all__)
