"""What happens to a command of several processes when something happens to one of them.

    python experiments/process_faults.py [--processes=2] [--limit=120] [--out=runs/process_faults] [FAULT ...]

Starts real processes of `sdclr pretrain --distributed`, or of evaluate, exemplars or prepare, on this machine, a device
each, on tiny digits and images; lets one fault happen; and writes `table_N.md`: exit statuses, seconds from the fault
until all had ended, the last step and the newest checkpoint, what was written where all refused to start, and what the
first and the last process said last. A process that has not ended after `--limit` seconds is killed, and said so; on a
machine with other work they need longer.
"""

import argparse
import contextlib
import fcntl
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time
from typing import NamedTuple

from PIL import Image
from tabulate import tabulate

ROOT = pathlib.Path(__file__).parents[1]
ENVIRONMENT = os.environ | {"JAX_NUM_CPU_DEVICES": "1", "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
JOIN = 60  # seconds until all have started
FIELDS = (
    *("--config.epochs=400", "--config.batch_size=64", "--config.log_every=5", "--config.checkpoint_every=2"),
    *("--config.model.width=2", "--config.projector.layers=2", "--config.projector.hidden=8"),
    *("--config.projector.out=4", "--config.optimizer.warmup_epochs=1", "--config.collapse_every=0"),
    "--config.optimizer.learning_rate=0.01",
)
PROGRAM = """
import sys
argv = sys.argv[1:]
"""
RUN = """
from sdclr_jax.processes import watching
watching.SILENCE = 10
from sdclr_jax.commands import main
sys.exit(main.main(argv))
"""
AT_STEP_40 = """
import pathlib, time
from sdclr_jax.data.batches import Resident
from sdclr_jax.errors import UserError
from_step = Resident.from_step

def faulty(self, step):
    for number, batch in enumerate(from_step(self, step), step):
        if number == 40:
            pathlib.Path({mark!r}).touch()
            {fault}
        yield batch

Resident.from_step = faulty
"""
OTHER_IMAGES = """
from sdclr_jax.data.subsets import longtail
longtail.list_hash = lambda ids: "0" * 64
"""
OTHER_VERSIONS = """
import importlib.metadata, platform
version = importlib.metadata.version
{what}
"""
OTHER_JAX = OTHER_VERSIONS.format(
    what='importlib.metadata.version = lambda name: "0.9.9" if name == "jax" else version(name)'
)
OTHER_PYTHON = OTHER_VERSIONS.format(what='platform.python_version = lambda: "3.10.1"')
OTHER_CLOCK = """
import time
now = time.time
time.time = lambda: now() + 5 * 3600
"""
FULL_DISK = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))"  # "File too large" is raised
READ_ONLY = """import subprocess
            for how in (["--bind", {out!r}], ["-o", "remount,bind,ro"]):
                subprocess.run(["mount", *how, {out!r}], check=True)"""
# Where something happens: run in all processes, they touch a mark and take long. In `features`, `scores` and `looking`
# all processes work, in `fit` one, and the others wait.
_SLOWLY = """
import pathlib, time
from {module} import {owner}
real = {owner}.{name}

def slowly(*given):
    pathlib.Path({mark!r}).touch()
    {fault}
    return real(*given)

{owner}.{name} = slowly
"""
PLACES = {
    "compiling": {"module": "jax._src", "owner": "compiler", "name": "compile_or_get_cached"},
    "saving": {"module": "sdclr_jax.run.checkpoints", "owner": "Checkpoints", "name": "save"},
    "measuring": {"module": "sdclr_jax.evaluation.online", "owner": "OnlineProbe", "name": "measure"},
    "features": {"module": "sdclr_jax.evaluation.frozen", "owner": "FrozenEncoder", "name": "_of_batch"},
    "fit": {"module": "sdclr_jax.api", "owner": "evaluate", "name": "measure"},
    "scores": {"module": "sdclr_jax.evaluation.pruning_probe", "owner": "PruningProbe", "name": "_put"},
    "looking": {"module": "sdclr_jax.data.sources", "owner": "index", "name": "_look"},
}
IN_XLA = "import jax; jax.jit(lambda: jax.lax.while_loop(lambda x: x > 0, lambda x: x, 1.0))().block_until_ready()"


class Fault(NamedTuple):
    """What happens to the last process, or to another."""

    fields: tuple[str, ...] = ()  # of its command line
    code: str = ""  # run in it before it starts
    at_step_40: str = ""  # run in it then
    sent: tuple[signal.Signals, ...] = ()  # while it trains, or is at the place; a SIGCONT is sent 5 s later
    at: str = ""  # one of PLACES
    does: str = "time.sleep(1)"  # what all do there before the signal, or the last one alone
    to: str = "last"  # "first", or "all"
    of_all: tuple[str, ...] = ()  # fields of all processes
    environment: tuple[tuple[str, str], ...] = ()  # of the last
    starts: str = "with the others"  # the last: or "never", "late", or "again" while all train
    lock: bool = False  # whether somebody else trains in the folder
    mounted: bool = False  # whether the folder is a file system of its own, as root


TERM, KILL, STOP, CONT = signal.SIGTERM, signal.SIGKILL, signal.SIGSTOP, signal.SIGCONT
MEASURED = ("--config.evaluate.every=1", "--config.checkpoint_every=1")
FITTED = ("--config.evaluate.protocols=('ridge',)",)
FAULTS = {
    "another seed": Fault(("--config.seed=3",)),
    "another learning rate": Fault(("--config.optimizer.learning_rate=0.02",)),
    "other images": Fault(code=OTHER_IMAGES),
    "another jax": Fault(code=OTHER_JAX),
    "another Python": Fault(code=OTHER_PYTHON),
    "another number of processes": Fault(environment=(("JAX_NUM_PROCESSES", "7"),)),
    "a number twice": Fault(environment=(("JAX_PROCESS_ID", "{twice}"),)),
    "an address where nobody is": Fault(environment=(("JAX_COORDINATOR_ADDRESS", "localhost:9"),)),
    "the last never starts": Fault(starts="never"),
    "the last starts 15 s late, then SIGTERM": Fault(sent=(TERM,), starts="late"),
    "the last starts again while all train, then SIGTERM": Fault(sent=(TERM,), starts="again", to="first"),
    "a folder that is not shared": Fault(("--workdir={out}/elsewhere/run",)),
    "a wrong flag": Fault(("--config.prune.raet=0.5",)),
    "a wrong value": Fault(("--config.prune.rate=2.0",)),
    "the folder in use": Fault(lock=True),
    "clocks 5 hours apart, then SIGTERM": Fault(sent=(TERM,), code=OTHER_CLOCK),
    "a folder with spaces, then SIGTERM": Fault(sent=(TERM,), of_all=("--workdir={out}/run/a b",)),
    "SIGTERM to the last": Fault(sent=(TERM,)),
    "SIGTERM to the first": Fault(sent=(TERM,), to="first"),
    "SIGTERM to all": Fault(sent=(TERM,), to="all"),
    "SIGTERM twice to the last": Fault(sent=(TERM, TERM)),
    "Ctrl-C to the last": Fault(sent=(signal.SIGINT,)),
    "Ctrl-C twice to the last": Fault(sent=(signal.SIGINT, signal.SIGINT)),
    "SIGUSR1 to the last": Fault(sent=(signal.SIGUSR1,)),
    "SIGHUP to the last": Fault(sent=(signal.SIGHUP,)),
    "SIGTERM to the last, compiling": Fault(at="compiling", does="time.sleep(0.2)", sent=(TERM,)),
    "SIGUSR1 to the last, compiling": Fault(at="compiling", does="time.sleep(0.2)", sent=(signal.SIGUSR1,)),
    "SIGTERM to the last, measuring": Fault(at="measuring", sent=(TERM,), of_all=MEASURED),
    "SIGTERM to the first, saving": Fault(at="saving", sent=(TERM,), to="first"),
    "an unreadable file on the last": Fault(at_step_40="raise UserError('a.jpg cannot be read: put it back')"),
    "a crash of the last": Fault(at_step_40="raise OSError(5, 'the disk is gone')"),
    "a full disk of the first": Fault(at_step_40=FULL_DISK, to="first"),
    "a full disk of the last": Fault(at_step_40=FULL_DISK),
    "the folder becomes read-only": Fault(at_step_40=READ_ONLY, to="first", mounted=True),
    "the folder is removed": Fault(at_step_40="import shutil; shutil.rmtree({out!r})", to="first"),
    "SIGKILL to the last": Fault(sent=(KILL,)),
    "SIGKILL to the last, compiling": Fault(at="compiling", does="time.sleep(0.2)", sent=(KILL,)),
    "SIGKILL to the last, saving": Fault(at="saving", sent=(KILL,)),
    "SIGKILL to the last, measuring": Fault(at="measuring", sent=(KILL,), of_all=MEASURED),
    "SIGKILL to the first": Fault(sent=(KILL,), to="first"),
    "SIGKILL to the first, compiling": Fault(at="compiling", does="time.sleep(0.2)", sent=(KILL,), to="first"),
    "SIGKILL to the first, saving": Fault(at="saving", sent=(KILL,), to="first"),
    "SIGKILL to the first, measuring": Fault(at="measuring", sent=(KILL,), to="first", of_all=MEASURED),
    "the last stands still": Fault(sent=(STOP,)),
    "the first stands still": Fault(sent=(STOP,), to="first"),
    "the last stands still for 5 s, then SIGTERM": Fault(sent=(STOP, CONT, TERM)),
    "the first stands still for 5 s, then SIGTERM": Fault(sent=(STOP, CONT, TERM), to="first"),
    "evaluate: another setting": Fault(("--config.evaluate.knn_k=7",)),
    "evaluate: other images": Fault(code=OTHER_IMAGES),
    "evaluate: a folder that is not shared": Fault(("{out}/elsewhere/run",)),
    "evaluate: a wrong flag": Fault(("--config.evaluate.knn=7",)),
    "evaluate: an unreadable file on the last": Fault(
        at="features", does="raise UserError('a.jpg cannot be read: put it back')"
    ),
    "evaluate: SIGTERM to the last, features": Fault(at="features", sent=(TERM,)),
    "evaluate: SIGUSR1 to the first, features": Fault(at="features", sent=(signal.SIGUSR1,), to="first"),
    "evaluate: SIGTERM to the last, which waits": Fault(at="fit", does="time.sleep(600)", of_all=FITTED, sent=(TERM,)),
    "evaluate: SIGTERM to the first, a fit": Fault(
        at="fit", does="time.sleep(600)", of_all=FITTED, sent=(TERM,), to="first"
    ),
    "evaluate: SIGTERM to the first, a long computation": Fault(
        at="fit", does=IN_XLA, of_all=FITTED, sent=(TERM,), to="first"
    ),
    "evaluate: SIGKILL to the last, features": Fault(at="features", sent=(KILL,)),
    "evaluate: SIGKILL to the last, which waits": Fault(at="fit", does="time.sleep(600)", of_all=FITTED, sent=(KILL,)),
    "evaluate: SIGKILL to the first, a fit": Fault(
        at="fit", does="time.sleep(600)", of_all=FITTED, sent=(KILL,), to="first"
    ),
    "exemplars: another setting": Fault(("--rates=0.6",)),
    "exemplars: SIGTERM to the last": Fault(at="scores", sent=(TERM,)),
    "exemplars: Ctrl-C to the first": Fault(at="scores", sent=(signal.SIGINT,), to="first"),
    "exemplars: SIGKILL to the last": Fault(at="scores", sent=(KILL,)),
    "exemplars: a crash of the last": Fault(at="scores", does="raise OSError(5, 'the disk is gone')"),
    "prepare: another folder": Fault(("folder:{out}/nowhere",)),
    "prepare: SIGTERM to the last": Fault(at="looking", sent=(TERM,)),
    "prepare: SIGKILL to the last": Fault(at="looking", sent=(KILL,)),
}


def main() -> None:
    from jobs import on_disk

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("faults", nargs="*", choices=[*FAULTS, []], metavar="FAULT", help=", ".join(FAULTS))
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--limit", type=int, default=120, help="seconds for all to end")
    parser.add_argument("--out", type=on_disk, default=pathlib.Path("runs/process_faults"))
    options = parser.parse_args()
    # Started in the background by a shell, this ignores Ctrl-C, and so would the processes.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    rows = []
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.faults or FAULTS:
        command = name.partition(": ")[0] if ": " in name else "pretrain"
        rows.append(
            {"fault": name} | happen(command, FAULTS[name], options.processes, options.limit, options.out.absolute())
        )
        print(tabulate([rows[-1]], headers="keys", tablefmt="plain"), flush=True)
        table = tabulate(rows, headers="keys", tablefmt="github")
        (options.out / f"table_{options.processes}.md").write_text(table + "\n")


def happen(command: str, fault: Fault, count: int, limit: int, folder: pathlib.Path) -> dict[str, object]:
    """Start `count` processes, let the fault happen, and see how they end."""
    out = folder / f"now {count}"
    shutil.rmtree(out, ignore_errors=True)
    (out / "elsewhere").mkdir(parents=True)
    (out / "run").mkdir() if fault.mounted or fault.lock else None
    mark = out / "happened"
    at_step_40 = fault.at_step_40.format(out=str(out / "run"))
    code = fault.code + (AT_STEP_40.format(mark=str(mark), fault=at_step_40) if at_step_40 else "")
    slowly = ""
    if fault.at:
        slowly = "from sdclr_jax.errors import UserError\n"
        slowly += _SLOWLY.format(**PLACES[fault.at], mark=str(mark), fault=fault.does)
    if command in ("evaluate", "exemplars"):
        for place in (out, out / "elsewhere"):
            shutil.copytree(trained(folder), place / "run")
    environment = ENVIRONMENT | {
        "JAX_COORDINATOR_ADDRESS": f"localhost:{free_port()}",
        "JAX_NUM_PROCESSES": str(count),
        "SDCLR_JOIN_SECONDS": str(JOIN),
    }
    began = time.time()
    with contextlib.ExitStack() as stack:
        if fault.mounted:
            subprocess.run(["mount", "-t", "tmpfs", "none", out / "run"], check=True)
            for _ in range(2):  # where it became read-only, there are two
                stack.callback(subprocess.run, ["umount", "--lazy", out / "run"], stderr=subprocess.DEVNULL)
        if fault.lock:
            fcntl.flock(stack.enter_context((out / "run" / ".lock").open("w")), fcntl.LOCK_EX)

        def start(i: int) -> subprocess.Popen:
            last = i == count - 1
            own = {"first": i == 0, "last": last, "all": True}[fault.to]
            argv = arguments(command, out, folder, fault.fields if last else (), fault.of_all)
            text = PROGRAM + (code if own else "") + (slowly if last or fault.sent else "") + RUN
            more = {"JAX_PROCESS_ID": str(i)}
            more |= {name: value.format(twice=count - 2) for name, value in fault.environment if last}
            return subprocess.Popen(
                [sys.executable, "-c", text, *argv],
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment | more,
            )  # fmt: skip

        running = [start(i) for i in range(count - (fault.starts in ("never", "late")))]
        if fault.starts == "late":
            time.sleep(15)
            running.append(start(count - 1))
        happened = lambda: mark.exists() if fault.at or at_step_40 else len(lines(out)) >= 3  # noqa: E731
        if fault.sent or fault.starts == "again" or at_step_40:
            until = time.time() + 5 * limit
            while not happened() and all(process.poll() is None for process in running) and time.time() < until:
                time.sleep(0.05)
            began = time.time()
        if fault.starts == "again":
            running.append(start(count - 1))
            running[-1].wait(limit)
        if fault.sent:
            began = time.time()
            for number, sent in enumerate(fault.sent):
                time.sleep(0 if not number else 5 if sent == CONT else 0.5)
                for process in {"last": running[-1:], "first": running[:1], "all": running}[fault.to]:
                    process.send_signal(sent)
        ended: dict[int, float] = {}
        stopped = fault.sent == (STOP,)
        while len(ended) < len(running) - stopped and time.time() - began < limit:
            for i, process in enumerate(running):
                if i not in ended and process.poll() is not None:
                    ended[i] = time.time()
            time.sleep(0.05)
        statuses = [process.poll() for process in running]
        for process in running:
            process.kill()
        said = [process.communicate()[0].strip().splitlines() for process in running]
        done = json.loads(lines(out)[-1])["step"] if command == "pretrain" and lines(out) else None
        checkpoints = [int(p.name) for p in out.glob("run/**/checkpoints/*") if p.name.isdigit()]
        written = sorted(str(path.relative_to(out)) for path in out.glob("run/*"))
        said = [[line for line in text if not line.startswith(("[Gloo]", "W1", "E1"))] for text in said]
        print(*(f"--- process {i}:\n" + "\n".join(text[-6:]) for i, text in enumerate(said)), sep="\n", flush=True)
        return {
            "exit statuses": " ".join("still" if status is None else str(status) for status in statuses),
            "seconds": f"{max(ended.values()) - began:.0f}" if len(ended) == len(running) - stopped else "never",
            "last step": done,
            "checkpoint": max(checkpoints, default=None) if command == "pretrain" else None,
            "written": " ".join(written) or "nothing" if set(statuses) == {2} and command == "pretrain" else None,
            **{f"process {i} says": last_line(said[i]) for i in (0, len(running) - 1)},
        }


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


def trained(folder: pathlib.Path) -> pathlib.Path:
    """A run to evaluate, trained by one process for two epochs the first time."""
    run = folder / "trained"
    if not (run / "checkpoints" / "10").exists():
        argv = ["pretrain", "--config=digits_lt:sdclr", f"--workdir={run}", f"--data_dir={folder / 'data'}", *FIELDS]
        subprocess.run(
            [sys.executable, "-m", "sdclr_jax.commands.main", *argv, "--config.epochs=2", "--noprogress"],
            check=True, timeout=600, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
    return run


def photos(folder: pathlib.Path) -> pathlib.Path:
    """A folder of 4,000 small images, made the first time."""
    made = folder / "photos"
    if not made.exists():
        made.mkdir(parents=True)
        for i in range(4000):
            Image.new("RGB", (8 + i % 5, 8), (i % 251, i % 241, i % 239)).save(made / f"{i:04}.png")
    return made


def arguments(
    command: str, out: pathlib.Path, folder: pathlib.Path, own: tuple[str, ...], of_all: tuple[str, ...]
) -> list[str]:
    """Of a process, with what is its own."""
    given = [field.format(out=out) for field in (*of_all, *own)]
    places = [each for each in given if not each.startswith("--")]
    given = [each for each in given if each.startswith("--")]
    if command == "pretrain":
        argv = ["--config=digits_lt:sdclr", f"--workdir={out / 'run'}", "--noprogress", *FIELDS]
    elif command == "evaluate":
        argv = [*(places or [str(out / "run")]), "--config.evaluate.protocols=('knn',)", "--config.evaluate.knn_k=5"]
        argv.append("--config.evaluate.batch_size=32")
    elif command == "exemplars":
        argv = [*(places or [str(out / "run")]), "--noprogress", "--views=1", *([] if given else ["--rates=0.5"])]
    else:
        argv = [*(places or [f"folder:{photos(folder)}"]), "--noprogress"]
    data_dir = out / "data" if command == "prepare" else folder / "data"
    return [command, "--distributed", f"--data_dir={data_dir}", *argv, *given]


def lines(out: pathlib.Path) -> list[str]:
    """Of the metrics."""
    found = [*out.glob("run/metrics.jsonl"), *out.glob("run/a b/metrics.jsonl")]
    return found[0].read_text().splitlines() if found else []


def last_line(said: list[str]) -> str:
    """The last line that is the program's own; else the last of all."""
    own = [line.removeprefix("sdclr: ") for line in said if line.startswith("sdclr: ")]
    return (own or said or [""])[-1][:160]


if __name__ == "__main__":
    main()
