"""What happens to a run of several processes when something happens to one of them.

    python experiments/process_faults.py [--processes=2] [--out=runs/process_faults] [FAULT ...]

Starts real processes of `sdclr pretrain --distributed` on this machine, a device each, on tiny digits; lets one fault
happen; and writes `table.md`: exit statuses, seconds from the fault until all had ended, the last step and the newest
checkpoint, and what each process said last. A process that has not ended after two minutes is killed, and said so.
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

from tabulate import tabulate

ROOT = pathlib.Path(__file__).parents[1]
LIMIT = 120  # seconds
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
sys.exit(main.main(["pretrain", "--distributed", *argv]))
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
import dataclasses
from sdclr_jax.recipes.examples import Data
about = Data.about
Data.about = lambda self, subset: dataclasses.replace(about(self, subset), sha256="0" * 64)
"""


class Fault(NamedTuple):
    """What happens to the last process, or to another."""

    fields: tuple[str, ...] = ()  # of its command line
    code: str = ""  # run in it before it starts
    at_step_40: str = ""  # run in it then
    sent: signal.Signals | None = None  # while it trains
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
    for name in options.faults or FAULTS:
        rows.append({"fault": name} | happen(FAULTS[name], options.processes, options.out.absolute() / "now"))
        print(tabulate([rows[-1]], headers="keys", tablefmt="plain"), flush=True)
        table = tabulate(rows, headers="keys", tablefmt="github")
        (options.out / f"table_{options.processes}.md").write_text(table + "\n")


def happen(fault: Fault, count: int, out: pathlib.Path) -> dict[str, object]:
    """Start `count` processes, let the fault happen, and see how they end."""
    shutil.rmtree(out, ignore_errors=True)
    (out / "elsewhere").mkdir(parents=True)
    mark = out / "happened"
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    code = fault.code + (AT_STEP_40.format(mark=str(mark), fault=fault.at_step_40) if fault.at_step_40 else "")
    with contextlib.ExitStack() as stack:
        if fault.lock:
            (out / "run").mkdir()
            fcntl.flock(stack.enter_context((out / "run" / ".lock").open("w")), fcntl.LOCK_EX)
        running = [
            start(port, i, count, out, *((code, fault.fields) if i == count - 1 else ("", ()))) for i in range(count)
        ]
        began = time.time()
        if fault.sent:
            while len(lines(out)) < 3 and all(p.poll() is None for p in running):
                time.sleep(0.05)
            began = time.time()
            for process in {"last": running[-1:], "first": running[:1], "all": running}[fault.to]:
                process.send_signal(fault.sent)
        ended: dict[int, float] = {}
        while len(ended) < count and time.time() - began < LIMIT:
            for i, process in enumerate(running):
                if i not in ended and process.poll() is not None:
                    ended[i] = time.time()
            if fault.sent == signal.SIGSTOP and len(ended) == count - 1:
                break
            time.sleep(0.05)
        if mark.exists():
            began = mark.stat().st_mtime
        statuses = [process.poll() for process in running]
        for process in running:
            process.kill()
        said = [process.communicate()[0].strip().splitlines() for process in running]
    done = json.loads(lines(out)[-1])["step"] if lines(out) else None
    checkpoints = [int(p.name) for p in out.glob("run/checkpoints/*") if p.name.isdigit()]
    return {
        "exit statuses": " ".join(map(str, statuses)),
        "seconds": f"{max(ended.values()) - began:.0f}"
        if None not in statuses or fault.sent == signal.SIGSTOP
        else "never",
        "last step": done,
        "checkpoint": max(checkpoints, default=None),
        **{f"process {i} says": last(text) for i, text in enumerate(said)},
    }


def start(port: int, number: int, count: int, out: pathlib.Path, code: str, fields: tuple[str, ...]):
    argv = ["--config=digits_lt:sdclr", f"--workdir={out / 'run'}", f"--data_dir={out / 'data'}", "--noprogress"]
    argv += [*FIELDS, *(field.format(out=out) for field in fields)]
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "1", "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM + code + RUN, str(port), str(number), str(count), *argv],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment,
    )  # fmt: skip


def lines(out: pathlib.Path) -> list[str]:
    """Of the metrics."""
    path = out / "run" / "metrics.jsonl"
    return path.read_text().splitlines() if path.exists() else []


def last(said: list[str]) -> str:
    """The last line that is the program's own; else the last of all."""
    own = [line.removeprefix("sdclr: ") for line in said if line.startswith("sdclr: ")]
    return (own or said or [""])[-1][:160]


if __name__ == "__main__":
    main()
