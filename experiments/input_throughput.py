"""How fast images become views: on the device from a resident set, and decoded from files as they are needed.

    python experiments/input_throughput.py [--out=FILE.json] [--timed=512] [--rounds=5] [--workers=0,1,2]

Files are JPEGs of 500 x 375 pixels and about 100 kB, made on the spot; each image is decoded and gives two random
resized crops of 224 x 224. The yardstick is a plain loop over Pillow in one process. Beside our stream stand grain and
PyTorch's DataLoader with the same Pillow calls, where they are installed. All run in turns, several rounds of them,
each started again and warmed up; the table gives the median and its ratio to the loop. Last, the memory of the
process and its workers over ten epochs of streaming.
"""

import argparse
import contextlib
import importlib.util
import itertools
import json
import math
import os
import pathlib
import random
import statistics
import sys
import tempfile
import time

import numpy as np
from PIL import Image
from tabulate import tabulate

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

# JAX is imported where it is used: the workers of the other loaders import this file, too.
from sdclr_jax.data.crops import RandomCrops
from sdclr_jax.data.images import Files

SIZE, SCALE, RATIO = 224, (0.08, 1.0), (3 / 4, 4 / 3)
BATCH = 64


def make_photos(folder: pathlib.Path, count: int) -> list[str]:
    """JPEG files of smooth colours and grain; returns their paths."""
    rng = np.random.default_rng(0)
    paths = []
    for i in range(count):
        layers = [
            np.asarray(Image.fromarray(rng.integers(0, 256, (n * 3 // 4, n, 3), np.uint8)).resize((500, 375), 3), float)
            for n in (4, 16, 64)
        ]
        picture = layers[0] * 0.5 + layers[1] * 0.3 + layers[2] * 0.2 + rng.normal(0, 18, (375, 500, 3))
        paths.append(str(folder / f"{i:04}.jpg"))
        Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(paths[-1], quality=90)
    return paths


def two_crops(path: str) -> np.ndarray:
    """What every other loader does with a file: uint8 [2, 224, 224, 3]."""
    with Image.open(path) as image:
        image = image.convert("RGB")
    return np.stack([np.asarray(random_resized_crop(image)) for _ in range(2)])


def random_resized_crop(image: Image.Image) -> Image.Image:
    """torchvision's rule, on its own random numbers."""
    width, height = image.size
    for _ in range(10):
        area = width * height * random.uniform(*SCALE)
        aspect = math.exp(random.uniform(*map(math.log, RATIO)))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, top = random.randint(0, width - w), random.randint(0, height - h)
            break
    else:
        left, top, w, h = 0, 0, width, height
    return image.crop((left, top, left + w, top + h)).resize((SIZE, SIZE), Image.Resampling.BICUBIC)


class Photos:
    """A data set as PyTorch and grain want it."""

    def __init__(self, paths: list[str]):
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> np.ndarray:
        return two_crops(self.paths[row])


# Each loader: (paths, workers) -> a context manager of an endless iterator of batches of 64 images.


@contextlib.contextmanager
def pillow_loop(paths, workers):
    rows = itertools.cycle(paths)
    yield (np.stack([two_crops(path) for path in itertools.islice(rows, BATCH)]) for _ in itertools.count())


@contextlib.contextmanager
def ours(paths, workers):
    import jax

    from sdclr_jax import parallel
    from sdclr_jax.data.batches import Streamed

    crops = [RandomCrops(count=2, size=SIZE, scale=SCALE, ratio=RATIO, seed=0)]
    shardings = parallel.shardings(jax.devices()[:1])
    stream = Streamed(Files("/", np.array(paths)), BATCH, 0, shardings, crops=crops, workers=workers, prefetch=2)
    with contextlib.closing(stream.from_step(0)) as batches:
        yield map(jax.block_until_ready, batches)


@contextlib.contextmanager
def grain_dataset(paths, workers):
    import grain
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # its workers ask for flags
    data = grain.MapDataset.source(Photos(paths)).seed(0).shuffle().repeat(None).batch(BATCH)
    data = data.to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0))
    if workers:
        data = data.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers))
    batches = iter(data)
    try:
        yield batches
    finally:
        if hasattr(batches, "close"):
            batches.close()


@contextlib.contextmanager
def torch_loader(paths, workers):
    import torch

    class Endless(torch.utils.data.Sampler):
        def __iter__(self):
            return (row for _ in itertools.count() for row in torch.randperm(len(paths)).tolist())

    sampler = Endless()
    more = {"multiprocessing_context": "forkserver", "prefetch_factor": 2} if workers else {}
    loader = torch.utils.data.DataLoader(Photos(paths), BATCH, sampler=sampler, num_workers=workers, **more)
    batches = iter(loader)
    try:
        yield batches
    finally:
        if workers:
            batches._shutdown_workers()


def images_per_second(loader, paths: list[str], workers: int, count: int) -> float:
    with loader(paths, workers) as batches:
        for _ in range(4):  # past what was made while nobody waited
            next(batches)
        before = time.perf_counter()
        for _ in range(-(-count // BATCH)):
            next(batches)
        return -(-count // BATCH) * BATCH / (time.perf_counter() - before)


def streaming(paths: list[str], workers: list[int], rounds: int, timed: int) -> list[dict]:
    """Images a second of every loader that is installed; rounds in turns, `timed` images each."""
    loaders = {("Pillow loop", 0): pillow_loop} | {("sdclr_jax", n): ours for n in workers}
    rows = []
    for name, package, loader in (("grain", "grain", grain_dataset), ("PyTorch DataLoader", "torch", torch_loader)):
        if importlib.util.find_spec(package):
            loaders |= {(name, n): loader for n in workers}
        else:
            rows.append({"loader": name, "images_per_second": None, "note": "not installed"})
    rates = {key: [] for key in loaders}
    for _ in range(rounds):
        for (name, n), loader in loaders.items():
            rates[name, n].append(images_per_second(loader, paths, n, timed))
    loop = statistics.median(rates["Pillow loop", 0])
    measured = [
        {
            "loader": name,
            "workers": n,
            "images_per_second": statistics.median(rate),
            "lowest": min(rate),
            "highest": max(rate),
            "to_pillow_loop": statistics.median(rate) / loop,
        }
        for (name, n), rate in rates.items()
    ]
    return measured + rows


def resident(rounds: int) -> dict:
    """Views a second of 32 x 32 images that lie on the device, batch 512, SimCLR's augmentation."""
    import jax

    from sdclr_jax.data import augment

    view = jax.jit(lambda key, images: augment.simclr_view(key, images, size=32))
    images = jax.device_put(np.random.default_rng(0).integers(0, 256, (512, 32, 32, 3), np.uint8))
    jax.block_until_ready(view(jax.random.key(0), images))
    rates = []
    for step in range(rounds):
        before = time.perf_counter()
        for i in range(4):
            jax.block_until_ready(view(jax.random.key(4 * step + i), images))
        rates.append(4 * 512 / (time.perf_counter() - before))
    return {"views_per_second": statistics.median(rates), "lowest": min(rates), "highest": max(rates)}


def memory(paths: list[str], workers: int, epochs: int = 10) -> dict:
    """Megabytes of this process and its workers after each epoch of streaming."""
    ours_mb, workers_mb = [], []
    with ours(paths, workers) as batches:
        for _ in range(epochs):
            for _ in range(len(paths) // BATCH):
                next(batches)
            ours_mb.append(megabytes(os.getpid()))
            children = pathlib.Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
            workers_mb.append(sum(megabytes(int(pid)) for pid in children))
    return {"process_mb": ours_mb, "workers_mb": workers_mb}


def megabytes(pid: int) -> float:
    """Resident set size."""
    pages = int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def main() -> None:
    from jobs import on_disk

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=on_disk, default=pathlib.Path("input_throughput.json"))
    parser.add_argument("--timed", type=int, default=512, help="images of a loader and round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", default="0,1,2")
    options = parser.parse_args()
    workers = [int(n) for n in options.workers.split(",")]
    with tempfile.TemporaryDirectory() as folder:
        paths = make_photos(pathlib.Path(folder), 2 * BATCH)
        kilobytes = statistics.mean(os.path.getsize(path) for path in paths) / 1000
        result = {
            "streaming": streaming(paths, workers, options.rounds, options.timed),
            "memory": memory(paths, workers=max(workers)),
            "resident": resident(options.rounds),
            "file_kb": kilobytes,
            "settings": vars(options) | {"out": str(options.out), "batch": BATCH, "view": SIZE},
        }
    from sdclr_jax.run import versions

    result["versions"] = versions.current() | {"pillow": Image.__version__}
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(f"JPEG files of {kilobytes:.0f} kB, two crops of {SIZE} x {SIZE} each, batch {BATCH}")
    columns = ("loader", "workers", "images_per_second", "lowest", "highest", "to_pillow_loop", "note")
    table = [[row.get(column) for column in columns] for row in result["streaming"]]
    print(tabulate(table, columns, floatfmt=(None, None, ".0f", ".0f", ".0f", ".2f")))
    print("memory over ten epochs, MB:", {k: [round(x) for x in v] for k, v in result["memory"].items()})
    print(f"resident 32 x 32, batch 512: {result['resident']['views_per_second']:.0f} views a second")


if __name__ == "__main__":
    main()
