import dataclasses
import errno
import json
import os
import pathlib
import shutil
import struct
import subprocess
import types

import pytest
from ml_collections import ConfigDict
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import RecordWriter

from sdclr_jax import records
from sdclr_jax.errors import UserError
from sdclr_jax.records import EncoderRecord, TrainedOn, View
from sdclr_jax.run import folder, metrics, versions

DATA = TrainedOn(images=3, sha256="0" * 64)
ENCODER = EncoderRecord(
    model={"name": "resnet8"},
    view=View(height=8, width=8, channels=1),
    mean=(0.5,),
    std=(0.25,),
    resize=None,
    crop=None,
    features=32,
)
PRUNE = {"rate": 0.9, "criterion": "smallest", "gradient": True}
CONFIG = ConfigDict({"seed": 0, "pairs": ((("dense", 0), ("dense", 1)),), "prune": PRUNE})


def every_field(config):
    return records.flat(config.to_dict())


def check(directory, config=CONFIG):
    folder.check(directory, config, every_field)


def claim(directory, config=CONFIG, data=DATA):
    with folder.lock(directory):
        folder.claim(directory, config, data, ENCODER, every_field)


def test_a_config_comes_back_with_its_tuples(tmp_path):
    claim(tmp_path / "run")
    assert folder.read_config(tmp_path / "run").to_dict() == CONFIG.to_dict()
    assert (tmp_path / "run" / "config.json").stat().st_mode & 0o777 == 0o644


def test_the_same_config_may_go_on_and_another_is_refused_by_field(tmp_path):
    check(tmp_path / "run")
    claim(tmp_path / "run")
    check(tmp_path / "run")
    other = CONFIG.copy_and_resolve_references()
    other.prune.rate, other.seed = 0.5, 3
    with pytest.raises(UserError, match=r"prune\.rate \(0\.9 there, 0\.5 given\); seed \(0 there, 3 given\)"):
        check(tmp_path / "run", other)
    del other.prune
    with pytest.raises(UserError, match=r"prune\.rate \(0\.9 there, absent given\)"):
        check(tmp_path / "run", other)


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(UserError, match="not empty"):
        check(tmp_path)
    with pytest.raises(UserError, match="is a file"):
        check(tmp_path / "thesis.tex" / "run")


def test_a_read_only_place_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
    with pytest.raises(UserError, match="read-only"):
        check(tmp_path / "new" / "run")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", ["a[0]", "back\\slash", "every*", "which?"])
def test_a_path_that_checkpoints_would_be_lost_in_is_refused(tmp_path, name):
    with pytest.raises(UserError, match=r"has one of \*\?\[\\ in it, so no checkpoint could be read: rename it"):
        check(tmp_path / name / "run")
    check(tmp_path / folder.fit_name(name) / "run")
    with pytest.raises(UserError, match=r"M\\xfcnchen/run is not UTF-8, so no checkpoint could be written"):
        check(tmp_path / "M\udcfcnchen" / "run")
    check(tmp_path / "spaces, ümlauts & #%{}()'@:;|$" / "run")


def test_missing_and_damaged_configs(tmp_path):
    with pytest.raises(UserError, match="holds no run"):
        folder.read_config(tmp_path)
    (tmp_path / "config.json").write_text('{"seed": ')
    with pytest.raises(UserError, match="cannot be used"):
        folder.read_config(tmp_path)


def test_versions_name_commit_libraries_flags_and_devices(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=somewhere")
    found = versions.current()
    assert found["XLA_FLAGS"] == "--xla_dump_to=somewhere"
    assert all(isinstance(v, str) for v in found.values())
    assert found["devices"] == "8 x cpu"
    assert {"commit", "jax", "flax", "optax", "orbax-checkpoint", "python", "hardware"} <= found.keys()


def test_metrics_are_continued_after_a_step(tmp_path):
    first = metrics.Metrics(tmp_path, 0)
    for step in (10, 20, 30):
        first.write({"step": step, "loss": step / 10, "seconds": float(step)})
    first.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 40, "lo')  # cut short by a crash
    again = metrics.Metrics(tmp_path, 20)
    assert again.seconds == 20.0
    again.write({"step": 30, "loss": 7.0, "knn/few": None, "seconds": 31.0})
    again.close()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["loss"]) for line in lines] == [(10, 1.0), (20, 2.0), (30, 7.0)]
    assert lines[-1]["knn/few"] is None
    assert list((tmp_path / "tensorboard").glob("events.*"))


def _lines(log, steps):
    return [sentence for step in steps for sentence in log.write({"step": step, "loss": 1.0, "seconds": float(step)})]


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda path: path.unlink(), "metrics.jsonl has 0 of the 3 lines that were written up to step 30"),
        (lambda path: path.write_text(""), "metrics.jsonl has 0 of the 3 lines"),
        (lambda path: path.write_bytes(path.read_bytes()[:70]), "metrics.jsonl has 1 of the 3 lines"),
        (
            lambda path: path.write_bytes(path.read_bytes().split(b"\n", 1)[1]),
            "metrics.jsonl has 2 of the 3 lines",
        ),  # the first
    ],
)
def test_lines_that_are_gone_are_told_of(tmp_path, damage, says):
    log = metrics.Metrics(tmp_path, 0)
    assert log.lost == []
    assert _lines(log, (10, 20, 30)) == []
    notes = log.notes()
    assert notes == {"metrics.jsonl": 3, "warnings.jsonl": 0, "seconds": 30.0}
    assert _lines(log, (40,)) == []
    log.close()
    again = metrics.Metrics(tmp_path, 30, notes)
    assert (again.lost, again.seconds) == ([], 30.0)
    again.close()
    damage(tmp_path / "metrics.jsonl")
    again = metrics.Metrics(tmp_path, 30, notes)
    assert len(again.lost) == 1 and again.lost[0].startswith(says)
    assert again.seconds == 30.0
    _lines(again, (40,))
    again.close()
    later = metrics.Metrics(tmp_path, 40, again.notes())
    assert later.lost == []  # once is enough
    later.close()


def test_lines_that_are_gone_of_an_older_run_and_of_warnings(tmp_path):
    log = metrics.Metrics(tmp_path, 0)
    _lines(log, (10, 20))
    log.warn({"step": 20, "epoch": 1}, "cause", "message")
    log.close()
    for step, notes, lost in (
        (20, {}, []),
        (25, {}, ["metrics.jsonl has no lines of the steps after 20, up to 25"]),
        (20, log.notes(), []),
    ):
        again = metrics.Metrics(tmp_path, step, notes)
        again.close()
        assert again.lost == lost
    (tmp_path / "warnings.jsonl").unlink()
    again = metrics.Metrics(tmp_path, 20, log.notes())
    again.close()
    assert again.lost == ["warnings.jsonl has 0 of the 1 lines that were written up to step 20"]


def test_what_is_removed_while_a_run_trains_is_told_of_once(tmp_path):
    log = metrics.Metrics(tmp_path, 0)
    assert _lines(log, (1, 2)) == []
    (tmp_path / "metrics.jsonl").unlink()
    assert _lines(log, (3, 4)) == [
        "metrics.jsonl was removed or changed while the run trained, so lines before may be missing"
    ]
    shutil.rmtree(tmp_path / "tensorboard")
    assert _lines(log, (5, 6)) == ["tensorboard was removed while the run trained, and is begun again"]
    assert [line["step"] for line in records.read_metrics(tmp_path / "metrics.jsonl")] == [3, 4, 5, 6]
    assert (tmp_path / "tensorboard").is_dir()
    log.close()
    shutil.rmtree(tmp_path)
    with pytest.raises(UserError, match=r"metrics.jsonl cannot be written \(No such file or directory\)"):
        log.write({"step": 7, "loss": 1.0, "seconds": 7.0})


def test_a_run_that_has_lost_its_checkpoints_is_refused_and_not_trained_again(tmp_path):
    """Renamed, removed, or the folder of them renamed; a run that has had none yet may start again."""
    run = tmp_path / "run"
    claim(run)
    check(run)
    assert str(folder.no_checkpoint(run)) == f"{run} has no checkpoint yet: let sdclr pretrain reach its first one"
    records.write(run / "saved.json", records.Saved(step=25))
    says = (
        rf"{run} has no checkpoint, but saved.json says that it had one of step 25: put {run}/checkpoints back as it "
        "was, with a folder for each step, or give another --workdir"
    )
    with pytest.raises(UserError, match=says):
        check(run)
    (run / "checkpoints" / "25.bak").mkdir(parents=True)
    (run / "checkpoints" / "25").touch()
    before = sorted(run.rglob("*"))
    for _ in range(2):
        with pytest.raises(UserError, match=says):
            claim(run)
    assert sorted(run.rglob("*")) == before
    (run / "checkpoints" / "20").mkdir()
    check(run)
    assert folder.steps_in(run / "checkpoints") == [20]


@pytest.mark.parametrize(
    ("epochs", "files", "refused"),
    [
        ((0.5, 1.5), (), False),  # it may have been killed while it saved the first
        ((0.5, 2.0), (), "metrics.jsonl goes to epoch 2"),
        ((0.5,), ("results.json",), "results.json was made from one"),
        ((), ("exemplars/summary.json",), "exemplars/summary.json was made from one"),
    ],
)
def test_a_run_of_an_older_version_that_has_lost_its_checkpoints(tmp_path, epochs, files, refused):
    config = ConfigDict(CONFIG.to_dict() | {"epochs": 20, "checkpoint_every": 1})
    claim(tmp_path / "run", config)
    (tmp_path / "run" / "saved.json").unlink()
    lines = [json.dumps({"step": 9, "epoch": epoch, "seconds": 1.0}) + "\n" for epoch in epochs]
    (tmp_path / "run" / "metrics.jsonl").write_text("".join(lines))
    for name in files:
        (tmp_path / "run" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "run" / name).write_text("{}")
    if refused:
        with pytest.raises(UserError, match=f"has no checkpoint, but {refused}"):
            check(tmp_path / "run", config)
    else:
        claim(tmp_path / "run", config)
        assert folder.saved_step(tmp_path / "run") == 0


@pytest.mark.parametrize("where", ["metrics.jsonl", "tensorboard"])
def test_a_full_disk_ends_the_run_in_a_sentence(tmp_path, monkeypatch, where):
    """It must not wait for good for a thread that has died of it, and what was written before is read."""
    log = metrics.Metrics(tmp_path, 0)
    log.write({"step": 1, "loss": 1.0, "seconds": 1.0})

    def full(*given, **named):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(*{"metrics.jsonl": (pathlib.Path, "open"), "tensorboard": (RecordWriter, "write")}[where], full)
    with pytest.raises(UserError, match=rf"{where} cannot be written \(No space left on device\): make room"):
        for step in range(2, 50):
            log.write({"step": step, "loss": 1.0, "seconds": 1.0})
    log.close()
    monkeypatch.undo()
    assert records.read_metrics(tmp_path / "metrics.jsonl")[0]["step"] == 1


def test_event_files_hold_the_same_numbers_and_say_where_they_go_on(tmp_path):
    for start, steps in ((0, (10, 20)), (10, (20,))):
        log = metrics.Metrics(tmp_path, start)
        for step in steps:
            log.write({"step": step, "loss": step / 8, "knn/few": None, "seconds": 0.5})
        log.close()
        (path,) = (tmp_path / "tensorboard").iterdir()
        content, events = path.read_bytes(), []
        while content:  # TFRecord: length, its checksum, content, its checksum
            (size,) = struct.unpack("Q", content[:8])
            events.append(Event.FromString(content[12 : 12 + size]))
            content = content[16 + size :]
        assert events[0].file_version == "brain.Event:2"
        assert (events[1].step, events[1].session_log.status) == (start + 1, SessionLog.START)
        found = [(e.step, {v.tag: v.simple_value for v in e.summary.value}) for e in events[2:]]
        assert found == [(step, {"loss": step / 8, "seconds": 0.5}) for step in steps]
        path.unlink()


@pytest.mark.parametrize("damage", ["{nonsense}", "123", '{"loss": 1}', "[1]", "\udcff"])
def test_a_damaged_line_is_an_error_and_loses_nothing(tmp_path, damage):
    path = tmp_path / "metrics.jsonl"
    good = '{"step": 10, "seconds": 1.0}\n'
    path.write_text(good + damage + "\n" + good, errors="surrogateescape")
    before = path.read_bytes()
    with pytest.raises(UserError, match=r"line 2 of .*metrics.jsonl is damaged"):
        metrics.Metrics(tmp_path, 20)
    assert path.read_bytes() == before
    path.write_text(good + damage, errors="surrogateescape")  # the last line only: a crash while writing
    assert records.read_metrics(path) == [{"step": 10, "seconds": 1.0}]


def test_other_images_are_noticed(tmp_path):
    assert folder.about_other_data(tmp_path, DATA) == ""  # nothing is known
    claim(tmp_path / "run")
    claim(tmp_path / "run", data=dataclasses.replace(DATA, images=2))
    assert folder.trained_on(tmp_path / "run") == DATA
    assert folder.about_other_data(tmp_path / "run", DATA) == ""
    said = folder.about_other_data(tmp_path / "run", TrainedOn(images=2, sha256="1" * 64))
    assert "was trained on 3 images (SHA-256 of their list 00000000…), where its data set now has 2 images" in said
    (tmp_path / "run" / "data.json").write_text("{}")
    with pytest.raises(UserError, match=r"data.json cannot be used \(it lacks images\): put it back"):
        folder.about_other_data(tmp_path / "run", DATA)


@pytest.mark.parametrize(
    ("written", "commit"),
    [
        ('{"url": "https://example.org/x.git", "vcs_info": {"vcs": "git", "commit_id": "0123abc"}}', "0123abc"),
        ('{"url": "file:///x", "dir_info": {}}', "unknown"),
        ("[]", "unknown"),
        ("{", "unknown"),
        (None, "unknown"),
    ],
)
def test_the_commit_of_what_pip_installed_from_git(written, commit, monkeypatch):
    monkeypatch.setattr(versions, "__file__", "/nowhere/versions.py")
    installed = types.SimpleNamespace(read_text={"direct_url.json": written}.get)
    monkeypatch.setattr(versions.importlib.metadata, "distribution", {"sdclr_jax": installed}.get)
    monkeypatch.setattr(versions.importlib.metadata, "version", lambda name: "1")
    assert versions.current()["commit"] == commit


def test_a_clone_is_dirty_where_its_code_was_changed(tmp_path, monkeypatch):
    """Else what is measured in it could not be committed without a new commit for the next measurement."""
    code, results = tmp_path / "sdclr_jax" / "run" / "versions.py", tmp_path / "experiments" / "results" / "a.jsonl"
    others = tmp_path / "experiments" / "a.py", tmp_path / "docs" / "a.md"
    for path in (code, results, *others):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("1")
    who = {f"GIT_{role}_{what}": "a@b.c" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "all"]):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True, env=os.environ | who)
    monkeypatch.setattr(versions, "__file__", str(code))
    clean = versions.commit()
    assert len(clean) == 40
    for path in (results, others[1], tmp_path / "sdclr_jax" / "not_added.py"):
        path.write_text("2")
        assert versions.commit() == clean
    for path in (code, others[0]):
        path.write_text("2")
        assert versions.commit() == f"{clean}-dirty"
        path.write_text("1")
    assert versions.commit() == clean


def test_versions_of_the_first_start_stay(tmp_path, monkeypatch):
    claim(tmp_path / "run")
    first = json.loads((tmp_path / "run" / "versions.json").read_text())
    monkeypatch.setattr(versions, "current", lambda: first | {"jax": "9.9"})
    claim(tmp_path / "run")
    assert json.loads((tmp_path / "run" / "versions.json").read_text()) == first | {"resumed_jax": "9.9"}


def test_a_start_killed_while_claiming_can_be_repeated(tmp_path, monkeypatch):
    def killed():
        raise KeyboardInterrupt

    monkeypatch.setattr(versions, "current", killed)
    with pytest.raises(KeyboardInterrupt):
        claim(tmp_path / "run")
    monkeypatch.undo()
    check(tmp_path / "run")
    claim(tmp_path / "run")


def test_of_two_starts_that_found_the_folder_empty_one_has_it(tmp_path):
    """Each looks at it, and compiles for a minute; then the first may write, and even end, before the second does."""
    other = CONFIG.copy_and_resolve_references()
    other.seed = 3
    for config in (CONFIG, other):
        check(tmp_path / "run", config)
    claim(tmp_path / "run")
    with pytest.raises(UserError, match=r"holds a run of another config: seed \(0 there, 3 given\)"):
        claim(tmp_path / "run", other)


def test_damaged_versions_are_told_of(tmp_path):
    claim(tmp_path / "run")
    (tmp_path / "run" / "versions.json").write_text("")
    with pytest.raises(UserError, match=r"versions.json cannot be used .*: put it back from a copy, or delete it"):
        claim(tmp_path / "run")


def test_a_start_killed_before_its_first_file_can_be_repeated(tmp_path):
    with folder.lock(tmp_path / "run"):
        (tmp_path / "run" / ".sdclr_jax-writing-abc").mkdir()
    check(tmp_path / "run")
    claim(tmp_path / "run")


def test_what_turns_images_into_features_is_written_once(tmp_path):
    claim(tmp_path / "run")
    assert records.read(EncoderRecord, tmp_path / "run" / "encoder.json") == ENCODER
    (tmp_path / "run" / "encoder.json").unlink()  # as of a run of an older version, which then goes on
    claim(tmp_path / "run")
    assert records.read(EncoderRecord, tmp_path / "run" / "encoder.json") == ENCODER


def test_images_that_are_seen_in_another_way_than_when_the_run_began_are_refused(tmp_path):
    run = tmp_path / "run"
    folder.check_seen(run, None)  # nothing is known
    claim(run)
    folder.check_seen(run, (8, 8, 1))
    other = r"^.*run: the images were of one size, 8 x 8 x 1, when this run began, and are {}, now: put back what has"
    for shape, said in ((None, "cropped, being of several sizes or too many"), ((9, 8, 1), "of one size, 9 x 8 x 1")):
        with pytest.raises(UserError, match=other.format(said)):
            folder.check_seen(run, shape)
    cropped = dataclasses.replace(ENCODER, resize=9, crop=8, view=View(height=8, width=8, channels=3))
    records.write(run / "encoder.json", cropped)
    folder.check_seen(run, None)  # evaluate.crop may change
    with pytest.raises(UserError, match="the images were cropped, .*, and are of one size, 8 x 8 x 3, now"):
        folder.check_seen(run, (8, 8, 3))
    (run / "data.json").unlink()  # as of weights from elsewhere: what they were trained on is not known
    folder.check_seen(run, (8, 8, 3))
