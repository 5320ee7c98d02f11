"""Shapes, the initialiser layer by layer, and the masked share of every layer at step 0."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sdclr_jax import branches, pruning, trees
from sdclr_jax.models import ENCODERS, Head, Network, Prototypes


def shapes_of(network, view):
    return jax.eval_shape(lambda: network.init(jax.random.key(0), jnp.zeros(view), train=True))


@pytest.mark.parametrize(
    ("name", "stem", "side", "parameters"),
    # torchvision's counts less its classifier (512 or 2048 x 1000 + 1000); the 3x3 stem has 64*3*(49-9) fewer.
    [
        ("resnet18", "imagenet", 224, 11_689_512 - 513_000),
        ("resnet34", "imagenet", 224, 21_797_672 - 513_000),
        ("resnet50", "imagenet", 224, 25_557_032 - 2_049_000),
        ("resnet18", "cifar", 32, 11_689_512 - 513_000 - 64 * 3 * 40),
    ],
)
def test_parameter_counts(name, stem, side, parameters):
    encoder = ENCODERS[name](stem=stem)
    variables = shapes_of(encoder, (1, side, side, 3))
    assert sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"])) == parameters


@pytest.mark.parametrize(("stem", "side", "last"), [("imagenet", 224, 7), ("cifar", 32, 4), ("imagenet", 225, 8)])
def test_resolution(stem, side, last):
    """Symmetric padding as in PyTorch: floor((side + 2 * pad - kernel) / stride) + 1."""
    encoder = ENCODERS["resnet18"](stem=stem)

    def last_block(x):
        _, captured = encoder.init_with_output(
            jax.random.key(0), x, train=True, capture_intermediates=lambda module, _: module.name == "stage4_block2"
        )
        return captured["intermediates"]["stage4_block2"]["__call__"][0]

    assert jax.eval_shape(last_block, jnp.zeros((1, side, side, 3))).shape == (1, last, last, 512)


def test_features_and_projection_shapes():
    network = Network(ENCODERS["resnet50"](width=8), Head(3, 16, 6))
    variables = shapes_of(network, (1, 32, 32, 3))
    outputs, _ = jax.eval_shape(
        lambda v: network.apply(v, jnp.zeros((5, 32, 32, 3)), train=True, mutable=["batch_stats"]), variables
    )
    assert outputs.features.shape == (5, 8 * 8 * 4)
    assert outputs.projection.shape == (5, 6)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_projector_has_a_bias_first_and_a_norm_after_each(layers):
    params = shapes_of(Head(layers, 16, 6), (5, 8))["params"]
    assert "bias" in params["linear1"]
    assert [k for k in params if k.startswith("linear") and "bias" in params[k]] == ["linear1"]
    assert sum(k.startswith("norm") for k in params) == layers
    assert params[f"linear{layers}"]["kernel"].shape[1] == params[f"norm{layers}"]["scale"].shape[0] == 6


@pytest.fixture(scope="module")
def initial():
    network = Network(ENCODERS["resnet18"](), Head(3, 512, 128))
    return jax.jit(lambda: network.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=True))()["params"]


def test_initialiser(initial):
    """Kaiming normal by fan-out for convolutions; PyTorch's default for linear layers; norms at 1 and 0."""
    for name, x in trees.named(initial).items():
        x = np.asarray(x)
        if name.endswith("kernel") and x.ndim == 4:
            expected = np.sqrt(2 / (x.shape[0] * x.shape[1] * x.shape[3]))
            assert x.std() == pytest.approx(expected, rel=4 / np.sqrt(x.size)), name
            assert abs(x).max() > 3 * expected or x.size < 2000, f"{name} looks truncated"
        elif name.endswith("kernel"):
            bound = 1 / np.sqrt(x.shape[0])
            assert abs(x).max() == pytest.approx(bound, rel=0.01), name
            assert x.std() == pytest.approx(bound / np.sqrt(3), rel=0.02), name
        else:
            assert (x == (1 if name.endswith("scale") else 0)).all(), name


def test_density_at_step_0(initial):
    """One threshold compares the scales of layers: at 90 % the stem keeps half and the last stage a twentieth."""
    weights = branches.split(initial, {"dense"})["weights"]
    prunable = Network(ENCODERS["resnet18"](), Head(3, 512, 128)).prunable
    density = pruning.density(jax.jit(lambda w: pruning.magnitude_mask(w, 0.9, prunable=prunable))(weights))
    assert float(density["encoder/stem"]) == pytest.approx(0.49, abs=0.03)
    assert float(density["encoder/stage4_block2/conv2"]) == pytest.approx(0.05, abs=0.01)
    assert float(density["all"]) == pytest.approx(0.1, abs=1e-6)


def test_norms_are_told_by_name(initial):
    parts = branches.split(initial, {"dense", "sparse"})
    norms = set(trees.named(parts["norms"]["dense"]))
    weights = set(trees.named(parts["weights"]))
    assert norms | weights == set(trees.named(initial))
    assert not norms & weights
    assert {name.split("/")[-1] for name in norms} == {"scale", "bias"}
    assert len(norms) == 2 * (20 + 3)
    assert {name for name in weights if not name.endswith("kernel")} == {"projector/linear1/bias"}


def test_bfloat16_computes_in_half_and_keeps_float32_weights():
    network = Network(ENCODERS["resnet8"](width=4, dtype=jnp.bfloat16), Head(2, 8, 4, dtype=jnp.bfloat16))
    with jax.numpy_dtype_promotion("standard"):
        variables = shapes_of(network, (1, 8, 8, 1))
        outputs, _ = jax.eval_shape(
            lambda v: network.apply(v, jnp.zeros((4, 8, 8, 1)), train=True, mutable=["batch_stats"]), variables
        )
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    assert outputs.projection.dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("settings", "biases", "norms"),
    [
        ({}, {1}, {1: 2, 2: 2, 3: 2}),  # SDCLR
        ({"last": "plain_norm"}, {1}, {1: 2, 2: 2}),  # SimSiam: the last norm has statistics and nothing to learn
        ({"last": "nothing"}, {1}, {1: 2, 2: 2}),  # BYOL, Barlow Twins, VICReg
        ({"last": "bias"}, {1, 3}, {1: 2, 2: 2}),  # SwAV
        ({"last": "bias", "hidden_norm": False}, {1, 2, 3}, {}),  # MoCo v2
    ],
)
def test_heads_of_the_papers(settings, biases, norms):
    variables = shapes_of(Head(3, 16, 6, **settings), (5, 8))
    params = variables["params"]
    assert {i for i in (1, 2, 3) if "bias" in params[f"linear{i}"]} == biases
    assert {i: len(params[f"norm{i}"]) for i in (1, 2, 3) if f"norm{i}" in params} == norms
    with_statistics = {"norm1", "norm2"} if norms else set()
    if settings.get("last", "norm").endswith("norm"):
        with_statistics |= {"norm3"}
    assert set(variables.get("batch_stats", {})) == with_statistics


def test_predictor_and_prototypes():
    network = Network(ENCODERS["resnet8"](width=4), Head(2, 8, 6), Head(2, 3, 6, last="bias"), Prototypes(5))
    init = jax.jit(lambda: network.init_with_output(jax.random.key(0), jnp.ones((4, 8, 8, 1)), train=True))
    outputs, variables = init()
    assert outputs.prediction.shape == outputs.projection.shape == (4, 6)
    np.testing.assert_allclose(np.linalg.norm(outputs.prototypes, axis=0), np.ones(5), rtol=1e-5)
    assert set(variables["params"]) == {"encoder", "projector", "predictor", "prototypes"}
    second = outputs.of_view(1, 2)
    np.testing.assert_array_equal(second.prediction, outputs.prediction[1::2])
    np.testing.assert_array_equal(second.features, outputs.features[1::2])
    np.testing.assert_array_equal(second.prototypes, outputs.prototypes)
