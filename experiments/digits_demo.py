"""SimCLR and SDCLR side by side on long-tailed digits, several seeds, then the report: `make demo`.

    python experiments/digits_demo.py [--out=runs/digits_demo] [--seeds=3] [--config.FIELD=VALUE ...]

Two runs at a time, one a core. Each seed draws its own class order, long tail and weights, the same ones for both
methods. Started again, it goes on where it stopped. Fields given are set in every run.
"""

import argparse
import pathlib
import time

import jobs

METHODS = ("simclr", "sdclr")
NOTE = """\
Both methods have the same encoder, the same three-layer head, the same images and the same number of steps; only the \
second branch differs. What this small run can show: that the whole chain works, from unlabelled long-tailed images to \
scores for frequent and rare classes, and roughly how much scores vary from seed to seed. What it cannot show: whether \
SDCLR is better than SimCLR. There are 369 training images of 8 x 8 pixels, about 45 test images a class, so that one \
test image is 2 points of its class; and the authors' gains are for ResNet-18 trained 2,000 epochs on 32 x 32 \
photographs. A difference within the spread is no difference."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/digits_demo"))
    parser.add_argument("--seeds", type=int, default=3)
    options, fields = parser.parse_known_args()
    began = time.perf_counter()
    directories = jobs.run(
        [
            jobs.Job(
                f"{method}-{seed}",
                f"digits_lt.py:{method}",
                (f"--config.seed={seed}", f"--config.data.seed={seed}", *fields),
            )
            for seed in range(options.seeds)
            for method in METHODS
        ],
        options.out,
    )
    page = options.out / "report.html"
    jobs.report(directories, page.absolute(), NOTE)
    print(f"{jobs.minutes_since(began)}. Open {page}")


if __name__ == "__main__":
    main()
