"""Features of a run's images: resident or decoded as they are needed, on any number of devices."""

import jax
import numpy as np
import pytest

from sdclr_jax import parallel, recipes
from sdclr_jax.evaluation.frozen import FrozenEncoder, dense
from tests.commands.test_pretrain import config


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """Config, validation images, and a state whose branches differ."""
    c = config()
    examples = recipes.data(c, str(tmp_path_factory.mktemp("data"))).part("validation")
    state = jax.jit(recipes.method(c, 1).init)(np.uint32(0), np.zeros((1, 8, 8, 1), np.float32))
    sparse = jax.tree.map(lambda x: x + 1, state.params["norms"]["sparse"])
    return c, examples, state.replace(params=state.params | {"norms": state.params["norms"] | {"sparse": sparse}})


@pytest.mark.parametrize("devices", [1, 3])  # 256 images a batch, which three cannot share
def test_features_are_those_of_the_dense_branch(digits, devices):
    c, examples, state = digits
    encoder = FrozenEncoder(c, parallel.shardings(jax.devices()[:devices]))
    found = encoder.features(dense(state), examples)
    views = (examples.images.astype(np.float32) / 255 - np.float32(0.305)) / np.float32(0.376)
    expected = recipes.network(c).apply(dense(state), views, method="encode")
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)
