import contextlib
import dataclasses
import errno
import grp  # noqa: F401  # before the user is another one
import itertools
import json
import os
import pathlib
import shutil
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from jax.experimental import multihost_utils

from sdclr_jax import branches, parallel, records, trees
from sdclr_jax.errors import Lost, UserError
from sdclr_jax.run import checkpoints as checkpoints_module
from sdclr_jax.run.checkpoints import Checkpoints, encoder
from tests import tiny


def abstract(state, sharding):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), state)


@pytest.fixture
def state():
    return tiny.state()


def at(step, state):
    """The state as that of another step."""
    return state.replace(step=jnp.int32(step))


def same(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(*map(_plain, (x, y))), a, b)


def _plain(x):
    return jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x


def damage(checkpoint, item, how):
    if how == "wrong checksum":  # as of a flipped byte, which orbax does not notice
        meta = json.loads((checkpoint / "meta" / "metadata").read_text())
        meta["sha256"][item] = "0" * 64
        (checkpoint / "meta" / "metadata").write_text(json.dumps(meta))
    elif how == "cut short":
        for path in (checkpoint / item).rglob("d/*"):
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    else:
        shutil.rmtree(checkpoint / item)


def test_what_is_saved_comes_back_on_any_number_of_devices(tmp_path, state):
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(0, at(0, state))
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
        checkpoints.save(0, at(0, state))
        jax.jit(lambda s: jax.tree.map(lambda x: x * 0, s), donate_argnums=0)(state.params)
    with Checkpoints(tmp_path / "c") as checkpoints:
        same(checkpoints.restore(like=tiny.state()).params, expected)


def test_the_last_two_and_those_to_keep(tmp_path, state):
    with Checkpoints(tmp_path / "c", keep_every=4) as checkpoints:
        for step in range(2, 15, 2):
            checkpoints.save(step, at(step, state))
    with Checkpoints(tmp_path / "c", keep_every=4) as checkpoints:
        assert checkpoints.steps == [4, 8, 12, 14]
        checkpoints.save(14, at(14, state))  # again, after a resume: nothing happens
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
    state = at(2, state)
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(1, at(1, state))
        checkpoints.save(2, at(2, state))
    damage(tmp_path / "c" / "2", item, how)
    with Checkpoints(tmp_path / "c") as checkpoints:
        restored = checkpoints.restore(like=state)
        assert int(restored.step) == 1
        assert "checkpoint 2" in caplog.text
        checkpoints.save(2, at(2, state))
    assert [p.name.split(".")[0] for p in (tmp_path / "damaged_checkpoints").iterdir()] == ["2"]
    with Checkpoints(tmp_path / "c") as checkpoints:
        same(checkpoints.restore(like=state), state)


def test_only_damaged_ones_is_an_error(tmp_path, state):
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(2, at(2, state))
    damage(tmp_path / "c" / "2", "state", "missing")
    with Checkpoints(tmp_path / "c") as checkpoints, pytest.raises(UserError, match="can be read"):
        checkpoints.restore(like=state)
    assert (tmp_path / "c" / "2").is_dir()


def test_a_state_of_another_structure_moves_no_checkpoint(tmp_path, state):
    """An edited config or a newer program must not cost a run its checkpoints."""
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(1, at(1, state))
        checkpoints.save(2, at(2, state))
    other = state.replace(objective_state={"queue": jnp.zeros(3)})
    with Checkpoints(tmp_path / "c") as checkpoints, pytest.raises(UserError, match="can be read"):
        checkpoints.restore(like=other)
    with Checkpoints(tmp_path / "c") as checkpoints:
        assert checkpoints.steps == [1, 2]
        same(checkpoints.restore(like=state), at(2, state))


def test_a_step_damaged_twice_is_saved_again_each_time(tmp_path, state, monkeypatch):
    """Also on a disk that shows late that it was moved away; else one of several processes would not save it."""
    reload, looks = checkpoints_module._Manager.reload, itertools.count(1)
    late = lambda manager: reload(manager) if next(looks) % 3 == 0 else None  # noqa: E731
    monkeypatch.setattr(checkpoints_module._Manager, "reload", late)
    monkeypatch.setattr(checkpoints_module.time, "sleep", lambda seconds: None)
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(1, at(1, state))
    for _ in range(2):
        with Checkpoints(tmp_path / "c") as checkpoints:
            checkpoints.save(2, at(2, state))
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
            checkpoints.save(1, at(1, state))
    close()


@pytest.mark.parametrize("several", [False, True])
def test_checkpoints_that_fail_in_the_background_are_not_said_to_be_there(tmp_path, state, monkeypatch, several):
    """Else the run would be refused from then on, as one that has lost its checkpoints."""

    def full(self, step):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    saved = []
    with pytest.raises(UserError, match="No space left on device"), Checkpoints(tmp_path / "c") as checkpoints:
        save, manager = ocp.CheckpointManager.save, ocp.CheckpointManager
        monkeypatch.setattr(manager, "save", lambda self, step, **how: saved.append(step) or save(self, step, **how))
        monkeypatch.setattr(manager, "_finalize_checkpoint", full)
        monkeypatch.setattr(checkpoints_module.processes, "is_shared", lambda: several)
        checkpoints.save(1, at(1, state))
        checkpoints.save(2, at(2, state))
    assert saved == ([1] if several else [1, 2])  # the others wait for a part of the first one
    assert not (tmp_path / "saved.json").exists()


def test_the_encoder_alone_is_restored_without_the_shape_of_anything(tmp_path, state):
    step = tiny.functions()[1](state, tiny.images())[0]  # weights, norms and statistics that all differ from the start
    with Checkpoints(tmp_path / "c") as checkpoints:
        assert checkpoints.encoder() is None
        checkpoints.save(1, at(1, step))
    with Checkpoints(tmp_path / "c", read_only=True) as checkpoints:
        number, variables = checkpoints.encoder()
    assert number == 1
    dense = branches.variables(branches.BRANCHES["dense"], step.params, step.stats, mask=None)
    same(variables, {"params": dense["params"]["encoder"], "batch_stats": dense["batch_stats"]["encoder"]})
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(variables))


def test_the_encoder_stands_once_in_a_checkpoint_and_is_restored_without_the_rest(tmp_path, state):
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(1, at(1, state))
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
        checkpoints.save(1, at(1, older))
        checkpoints.save(2, at(2, state))
    damage(tmp_path / "c" / "2", "encoder", how)
    with Checkpoints(tmp_path / "c", read_only=True) as checkpoints:
        step, variables = checkpoints.encoder()
        with pytest.raises(UserError, match="no checkpoint of step 2 in .* can be read"):
            checkpoints.encoder(step=2)
        with pytest.raises(UserError, match="^there is no checkpoint of step 3 in .*: those there are of 1, 2$"):
            checkpoints.encoder(step=3)
    assert step == 1
    same(variables, encoder(older))
    assert "checkpoint 2" in caplog.text


def test_a_newer_format_is_said_and_moves_nothing(tmp_path, state, monkeypatch):
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(1, at(1, state))
        monkeypatch.setattr(checkpoints_module, "FORMAT", 4)
        checkpoints.save(2, at(2, state))
    monkeypatch.undo()
    with Checkpoints(tmp_path / "c") as checkpoints:
        for read in (lambda: checkpoints.restore(like=state), checkpoints.encoder):
            with pytest.raises(UserError, match="checkpoint 2 of .* has format 4, and .* reads formats up to 3"):
                read()
        assert checkpoints.steps == [1, 2]


def save_with(directory, step, meta, **items):
    with ocp.CheckpointManager(directory) as manager:
        saved = {name: ocp.args.StandardSave(item) for name, item in items.items()}
        manager.save(step, args=ocp.args.Composite(**saved, meta=ocp.args.JsonSave(meta)))


@pytest.mark.parametrize("version", [1, 2])
def test_older_formats_are_read_also_where_a_field_has_been_renamed(tmp_path, state, version, monkeypatch):
    state = at(5, state)

    def save(name, step, wrong=0):
        if version == 1:
            monkeypatch.setattr(checkpoints_module, "RENAMED", {"target": "before"})
            fields = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
            fields["before"] = fields.pop("target")
            save_with(tmp_path / name, step, {"checksum": int(trees.checksum(state)) ^ wrong}, state=fields)
        else:
            parts = {"encoder": encoder(state), "state": checkpoints_module._others(state)}
            sums = {part: int(trees.checksum(item)) ^ wrong for part, item in parts.items()}
            save_with(tmp_path / name, step, {"format": 2, "checksums": sums}, **parts)

    save("c", 5)
    with Checkpoints(tmp_path / "c") as checkpoints:
        same(checkpoints.restore(like=state), state)
        step, variables = checkpoints.encoder()
        assert checkpoints.notes(5) == {}
    assert step == 5
    same(variables, encoder(state))
    save("damaged", 5, wrong=1)
    shutil.copytree(tmp_path / "c" / "5", tmp_path / "copied" / "6")
    with Checkpoints(tmp_path / "damaged") as checkpoints, pytest.raises(UserError, match="can be read"):
        checkpoints.restore(like=state)
    with Checkpoints(tmp_path / "copied", read_only=True) as checkpoints:
        for read in (lambda: checkpoints.restore(like=state), checkpoints.encoder):
            with pytest.raises(UserError, match="can be read") as error:
                read()
            assert str(error.value.__cause__) == "it is of step 5, as if it were a copy of that one"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_what_disks_do_is_noticed(tmp_path, state, caplog):
    """Flipped bits and zeroed blocks in what holds the numbers: what is restored is what was saved."""
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(1, at(1, state))
        checkpoints.save(2, at(2, state))
    files = [path for item in ("state", "encoder") for path in (tmp_path / "c" / "2" / item / "d").iterdir()]
    contents = {path: path.read_bytes() for path in files}
    rng, passed_over = np.random.default_rng(0), 0
    for turn in range(8):
        path = files[turn % len(files)]
        content = bytearray(contents[path])
        place = int(rng.integers(len(content)))
        if turn < 4:
            content[place] ^= 1 << int(rng.integers(8))
        else:
            content[place : place + 512] = bytes(len(content[place : place + 512]))
        path.write_bytes(content)
        caplog.clear()
        with Checkpoints(tmp_path / "c", read_only=True) as checkpoints:
            found = checkpoints.restore(like=state)
        same(found, at(int(found.step), state))
        passed_over += int(found.step) == 1
        assert (int(found.step) == 1) == ("checkpoint 2" in caplog.text)
        path.write_bytes(contents[path])
    assert passed_over >= 4  # the others fell where nothing is read


def test_a_folder_copied_over_another_is_not_that_step(tmp_path, state, caplog):
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(25, at(25, state))
        checkpoints.save(30, at(30, state))
    shutil.rmtree(tmp_path / "c" / "30")
    shutil.copytree(tmp_path / "c" / "25", tmp_path / "c" / "30")
    with Checkpoints(tmp_path / "c", read_only=True) as checkpoints:
        assert int(checkpoints.restore(like=state).step) == checkpoints.encoder()[0] == 25
    assert "checkpoint 30 of" in caplog.text and "it is of step 25" in caplog.text


@contextlib.contextmanager
def no_root():
    """Root may read everything, so this is another user for a while."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_what_may_not_be_read_is_not_damaged(state):
    with tempfile.TemporaryDirectory() as parent:
        os.chmod(parent, 0o777)
        directory = pathlib.Path(parent) / "c"
        with Checkpoints(directory) as checkpoints:
            checkpoints.save(1, at(1, state))
            checkpoints.save(2, at(2, state))
            checkpoints.restore(like=state)  # now all is imported that another user may not read
        directory.chmod(0o777)
        before = sorted(directory.rglob("*"))
        for path in (*(directory / "2" / "state" / "d").iterdir(), directory / "2" / "meta", directory / "2"):
            mode = path.stat().st_mode
            path.chmod(0)
            with (
                no_root(),
                Checkpoints(directory) as checkpoints,
                pytest.raises(UserError, match=rf"checkpoint 2 of .* cannot be read \({path}.*: Permission denied\)"),
            ):
                checkpoints.restore(like=state)
            path.chmod(mode)
        assert sorted(directory.rglob("*")) == before
        directory.chmod(0)
        with no_root(), pytest.raises(UserError, match=r"c cannot be read \(Permission denied\): make it"):
            Checkpoints(directory)
        directory.chmod(0o777)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "there is not enough memory"),
        (ValueError("RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes"), "there is not enough memory"),
        (OSError(errno.EIO, os.strerror(errno.EIO), "/disk/a"), r"\(/disk/a: Input/output error\): it may well"),
        (TimeoutError("the bucket does not answer"), r"\(the bucket does not answer\)"),
        (ValueError("UNAVAILABLE: Connection reset"), r"\(UNAVAILABLE: Connection reset\)"),
    ],
)
def test_what_cannot_be_read_for_a_moment_is_no_damage(tmp_path, state, monkeypatch, error, said):
    """By the time that anybody looks again, it can be."""
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(1, at(1, state))
        checkpoints.save(2, at(2, state))
    digest, errors = trees.digest, [error]

    def for_a_moment(tree):
        if errors:
            raise Exception("orbax has not read it") from errors.pop()
        return digest(tree)

    monkeypatch.setattr(trees, "digest", for_a_moment)
    with Checkpoints(tmp_path / "c") as checkpoints:
        with pytest.raises(UserError, match=said):
            checkpoints.restore(like=state)
        assert not (tmp_path / "damaged_checkpoints").exists()
        assert int(checkpoints.restore(like=state).step) == 2


def test_a_file_in_the_place_of_the_folder(tmp_path):
    (tmp_path / "c").write_text("")
    with pytest.raises(UserError, match=r"c cannot be read \(Not a directory\): make it a folder, and readable"):
        Checkpoints(tmp_path / "c")


def test_notes_and_the_last_step_that_is_whole(tmp_path, state):
    """In a folder whose name has signs that addresses of disks have."""
    tmp_path = tmp_path / "a:b,c;" / "s3:"
    path = tmp_path / "saved.json"
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(1, at(1, state), {"lines": 3})
        assert not path.exists()  # it may still be on its way
        checkpoints.save(2, at(2, state))
        assert records.read(records.Saved, path).step == 1
    assert records.read(records.Saved, path).step == 2
    with Checkpoints(tmp_path / "c", read_only=True) as checkpoints:
        assert (checkpoints.notes(1), checkpoints.notes(2)) == ({"lines": 3}, {})


def test_read_only_changes_nothing(tmp_path, state):
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(1, at(1, state))
        checkpoints.save(2, at(2, state))
    damage(tmp_path / "c" / "2", "state", "missing")
    before = sorted(tmp_path.rglob("*"))
    with Checkpoints(tmp_path / "c", read_only=True) as checkpoints:
        same(checkpoints.restore(like=state), at(1, state))
    assert sorted(tmp_path.rglob("*")) == before
    with Checkpoints(tmp_path / "none", read_only=True) as checkpoints:
        assert checkpoints.restore(like=state) is None
    assert not (tmp_path / "none").exists()


def test_orbax_does_not_ask_when_to_stop(tmp_path, state, monkeypatch):
    """It would ask with the number of the step, and JAX would let all processes stop after as many looks."""
    asked = []
    monkeypatch.setattr(multihost_utils, "reached_preemption_sync_point", asked.append)
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(1, at(1, state))
    assert not asked


def test_a_process_whose_part_has_failed_does_not_wait_for_the_others(monkeypatch):
    """As orbax does, in a `finally`; the others would wait for its part, and nobody would say anything."""
    waited = []
    monkeypatch.setattr(ocp.multihost, "get_barrier_sync_fn", lambda: lambda *, key, timeout_ms: waited.append(key))
    barrier = checkpoints_module._barrier()

    def save(error=None):
        try:
            if error:
                raise error
        finally:
            barrier(key=repr(error), timeout_ms=1)

    save()
    with pytest.raises(OSError, match="the disk is full"):
        save(OSError("the disk is full"))
    assert waited == ["None"]


@pytest.mark.parametrize("step", [None, 2])
def test_a_process_that_is_lost_while_checkpoints_are_read_is_no_damage(tmp_path, state, step, monkeypatch, caplog):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state)
        checkpoints.save(2, state)

        def lost(*given, **how):
            raise Lost("process 1 is gone")

        monkeypatch.setattr(checkpoints, "_meta", lost)
        with pytest.raises(Lost, match="process 1 is gone"):
            checkpoints.restore(like=state, step=step)
    assert "cannot be used" not in caplog.text
