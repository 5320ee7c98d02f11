"""Two processes on one machine, one device each: they train what one process with two devices trains, and they stop and
fail together. What else may happen to them is in experiments/process_faults.py."""

import contextlib
import ctypes
import errno
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import types

import jax
import numpy as np
import pyarrow.csv
import pytest

from sdclr_jax import parallel, processes, recipes, records, stops, trees
from sdclr_jax.api import agreement
from sdclr_jax.api.evaluate import evaluate
from sdclr_jax.api.exemplars import exemplars
from sdclr_jax.api.pretrain import train
from sdclr_jax.commands import main
from sdclr_jax.data.subsets import longtail
from sdclr_jax.errors import Lost, UserError
from sdclr_jax.joining import cluster, line
from sdclr_jax.processes import failing, meeting, watching
from sdclr_jax.run import folder
from sdclr_jax.run.checkpoints import Checkpoints
from tests.photos import photo
from tests.runs import arguments, config, lines

OLD_RUN = pathlib.Path(__file__).parent / "golden" / "run_f1e7a00"
PROGRAM = """
import itertools, os, signal, sys, time
stops, *options = sys.argv[1:]
process = os.environ["JAX_PROCESS_ID"]
from sdclr_jax import parallel
from sdclr_jax.commands import main
from sdclr_jax.data.batches import Resident
from_step = Resident.from_step
parallel.LEAST = 64  # the networks here are small

def stopped(self, step):
    for number, batch in enumerate(from_step(self, step), step):
        if number == 2 and process == stops:
            os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.5)  # the others hear of it within a second or two
        yield batch

if stops in "01":
    Resident.from_step = stopped
# One command, or several with "then" between.
for of_commands, command in itertools.groupby(options, lambda option: option != "then"):
    if of_commands:
        status = main.main([*command, "--distributed"])  # later ones are together already
sys.exit(status)
"""


# Without a run, which takes seconds to begin: process 1 finds something wrong, or process 0 is killed, while they wait.
ENDS = """
import os, signal, sys, time
from sdclr_jax import processes
from sdclr_jax.errors import Lost, UserError
processes.join()
try:
    with processes.together():
        processes.exchange("here")
        if processes.number() == 0 and sys.argv[1] == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if processes.number() == 1 and sys.argv[1] == "wrong":
            raise UserError("a.jpg cannot be read: put it back")
        processes.exchange("there")
except (Lost, UserError) as error:
    print(f"sdclr: {error}", file=sys.stderr)
    processes.leave(error.status)
"""


BEFORE_THE_FIRST_STEP = """
import os, signal, threading, time
from sdclr_jax import processes, stops

def ended(*signals, step=None, compiling=60):
    child = os.fork()
    if not child:
        def ask():
            for number in signals:
                time.sleep(0.2)
                os.kill(os.getpid(), number)
        threading.Thread(target=ask).start()
        with processes.stopping_before_the_first_step(patience=1.0), processes.Stop() as stop:
            if step:
                stop.at(step, convenient=True)
            threading.Event().wait(compiling)
        os._exit(int(stop.asked))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

stops.jax.process_count = lambda: 1  # else JAX would start, and its threads do not live on in a fork
assert ended(signal.SIGTERM) == 75
assert ended(signal.SIGINT, signal.SIGINT) == 130
assert ended(signal.SIGTERM, step=1, compiling=2) == 1  # later, the loop is asked
assert ended(compiling=0) == 0
"""


def test_a_stop_before_the_first_step_does_not_wait_for_the_compiler():
    environment = os.environ | {"PYTHONPATH": str(pathlib.Path(__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", BEFORE_THE_FIRST_STEP], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("sdclr: stopped before the first step: run it again to start, or to resume\n") == 1
    assert done.stderr.count("sdclr: stopped\n") == 1


# Two hosts: the second has damaged images, cannot read a checkpoint, and later has other checkpoints.
DISKS = """
import contextlib, hashlib, pathlib, sys
folder, own = map(pathlib.Path, sys.argv[1:])
from sdclr_jax import processes
processes.join()
import jax, numpy as np, orbax.checkpoint as ocp
from flax import struct
from sdclr_jax import parallel
from sdclr_jax.data.batches import Streamed
from sdclr_jax.data.crops import RandomCrops
from sdclr_jax.data.images import Files
from sdclr_jax.errors import Lost
from sdclr_jax.run import checkpoints
from sdclr_jax.run.checkpoints import Checkpoints

@struct.dataclass
class State:
    step: jax.Array
    params: dict
    stats: dict

shardings = parallel.shardings()

def of(x):
    return parallel.replicate(np.asarray(x), shardings.replicated)

def state(step):
    weights = of(np.full(3, step, np.float32))
    return State(of(np.int32(step)), {"weights": {"encoder": {"k": weights}}}, {"dense": {"encoder": {"m": weights}}})

class Damaged(ocp.JsonCheckpointHandler):
    def restore(self, directory, *given, **named):
        if directory.parent.name == "2":
            raise ValueError("no JSON")
        return super().restore(directory, *given, **named)

def restored(directory):
    with Checkpoints(directory) as found:
        again = found.restore(like=state(0))
    return int(again.step), np.asarray(again.params["weights"]["encoder"]["k"]).tolist()

with processes.together():
    images = Files(own / "photos", np.array([f"{i}.png" for i in range(7)]))
    crops = RandomCrops(count=1, size=8, scale=(0.2, 1.0), ratio=(3 / 4, 4 / 3), seed=0)
    batches = Streamed(images, 4, 0, shardings, crops=(crops,), workers=0, prefetch=1, last_batch="kept")
    with contextlib.closing(batches.from_step(0)) as stream:
        next(stream)
        part = np.asarray(next(stream).crops[0])
        print("PART", part.shape, hashlib.sha256(part).hexdigest())
    with Checkpoints(folder / "checkpoints") as saved:
        saved.save(1, state(1))
        saved.save(2, state(2))
    processes.exchange("saved")
    main = processes.is_main()
    if not main:
        checkpoints._HANDLERS[ocp.args.JsonRestore] = Damaged
        (own / "late").mkdir()
    print("READ", restored(folder / "checkpoints"))
    checkpoints.ALIKE = 1
    try:
        restored(folder / "checkpoints" if main else own / "late")
    except Lost as error:
        print("SEEN", error)
"""


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("localhost", 0))
        return s.getsockname()[1]


def run(*options, stops="none", own=((), ())):
    """Exit statuses and outputs of two processes with these commands, and each with options of its own."""
    return both(*([PROGRAM, stops, *options, *own[i]] for i in range(2)))


def both(*programs):
    """Exit statuses and outputs of two processes that run these programs, each with its arguments."""
    environment = os.environ | {
        "JAX_COORDINATOR_ADDRESS": f"localhost:{free_port()}",
        "JAX_NUM_PROCESSES": "2",
        "JAX_NUM_CPU_DEVICES": "1",
        "PYTHONPATH": str(pathlib.Path(__file__).parents[1]),
    }
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", *program],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment | {"JAX_PROCESS_ID": str(i)},
        )
        for i, program in enumerate(programs)
    ]  # fmt: skip
    outputs = [p.communicate(timeout=600)[0] for p in processes]
    return [p.returncode for p in processes], outputs


def test_two_processes_train_what_one_trains_and_stop_at_one_step(tmp_path):
    """SIGTERM to the second of them saves one checkpoint, from which the same command goes on."""
    # Few steps, since in each the processes wait for each other; and small ones, since rounding grows with them.
    fields = ("--config.epochs=2", "--config.evaluate.every=2", "--config.optimizer.learning_rate=0.01")
    fields += ("--config.collapse_every=5",)
    options = ["pretrain", *arguments(tmp_path / "two", tmp_path / "data", "sdclr", *fields, "--noprogress")]
    statuses, outputs = run(*options, stops="1")
    assert statuses == [75, 75], "\n".join(outputs)
    (said,) = {line for text in outputs for line in text.splitlines() if line.startswith("sdclr: ")}
    stopped = int(re.fullmatch(r"sdclr: stopped at step (\d+) of 10: run it again to resume", said)[1])
    assert 2 < stopped < 10
    assert str(stopped) in os.listdir(tmp_path / "two" / "checkpoints")
    # The same two go on, each with a share of the state, and then measure what they have trained.
    statuses, outputs = run(
        *options, "--config.shard_state=True", "then", *measuring(tmp_path / "two"), "then", *scoring(tmp_path / "two")
    )
    assert statuses == [0, 0], "\n".join(outputs)
    assert ["knn" in text for text in outputs] == [True, False]

    two = jax.devices()[:2]
    expected = train(config("sdclr", *fields), tmp_path / "one", str(tmp_path / "data"), devices=two)
    shardings = parallel.shardings(two)
    data = recipes.data(config(), str(tmp_path / "data"))
    images = data.part("long_tail").images
    with Checkpoints(tmp_path / "two" / "checkpoints") as checkpoints:
        state = checkpoints.restore(like=recipes.abstract_state(config(), images.shape, shardings))
    assert int(state.step) == 10
    for name, x in trees.named(state.params).items():
        np.testing.assert_allclose(x, trees.named(expected.params)[name], atol=1e-4, err_msg=name)
    assert records.read_metrics(tmp_path / "two" / "metrics.jsonl")[-1]["step"] == 10
    two, one = ({line["step"]: line for line in lines(tmp_path / name)} for name in ("two", "one"))
    assert two.keys() == one.keys()  # wherever they stopped
    for step, b in one.items():
        a = two[step]
        assert a.keys() == b.keys()
        assert abs(a["loss"] - b["loss"]) < 1e-4
        for name in ("knn/all", "knn/few", "probe/all", "probe/few"):
            assert abs(a.get(name, 0) - b.get(name, 0)) < 0.03  # an image or two

    # The same run under two processes and under one: what is measured of it.
    made = shutil.ignore_patterns("features", "exemplars", "results.json", "embedding.json")
    shutil.copytree(tmp_path / "two", tmp_path / "alone", ignore=made)
    assert main.main(measuring(tmp_path / "alone")) == 0
    together, alone = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("two", "alone"))
    # Sums over batches of 50 and of 100 are rounded in other ways, by other processors in others.
    ranks = [found["features"].pop("effective_rank") for found in (together, alone)]
    assert ranks[0] == pytest.approx(ranks[1], rel=1e-5)
    accuracies = [found["protocols"]["knn"].pop("per_class") for found in (together, alone)]
    assert accuracies[0] == pytest.approx(accuracies[1], abs=0.03)  # an image
    for found in (together, alone):
        for mean in ("all", "many", "medium", "few", "std"):
            del found["protocols"]["knn"][mean]  # of these
    assert together == alone
    scored = pyarrow.csv.read_csv(tmp_path / "two" / "exemplars" / "exemplars.csv")
    assert sorted(scored["id"].to_pylist()) == sorted(data.train.ids[data.subsets.long_tail].tolist())


def measuring(directory: pathlib.Path) -> list[str]:
    # 369 images in batches of 100: the last one is not full, and is not full in one process only.
    settings = ("protocols=('knn',)", "knn_k=5", "batch_size=100", "map_images=0")
    options = [f"--config.evaluate.{setting}" for setting in settings]
    return ["evaluate", str(directory), f"--data_dir={directory.parent / 'data'}", *options]


def scoring(directory: pathlib.Path) -> list[str]:
    options = ["--rates=0.5", "--views=0", "--against=pruned", "--gallery=1", "--neighbours=1", "--noprogress"]
    return ["exemplars", str(directory), f"--data_dir={directory.parent / 'data'}", *options]


def test_what_one_host_cannot_read_is_the_same_for_all(tmp_path):
    """Else each would train on images of its own, or go on from a step of its own, with the gradients of all."""
    own = [tmp_path / "0", tmp_path / "1"]
    for directory in own:
        (directory / "photos").mkdir(parents=True)
        for i in range(7):
            photo(20, 20, seed=i).save(directory / "photos" / f"{i}.png")
    for i in range(3, 7):
        (own[1] / "photos" / f"{i}.png").write_bytes(b"gone")
    statuses, outputs = both(*([DISKS, tmp_path, directory] for directory in own))
    assert statuses == [0, 0], "\n".join(outputs)
    said = [re.findall("^(PART .*|READ .*|SEEN .*)", text, re.M) for text in outputs]
    assert len(set(map(tuple, said))) == 2  # each names its own folder in the last line
    assert said[0][:2] == said[1][:2]
    assert said[0][0].startswith("PART (3, 1, 8, 8, 3) ")
    assert said[0][1] == "READ (1, [1.0, 1.0, 1.0])"
    assert "checkpoint 2 of" in outputs[0] and "process 1 cannot read it: " in outputs[0]
    for lines_, directory in zip(said, (tmp_path / "checkpoints", own[1] / "late"), strict=True):
        assert lines_[2].startswith(
            f"SEEN the processes see other checkpoints in {directory}: process 0 sees [1]; process 1 sees []. Give"
        )


def test_processes_that_differ_are_refused_before_anything_is_written(tmp_path):
    options = ["pretrain", *arguments(tmp_path / "run", tmp_path / "data", "sdclr", "--noprogress")]
    statuses, outputs = run(*options, own=((), ("--config.seed=3",)))
    assert statuses == [2, 2], "\n".join(outputs)
    for text in outputs:
        assert "sdclr: process 1 has another seed than process 0: 3, not 0; start all processes with the same" in text
    assert not (tmp_path / "run").exists()


def test_what_one_process_finds_wrong_ends_the_other():
    statuses, outputs = both(*[[ENDS, "wrong"]] * 2)
    assert statuses == [2, 2], "\n".join(outputs)
    assert "sdclr: process 1: a.jpg cannot be read: put it back\n" in outputs[0]
    assert "sdclr: a.jpg cannot be read: put it back\n" in outputs[1]


def test_process_0_that_is_killed_ends_the_others_with_a_sentence():
    """JAX would end them with a stack trace."""
    statuses, outputs = both(*[[ENDS, "killed"]] * 2)
    assert statuses == [-signal.SIGKILL, 1], "\n".join(outputs)
    (said,) = [line for line in outputs[1].splitlines() if line.startswith("sdclr: ")]
    assert re.fullmatch(
        r"sdclr: process 0, at localhost:\d+, is gone: it was killed, or its machine .*checkpoint", said
    )
    assert "stack trace" not in outputs[1] and "Traceback" not in outputs[1]


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"JAX_PROCESS_ID": "0"}, "JAX_COORDINATOR_ADDRESS is not set: set all of"),
        ({"JAX_COORDINATOR_ADDRESS": "localhost:1", "JAX_NUM_PROCESSES": "2"}, "JAX_PROCESS_ID is not set"),
        (
            {"JAX_COORDINATOR_ADDRESS": "localhost:1", "JAX_NUM_PROCESSES": "two", "JAX_PROCESS_ID": "0"},
            "JAX_NUM_PROCESSES is 'two': it must be a whole number",
        ),
        (
            {"JAX_COORDINATOR_ADDRESS": "localhost:1", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "2"},
            "JAX_PROCESS_ID is 2 and JAX_NUM_PROCESSES 2: processes are numbered from 0",
        ),
    ],
)
def test_variables_that_name_no_process_are_refused(environment, said, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=f"^--distributed: {said}"):
        processes.join()


def test_the_step_that_a_run_is_open_at_is_compared(tmp_path, monkeypatch):
    """From Python, where each process has opened the run at a moment of its own, they would measure two encoders."""
    compared = []

    def on_run(config, settings):
        compared.append(settings["step of the run"])
        raise UserError("enough")

    monkeypatch.setattr(agreement, "on_run", on_run)
    for measured in (evaluate, exemplars):
        with pytest.raises(UserError, match="^enough$"):
            measured(types.SimpleNamespace(path=OLD_RUN, step=7))
    assert compared == [7, 7]


def test_checkpoints_are_not_compared_before_they_are_read(tmp_path, monkeypatch):
    """Beside a run that trains, or on a disk that shows folders late, they differ for a while; reading waits for it."""
    agreed, lists, images = [], [], types.SimpleNamespace(images=None)
    monkeypatch.setattr(processes, "count", lambda: 2)
    monkeypatch.setattr(processes, "agree", agreed.append)
    monkeypatch.setattr(processes, "first", lambda what: contextlib.nullcontext(False))
    monkeypatch.setattr(agreement, "on_images", lambda parts: None)
    monkeypatch.setattr(agreement, "on_lists", lists.append)
    monkeypatch.setattr(agreement, "as_images", lambda images: types.SimpleNamespace(whole_shape=None))
    monkeypatch.setattr(folder, "check_shared", lambda directory: None)
    data = types.SimpleNamespace(part=lambda subset: images, train=images, test=images, subsets="of all")
    agreement.on_data(types.SimpleNamespace(data=types.SimpleNamespace(subset="train")), tmp_path, data)
    assert not agreed and lists == ["of all"]


def test_the_lists_of_images_for_probes_are_compared(monkeypatch):
    """Else each process would compute features of images of its own, for scores of all."""
    agreed = []
    monkeypatch.setattr(processes, "count", lambda: 2)
    monkeypatch.setattr(processes, "agree", agreed.append)
    sizes = {"n_max": 20, "imbalance": 10.0, "validation_per_class": 5, "few_shot_per_class": 2}
    here = longtail.draw(np.arange(90) % 3, num_classes=3, seed=0, **sizes)
    for subsets in (here, here._replace(validation=here.validation[1:])):
        agreement.on_lists(subsets)
    one, other = agreed
    assert {name for name in one if one[name] != other[name]} == {"list 'validation'"} and len(one) == len(here)
    assert re.fullmatch(r"\d+ entries, CRC-32 [0-9a-f]{8}", one["list 'few_shot'"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_a_process_alone_stops_at_a_convenient_step_or_after_a_while(number, capsys, monkeypatch):
    with processes.Stop() as stop:
        assert not stop.at(1, True)
        os.kill(os.getpid(), number)
        assert not stop.at(2, False)
        assert stop.at(2, True)
        stops.look()
        monkeypatch.setattr(stops, "PATIENCE", -1)
        assert stop.at(2, False)
        with pytest.raises(stops.Overdue, match="^stopped while no batch came"):
            stops.look()
    stops.look()
    assert "stopping" in capsys.readouterr().err


@pytest.mark.parametrize("broken", [BrokenPipeError(), OSError(errno.EIO, "a terminal is closed"), RuntimeError()])
def test_a_stop_is_heeded_where_nobody_reads_what_is_said_of_it(broken, monkeypatch):
    """As at Ctrl-C under `2>&1 | tee log`, which ends `tee` too; or where the stream is just written."""

    def write(text):
        raise broken

    ends, sent = [], []
    monkeypatch.setattr(sys, "stderr", types.SimpleNamespace(write=write, flush=lambda: None))
    with processes.Stop() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.at(1, True)
    monkeypatch.setattr(stops.distributed.global_state, "preemption_sync_manager", object())
    with stops.heeded(), monkeypatch.context() as patch:
        patch.setattr(os, "kill", lambda process, number: sent.append(number))
        signal.getsignal(signal.SIGUSR1)(signal.SIGUSR1, None)
    monkeypatch.setattr(os, "_exit", ends.append)
    monkeypatch.setattr(failing, "leave", ends.append)
    stops._end_at_once("stopped", 130)
    line.end_at_once("process 0 is gone", 1)
    failing.end("process 1: it is full", 2)
    assert (sent, ends) == ([signal.SIGTERM], [130, 1, 2])


def test_what_is_ignored_stays_so_and_ctrl_c_twice_ends_at_once():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with processes.Stop() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.at(1, True)
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop.at(1, True)
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("taking", [processes.Stop, stops.heeded, stops.Interrupts])
def test_what_a_program_around_python_handles_stays_so(taking, monkeypatch):
    """`signal.getsignal` gives None for it, which `signal.signal` does not take back."""
    before, mine = signal.getsignal(signal.SIGUSR1), signal.getsignal
    monkeypatch.setattr(signal, "getsignal", lambda s: None if s == signal.SIGUSR1 else mine(s))
    with taking():
        assert mine(signal.SIGUSR1) == before
        assert mine(signal.SIGHUP) != signal.SIG_DFL
    assert mine(signal.SIGHUP) == signal.SIG_DFL


@pytest.mark.parametrize("taking", [processes.Stop, stops.heeded, stops.Interrupts, main._signals_as_ctrl_c])
def test_what_another_library_has_taken_since_python_began_is_its_own_again(taking):
    """As SIGTERM, which JAX takes where processes join: Python knows nothing of it."""
    libc, number = ctypes.CDLL(None), int(signal.SIGUSR1)
    libc.signal.restype, libc.signal.argtypes = ctypes.c_void_p, [ctypes.c_int, ctypes.c_void_p]
    handler = ctypes.cast(libc.abs, ctypes.c_void_p).value  # any function: it is not called
    before = libc.signal(number, handler)
    try:
        with taking():
            pass
    finally:
        after = libc.signal(number, before)
    assert after == handler


def test_a_stop_signal_interrupts_what_saves_nothing_and_other_threads_know_of_it():
    before = [signal.getsignal(number) for number in stops.SIGNALS]
    with stops.Interrupts() as interrupts:
        assert interrupts.waited() == 0
        for number in stops.SIGNALS:
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), number)
        time.sleep(0.01)
        assert 0 < interrupts.waited() < 60
    assert [signal.getsignal(number) for number in stops.SIGNALS] == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_a_stop_while_a_run_begins_asks_for_another_start(number, monkeypatch, capsys):
    """As where images are looked at, before there is a step: a scheduler that stops it there starts it again."""
    before = [signal.getsignal(number) for number in stops.SIGNALS]

    def begins(*given, **how):
        os.kill(os.getpid(), number)
        raise AssertionError

    monkeypatch.setattr("sdclr_jax.commands.pretrain.flags.pretrain", begins)
    assert main.main(["pretrain", "--config=digits_lt:sdclr"]) == 75
    assert capsys.readouterr().err == "sdclr: stopped before the first step: run it again to start, or to resume\n"
    assert [signal.getsignal(number) for number in stops.SIGNALS] == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_a_stop_of_what_saves_nothing_is_no_crash(number, monkeypatch, capsys):
    monkeypatch.setattr("sdclr_jax.commands.report.main", lambda argv: os.kill(os.getpid(), number))
    assert main.main(["report"]) == 130
    assert capsys.readouterr().err == "sdclr: stopped\n"


def test_processes_that_have_joined_stop_together_while_a_run_begins(monkeypatch):
    sent = []
    monkeypatch.setattr(stops.distributed.global_state, "preemption_sync_manager", object())
    with stops.heeded():
        heed = signal.getsignal(signal.SIGUSR1)
        monkeypatch.setattr(stops.os, "kill", lambda process, number: sent.append(number))
        for number in (signal.SIGUSR1, signal.SIGHUP):
            heed(number, None)
        assert sent == [signal.SIGTERM] * 2  # JAX finds the step
        with pytest.raises(KeyboardInterrupt):
            heed(signal.SIGINT, None)


@pytest.mark.parametrize("given", ["0", "soon", "-3", "86401"])
def test_how_long_processes_wait_for_each_other_is_checked(given, monkeypatch):
    monkeypatch.setenv("SDCLR_JOIN_SECONDS", given)
    with pytest.raises(UserError, match=f"^the environment has SDCLR_JOIN_SECONDS={given}: it must be a number"):
        processes.join()


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (RuntimeError("Unable to initialize backend 'tpu': no libtpu\nmore"), "initialize backend 'tpu': no libtpu)"),
        (AssertionError(), "(there is none on this machine): unset it, or install what it needs, such as jax[cuda13]"),
    ],
)
def test_a_kind_of_device_that_is_not_there_is_a_sentence(monkeypatch, capsys, tmp_path, raised, said):
    def devices():
        raise raised

    monkeypatch.setattr(jax, "devices", devices)
    monkeypatch.setenv("JAX_PLATFORMS", "tpu")
    for argv in (["pretrain", "--config=digits_lt:sdclr", f"--workdir={tmp_path / 'run'}"], ["evaluate", str(OLD_RUN)]):
        assert main.main(argv) == 2
        heard = capsys.readouterr().err
        assert heard.startswith("sdclr: JAX_PLATFORMS is 'tpu', and JAX cannot use that") and said in heard
        assert heard.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (ValueError("not a number"), "ValueError: not a number"),
        (KeyError("SLURM_NTASKS"), "KeyError: SLURM_NTASKS"),
        (ImportError("the kubernetes package"), "ImportError: the kubernetes package"),
    ],
)
def test_half_a_cluster_is_a_sentence(monkeypatch, capsys, raised, said):
    def detect(*given):
        raise raised

    monkeypatch.setattr(cluster.ClusterEnv, "auto_detect_unset_distributed_params", detect)
    assert main.main(["pretrain", "--config=digits_lt:sdclr", "--workdir=/nowhere", "--distributed"]) == 2
    heard = capsys.readouterr().err
    assert heard.startswith(f"sdclr: --distributed: the processes cannot be joined ({said}): see that the scheduler's")
    assert heard.endswith("one process alone needs no --distributed\n")


def test_processes_that_have_not_joined_are_told_how(monkeypatch):
    """Those of a TPU slice know of each other all the same."""
    monkeypatch.setattr(jax, "process_count", lambda: 4)
    with (
        pytest.raises(UserError, match="^there are 4 processes, and they have not joined: give --distributed"),
        processes.together(stop=True),
    ):
        raise AssertionError


class Store:
    """As JAX's, in this process."""

    def __init__(self):
        self.kept = {}

    def key_value_set(self, key, value, allow_overwrite=False):
        self.kept[key] = value

    def key_value_dir_get(self, folder):
        return [(key, value) for key, value in list(self.kept.items()) if key.startswith(folder)]

    def key_value_delete(self, folder):
        self.kept = {key: value for key, value in self.kept.items() if not key.startswith(folder)}


def test_what_a_process_has_caught_is_not_heard_in_the_next_call(monkeypatch):
    """From Python: a run that is refused, and then one that is not; process 1 comes to it much later."""

    class WithOther(Store):
        def key_value_set(self, key, value, allow_overwrite=False):
            super().key_value_set(key, value)
            if "/alive/" not in key:
                super().key_value_set(f"{key[:-1]}1", value)  # process 1 does the same

    store, waiting, do_not_wait = WithOther(), [], failing._do_not_wait
    monkeypatch.setattr(failing, "_do_not_wait", lambda *given: waiting.append(given))
    monkeypatch.setattr(failing, "end", None)
    monkeypatch.setattr(failing, "POLL", 0)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(processes.store, "client", lambda: store)
    monkeypatch.setattr(watching, "_connected", True)
    for number in range(4):
        call = processes.store.root()
        store.kept[f"{call}/alive/1"] = "7 0.0"
        assert not failing.told() and not failing.failures() and processes.store.steps() == {1: "0.0"}
        with contextlib.ExitStack() as stack:
            if number < 2:
                stack.enter_context(pytest.raises(UserError, match="^process 1: there is no image$"))
            stack.enter_context(processes.together())
            assert processes.exchange("here", str(number)) == [str(number)] * 2
            if number < 2:
                store.kept[f"{call}/failed/1"] = '{"text": "there is no image", "status": 2}'
                processes.exchange("there")
    left = {call for call, _, _ in waiting} & {key.partition("/failed/")[0] for key in store.kept}
    assert len(waiting) == 2 and len(left) == 1  # what was said in the call before an earlier one is removed
    for given in waiting:  # all have come on since, so this process does not end
        do_not_wait(*given)


@pytest.mark.parametrize("failed", [False, True])
def test_one_that_says_no_more_is_named_but_not_where_it_left_after_a_failure(monkeypatch, failed):
    """A process that has failed says why, and nothing else after that."""
    store, ended, said = Store(), threading.Event(), []
    store.kept["sdclr_jax/now/alive/1"] = "7 0.0"
    for name, value in {"SILENCE": 0.05, "POLL": 0.01, "is_main": lambda: True}.items():
        monkeypatch.setattr(watching, name, value)
    monkeypatch.setattr(failing, "told", lambda: failed)
    monkeypatch.setattr(processes.store, "client", lambda: store)
    monkeypatch.setattr(failing, "publish", lambda error: None)
    monkeypatch.setattr(failing, "end", lambda text, status: (said.append(text), ended.set()))
    watch = threading.Thread(target=watching._watch, args=(ended, None, "sdclr_jax/now"))
    watch.start()
    ended.wait(0.5 if failed else 60)
    ended.set()
    watch.join()
    assert [text.partition(" for ")[0] for text in said] == ([] if failed else ["process 1 has not been heard of"])


def test_one_that_comes_late_is_waited_for_as_long_as_it_comes_further(monkeypatch):
    """As where it reads a data set for the first time, which process 0 has read before."""

    class Late(Store):
        def key_value_dir_get(self, folder):
            beat, _, step = self.kept[alive].partition(" ")
            step = min(int(step), last - 1) + 1
            self.kept[alive] = f"{int(beat) + 1} {step}"
            if step == 20:
                self.kept[f"{processes.store.root()}/lists/1/1"] = "b"
            return super().key_value_dir_get(folder)

    alive = f"{processes.store.root()}/alive/1"
    monkeypatch.setattr(meeting, "count", lambda: 2)
    monkeypatch.setattr(meeting, "MEET", 0)
    monkeypatch.setattr(meeting, "is_main", lambda: False)
    for last, text in ((20, ["a", "b"]), (5, "process 1 has not come to 'lists' in 0 s")):
        store = Late()
        store.kept[alive] = "0 0"
        monkeypatch.setattr(processes.store, "client", lambda store=store: store)
        monkeypatch.setattr(meeting, "_met", {})
        if last == 20:
            assert processes.exchange("lists", "a") == text
        else:
            with pytest.raises(Lost, match=text):
                processes.exchange("lists", "a")


def test_memory_that_is_short_is_not_a_process_that_is_gone():
    """Each start would end the same way."""
    error = jax.errors.JaxRuntimeError
    assert failing.broke_down(error("INTERNAL: connection closed by peer")) and failing.broke_down(ValueError("Gloo x"))
    assert not failing.broke_down(error("RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes"))
    assert not failing.broke_down(ValueError("no"))


def test_numbers_are_summed_over_the_processes(monkeypatch):
    monkeypatch.setattr(meeting, "count", lambda: 3)
    monkeypatch.setattr(meeting, "exchange", lambda place, text: [text, '{"unreadable_images": 4}', text])
    assert processes.summed({"unreadable_images": 1}) == {"unreadable_images": 6}
    assert processes.summed({}) == {}


def test_a_process_alone_agrees_with_itself_and_waits_for_nobody(tmp_path):
    with processes.together():
        processes.agree({"seed": 0})
        assert processes.exchange("anywhere", "text") == ["text"]
        assert list(processes.gathered("anywhere", ["a", "b"])) == ["a", "b"]
        assert processes.of_first("anywhere", lambda: "made") == "made"
        assert processes.summed({"unreadable_images": 3}) == {"unreadable_images": 3}
        with processes.first("anywhere") as alone:
            assert alone and not processes.is_shared()
    folder.check_shared(tmp_path / "run")
    assert os.listdir(tmp_path) == []
