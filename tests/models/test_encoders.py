"""The contract of every encoder in the table, and of one that the package does not know: a row is all that it takes."""

import copy
import re
from functools import cache, partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import base, methods
from sdclr_jax import branches, parallel, recipes, trees
from sdclr_jax.errors import ArgumentError, UserError
from sdclr_jax.models import ENCODERS, Encoder, Head, Network
from sdclr_jax.run.checkpoints import Checkpoints
from tests import tiny


class Outside(Encoder):
    """Has no convolution, no batch norm, and norms that Flax has named."""

    width: int = 16
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = nn.Dense(self.width, dtype=self.dtype)(x.astype(self.dtype).reshape(len(x), -1))
        return nn.gelu(nn.LayerNorm(dtype=self.dtype)(x))


ROWS = list(ENCODERS)
TINY = {
    "resnet8": ({"width": 2}, {}),
    "vit_tiny": ({"patch": 4, "width": 8, "depth": 1, "heads": 2}, {}),
    "convnext_tiny": ({"depths": (1,), "width": 8, "layer_scale": 1.0}, {}),
    "outside": ({"width": 8}, {"hidden_norm": False, "last": "bias"}),
}
FEATURES = {"vit_tiny": 8, "convnext_tiny": 8, "outside": 8}
ONE = jax.sharding.SingleDeviceSharding(jax.devices()[0])
each = pytest.mark.parametrize("name", FEATURES)
# A ResNet is trained in the tests of everything else. A ConvNeXt has convolutions and LayerNorms, as those that are
# trained have, so that it is trained once.
TRAINED = [
    ("vit_tiny", "simclr"),
    ("vit_tiny", "sdclr"),
    ("convnext_tiny", "sdclr"),
    ("outside", "simclr"),
    ("outside", "sdclr"),
]


@pytest.fixture(scope="module", autouse=True)
def row_from_outside():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ENCODERS, "outside", Outside)
        yield


@cache
def method(name, row):
    """As `recipes` puts it together from a config, on 8 x 8 images, without decay."""
    config = base.get_config()
    methods.choose(config, row, tiny.RECIPE)
    recipes.choose_encoder(config, name)
    model, projector = TINY[name]
    config.model.update(model)
    config.projector.update(projector)
    config.epochs, config.prune.rate = 10, 0.5
    config.optimizer.warmup_epochs, config.optimizer.weight_decay = 0, 0.0
    recipes.check(config)
    built = recipes.method(config, tiny.STEPS_PER_EPOCH)
    built.make_views = tiny.two_flips
    return built


@cache
def step(name, row):
    m = method(name, row)
    return jax.jit(lambda state, images: m.step(m.refresh(state) if m.damaged else state, images))


@cache
def run(name, row="sdclr"):
    """The states before the first step and after each of two, and the losses."""
    states, losses = [jax.device_put(jax.jit(method(name, row).init)(np.uint32(0), jnp.zeros((1, 8, 8, 1))), ONE)], []
    for _ in range(2):
        state, scalars = step(name, row)(states[-1], tiny.images())
        states.append(state)
        losses.append(float(scalars["loss"]))
    return states, losses


def named(state):
    return trees.named(state.replace(key=None))


@pytest.mark.parametrize(("name", "row"), TRAINED)
def test_it_trains_plain_and_damaged(name, row):
    states, losses = run(name, row)
    assert np.isfinite(losses).all()
    for before, after in zip(states[:-1], states[1:], strict=True):
        moved = trees.named(after.params["weights"]["encoder"])
        for leaf, x in trees.named(before.params["weights"]["encoder"]).items():
            assert np.isfinite(moved[leaf]).all(), leaf
            assert (x != moved[leaf]).any(), leaf


@pytest.mark.parametrize("name", ["vit_tiny", "outside"])
def test_it_resumes_to_the_bit(name, tmp_path):
    states, _ = run(name)
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(1, states[1])
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=ONE), states[1])
    with Checkpoints(tmp_path / "checkpoints", read_only=True) as checkpoints:
        state, _ = step(name, "sdclr")(checkpoints.restore(like=like), tiny.images())
    found, expected = named(state), named(states[2])
    assert found.keys() == expected.keys()
    for leaf, x in expected.items():
        np.testing.assert_array_equal(found[leaf], x, err_msg=leaf)


@pytest.mark.parametrize("name", ["vit_tiny", "outside"])
def test_one_and_eight_devices_agree(name):
    """In float64, so that what differs would be another computation and not another rounding."""
    before = jax.device_get(run(name)[0][1].replace(key=None))  # its mask has cut half of the weights
    network, results = method(name, "sdclr").network, []
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        built = copy.copy(method(name, "sdclr"))
        double = {"dtype": np.dtype("float64")}
        built.network = network.clone(
            encoder=network.encoder.clone(**double), projector=network.projector.clone(**double)
        )
        for devices in (jax.devices()[:1], jax.devices()):
            shardings = parallel.shardings(devices)
            doubled = jax.tree.map(lambda x: x.astype(np.float64) if x.dtype == np.float32 else x, before)
            state = jax.device_put(doubled.replace(key=jax.random.key(0)), shardings.replicated)
            views = tuple(np.asarray(view, np.float64) for view in tiny.two_flips(None, tiny.images()))
            state, scalars = jax.jit(built.update)(state, jax.device_put(views, shardings.batch))
            results.append((float(scalars["loss"]), jax.device_get(named(state))))
    (one_loss, one), (eight_loss, eight) = results
    assert one_loss == pytest.approx(eight_loss, rel=1e-9)
    for leaf, x in one.items():
        np.testing.assert_allclose(x, eight[leaf], rtol=1e-6, atol=1e-8, err_msg=leaf)


@each
def test_each_branch_has_norms_of_its_own_and_they_learn(name):
    """A scale that receives no gradient stays at 1, since nothing decays."""
    states, _ = run(name)
    dense, sparse = (trees.named(states[1].params["norms"][branch]["encoder"]) for branch in ("dense", "sparse"))
    scales = [leaf for leaf in dense if leaf.endswith("scale")]
    assert scales
    for leaf in scales:
        assert (dense[leaf] != 1).all(), leaf
        assert (sparse[leaf] != 1).all(), leaf
        assert (dense[leaf] != sparse[leaf]).any(), leaf


@each
def test_it_evaluates(name):
    states, _ = run(name)
    variables = branches.variables(branches.BRANCHES["dense"], states[2].params, states[2].stats, mask=None)
    views = tiny.two_flips(None, tiny.images(3))[0]
    features = jax.jit(lambda v: method(name, "sdclr").network.apply(v, views, train=False, method="encode"))(variables)
    assert features.shape == (3, FEATURES[name])
    assert np.isfinite(features).all()
    assert np.std(features, axis=0).max() > 1e-3


def test_a_network_without_batch_norm_has_no_statistics():
    assert run("outside")[0][2].stats == {"dense": {}, "sparse": {}}


@pytest.mark.parametrize("name", [*ROWS, "outside"])
def test_the_mask_covers_more_than_half_of_the_kernels(name):
    network = Network(ENCODERS[name](), Head(2, 8, 4))
    variables = jax.eval_shape(lambda: network.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=True))
    kernels = {leaf: x for leaf, x in trees.named(variables["params"]).items() if x.ndim > 1}
    covered = {leaf: x.size for leaf, x in kernels.items() if network.prunable(leaf, x)}
    assert all(leaf.startswith("encoder/") for leaf in covered)
    assert sum(covered.values()) > 0.5 * sum(x.size for leaf, x in kernels.items() if leaf.startswith("encoder/"))


class Unprunable(Outside):
    @staticmethod
    def prunable(name, leaf):
        return False


class Misnamed(Outside):
    @nn.compact
    def __call__(self, x, train):
        return nn.LayerNorm(name="ln")(x.reshape(len(x), -1))


class Spatial(Outside):
    @nn.compact
    def __call__(self, x, train):
        return nn.Conv(4, (3, 3))(x)


@pytest.mark.parametrize(
    ("encoder", "said"),
    [
        (Spatial, r"the features that mine makes of views .* are \[1, .*, 4\]: an encoder gives \[B, D\], a row"),
        (Unprunable, "mine.prunable chooses none of the weights: a sparse branch needs some"),
        (Misnamed, "name of a LayerNorm is 'ln': it must contain 'norm'"),
    ],
)
def test_what_the_branches_could_not_use_is_refused(encoder, said, monkeypatch):
    monkeypatch.setitem(ENCODERS, "mine", encoder)
    config = base.get_config()
    recipes.choose_encoder(config, "mine")
    methods.choose(config, "sdclr")
    with pytest.raises((UserError, ArgumentError), match=f"^{said}"):
        recipes.abstract_state(config, (16, 8, 8, 1), parallel.shardings())


class WithoutType(Encoder):
    width: int = 4


class WithoutDefault(Encoder):
    width: int
    dtype: Any = jnp.float32


class Plain(nn.Module):
    dtype: Any = jnp.float32


@pytest.mark.parametrize(
    ("encoder", "said"),
    [
        (WithoutType, "the encoder mine has no field dtype: give its class"),
        (WithoutDefault, "the encoder mine has the field width without a default: give it one"),
        (Plain, "the encoder mine is no sdclr_jax.models.Encoder: make its class a subclass"),
    ],
)
def test_a_class_that_is_not_as_an_encoder_has_to_be_is_named(encoder, said, monkeypatch):
    monkeypatch.setitem(ENCODERS, "mine", encoder)
    with pytest.raises(UserError, match=f"^{said}"):
        recipes.encoder({"name": "mine"})


@pytest.mark.parametrize("name", ["resnet8", "vit_tiny", "convnext_tiny"])
def test_rematerialised_blocks_change_memory_alone(name):
    """Same parameters, values, gradients and statistics; each block is in the backward pass once more."""
    x = tiny.images() / np.float32(255)
    plain, remat = (recipes.encoder({"name": name, "remat": on} | TINY[name][0]) for on in (False, True))
    variables = jax.jit(partial(plain.init, train=True))(jax.random.key(0), x)
    again = jax.eval_shape(partial(remat.init, train=True), jax.random.key(0), x)
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, again)

    def made(encoder):
        def loss(params):
            features, new = encoder.apply({**variables, "params": params}, x, train=True, mutable=["batch_stats"])
            return jnp.sum(jnp.sin(features)), new

        return jax.value_and_grad(loss, has_aux=True)

    blocks = sum("block" in module for module in variables["params"])
    assert [str(jax.make_jaxpr(made(e))(variables["params"])).count("prevent_cse=True") for e in (plain, remat)] == [
        0,
        blocks,
    ]
    found, expected = (trees.named(jax.jit(made(encoder))(variables["params"])) for encoder in (remat, plain))
    assert found.keys() == expected.keys()
    for leaf, x in expected.items():
        np.testing.assert_allclose(found[leaf], x, rtol=1e-5, atol=1e-5 * np.abs(x).max(), err_msg=leaf)


def test_a_switch_brings_the_fields_of_the_other_encoder():
    """And keeps what both have: the stem of ResNets, the type of the computation."""
    config = base.get_config()
    config.model.update({"stem": "imagenet", "width": 32, "dtype": "bfloat16"})
    config.lock()
    recipes.choose_encoder(config, "resnet50")
    new = {"start": "", "start_sha256": "", "remat": False}
    expected = {"name": "resnet50", "stem": "imagenet", "width": 32, "dtype": "bfloat16"}
    assert config.model.to_dict() == new | expected
    recipes.choose_encoder(config, "vit_small")
    vit = new | {"name": "vit_small", "patch": 16, "width": 384, "depth": 12, "heads": 6, "dtype": "bfloat16"}
    assert config.model.to_dict() == vit
    recipes.choose_encoder(config, "vit_small")
    assert config.model.to_dict() == vit
    assert config.is_locked
    recipes.check(config)


def test_a_config_file_names_what_it_changes():
    config = base.get_config()
    config.model = {"name": "vit_tiny", "patch": 4}
    recipes.choose_encoder(config, "vit_tiny")
    assert (config.model.patch, config.model.width, config.model.dtype) == (4, 192, "float32")
    recipes.check(config)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ({"name": "vit_tiny", "stem": "cifar"}, "the config has model.stem, which vit_tiny does not have: its fields"),
        ({"name": "vit_tiny", "heads": 5}, "model.heads is 5: it must divide the width, 192"),
        ({"name": "vit_tiny", "patch": 0}, "model.patch is 0: it must be at least 1"),
        ({"name": "convnext_tiny", "depths": ()}, "model.depths is (): give the number of blocks of each stage"),
        ({"name": "convnext_tiny", "depths": (1, 0)}, "model.depths is 0: it must be at least 1"),
        ({"name": "resnet18", "width": 0}, "model.width is 0: it must be at least 1"),
        ({"name": "resnet18", "stem": "large"}, "unknown model.stem 'large': known are cifar, imagenet"),
        ({"name": "outside", "remat": True}, "model.remat is true, and outside has no field for it: give"),
        ({"name": "vit_tiny", "dtype": "bf16"}, "unknown model.dtype 'bf16': known are float32, bfloat16"),
        ({"name": "vgg"}, "unknown model.name 'vgg': known are resnet8, resnet10, "),
    ],
)  # fmt: skip
def test_what_an_encoder_does_not_accept_is_named(model, said):
    config = base.get_config()
    config.model = {"dtype": "float32"} | model
    with pytest.raises(UserError, match=f"^{re.escape(said)}"):
        recipes.check(config)


def test_a_description_of_an_encoder_that_is_not_there_is_refused():
    with pytest.raises(UserError, match=r"^unknown model\.name 'vgg': known are .*outside, .* add your own"):
        recipes.encoder({"name": "vgg", "width": 3})


def test_views_that_no_whole_number_of_patches_covers_are_refused():
    config = base.get_config()
    recipes.choose_encoder(config, "vit_tiny")
    config.views.size = 30
    with pytest.raises(UserError, match=r"^model\.patch is 16: it must divide the sides of the views, 30 x 30"):
        recipes.abstract_state(config, (16, 30, 30, 3), parallel.shardings())


def test_views_that_the_stages_halve_to_nothing_are_refused():
    config = base.get_config()
    recipes.choose_encoder(config, "convnext_tiny")
    config.views.size = 24
    with pytest.raises(UserError, match=r"^model\.depths is \(3, 3, 9, 3\), .* of 24 x 24 .* at least 32 pixels"):
        recipes.abstract_state(config, (16, 24, 24, 3), parallel.shardings())
