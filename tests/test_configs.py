"""A changed default is a change of every result, so it must be seen in review: the resolved config is kept as text.

python -m tests.test_configs    # writes tests/golden/{configs,methods}.txt again
"""

import functools
import json
import math
import pathlib
import pickle
import pkgutil
import re

import pytest
from ml_collections import ConfigDict

from configs import base, cifar10_lt, digits_lt, imagenet100_lt, methods
from sdclr_jax import recipes, records
from sdclr_jax.api.config import config as api_config
from sdclr_jax.errors import UserError
from sdclr_jax.recipes import configs

GOLDEN = pathlib.Path(__file__).parent / "golden"
CONFIGS = [f"{name}:{method}" for name in configs.NAMES for method in ("sdclr", "moco")]


def text() -> str:
    """base.py's fields, and what each data set changes: a line a field."""
    lines = ["base"] + [f"    {k} = {v!r}" for k, v in recipes.fields(base.get_config()).items()]
    for name in CONFIGS:
        lines += [name, *changed(recipes.load(name))]
    return "\n".join(lines) + "\n"


def changed(config) -> list[str]:
    before, after = (recipes.fields(c) for c in (base.get_config(), config))
    lines = [f"    {k} = {v!r}" for k, v in after.items() if before.get(k, None) != v]
    return lines + [f"    no {k}" for k in before if k not in after]


def differences() -> str:
    """What each method changes in base.py's fields, in each recipe: a line a field."""
    tables, lines = {"small": methods.SMALL, "imagenet": methods.IMAGENET, "digits": digits_lt.RECIPE}, []
    for recipe, table in tables.items():
        for method in methods.METHODS:
            lines += [f"{recipe} {method}", *changed(methods.config(method, {}, table))]
    return "\n".join(lines) + "\n"


def test_resolved_configs():
    assert text() == (GOLDEN / "configs.txt").read_text()


def test_each_kind_in_the_code_has_its_fields_declared():
    """One added from outside need not: its fields have no bounds then."""
    for group, kinds in base.KINDS.items():
        table = pkgutil.resolve_name(configs.DECLARED[f"{group}.name"].accepted).keys()
        assert kinds.keys() == table or (group == "model" and kinds.keys() <= table), group  # a class has its own


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
    config, twin = (methods.config(name, {}, recipe) for name in (method, methods.METHODS[method][0]))
    recipes.check(config)
    assert config.method == method
    assert {k for k, v in recipes.fields(config).items() if recipes.fields(twin)[k] != v} <= {"method", "pairs"}


def test_a_method_without_a_line_in_a_recipe_is_trained_as_base_py_says(monkeypatch):
    """So that a new objective needs its row alone."""
    monkeypatch.setitem(methods.ROWS, "mine", (methods.each_other, {"objective": {"name": "byol"}}))
    monkeypatch.setitem(methods.METHODS, "mine", ("mine", False))
    config, plain = digits_lt.get_config("mine"), base.get_config()
    assert config.objective.name == "byol"
    assert dict(config.optimizer) == dict(plain.optimizer) | digits_lt.DATA_SET["optimizer"]
    assert config.projector == plain.projector


def test_byol_weighs_its_loss_as_the_sources_of_its_recipes():
    """A step takes the mean of 2 - 2 cos over its two pairs. The authors' code (byol/byol_experiment.py) adds the two;
    lightly's benchmark takes the mean of -cos."""
    for recipe, scale in ((methods.IMAGENET, 2.0), (methods.SMALL, 0.5)):
        for name in ("byol", "sd_byol"):
            assert methods.config(name, {}, recipe).objective.scale == scale


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
        ("moco", "objective.queue", -1, "at least 0"),
        ("byol", "target.momentum", 1.5, "at least 0 and at most 1"),
        ("byol", "predictor.last", "tanh", "known are"),
        ("w_mse", "objective.shrinkage", 2.0, "at least 0"),
        ("swav", "objective.epsilon", 0.0, "above 0"),
        ("swav", "prototypes.count", -1, "at least 0"),
        ("simsiam", "optimizer.constant_rate", ("predictr",), "known are encoder"),
        ("simclr", "optimizer.name", "lion", "known are"),
        ("simclr", "projector.layers", 10**9, "at least 1 and at most 100"),
        ("simclr", "projector.layers", True, "at least 1"),
        ("simclr", "seed", 2**32, "below 4294967296"),
        ("w_mse", "objective.repeats", 10**9, "at most 100"),
        ("simclr", "optimizer.final_learning_rate", 0.2, "at most optimizer.learning_rate, 0.1"),
        ("simclr", "optimizer.weight_decay", 1e300, "finite"),
        ("simclr", "views.mean", ("nan",), "numbers"),
        ("simclr", "views.mean", 0.5, "numbers"),
        ("simclr", "evaluate.logistic_l2", ("inf", 1), "numbers"),
        ("simclr", "evaluate.logistic_l2", (), "at least one value"),
        ("simclr", "evaluate.full_drops", (10, -1), "whole numbers, each at least 1"),
        ("simclr", "evaluate.few_shot_drops", (1.5,), "whole numbers, each at least 1"),
        ("simclr", "evaluate.fine_tune_epochs", (0, 3), "each at least 1"),
        ("simclr", "evaluate.protocols", ("knn", "knm"), "known are linear_full"),
        ("simclr", "data.n_max", 0, "at least 1"),
        ("simclr", "views.rotation", 181.0, "at most 180"),
    ],
)
def test_a_value_out_of_bounds_is_refused_by_field_and_bound(name, field, value, said):
    wrong = repr(value[-1]) if value and isinstance(value, tuple) else str(value)
    with pytest.raises(UserError, match=rf"{re.escape(field)}.* .*{re.escape(wrong)}.*: .*{re.escape(said)}"):
        recipes.check(with_field(digits_lt.get_config(name), field, value))


def with_field(config, field, value):
    """Whatever the field's type."""
    *parents, last = field.split(".")
    place = functools.reduce(ConfigDict.__getitem__, parents, config)
    with place.ignore_type():
        place[last] = value
    return config


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("objective.name", "byol", "has objective.chunk"),
        ("objective.name", "info_nce", "lacks objective.queue"),
        ("pairs", ((("target", 0), ("dense", 1)),), "first side must learn"),
        ("pairs", ((("dense", 0), ("dense", 0)),), "sides are the same"),
        ("pairs", ((("dense", 0), ("dense", 2)),), "0, 1 and so on"),
        ("pairs", ((("dense", 0), ("thin", 1)),), "dense, sparse, target"),
        ("pairs", (0, 1), "one or more pairs"),
    ],
)
def test_a_choice_that_does_not_fit_is_refused(field, value, said):
    with pytest.raises(UserError, match=re.escape(said)):
        recipes.check(with_field(digits_lt.get_config("simclr"), field, value))


def declared():
    """Each field that base.py declares, and a config that has it."""
    for name, field in configs.DECLARED.items():
        if name.partition(".")[0] not in base.KINDS or name.endswith(".name"):
            yield name, field, digits_lt.get_config("simclr")
    for group, kinds in base.KINDS.items():
        for kind, settings in kinds.items():
            for name, field in settings.items():
                config = digits_lt.get_config("simclr")
                base.lay(config, {group: {"name": kind}})
                yield f"{group}.{name}", field, config


def test_every_number_has_bounds_and_what_lies_beyond_is_refused():
    refused = 0
    for name, field, config in declared():
        several = isinstance(field.default, tuple)
        first = next(iter(field.default), None) if several else field.default
        if isinstance(first, bool) or not isinstance(first, int | float):
            continue
        assert name in recipes.fields(config)
        low, high = field.accepted[1:-1].split(", ")
        beyond = (float(low) - (field.accepted[0] == "["), float(high) + (field.accepted[-1] == "]"))
        for value in (type(first)(v) for v in beyond if abs(v) < math.inf):
            with pytest.raises(UserError, match=rf"^{re.escape(name)} is .*{re.escape(str(value))}"):
                recipes.check(with_field(config.copy_and_resolve_references(), name, (value,) if several else value))
            refused += 1
    assert refused > 100


def test_every_field_of_every_config_is_declared_with_the_names_or_bounds_it_takes():
    for location in CONFIGS:
        config = recipes.load(location)
        for name, value in recipes.fields(config).items():
            group, _, field = name.partition(".")
            own = base.KINDS.get(group, {}).get(config.get(group).name, {}) if group in base.KINDS else {}
            declared = own.get(field) or configs.DECLARED[name]
            assert type(declared.default) is type(value) or declared.per_view, name
            words = isinstance(value, bool | str) or name in ("pairs", "optimizer.constant_rate")
            assert declared.accepted or words, name
            if declared.accepted and ":" in declared.accepted:
                assert declared.default in (known := pkgutil.resolve_name(declared.accepted)) or set(value) <= set(
                    known
                )


def test_a_config_without_a_field_that_all_have_is_refused_by_its_name():
    for field in recipes.fields(base.get_config()):
        if field.partition(".")[0] in base.KINDS and not field.endswith((".name", ".mean", ".std")):
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
    recipes.check(recipes.load(name))


def test_the_published_recipe_of_photos():
    """cmds/shell_scrips/imagenet-100-res50-LT.sh and README of the authors' repository."""
    c = imagenet100_lt.get_config()
    assert (c.epochs, c.batch_size, c.objective.temperature, c.prune.rate) == (500, 256, 0.3, 0.3)
    assert imagenet100_lt.get_config("simclr").projector == c.projector  # like with like
    assert (c.model.name, c.model.stem, c.projector.hidden, c.projector.out) == ("resnet50", "imagenet", 2048, 128)
    assert (c.optimizer.learning_rate, c.optimizer.weight_decay, c.evaluate.sgd_batch_size) == (0.5, 1e-4, 512)
    assert (c.views.size, c.views.crop_scale, c.views.blur_probability) == (224, (0.08, 1.0), 0.5)
    assert (c.data.n_max, c.data.groups) == (1280, "counts")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"prune.rat": 0.7}, "there is no field prune.rat: the nearest is prune.rate"),
        ({"prune": 0.7}, "there is no field prune: the nearest is prune.rate"),
        ({"prune": {"rate": {"x": 1}}}, "there is no field prune.rate.x: the nearest is prune.rate"),
        ({"epochs": 2.5}, "epochs is 2.5, float: it must be int"),
        ({"epochs": True}, "epochs is True, bool: it must be int"),
        ({"epochs": None}, "epochs is None, NoneType: it must be int"),
        ({"wandb": None}, "wandb is None, which is no text: give '' for none"),
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


@pytest.mark.parametrize(
    ("name", "given", "crop", "resize"),
    [
        ("folder", {}, 128, 146),
        ("celeba", {"views.size": 64}, 64, 73),
        ("folder", {"views.size": 64, "evaluate.resize": 80}, 64, 80),
        ("folder", {"evaluate.crop": 224, "views.size": 64}, 224, 256),
        ("imagenet_lt", {"views.size": 128}, 224, 256),  # as published
    ],
)
def test_a_recipe_of_our_own_evaluates_at_the_size_it_trains_at(name, given, crop, resize):
    made = api_config(f"{name}:sdclr", given)
    assert (made.evaluate.crop, made.evaluate.resize) == (crop, resize)
    assert made.views.size == given.get("views.size", 128)
    assert json.loads(made.to_json())["evaluate"]["resize"] == resize
    assert pickle.loads(pickle.dumps(made)) == made  # as for a pool of processes


def test_a_field_that_a_method_does_not_read_is_said(caplog):
    cases = [
        (
            "simclr",
            {"prune.rate": 0.5, "epochs": 3},
            "prune.rate changes nothing of simclr: no pair has the spar",
        ),
        ("sdclr", {"target": {"momentum": 0.5}}, "target.momentum changes nothing of sdclr: no pair has the target"),
        ("sdclr", {"predictor.layers": 2}, "predictor.layers changes nothing of sdclr: the objective reads no pred"),
        ("byol", {"prototypes.count": 9}, "prototypes.count changes nothing of byol: the objective reads no proto"),
        ("byol", {"optimizer.trust_coefficient": 0.5}, "optimizer.name is not lars"),
        (
            "sdclr",
            {"data.profile": "as_is", "data.n_max": 9},
            "data.n_max changes nothing of sdclr: data.profile is as",
        ),
    ]
    for method, given, said in cases:
        caplog.clear()
        api_config(f"cifar10_lt:{method}", given)
        assert [said in record.getMessage() for record in caplog.records] == [True], given
    caplog.clear()
    api_config("cifar10_lt:sdclr", {"prune.rate": 0.5, "data.n_max": 9}, epochs=3)
    api_config("cifar10_lt:byol", {"target.momentum": 0.5, "predictor.layers": 3})
    api_config("cifar10_lt:swav", {"prototypes.count": 9})
    api_config("cifar10_lt:simclr", {"prune.rate": 0.5}, pairs=[[["dense", 0], ["of_a_user", 1]]])  # maybe pruned
    api_config("cifar10_lt:sdclr", pairs=[3], prune={"rate": 0.5})  # wrong, as `check` says
    assert not caplog.records


def test_what_a_recipe_sets_is_read():
    """But for the rate of pruning, which stands beside SimCLR for SDCLR, and what of a head that is left out."""
    for method, (row, damaged) in methods.METHODS.items():
        for data_set, recipe in ((cifar10_lt.DATA_SET, methods.SMALL), (digits_lt.DATA_SET, digits_lt.RECIPE)):
            config = methods.config(method, data_set, recipe)
            given = records.flat(methods.ROWS[row][1]) | records.flat(recipe.get(row, {}))
            assert recipes.unread(config, given) == {}, method
            assert bool(recipes.unread(config, ["prune.rate"])) != damaged


def test_a_method_has_the_pairs_of_its_name():
    """Tables call a run by its method."""
    for method, given, said in [
        ("sdclr", "simclr", "pairs has no side of the sparse branch, and sdclr is a method with one"),
        ("simclr", "sdclr", "pairs has a side of the sparse branch, and simclr is a method without one"),
    ]:
        config = digits_lt.get_config(method)
        config.pairs = digits_lt.get_config(given).pairs
        with pytest.raises(UserError, match=said):
            recipes.check_new(config)
        recipes.check(config)  # a run that is there may go on
        config.method = "mine"
        recipes.check_new(config)


if __name__ == "__main__":
    (GOLDEN / "configs.txt").write_text(text())
    (GOLDEN / "methods.txt").write_text(differences())
