"""Images with a wrong label: which column of `sdclr exemplars` finds them in a long-tailed folder?

    python experiments/mislabelled.py [--out=runs/mislabelled] [--seeds=3] [--config.FIELD=VALUE ...]

The folder holds scikit-learn's digits as PNG files, one directory a class: 140 training images of the most frequent
class down to 7 of the rarest. One in twenty lies in the directory of another class; the seed chooses which, what the
order of the classes is, and all that is random in training, which never sees a label. Every image is then ranked by
each column. The folder gets `table.md` and `table.csv`. Started again, it trains nothing twice.
"""

import argparse
import pathlib
import time
from collections import Counter

import jobs
import numpy as np
import planted
import pyarrow.parquet
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.metrics import average_precision_score
from tabulate import tabulate

SHARE, MOST, IMBALANCE, TEST = 0.05, 140, 20, 20
COLUMNS = {
    "label_disagreement": "neighbours with another label",
    "neighbour_distance": "distance to neighbours",
    "loss": "loss",
    f"features_{planted.RATE:g}": "pruning: change of features",
}
FIELDS = (
    *planted.FIELDS,
    "--config.data.validation_per_class=1",
    "--config.data.few_shot_per_class=1",
    "--config.epochs=200",
    "--config.checkpoint_every=200",
)
AMONG = ("all", "rare")
NOTE = """\
Average precision, in per cent, of finding the images that lie in the directory of another class, one in twenty of
the {images} ranked, and among those of the five rarest directories alone, by each column of `exemplars.csv`; mean ±
sample standard deviation over {seeds} seeds. Chance is the average precision of random
rankings: its mean over the {seeds} seeds, and the central 95 % of that mean."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=jobs.on_disk, default=pathlib.Path("runs/mislabelled"))
    parser.add_argument("--seeds", type=jobs.at_least_one, default=3)
    options, fields = parser.parse_known_args()
    began, out = time.perf_counter(), options.out.absolute()
    folders = [plant(out / f"images-{seed}", seed) for seed in range(options.seeds)]
    runs = planted.train(folders, out, (*FIELDS, *fields))
    rows = []
    for path, (method, seed) in runs.items():
        jobs.sdclr("exemplars", path, f"--rates={planted.RATE}", "--noprogress")
        rows += precisions(path, method, seed)
    command = " ".join(["python experiments/mislabelled.py", f"--seeds={options.seeds}", *fields])
    write(rows, out, planted.trained(command, next(iter(runs))), options.seeds)
    print(f"{jobs.minutes_since(began)}. Wrote {out / 'table.md'}")


def plant(folder: pathlib.Path, seed: int) -> pathlib.Path:
    """Write the digits to `train` and `test` of a folder, a directory a class; an image's name says what it shows."""
    if folder.exists():
        return folder
    rng = np.random.default_rng(seed)
    digits = load_digits()
    images = (digits.images * (255 / 16)).round().astype(np.uint8)
    counts = np.round(MOST * IMBALANCE ** -(np.arange(10) / 9)).astype(int)
    train = []  # (row, class)
    part = folder.with_name(f".{folder.name}.part")
    for count, label in zip(counts, rng.permutation(10), strict=True):
        rows = rng.permutation(np.flatnonzero(digits.target == label))
        train += [(row, label) for row in rows[:count]]
        for row in rows[count : count + TEST]:
            save(images[row], part / "test" / str(label) / f"{row:04}.png")
    wrong = set(rng.permutation(len(train))[: round(SHARE * len(train))].tolist())
    for i, (row, label) in enumerate(train):
        place = rng.choice([other for other in range(10) if other != label]) if i in wrong else label
        save(images[row], part / "train" / str(place) / f"{row:04}_{label}.png")
    part.rename(folder)
    return folder


def save(image: np.ndarray, path: pathlib.Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


def precisions(directory: pathlib.Path, method: str, seed: int) -> list[dict]:
    """Average precision of each column, over all images and over those of the rarer directories, beside chance."""
    table = pyarrow.parquet.read_table(directory / "exemplars" / "exemplars.parquet").to_pydict()
    wrong = np.array([pathlib.Path(p).stem.rpartition("_")[2] != pathlib.Path(p).parent.name for p in table["path"]])
    rarest = [label for label, _ in Counter(table["class"]).most_common()[-5:]]
    rows = []
    for among, kept in zip(AMONG, (np.full(len(wrong), True), np.isin(table["class"], rarest)), strict=True):
        found, images = int(wrong[kept].sum()), int(kept.sum())
        for column, words in COLUMNS.items():
            precision = float(average_precision_score(wrong[kept], np.array(table[column])[kept]))
            row = {"method": method, "seed": seed, "among": among, "ranking": words, "average_precision": precision}
            rows.append(row | {"images": images, "wrong": found} | planted.chance_of((images, found)))
    return rows


def write(rows: list[dict], out: pathlib.Path, trained: str, seeds: int) -> None:
    planted.write_rows(rows, out / "table.csv")
    table = [
        {"run of": method, "ranking": words}
        | {f"among {among}": planted.cell(rows, method=method, ranking=words, among=among) for among in AMONG}
        for method in planted.METHODS
        for words in COLUMNS.values()
    ]
    chance = {f"among {among}": planted.chance_cell(rows, "wrong", among=among) for among in AMONG}
    table.append({"ranking": "chance"} | chance)
    note = NOTE.format(images=rows[0]["images"], seeds=seeds)
    (out / "table.md").write_text(f"{note}\n\n{tabulate(table, headers='keys', tablefmt='github')}\n\n{trained}\n")


if __name__ == "__main__":
    main()
