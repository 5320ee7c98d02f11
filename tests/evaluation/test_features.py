"""Every image counted once and in order, whatever the last batch and the number of devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sdclr_jax.errors import ArgumentError, UserError
from sdclr_jax.evaluation.features import extract

IMAGES = np.random.default_rng(0).integers(0, 256, (37, 4, 4, 3), dtype=np.uint8)


def encoder(devices: int, dtype=jnp.float32):
    """[B, 4, 4, 3] -> [B, 3]: each image's sum per channel, exact in float32 and different for each image."""
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:devices]), "data")
    over_devices = jax.NamedSharding(mesh, jax.P("data"))
    return jax.jit(lambda images: jnp.sum(images, (1, 2), dtype=dtype), in_shardings=over_devices)


def batches(images):
    return ((images[start : start + 16], len(images[start : start + 16])) for start in range(0, len(images), 16))


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("count", [37, 32, 16, 3])
def test_every_image_once_in_order_in_one_shape(devices, count):
    encode = encoder(devices)
    told = []
    features = extract(encode, batches(IMAGES[:count]), held=16, done=told.append)
    assert sum(told) == count
    assert features.dtype == np.float32
    np.testing.assert_array_equal(features, IMAGES[:count].sum((1, 2)))
    assert encode._cache_size() == 1


def test_half_precision_comes_back_as_float32():
    features = extract(encoder(1, jnp.bfloat16), batches(IMAGES), held=16)
    assert features.dtype == np.float32
    assert features.shape == (37, 3)


def test_no_images_are_an_error():
    with pytest.raises(ArgumentError, match="^batches has none"):
        extract(encoder(1), batches(IMAGES[:0]), held=16)


def test_features_of_a_diverged_encoder_are_an_error():
    with pytest.raises(UserError, match="not finite.*learning rate"):
        extract(lambda images: jnp.full((len(images), 2), jnp.nan), batches(IMAGES), held=16)
