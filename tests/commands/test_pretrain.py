"""The loop on the real digits with a tiny network: exact resume, metrics, refusals, and a loss that is not a number."""

import contextlib
import copy
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.array import ArrayImpl  # all arrays; that which converts them has no public door

from sdclr_jax import parallel, processes, recipes, records, stops
from sdclr_jax.api import loop
from sdclr_jax.api.pretrain import train
from sdclr_jax.commands import flags, main
from sdclr_jax.data.batches import Resident
from sdclr_jax.data.order import rows
from sdclr_jax.errors import Diverged, Stopped, UserError
from sdclr_jax.recipes import methods
from sdclr_jax.run import folder, metrics, versions
from tests.runs import ROOT, arguments, assert_same_bits, config, lines, power_cut, run

pytestmark = pytest.mark.usefixtures("one_trace")


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def finished(tmp_path_factory, data_dir):
    """An uninterrupted run: its folder and its last state."""
    directory = tmp_path_factory.mktemp("runs") / "whole"
    return directory, run(config(), directory, data_dir)


def test_what_a_run_leaves_behind(finished):
    directory, state = finished
    assert {p.name for p in directory.iterdir()} == {
        ".lock", "config.json", "data.json", "encoder.json", "versions.json", "metrics.jsonl", "tensorboard",
        "checkpoints", "saved.json",
    }  # fmt: skip
    lines = records.read_metrics(directory / "metrics.jsonl")
    assert [line["step"] for line in lines] == [2, 4, 5, 6, 8, 10, 12, 14, 15]
    assert lines[-1]["epoch"] == 3.0
    assert int(state.step) == 15
    for line in lines:
        assert 0 < line["loss"] < 10
        assert line["density/all"] == pytest.approx(0.1, abs=0.002)
        assert line["images_per_second"] > 0
        assert line["seconds"] >= line["data_wait_seconds"] >= 0
    assert lines[0]["learning_rate"] < lines[2]["learning_rate"] > lines[-1]["learning_rate"]
    assert json.loads((directory / "config.json").read_text())["prune"]["rate"] == 0.9
    events = b"".join(p.read_bytes() for p in (directory / "tensorboard").iterdir())
    assert all(name.encode() in events for name in ("loss", "projection_std/sparse", "density/encoder/stem"))
    kept = [p.name for p in (directory / "checkpoints").iterdir()]
    assert sorted(kept) == ["10", "15"]


@pytest.fixture(scope="module")
def finished_between_refreshes(tmp_path_factory, data_dir):
    """An uninterrupted run whose checkpoints (steps 5, 10) do not fall on refreshes of the mask (steps 0, 4, 8, 12)."""
    directory = tmp_path_factory.mktemp("runs") / "whole"
    return directory, run(config("sdclr", "--config.prune.every=4", "--config.collapse_every=3"), directory, data_dir)


@pytest.mark.parametrize(("stopped_after", "then"), [(4, ()), (7, ("--config.data.input=streamed",))])
def test_a_crashed_run_goes_on_exactly(
    finished_between_refreshes, data_dir, tmp_path, monkeypatch, stopped_after, then
):
    """Parameters, statistics, mask, optimizer and metrics equal those of an uninterrupted run, to the bit; also where
    each batch is then sent from the host."""
    whole, expected = finished_between_refreshes
    between = ("--config.prune.every=4", "--config.collapse_every=3")
    with power_cut(monkeypatch, stopped_after):
        run(config("sdclr", *between), tmp_path / "cut", data_dir)
    with jax.enable_x64(True), jax.default_prng_impl("rbg"):  # which is another program's, and changes no run
        state = run(config("sdclr", *between, *then), tmp_path / "cut", data_dir)
    assert_same_bits(state, expected)
    assert lines(tmp_path / "cut") == lines(whole)


def test_a_stop_between_two_lines_of_metrics_changes_no_line(
    finished_between_refreshes, data_dir, tmp_path, monkeypatch
):
    whole, expected = finished_between_refreshes
    between = config("sdclr", "--config.prune.every=4", "--config.collapse_every=3")
    monkeypatch.setattr(processes.Stop, "at", lambda self, step, convenient: step in (1, 7))
    for step in (1, 7):
        with pytest.raises(Stopped, match=f"^stopped at step {step} of 15: run it again to resume$"):
            run(between, tmp_path / "stopped", data_dir)
    monkeypatch.undo()
    assert_same_bits(run(between, tmp_path / "stopped", data_dir), expected)
    assert lines(tmp_path / "stopped") == lines(whole)
    seconds = [line["seconds"] for line in records.read_metrics(tmp_path / "stopped" / "metrics.jsonl")]
    assert seconds == sorted(seconds)


def test_a_finished_run_stays_as_it_is(finished, data_dir):
    directory, expected = finished
    before = (directory / "metrics.jsonl").read_text()
    assert_same_bits(run(config(), directory, data_dir), expected)
    assert (directory / "metrics.jsonl").read_text() == before


def test_a_finished_run_that_has_lost_something_is_not_trained_again(finished, data_dir, tmp_path, capsys):
    """Its checkpoints: refused, and nothing is written. Lines of its metrics: said, and kept where reports find it."""
    directory = shutil.copytree(finished[0], tmp_path / "run")
    (directory / "checkpoints" / "15").rename(directory / "checkpoints" / "15.bak")
    (directory / "checkpoints" / "10").rename(directory / "checkpoints" / "10.bak")
    before = {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}
    argv = ["pretrain", *arguments(directory, data_dir, "sdclr")]
    assert main.main(argv) == 2
    assert "has no checkpoint, but saved.json says that it had one of step 15: put" in capsys.readouterr().err
    assert before == {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}
    (directory / "checkpoints" / "15.bak").rename(directory / "checkpoints" / "15")
    kept = (directory / "metrics.jsonl").read_text().splitlines(keepends=True)[:4]
    (directory / "metrics.jsonl").write_text("".join(kept))
    assert main.main(argv) == 0
    lost = "metrics.jsonl has 4 of the 9 lines that were written up to step 15"
    said = capsys.readouterr().err
    assert f"warning at step 15: {lost}" in said and f"Training on {jax.device_count()} x cpu\n" in said
    (warning,) = records.read_warnings(directory / "warnings.jsonl")
    assert (warning["step"], warning["epoch"], warning["message"]) == (15, 3.0, lost)
    assert (directory / "metrics.jsonl").read_text() == "".join(kept)


def test_signs_of_collapse_are_measured_for_each_branch_and_change_nothing(
    finished, data_dir, tmp_path, monkeypatch, capsys
):
    """Every seven steps and at the end, compiled once; the run is that without measures, to the bit."""
    traced = []
    counted = jax.jit(lambda *given: traced.append(1) or loop.collapse.measure(*given), static_argnums=1)
    monkeypatch.setattr(loop, "_jitted_collapse", lambda replicated: counted)
    state = run(config("sdclr", "--config.collapse_every=7"), tmp_path / "often", data_dir)
    assert len(traced) == 1
    assert_same_bits(state, finished[1])
    measures = {
        "alignment",
        "alignment_ratio",
        *(f"{m}/{b}" for m in ("feature_std", "feature_rank", "projection_rank", "uniformity") for b in state.stats),
    }
    often, never = lines(tmp_path / "often"), lines(finished[0])
    assert [line["step"] for line in often if measures <= line.keys()] == [7, 14, 15]
    assert not any(measures & line.keys() for line in never)
    plain = {line["step"]: line for line in never}
    in_both = [line for line in often if line["step"] in plain and line["step"] != 8]  # there a mean over fewer steps
    assert len(in_both) > 1
    for line in in_both:
        assert {k: v for k, v in line.items() if k not in measures} == plain[line["step"]]
    assert 1 < often[-1]["projection_rank/sparse"] <= 4
    assert not (tmp_path / "often" / "warnings.jsonl").exists()
    said = capsys.readouterr().err
    assert "warning" not in said and "Training on" not in said  # this is said with the bar


def test_signs_of_collapse_are_those_of_a_whole_batch(data_dir, tmp_path, monkeypatch):
    """Also where the last step of an epoch sees 49 images, and where the run is resumed there: of 49 images no rank is
    above 49, and runs whose steps all see 64 would look better."""
    fields = ("--config.data.last_batch=kept", "--config.epochs=2", "--config.log_every=3", "--config.collapse_every=6")
    kept = config("simclr", *fields)
    measured = []

    def measure(outputs, pairs):
        measured.append(outputs)
        return {"alignment": np.asarray(outputs[pairs[0][0]].projection).sum(dtype=np.float64)}

    monkeypatch.setattr(loop, "_jitted_collapse", lambda replicated: measure)
    state = run(kept, tmp_path / "whole", data_dir)
    assert [line["step"] for line in lines(tmp_path / "whole")] == [3, 6, 9, 12]
    assert {len(out.projection) for outputs in measured for out in outputs.values()} == {64}
    images = recipes.data(kept, data_dir).part(kept.data.subset).images
    method = recipes.method(kept, 6, parallel.shardings(jax.devices()[:1]).replicated)
    expected = method.jitted_diagnose(state, images[rows(369, 64, 0, 10, "kept")])
    assert_same_bits(measured[-1], expected)
    with monkeypatch.context() as stopping, pytest.raises(Stopped, match="^stopped at step 11 of 12"):
        stopping.setattr(processes.Stop, "at", lambda self, step, convenient: step == 11)
        run(kept, tmp_path / "stopped", data_dir)
    run(kept, tmp_path / "stopped", data_dir)
    assert lines(tmp_path / "stopped") == lines(tmp_path / "whole")


def test_collapse_is_warned_of_once(data_dir, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(loop.collapse, "POINT", 2.0)  # so that every run has collapsed; projection_std is always there
    with power_cut(monkeypatch, 7):
        run(config(), tmp_path / "run", data_dir)
    assert capsys.readouterr().err.count("warning at step 2: the projections of the dense and sparse branches") == 1
    (warning,) = [json.loads(line) for line in (tmp_path / "run" / "warnings.jsonl").read_text().splitlines()]
    assert (warning["step"], warning["epoch"], warning["cause"]) == (2, 0.4, "one point")
    assert "optimizer.learning_rate" in warning["message"]
    before = (tmp_path / "run" / "warnings.jsonl").read_text()
    run(config(), tmp_path / "run", data_dir)  # from step 5
    assert (tmp_path / "run" / "warnings.jsonl").read_text() == before
    assert "warning" not in capsys.readouterr().err
    # What was said of steps that are gone is forgotten.
    log = metrics.Metrics(tmp_path / "run", step=0)
    assert log.warn({"step": 2, "epoch": 0.4}, "one point", "again")
    log.close()


# A process like this one, on one of its eight devices: threads share a sum as they do here.
STOPPED_AT_THE_EIGHTH_BATCH = """
import os, signal, sys
import jax
from sdclr_jax import parallel
from sdclr_jax.commands import main
from sdclr_jax.data.batches import Resident
one = parallel.shardings(jax.devices()[:1])
parallel.shardings = lambda devices=None: one
from_step = Resident.from_step

def stopped(self, step):
    for number, batch in enumerate(from_step(self, step)):
        if number == 7:
            os.kill(os.getpid(), signal.SIGTERM)
        yield batch

Resident.from_step = stopped
sys.exit(main.main(sys.argv[1:]))
"""


def test_sigterm_saves_and_the_same_command_goes_on(finished, data_dir, tmp_path):
    """A real process is told to stop in mid-epoch, and this one ends where an uninterrupted run does."""
    directory = tmp_path / "stopped"
    options = ["pretrain", *arguments(directory, data_dir, "sdclr", "--noprogress")]
    how = {"capture_output": True, "text": True, "env": os.environ | {"PYTHONPATH": str(ROOT)}, "cwd": tmp_path}
    first = subprocess.run([sys.executable, "-c", STOPPED_AT_THE_EIGHTH_BATCH, *options], **how)
    stopped = records.read_metrics(directory / "metrics.jsonl")[-1]["step"]
    assert 5 < stopped < 10
    assert first.returncode == 75
    assert f"stopped at step {stopped} of 15: run it again to resume" in first.stderr
    run(config("sdclr"), directory, data_dir)
    assert lines(directory) == lines(finished[0])


def test_a_stop_is_saved_where_nobody_reads_what_is_said(data_dir, tmp_path, monkeypatch):
    """As at Ctrl-C under `2>&1 | tee log`, which ends `tee` too; also from Python, with a bar, and where no batch comes
    after a step at which no run would stop."""
    from_step = Resident.from_step

    def stopped(self, step):
        for number, batch in enumerate(from_step(self, step), 1):
            if number == 9:
                os.kill(os.getpid(), signal.SIGINT)
            if number == 10:
                monkeypatch.setattr(stops, "PATIENCE", -1)
                stops.look()
            yield batch

    monkeypatch.setattr(Resident, "from_step", stopped)
    reader, writer = os.pipe()
    os.close(reader)
    errors = os.fdopen(writer, "w")
    monkeypatch.setattr(sys, "stderr", errors)
    with pytest.raises(Stopped, match="^stopped at step 9 of 15"):
        train(config(), tmp_path / "run", data_dir, devices=jax.devices()[:1], progress=True)
    with contextlib.suppress(BrokenPipeError):
        errors.close()
    assert folder.saved_step(tmp_path / "run") == 9


def test_a_second_signal_does_not_break_off_the_last_save(tmp_path, monkeypatch):
    written = []

    class Saving(contextlib.AbstractContextManager):
        def __init__(self, *given, **how):
            pass

        def restore(self, like):
            os.kill(os.getpid(), signal.SIGINT)
            raise Stopped("stopped at step 8")

        def __exit__(self, *error):
            os.kill(os.getpid(), signal.SIGTERM)
            written.append(8)

    monkeypatch.setattr(loop, "Checkpoints", Saving)
    counts = types.SimpleNamespace(steps_per_epoch=5)
    parts = loop.Parts(config(), None, counts, None, None, {}, (), parallel.shardings())
    with stops.heeded(), pytest.raises(Stopped, match="^stopped at step 8$"):
        loop.train(parts, tmp_path, lambda: None, progress=False, profiled_steps=0)
    assert written == [8]


@pytest.mark.parametrize(("fields", "steps"), [((), 5), (("--config.prune.every=3",), 3)])
def test_the_mask_is_made_afresh_every_epoch_or_every_so_many_steps(fields, steps):
    """What the loop does then is tested in tests/test_train.py."""
    assert recipes.method(config("sdclr", *fields), 5).refresh_every == steps


def test_nothing_is_fetched_between_two_lines_of_the_log(data_dir, tmp_path, monkeypatch):
    """A host that waits for numbers lets the devices wait for it."""
    events, at = [], stops.Stop.at

    def looked(self, step, *given):
        events.append(step)
        return at(self, step, *given)

    def counted(convert):
        return lambda *given, **named: events.append("fetched") or convert(*given, **named)

    monkeypatch.setattr(stops.Stop, "at", looked)
    for name in ("__array__", "__float__", "__int__", "__bool__", "__index__"):
        monkeypatch.setattr(ArrayImpl, name, counted(getattr(ArrayImpl, name)))
    run(config("sdclr", "--config.epochs=2", "--config.log_every=3"), tmp_path / "run", data_dir)
    begun = events.index(1)
    assert {step for step, what in itertools.pairwise(events[begun:]) if what == "fetched"} - {"fetched"} == {
        3, 5, 6, 9, 10,
    }  # fmt: skip  # an epoch has 5 steps, after which there is a checkpoint


def test_the_steps_of_a_dispatch_are_counted_one_by_one():
    both = {"loss": np.array([1.0, 2.0]), "grad_norm": np.array([3.0, 4.0])}
    found = loop._fetched([both, {"loss": np.float32(5), "grad_norm": np.float32(6)}], 3)
    assert found == [{"loss": 1, "grad_norm": 3}, {"loss": 2, "grad_norm": 4}, {"loss": 5, "grad_norm": 6}]
    both["projection_std/sparse"] = np.array([1.0, np.nan])
    with pytest.raises(Diverged, match=r"projection_std/sparse is nan at step 7, in the sparse branch"):
        loop._fetched([both], 7)


def test_several_steps_a_dispatch_are_warned_of_on_cpus(data_dir, tmp_path, caplog):
    with pytest.raises(UserError, match="batch_size is 1000"):
        run(config("sdclr", "--config.steps_per_dispatch=4", "--config.batch_size=1000"), tmp_path / "run", data_dir)
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith("steps_per_dispatch is 4, and on CPUs")


def test_a_loss_that_is_not_a_number_stops_the_run(data_dir, tmp_path, monkeypatch):
    views = methods.views

    def broken(config):
        make = views(config)

        def made(key, images):
            a, b = make(key, images)
            return a, b * jnp.nan  # the view that the sparse branch sees

        return made

    monkeypatch.setattr(methods, "views", broken)
    with pytest.raises(Diverged, match=r"nan at step 1, in the sparse branch"):
        # A config of its own, whose method is not made yet.
        run(config("sdclr", "--config.epochs=2", "--config.optimizer.learning_rate=0.01"), tmp_path / "bad", data_dir)
    assert not list((tmp_path / "bad" / "checkpoints").glob("[0-9]*"))
    assert lines(tmp_path / "bad") == []
    (said,) = records.read_warnings(tmp_path / "bad" / "warnings.jsonl")
    assert (said["cause"], said["step"], said["epoch"]) == ("diverged", 1, 0.2)


def test_the_last_good_checkpoint_is_kept_when_training_explodes(finished, data_dir, tmp_path, monkeypatch):
    made = recipes.method

    def exploding(*given):
        method = copy.copy(made(*given))
        step = method.jitted_step

        def explode(state, images):
            if int(state.step) == explodes_at - 1:
                state = state.replace(params=jax.tree.map(lambda x: x * 1e30, state.params))
            return step(state, images)

        explode.eval_shape, method.jitted_step = step.eval_shape, explode
        return method

    for explodes_at in (8, 10):  # in mid-epoch, and at a step that is checkpointed: the weights are past saving there
        directory = tmp_path / str(explodes_at)
        with monkeypatch.context() as patch:
            patch.setattr(recipes, "method", exploding)
            with pytest.raises(Diverged, match=rf"is (inf|nan) at step {explodes_at}"):
                run(config(), directory, data_dir)
        assert [p.name for p in (directory / "checkpoints").glob("[0-9]*")] == ["5"]
        assert max(line["step"] for line in lines(directory)) < explodes_at
        assert records.read_warnings(directory / "warnings.jsonl")[-1]["step"] == explodes_at
    run(config(), directory, data_dir)  # mended, it goes on from step 5
    assert lines(directory) == lines(finished[0])
    assert not (directory / "warnings.jsonl").read_text()


BAD = {
    "unknown field": (["--config.prune.raet=0.5"], "--config.prune.raet: the nearest is --config.prune.rate\n"),
    "unknown flag": (["--worksdir=x"], "no field or flag --worksdir: the nearest is --workdir"),
    "wrong type": (["--config.batch_size=many"], "config.batch_size"),
    "not a flag": (["batch_size=3"], "'batch_size=3' is not a flag"),
    "rate of 1": (["--config.prune.rate=1.0"], "prune.rate is 1.0: it must be at least 0 and below 1"),
    "negative rate": (["--config.prune.rate=-0.1"], "prune.rate is -0.1"),
    "random rate": (["--config.prune.random_rate=0.1"], "prune.random_rate is 0.1: it must be below 1 - prune.rate"),
    "batch": (["--config.batch_size=1000"], "batch_size is 1000, but there are 369 images"),
    "imbalance": (["--config.data.imbalance=0.5"], "data.imbalance"),
    "empty class": (["--config.data.imbalance=1000"], "data.imbalance"),
    "too many": (["--config.data.n_max=500"], "data.n_max"),
    "objective": (["--config.objective.name=triplet"], "unknown objective.name 'triplet': known are barlow_twins"),
    "model": (["--config.model.name=vgg"], "unknown model.name 'vgg': known are resnet8, resnet10, "),
    "data set": (["--config.data.name=mnist"], "data.name is 'mnist', which is not known: choose one of celeba"),
    "split": (["--config.data.split=3"], "data.split is 3, but data.lists is empty: set it to 0; to draw"),
    "input": (["--config.data.input=disk"], "unknown data.input 'disk': known are auto, resident, streamed"),
    "no such split": (
        ["--config.data.name=celeba", "--config.data.lists=/x", "--config.data.split=3"],
        "data.split is 3, but the lists of celeba have no number: set it to 0",
    ),
    "subset": (["--config.data.subset=rare"], "unknown data.subset 'rare'"),
    "stem": (["--config.model.stem=imagenet"], "model.stem is 'imagenet', which leaves views of 8 x 8 with 2 x 2"),
    "warm-up": (["--config.optimizer.warmup_epochs=3"], "optimizer.warmup_epochs is 3: it must be below epochs, 3"),
    "temperature": (["--config.objective.temperature=0"], "objective.temperature is 0"),
    "pairs": (["--config.pairs=((('dense', 0), ('pruned', 1)),)"], "pairs is ((('dense', 0), ('pruned', 1)),)"),
    "no pairs": (["--config.pairs=()"], "pairs is ()"),
    "half a pair": (["--config.pairs=((('dense', 0),),)"], "pairs is ((('dense', 0),),)"),
    "crop": (["--config.views.crop_scale=(2.0, 3.0)"], "views.crop_scale"),
    "channels": (["--config.views.mean=(0.1, 0.2)"], "views.mean"),
    "views": (["--config.views.name=simclr"], "views.name 'simclr'"),
    "collapse": (["--config.collapse_every=-1"], "collapse_every is -1: it must be at least 0"),
    "seed": (["--config.seed=5000000000"], "seed is 5000000000"),
    "not finite": (["--config.optimizer.momentum=nan"], "optimizer.momentum is nan: it must be finite"),
    "infinite": (["--config.optimizer.learning_rate=inf"], "optimizer.learning_rate is inf: it must be finite"),
    "no l2": (["--config.evaluate.logistic_l2=()"], "evaluate.logistic_l2 is ()"),
    "words for numbers": (["--config.views.std=(nan,)"], "it must be numbers"),
    "protocol": (["--config.evaluate.protocols=('knm',)"], "unknown evaluate.protocols 'knm': known are linear_full"),
    "method": (["--config.method=simclr"], "choose another as --config=NAME:METHOD"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_before_anything_is_written(name, data_dir, tmp_path, capsys):
    more, sentence = BAD[name]
    status = main.main(["pretrain", *arguments(tmp_path / "run", data_dir, "sdclr", "--noprogress"), *more])
    printed = capsys.readouterr()
    assert status == 2
    assert sentence in printed.err
    assert printed.err.startswith("sdclr: ")
    assert printed.err.count("\n") == 1, "more than a sentence"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("location", "sentence"),
    [
        ("digits_lt:simsalabim", "unknown method 'simsalabim': the nearest is 'simsiam', known are simclr, "),
        (f"{ROOT}/configs/digits_lt.py:sdcl", "unknown method 'sdcl': the nearest is 'sdclr'"),
        ("digit_lt:sdclr", "there is no config 'digit_lt': the nearest is 'digits_lt', known are celeba, "),
        ("base:sdclr", "there is no config 'base'"),
        ("", "there is no config ''"),
        (f"{ROOT}/configs/nowhere.py", "there is no file"),
        ("mine/digits_lt.py", "there is no file mine/digits_lt.py; --config=digits_lt is the one of this package"),
        (f"{ROOT}/tests/golden", "there is no file"),
    ],
)
def test_bad_config_files(location, sentence, tmp_path, capsys):
    status = main.main(["pretrain", f"--config={location}", f"--workdir={tmp_path / 'run'}"])
    assert status == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("import nothing_of_the_kind", "No module named 'nothing_of_the_kind'"),
        ("def get_config(method=None):\n    return 1 / 0", "division by zero"),
        ("def get_config(method=None):\n    return {}", "ConfigDict"),
        ("def get_config(", "never closed"),
        (
            "from ml_collections import ConfigDict\ndef get_config():\n    return ConfigDict({'seed': 1})",
            "the config lacks batch_size, checkpoint_every, ",
        ),
    ],
)
def test_broken_config_files(text, sentence, tmp_path, capsys):
    (tmp_path / "mine.py").write_text(text)
    assert main.main(["pretrain", f"--config={tmp_path / 'mine.py'}", f"--workdir={tmp_path / 'run'}"]) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def load(location):
    return flags.pretrain([f"--config={location}", "--workdir=x"], "").config.to_dict()


def test_a_config_is_found_by_name_and_by_file(tmp_path):
    (tmp_path / "mine.py").write_text((ROOT / "configs" / "digits_lt.py").read_text())
    by_name = load("digits_lt:simclr")
    assert by_name["method"] == "simclr"
    assert by_name == load(f"{ROOT}/configs/digits_lt.py:simclr") == load(f"{tmp_path}/mine.py:simclr")
    assert load("digits_lt") == load("digits_lt:sdclr")


def test_a_foreign_package_named_configs_stays_as_it_is(tmp_path, monkeypatch):
    """On the path or imported already; the config imports early and late."""
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "__init__.py").write_text("raise RuntimeError('the foreign package')")
    (tmp_path / "mine.py").write_text(
        "from configs import base\n\ndef get_config():\n    from configs import photos\n    return base.get_config()\n"
    )
    for name in [name for name in sys.modules if name.partition(".")[0] == "configs"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    path = list(sys.path)
    assert load(tmp_path / "mine.py")["method"] == "simclr"
    assert "configs" not in sys.modules
    foreign = types.ModuleType("configs")
    monkeypatch.setitem(sys.modules, "configs", foreign)
    load(tmp_path / "mine.py")
    assert sys.modules["configs"] is foreign
    assert not [name for name in sys.modules if name.startswith("configs.")]
    assert sys.path == path


def test_a_config_in_a_folder_named_configs_may_import_its_neighbours(tmp_path):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "ours.py").write_text("SEED = 5")
    text = "from configs import base, ours\ndef get_config():\n    c = base.get_config()\n    c.seed = ours.SEED\n"
    (tmp_path / "configs" / "mine.py").write_text(text + "    return c")
    assert load(tmp_path / "configs" / "mine.py")["seed"] == 5


def test_missing_flags(tmp_path, capsys):
    assert main.main(["pretrain", f"--workdir={tmp_path / 'run'}"]) == 2
    assert "--config is missing" in capsys.readouterr().err
    assert main.main(["pretrain", f"--config={ROOT}/configs/digits_lt.py"]) == 2
    assert "--workdir is missing" in capsys.readouterr().err


def test_a_folder_with_another_run_is_refused(finished, data_dir, capsys):
    directory, _ = finished
    before = {p: p.stat().st_mtime_ns for p in directory.rglob("*")}
    status = main.main(["pretrain", *arguments(directory, data_dir, "sdclr", "--noprogress", "--config.seed=5")])
    assert status == 2
    assert "seed (0 there, 5 given)" in capsys.readouterr().err
    assert {p: p.stat().st_mtime_ns for p in directory.rglob("*")} == before


def test_a_folder_in_use_is_refused_and_left_alone(finished, data_dir, capsys, monkeypatch):
    directory, _ = finished
    before, now = (directory / "versions.json").read_bytes(), versions.current()
    monkeypatch.setattr(versions, "current", lambda: now | {"jax": "9.9"})
    with folder.lock(directory):
        assert main.main(["pretrain", *arguments(directory, data_dir, "sdclr", "--noprogress")]) == 2
    assert "another process is training in" in capsys.readouterr().err
    assert (directory / "versions.json").read_bytes() == before


def test_steps_taken_twice_are_compared(data_dir, tmp_path, monkeypatch, capsys):
    given = [argument for argument in arguments("unused", data_dir) if not argument.startswith("--workdir")]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(parallel, "shardings", lambda devices, made=parallel.shardings: made(jax.devices()[:1]))
    assert main.main(["pretrain", *given, "--check-determinism=3"]) == 0
    said = capsys.readouterr().out
    assert re.match(
        r"3 steps, twice: .* all \d+ arrays of the state are equal to the bit; .* SHA-256 [0-9a-f]{64}$", said
    )
    assert not list(tmp_path.iterdir())

    streams, whole = itertools.count(), Resident.from_step

    def other_images_in_the_second_step_of_the_second_run(self, step):
        stream = next(streams)
        for number, batch in enumerate(whole(self, step)):
            yield batch ^ np.uint8(1) if (stream, number) == (1, 1) else batch

    monkeypatch.setattr(Resident, "from_step", other_images_in_the_second_step_of_the_second_run)
    assert main.main(["pretrain", *given, "--check-determinism=3"]) == 1
    said = capsys.readouterr().err
    assert said.startswith(
        "sdclr: two runs of 3 steps from one state differ: the images from step 2 on; the scalars from "
    )
    assert re.search(
        r"step 2 on in \w+.* \(1 of 1 numbers, such as .*; the last state in \S+/\S+ \(\d+ of \d+ num", said
    )
    assert re.search(r"and \d+ more arrays$", said)

    for steps, why in (
        ("0", "it must be from 1 to 15, the steps of this run"),
        ("16", "from 1 to 15"),
        ("x", "invalid"),
    ):
        assert main.main(["pretrain", *given, f"--check-determinism={steps}"]) == 2
        assert why in capsys.readouterr().err


def test_overrides_may_come_before_the_file():
    made = flags.pretrain(["--config.seed=3", f"--config={ROOT}/configs/digits_lt.py:simclr", "--workdir=x"], "").config
    assert made.seed == 3
    assert made.method == "simclr"


def test_overriding_a_tuple():
    assert config("sdclr", "--config.views.crop_scale=(0.3, 1.0)").views.crop_scale == (0.3, 1.0)


def test_help(capsys):
    with pytest.raises(SystemExit) as stop:
        main.main(["pretrain", "--help"])
    assert stop.value.code == 0
    assert "--config.FIELD=VALUE" in capsys.readouterr().out
    assert main.main([]) == 0
    assert "pretrain" in capsys.readouterr().out
    assert main.main(["prterain"]) == 2


def test_user_errors_are_value_errors():
    assert issubclass(UserError, ValueError)
