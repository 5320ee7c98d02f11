import itertools

import jax
import numpy as np
import pytest

from sdclr_jax import parallel
from sdclr_jax.data.batches import Resident, rows
from sdclr_jax.errors import UserError

IMAGES = np.arange(50, dtype=np.uint8).reshape(50, 1, 1, 1)


def test_an_epoch_is_a_permutation_cut_into_whole_batches():
    for epoch in range(3):
        seen = np.concatenate([rows(50, 8, seed=0, step=epoch * 6 + i) for i in range(6)])
        assert len(set(seen)) == 48
    assert (rows(50, 8, 0, 0) != rows(50, 8, 0, 6)).any()
    assert (rows(50, 8, 0, 0) != rows(50, 8, 1, 0)).any()


def test_what_one_epoch_leaves_over_comes_up_in_others():
    seen = {int(i) for step in range(6 * 4) for i in rows(50, 8, seed=0, step=step)}
    assert seen == set(range(50))


@pytest.mark.parametrize("devices", [1, 8])
def test_resident_gives_those_rows_from_any_step(devices):
    shardings = parallel.shardings(jax.devices()[:devices])
    source = Resident(IMAGES, 8, seed=3, shardings=shardings)
    assert source.steps_per_epoch == 6
    batches = list(itertools.islice(source.from_step(0), 14))
    for step, batch in enumerate(batches):
        assert batch.sharding.is_equivalent_to(shardings.batch, 4)
        assert batch.dtype == np.uint8
        np.testing.assert_array_equal(np.asarray(batch).ravel(), rows(50, 8, 3, step))
    np.testing.assert_array_equal(next(source.from_step(13)), batches[13])


def test_bad_batch_sizes():
    shardings = parallel.shardings()
    with pytest.raises(UserError, match="batch_size is 64, but the subset has 50 images"):
        Resident(IMAGES, 64, 0, shardings)
    with pytest.raises(UserError, match="8 devices cannot share"):
        Resident(IMAGES, 12, 0, shardings)
