"""Two processes on one machine, one device each, train what one process with two devices trains."""

import os
import pathlib
import socket
import subprocess
import sys

import jax
import numpy as np

from sdclr_jax import parallel, recipes, trees
from sdclr_jax.api.pretrain import train
from sdclr_jax.run import metrics
from sdclr_jax.run.checkpoints import Checkpoints
from tests.commands.test_pretrain import arguments, config, lines

PROGRAM = """
import sys
import jax
port, process, *options = sys.argv[1:]
jax.distributed.initialize(f"localhost:{port}", 2, int(process))
from sdclr_jax.commands import main
sys.exit(main.main(["pretrain", *options]))
"""


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("localhost", 0))
        return s.getsockname()[1]


def test_two_processes_train_what_one_trains(tmp_path):
    # Few steps, since in each the processes wait for each other; and small ones, since rounding grows with them.
    fields = ("--config.epochs=2", "--config.evaluate.every=2", "--config.optimizer.learning_rate=0.01")
    options = arguments(tmp_path / "two", tmp_path / "data", "sdclr", *fields, "--noprogress")
    port = str(free_port())
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "1", "PYTHONPATH": str(pathlib.Path(__file__).parents[1])}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, port, str(i), *options],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment,
        )
        for i in range(2)
    ]  # fmt: skip
    outputs = [p.communicate(timeout=600)[0] for p in processes]
    assert [p.returncode for p in processes] == [0, 0], "\n".join(outputs)

    two = jax.devices()[:2]
    expected = train(config("sdclr", *fields), tmp_path / "one", str(tmp_path / "data"), devices=two)
    shardings = parallel.shardings(two)
    images = recipes.data(config(), str(tmp_path / "data")).part("long_tail").images
    with Checkpoints(tmp_path / "two" / "checkpoints") as checkpoints:
        state = checkpoints.restore(like=recipes.abstract_state(config(), images.shape, shardings))
    assert int(state.step) == 10
    for name, x in trees.named(state.params).items():
        np.testing.assert_allclose(x, trees.named(expected.params)[name], atol=1e-4, err_msg=name)
    assert metrics.read(tmp_path / "two" / "metrics.jsonl")[-1]["step"] == 10
    for a, b in zip(lines(tmp_path / "two"), lines(tmp_path / "one"), strict=True):
        assert abs(a["loss"] - b["loss"]) < 1e-4
        assert a.keys() == b.keys()
        for name in ("knn/all", "knn/few", "probe/all", "probe/few"):
            assert abs(a.get(name, 0) - b.get(name, 0)) < 0.03  # an image or two
