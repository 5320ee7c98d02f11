"""Every number of a config, and what asks for more than the machine has: refused in a sentence, before anything is
made. Nothing here compiles."""

import json
import math
import time

import jax
import numpy as np
import pytest

from configs import digits_lt
from sdclr_jax import parallel, recipes
from sdclr_jax.api import exemplars
from sdclr_jax.commands import main
from sdclr_jax.data import batches
from sdclr_jax.data.images import Files
from sdclr_jax.errors import LONGEST, ArgumentError, UserError, shortened
from sdclr_jax.recipes import checks
from tests.test_configs import declared, with_field

HUGE = 10**6000  # Python does not even write it
VALUES = (
    HUGE,
    -HUGE,
    10**30,
    10**9,
    10**6,
    1.5,
    1,
    0,
    -1,
    -(10**9),
    1e300,
    1e38,
    1e-300,
    math.nan,
    math.inf,
    -math.inf,
    True,
)


def numbers():
    for name, field, config in declared():
        first = next(iter(field.default), None) if isinstance(field.default, tuple) else field.default
        if isinstance(first, int | float) and not isinstance(first, bool):
            yield pytest.param(
                name, field, config, type(first), id=f"{config.objective.name}-{config.model.name}-{name}"
            )


FIELDS = list({param.id: param for param in numbers()}.values())


@pytest.mark.parametrize(("name", "field", "config", "kind"), FIELDS)
def test_a_number_is_within_its_bounds_or_refused_by_name(name, field, config, kind):
    low, high = map(float, field.accepted[1:-1].split(", "))
    assert kind is float or high < math.inf, "a whole number starts, allocates or counts something"
    several = isinstance(field.default, tuple)
    for value in VALUES:
        within = low <= value <= high and (kind is float or isinstance(value, int)) and value is not True
        try:
            checks._check_field(name, (value,) * len(field.default) if several else value, field)
        except UserError as error:
            assert str(error).startswith(f"{name} is ") and len(str(error)) < 700
            assert not within or value in (low, high) or abs(value) > checks.LARGEST
        else:
            assert within, value


def test_a_value_beyond_is_refused_whichever_way_it_comes(capsys):
    config = digits_lt.get_config("simclr")
    with pytest.raises(UserError, match="^projector.out is 1000000000: it must be at least 1 and at most 65536$"):
        recipes.check(with_field(config, "projector.out", 10**9))
    with pytest.raises(UserError, match="^evaluate.full_drops has 1000 values: it must have at most 100$"):
        recipes.check(with_field(digits_lt.get_config("simclr"), "evaluate.full_drops", (3,) * 1000))
    for size in (0, -5):
        flags = ["pretrain", "--config=cifar10_lt:sdclr", "--workdir=/nowhere", f"--config.views.size={size}"]
        assert main.main(flags) == 2
        assert capsys.readouterr().err == f"sdclr: views.size is {size}: it must be at least 1 and at most 4096\n"


@pytest.mark.parametrize("value", ["9" * 5000, "(" * 5000, "-1e5000", "nan", "[" * 300, "1" + "0" * 400], ids=range(6))
@pytest.mark.parametrize("field", ["epochs", "optimizer.learning_rate", "pairs", "objective.name", "views.mean", "x"])
def test_a_message_is_bounded_whatever_was_given(field, value, capsys):
    argv = ["pretrain", "--config=digits_lt:sdclr", "--workdir=/nowhere/x", f"--config.{field}={value}"]
    assert main.main(argv) == 2
    said = capsys.readouterr().err
    assert said.startswith("sdclr: ") and field in said and len(said) < 1000 and said.count("\n") == 1


@pytest.mark.parametrize("value", [HUGE, -HUGE, 10**400, [[[]]] * 1000], ids=range(4))
@pytest.mark.parametrize("field", ["epochs", "optimizer.learning_rate", "pairs", "views.mean"])
def test_a_config_in_python_is_refused_alike(field, value):
    config = digits_lt.get_config("simclr")
    with pytest.raises(UserError, match=f"^{field} ") as refused:
        recipes.override(config, {field: value})
        recipes.check(config)
    assert len(str(refused.value)) < 1000


def test_shortened():
    assert shortened("a" * 20, 20) == "a" * 20
    assert shortened("a" * 30 + "b" * 30, 20) == "aaaaaaaaaa ... bbbbb"
    assert "digits" in shortened(HUGE)
    assert len(str(UserError("x" * 10**6))) == len(str(ArgumentError("x", "y" * 10**6))) == LONGEST


@pytest.mark.parametrize("command", ["prepare", "report", "exemplars"])
def test_what_argparse_refuses_is_a_sentence_too(command, capsys):
    assert main.main([command, "--" + "x" * 5000, "digits"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("sdclr: ") and said.endswith(f"sdclr {command} --help says more\n") and len(said) < 600


ONE = parallel.shardings(jax.devices()[:1])
IMAGES = np.zeros((400, 8, 8, 1), np.uint8)


@pytest.mark.parametrize(
    ("method", "fields", "said"),
    [
        ("simclr", {"projector.hidden": 65536, "projector.layers": 4}, "projector.hidden"),
        ("byol", {"predictor.hidden": 65536, "projector.out": 65536}, "predictor.hidden"),
        ("swav", {"prototypes.count": 2**20, "projector.out": 65536}, "prototypes.count"),
        ("moco", {"objective.queue": 2**24, "projector.out": 65536}, "objective.queue"),
        ("simclr", {"model.width": 2048}, "the model"),
    ],
)
def test_a_state_that_no_device_can_hold_is_refused(monkeypatch, method, fields, said):
    monkeypatch.setattr(parallel, "host_memory", lambda: 25 * 10**8)
    config = digits_lt.get_config(method)
    config.update_from_flattened_dict(fields)
    recipes.check(config)
    with pytest.raises(UserError, match=rf"take [\d,.]+ GB, and there are 2.5 GB of memory: make .*{said}"):
        recipes.abstract_state(config, (400, 8, 8, 1), ONE)


def photos(method="simclr", **fields):
    config = recipes.load(f"folder:{method}")
    recipes.override(
        config,
        {"data.name": "folder:/photos", "batch_size": 256} | {k.replace("__", "."): v for k, v in fields.items()},
    )
    recipes.check(config)
    return config


def test_batches_that_the_machine_cannot_hold_are_refused(monkeypatch):
    monkeypatch.setattr(parallel, "host_memory", lambda: 10**9)
    files = Files("/photos", [f"{i}.jpg" for i in range(300)])
    with pytest.raises(
        UserError, match="the views of a batch take 103.1 GB, and .* 1.0 GB .*: make batch_size or views.si"
    ):
        recipes.batches(photos(views__size=4096), files, ONE)
    with pytest.raises(
        UserError, match="the batches made ahead take 6.5 GB, .*: make data.prefetch, batch_size or views"
    ):
        recipes.batches(photos(data__prefetch=256), files, ONE)
    with pytest.raises(
        UserError, match="a batch of images to evaluate takes 12.9 GB, .* make evaluate.batch_size or ev"
    ):
        recipes.sizes.check_evaluated(photos(evaluate__batch_size=65536), files)
    recipes.batches(photos(), files, ONE)


def test_similarities_that_a_device_cannot_hold_are_refused_unless_in_chunks(monkeypatch):
    monkeypatch.setattr(parallel, "host_memory", lambda: 10**10)
    config, view = digits_lt.get_config("simclr"), (1, 8, 8, 1)
    config.batch_size = 32768
    with pytest.raises(UserError, match="the similarities of a batch take 17.2 GB, .* 10.0 GB .*: set objective.chunk"):
        recipes.sizes.check_batches(config, IMAGES, view, 2, ONE)
    recipes.sizes.check_batches(config, IMAGES, view, 2, parallel.shardings())  # each of eight has an eighth
    config.objective.chunk = 1024
    recipes.sizes.check_batches(config, IMAGES, view, 2, ONE)


def test_a_million_worker_processes_are_refused(monkeypatch):
    monkeypatch.setattr(batches.os, "sched_getaffinity", lambda pid: range(16))
    assert batches.processes(-1) == 16
    assert batches.processes(64) == 64
    with pytest.raises(ArgumentError, match="^workers is 65, but there are 16 cores: it must be at most 64$"):
        batches.processes(65)
    with pytest.raises(UserError, match="^data.workers is 1000000: it must be at least -1 and at most 1024"):
        photos(data__workers=10**6)
    with pytest.raises(UserError, match="^data.workers is 1000, but there are 16 cores"):
        recipes.batches(photos(data__workers=1000), Files("/photos", ["a.jpg"] * 300), ONE)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("rates", tuple(i / 200 for i in range(200)), "is 200 numbers: .* at most 100"),
        ("rates", (math.nan,), "each at least 0 and below 1"),
        ("pairs_of_views", 10**9, "is 1000000000: it must be at most 1000"),
        ("shown", 10**4000, "it must be at most 50000"),
        ("neighbours", 10**9, "it must be at most 100"),
        ("neighbours", -1, "it must be at least 0"),
    ],
)
def test_the_numbers_of_exemplars_have_bounds(name, value, said):
    given = {"rates": (0.5,), "pairs_of_views": 1, "shown": 1, "neighbours": 1, "against": "recalibrated", name: value}
    with pytest.raises(ArgumentError, match=f"^{name} .*{said}"):
        exemplars.Asked(**given).checked()


def test_numbers_of_numpy_become_those_that_json_holds():
    """Or the measurements of hours could not be written down at their end."""
    rates = tuple(np.array([0.5, 0.75], np.float32))
    found = exemplars.Asked(rates, np.int64(1), "pruned", np.uint16(9), np.int8(2)).checked()
    assert json.loads(json.dumps(found)) == [[0.5, 0.75], 1, "pruned", 9, 2]


@pytest.mark.parametrize(
    "fields", [{"depth": 10**6}, {"width": 10**9}, {"heads": 10**9}, {"patch": 10**9}, {"depth": 101}]
)
def test_the_numbers_of_a_transformer_have_bounds(fields):
    began = time.process_time()
    config = recipes.load("digits_lt:simclr")
    recipes.override(config, {"model.name": "vit_tiny"} | {f"model.{k}": v for k, v in fields.items()})
    with pytest.raises(UserError, match=f"^model.{next(iter(fields))} is "):
        recipes.check(config)
    assert time.process_time() - began < 5
