"""Metrics to Weights & Biases: what it is told, by a stand-in for the package; nothing goes over a network."""

import importlib.util
import json
import sys
import types

import pytest

from sdclr_jax.api import loop
from sdclr_jax.errors import ArgumentError, UserError
from sdclr_jax.run import wandb
from tests.runs import config

find_spec = importlib.util.find_spec


@pytest.fixture
def told(monkeypatch):
    """What the stand-in is told, in order."""
    told = []

    def init(**settings):
        told.append(("init", settings))
        return types.SimpleNamespace(
            define_metric=lambda name, step_metric: told.append(("define", name, step_metric)),
            log=lambda line: told.append(("log", line)),
            finish=lambda: told.append(("finish",)),
        )

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init, __spec__=True))
    return told


def test_a_run_sends_its_lines_and_is_one_run_however_often_it_is_resumed(told, tmp_path):
    fields = {"a.b": 1}
    for line in ({"step": 4, "loss": 2.0}, {"step": 6, "loss": 1.0, "knn/few": None}):
        sent = wandb.WandB("project", tmp_path / "run", fields)
        sent.write(line)
        sent.close()
    (_, first), *_ = told
    assert first["project"] == "project" and first["name"] == "run" and first["config"] == fields
    assert first["resume"] == "allow" and first["dir"] == tmp_path / "run"
    inits = [entry[1]["id"] for entry in told if entry[0] == "init"]
    assert len(inits) == 2 and len(set(inits)) == 1 and len(inits[0]) == 16
    assert [entry[1] for entry in told if entry[0] == "log"] == [{"step": 4, "loss": 2.0}, {"step": 6, "loss": 1.0}]
    assert ("define", "*", "step") in told and told[-1] == ("finish",)


def test_training_sends_what_it_writes_down_and_only_where_it_is_asked_to(told, tmp_path):
    line = {"step": 2, "loss": 1.5}
    for project in ("", "project"):
        with loop._sent(tmp_path, config("sdclr", f"--config.wandb={project}")) as send:
            send(line)
        assert [entry for entry in told if entry[0] == "log"] == ([("log", line)] if project else [])
    assert json.loads(json.dumps(told[0][1]["config"]))["wandb"] == "project"


def test_one_that_cannot_start_is_a_sentence(told, tmp_path, monkeypatch):
    def init(**settings):
        raise RuntimeError("api_key not configured (no-tty).\nCall wandb.login()")

    monkeypatch.setattr(sys.modules["wandb"], "init", init)
    said = r"^wandb is 'mine', and wandb cannot start \(api_key not configured \(no-tty\)\.\): run `wandb login`, or"
    with pytest.raises(UserError, match=said) as raised, loop._sent(tmp_path, config("sdclr", "--config.wandb=mine")):
        raise AssertionError
    assert raised.value.status == 1  # not that of bad input: started again, it may find the network


def test_without_the_package_it_is_refused_before_anything_is_written(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "wandb" else find_spec(name))
    wandb.check("")
    with pytest.raises(ArgumentError, match="is 'mine', and wandb is not installed: pip install wandb"):
        wandb.check("mine")
