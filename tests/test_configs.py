"""A changed default is a change of every result, so it must be seen in review: the resolved config is kept as text.

python -m tests.test_configs    # writes tests/golden/*.json afresh
"""

import doctest
import json
import pathlib
import re
import sys

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
from sdclr_jax import recipes
from sdclr_jax.api.config import config as api_config
from sdclr_jax.errors import UserError

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


def differences() -> str:
    """What each method sets otherwise than base.py, in each recipe: a line a field."""
    tables = {"small": methods.SMALL, "imagenet": methods.IMAGENET, "digits": digits_lt.RECIPE}
    base_fields, lines = recipes.fields(base.get_config()), []
    for recipe, table in tables.items():
        for method in methods.METHODS:
            config = base.get_config()
            methods.choose(config, method, table)
            lines.append(f"{recipe} {method}")
            fields = recipes.fields(config)
            lines += [f"    {k} = {v!r}" for k, v in fields.items() if base_fields.get(k, None) != v]
            lines += [f"    no {k}" for k in base_fields.keys() - fields.keys()]
    return "\n".join(lines) + "\n"


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


def test_what_the_methods_set():
    assert differences() == (GOLDEN / "methods.txt").read_text()


@pytest.mark.parametrize("recipe", [methods.SMALL, methods.IMAGENET, digits_lt.RECIPE])
@pytest.mark.parametrize("method", methods.METHODS)
def test_every_method_passes_the_checks_and_its_head_is_no_confound(method, recipe):
    """The plain and the damaged method differ in their pairs and in nothing else."""
    config = base.get_config()
    methods.choose(config, method, recipe)
    recipes.check(config)
    assert config.method == method
    twin = base.get_config()
    methods.choose(twin, methods.METHODS[method][0], recipe)
    assert {k for k, v in recipes.fields(config).items() if recipes.fields(twin)[k] != v} <= {"method", "pairs"}


def test_a_method_without_a_line_in_a_recipe_is_trained_as_base_py_says(monkeypatch):
    """So that a new objective needs its row alone."""
    monkeypatch.setitem(methods.ROWS, "mine", (methods.each_other, {"objective": {"name": "byol"}}))
    monkeypatch.setitem(methods.METHODS, "mine", ("mine", False))
    config, plain = digits_lt.get_config("mine"), base.get_config()
    assert config.objective.name == "byol"
    assert config.optimizer == plain.optimizer
    assert config.projector == plain.projector


def test_byol_weighs_its_loss_as_the_sources_of_its_recipes():
    """A step takes the mean of 2 - 2 cos over its two pairs. The authors' code (byol/byol_experiment.py) adds the two;
    lightly's benchmark takes the mean of -cos."""
    for recipe, scale in ((methods.IMAGENET, 2.0), (methods.SMALL, 0.5)):
        for name in ("byol", "sd_byol"):
            methods.choose(config := base.get_config(), name, recipe)
            assert config.objective.scale == scale


def test_a_run_from_before_byol_had_a_scale_can_be_evaluated():
    config = digits_lt.get_config("byol")
    with config.unlocked():
        del config.objective["scale"]
    recipes.check(config)


def test_simclr_and_sdclr_have_the_published_head_of_sdclr():
    for name in ("simclr", "sdclr"):
        assert digits_lt.get_config(name).projector.layers == cifar10_lt.get_config(name).projector.layers == 3


def test_a_row_changes_no_later_config():
    """The tables are shared: what one config is given on the command line stays its own."""
    config = digits_lt.get_config("byol")
    config.projector.hidden = 7
    config.objective.name = "simsiam"
    fresh = digits_lt.get_config("byol")
    assert (fresh.projector.hidden, fresh.objective.name) == (digits_lt.RECIPE["byol"]["projector"]["hidden"], "byol")


@pytest.mark.parametrize(
    ("name", "field", "value", "said"),
    [
        ("moco", "objective.queue", -1, "objective.queue is -1: it must be at least 0"),
        ("byol", "target.momentum", 1.5, "target.momentum is 1.5: it must be at least 0 and below 1"),
        ("byol", "predictor.last", "tanh", "unknown predictor.last 'tanh': known are bias, norm"),
        ("w_mse", "objective.shrinkage", 2.0, "objective.shrinkage is 2.0: it must be at least 0"),
        ("simclr", "objective.chunk", -1, "objective.chunk is -1: it must be at least 0"),
        ("swav", "objective.epsilon", 0.0, "objective.epsilon is 0.0: it must be above 0"),
        ("swav", "prototypes.count", -1, "prototypes.count is -1: it must be at least 0"),
        ("simsiam", "optimizer.constant_rate", ("predictr",), "constant_rate has 'predictr': the modules are"),
        ("simclr", "optimizer.name", "lion", "unknown optimizer.name 'lion': known are adam, lars, sgd"),
        ("simclr", "objective.name", "byol", "has objective.chunk: the fields of byol are scale"),
        ("simclr", "objective.name", "info_nce", "lacks objective.queue: the fields of info_nce are temperature"),
        ("simclr", "projector.layers", 10**9, "projector.layers is 1000000000: it must be at least 1 and below 101"),
        ("w_mse", "objective.repeats", 10**9, "objective.repeats is 1000000000: it must be at least 1 and below 101"),
        ("simclr", "optimizer.final_learning_rate", 0.2, "it must be at most optimizer.learning_rate, 0.1"),
        ("simclr", "optimizer.weight_decay", 1e300, "optimizer.weight_decay is 1e+300: it must be finite"),
        ("simclr", "views.mean", ("nan",), "views.mean is ('nan',): it must be numbers"),
        ("simclr", "evaluate.logistic_l2", ("inf", 1), "evaluate.logistic_l2 is ('inf', 1): it must be numbers"),
        ("simclr", "evaluate.full_drops", (10, -1), "full_drops is (10, -1): it must be whole numbers of epochs"),
        ("simclr", "evaluate.few_shot_drops", (1.5,), "few_shot_drops is (1.5,): it must be whole numbers of epochs"),
        ("simclr", "evaluate.fine_tune_epochs", (0, 3), "fine_tune_epochs is (0, 3): it must be whole numbers"),
        ("simclr", "pairs", ((("target", 0), ("dense", 1)),), "its first side must learn, and the target does not"),
        ("simclr", "pairs", ((("dense", 0), ("dense", 0)),), "its sides are the same"),
        ("simclr", "pairs", ((("dense", 0), ("dense", 2)),), "must be 0, 1 and so on without gaps"),
        ("simclr", "pairs", ((("dense", 0), ("thin", 1)),), "of the branches dense, sparse, target"),
        ("simclr", "pairs", (0, 1), "it must be one or more pairs"),
    ],
)  # fmt: skip
def test_a_bad_field_is_named(name, field, value, said):
    config = digits_lt.get_config(name)
    *parents, last = field.split(".")
    place = config
    for parent in parents:
        place = place[parent]
    with place.ignore_type():
        place[last] = value
    with pytest.raises(UserError, match=re.escape(said)):
        recipes.check(config)


def test_a_config_without_a_field_that_all_have_is_refused_by_its_name():
    for field in recipes.fields(base.get_config()):
        if field in ("model.stem", "model.width"):  # of some encoders
            continue
        if field.startswith(("objective.", "views.")) and not field.endswith((".name", ".mean", ".std")):
            continue
        config = base.get_config()
        *parents, last = field.split(".")
        place = config
        for parent in parents:
            place = place[parent]
        with place.unlocked():
            del place[last]
        with pytest.raises(UserError, match=f"^the config lacks {field}: start from configs/base.py"):
            recipes.check(config)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_passes_the_checks(name):
    recipes.check(CONFIGS[name]())


def test_the_published_recipe_of_photos():
    """cmds/shell_scrips/imagenet-100-res50-LT.sh and README of the authors' repository."""
    c = imagenet100_lt.get_config()
    assert (c.epochs, c.batch_size, c.objective.temperature, c.prune.rate) == (500, 256, 0.3, 0.3)
    assert imagenet100_lt.get_config("simclr").projector == c.projector  # like with like
    assert (c.model.name, c.model.stem, c.projector.hidden, c.projector.out) == ("resnet50", "imagenet", 2048, 128)
    assert (c.optimizer.learning_rate, c.optimizer.weight_decay, c.evaluate.sgd_batch_size) == (0.5, 1e-4, 512)
    assert (c.views.size, c.views.crop_scale, c.views.blur_probability) == (224, (0.08, 1.0), 0.5)
    assert (c.data.n_max, c.data.groups) == (1280, "counts")


def test_the_example_of_config():
    assert doctest.testmod(sys.modules["sdclr_jax.api.config"]) == (0, 3)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"prune.rat": 0.7}, "there is no field prune.rat: the nearest is prune.rate"),
        ({"prune": 0.7}, "there is no field prune: the nearest is prune.rate"),
        ({"prune": {"rate": {"x": 1}}}, "there is no field prune.rate.x: the nearest is prune.rate"),
        ({"epochs": 2.5}, "epochs is 2.5, float: it must be int"),
        ({"epochs": True}, "epochs is True, bool: it must be int"),
        ({"epochs": None}, "epochs is None, NoneType: it must be int"),
        ({"prune.rate": "0.7"}, "prune.rate is '0.7', str: it must be float"),
        ({"optimizer": {"decay_vectors": 1}}, "optimizer.decay_vectors is 1, int: it must be bool"),
        ({"views.crop_scale": 0.3}, "views.crop_scale is 0.3, float: it must be tuple"),
        ({"method": "byol"}, 'method only names the method: choose another as "NAME:METHOD"'),
    ],
)
def test_config_is_strict(given, said):
    with pytest.raises(UserError, match=re.escape(said)):
        api_config("digits_lt:sdclr", given)


def test_config_sets_fields():
    pairs, nested = [[["dense", 0], ["sparse", 1]]], {"optimizer": {"learning_rate": 1}}
    made = api_config("digits_lt:simclr", {"prune.rate": 0.7, "views": {"crop_scale": [0.2, 1]}}, pairs=pairs, **nested)
    assert (made.prune.rate, made.views.crop_scale, made.pairs) == (0.7, (0.2, 1), ((("dense", 0), ("sparse", 1)),))
    assert isinstance(made.optimizer.learning_rate, float)
    assert api_config("digits_lt:simclr").prune.rate == 0.9
    photos = api_config("folder:byol", {"views.blur_probability": [1.0, 0.1]})
    assert photos.views.blur_probability == (1.0, 0.1)


if __name__ == "__main__":
    for name, make in CONFIGS.items():
        (GOLDEN / f"config_{name}.json").write_text(text(make()))
    (GOLDEN / "methods.txt").write_text(differences())
