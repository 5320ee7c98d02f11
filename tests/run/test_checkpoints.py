import errno
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sdclr_jax import parallel
from sdclr_jax.errors import UserError
from sdclr_jax.run.checkpoints import Checkpoints
from tests import tiny


def abstract(state, sharding):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), state)


@pytest.fixture
def state():
    return tiny.state()


def same(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(*map(_plain, (x, y))), a, b)


def _plain(x):
    return jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x


def largest_file(folder):
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def test_what_is_saved_comes_back_on_any_number_of_devices(tmp_path, state):
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(3, state)
    for devices in (jax.devices()[:1], jax.devices()):
        sharding = parallel.shardings(devices).replicated
        with Checkpoints(tmp_path / "c") as checkpoints:
            restored = checkpoints.restore(like=abstract(state, sharding))
        same(restored, state)
        assert restored.mask["encoder"]["stem"]["kernel"].dtype == jnp.bool_
        assert restored.step.sharding == sharding


def test_a_state_may_be_donated_right_after_saving(tmp_path, state):
    expected = jax.device_get(state.params)
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(1, state)
        jax.jit(lambda s: jax.tree.map(lambda x: x * 0, s), donate_argnums=0)(state.params)
    with Checkpoints(tmp_path / "c") as checkpoints:
        same(checkpoints.restore(like=tiny.state()).params, expected)


def test_the_last_two_and_those_to_keep(tmp_path, state):
    with Checkpoints(tmp_path / "c", keep_every=4) as checkpoints:
        for step in range(2, 15, 2):
            checkpoints.save(step, state)
    with Checkpoints(tmp_path / "c", keep_every=4) as checkpoints:
        assert checkpoints.steps == [4, 8, 12, 14]
        checkpoints.save(14, state)  # again, after a resume: nothing happens
        assert checkpoints.restore(like=state, step=8) is not None
        with pytest.raises(UserError, match="step 9"):
            checkpoints.restore(like=state, step=9)


def test_no_checkpoint(tmp_path, state):
    with Checkpoints(tmp_path / "c") as checkpoints:
        assert checkpoints.restore(like=state) is None


@pytest.mark.parametrize("damage", ["flipped byte", "cut short", "missing"])
def test_a_damaged_checkpoint_is_passed_over_and_kept_aside(tmp_path, state, damage, caplog):
    older = state.replace(step=state.step + 7)
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(1, older)
        checkpoints.save(2, state)
    victim = largest_file(tmp_path / "c" / "2")
    content = bytearray(victim.read_bytes())
    if damage == "flipped byte":
        content[len(content) // 2] ^= 1
        victim.write_bytes(bytes(content))
    elif damage == "cut short":
        victim.write_bytes(bytes(content[: len(content) // 2]))
    else:
        victim.unlink()
    with Checkpoints(tmp_path / "c") as checkpoints:
        restored = checkpoints.restore(like=state)
        assert int(restored.step) == 7
        assert "checkpoint 2" in caplog.text
        checkpoints.save(2, state)
    assert [p.name.split(".")[0] for p in (tmp_path / "damaged_checkpoints").iterdir()] == ["2"]
    with Checkpoints(tmp_path / "c") as checkpoints:
        same(checkpoints.restore(like=state), state)


def test_only_damaged_ones_is_an_error(tmp_path, state):
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(2, state)
    largest_file(tmp_path / "c" / "2").unlink()
    with Checkpoints(tmp_path / "c") as checkpoints, pytest.raises(UserError, match="can be read"):
        checkpoints.restore(like=state)
    assert (tmp_path / "c" / "2").is_dir()


def test_a_state_of_another_structure_moves_no_checkpoint(tmp_path, state):
    """An edited config or a newer program must not cost a run its checkpoints."""
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(1, state)
        checkpoints.save(2, state)
    other = state.replace(memory={"queue": jnp.zeros(3)})
    with Checkpoints(tmp_path / "c") as checkpoints, pytest.raises(UserError, match="can be read"):
        checkpoints.restore(like=other)
    with Checkpoints(tmp_path / "c") as checkpoints:
        assert checkpoints.steps == [1, 2]
        same(checkpoints.restore(like=state), state)


def test_a_step_damaged_twice_is_saved_again_each_time(tmp_path, state):
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(1, state)
    for _ in range(2):
        with Checkpoints(tmp_path / "c") as checkpoints:
            checkpoints.save(2, state)
        largest_file(tmp_path / "c" / "2").unlink()
        with Checkpoints(tmp_path / "c") as checkpoints:
            assert checkpoints.restore(like=state) is not None
            assert checkpoints.steps == [1]
    assert len(list((tmp_path / "damaged_checkpoints").iterdir())) == 2


@pytest.mark.parametrize("during", ["save", "close"])
@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), ValueError("EXHAUSTED: No space left on device")],
)
def test_a_full_disk_is_told_in_a_sentence(tmp_path, state, monkeypatch, during, error):
    """As the files' contents and tensorstore's arrays meet it, in the background: it comes up in a later call."""

    def full(*given, **named):
        raise error

    with pytest.raises(UserError, match=r"cannot be written to .*/c \(.*No space left on device\): make room"):  # noqa: SIM117
        with Checkpoints(tmp_path / "c") as checkpoints:
            close = checkpoints._manager.close
            monkeypatch.setattr(checkpoints._manager, during, full)
            checkpoints.save(1, state)
    close()


def test_read_only_changes_nothing(tmp_path, state):
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(1, state)
        checkpoints.save(2, state)
    largest_file(tmp_path / "c" / "2").unlink()
    before = sorted(tmp_path.rglob("*"))
    with Checkpoints(tmp_path / "c", read_only=True) as checkpoints:
        same(checkpoints.restore(like=state), state)
    assert sorted(tmp_path.rglob("*")) == before
    with Checkpoints(tmp_path / "none", read_only=True) as checkpoints:
        assert checkpoints.restore(like=state) is None
    assert not (tmp_path / "none").exists()
