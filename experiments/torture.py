"""What happens to a run whose process is killed, whose files are damaged, or whose disk is full.

    python experiments/torture.py [--minutes=15] [--out=runs/torture] [--seed=0] [KIND ...]

A tiny run of digits goes through `prepare`, `pretrain`, `evaluate`, `exemplars` and `report` once, undisturbed. Then,
until the time is over, one thing at a time happens to a copy of it, at a random moment or place:

    kill        SIGKILL to one of the commands, which then runs again
    processes   SIGKILL to one of two processes that pretrain together, which are then started again
    full disk   a command on a disk with room for a part of what it writes, then with room enough; as root, for tmpfs
    damage      a file of the finished run is cut, changed, swapped, removed or replaced; then all commands run on it

Counts what each came to: `equal`, all is as it was to the bit, less clocks; `healed`, the same, and something was said;
`refused`, an error of one sentence; `warned`, other numbers, and something was said; and what must not be: `other`
numbers without a word, a `traceback`, or a process that does not end (`hang`). Writes results.json with each event.
"""

import argparse
import collections
import hashlib
import json
import os
import pathlib
import random
import select
import shutil
import socket
import subprocess
import sys
import time
from typing import NamedTuple

from tabulate import tabulate

ROOT = pathlib.Path(__file__).parents[1]
sys.path[:0] = [] if str(ROOT) in sys.path else [str(ROOT)]
from experiments.torture_damage import damage  # noqa: E402  # a script's own folder is no package

LIMIT = 120  # seconds until a command counts as hanging, and twenty times what it took undisturbed
FIELDS = (
    *("--config.epochs=3", "--config.batch_size=64", "--config.log_every=2", "--config.checkpoint_every=1"),
    *("--config.model.width=2", "--config.projector.layers=2", "--config.projector.hidden=8"),
    *("--config.projector.out=4", "--config.optimizer.warmup_epochs=1", "--config.optimizer.learning_rate=0.01"),
    *("--config.evaluate.protocols=('knn',)", "--config.evaluate.map_images=0"),
)
COMMANDS = ("pretrain", "evaluate", "exemplars", "report")
WORST = ("equal", "healed", "refused", "warned", "other", "traceback", "hang")  # the last three must not be


class Event(NamedTuple):
    """What happened, and what it came to."""

    kind: str
    what: str
    outcome: str
    said: str


def arguments(command: str, run: pathlib.Path, data: pathlib.Path) -> list[str]:
    """Of a command on a run, as its user types them."""
    if command == "prepare":
        return ["prepare", "digits", f"--data_dir={data}", "--noprogress"]
    if command == "pretrain":
        where = [f"--workdir={run}", f"--data_dir={data}", "--noprogress"]
        return ["pretrain", f"--config={ROOT / 'configs' / 'digits_lt.py'}:sdclr", *where, *FIELDS]
    if command == "evaluate":
        return ["evaluate", str(run), f"--data_dir={data}"]
    if command == "exemplars":
        return ["exemplars", str(run), "--rates=0.9", "--views=0", "--gallery=20", f"--data_dir={data}", "--noprogress"]
    return ["report", str(run), f"--output={run.parent / 'report.html'}"]


def made(command: str, run: pathlib.Path, data: pathlib.Path) -> str:
    """A hash of what a command has left behind, less clocks and versions."""
    if command == "prepare":
        from sdclr_jax.data import sources

        loaded = [sources.source("digits", data).load(split) for split in ("train", "test")]
        return _hash(*(part.tobytes() for each in loaded for part in (each.images, each.labels, each.ids)))
    if command == "pretrain":
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        clocks = ("images_per_second", "seconds", "data_wait_seconds", "evaluation_seconds")
        kept = [{name: x for name, x in line.items() if name not in clocks} for line in lines]
        return _hash(json.dumps(kept).encode(), *_last_state(run))
    if command == "evaluate":
        return _hash(json.dumps(json.loads((run / "results.json").read_text())["protocols"], sort_keys=True).encode())
    if command == "exemplars":
        return _hash((run / "exemplars" / "exemplars.csv").read_bytes())
    return _hash((run.parent / "report.csv").read_bytes().replace(f"{run.parent.name}/{run.name}".encode(), b""))


def _last_state(run: pathlib.Path) -> list[bytes]:
    import jax
    import numpy as np

    from sdclr_jax import parallel, recipes, trees
    from sdclr_jax.run.checkpoints import Checkpoints

    config = recipes.read(run)
    like = recipes.abstract_state(config, (369, 8, 8, 1), parallel.shardings(jax.devices()[:1]))
    with Checkpoints(run / "checkpoints", read_only=True) as checkpoints:
        state = checkpoints.restore(like=like)
    state = state.replace(key=jax.random.key_data(state.key))
    return [name.encode() + np.asarray(leaf).tobytes() for name, leaf in trees.named(state).items()]


def _hash(*parts: bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part + b"\0")
    return digest.hexdigest()


def outcome(status: int | None, said: str, before: str, now: str | None) -> str:
    """What a command came to: its exit status, None where it did not end, what it said, and the hashes of `made`."""
    if status is None:
        return "hang"
    if "Traceback" in said:
        return "traceback"
    if status:
        return "refused" if "sdclr: " in said else "traceback"
    if now == before:
        return "healed" if said else "equal"
    return "warned" if said else "other"


class Tortured:
    """The undisturbed run, and what happens to copies of it."""

    def __init__(self, out: pathlib.Path):
        self._out, self._data, self._stages = out.absolute(), out.absolute() / "data", out.absolute() / "stages"
        self._seconds: dict[str, float] = {}
        self._made: dict[str, str] = {}
        self._child: subprocess.Popen | None = None
        self._two = ""

    def begin(self) -> None:
        """Go through all commands; keep the folder as each finds it."""
        run = self._stages / "now" / "run"
        run.mkdir(parents=True)
        for command in ("prepare", *COMMANDS):
            shutil.copytree(run.parent, self._stages / command)
            began = time.monotonic()
            status, said = self._sdclr(command, run)
            assert status == 0, said
            self._seconds[command] = time.monotonic() - began
            self._made[command] = made(command, run, self._data)

    def _limit(self, *commands: str) -> float:
        return LIMIT + 20 * sum(self._seconds.get(command, 60) for command in commands)

    def _sdclr(
        self, command: str, run: pathlib.Path, *, after: float | None = None, data: pathlib.Path | None = None
    ) -> tuple[int | None, str]:
        """Exit status, None where it was killed after so many seconds, and what it said on the standard error."""
        given = [sys.executable, "-m", "sdclr_jax.commands.main", *arguments(command, run, data or self._data)]
        environment = os.environ | {"JAX_NUM_CPU_DEVICES": "1", "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
        # A session of its own: its worker processes are killed with it.
        process = subprocess.Popen(
            given, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
        )
        try:
            said = process.communicate(timeout=self._limit(command) if after is None else after)[1]
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            return None, process.communicate()[1]
        return process.returncode, said

    def _ended(self, kind: str, what: str, command: str, run: pathlib.Path, data: pathlib.Path | None = None) -> Event:
        """Run a command to its end, and compare."""
        status, said = self._sdclr(command, run, data=data)
        now = made(command, run, data or self._data) if status == 0 else None
        return Event(kind, what, outcome(status, said, self._made[command], now), said[-500:])

    def _copy(self, command: str, name: str = "copy") -> pathlib.Path:
        shutil.rmtree(self._out / name, ignore_errors=True)
        shutil.copytree(self._stages / command, self._out / name)
        return self._out / name / "run"

    def kill(self, rng: random.Random) -> Event:
        command = rng.choice(("prepare", "pretrain", "pretrain", *COMMANDS))
        run, times = self._copy(command), rng.choice((1, 1, 2, 3))
        data = self._out / "copy" / "data" if command == "prepare" else None
        after = [rng.uniform(0, self._seconds[command]) for _ in range(times)]
        for seconds in after:
            self._sdclr(command, run, after=seconds, data=data)
        return self._ended("kill", f"{command} after {', '.join(f'{s:.1f} s' for s in after)}", command, run, data)

    def processes(self, rng: random.Random) -> Event:
        if not self._two:
            self._two = self._pair(rng, self._out / "two", kill=False)[1]
        shutil.rmtree(self._out / "pair", ignore_errors=True)
        killed, _ = self._pair(rng, self._out / "pair", kill=True)
        said, now = self._pair(rng, self._out / "pair", kill=False)
        status = 0 if now else (None if "never" in said else 1)
        return Event("processes", killed, outcome(status, "" if now else said, self._two, now or None), said)

    def _pair(self, rng: random.Random, place: pathlib.Path, *, kill: bool) -> tuple[str, str]:
        """Start two processes, and perhaps kill one; what happened, and the hash of what they made."""
        from experiments.process_faults import PROGRAM, RUN

        (place / "run").mkdir(parents=True, exist_ok=True)
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        environment = os.environ | {"JAX_NUM_CPU_DEVICES": "1", "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
        given = arguments("pretrain", place / "run", self._data)[1:]
        pair = [
            subprocess.Popen(
                [sys.executable, "-c", PROGRAM + RUN, str(port), str(i), "2", *given],
                stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment,
            )
            for i in range(2)
        ]  # fmt: skip
        number, after = rng.randrange(2), rng.uniform(0, 2 * self._seconds["pretrain"])
        if kill:
            time.sleep(after)
            pair[number].kill()
        said, never = [], False
        for process in pair:
            try:
                said.append(process.communicate(timeout=self._limit("pretrain"))[1][-300:])
            except subprocess.TimeoutExpired:
                never = True
                process.kill()
                said.append(process.communicate()[1][-300:])
        what = f"SIGKILL to process {number} after {after:.1f} s" if kill else " | ".join(said)
        whole = not never and all(process.returncode == 0 for process in pair)
        return what + (" never ended" if never else ""), made("pretrain", place / "run", self._data) if whole else ""

    def full_disk(self, rng: random.Random) -> Event:
        command = rng.choice(("prepare", *COMMANDS))
        disk = self._out / "disk"
        disk.mkdir(exist_ok=True)
        size = sum(p.stat().st_size for p in (self._stages / command).rglob("*") if p.is_file())
        room = rng.choice((16, 64, 128, 256, 512, 1024, 2048)) * 1024
        mount = ["mount", "-t", "tmpfs", "-o", f"size={2 * size + room}", "tmpfs", str(disk)]
        subprocess.run(mount, check=True, capture_output=True)
        try:
            shutil.copytree(self._stages / command, disk, dirs_exist_ok=True)
            free = shutil.disk_usage(disk).free
            if free > room:
                (disk / "filler").write_bytes(bytes(free - room))
            data = disk / "data" if command == "prepare" else None
            what = f"{command} with {min(room, free) // 1024} KiB"
            first = self._ended("full disk", what, command, disk / "run", data)
            if first.outcome not in ("refused", "equal", "healed"):
                return first
            subprocess.run(["mount", "-o", "remount,size=256m", str(disk)], check=True, capture_output=True)
            second = self._ended("full disk", f"{what}, then enough", command, disk / "run", data)
            return (
                second
                if WORST.index(second.outcome) > WORST.index(first.outcome) or second.outcome == "refused"
                else first
            )
        finally:
            subprocess.run(["umount", "-l", str(disk)], check=True)

    def damage(self, rng: random.Random) -> Event:
        run = self._copy("now")
        what = damage(run, rng)
        if self._child is None or self._child.poll() is not None:
            environment = os.environ | {"JAX_NUM_CPU_DEVICES": "1", "JAX_PLATFORMS": "cpu"}
            self._child = subprocess.Popen(
                [sys.executable, __file__, "--child", f"--out={self._out}"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment,
            )  # fmt: skip
        assert self._child.stdin and self._child.stdout
        self._child.stdin.write(json.dumps({"run": str(run), "data": str(self._data), "made": self._made}) + "\n")
        self._child.stdin.flush()
        if not select.select([self._child.stdout], [], [], self._limit(*COMMANDS))[0] or not (
            line := self._child.stdout.readline()
        ):
            self._child.kill()
            self._child.wait()
            return Event("damage", what, "hang", "did not end, or ended all of Python")
        return Event("damage", what, *json.loads(line))

    def end(self) -> None:
        if self._child:
            self._child.kill()
            self._child.wait()


def commands_on(
    run: pathlib.Path, data: pathlib.Path, before: dict[str, str], commands: tuple[str, ...] = COMMANDS
) -> tuple[str, str]:
    """Commands on a run, in this process: the worst that one came to, and what it said."""
    import contextlib
    import io
    import logging
    import traceback

    from sdclr_jax.commands import main

    worst, words = "equal", ""
    for command in commands:
        heard, now = io.StringIO(), None
        handler = logging.StreamHandler(heard)
        logging.getLogger("sdclr_jax").addHandler(handler)
        try:
            with contextlib.redirect_stderr(heard), contextlib.redirect_stdout(io.StringIO()):
                status = main.main(arguments(command, run, data))
                now = made(command, run, data) if status == 0 else None
        except BaseException:
            status = 1
            heard.write(traceback.format_exc())
        finally:
            logging.getLogger("sdclr_jax").removeHandler(handler)
        said = heard.getvalue()
        came_to = outcome(status, said, before[command], now)
        if WORST.index(came_to) > WORST.index(worst):
            worst, words = came_to, f"{command}: {said[-400:]}"
    return worst, words


def _child() -> None:
    import threading

    from sdclr_jax.commands import ending

    # As the console script has them.
    threading.excepthook, sys.unraisablehook = ending.of_thread, ending.unraised
    out = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        job = json.loads(line)
        came_to = commands_on(pathlib.Path(job["run"]), pathlib.Path(job["data"]), job["made"])
        out.write(json.dumps(came_to) + "\n")
        out.flush()


KINDS = {  # how often each is drawn
    "kill": (Tortured.kill, 4),
    "processes": (Tortured.processes, 1),
    "full disk": (Tortured.full_disk, 4),
    "damage": (Tortured.damage, 12),
}


def main() -> None:
    from jobs import on_disk

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=", ".join(KINDS))
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--out", type=on_disk, default=pathlib.Path("runs/torture"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        _child()
        return
    from sdclr_jax import compiler

    compiler.set_flags()  # for what this process reads of runs
    shutil.rmtree(options.out, ignore_errors=True)
    tortured, rng, events = Tortured(options.out), random.Random(options.seed), []
    tortured.begin()
    until = time.monotonic() + 60 * options.minutes
    kinds = options.kinds or list(KINDS)
    try:
        while time.monotonic() < until:
            kind = rng.choices(kinds, [KINDS[k][1] for k in kinds])[0]
            event = KINDS[kind][0](tortured, rng)
            events.append(event)
            if event.outcome in WORST[3:]:
                print(f"{event.outcome}: {event.what}: {event.said.strip()[-300:]}", flush=True)
            (options.out / "results.json").write_text(json.dumps([e._asdict() for e in events], indent=1) + "\n")
    finally:
        tortured.end()
    counts = collections.Counter((e.kind, e.outcome) for e in events)
    rows = [{"": kind} | {w: counts[kind, w] for w in WORST} for kind in kinds]
    print(tabulate(rows, headers="keys", tablefmt="github"))
    sys.exit(int(any(event.outcome in WORST[4:] for event in events)))


if __name__ == "__main__":
    main()
