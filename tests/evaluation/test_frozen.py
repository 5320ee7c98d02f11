"""Features of a run's images: resident or decoded as they are needed, on any number of devices."""

import importlib
import sys
from types import SimpleNamespace

import flax.linen as nn
import jax
import numpy as np
import pytest
from PIL import Image

from sdclr_jax import parallel, recipes
from sdclr_jax.data.crops import CentreCrop
from sdclr_jax.data.examples import Examples
from sdclr_jax.data.images import Files
from sdclr_jax.evaluation import frozen_features
from sdclr_jax.evaluation.frozen import FrozenEncoder, dense, encoder_variables
from sdclr_jax.evaluation.frozen_features import FrozenFeatures
from sdclr_jax.models.resnet import BasicBlock, ResNet
from tests.runs import config


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
    encoder = recipes.frozen_encoder(c, parallel.shardings(jax.devices()[:devices]))
    found = encoder.features(encoder_variables(dense(state)), examples.images)
    views = (examples.images.astype(np.float32) / 255 - np.float32(0.305)) / np.float32(0.376)
    expected = recipes.network(c).apply(dense(state), views, method="encode")
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_any_number_of_images_has_features(digits):
    c, examples, state = digits
    encoder = recipes.frozen_encoder(c, parallel.shardings(jax.devices()[:1]))
    variables, images = encoder_variables(dense(state)), examples.images[:3]
    some = encoder.features(variables, images)
    for count in (0, 1):
        found = encoder.features(variables, images[:count])
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, some[:count])


class Brightness(nn.Module):
    """An encoder without norms, and so without batch statistics."""

    @nn.compact
    def __call__(self, views, train):
        return views.mean((1, 2)) * self.param("scale", nn.initializers.ones, ())


def test_an_encoder_without_batch_statistics_a_view_of_files_and_a_bar(tmp_path, capsys):
    """The middle of each file is seen; nothing of a network beside its encoder is read."""
    grey = [10, 250, 90]
    for i, value in enumerate(grey):
        Image.new("L", (40, 20), value).save(tmp_path / f"{i}.png")
    images = Files(tmp_path, np.array([f"{i}.png" for i in range(3)]))
    encoder = FrozenEncoder(
        Brightness(),
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
        crop=CentreCrop(size=8, resize=8),
        batch_size=2,
        workers=0,
        shardings=parallel.shardings(jax.devices()[:1]),
    )
    network = {"params": {"encoder": {"scale": np.float32(2)}, "projector": {}}, "batch_stats": {"projector": {}}}
    variables = encoder_variables(network)
    assert variables.keys() == {"params"}
    found = encoder.features(variables, images, progress=True)
    expected = np.repeat(2 * (np.array(grey)[:, None] / 255 - 0.5) / 0.25, 3, axis=1)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert "features: 100%" in capsys.readouterr().err
    assert encoder.features(variables, images[np.arange(0)]).shape == (0, 3)
    np.testing.assert_allclose(encoder.features(variables, encoder.decoded(images)), found, rtol=1e-6)


def test_features_of_an_own_encoder_are_kept_as_long_as_its_code_is_the_same(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    images = np.zeros((2, 8, 8, 1), np.uint8)
    examples = Examples(images, np.arange(2, dtype=np.int32), np.array(["a", "b"]), class_names=("x", "y"))

    def kept(encoder):
        """How many files of features are there after an evaluation."""
        made = SimpleNamespace(encoder=encoder, shardings=None, seen=lambda images: {}, here=lambda: made)
        made.features = lambda variables, images: np.zeros((2, 1), np.float32)
        parts = {"validation": np.arange(2)}
        FrozenFeatures(made, {}, examples, examples, parts, views=None, folder=tmp_path / "features")
        return len(list((tmp_path / "features").glob("*.npy")))

    assert kept(ResNet((1,), BasicBlock)) == 1
    counts = []
    for body in ("return views", "return views", "return 2 * views"):
        (tmp_path / "mine.py").write_text(
            "from sdclr_jax.models import Encoder\n\n\nclass Mine(Encoder):\n"
            f"    def __call__(self, views, train):\n        {body}\n"
        )
        monkeypatch.delitem(sys.modules, "mine", raising=False)
        mine = importlib.import_module("mine").Mine
        counts.append(kept(mine()))
    assert counts == [2, 2, 3]
    monkeypatch.delitem(sys.modules, "mine")  # as in a notebook, of which there is no source
    assert kept(mine()) == 3 and frozen_features._digest_of_code(["mine"]) == ""
