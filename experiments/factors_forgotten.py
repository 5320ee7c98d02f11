"""Of which classes are the images that pruning makes SimCLR forget? The runs of experiments/factors.py, by class.

    python experiments/factors_forgotten.py photos --config.data.lists=FOLDER    # the lists that factors.py --run had

A record names the images, and the data set says of which class they are. A line for each block and class goes to
experiments/results/factors/SCALE_forgotten.csv, the frequent classes first, and `factors.py SCALE --analyse` shows the
shares of the rarer ones. Added when 68 of 118 runs on photographs had ended: it explores, and tests nothing.
"""

import argparse
import csv
import sys
from collections import Counter
from typing import Any

import factors
from factors_design import SCALES, fields, runs

import sdclr_jax
from sdclr_jax import recipes
from sdclr_jax.errors import UserError


def by_class(scale: str, row: dict[str, Any], given: dict[str, str]) -> list[dict[str, int]]:
    """A line for each class of a block, from the record of its SimCLR.

    Raises:
        UserError: the images at hand are not those that it was trained on.
    """
    run = next(run for run in runs(scale) if run.key == (row["block"], row["arm"]))
    method, settings = fields(SCALES[scale], run.block, run.arm)
    config = sdclr_jax.config(f"{SCALES[scale].config}:{method}", settings | given)
    data = recipes.data(config, None)
    if (here := data.about(config.data.subset).sha256) != row["images"]:
        raise UserError(
            f"block {run.block} was trained on the images of another list (SHA-256 {row['images'][:12]}…, here "
            f"{here[:12]}…): give the --config.data.lists that factors.py --run had"
        )
    part = data.part(config.data.subset)
    label_of = dict(zip(part.ids.tolist(), part.labels.tolist(), strict=True))
    images, taken = Counter(label_of.values()), Counter(label_of[name] for name in row["forgotten"])
    return [
        {"block": run.block, "label": label, "images": count, "forgotten": taken[label]}
        for label, count in images.most_common()
    ]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scale", choices=SCALES)
    parser.add_argument("--config.data.lists", dest="lists", help="folder of the authors' lists")
    options = parser.parse_args(argv)
    given = {"data.lists": options.lists} if options.lists else {}
    records = factors.read(factors.RESULTS / f"{options.scale}.jsonl")
    try:
        lines = [line for row in records if row.get("forgotten") for line in by_class(options.scale, row, given)]
    except UserError as error:
        sys.exit(f"factors_forgotten.py: {error}")
    path = factors.RESULTS / f"{options.scale}_forgotten.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ("block", "label", "images", "forgotten"), lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
    print(f"{path}: {len(lines)} lines")


if __name__ == "__main__":
    main()
