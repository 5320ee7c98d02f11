"""Every reader of what people bring, on damaged and hostile input: only the project's own errors may come out.

    python experiments/fuzz.py [--seconds=600] [--out=runs/fuzz] [TARGET ...]

The time is shared by the targets. Each runs in a process of its own, on seeds that are mutated: half the time by
structure (a value of a JSON tree, a member of an archive), half by bytes. With `pip install atheris` libFuzzer chooses
what to mutate by the code that it reaches; without, mutations are random. What counts as found: an exception that is
not the project's own, a message of several lines or of more than 2,000 characters, a reader that takes more than
`SLOW` CPU-seconds, or more memory than `MEMORY` beyond what the process has. Prints a table; writes results.json, and
one input for each thing found.
"""

import argparse
import contextlib
import hashlib
import importlib.util
import json
import os
import pathlib
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator
from typing import Any

from tabulate import tabulate

ROOT = pathlib.Path(__file__).parents[1]
sys.path[:0] = [] if str(ROOT) in sys.path else [str(ROOT)]
ENGINE = importlib.util.find_spec("atheris") is not None
instrumented: Any = contextlib.nullcontext()
if __name__ == "__main__" and ENGINE and "--child" in sys.argv:
    import atheris

    # What is imported now tells libFuzzer where it has been.
    instrumented = atheris.instrument_imports(include=["sdclr_jax", "PIL", "numpy.lib"])
with instrumented:
    from experiments.fuzz_mutations import mutated
    from experiments.fuzz_targets import OWN, TARGETS, Target

SLOW, MEMORY = 5, 2 << 30  # CPU-seconds, bytes


class Slow(BaseException):
    """A reader took too long; no `except Exception` holds it up."""


def outcome(target: Target, folder: pathlib.Path, data: bytes) -> str:
    """'read', 'refused', or what was found: an exception with the place where it came from."""
    try:
        with _within(SLOW), warnings.catch_warnings():
            warnings.simplefilter("error")
            target.read(folder, data)
    except OWN as error:
        text = str(error)
        if "\n" in text:
            return f"message of several lines: {_place(error)}"
        return "refused" if len(text) <= 2000 else f"message of {len(text)} characters: {_place(error)}"
    except (Exception, Slow) as error:
        return f"{type(error).__name__}: {_place(error)}"
    return "read"


def _place(error: BaseException) -> str:
    """The deepest line of the project."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "sdclr_jax/" in f.filename]
    if not frames:
        return str(error)[:80]
    path = frames[-1].filename.rpartition("sdclr_jax/")[2]
    return f"{path}:{frames[-1].lineno} {frames[-1].name} ({' '.join(str(error).split())[:80]})"


@contextlib.contextmanager
def _within(seconds: float) -> Iterator[None]:
    def ring(number: int, frame: object) -> None:
        raise Slow(f"more than {seconds:g} s")

    before = signal.signal(signal.SIGPROF, ring)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


class Found:
    """What one target's inputs came to: counts, and the first input for each thing found."""

    def __init__(self, name: str, out: pathlib.Path | None = None):
        self.name, self._out = name, out
        self.counts = {"read": 0, "refused": 0}
        self.found: dict[str, int] = {}

    def add(self, what: str, data: bytes) -> None:
        if what in self.counts:
            self.counts[what] += 1
            return
        key = what.partition(" (")[0]  # the same place with other words is one thing
        if not any(other.partition(" (")[0] == key for other in self.found):
            self.found[what] = 0
            if self._out:
                name = hashlib.sha256(what.encode()).hexdigest()[:12]
                (self._out / f"{_file(self.name)}-{name}").write_bytes(data)
        for other in self.found:
            if other.partition(" (")[0] == key:
                self.found[other] += 1

    def row(self) -> dict[str, Any]:
        return {"target": self.name, "inputs": sum(self.counts.values()) + sum(self.found.values()), **self.counts,
                "found": self.found}  # fmt: skip


def tried(name: str, inputs: int, *, seed: int = 0, seconds: float = 1e9, out: pathlib.Path | None = None) -> Found:
    """Random mutations of a target's seeds."""
    target, rng, found, until = (
        TARGETS[name],
        random.Random(f"{seed} {name}"),
        Found(name, out),
        time.monotonic() + seconds,
    )
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch)
        target.prepare(folder)
        seeds = target.seeds()
        corpus = list(seeds)
        for data in seeds:
            what = outcome(target, folder, data)
            found.add(what if what in found.counts else f"of an input that is right: {what}", data)
        while sum(found.counts.values()) + sum(found.found.values()) < inputs and time.monotonic() < until:
            data = mutated(target.kind, rng.choice(corpus), seeds, rng)
            what = outcome(target, folder, data)
            found.add(what, data)
            if what == "read" and len(corpus) < 500:
                corpus.append(data)
    return found


def _file(name: str) -> str:
    """report: data.json -> report_data.json"""
    return name.replace(": ", "_").replace(" ", "_")


def _limit_memory() -> None:
    has = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (has + MEMORY, has + MEMORY))


def _child(name: str, seconds: int, out: pathlib.Path) -> None:
    """Try one target, and write its row whenever something is found, and now and then."""
    _limit_memory()
    row = out / f"{_file(name)}.json"
    if not ENGINE:
        row.write_text(json.dumps(tried(name, 1 << 40, seconds=seconds, out=out).row()))
        return
    target, found, rng = TARGETS[name], Found(name, out), random.Random(name)
    folder = pathlib.Path(tempfile.mkdtemp(prefix="fuzz-"))
    target.prepare(folder)
    seeds = target.seeds()
    corpus = out / "corpus" / row.stem
    corpus.mkdir(parents=True, exist_ok=True)
    for i, seed in enumerate(seeds):
        (corpus / f"seed{i}").write_bytes(seed)
    written = time.monotonic()

    def one(data: bytes) -> None:
        nonlocal written
        what = outcome(target, folder, data)
        known = len(found.found)
        found.add(what, data)
        if len(found.found) > known or time.monotonic() > written + 1:
            written = time.monotonic()
            row.write_text(json.dumps(found.row()))

    def mutate(data: bytes, longest: int, seed: int) -> bytes:
        rng.seed(seed)
        return mutated(target.kind, data, seeds, rng) if rng.random() < 0.5 else atheris.Mutate(data, longest)

    options = [
        f"-max_total_time={seconds}",
        f"-artifact_prefix={out}/",
        "-max_len=300000",
        "-rss_limit_mb=0",
        "-timeout=0",
        "-print_final_stats=0",
    ]
    atheris.Setup([sys.argv[0], *options, str(corpus)], one, custom_mutator=mutate)
    atheris.Fuzz()  # ends the process


def _row(name: str, seconds: int, out: pathlib.Path) -> dict[str, Any]:
    """Try one target in a process of its own."""
    command = [sys.executable, __file__, "--child", name, f"--seconds={seconds}", f"--out={out}"]
    path, log = out / f"{_file(name)}.json", out / f"{_file(name)}.log"
    path.unlink(missing_ok=True)
    with log.open("w") as said:
        try:
            environment = os.environ | {"JAX_PLATFORMS": "cpu"}
            status = subprocess.run(
                command, env=environment, stdout=said, stderr=said, timeout=seconds + 300
            ).returncode
        except subprocess.TimeoutExpired:
            status = "none: it did not end"
    row = json.loads(path.read_text()) if path.exists() else {"target": name, "inputs": 0, "found": {}}
    if status:
        row["found"][f"the process ended with status {status}, see {log}"] = 1
    return row


def main() -> None:
    from jobs import on_disk

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    parser.add_argument("--seconds", type=int, default=600, help="for all targets together")
    parser.add_argument("--out", type=on_disk, default=pathlib.Path("runs/fuzz"))
    parser.add_argument("--child", metavar="TARGET", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        _child(options.child, options.seconds, options.out)
        return
    options.out.mkdir(parents=True, exist_ok=True)
    names, rows = options.targets or list(TARGETS), []
    for name in names:
        row = _row(name, max(options.seconds // len(names), 1), options.out)
        rows.append(row)
        print(f"{name}: {row['inputs']} inputs, {len(row['found'])} kinds of things found", flush=True)
        for what, times in row["found"].items():
            print(f"    {times} x {what}", flush=True)
    table = tabulate([row | {"found": len(row["found"])} for row in rows], headers="keys", tablefmt="github")
    print(table)
    (options.out / "table.md").write_text(table + "\n")
    engine = "atheris" if ENGINE else "random mutations"
    (options.out / "results.json").write_text(json.dumps({"engine": engine, "targets": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
