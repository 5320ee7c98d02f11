"""A changed default is a change of every result, so it must be seen in review: the resolved config is kept as text.

python -m tests.test_configs    # writes tests/golden/*.json afresh
"""

import json
import pathlib

import pytest

from configs import base, cifar10_lt, cifar100_lt, digits_lt, methods
from sdclr_jax import build

GOLDEN = pathlib.Path(__file__).parent / "golden"
CONFIGS = {
    "base": base.get_config,
    "cifar10_lt_sdclr": cifar10_lt.get_config,
    "cifar100_lt_sdclr": cifar100_lt.get_config,
    "digits_lt_simclr": lambda: digits_lt.get_config("simclr"),
    "digits_lt_sdclr": lambda: digits_lt.get_config("sdclr"),
}


def text(config) -> str:
    return json.dumps(json.loads(config.to_json()), indent=1) + "\n"


@pytest.mark.parametrize("name", CONFIGS)
def test_resolved_config(name):
    assert text(CONFIGS[name]()) == (GOLDEN / f"config_{name}.json").read_text()


def test_the_published_recipe():
    """Jiang et al., ICML 2021, supplement, for CIFAR-10-LT."""
    c = base.get_config()
    assert (c.epochs, c.batch_size, c.objective.temperature, c.prune.rate) == (2000, 512, 0.2, 0.9)
    o = c.optimizer
    assert (o.learning_rate, o.momentum, o.weight_decay, o.warmup_epochs) == (0.5, 0.9, 1e-4, 10)
    assert (c.data.n_max, c.data.imbalance) == (4500, 100)
    assert c.views.crop_scale == (0.1, 1.0)
    assert c.views.jitter == (0.4, 0.4, 0.4, 0.1)
    e = c.evaluate
    assert (e.sgd_learning_rate, e.full_epochs, e.full_drops) == (30, 30, (10, 20))
    assert (e.few_shot_epochs, e.few_shot_drops) == (100, (40, 60))


@pytest.mark.parametrize("method", methods.METHODS)
def test_every_method_passes_the_checks_and_head_depth_is_no_confound(method):
    config = digits_lt.get_config(method)
    build.check(config)
    assert config.method == method
    assert config.projector.layers == 3


if __name__ == "__main__":
    for name, make in CONFIGS.items():
        (GOLDEN / f"config_{name}.json").write_text(text(make()))
