"""What a run's folder says of it, what a table makes of its runs, and how a list of runs follows them."""

import csv
import io
import json
import signal
import types
from dataclasses import replace

import pytest

from sdclr_jax import records
from tests.test_tables import TABLE, collected, jobs, ledger, lists, published, results_of


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


@pytest.mark.parametrize("status", [jobs.STOPPED, 1])
def test_a_run_that_stopped_and_saved_stops_the_list_and_one_that_failed_ends_it(monkeypatch, tmp_path, status):
    process = types.SimpleNamespace(poll=lambda: status, args=["sdclr", "pretrain"])
    monkeypatch.setattr(jobs.subprocess, "Popen", lambda *_, **__: process)
    with (tmp_path / "one.lock").open("w") as lock:
        running = jobs._Running(jobs.Job("one", "digits_lt.py:simclr"), tmp_path, 0, 3, lock)
        (tmp_path / "one.log").write_text("no space left")
        with pytest.raises(jobs._Stop if status == jobs.STOPPED else SystemExit) as end:
            running.running()
    assert status == jobs.STOPPED or "one.log ends:\nno space left" in str(end.value)


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
