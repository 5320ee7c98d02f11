"""Damaged files of a run and killed commands, the short form of experiments/torture.py."""

import collections
import json
import os
import random
import shutil
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import torture, torture_damage
from experiments.fuzz_targets import EXAMPLE
from sdclr_jax import parallel, trees
from sdclr_jax.errors import UserError
from sdclr_jax.reports import runs
from sdclr_jax.run.checkpoints import Checkpoints
from tests import tiny
from tests.pictures import put


def test_a_damaged_checkpoint_is_refused_or_passed_over_or_equal(tmp_path):
    """Never are other numbers given; what is given is a state that was saved. In a process of its own: what orbax has
    begun when one of its readers fails ends later, and pytest would take it for a fault of another test."""
    program = "import pathlib, sys; from tests import test_torture; test_torture.damaged(pathlib.Path(sys.argv[1]))"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "JAX_NUM_CPU_DEVICES": "1"}
    command = [sys.executable, "-c", program, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=torture.ROOT)
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)
    # Names of files are drawn by orbax, so which checkpoint is hit is not the same in two runs.
    assert sum(counts.values()) == 12 and counts.keys() & {"1", "refused"} and counts.get("2", 0) > 0


def damaged(folder):
    """Prints how often the first and the second of two checkpoints were given, or an error, once a file is damaged."""
    one = tiny.state().replace(step=jnp.int32(1))
    two = jax.tree.map(lambda x: x + 1 if x.dtype == jnp.float32 else x, one).replace(step=jnp.int32(2))
    whole, copy = folder / "whole", folder / "copy"
    with Checkpoints(whole / "checkpoints") as checkpoints:
        checkpoints.save(1, one)
        checkpoints.save(2, two)
    sharding = parallel.shardings(jax.devices()[:1]).replicated
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), one)
    rng, counts = random.Random(0), collections.Counter()
    for _ in range(12):
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(whole, copy)
        what = torture_damage.damage(copy, rng)
        try:
            with Checkpoints(copy / "checkpoints", read_only=True) as checkpoints:
                found = checkpoints.restore(like=like)
        except UserError:
            counts["refused"] += 1
        else:
            saved = {1: one, 2: two}.get(found and int(found.step))
            assert saved is not None and _bits(found) == _bits(saved), what
            counts[int(found.step)] += 1
    print(json.dumps(counts))


def _bits(state):
    leaves = trees.named(state.replace(key=jax.random.key_data(state.key)))
    return {name: np.asarray(leaf).tobytes() for name, leaf in leaves.items()}


def test_damaged_records_are_refused_or_read_as_they_were(tmp_path):
    """But for a digit of a number, which no reader of JSON can see."""
    whole, counts, rng = repr(runs.read([EXAMPLE])), collections.Counter(), random.Random(0)
    for _ in range(60):
        shutil.rmtree(tmp_path / EXAMPLE.name, ignore_errors=True)
        run = shutil.copytree(EXAMPLE, tmp_path / EXAMPLE.name, ignore=shutil.ignore_patterns("checkpoints"))
        path = rng.choice(sorted(p for p in run.rglob("*") if p.is_file()))
        how = rng.choice(torture_damage.DAMAGES)
        how(path, rng)
        try:
            found = repr(runs.read([run])).replace(str(tmp_path), str(EXAMPLE.parent))
            found = found.replace(f"{tmp_path.name}/{run.name}", f"{EXAMPLE.parent.name}/{run.name}")
        except UserError as error:
            assert str(run) in str(error)
            counts["refused"] += 1
        else:
            counts["read"] += found == whole
            assert found == whole or how in (
                torture_damage.flip,
                torture_damage.swap,
                torture_damage.remove,
                torture_damage.cut,
            ), (path, how)
    assert counts["read"] > 10 and counts["refused"] > 10, counts


def test_a_killed_prepare_is_finished_by_the_next(tmp_path):
    put(tmp_path / "photos", [f"{c}/{i}.png" for c in "ab" for i in range(8)], width=64, height=64)

    def command(data):
        argv = ["prepare", f"folder:{tmp_path / 'photos'}", f"--data_dir={tmp_path / data}", "--noprogress"]
        program = [sys.executable, "-m", "sdclr_jax.commands.main", *argv]
        return subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    began, undisturbed = time.monotonic(), command("whole")
    whole = undisturbed.communicate()[0]
    seconds = random.Random().uniform(0.5, 0.9) * (time.monotonic() - began)
    while True:
        process = command("cut")
        try:
            process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            break
        process.communicate()  # it was quicker than the first
        shutil.rmtree(tmp_path / "cut")
        seconds /= 2
    process.kill()
    process.communicate()
    again = command("cut")
    assert again.communicate() == (whole.replace(str(tmp_path / "whole"), str(tmp_path / "cut")), "")
    assert again.returncode == 0


@pytest.mark.parametrize(
    ("status", "said", "now", "outcome"),
    [
        (None, "", None, "hang"),
        (1, "Traceback (most recent call last):", None, "traceback"),
        (1, "Killed", None, "traceback"),
        (2, "sdclr: x is damaged: put it back", None, "refused"),
        (0, "", "hash", "equal"),
        (0, "checkpoint 3 cannot be used", "hash", "healed"),
        (0, "", "another", "other"),
        (0, "warning", "another", "warned"),
    ],
)
def test_what_a_command_comes_to(status, said, now, outcome):
    assert torture.outcome(status, said, "hash", now) == outcome
