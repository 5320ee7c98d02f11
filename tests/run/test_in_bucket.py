"""Checkpoints and metrics of a run in a bucket, where nothing is renamed and an upload may break."""

import contextlib
import gc
import json

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sdclr_jax import files, records
from sdclr_jax.errors import UserError
from sdclr_jax.evaluation import cache
from sdclr_jax.run import folder, metrics
from sdclr_jax.run.checkpoints import Checkpoints
from tests.run.test_checkpoints import same
from tests.run.test_folder import CONFIG, check, claim

# Where many arrays cannot be written or read, orbax closes its event loop before the last of them has said so.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True)
def collected():
    """What orbax leaves is told of here, and not in the test that follows."""
    yield
    gc.collect()


@flax.struct.dataclass
class Small:
    """A state of few leaves, since each is several requests."""

    params: dict
    step: jax.Array


@pytest.fixture
def states():
    def small(step):
        leaves = {"encoder": {"kernel": jnp.arange(600.0) * step}, "projector": {"kernel": jnp.ones(700) + step}}
        return Small({"weights": leaves}, jnp.int32(step))

    return {step: small(step) for step in (1, 2, 3)}


def checkpoints(**how):
    return Checkpoints(files.expanded("gs://bucket/run 1/checkpoints"), **how)


def steps(cloud):
    """Steps that have objects, and whether what says that all are there is one of them."""
    names = cloud.names("run 1/checkpoints")
    return {name.partition("/")[0]: f"{name.partition('/')[0]}/commit_success.txt" in names for name in names}


@pytest.mark.parametrize("broken", ["/encoder/", "2/commit_success.txt"])
def test_an_upload_that_breaks_leaves_the_checkpoint_before_whole(cloud, states, broken):
    with checkpoints() as saved:
        saved.save(1, states[1])
    cloud.fault = lambda method, path, name: 403 if method == "POST" and "/2/" in name and broken in name else None
    with pytest.raises(UserError, match=r"a checkpoint cannot be written to gs://bucket/run 1/checkpoints \("):  # noqa: SIM117
        with checkpoints() as saved:
            saved.save(2, states[2])
    assert steps(cloud) == {"1": True, "2": False}
    assert folder.steps_in(files.expanded("gs://bucket/run 1/checkpoints")) == [1]
    with checkpoints(read_only=True) as saved:
        assert saved.steps == [1]
    cloud.fault = lambda method, path, name: None
    with checkpoints() as saved:  # as the same command does, which removes what is unfinished
        assert saved.steps == [1]
        same(saved.restore(like=states[3]), states[1])
        saved.save(2, states[2])
    assert steps(cloud) == {"1": True, "2": True}
    with checkpoints() as saved:
        same(saved.restore(like=states[3]), states[2])


@pytest.mark.parametrize("broken", ["/1/", "/1/state/"])
def test_a_checkpoint_that_was_not_written_costs_itself_only(cloud, states, caplog, broken):
    """Its upload fails in the background, so that is heard of when the next one is due; what it has left is removed."""
    cloud.fault = lambda method, path, name: 403 if method == "POST" and broken in name else None
    with checkpoints() as saved:
        saved.save(1, states[1])
        saved.save(2, states[2])
        assert json.loads(cloud.objects["run 1/saved.json"].content)["step"] == 2
    assert steps(cloud) == {"2": True}
    assert "checkpoint 1 was not finished, and 2 is saved now: a checkpoint cannot be written to gs://" in caplog.text
    with checkpoints() as saved:
        same(saved.restore(like=states[3]), states[2])


def test_a_run_that_is_copied_from_a_disk_and_back_goes_on_there(cloud, states, tmp_path):
    def copied(source, names, to):
        for name in names:
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            (to / name).write_bytes((source / name).read_bytes())

    disk, bucket, back = tmp_path / "disk", files.expanded("gs://bucket/run 1"), tmp_path / "back"
    with Checkpoints(disk / "checkpoints") as saved:
        saved.save(1, states[1])
    on_disk = [path.relative_to(disk).as_posix() for path in disk.rglob("*") if path.is_file()]
    copied(disk, on_disk, bucket)
    with checkpoints() as saved:
        same(saved.restore(like=states[3]), states[1])
        saved.save(2, states[2])
    copied(bucket, [name.removeprefix("run 1/") for name in cloud.objects], back)
    with Checkpoints(back / "checkpoints") as saved:
        assert saved.steps == [1, 2]
        same(saved.restore(like=states[3]), states[2])


def test_a_damaged_checkpoint_is_moved_and_saved_again(cloud, states, caplog):
    with checkpoints() as saved:
        saved.save(1, states[1])
        saved.save(2, states[2])
    for name in cloud.names("run 1/checkpoints/2/state"):
        if "/d/" in f"/{name}":
            found = cloud.objects[f"run 1/checkpoints/2/state/{name}"]
            found.content = found.content[: len(found.content) // 2]
    before = len(cloud.names("run 1/checkpoints/2"))
    with checkpoints() as saved:
        same(saved.restore(like=states[3]), states[1])
        assert "checkpoint 2 of gs://bucket/run 1/checkpoints cannot be used" in caplog.text
        assert saved.steps == [1]
        moved = cloud.names("run 1/damaged_checkpoints")
        assert {name.partition(".")[0] for name in moved} == {"2"} and len(moved) == before - 1
        saved.save(2, states[2])
    with checkpoints() as saved:
        same(saved.restore(like=states[3]), states[2])


def test_metrics_of_another_machine_are_continued(cloud):
    run = files.expanded("gs://bucket/run")
    first = metrics.Metrics(run, 0)
    for step in (10, 20, 30):
        first.write({"step": step, "epoch": 1.0, "loss": step / 10, "seconds": float(step)})
        if step == 20:
            first.warn({"step": step, "epoch": 1.0}, "collapse", "it has collapsed")
            first.publish()
    seen = {name: cloud.objects[name].content for name in cloud.objects}  # and then its machine is gone
    first.close()
    cloud.objects.clear()
    for name, content in seen.items():
        cloud.put(name, content)
    metrics.Metrics(run, 10).close()
    assert cloud.objects["run/warnings.jsonl"].content == b""  # what was after step 10 is void
    again = metrics.Metrics(run, 10)
    assert again.seconds == 10.0
    assert again.warn({"step": 20, "epoch": 1.0}, "collapse", "once more")
    again.write({"step": 20, "epoch": 1.0, "loss": 7.0, "seconds": 21.0})
    again.close()
    lines = records.read_metrics(run / "metrics.jsonl")
    assert [(line["step"], line["loss"]) for line in lines] == [(10, 1.0), (20, 7.0)]
    assert [line["message"] for line in records.read_warnings(run / "warnings.jsonl")] == ["once more"]
    assert cloud.names("run/tensorboard")


def test_lines_that_cannot_be_published_are_told_of(cloud, caplog):
    log = metrics.Metrics(files.expanded("gs://bucket/run"), 0)
    log.write({"step": 1, "epoch": 1.0, "loss": 1.0, "seconds": 1.0})
    cloud.fault = lambda method, path, name: 403
    with pytest.raises(UserError, match=r"gs://bucket/run/metrics.jsonl cannot be written \(the credentials do not"):
        log.publish()
    log.close()
    assert "the last lines of metrics are lost: gs://bucket/run/metrics.jsonl cannot be written" in caplog.text


def test_what_has_lost_its_lock_writes_nothing_more(cloud, states, caplog):
    """Another process has followed it, and goes on from the last checkpoint."""
    holders = ["this process"]

    def still_held():
        if not holders:
            raise UserError("gs://bucket/run 1/.lock is no longer held by this process")

    def written():
        return {name: cloud.objects[f"run 1/{name}"].content for name in ("saved.json", "metrics.jsonl")}

    log = metrics.Metrics(files.expanded("gs://bucket/run 1"), 0, still_held=still_held)
    with pytest.raises(UserError, match="is no longer held"), checkpoints(still_held=still_held) as saved:  # noqa: SIM117
        with contextlib.closing(log):
            log.write({"step": 1, "epoch": 1.0, "loss": 1.0, "seconds": 1.0})
            log.publish()
            saved.save(1, states[1])
            cloud.put("run 1/saved.json", b"of the other")
            before = written()
            log.write({"step": 2, "epoch": 2.0, "loss": 2.0, "seconds": 2.0})
            holders.clear()
            log.publish()
    assert written() == before
    assert "the last lines of metrics are lost: gs://bucket/run 1/.lock is no longer held" in caplog.text
    with pytest.raises(UserError, match="is no longer held"):
        saved.save(2, states[2])


def test_a_lock_that_is_lost_while_a_checkpoint_is_waited_for_is_no_checkpoint_that_failed(cloud, states, caplog):
    asked = []

    def still_held():
        asked.append(None)
        if len(asked) > 1:
            raise UserError("gs://bucket/run 1/.lock is no longer held by this process")

    with pytest.raises(UserError, match="is no longer held"), checkpoints(still_held=still_held) as saved:
        saved.save(1, states[1])
        saved.save(2, states[2])
    assert "2" not in steps(cloud) and "was not finished" not in caplog.text


def test_processes_see_one_folder_in_a_bucket(cloud, monkeypatch):
    seen = []

    def exchange(place, text=""):
        seen.append(set(cloud.names("run")))
        return [text, text]

    monkeypatch.setattr(folder.processes, "count", lambda: 2)
    monkeypatch.setattr(folder.processes, "exchange", exchange)
    folder.check_shared(files.expanded("gs://bucket/run"))
    assert [len(names) for names in seen] == [0, 1, 1] and not cloud.objects
    monkeypatch.setattr(folder.processes, "exchange", lambda place, text="": [text or "gs://bucket/run", ""])
    with pytest.raises(UserError, match="process 1 does not see what process 0 writes to gs://bucket/run"):
        folder.check_shared(files.expanded("gs://bucket/run"))


def test_features_are_kept_in_a_bucket(cloud):
    folder, found = files.expanded("gs://bucket/run/features"), np.arange(6, dtype=np.float32).reshape(3, 2)
    np.testing.assert_array_equal(cache.features(folder, {"step": 1}, lambda: found), found)
    again = cache.features(folder, {"step": 1}, lambda: pytest.fail("they are there"))
    np.testing.assert_array_equal(again, found)
    cloud.fault = lambda method, path, name: 403  # which costs their time, and no more
    np.testing.assert_array_equal(cache.features(folder, {"step": 1}, lambda: found + 1), found + 1)


def test_a_run_claims_its_folder_in_a_bucket(cloud):
    run = files.expanded("gs://bucket/my runs/one")
    claim(run)
    claim(run)
    assert cloud.names("my runs/one") == {"config.json", "data.json", "encoder.json", "saved.json", "versions.json"}
    assert folder.read_config(run).to_dict() == CONFIG.to_dict()
    other = CONFIG.copy_and_resolve_references()
    other.seed = 3
    with pytest.raises(UserError, match=r"gs://bucket/my runs/one holds a run of another config: seed \(0 there, 3"):
        check(run, other)
    folder.write_config(run, other)
    assert json.loads(cloud.objects["my runs/one/changes.jsonl"].content)["field"] == "seed"
    cloud.put("thesis/chapter.tex", b"")
    with pytest.raises(UserError, match="gs://bucket/thesis is not empty and holds no run"):
        check(files.expanded("gs://bucket/thesis"))
    with pytest.raises(UserError, match="gs://none/run holds no run"):
        folder.read_config(files.expanded("gs://none/run"))
    with pytest.raises(UserError, match=r"has one of \*\?\[\\# in it"):
        check(files.expanded("gs://bucket/a#b"))
