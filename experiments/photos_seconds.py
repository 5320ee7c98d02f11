"""CPU seconds that `sdclr photos` takes to read a photograph: to check, decode and shrink it.

    python experiments/photos_seconds.py [--out=runs/photos_seconds] [--megapixels=12]

Photographs are drawn: colours that vary at all scales, and the grain of a sensor, as JPEG of quality 92. Of fewer than
20 different pictures nothing is learned. What 120 files of 6 pictures take beside 6 is the reading alone: of a folder
that was not seen before, and by the same command again. The folder gets `table.md`.
"""

import argparse
import os
import pathlib
import resource
import shutil

import jobs
import numpy as np
from PIL import Image
from tabulate import tabulate

FEW, MANY = 6, 120  # files; so many different pictures, and all files


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=jobs.on_disk, default=pathlib.Path("runs/photos_seconds"))
    parser.add_argument("--megapixels", type=float, default=12)
    options = parser.parse_args()
    taken = {}
    for count in (FEW, MANY):
        folder, found, data = (options.out / f"{name}-{count}" for name in ("images", "found", "data"))
        for left in (folder, found, data):
            shutil.rmtree(left, ignore_errors=True)
        size = make(folder, count, options.megapixels)
        for time in ("first", "again"):
            before = cpu_seconds()
            jobs.sdclr("photos", folder, f"--out={found}", f"--data_dir={data}")
            taken[count, time] = cpu_seconds() - before
    each = {time: (taken[MANY, time] - taken[FEW, time]) / (MANY - FEW) for time in ("first", "again")}
    rows = [[time, f"{seconds:.3f}"] for time, seconds in each.items()]
    table = tabulate(rows, ["the same command", "CPU seconds a photograph"], tablefmt="github", disable_numparse=True)
    text = f"{table}\n\n{options.megapixels:g} megapixels, JPEG of {size / 2**20:.1f} MiB.\n"
    (options.out / "table.md").write_text(text)
    print(text)


def make(folder: pathlib.Path, count: int, megapixels: float) -> float:
    """Write `count` files of `FEW` pictures; returns the mean of their bytes."""
    folder.mkdir(parents=True)
    height = round((megapixels * 1e6 * 3 / 4) ** 0.5)
    for i in range(count):
        path = folder / f"{i:03}.jpg"
        if i < FEW:
            photograph((height * 4 // 3, height), np.random.default_rng(i)).save(path, quality=92)
        else:
            os.link(folder / f"{i % FEW:03}.jpg", path)
    return sum(path.stat().st_size for path in folder.iterdir()) / count


def photograph(size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    pixels = np.full((size[1], size[0], 3), 128, np.float32)
    for side in (4, 16, 64, 256, 1024):
        cells = Image.fromarray(rng.integers(0, 256, (side * 3 // 4, side, 3), dtype=np.uint8))
        pixels += (np.asarray(cells.resize(size, Image.Resampling.BICUBIC), np.float32) - 128) / side**0.5
    pixels += 3 * rng.standard_normal(pixels.shape, dtype=np.float32)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def cpu_seconds() -> float:
    """Of the programs that have ended, and of those that they started."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
