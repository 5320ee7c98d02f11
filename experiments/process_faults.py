"""What happens to a command of several processes when something happens to one of them.

    python experiments/process_faults.py [--processes=2] [--out=runs/process_faults] [FAULT ...]

Starts real processes of `sdclr pretrain --distributed`, or of evaluate, exemplars or prepare, on this machine, a device
each, on tiny digits and images; lets one fault happen; and writes `table.md`: exit statuses, seconds from the fault
until all had ended, the last step and the newest checkpoint, and what each process said last. A process that has not
ended after two minutes is killed, and said so.
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
LIMIT = 120  # seconds
ENVIRONMENT = os.environ | {"JAX_NUM_CPU_DEVICES": "1", "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
FIELDS = (
    *("--config.epochs=400", "--config.batch_size=64", "--config.log_every=5", "--config.checkpoint_every=2"),
    *("--config.model.width=2", "--config.projector.layers=2", "--config.projector.hidden=8"),
    *("--config.projector.out=4", "--config.optimizer.warmup_epochs=1", "--config.collapse_every=0"),
    "--config.optimizer.learning_rate=0.01",
)
PROGRAM = """
import sys
import jax
port, process, count, *argv = sys.argv[1:]
join = jax.distributed.initialize
jax.distributed.initialize = lambda **how: join(f"localhost:{port}", int(count), int(process), **how)
from sdclr_jax import processes
processes.SILENCE = 10
"""
RUN = """
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
# Where something happens in the commands that train nothing: run in all processes, they touch a mark and take long. In
# `features`, `scores` and `looking` all processes work, in `fit` one, and the others wait.
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
    sent: signal.Signals | None = None  # while it trains, or is at the place
    at: str = ""  # one of PLACES, of another command than pretrain
    does: str = "time.sleep(1)"  # what all do there before the signal, or the last one alone
    to: str = "last"  # "first", or "all"
    lock: bool = False  # whether somebody else trains in the folder


FAULTS = {
    "another seed": Fault(("--config.seed=3",)),
    "another learning rate": Fault(("--config.optimizer.learning_rate=0.02",)),
    "other images": Fault(code=OTHER_IMAGES),
    "a folder that is not shared": Fault(("--workdir={out}/elsewhere/run",)),
    "a wrong flag": Fault(("--config.prune.raet=0.5",)),
    "a wrong value": Fault(("--config.prune.rate=2.0",)),
    "the folder in use": Fault(lock=True),
    "SIGTERM to the last": Fault(sent=signal.SIGTERM),
    "SIGTERM to the first": Fault(sent=signal.SIGTERM, to="first"),
    "SIGTERM to all": Fault(sent=signal.SIGTERM, to="all"),
    "Ctrl-C to the last": Fault(sent=signal.SIGINT),
    "SIGUSR1 to the last": Fault(sent=signal.SIGUSR1),
    "SIGHUP to the last": Fault(sent=signal.SIGHUP),
    "an unreadable file on the last": Fault(at_step_40="raise UserError('a.jpg cannot be read: put it back')"),
    "a crash of the last": Fault(at_step_40="raise OSError(5, 'the disk is gone')"),
    "SIGKILL to the last": Fault(sent=signal.SIGKILL),
    "SIGKILL to the first": Fault(sent=signal.SIGKILL, to="first"),
    "the last stands still": Fault(sent=signal.SIGSTOP),
    "the last never starts": Fault(to="none"),
    "evaluate: another setting": Fault(("--config.evaluate.knn_k=7",)),
    "evaluate: other images": Fault(code=OTHER_IMAGES),
    "evaluate: a folder that is not shared": Fault(("{out}/elsewhere/run",)),
    "evaluate: a wrong flag": Fault(("--config.evaluate.knn=7",)),
    "evaluate: an unreadable file on the last": Fault(
        at="features", does="raise UserError('a.jpg cannot be read: put it back')"
    ),
    "evaluate: SIGTERM to the last, features": Fault(at="features", sent=signal.SIGTERM),
    "evaluate: SIGUSR1 to the first, features": Fault(at="features", sent=signal.SIGUSR1, to="first"),
    "evaluate: SIGTERM to the last, which waits": Fault(at="fit", does="time.sleep(600)", sent=signal.SIGTERM),
    "evaluate: SIGTERM to the first, a fit": Fault(at="fit", does="time.sleep(600)", sent=signal.SIGTERM, to="first"),
    "evaluate: SIGTERM to the first, a long computation": Fault(at="fit", does=IN_XLA, sent=signal.SIGTERM, to="first"),
    "evaluate: SIGKILL to the last, features": Fault(at="features", sent=signal.SIGKILL),
    "evaluate: SIGKILL to the last, which waits": Fault(at="fit", does="time.sleep(600)", sent=signal.SIGKILL),
    "evaluate: SIGKILL to the first, a fit": Fault(at="fit", does="time.sleep(600)", sent=signal.SIGKILL, to="first"),
    "exemplars: another setting": Fault(("--rates=0.6",)),
    "exemplars: SIGTERM to the last": Fault(at="scores", sent=signal.SIGTERM),
    "exemplars: Ctrl-C to the first": Fault(at="scores", sent=signal.SIGINT, to="first"),
    "exemplars: SIGKILL to the last": Fault(at="scores", sent=signal.SIGKILL),
    "exemplars: a crash of the last": Fault(at="scores", does="raise OSError(5, 'the disk is gone')"),
    "prepare: another folder": Fault(("folder:{out}/nowhere",)),
    "prepare: SIGTERM to the last": Fault(at="looking", sent=signal.SIGTERM),
    "prepare: SIGKILL to the last": Fault(at="looking", sent=signal.SIGKILL),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("faults", nargs="*", choices=[*FAULTS, []], metavar="FAULT", help=", ".join(FAULTS))
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/process_faults"))
    options = parser.parse_args()
    # Started in the background by a shell, this ignores Ctrl-C, and so would the processes.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    rows = []
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.faults or FAULTS:
        command = name.partition(": ")[0] if ": " in name else "pretrain"
        rows.append({"fault": name} | happen(command, FAULTS[name], options.processes, options.out.absolute()))
        print(tabulate([rows[-1]], headers="keys", tablefmt="plain"), flush=True)
        table = tabulate(rows, headers="keys", tablefmt="github")
        (options.out / f"table_{options.processes}.md").write_text(table + "\n")


def happen(command: str, fault: Fault, count: int, folder: pathlib.Path) -> dict[str, object]:
    """Start `count` processes, let the fault happen, and see how they end."""
    out = folder / "now"
    shutil.rmtree(out, ignore_errors=True)
    (out / "elsewhere").mkdir(parents=True)
    mark = out / "happened"
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    code = fault.code + (AT_STEP_40.format(mark=str(mark), fault=fault.at_step_40) if fault.at_step_40 else "")
    slowly = ""
    if fault.at:
        slowly = "from sdclr_jax.errors import UserError\n"
        slowly += _SLOWLY.format(**PLACES[fault.at], mark=str(mark), fault=fault.does)
    if command in ("evaluate", "exemplars"):
        for place in (out, out / "elsewhere"):
            shutil.copytree(trained(folder), place / "run")
    with contextlib.ExitStack() as stack:
        if fault.lock:
            (out / "run").mkdir()
            fcntl.flock(stack.enter_context((out / "run" / ".lock").open("w")), fcntl.LOCK_EX)
        running = []
        for i in range(count - (fault.to == "none")):
            last = i == count - 1
            argv = arguments(command, out, folder, fault.fields if last else ())
            own = (code if last else "") + (slowly if last or fault.sent else "")
            running.append(start(port, i, count, own, argv))
        began = time.time()
        if fault.sent:
            while not (mark.exists() if fault.at else len(lines(out)) >= 3) and all(p.poll() is None for p in running):
                time.sleep(0.05)
            began = time.time()
            for process in {"last": running[-1:], "first": running[:1], "all": running}[fault.to]:
                process.send_signal(fault.sent)
        ended: dict[int, float] = {}
        while len(ended) < len(running) and time.time() - began < LIMIT:
            for i, process in enumerate(running):
                if i not in ended and process.poll() is not None:
                    ended[i] = time.time()
            if fault.sent == signal.SIGSTOP and len(ended) == count - 1:
                break
            time.sleep(0.05)
        if mark.exists() and not fault.sent:
            began = mark.stat().st_mtime
        statuses = [process.poll() for process in running]
        for process in running:
            process.kill()
        said = [process.communicate()[0].strip().splitlines() for process in running]
    done = json.loads(lines(out)[-1])["step"] if command == "pretrain" and lines(out) else None
    checkpoints = [int(p.name) for p in out.glob("run/checkpoints/*") if p.name.isdigit() and command == "pretrain"]
    return {
        "exit statuses": " ".join(map(str, statuses)),
        "seconds": f"{max(ended.values()) - began:.0f}"
        if None not in statuses or fault.sent == signal.SIGSTOP
        else "never",
        "last step": done,
        "checkpoint": max(checkpoints, default=None),
        **{f"process {i} says": last_line(text) for i, text in enumerate(said)},
    }


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


def arguments(command: str, out: pathlib.Path, folder: pathlib.Path, own: tuple[str, ...]) -> list[str]:
    """Of a process, with what is its own."""
    own = tuple(field.format(out=out) for field in own)
    places = [each for each in own if not each.startswith("--")]
    own = [each for each in own if each.startswith("--")]
    if command == "pretrain":
        argv = ["--config=digits_lt:sdclr", f"--workdir={out / 'run'}", "--noprogress", *FIELDS]
    elif command == "evaluate":
        argv = [*(places or [str(out / "run")]), "--config.evaluate.protocols=('knn',)", "--config.evaluate.knn_k=5"]
        argv.append("--config.evaluate.batch_size=32")
    elif command == "exemplars":
        argv = [*(places or [str(out / "run")]), "--noprogress", "--views=1", *([] if own else ["--rates=0.5"])]
    else:
        argv = [*(places or [f"folder:{photos(folder)}"]), "--noprogress"]
    data_dir = out / "data" if command == "prepare" else folder / "data"
    return [command, "--distributed", f"--data_dir={data_dir}", *argv, *own]


def start(port: int, number: int, count: int, code: str, argv: list[str]) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM + code + RUN, str(port), str(number), str(count), *argv],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=ENVIRONMENT | {"SDCLR_JOIN_SECONDS": "20"},
    )  # fmt: skip


def lines(out: pathlib.Path) -> list[str]:
    """Of the metrics."""
    path = out / "run" / "metrics.jsonl"
    return path.read_text().splitlines() if path.exists() else []


def last_line(said: list[str]) -> str:
    """The last line that is the program's own; else the last of all."""
    own = [line.removeprefix("sdclr: ") for line in said if line.startswith("sdclr: ")]
    return (own or said or [""])[-1][:160]


if __name__ == "__main__":
    main()
