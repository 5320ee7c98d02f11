"""The vision transformer against its definition in NumPy: values, gradients, names, and views of another size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf

from sdclr_jax import trees
from sdclr_jax.models import ENCODERS
from tests.objectives.oracles import gradients

RNG = np.random.default_rng(0)
PATCH, HEADS = 2, 2
VIT = ENCODERS["vit_tiny"](patch=PATCH, width=4, depth=2, heads=HEADS, dtype=jnp.float64)
VIEWS = RNG.standard_normal((2, 4, 6, 2))  # a grid of 2 x 3


@pytest.fixture(autouse=True)
def float64():
    # Flax asks for promote_types(float64, float32), which strict promotion refuses.
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        yield


def parameters(views):
    shapes = jax.eval_shape(lambda: VIT.init(jax.random.key(0), views[:1], train=True))["params"]
    return jax.tree.map(lambda x: RNG.standard_normal(x.shape), shapes)


def layer_norm(x, p, name):
    x = x - x.mean(axis=-1, keepdims=True)
    return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + 1e-6) * p[f"{name}/scale"] + p[f"{name}/bias"]


def linear(x, p, name):
    return x @ p[f"{name}/kernel"] + p[f"{name}/bias"]


def attention(x, p, name):
    """Of one image, [N, width]: the queries, then the keys, then the values, each a head after the other."""
    parts = linear(x, p, f"{name}/qkv").reshape(len(x), 3, HEADS, -1)
    found = []
    for head in range(HEADS):
        q, k, v = (parts[:, i, head] for i in range(3))
        weights = np.exp(q @ k.T / np.sqrt(q.shape[1]))
        found.append(weights / weights.sum(axis=1, keepdims=True) @ v)
    return linear(np.concatenate(found, axis=1), p, f"{name}/proj")


def mlp(x, p, name):
    x = linear(x, p, f"{name}/fc1")
    return linear(x * (1 + erf(x / np.sqrt(2))) / 2, p, f"{name}/fc2")


def paper(p, views):
    """Dosovitskiy et al. 2021, Eq. 1 to 4, with biases on the queries, keys and values."""
    features = []
    for view in views:
        tokens = [p["cls_token"][0, 0]]
        for row in range(0, view.shape[0], PATCH):
            for column in range(0, view.shape[1], PATCH):
                patch = view[row : row + PATCH, column : column + PATCH]
                kernel = p["patch_embed/proj/kernel"].reshape(patch.size, -1)
                tokens.append(patch.ravel() @ kernel + p["patch_embed/proj/bias"])
        x = np.stack(tokens) + p["pos_embed"][0]
        for i in range(2):
            x = x + attention(layer_norm(x, p, f"blocks_{i}/norm1"), p, f"blocks_{i}/attn")
            x = x + mlp(layer_norm(x, p, f"blocks_{i}/norm2"), p, f"blocks_{i}/mlp")
        features.append(layer_norm(x, p, "norm")[0])
    return np.stack(features)


def test_value_and_gradient_are_the_papers():
    params = parameters(VIEWS)
    weights = RNG.standard_normal((2, 4))

    def weighted(params):
        features = VIT.apply({"params": params}, VIEWS, train=True)
        return (features * weights).sum(), features

    found, features = jax.jit(jax.grad(weighted, has_aux=True))(params)
    p = trees.named(params)
    np.testing.assert_allclose(features, paper(p, VIEWS), rtol=1e-9)
    expected = gradients(lambda *x: (paper(dict(zip(p, x, strict=True)), VIEWS) * weights).sum(), list(p.values()))
    for (name, x), y in zip(trees.named(found).items(), expected, strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=1e-9 * np.abs(y).max(), err_msg=name)


def cubic(old, new):
    """Weights [new, old] of bicubic interpolation (Keys, a = -1/2) at the centres of the new places."""
    at = (np.arange(new) + 0.5) * old / new - 0.5
    x = np.abs(at[:, None] - np.arange(old)[None])
    near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    weights = np.where(x <= 1, near, np.where(x < 2, far, 0))
    return weights / weights.sum(axis=1, keepdims=True)


def test_larger_views_take_interpolated_position_embeddings():
    params = parameters(np.zeros((1, 6, 6, 2)))  # a grid of 3 x 3
    larger = RNG.standard_normal((1, 8, 12, 2))  # of 4 x 6
    token, grid = params["pos_embed"][:, :1], params["pos_embed"][0, 1:].reshape(3, 3, 4)
    grid = np.einsum("ia,jb,abc->ijc", cubic(3, 4), cubic(3, 6), grid)
    by_hand = params | {"pos_embed": np.concatenate([token, grid.reshape(1, -1, 4)], axis=1)}
    found = jax.jit(lambda params: VIT.apply({"params": params}, larger, train=False))(params)
    np.testing.assert_allclose(found, paper(trees.named(by_hand), larger), rtol=1e-9)


def test_names_and_shapes_are_timms():
    """Of `vit_tiny_patch16_224`, 5,717,416 parameters with the classifier of 193,000."""
    encoder = ENCODERS["vit_tiny"]()
    params = jax.eval_shape(lambda: encoder.init(jax.random.key(0), jnp.zeros((1, 224, 224, 3)), train=True))["params"]
    shapes = {name.replace("blocks_", "blocks/").replace("/", "."): x.shape for name, x in trees.named(params).items()}
    assert sum(np.prod(shape) for shape in shapes.values()) == 5_717_416 - 193_000
    assert shapes["pos_embed"] == (1, 197, 192)
    assert shapes["blocks.11.attn.qkv.kernel"] == (192, 576)
    assert shapes["blocks.0.mlp.fc1.kernel"] == (192, 768)
    assert shapes["patch_embed.proj.kernel"] == (16, 16, 3, 192)
    assert {"cls_token", "norm.scale", "blocks.0.norm2.bias", "blocks.0.attn.proj.bias", "blocks.0.mlp.fc2.bias"} <= {
        *shapes
    }


def test_at_the_start_a_global_threshold_prunes_all_layers_alike():
    """Kernels have the standard deviation 0.02, the patch embedding 1 / sqrt(3 * 16 * 16 * 3), and biases are 0."""
    encoder = ENCODERS["vit_tiny"](depth=1)
    with jax.enable_x64(False):
        params = jax.jit(lambda: encoder.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=True))()["params"]
    for name, x in trees.named(params).items():
        kind = name.split("/")[-1]
        if kind == "kernel":
            assert float(np.std(x)) == pytest.approx(0.0208 if "patch" in name else 0.02, rel=0.02), name
        elif kind == "pos_embed":
            assert float(np.std(x)) == pytest.approx(0.02, rel=0.1)
        elif kind == "cls_token":
            assert 0 < np.abs(x).max() < 1e-5
        else:
            assert (x == (1 if kind == "scale" else 0)).all(), name


def test_half_precision_is_of_the_computation_alone():
    encoder = ENCODERS["vit_tiny"](patch=2, width=4, depth=1, heads=2, dtype=jnp.bfloat16)
    with jax.enable_x64(False):
        features, variables = jax.eval_shape(
            lambda: encoder.init_with_output(jax.random.key(0), jnp.zeros((1, 4, 4, 3)), train=True)
        )
    assert features.dtype == jnp.bfloat16
    assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
