import dataclasses
import errno
import json
import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from sdclr_jax import branches, parallel, trees
from sdclr_jax.errors import UserError
from sdclr_jax.run import checkpoints as checkpoints_module
from sdclr_jax.run.checkpoints import Checkpoints, encoder
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


def damage(checkpoint, item, how):
    if how == "wrong checksum":  # as of a flipped byte, which orbax does not notice
        meta = json.loads((checkpoint / "meta" / "metadata").read_text())
        meta["checksums"][item] ^= 1
        (checkpoint / "meta" / "metadata").write_text(json.dumps(meta))
    elif how == "cut short":
        for path in (checkpoint / item).rglob("d/*"):
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    else:
        shutil.rmtree(checkpoint / item)


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


# Where many arrays cannot be read, orbax closes its event loop before the last of them has said so.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("item", ["state", "encoder"])
@pytest.mark.parametrize("how", ["wrong checksum", "cut short", "missing"])
def test_a_damaged_checkpoint_is_passed_over_and_kept_aside(tmp_path, state, how, item, caplog):
    older = state.replace(step=state.step + 7)
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(1, older)
        checkpoints.save(2, state)
    damage(tmp_path / "c" / "2", item, how)
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
    damage(tmp_path / "c" / "2", "state", "missing")
    with Checkpoints(tmp_path / "c") as checkpoints, pytest.raises(UserError, match="can be read"):
        checkpoints.restore(like=state)
    assert (tmp_path / "c" / "2").is_dir()


def test_a_state_of_another_structure_moves_no_checkpoint(tmp_path, state):
    """An edited config or a newer program must not cost a run its checkpoints."""
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(1, state)
        checkpoints.save(2, state)
    other = state.replace(objective_state={"queue": jnp.zeros(3)})
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
        damage(tmp_path / "c" / "2", "state", "missing")
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


def test_the_encoder_alone_is_restored_without_the_shape_of_anything(tmp_path, state):
    step = tiny.functions()[1](state, tiny.images())[0]  # weights, norms and statistics that all differ from the start
    with Checkpoints(tmp_path / "c") as checkpoints:
        assert checkpoints.encoder() is None
        checkpoints.save(1, step)
    with Checkpoints(tmp_path / "c", read_only=True) as checkpoints:
        number, variables = checkpoints.encoder()
    assert number == 1
    dense = branches.variables(branches.BRANCHES["dense"], step.params, step.stats, mask=None)
    same(variables, {"params": dense["params"]["encoder"], "batch_stats": dense["batch_stats"]["encoder"]})
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(variables))


def test_the_encoder_stands_once_in_a_checkpoint_and_is_restored_without_the_rest(tmp_path, state):
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(1, state)
    shutil.rmtree(tmp_path / "c" / "1" / "state")
    with Checkpoints(tmp_path / "c", read_only=True) as checkpoints:
        variables = checkpoints.encoder(step=1)[1]
        same(variables, encoder(state))
        with pytest.raises(UserError, match="can be read"):  # nothing of the encoder is in the rest, and the reverse
            checkpoints.restore(like=state)


@pytest.mark.parametrize("how", ["wrong checksum", "missing"])
def test_a_damaged_encoder_is_passed_over(tmp_path, state, how, caplog):
    older = jax.tree.map(lambda x: x if x.dtype != jnp.float32 else x + 1, state)
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(1, older)
        checkpoints.save(2, state)
    damage(tmp_path / "c" / "2", "encoder", how)
    with Checkpoints(tmp_path / "c", read_only=True) as checkpoints:
        step, variables = checkpoints.encoder()
        with pytest.raises(UserError, match="no checkpoint of step 2 in .* can be read"):
            checkpoints.encoder(step=2)
        with pytest.raises(UserError, match="no checkpoint of step 3"):
            checkpoints.encoder(step=3)
    assert step == 1
    same(variables, encoder(older))
    assert "checkpoint 2" in caplog.text


def test_a_newer_format_is_said_and_moves_nothing(tmp_path, state, monkeypatch):
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(1, state)
        monkeypatch.setattr(checkpoints_module, "FORMAT", 3)
        checkpoints.save(2, state)
    monkeypatch.undo()
    with Checkpoints(tmp_path / "c") as checkpoints:
        for read in (lambda: checkpoints.restore(like=state), checkpoints.encoder):
            with pytest.raises(UserError, match="checkpoint 2 of .* has format 3, and .* reads formats up to 2"):
                read()
        assert checkpoints.steps == [1, 2]


def save_as_format_1(directory, step, fields, checksum):
    with ocp.CheckpointManager(directory) as manager:
        items = {"state": ocp.args.StandardSave(fields), "meta": ocp.args.JsonSave({"checksum": checksum})}
        manager.save(step, args=ocp.args.Composite(**items))


def test_format_1_is_read_also_where_a_field_has_been_renamed(tmp_path, state, monkeypatch):
    fields = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
    fields["before"] = fields.pop("target")
    monkeypatch.setattr(checkpoints_module, "RENAMED", {"target": "before"})
    save_as_format_1(tmp_path / "c", 5, fields, int(trees.checksum(state)))
    save_as_format_1(tmp_path / "damaged", 5, fields, int(trees.checksum(state)) ^ 1)
    with Checkpoints(tmp_path / "c") as checkpoints:
        same(checkpoints.restore(like=state), state)
        step, variables = checkpoints.encoder()
    assert step == 5
    same(variables, encoder(state))
    with Checkpoints(tmp_path / "damaged") as checkpoints, pytest.raises(UserError, match="can be read"):
        checkpoints.restore(like=state)


def test_read_only_changes_nothing(tmp_path, state):
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(1, state)
        checkpoints.save(2, state)
    damage(tmp_path / "c" / "2", "state", "missing")
    before = sorted(tmp_path.rglob("*"))
    with Checkpoints(tmp_path / "c", read_only=True) as checkpoints:
        same(checkpoints.restore(like=state), state)
    assert sorted(tmp_path.rglob("*")) == before
    with Checkpoints(tmp_path / "none", read_only=True) as checkpoints:
        assert checkpoints.restore(like=state) is None
    assert not (tmp_path / "none").exists()
