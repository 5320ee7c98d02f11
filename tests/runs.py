"""Pretraining runs on the real digits with a tiny network, as the tests make and compare them."""

import contextlib
import itertools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sdclr_jax import records, trees
from sdclr_jax.api.pretrain import train
from sdclr_jax.commands import flags
from sdclr_jax.data.batches import Resident

ROOT = pathlib.Path(__file__).parents[1]
CLOCKS = ("images_per_second", "seconds", "data_wait_seconds", "evaluation_seconds")  # no function of the config
TINY = (
    "--config.epochs=3",
    "--config.batch_size=64",
    "--config.log_every=2",
    "--config.checkpoint_every=1",
    "--config.collapse_every=0",  # what is not measured costs no time
    "--config.model.width=2",
    "--config.projector.layers=2",
    "--config.projector.hidden=8",
    "--config.projector.out=4",
    "--config.optimizer.warmup_epochs=1",
)


def arguments(directory, data_dir, method="sdclr", *more):
    file = ROOT / "configs" / "digits_lt.py"
    return [f"--config={file}:{method}", f"--workdir={directory}", f"--data_dir={data_dir}", *TINY, *more]


def config(method="sdclr", *more):
    return flags.pretrain(arguments("unused", "unused", method, *more), "").config


def run(config, directory, data_dir):
    return train(config, directory, data_dir, devices=jax.devices()[:1])


@contextlib.contextmanager
def power_cut(monkeypatch, batches):
    """What is run here breaks off after so many batches."""
    whole_batches = Resident.from_step

    def crash(self, step):
        yield from itertools.islice(whole_batches(self, step), batches)
        raise RuntimeError("power cut")

    monkeypatch.setattr(Resident, "from_step", crash)
    with pytest.raises(RuntimeError, match="power cut"):
        yield
    monkeypatch.setattr(Resident, "from_step", whole_batches)


def lines(directory):
    written = records.read_metrics(directory / "metrics.jsonl")
    return [{k: v for k, v in line.items() if k not in CLOCKS} for line in written]


def assert_same_bits(a, b):
    for name, x in trees.named(a).items():
        y = trees.named(b)[name]
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        np.testing.assert_array_equal(x, y, err_msg=name)
