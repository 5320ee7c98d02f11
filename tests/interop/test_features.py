"""Features of tiny models against those that torchvision's and timm's own classes gave, in float64: padding at stride
2, max-pooling, epsilons, running variances, shortcuts, the order of channels, heads and places, GELU."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sdclr_jax import interop
from sdclr_jax.interop import names
from sdclr_jax.models import Bottleneck, ConvNeXt, ResNet, ViT
from tests.interop import files

double = {"dtype": jnp.float64}
MODELS = {
    # Basic blocks are held to the authors' code in tests/test_golden.py.
    "resnet, bottleneck": (ResNet((1, 1, 1, 1), Bottleneck, stem="imagenet", width=4, **double), "torchvision"),
    "vit": (ViT(patch=4, width=8, depth=2, heads=2, **double), "timm"),
    "convnext": (ConvNeXt((1, 1, 2, 1), width=2, **double), "timm"),
}


@pytest.mark.parametrize("name", MODELS)
def test_features_are_those_of_the_libraries(name):
    (encoder, library), golden = MODELS[name], files.features()[name]
    side = names.side(encoder, library)
    shapes = {key: tuple(shape) for key, shape in golden["shapes"].items()}
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        variables: dict = {}
        for key, shape in files.shapes_of(encoder, golden["side"]).items():
            kind, _, path = key.split("/", 2)
            (there,) = names.theirs(side.table, [path]).values()
            made = files.made(there, shapes.pop(there)).astype(np.float32)  # as the libraries hold them
            x = names.to_ours(made.astype(np.float64), there)
            assert x.shape == shape, key
            place = variables.setdefault(kind, {})
            *parents, leaf = path.split("/")
            for parent in parents:
                place = place.setdefault(parent, {})
            place[leaf] = x
        images = np.random.default_rng(0).standard_normal((2, golden["side"], golden["side"], 3))
        features = jax.jit(lambda v: encoder.apply(v, images, train=False))(variables)
    assert not shapes
    np.testing.assert_allclose(features, golden["features"], rtol=0, atol=1e-7 * np.abs(golden["features"]).max())
    assert interop.described({key: tuple(shape) for key, shape in golden["shapes"].items()}).side == (
        "torchvision" if name.startswith("resnet") else "timm"
    )
