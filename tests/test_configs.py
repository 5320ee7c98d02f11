"""A changed default is a change of every result, so it must be seen in review: the resolved config is kept as text.

python -m tests.test_configs    # writes tests/golden/*.json afresh
"""

import json
import pathlib

import pytest

from configs import (
    base,
    celeba,
    cifar10_lt,
    cifar100_lt,
    digits_lt,
    folder,
    imagenet100_lt,
    imagenet_lt,
    inaturalist2018,
    methods,
    places_lt,
)
from sdclr_jax import build

GOLDEN = pathlib.Path(__file__).parent / "golden"
CONFIGS = {
    "base": base.get_config,
    "cifar10_lt_sdclr": cifar10_lt.get_config,
    "cifar100_lt_sdclr": cifar100_lt.get_config,
    "imagenet100_lt_sdclr": imagenet100_lt.get_config,
    "imagenet100_lt_simclr": lambda: imagenet100_lt.get_config("simclr"),
    "imagenet_lt_sdclr": imagenet_lt.get_config,
    "places_lt_sdclr": places_lt.get_config,
    "inaturalist2018_sdclr": inaturalist2018.get_config,
    "celeba_sdclr": celeba.get_config,
    "folder_sdclr": folder.get_config,
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


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_passes_the_checks(name):
    build.check(CONFIGS[name]())


def test_the_published_recipe_of_photos():
    """cmds/shell_scrips/imagenet-100-res50-LT.sh and README of the authors' repository."""
    c = imagenet100_lt.get_config()
    assert (c.epochs, c.batch_size, c.objective.temperature, c.prune.rate) == (500, 256, 0.3, 0.3)
    assert imagenet100_lt.get_config("simclr").projector == c.projector  # like with like
    assert (c.model.name, c.model.stem, c.projector.hidden, c.projector.out) == ("resnet50", "imagenet", 2048, 128)
    assert (c.optimizer.learning_rate, c.optimizer.weight_decay, c.evaluate.sgd_batch_size) == (0.5, 1e-4, 512)
    assert (c.views.size, c.views.crop_scale, c.views.blur_probability) == (224, (0.08, 1.0), 0.5)
    assert (c.data.n_max, c.data.groups) == (1280, "counts")


if __name__ == "__main__":
    for name, make in CONFIGS.items():
        (GOLDEN / f"config_{name}.json").write_text(text(make()))
