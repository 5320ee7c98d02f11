"""`sdclr config`: the resolved recipe, and where each value comes from."""

import argparse
import json
import re
import runpy
import sys
import types

import numpy as np
import pytest

import sdclr_jax
from sdclr_jax import processes, recipes
from sdclr_jax.commands import config, evaluate, main, pretrain
from sdclr_jax.commands.parser import Parser
from sdclr_jax.evaluation.protocols import PROTOCOLS

LAYERED = """
from configs import methods

DATA_SET = {"epochs": 30, "batch_size": 8, "projector": {"hidden": 5}, "optimizer": {"weight_decay": 0.1}}
RECIPE = {"byol": {"batch_size": 16, "predictor": {"hidden": 9}, "optimizer": {"weight_decay": 0.2, "momentum": 0.5}}}


def get_config(method="byol"):
    c = methods.config(method, DATA_SET, RECIPE)
    c.seed = 7
    return c
"""


def printed(capsys, *argv):
    assert main.main(["config", *map(str, argv), "--json"]) == 0
    return {name: (field["value"], field["source"]) for name, field in json.loads(capsys.readouterr().out).items()}


def test_each_layer_overrides_those_before_it(tmp_path, capsys):
    """One field each that only base, the data set, the method, the recipe, the file and the command line set last."""
    (tmp_path / "mine.py").write_text(LAYERED)
    overrides = ("--config.optimizer.momentum=0.8", "--noconfig.optimizer.decay_vectors")
    fields = printed(capsys, tmp_path / "mine.py", *overrides)
    assert fields["prune.rate"] == (0.9, "base")
    assert fields["epochs"] == (30, "data set")
    assert fields["projector.hidden"] == (4096, "method")  # over the data set's 5
    assert fields["batch_size"] == (16, "recipe")
    assert fields["predictor.hidden"] == (9, "recipe")  # over the method's 4096
    assert fields["optimizer.weight_decay"] == (0.2, "recipe")  # over the data set's 0.1
    assert fields["seed"] == (7, "mine.py")
    assert fields["optimizer.momentum"] == (0.8, "command line")
    assert fields["optimizer.decay_vectors"] == (False, "command line")
    assert fields["objective.scale"] == (2.0, "method")
    follows = printed(capsys, "folder:sdclr", "--config.views.size=64")
    assert follows["views.size"] == (64, "command line") and follows["evaluate.crop"] == (64, "folder.py")


def test_the_last_value_counts(capsys):
    """Of a tuple too, and whatever way a switch is written: a script's own fields stand before those it is given."""
    jitter = [f"--config.views.jitter=({x},{x},{x},0.1)" for x in (0.1, 0.2)]
    switch = ["--config.prune.gradient=True", "--noconfig.prune.gradient", "--config.prune.gradient=True"]
    fields = printed(capsys, "cifar10_lt:sdclr", *jitter, *switch, "--config.epochs=20", "--config.epochs=30")
    assert fields["views.jitter"] == ([0.2, 0.2, 0.2, 0.1], "command line")
    assert fields["prune.gradient"][0] is True
    assert fields["epochs"][0] == 30


def test_a_line_a_field(capsys):
    assert main.main(["config", "digits_lt:sdclr", "--config.prune.rate=0.7"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(recipes.fields(recipes.load("digits_lt:sdclr")))
    found = {line.split(" = ")[0]: line.split(" = ", 1)[1].rsplit("  # ", 1) for line in lines}
    value, source = found["prune.rate"]
    assert (value.strip(), source) == ("0.7", "command line")
    value, source = found["pairs"]
    assert (value.strip(), source) == ("((('dense', 0), ('sparse', 1)),)", "method")


def test_another_encoder_brings_fields_of_its_own(capsys):
    """With their own source; what both encoders have alike keeps its value and source."""
    kept = ("model.dtype", "model.remat", "model.start")
    before = printed(capsys, "cifar10_lt:sdclr")
    fields = printed(capsys, "cifar10_lt:sdclr", "--config.model.name=vit_tiny", "--config.model.depth=2")
    assert "model.stem" not in fields and {name: fields[name] for name in kept} == {name: before[name] for name in kept}
    assert fields["model.name"] == ("vit_tiny", "command line") and fields["model.depth"] == (2, "command line")
    assert fields["model.heads"] == (3, "encoder") and fields["model.patch"] == (16, "encoder")
    assert before["model.width"] == (64, "base") and fields["model.width"] == (192, "encoder")


@pytest.mark.parametrize("written", ["knn,logistic", "(knn, logistic)", "('knn', 'logistic')", "['knn','logistic']"])
def test_several_names_are_written_with_commas(written, capsys):
    fields = printed(capsys, "digits_lt:sdclr", f"--config.evaluate.protocols={written}")
    assert fields["evaluate.protocols"] == (["knn", "logistic"], "command line")


def test_names_and_numbers_are_what_they_were(capsys):
    one = ("--config.optimizer.constant_rate=encoder", "--config.evaluate.protocols=knn")
    fields = printed(capsys, "digits_lt:sdclr", *one, "--config.evaluate.logistic_l2=1,2", "--config.wandb=")
    assert fields["optimizer.constant_rate"][0] == ["encoder"] and fields["evaluate.protocols"][0] == ["knn"]
    assert fields["evaluate.logistic_l2"][0] == [1, 2] and fields["wandb"][0] == ""


@pytest.mark.parametrize(
    "argv",
    [["evaluate", "nowhere", "--help"]]
    + [[command, "--distributed", "-h"] for command in ("pretrain", "exemplars", "prepare")],
)
def test_help_is_given_whatever_else_is(argv, capsys, monkeypatch):
    monkeypatch.setattr(processes, "join", pytest.fail)
    with pytest.raises(SystemExit) as ended:
        main.main(argv)
    assert not ended.value.code and capsys.readouterr().out.removeprefix("usage: ").startswith(f"sdclr {argv[0]} ")


@pytest.mark.parametrize("command", ["prepare", "exemplars", "report", "export", "import", "photos"])
def test_help_takes_each_default_from_the_code(command, monkeypatch):
    parsers = []
    monkeypatch.setattr(Parser, "parse_args", lambda parser, argv: parsers.append(parser) or sys.exit())
    with pytest.raises(SystemExit):
        main.main([command, "x"])
    hidden = (None, False, "", argparse.SUPPRESS)
    actions = [action for action in parsers[0]._actions if action.default not in hidden]
    assert [action.dest for action in actions if "default %(default)" not in action.help.lower()] == []


def test_help_names_what_there_is_to_choose_from():
    for usage in (pretrain.USAGE, config.USAGE):
        assert "NAME is one of celeba, cifar100_lt, cifar10_lt, digits_lt, folder, im" in usage
        assert "METHOD is one of simclr, moco, byol, simsiam, swav," in usage and " sd_vicreg; without it" in usage
    words = " ".join(evaluate.USAGE.split())
    assert "default, unless the run's config has others: linear_full, linear_few_shot, logistic, knn " in words
    lines = re.findall(r"^    ((\w+) +)(.+)$", evaluate.USAGE, re.MULTILINE)
    assert [(name, says) for _, name, says in lines] == [(name, p.says) for name, p in PROTOCOLS.items()]
    assert len({len(before) for before, *_ in lines}) == 1  # what they do stands in one column


@pytest.mark.parametrize("is_main", [True, False])
def test_a_finished_run_is_said_once_with_what_comes_next(is_main, capsys, monkeypatch):
    """Also of a run that was complete before: `train` returns its last state then."""
    monkeypatch.setattr(pretrain.pretrain, "train", lambda *_, **__: types.SimpleNamespace(step=np.int32(1000)))
    monkeypatch.setattr(processes, "is_main", lambda: is_main)
    assert main.main(["pretrain", "--config=digits_lt:sdclr", "--workdir=runs/sdclr"]) == 0
    said = "Wrote runs/sdclr: all 1,000 steps are done; next: sdclr evaluate runs/sdclr (needs labels), or sdclr "
    assert capsys.readouterr().out == (f"{said}exemplars runs/sdclr\n" if is_main else "")


def test_a_system_without_locks_is_refused_in_a_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "fcntl", None)
    with pytest.raises(ImportError, match="^sdclr_jax runs on Linux and macOS only: on Windows, install it in WSL 2$"):
        runpy.run_path(sdclr_jax.__file__)


def test_the_version(capsys):
    assert main.main(["--version"]) == 0
    assert capsys.readouterr().out == f"sdclr_jax {sdclr_jax.__version__}\n"


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "give one config"),
        (["digits_lt", "cifar10_lt"], "give one config"),
        (["digit_lt"], "the nearest is 'digits_lt'"),
        (["digits_lt", "--config.prune.rat=1"], "nearest is --config.prune.rate"),
        (["digits_lt", "--config.prune.rate=3"], "prune.rate is 3.0"),
        (["digits_lt", "--config.method=byol"], "choose another"),
        (
            ["digits_lt", "--config.wandb=None"],
            "--config.wandb is None, which is no text: give --config.wandb= for none",
        ),
        (["digits_lt", "--config.data.root=None"], "--config.data.root is None, which is no text"),
        (["digits_lt", "--config.evaluate.protocols=knn,nearest"], "unknown evaluate.protocols 'nearest'"),
    ],
)
def test_bad_input(argv, said, capsys):
    assert main.main(["config", *argv]) == 2
    assert said in capsys.readouterr().err
