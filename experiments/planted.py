"""Images that do not belong: does the exemplar ranking find what was planted into an unlabelled folder?

    python experiments/planted.py [--out=runs/planted] [--seeds=3] [--config.FIELD=VALUE ...]

The folder holds scikit-learn's 1,797 digits as PNG files, of which 2 % are replaced, half by noise and half by crops of
scikit-learn's two photographs, made grey and as small as the digits. SimCLR and SDCLR are trained on it; the seed
chooses what is replaced, and all that is random in training. Every image is then ranked by what pruning does to it
and by two simple rivals, the loss and the distance to its nearest neighbours: all of them columns of `sdclr exemplars`.
The folder gets `table.md` and `table.csv`, a row for each run, score and kind of planted image. Started again, it
trains nothing twice.
"""

import argparse
import csv
import functools
import json
import pathlib
import statistics
import time

import jobs
import numpy as np
import pyarrow.parquet
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images
from sklearn.metrics import average_precision_score
from tabulate import tabulate

from sdclr_jax.api.exemplars import NEAREST

METHODS = ("simclr", "sdclr")
SHARE, SIDE, RATE = 0.02, 8, 0.9
KINDS = {"all": ("noise", "photo"), "noise": ("noise",), "photographs": ("photo",)}
FIELDS = (
    "--config.data.workers=0",
    "--config.model.name=resnet8",
    "--config.model.stem=cifar",
    "--config.model.width=16",
    "--config.projector.hidden=128",
    "--config.projector.out=64",
    f"--config.prune.rate={RATE}",
    "--config.epochs=60",
    "--config.batch_size=64",
    "--config.optimizer.learning_rate=0.1",
    "--config.optimizer.warmup_epochs=5",
    "--config.checkpoint_every=60",
    f"--config.views.size={SIDE}",
    "--config.views.crop_scale=(0.4, 1.0)",
    "--config.views.flip=0.0",
    "--config.views.blur_probability=0.0",
    f"--config.evaluate.resize={SIDE}",
    f"--config.evaluate.crop={SIDE}",
)
NOTE = """\
Average precision, in per cent, of finding {planted} planted images among {images} by each ranking, at the last
checkpoint; mean ± sample standard deviation over {seeds} seeds. `noise` and `photographs` leave the other kind
out of the ranking. `change of features` and `of projections` are 1 - cosine between the whole network and the
network with {rate:.0%} of its weights pruned (`sdclr exemplars`), `rise of the loss` is how much that raises an
image's NT-Xent. `sparse branch` holds the dense branch against the sparse one as it was trained. The loss is
that of the whole network; the distance is the mean of 1 - cosine from its features to the {neighbours} nearest
images. Chance is the average precision of random rankings: its mean over the {seeds} seeds, and the central 95 %
of that mean."""
SCORES = {  # how `sdclr exemplars` prunes -> its columns -> words
    "sparse": {
        f"features_{RATE:g}": "sparse branch: change of features",
        f"projections_{RATE:g}": "sparse branch: change of projections",
    },
    "recalibrated": {
        f"features_{RATE:g}": "pruning: change of features",
        f"projections_{RATE:g}": "pruning: change of projections",
        f"loss_rise_{RATE:g}": "pruning: rise of the loss",
        "loss": "rival: loss",
        "neighbour_distance": "rival: distance to neighbours",
    },
}
Ranking = dict[str, float]  # id of an image -> score, the higher the likelier planted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=jobs.on_disk, default=pathlib.Path("runs/planted"))
    parser.add_argument("--seeds", type=jobs.at_least_one, default=3)
    options, fields = parser.parse_known_args()
    began, out = time.perf_counter(), options.out.absolute()
    folders = [plant(out / f"images-{seed}", seed) for seed in range(options.seeds)]
    runs = train(folders, out, (*FIELDS, *fields))
    rankings = {path: {} for path in runs}
    for path, (method, _) in runs.items():
        for against in SCORES if method == "sdclr" else ("recalibrated",):
            jobs.sdclr("exemplars", path, f"--rates={RATE}", f"--against={against}", "--gallery=200")
            rankings[path] |= ranked(path, against)
    rows = [row for path, scores in rankings.items() for row in precisions(scores, *runs[path])]
    command = " ".join(["python experiments/planted.py", f"--seeds={options.seeds}", *fields])
    write(rows, out, trained(command, next(iter(runs))), options.seeds)
    print(f"{jobs.minutes_since(began)}. Wrote {out / 'table.md'}")


def train(
    folders: list[pathlib.Path], out: pathlib.Path, fields: tuple[str, ...]
) -> dict[pathlib.Path, tuple[str, int]]:
    """Runs of both methods on the folder of each seed -> method and seed."""
    for folder in folders:
        jobs.sdclr("prepare", f"folder:{folder}")
    runs = [(method, seed) for seed in range(len(folders)) for method in METHODS]
    directories = jobs.run(
        [
            jobs.Job(
                f"{method}-{seed}",
                f"folder.py:{method}",
                (f"--config.data.name=folder:{folders[seed]}", f"--config.seed={seed}", *fields),
                labels=False,
            )
            for method, seed in runs
        ],
        out,
    )
    return dict(zip(directories, runs, strict=True))


def trained(command: str, directory: pathlib.Path) -> str:
    """The sentence on what made a table, by one of its runs."""
    config = json.loads((directory / "config.json").read_text())
    versions = json.loads((directory / "versions.json").read_text())
    made = f"`{command}`: {config['epochs']} epochs, trained at commit {versions['commit'][:7]}"
    return f"{made}, jax {versions['jax']}, {versions['hardware']}."


def plant(folder: pathlib.Path, seed: int) -> pathlib.Path:
    """Write the digits to a flat folder, some of them replaced; an image's name says what it is."""
    if folder.exists():
        return folder
    rng = np.random.default_rng(seed)
    digits = (load_digits().images * (255 / 16)).round().astype(np.uint8)
    replaced = rng.permutation(len(digits))[: 2 * round(SHARE * len(digits) / 2)]
    kinds = np.full(len(digits), "digit", object)
    kinds[replaced[::2]], kinds[replaced[1::2]] = "noise", "photo"
    photographs = [Image.fromarray(photo).convert("L") for photo in load_sample_images().images]
    part = folder.with_name(f".{folder.name}.part")
    part.mkdir(parents=True, exist_ok=True)
    for i, (image, kind) in enumerate(zip(digits, kinds, strict=True)):
        if kind == "noise":
            image = rng.integers(0, 256, (SIDE, SIDE), np.uint8)
        elif kind == "photo":
            image = crop(rng, photographs)
        Image.fromarray(image).save(part / f"{i:04}_{kind}.png")
    part.rename(folder)
    return folder


def crop(rng: np.random.Generator, photographs: list[Image.Image]) -> np.ndarray:
    """A square somewhere in a photograph, of a tenth of its height to all of it."""
    photo = photographs[rng.integers(len(photographs))]
    side = int(rng.uniform(0.1, 1) * photo.height)
    left, top = rng.integers(photo.width - side + 1), rng.integers(photo.height - side + 1)
    return np.asarray(photo.resize((SIDE, SIDE), box=(left, top, left + side, top + side)))


def ranked(directory: pathlib.Path, against: str) -> dict[str, Ranking]:
    """What `sdclr exemplars` wrote, by the words for it."""
    table = pyarrow.parquet.read_table(directory / "exemplars" / "exemplars.parquet").to_pydict()
    return {words: dict(zip(table["id"], table[name], strict=True)) for name, words in SCORES[against].items()}


def precisions(rankings: dict[str, Ranking], method: str, seed: int) -> list[dict]:
    """Average precision of each ranking of a run, by kind of planted image, beside that of chance."""
    rows = []
    for wanted, planted in KINDS.items():
        for words, scores in rankings.items():
            kinds = {image: image.rpartition("_")[2].removesuffix(".png") for image in scores}
            ranked = [image for image, kind in kinds.items() if kind in ("digit", *planted)]
            positive = np.array([kinds[image] != "digit" for image in ranked])
            found = average_precision_score(positive, [scores[image] for image in ranked])
            rows.append(
                {
                    "method": method,
                    "seed": seed,
                    "planted": wanted,
                    "ranking": words,
                    "average_precision": float(found),
                    "images": len(positive),
                    "planted_images": int(positive.sum()),
                    **chance_of((len(positive), int(positive.sum()))),
                }
            )
    return rows


@functools.cache
def chance_of(*seeds: tuple[int, int], rankings: int = 10_000) -> dict[str, float]:
    """Average precision of random rankings, mean over the seeds, each with its number of images and how many of them
    are to be found: its mean, and the ends of its central 95 %."""
    rng, found = np.random.default_rng(0), np.zeros(rankings)
    for images, planted in seeds:
        for i in range(rankings):
            places = 1 + np.sort(rng.choice(images, planted, replace=False))
            found[i] += np.mean(np.arange(1, planted + 1) / places) / len(seeds)
    low, high = np.quantile(found, (0.025, 0.975))
    return {"chance": float(np.mean(found)), "chance_low": float(low), "chance_high": float(high)}


def cell(rows: list[dict], **wanted) -> str:
    """Average precision of the rows that have these values, in per cent: mean ± sample standard deviation."""
    found = [100 * row["average_precision"] for row in rows if wanted.items() <= row.items()]
    return f"{statistics.mean(found):.1f}" + (f" ± {statistics.stdev(found):.1f}" if len(found) > 1 else "")


def chance_cell(rows: list[dict], counted: str, **wanted) -> str:
    """Chance for the mean over the seeds of the rows that have these values; `counted` names the column of how many
    images are to be found."""
    found = {row["seed"]: (row["images"], row[counted]) for row in rows if wanted.items() <= row.items()}
    return "{:.1f} [{:.1f}, {:.1f}]".format(*(100 * share for share in chance_of(*found.values()).values()))


def write_rows(rows: list[dict], path: pathlib.Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: f"{v:.4f}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)


def write(rows: list[dict], out: pathlib.Path, trained: str, seeds: int) -> None:
    write_rows(rows, out / "table.csv")
    table = [
        {"run of": method, "ranking": words}
        | {kind: cell(rows, method=method, ranking=words, planted=kind) for kind in KINDS}
        for method, words in sorted({(row["method"], row["ranking"]) for row in rows})
    ]
    table.append({"ranking": "chance"} | {kind: chance_cell(rows, "planted_images", planted=kind) for kind in KINDS})
    whole = next(row for row in rows if row["planted"] == "all")
    note = NOTE.format(
        planted=whole["planted_images"], images=whole["images"], seeds=seeds, rate=RATE, neighbours=NEAREST
    )
    (out / "table.md").write_text(f"{note}\n\n{tabulate(table, headers='keys', tablefmt='github')}\n\n{trained}\n")


if __name__ == "__main__":
    main()
