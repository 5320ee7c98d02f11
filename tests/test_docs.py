"""What the README and the pages of docs/ say: their commands and their Python run, their files and fields exist.

A page is read from top to bottom, and all pages share one folder:

- a block ```sh holds commands, which must succeed; fields of `TINY` make each training run one of seconds;
- a block ```console holds a command after `$` and what it says, `…` for what varies;
- a block ```python runs, with the names that earlier blocks of its page have made;
- with a title, such as ```python title="mine.py", a block is written to that file;
- a block of another language is only shown.

`NOT_RUN` names what needs a network, data, hardware or hours.
"""

import ast
import csv
import doctest
import importlib
import inspect
import json
import os
import pathlib
import pkgutil
import re
import shlex
import shutil
import sys
from collections.abc import Callable
from fnmatch import fnmatch
from functools import partial
from typing import NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pytest

import sdclr_jax
from configs.methods import METHODS
from sdclr_jax import parallel, recipes
from sdclr_jax.commands import flags, main
from sdclr_jax.data.sources import DATASETS
from sdclr_jax.data.subsets import lists
from sdclr_jax.evaluation.protocols import PROTOCOLS
from sdclr_jax.models import ENCODERS
from tests.photos import jpeg, photo

ROOT = pathlib.Path(__file__).parents[1]
PAGES = {path.relative_to(ROOT).as_posix(): path.read_text() for path in (ROOT / "README.md", *ROOT.glob("docs/*.md"))}

# A command, or a line of a block of Python -> what it needs. With * at the end it stands for all that begin so.
NOT_RUN = {
    "make *": "make itself; below, its targets are looked up",
    "pip install *": "a network",
    ". .venv/bin/*": "the virtual environment of a clone",
    "sdclr prepare cifar10*": "the published archive",
    "sdclr prepare imagenet100 *": "ImageNet",
    "sdclr pretrain --config=cifar10_lt:*": "CIFAR-10 as `sdclr prepare` leaves it",
    "sdclr pretrain --config=imagenet100_lt:*": "ImageNet",
    "sdclr evaluate runs/cifar10": "a run on CIFAR-10",
    "sdclr import moco*": "weights that others trained",
    "sdclr evaluate runs/moco": "the same, and ImageNet",
    "srun *": "a cluster",
    "sbatch *": "a cluster; tests/test_launch.py plays it",
    "python experiments/*": "hours; tests/test_tables.py plans, runs and collects a small table",
    "export *": "a shell",
    "sdclr pretrain * --profile=4": "the time of a profiler; tests/run/test_profile.py has what it says",
    "sdclr pretrain * --check-determinism=5": "steps twice; tests/commands/test_pretrain.py takes them",
    "gcloud *": "an account",
    "python experiments/benchmark.py *": "PyTorch, and minutes",
    "sdclr *gs://bucket/*": "a bucket; tests/commands/test_bucket.py runs these with an emulator",
}

TINY = {
    "epochs": 2,
    "batch_size": 64,
    "log_every": 2,
    "checkpoint_every": 1,
    "collapse_every": 0,
    "model.name": "resnet8",
    "model.width": 2,
    "projector.layers": 2,
    "projector.hidden": 8,
    "projector.out": 4,
    "optimizer.warmup_epochs": 0,
    "evaluate.full_epochs": 2,
    "evaluate.full_drops": (1,),
    "evaluate.few_shot_epochs": 2,
    "evaluate.few_shot_drops": (1,),
    "evaluate.map_images": 40,
    "evaluate.fine_tune_epochs": (1, 1),
}
TINY_PHOTOS = {
    "batch_size": 8,
    "model.stem": "cifar",
    "views.size": 16,
    "evaluate.knn_k": 3,
    "data.workers": 0,
}
# Of `sdclr photos`, which chooses the rest itself.
TINY_LISTS = {name: value for name, value in TINY.items() if not name.startswith("evaluate.")} | {"batch_size": 8}


class Block(NamedTuple):
    language: str
    title: str
    text: str


def blocks(page: str) -> list[Block]:
    fences = re.findall(r'^( *)```(\w*)(?: title="([^"]+)")?\n(.*?)^\1```$', PAGES[page], re.DOTALL | re.MULTILINE)
    return [
        Block(kind, title, re.sub(f"^{indent}", "", text, flags=re.MULTILINE)) for indent, kind, title, text in fences
    ]


def commands(block: Block) -> list[str]:
    """One a line, without comments; a line that ends in a backslash goes on in the next."""
    lines = block.text.replace("\\\n", " ").splitlines()
    return [shlex.join(words) for line in lines if (words := shlex.split(line, comments=True))]


def outputs(block: Block) -> list[tuple[str, str]]:
    """(command, what it says) of a console."""
    return re.findall(r"^\$ (.+)\n((?:(?!\$ ).*\n)*)", block.text, re.MULTILINE)


def not_run(text: str) -> bool:
    return any(fnmatch(text, pattern) for pattern in NOT_RUN)


def tiny(argv: list[str]) -> list[str]:
    """A command line of a small run: what the page gives comes later, and so it wins."""
    if argv[0] == "exemplars":
        return [argv[0], "--views=1", *argv[1:]]
    if argv[0] == "photos":
        return [argv[0], *(f"--config.{name}={value}" for name, value in TINY_LISTS.items()), "--noprogress", *argv[1:]]
    if argv[0] != "pretrain":
        return argv
    config = next(arg.removeprefix("--config=") for arg in argv if arg.startswith("--config="))
    fields = TINY | (TINY_PHOTOS if config.startswith("folder") else {})
    return [argv[0], *(f"--config.{name}={value}" for name, value in fields.items()), "--noprogress", *argv[1:]]


def call(command: str) -> int:
    program, *argv = shlex.split(command)
    if program == "cp":
        shutil.copytree(argv[1], argv[2])  # cp -r FROM TO
        return 0
    assert program == "sdclr", command
    try:
        return main.main(tiny(argv))
    except SystemExit as end:  # --help, and what argparse refuses
        return end.code or 0


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder that all pages share: photos, and two runs that are finished and evaluated."""
    folder, before = tmp_path_factory.mktemp("reader"), pathlib.Path.cwd()
    for i in range(40):
        path = folder / "photos" / ("cats" if i % 2 else "dogs") / f"{i:02d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(photo(48, 40, seed=i)))
    real = parallel.shardings
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SDCLR_DATA", str(folder / "data"))
        # Eight pretended devices on two cores are slow.
        patch.setattr(parallel, "shardings", lambda devices=None: real(devices or jax.devices()[:1]))
        os.chdir(folder)
        for method in ("sdclr", "simclr"):
            every = 5 if method == "sdclr" else 0  # one of them has all numbers that a page tells of
            fields = f"--config.collapse_every={every}"
            assert call(f"sdclr pretrain --config=digits_lt:{method} --workdir=runs/{method} {fields}") == 0
        assert call("sdclr evaluate runs/sdclr runs/simclr") == 0
        config = sdclr_jax.config

        def small(name, fields=(), **more):
            recipes.check(config(name, dict(fields), **more))  # as a reader has it
            return config(name, TINY | dict(fields), **more | {"epochs": TINY["epochs"]})

        patch.setattr(sdclr_jax, "config", small, raising=False)
        patch.setattr(sdclr_jax, "photos", partial(sdclr_jax.photos, overrides=TINY_LISTS), raising=False)
        yield folder
        os.chdir(before)


@pytest.fixture
def rows():
    """A page may add rows to these tables, for itself."""
    with mock.patch.dict(DATASETS), mock.patch.dict(PROTOCOLS), mock.patch.dict(ENCODERS):
        yield


@pytest.mark.usefixtures("rows", "one_trace")
@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_tells_you_to_do_works(page, folder, capsys):
    names = {}
    for block in blocks(page):
        if block.text.startswith("--8<--"):  # a file of the repository, which the site shows here
            assert (ROOT / block.text.split('"')[1]).exists()
        elif block.title:
            (folder / block.title).write_text(block.text)
        elif block.language == "sh":
            for command in commands(block):
                if not not_run(command):
                    assert call(command) == 0, f"{command}\n{capsys.readouterr().err}"
        elif block.language == "console":
            for command, says in outputs(block):
                capsys.readouterr()
                if not not_run(command):
                    call(command)
                    said = capsys.readouterr()
                    wanted = "*".join(re.sub(r"([*?[])", r"[\1]", part) for part in says.strip().split("…"))
                    assert fnmatch((said.out + said.err).strip(), wanted), f"{command}\n{said.out}{said.err}"
        elif block.language == "python" and not any(map(not_run, block.text.splitlines())):
            exec(compile(block.text, page, "exec"), names)


@pytest.mark.parametrize("name", sorted(name for name in sdclr_jax.__all__ if name.islower()))
def test_the_examples_of_the_door_are_true(name, folder):
    names = {"sdclr_jax": sdclr_jax, "np": np}
    found = doctest.testmod(importlib.import_module(f"sdclr_jax.api.{name}"), extraglobs=names)
    assert found.attempted >= 2 and not found.failed


def documented() -> list[Callable]:
    """The public functions, beside those of the door, that the page of the Python API shows."""
    found = []
    for name in re.findall(r"^::: (\S+)$", PAGES["docs/python.md"], re.MULTILINE):
        shown = pkgutil.resolve_name(name)
        members = vars(shown).values() if inspect.ismodule(shown) else [shown]
        found += [m for m in members if inspect.isfunction(m) and not m.__name__.startswith("_")]
        if inspect.ismodule(shown):
            found = [m for m in found if m not in members or m.__module__ == name]
    return [m for m in found if not m.__module__.startswith("sdclr_jax.api.")]


@pytest.mark.parametrize("function", documented(), ids=lambda f: f.__name__)
def test_a_documented_function_has_an_example_that_is_true(function):
    names = vars(sys.modules[function.__module__]) | {"jax": jax, "jnp": jnp, "np": np}
    (test,) = doctest.DocTestFinder(recurse=False).find(inspect.unwrap(function), globs=names)
    ran = doctest.DocTestRunner().run(test)
    assert ran.attempted and not ran.failed


@pytest.mark.usefixtures("one_trace")
def test_the_notebook_runs_from_top_to_bottom(folder, monkeypatch, capsys):
    """Small, and without your own photos, which docs/photos.md looks at."""
    shown, names = [], {}
    monkeypatch.setattr(plt, "show", lambda: shown.append([len(axes.patches) for axes in plt.gcf().axes]))
    for cell in json.loads((ROOT / "experiments" / "colab.ipynb").read_text())["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), "colab.ipynb", "exec"), names)
    plt.close("all")
    assert shown[1] == [6, 6]  # bars: many, medium and few of two methods, of two protocols
    assert [len(axes) for axes in shown] == [1, 2, 24, 18]
    assert names["features"].shape == (100, names["run"].encoder.features)
    np.testing.assert_array_equal(names["nearest"][:, 0], np.arange(100))
    said = capsys.readouterr().out
    assert "There is no accelerator" in said or "JAX sees a CPU only" in said
    assert "Write the path of your photos" in said


def test_blocks_have_a_language_that_is_known_and_what_is_not_run_is_there():
    everything = [block for page in PAGES for block in blocks(page)]
    assert {block.language for block in everything} <= {"sh", "console", "python", "text", "json"}
    assert sum(text.count("```") for text in PAGES.values()) == 2 * len(everything)
    told = [command for block in everything if block.language == "sh" for command in commands(block)]
    told += [command for block in everything for command, _ in outputs(block)]
    told += [line for block in everything if block.language == "python" for line in block.text.splitlines()]
    for pattern in NOT_RUN:
        assert any(fnmatch(text, pattern) for text in told), f"no page says {pattern}"


def prose(page: str) -> str:
    return re.sub(r"^( *)```.*?^\1```$", "", PAGES[page], flags=re.DOTALL | re.MULTILINE)


def anchors(page: str) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", PAGES[page], re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / page).parent / path if path else ROOT / page
        assert file.exists(), target
        if anchor:
            assert anchor in anchors(file.resolve().relative_to(ROOT).as_posix()), target


@pytest.mark.parametrize("page", PAGES)
def test_files_and_make_targets_that_are_named_exist(page):
    for name in re.findall(r"`((?:sdclr_jax|configs|experiments|tests|docs)/[\w./-]*)`", PAGES[page]):
        assert (ROOT / name).exists(), name
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)|`make (\w+)`", PAGES[page], re.MULTILINE):
        assert f"\n{''.join(target)}:" in makefile, target


def test_the_site_has_every_page():
    listed = re.findall(r"(\w[\w-]*\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert sorted(f"docs/{name}" for name in listed) == sorted(PAGES.keys() - {"README.md"})


def test_the_list_of_rooms_is_that_of_the_package():
    listing = PAGES["docs/design.md"].split("## Rooms and floors")[1].split("```")[1]
    written = {name.rstrip("/") for name in re.findall(r"^  (\S+)", listing, re.MULTILINE)}
    files = {p.name for p in (ROOT / "sdclr_jax").iterdir() if not p.name.startswith(("_", "."))}
    assert written == files - {"py.typed"}  # which says to type checkers that there are types


def test_the_readme_stays_short():
    assert len(PAGES["README.md"].encode()) <= 10 * 1024


def test_what_to_cite_has_the_version_of_the_package():
    assert f"\nversion: {sdclr_jax.__version__}\n" in (ROOT / "CITATION.cff").read_text()


@pytest.mark.parametrize("name", recipes.NAMES)
def test_the_commands_of_a_config_are_accepted(name, tmp_path):
    """With the authors' lists, where it names them: one split of five is read."""
    told = ast.get_docstring(ast.parse((ROOT / "configs" / f"{name}.py").read_text()))
    told = [shlex.split(line, comments=True)[1:] for line in told.splitlines() if line.startswith("sdclr ")]
    told = {command: argv for command, *argv in told}
    config = flags.pretrain(told["pretrain"], "").config
    recipes.check(config)
    flags.evaluate(told["evaluate"][1:], config)
    if config.data.name in lists.DATASETS and config.data.lists:
        prefix = "" if config.data.name == "cifar10" else f"{config.data.name}_"
        for split in range(1, 6):
            for pattern in lists.NAMES.values():
                (tmp_path / f"{prefix}{pattern.format(split)}.npy").touch()
        found = lists.find(tmp_path, config.data.name, config.data.split)
        assert found["long_tail"].name == f"{prefix}split1_D_i.npy"


WORDS = r"\b(afresh|anew|whoever|lest|besides|told apart|goes on where)\b"


@pytest.mark.parametrize("page", PAGES)
def test_the_english_is_plain(page):
    assert not re.findall(WORDS, PAGES[page], re.IGNORECASE)
    assert not re.findall(r"(?<=[.:] )Of |^Of ", PAGES[page], re.MULTILINE)


def test_the_english_of_the_package_is_plain():
    places = [p for p in (*(ROOT / "sdclr_jax").rglob("*"), *(ROOT / "configs").glob("*.py")) if p.is_file()]
    texts = {place: place.read_text() for place in places if place.suffix in (".py", ".jinja", ".js", ".css")}
    assert len(texts) > 100
    assert not [place for place, text in texts.items() if re.search(WORDS, text, re.IGNORECASE)]


def names(page: str, heading: str) -> set[str]:
    """What stands in backticks in the first column of the table below a heading."""
    below = re.split(rf"^#+ {heading}$", PAGES[page], flags=re.MULTILINE)[1]
    rows = re.search(r"(^\|.*\n)+", below, re.MULTILINE)[0].splitlines()[2:]
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row.split("|")[1])}


# Files and fields that a small run without faults does not write.
SELDOM = {"changes.jsonl", "damaged_checkpoints/", "warnings.jsonl", "unreadable_images", "prototype_usage/BRANCH"}
SELDOM |= {"export/", "profile/", "wandb/"}


def test_only_a_run_with_a_sparse_branch_has_densities(folder):
    for method, expected in (("sdclr", True), ("simclr", False)):
        first = json.loads((folder / "runs" / method / "metrics.jsonl").read_text().splitlines()[0])
        assert any(name.startswith("density/") for name in first) is expected


def test_a_runs_folder_holds_what_its_page_says(folder):
    assert call("sdclr exemplars runs/sdclr --rates=0.5,0.9 --views=1 --gallery=20 --neighbours=2 --noprogress") == 0
    run = folder / "runs" / "sdclr"
    written = {path.name + "/" * path.is_dir() for path in run.iterdir()}
    assert names("docs/run-folder.md", "Files") - SELDOM == written - SELDOM

    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    watched = folder / "runs" / "watched"  # as docs/protocols.md has it
    command = f"sdclr pretrain --config=digits_lt:sdclr --config.evaluate.every=1 --workdir={watched}"
    assert call(command) == 0
    lines += [json.loads(line) for line in (watched / "metrics.jsonl").read_text().splitlines()]
    fields = {re.sub("/(dense|sparse)$", "/BRANCH", name) for line in lines for name in line}
    fields = {re.sub("^density/encoder.*", "density/LAYER", name) for name in fields}
    fields = {re.sub("^(knn|probe)/.*", r"\1/GROUP", name) for name in fields}
    assert names("docs/run-folder.md", "metrics.jsonl") - SELDOM == fields - SELDOM

    results = json.loads((run / "results.json").read_text())
    assert names("docs/run-folder.md", "results.json") == results.keys()
    assert names("docs/run-folder.md", "results: data") == results["data"].keys()
    of_protocol = names("docs/run-folder.md", "results: of a protocol") - {"validation_average_precision"}
    assert of_protocol == results["protocols"]["knn"].keys()

    with (run / "exemplars" / "exemplars.csv").open(newline="", encoding="utf-8-sig") as file:
        columns = {re.sub(r"_[\d.]+$", "_RATE", name) for name in next(csv.reader(file))}
    assert names("docs/run-folder.md", "exemplars.csv") == columns


def test_the_tables_of_methods_protocols_and_statuses_are_those_of_the_code():
    assert names("docs/methods.md", "Methods") <= METHODS.keys()
    below = re.findall(r"^\| `(\w+)` \| `(\w+)` \|", PAGES["docs/methods.md"], re.MULTILINE)
    assert {name for pair in below for name in pair} == METHODS.keys()
    assert names("docs/protocols.md", "Protocols") == PROTOCOLS.keys()
    configs = {path.stem for path in (ROOT / "configs").glob("*.py")} - {"__init__", "base", "methods", "photos"}
    assert names("docs/configs.md", "Choose one") == configs
    named = names("docs/datasets.md", "ImageNet, Places, iNaturalist, CelebA")
    assert named == DATASETS.keys() - {"digits", "cifar10", "cifar100"}


def test_messages_of_faults_are_those_of_the_code():
    code = " ".join(path.read_text() for path in (ROOT / "sdclr_jax").rglob("*.py"))
    code = re.sub(r'"\s*f?"', "", code)
    for row in re.findall(r"^\| (`.*?) \|", PAGES["docs/faults.md"], re.MULTILINE):
        for message in re.findall(r"`([^`]+)`", row):
            assert re.sub("^the loss is nan", "} is {scalars[name]}", message) in code, message
