"""What a million images and ten thousand classes cost before the first step, and what of it grows with their number.

    python experiments/large_folders.py [--images=100000,1000000] [--classes=10000] [--out=runs/large_folders]

Makes folders of that many files, which are hard links to a few small images; each number of images has a process of its
own. Measures the index (files are not decoded: that takes as long for each as it takes), reading it again, the data set
as training has it, subsets, the order of an epoch, what a process that decodes has in memory for itself, and neighbours
and their vote among features of --dimensions. Writes `table.md`, and beside each time the load of the machine.
"""

import argparse
import contextlib
import json
import os
import pathlib
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import TypeVar

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import numpy as np
from PIL import Image
from tabulate import tabulate

from sdclr_jax import compiler

T = TypeVar("T")
LINKS = 20_000  # to one file; file systems allow 65,000 and fewer
QUERIES = 2_000  # images whose neighbours are looked for


def main() -> None:
    from jobs import on_disk

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", default="100000,1000000")
    parser.add_argument("--classes", type=int, default=10_000)
    parser.add_argument("--dimensions", type=int, default=128)
    parser.add_argument("--out", type=on_disk, default=pathlib.Path("runs/large_folders"))
    parser.add_argument("--parts", default="folder,features", help="what is measured, one of these or both")
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        found = {}
        if "folder" in options.parts:
            found |= of_folder(options.out, options.measure, options.classes)
        if "features" in options.parts:
            found |= of_features(options.measure, options.classes, options.dimensions)
        print(json.dumps(found | {"load of the machine at the end": os.getloadavg()[0]}))
        return
    found = {}
    for count in map(int, options.images.split(",")):
        make(options.out / str(count) / "images", count, options.classes)
        done = subprocess.run(
            [sys.executable, __file__, f"--measure={count}", f"--classes={options.classes}", f"--out={options.out}"]
            + [f"--dimensions={options.dimensions}", f"--parts={options.parts}"],
            stdout=subprocess.PIPE, text=True, check=True, timeout=3600,
        )  # fmt: skip
        found[f"{count:,} images"] = json.loads(done.stdout.splitlines()[-1])
        table = tabulate(rows(found), headers="keys", tablefmt="github")
        (options.out / "table.md").write_text(table + "\n")
    print(table)


def rows(found: dict[str, dict[str, float]]) -> list[dict[str, str]]:
    names = list(next(iter(found.values())))
    return [{"what": name} | {count: f"{each[name]:.3g}" for count, each in found.items()} for name in names]


def make(folder: pathlib.Path, count: int, classes: int) -> None:
    """Links `class/number.png`, evenly over the classes."""
    if folder.exists():
        return
    originals = folder.parent / "originals"
    originals.mkdir(parents=True)
    kept = max(5, -(-count // LINKS))
    for i in range(kept):
        Image.new("RGB", (8 + i % 5, 8), (i, 99, 50)).save(originals / f"{i}.png")
    for c in range(classes):
        directory = folder / f"class_{c:05}"
        directory.mkdir(parents=True)
        for number in range(c, count, classes):
            os.link(originals / f"{number % kept}.png", directory / f"image_{number:08}.png")


def of_folder(out: pathlib.Path, count: int, classes: int) -> dict[str, float]:
    """Seconds and MiB, by what takes them."""
    from sdclr_jax.data import batches, sources
    from sdclr_jax.data.crops import RandomCrops
    from sdclr_jax.data.sources import index
    from sdclr_jax.data.subsets import longtail
    from sdclr_jax.data.workers import Croppers, Task

    found: dict[str, float] = {}
    folder = out / str(count)
    look = index._look

    def looked_at(root: pathlib.Path, paths: list[str], gray_range: tuple[float, ...]) -> Iterator[tuple[str, dict]]:
        some = dict(look(root, [paths[0], paths[-1]], gray_range))  # of two sizes, so that images stay files
        return ((path, some[paths[-(i % 2)]]) for i, path in enumerate(paths))

    index._look = looked_at
    (index_json,) = [*folder.glob("data/folders/*/index.json")] or [None]
    if index_json:
        index_json.unlink()

    timed = partial(timed_into, found)

    def source() -> sources.Source:
        return sources.source(f"folder:{folder / 'images'}", folder / "data")

    timed("index, the first time, without decoding", lambda: source().prepare())
    found["index, MiB on the disk"] = sum(p.stat().st_size for p in folder.glob("data/folders/*/index.json")) / 2**20
    train = timed("data set with its index, and who trains", lambda: source().load("train"))
    assert len(train.class_names) == classes
    # Every image trains, as photos do.
    settings = {"n_max": 1, "imbalance": 1.0, "validation_per_class": 1, "few_shot_per_class": 1, "seed": 0}
    subsets = timed(
        "subsets",
        lambda: longtail.draw(train.labels, num_classes=classes, profile="as_is", **settings),
    )
    timed("hash of the list", lambda: longtail.list_hash(train.ids[subsets.long_tail]))
    timed("order of an epoch", lambda: batches._order(len(train.ids), 0, 0))
    found["this process until here, MiB at most"] = peak()
    crops = [RandomCrops(count=1, size=8, scale=(0.5, 1.0), ratio=(1.0, 1.0), seed=0)]

    def start() -> None:
        with Croppers(train.images, crops, largest=64, workers=2) as croppers:
            rows = np.random.default_rng(0).choice(len(train.ids), 64)
            for made, unreadable in croppers.crops([Task(0, rows, np.arange(64))]):
                assert len(made[0]) == 64 and not unreadable
            own = [own_memory(worker._process.pid) for worker in croppers._workers]
        found["a process that decodes, MiB of its own"] = max(own)

    timed("two processes that decode, until their first batch", start)

    return found


def of_features(count: int, classes: int, dimensions: int) -> dict[str, float]:
    """As `of_folder`, of k-NN and neighbours."""
    compiler.set_flags()  # before JAX is imported
    from sdclr_jax.evaluation import knn
    from sdclr_jax.evaluation.neighbours import nearest

    found: dict[str, float] = {}
    features = np.random.default_rng(0).normal(size=(count, dimensions)).astype(np.float32)
    labels = np.arange(count) % classes
    few = features[:QUERIES]
    nearest(features[:QUERIES], few, 1)  # JAX itself takes memory, too
    with rising(found, "MiB at most for k-NN beside the features"):
        timed_into(
            found,
            f"k-NN of {QUERIES:,} images, k 200",
            lambda: knn.predict(features, labels, few, num_classes=classes, k=200),
        )
    with rising(found, "MiB at most for neighbours beside the features"):
        timed_into(found, f"ten neighbours of {QUERIES:,} images", lambda: nearest(features, few, 10))
    return found


def timed_into(found: dict[str, float], name: str, work: Callable[[], T]) -> T:
    before = time.perf_counter()
    made = work()
    found[f"{name}, s"] = time.perf_counter() - before
    return made


@contextlib.contextmanager
def rising(found: dict[str, float], name: str) -> Iterator[None]:
    """How far the memory of this process rises inside."""
    before, highest, ended = resident(), resident(), threading.Event()

    def watch() -> None:
        nonlocal highest
        while not ended.wait(0.02):
            highest = max(highest, resident())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
    found[name] = highest - before


def resident() -> float:
    """MiB that this process has now."""
    return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def peak() -> float:
    """MiB that this process has had at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def own_memory(process: int) -> float:
    """MiB that a process shares with no other."""
    lines = pathlib.Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 2**10


if __name__ == "__main__":
    main()
