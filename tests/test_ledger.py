"""What a run's folder says of it, what a table makes of its runs, and how a list of runs follows them."""

import argparse
import csv
import doctest
import errno
import io
import json
import pathlib
import re
import signal
import types
from dataclasses import replace

import pytest

from sdclr_jax import records
from sdclr_jax.errors import UserError
from sdclr_jax.reports import published
from tests.played_table import TABLE, results_of
from tests.test_collected import collected, jobs, ledger, lists


@pytest.fixture
def written(tmp_path):
    """written(FILE=changes, ...): the record of a run that is done, but for these fields of its files; None: none."""
    config = jobs.config_of(jobs.Job("", "digits_lt.py:simclr", ("--config.epochs=4",)))
    files = {
        "config": json.loads(config.to_json()),
        "versions": {"commit": "1111111", "hardware": "a toaster", "devices": "1 x cpu", "jax": "0.1"},
        "data": {"images": 369, "sha256": "a" * 64},
        "saved": {"format": 1, "step": 20},
        "results": results_of(config, 0.5),
    }
    folder = tmp_path / "simclr-0"
    folder.mkdir()
    (folder / "metrics.jsonl").write_text('{"step": 20, "epoch": 4, "loss": 1.0, "seconds": 9}\n')

    def changed(fields, changes):
        return fields | {k: changed(fields[k], v) if isinstance(fields.get(k), dict) else v for k, v in changes.items()}

    def read(**changes):
        for name, fields in files.items():
            path, own = folder / f"{name}.json", changes.get(name, {})
            if own is None:
                path.unlink(missing_ok=True)
            else:
                path.write_text(json.dumps(changed(fields, own)))
        return ledger.read(folder)

    return read


def test_results_of_half_a_training_are_no_end(written):
    assert written().state == ledger.DONE and written().scores["knn.all"] == 0.5
    half = written(results={"run": {"epoch": 2.0}})
    assert half.state == ledger.TRAINED and "knn.all" not in half.scores


@pytest.mark.parametrize(("step", "state"), [(15, ledger.BEGUN), (20, ledger.TRAINED), (25, ledger.TRAINED)])
def test_a_run_is_trained_when_its_last_step_is_on_the_disk(written, step, state):
    assert written(results=None, saved={"step": step}).state == state


def test_a_run_that_another_commit_resumed_has_both(written):
    found = written(versions={"resumed_commit": "2222222", "resumed_hardware": "a kettle", "resumed_jax": "0.2"})
    assert (found.commit, found.jax) == ("1111111 then 2222222", "0.1 then 0.2")
    assert found.hardware == "a toaster then a kettle, 1 x cpu"
    assert (written().commit, written().hardware) == ("1111111", "a toaster, 1 x cpu")


@pytest.mark.parametrize(
    "changes",
    [
        {"run": {"method": "sdclr"}},
        {"run": {"seed": 1}},
        {"data": {"split": 3}},
        {"data": {"seed": 1}},
        {"data": {"lists": {"train": "b" * 64}}},
    ],
)
def test_results_of_another_method_seed_split_or_list_are_a_fault(written, changes):
    assert written().fault == ""
    assert written(results=changes).fault == "results.json of another run"


def test_a_folder_of_images_is_named_without_its_place(written):
    assert written(results={"data": {"name": "folder:/home/one/photos"}}).data == "folder:photos"
    assert written(results=None, data={"provenance": {"published": True}}).data == "digits"


def test_the_hash_of_a_config_is_of_what_is_learnt_and_not_of_repeats():
    """The first twelve digits of `printf '{"data.name": "digits", "optimizer.learning_rate": 0.1}' | sha256sum`."""
    fields = {"optimizer.learning_rate": 0.1, "data.name": "digits"}
    free = {"seed": 3, "data.seed": 3, "data.split": 2, "data.workers": 7, "evaluate.knn_k": 5, "log_every": 1}
    assert ledger.config_hash(fields) == ledger.config_hash(fields | free) == "0460b1c1c8cb"
    assert ledger.config_hash(fields | {"optimizer.learning_rate": 0.2}) != "0460b1c1c8cb"
    folders = {ledger.config_hash(fields | {"data.name": f"folder:{path}"}) for path in ("/a/photos", "/b")}
    assert folders == {"2c1bc6d31caa"}


@pytest.fixture
def planned(tmp_path):
    """The table of two methods and two seeds, its runs as they are planned, and as they are done."""
    (tmp_path / "small.toml").write_text(TABLE)
    table = lists.load(str(tmp_path / "small.toml"))
    done = {
        run.job.name: ledger.Finished(
            run=run.job.name, state="done", method=run.row.name, seed=run.seed, data_seed=run.seed, commit="a" * 40,
            config=ledger.config_hash(records.flat(json.loads(jobs.config_of(run.job).to_json()))), data="digits",
            images=f"list {run.seed}", scores={"knn.all": 0.5 + run.seed / 10}, settings={"knn": "k 200"},
        )
        for run in table.runs()
    }  # fmt: skip
    return table, done


def collect(table, done, **options):
    found = collected.collect(table, list(done.values()), table.runs(), **options)
    return found, {name: why for line in found.lines for name, why in line.listed.items()}


def test_runs_that_are_left_out_have_no_say_in_what_the_others_are_held_against(planned):
    table, done = planned
    others = ("simclr-0", "simclr-1", "sdclr-1")  # of another commit, and more
    for change in ({"images": "another"}, {"settings": {"knn": "k 1"}}):
        changed = done | {name: replace(done[name], commit="b" * 40, **change) for name in others}
        found, listed = collect(table, changed, commit="aa")
        assert [run.run for run in found.runs] == ["sdclr-0"]
        assert set(listed) == set(others) and listed["sdclr-1"] == "commit bbbbbbb"


def test_only_the_settings_of_what_is_shown_count(planned):
    table, done = planned
    done = {name: replace(run, settings={"knn": "k 200", "ridge": "l2 1"}) for name, run in done.items()}
    for settings, why in (({"ridge": "l2 2"}, {}), ({"knn": "k 1"}, {"sdclr-0": "other settings of knn"})):
        odd = replace(done["sdclr-0"], settings=done["sdclr-0"].settings | settings)
        found, listed = collect(table, done | {"sdclr-0": odd})
        assert listed == why and len(found.runs) == 4 - len(why)


def test_a_run_that_is_not_evaluated_by_all_that_is_shown_is_not_averaged():
    """`sdclr evaluate` writes results.json after each protocol, so one that was stopped has left some of them."""
    table = lists.load("cifar10_lt")
    full, few_shot = table.protocols
    runs = []
    for run in (run for run in table.runs() if run.row.name == "sdclr"):
        config = jobs.config_of(run.job)
        there = (full,) if run.split > 2 else (full, few_shot)
        runs.append(
            ledger.Finished(
                run=run.job.name, state="done", method="sdclr", seed=0, split=run.split, data_seed=config.data.seed,
                commit="a" * 40, data="cifar10", images=table.lists["long_tail"][str(run.split)],
                config=ledger.config_hash(records.flat(json.loads(config.to_json()))),
                scores={f"{name}.{score}": 0.8 for name in there for score in records.SUMMARY},
            )
        )  # fmt: skip
    found = collected.collect(table, runs, table.runs())
    assert [run.run for run in found.runs] == ["sdclr-1", "sdclr-2"]
    said = ", ".join(f"sdclr-{split} (not evaluated by {few_shot})" for split in (3, 4, 5)).replace(", ", "; ")
    assert f"Not averaged: {said}." in collected.markdown(found)
    rows = [row for row in csv.DictReader(io.StringIO(collected.to_csv(found))) if row["row"] == "SDCLR"]
    assert {row["n"] for row in rows} == {"2"}


def test_runs_of_a_clean_commit_come_first_and_what_is_averaged_is_said(planned):
    table, done = planned

    def made_by(*commits):
        return {name: replace(run, commit=commit) for (name, run), commit in zip(done.items(), commits, strict=True)}

    a, b = "a" * 40, "b" * 40
    resumed, dirty = f"{a} then {b}", f"{a}-dirty"
    for commit in ("", "aaaa"):
        for others in (resumed, dirty):
            found, listed = collect(table, made_by(others, others, others, a), commit=commit)
            assert (found.commit, len(listed)) == (a, 3)
            assert "Averaged: runs of commit aaaaaaa." in collected.markdown(found)
    for commit, said in [
        (resumed, "Averaged: runs of commit aaaaaaa then bbbbbbb, which another commit resumed."),
        (dirty, "Averaged: runs of commit aaaaaaa-dirty; dirty means: with changes that are not committed."),
    ]:
        found, _ = collect(table, made_by(commit, commit, a, a), commit=commit)  # the exact name
        assert (found.commit, len(found.runs)) == (commit, 2) and said in collected.markdown(found)
    for unknown in ("", "unknown"):
        found, _ = collect(table, made_by(*[unknown] * 4))
        assert "Averaged: runs of a commit that is not known." in collected.markdown(found)
        assert collect(table, made_by(unknown, unknown, unknown, a))[0].commit == a
    with pytest.raises(UserError, match="--commit is cc, which no run has: those of the runs are aaaaaaa, bbbbbbb"):
        collect(table, made_by(a, a, b, b), commit="cc")


def test_runs_that_were_evaluated_on_other_lists_are_not_averaged(planned, written):
    own = {"few_shot": "b" * 64, "test": "c" * 64}
    assert written(results={"data": {"lists": own}}).lists == {"few_shot": "b" * 8, "test": "c" * 8}
    table, done = planned
    drawn = {name: replace(run, lists={"few_shot": f"of seed {run.seed}"}) for name, run in done.items()}
    assert collect(table, drawn)[1] == {}  # each seed has its own
    assert ledger.from_csv(ledger.to_csv(drawn.values())) == list(drawn.values())
    given = replace(table, draws=False)
    seed = jobs.config_of(given.runs()[0].job).data.seed
    same = {name: replace(run, data_seed=seed, lists={"few_shot": "b", "test": "c"}) for name, run in done.items()}
    assert collect(given, same)[1] == {}
    other = replace(same["sdclr-1"], lists={"few_shot": "x", "test": "c"})
    older = replace(same["simclr-0"], lists={})  # a record of an older version does not know them
    _, listed = collect(given, same | {"sdclr-1": other, "simclr-0": older})
    assert listed == {"sdclr-1": "another list of few_shot"}


def test_a_warning_is_said_with_its_first_step(planned):
    table, done = planned
    for name, step in (("simclr-0", 70), ("simclr-1", 30)):
        done[name] = replace(done[name], warnings={"collapse": step})
    found, _ = collect(table, done)
    assert "collapse (in 2 of 2 runs, first at step 30)" in collected.markdown(found)


def test_a_line_of_the_ledger_has_both_means_and_both_deviations():
    table = lists.load("cifar10_lt")
    row = next(row for row in table.rows if row.paper == "sdclr" and row.label.startswith("SDCLR"))
    score = next(column.score for column in table.shown() if column.score.endswith(".many"))
    runs = [
        ledger.Finished(run=f"{i}", state="done", method="sdclr", seed=i, scores={score: x}, hardware="a toaster")
        for i, x in enumerate((0.5, 0.6, 0.7))
    ]
    line = collected.Line(row, planned=5, done=runs)
    text = collected.to_csv(collected.Collected(table, [line], "abc", "cifar10"))
    (cell,) = [found for found in csv.DictReader(io.StringIO(text)) if found["score"] == score]
    figure = published.DATA_SETS[table.paper].scores[lists.kind_of(score.partition(".")[0]), "sdclr"]["many"]
    assert (figure.mean, figure.sd) == (86.44, 3.12)
    assert [cell[name] for name in ("paper", "paper_sd", "paper_n")] == ["86.44", "3.12", "5"]
    # 50, 60 and 70: the sample's deviation is 10, that of a whole population 8.2.
    assert [float(cell[name]) for name in ("ours", "sd")] == pytest.approx([60.0, 10.0])
    assert (cell["n"], cell["planned"], cell["commit"], cell["hardware"]) == ("3", "5", "abc", "a toaster")
    assert line.shown(collected.Column(title="Many", score=score)) == "60.0 ± 10.0"


@pytest.mark.parametrize(
    ("field", "typed"),
    [
        ("--config.seed=3", "--config.seed=3"),
        ("--config.data.lists=$LISTS", '--config.data.lists="$LISTS"'),
        ("--config.evaluate.protocols=('knn',)", "--config.evaluate.protocols=\"('knn',)\""),
        ("--config.views.std=(1,2)", '--config.views.std="(1,2)"'),
        ("--config.data.root=a b", '--config.data.root="a b"'),
    ],
)
def test_a_field_is_typed_so_that_a_shell_hands_it_on(field, typed):
    pretrain, _ = jobs.Job("one", "digits_lt.py:simclr", (field,)).commands("runs")
    assert pretrain == f"sdclr pretrain --config=digits_lt:simclr {typed} --workdir=runs/one"


FAILED = {1: "failed, with status 1; ", -9: r"failed, killed by SIGKILL \(often: out of memory\); "}


@pytest.mark.parametrize("status", [jobs.STOPPED, *FAILED])
def test_a_run_that_stopped_and_saved_stops_the_list_and_one_that_failed_ends_it(monkeypatch, tmp_path, status):
    process = types.SimpleNamespace(poll=lambda: status, args=["sdclr", "pretrain"])
    monkeypatch.setattr(jobs.subprocess, "Popen", lambda *_, **__: process)
    with (tmp_path / "one.lock").open("w") as lock:
        running = jobs._Running(jobs.Job("one", "digits_lt.py:simclr"), tmp_path, 0, 3, lock)
        (tmp_path / "one.log").write_text("no space left")
        with pytest.raises(jobs._Stop if status == jobs.STOPPED else SystemExit) as end:
            running.running()
    if status != jobs.STOPPED:
        assert re.search(FAILED[status] + r".*one.log ends:\nno space left", str(end.value))


def test_a_run_starts_where_the_command_was_typed_and_shares_the_memory_of_a_gpu(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(jobs.subprocess, "Popen", lambda *_, **options: asked.append(options))
    monkeypatch.delenv("XLA_PYTHON_CLIENT_PREALLOCATE", raising=False)
    monkeypatch.setenv("PYTHONPATH", "/mine")
    for alone in (True, False):
        jobs._Running(jobs.Job("one", "digits_lt.py:simclr"), tmp_path, 0, 3, None, alone=alone)
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "true")
    jobs._Running(jobs.Job("one", "digits_lt.py:simclr"), tmp_path, 0, 3, None, alone=False)
    memory = [options["env"].get("XLA_PYTHON_CLIENT_PREALLOCATE") for options in asked]
    assert memory == [None, "false", "true"]
    assert not any("cwd" in options for options in asked)
    assert asked[0]["env"]["PYTHONPATH"] == f"{jobs.ROOT}:/mine"


def test_signals_that_come_while_runs_save_are_ignored(monkeypatch, tmp_path):
    done = []

    class Saving:
        def __init__(self, job, out, place, width, lock, **_):
            self.name, self.lock = job.name, lock

        def running(self):
            signal.raise_signal(signal.SIGUSR1)

        def stop(self):
            signal.raise_signal(signal.SIGTERM)

        def wait(self):
            signal.raise_signal(signal.SIGHUP)
            self.lock.close()
            done.append(self.name)

    monkeypatch.setattr(jobs, "_Running", Saving)
    two = [jobs.Job(name, f"digits_lt.py:{name}") for name in ("simclr", "sdclr")]
    with pytest.raises(SystemExit) as end:
        jobs.run(two, tmp_path)
    assert (end.value.code, done) == (jobs.STOPPED, ["simclr", "sdclr"])


def test_what_a_program_around_python_handles_is_left_to_it(monkeypatch):
    own, taken = signal.getsignal, []
    monkeypatch.setattr(jobs.signal, "getsignal", lambda n: None if n == signal.SIGTERM else own(n))
    set_ = signal.signal
    monkeypatch.setattr(jobs.signal, "signal", lambda n, handler: [taken.append(n), set_(n, handler)][1])
    with jobs._stopped_by_scheduler():
        assert signal.SIGUSR1 in taken
    assert signal.SIGTERM not in taken


def test_a_disk_without_locks_and_runs_that_would_be_the_same_are_refused_in_a_sentence(monkeypatch, tmp_path):
    seven = ("--config.seed=7",)
    two = [jobs.Job(f"simclr-{n}", "digits_lt.py:simclr", (f"--config.seed={n}", *seven)) for n in (0, 1)]
    with pytest.raises(SystemExit, match="simclr-0 and simclr-1 would be the same run: leave out the fields"):
        jobs.run(two, tmp_path / "runs")
    assert not (tmp_path / "runs").exists()

    def refuses(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(jobs.fcntl, "flock", refuses)
    with pytest.raises(SystemExit, match=rf"{tmp_path} is on a disk that knows no locks \(No locks available\): mount"):
        jobs.run(two[:1], tmp_path)


def test_a_signal_that_is_ignored_stays_ignored_while_a_list_runs():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with jobs._stopped_by_scheduler():
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
            with pytest.raises(jobs._Stop):
                signal.raise_signal(signal.SIGUSR1)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("module", [collected, jobs, ledger, lists])
def test_the_examples_are_true(module):
    found = doctest.testmod(module)
    assert found.attempted and not found.failed


def test_no_experiment_takes_a_bucket_for_a_folder_of_this_disk():
    assert jobs.on_disk("~/runs") == pathlib.Path.home() / "runs"
    with pytest.raises(
        argparse.ArgumentTypeError, match="gs://bucket/runs is in a bucket, and an experiment writes to"
    ):
        jobs.on_disk("gs://bucket/runs")
    for path in (jobs.ROOT / "experiments").glob("*.py"):
        for line in path.read_text().splitlines():
            assert 'add_argument("--out"' not in line or "on_disk" in line, path
