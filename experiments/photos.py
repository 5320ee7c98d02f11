"""What `sdclr photos` finds of what was planted into a folder of photographs, beside other programs.

    python experiments/photos.py IMAGES [--out=runs/photos] [--seeds=1,2] [--minutes=5] [--images=2000]

IMAGES has one directory a class. Of each seed a long-tailed choice is made from it, a fifth of each class lies in
`test`, and into it are planted: copies (1 % of the images: saved again, resized, cropped, mirrored; half of them in the
other split, a quarter under another label), foreign images (2 %: digits of scikit-learn and drawn textures) and wrong
labels (3 %). `sdclr photos` then looks at the folder, and sees nothing of what is planted. Its lists are compared with
those of cleanlab on the same features and of the pixel hashes of imagededup and cleanvision, where these are installed
(`pip install cleanlab imagededup cleanvision`), in the same run. The folder gets `table.md` and `table.csv`. Run it
again to resume.
"""

import argparse
import csv
import importlib.util
import json
import pathlib
import statistics
import sys
import time
from collections.abc import Iterator

import jobs
import numpy as np
import pyarrow.parquet
from PIL import Image, ImageOps
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tabulate import tabulate

IMBALANCE, TEST = 50, 0.2
COPIES, FOREIGN, WRONG = 0.01, 0.02, 0.03  # shares of the images


NOTE = """\
Per cent, mean over {seeds} planted folders of {images} images. A list is what a program reports with its own threshold;
`best n` is the precision among its first n, as many as are planted. Copies are scored by pairs, and only planted pairs
count as right. A foreign image has no right label, so it counts neither way among the wrong labels. `rare` and
`not learned` say how many of the list are of the rarer half of the classes, {rare:.0f} % of all images."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path, metavar="IMAGES")
    parser.add_argument("--out", type=jobs.on_disk, default=pathlib.Path("runs/photos"))
    parser.add_argument("--seeds", default="1,2", help="thresholds were chosen on seed 0")
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--images", type=int, default=2000)
    options, fields = parser.parse_known_args()
    out, rows = options.out.absolute(), []
    for seed in map(int, options.seeds.split(",")):
        folder, found = out / f"images-{seed}", out / f"found-{seed}"
        truth = plant(options.folder, folder, options.images, seed)
        if not (out / f"minutes-{seed}.txt").exists():
            began = time.perf_counter()
            jobs.sdclr("photos", folder, f"--out={found}", f"--minutes={options.minutes}", *fields)
            (out / f"minutes-{seed}.txt").write_text(f"{(time.perf_counter() - began) / 60:.1f}")
        rows += [{"seed": seed} | row for row in scores(folder, found, sorted(truth, key=lambda row: row["path"]))]
    with (out / "table.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    write(rows, out, options, fields)
    print(f"Wrote {out / 'table.md'}")


def scores(folder: pathlib.Path, found: pathlib.Path, truth: list[dict]) -> list[dict]:
    """A row for each list of each program."""
    ids = [row["path"] for row in truth]
    place = {image: i for i, image in enumerate(ids)}
    kind = np.array([row["kind"] for row in truth])
    foreign, wrong = kind == "foreign", kind == "wrong"
    wrong |= np.array([bool(row["of"]) and row["class"] != row["label"] for row in truth])
    table = pyarrow.parquet.read_table(found / "images.parquet").to_pydict()
    assert table["id"] == ids
    features = np.load(found / "features.npz")["features"]
    classes = sorted({row["label"] for row in truth})
    labels = np.array([classes.index(row["label"]) for row in truth])

    planted = {tuple(sorted((place[row["path"]], place[row["of"]]))): row["kind"] for row in truth if row["of"]}
    rows = []
    for program, pairs in copies(folder, found, place):
        of_kind = {kind: [pair in pairs for pair, k in planted.items() if k == kind] for kind in set(planted.values())}
        right = len(pairs & planted.keys())
        rows.append(
            row("copies", program, len(pairs), right, len(planted))
            | {"by_kind": json.dumps({kind: statistics.mean(hits) for kind, hits in sorted(of_kind.items())})}
        )
    whole = np.full(len(ids), True)
    for program, listed, score in outliers(table, features):
        rows.append(ranked("foreign", program, listed, score, foreign, whole))
    for program, listed, score in wrong_labels(table, features, labels):
        rows.append(ranked("wrong labels", program, listed, score, wrong, ~foreign))
    counts = {name: sum(row["class"] == name for row in truth) for name in classes}
    rarer = set(sorted(classes, key=counts.get)[: len(classes) // 2])
    rare = np.array([row["class"] in rarer for row in truth])
    for column, words in (("rare", "rare"), ("not_learned", "not learned")):
        listed = np.array(table[column])
        rows.append(row(words, "sdclr photos", int(listed.sum()), int(rare[listed].sum()), int(rare.sum())))
    share = float(rare[~foreign].mean())
    return [row | {"images": len(ids), "rarer_half": share} for row in rows]


def row(what: str, program: str, listed: int, right: int, planted: int) -> dict:
    return {
        "list": what,
        "program": program,
        "listed": listed,
        "precision": right / listed if listed else None,
        "recall": right / planted,
        "best_n": None,
        "by_kind": "",
    }


def ranked(
    what: str, program: str, listed: np.ndarray, score: np.ndarray, wanted: np.ndarray, among: np.ndarray
) -> dict:
    """The row of a list, bool [N], and of the ranking behind it, by descending score [N]."""
    first = np.flatnonzero(among)[np.argsort(-score[among], kind="stable")][: int(wanted.sum())]
    found = row(what, program, int((listed & among).sum()), int((listed & among & wanted).sum()), int(wanted.sum()))
    return found | {"best_n": float(wanted[first].mean())}


def installed(name: str) -> bool:
    if there := importlib.util.find_spec(name):
        return bool(there)
    print(f"{name} is not installed, and is left out", file=sys.stderr)
    return False


def copies(folder: pathlib.Path, found: pathlib.Path, place: dict[str, int]) -> Iterator[tuple[str, set]]:
    """(program, pairs of rows that it takes for copies)."""
    table = pyarrow.parquet.read_table(found / "duplicates.parquet").to_pydict()
    groups = {}
    for image, group in zip(table["id"], table["group"], strict=True):
        groups.setdefault(group, []).append(place[image])
    yield "sdclr photos", {pair for members in groups.values() for pair in pairs_of(members)}
    if installed("imagededup"):
        from imagededup.methods import DHash, PHash

        for method in (PHash, DHash):
            known = method(verbose=False).find_duplicates(image_dir=str(folder), recursive=True, num_enc_workers=0)
            pairs = {tuple(sorted((place[a], place[b]))) for a, others in known.items() for b in others}
            yield f"imagededup {method.__name__}", pairs
    if installed("cleanvision"):
        from cleanvision import Imagelab

        lab = Imagelab(data_path=str(folder), verbose=False)
        lab.find_issues({"exact_duplicates": {}, "near_duplicates": {}}, n_jobs=1, verbose=False)
        sets = lab.info["near_duplicates"]["sets"] + lab.info["exact_duplicates"]["sets"]
        members = [[place[str(pathlib.Path(path).relative_to(folder))] for path in found] for found in sets]
        yield "cleanvision", {pair for rows in members for pair in pairs_of(rows)}


def pairs_of(rows: list[int]) -> set[tuple[int, int]]:
    return {(a, b) for a in rows for b in rows if a < b}


def outliers(table: dict, features: np.ndarray) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """(program, listed, score)."""
    yield "sdclr photos", np.array(table["outlier"]), np.array(table["apart"])
    if installed("cleanlab"):
        from cleanlab import Datalab

        lab = Datalab({"row": np.arange(len(features))}, verbosity=0)
        lab.find_issues(features=features, issue_types={"outlier": {}})
        issues = lab.get_issues("outlier")
        yield "cleanlab", issues["is_outlier_issue"].to_numpy(), -issues["outlier_score"].to_numpy()


def wrong_labels(table: dict, features: np.ndarray, labels: np.ndarray) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """(program, listed, score)."""
    yield "sdclr photos", np.array(table["label_issue"]), -np.array(table["label_probability"])
    if installed("cleanlab"):
        from cleanlab.filter import find_label_issues
        from cleanlab.rank import get_label_quality_scores

        classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300))
        shares = cross_val_predict(classifier, features, labels, cv=5, method="predict_proba")
        listed = find_label_issues(labels, shares, n_jobs=1)
        yield "cleanlab", listed, -get_label_quality_scores(labels, shares)


def write(rows: list[dict], out: pathlib.Path, options: argparse.Namespace, fields: list[str]) -> None:
    def cell(found: list[dict], name: str) -> str:
        values = [row[name] for row in found if row[name] is not None]
        return f"{100 * statistics.mean(values):.0f}" if values else ""

    table = []
    for what, program in dict.fromkeys((row["list"], row["program"]) for row in rows):
        found = [row for row in rows if (row["list"], row["program"]) == (what, program)]
        by_kind = [json.loads(row["by_kind"]) for row in found if row["by_kind"]]
        kinds = {kind: statistics.mean(row[kind] for row in by_kind) for kind in (by_kind[0] if by_kind else {})}
        table.append(
            {
                "list": what,
                "program": program,
                "listed": f"{statistics.mean(row['listed'] for row in found):.0f}",
                "precision": cell(found, "precision"),
                "recall": cell(found, "recall"),
                "best n": cell(found, "best_n"),
                "recall by kind": ", ".join(f"{k.removeprefix('copy, ')} {100 * v:.0f}" for k, v in kinds.items()),
            }
        )
    seeds = sorted({row["seed"] for row in rows})
    minutes = ", ".join((out / f"minutes-{seed}.txt").read_text() for seed in seeds)
    config = json.loads((out / f"found-{seeds[0]}" / "run" / "config.json").read_text())
    versions = json.loads((out / f"found-{seeds[0]}" / "run" / "versions.json").read_text())
    note = NOTE.format(seeds=len(seeds), images=rows[0]["images"], rare=100 * rows[0]["rarer_half"])
    command = " ".join(
        ["python experiments/photos.py IMAGES", f"--seeds={options.seeds} --minutes={options.minutes:g}", *fields]
    )
    made = (
        f"`{command}`: {minutes} minutes for `sdclr photos` as a whole, {config['epochs']} epochs in the first; "
        f"trained at commit {versions['commit'][:7]}, jax {versions['jax']}, {versions['hardware']}."
    )
    (out / "table.md").write_text(f"{note}\n\n{tabulate(table, headers='keys', tablefmt='github')}\n\n{made}\n")


def plant(images: pathlib.Path, folder: pathlib.Path, count: int, seed: int) -> list[dict]:
    """Write the folder and, beside it, `truth-SEED.csv`: what each image is; the rows of that."""
    listed = folder.with_name(f"{folder.name}.csv")
    if listed.exists():
        with listed.open(newline="") as file:
            return list(csv.DictReader(file))
    rng = np.random.default_rng(seed)
    classes = sorted(path.name for path in images.iterdir() if path.is_dir())
    files = {name: sorted((images / name).iterdir()) for name in classes}
    shares = IMBALANCE ** -(np.arange(len(classes)) / (len(classes) - 1))
    rows, number = [], 0

    def save(image: Image.Image, label: str, split: str, quality: int = 90, **truth) -> dict:
        nonlocal number
        number += 1
        path = f"{split}/{label}/{rng.integers(10**9):09d}.jpg"
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        image.save(folder / path, quality=quality)
        rows.append({"path": path, "label": label, "split": split, "kind": "", "class": label, "of": ""} | truth)
        return rows[-1]

    def other(label: str) -> str:
        return str(rng.choice([name for name in classes if name != label]))

    for name, share in zip(rng.permutation(classes).tolist(), count * shares / shares.sum(), strict=True):
        chosen = rng.permutation(len(files[name]))[: round(share)]
        for place, row in enumerate(chosen.tolist()):
            wrong = rng.random() < WRONG
            label = other(name) if wrong else name
            split = "test" if place < TEST * len(chosen) else "train"
            with Image.open(files[name][row]) as opened:
                image = opened.convert("RGB")
            save(image, label, split, 90, kind="wrong" if wrong else "", **{"class": name})
    sources = rng.permutation([i for i, row in enumerate(rows) if not row["kind"]])[: round(COPIES * count)]
    for i, source in enumerate(sources.tolist()):
        row, (how, change) = rows[source], list(CHANGES.items())[i % len(CHANGES)]
        split = {"train": "test", "test": "train"}[row["split"]] if i % 2 else row["split"]
        label = other(row["label"]) if i % 4 == 3 else row["label"]
        with Image.open(folder / row["path"]) as opened:
            image = change(opened.convert("RGB"), rng)
        quality = int(rng.integers(30, 71)) if how == "saved again" else 85
        save(image, label, split, quality, kind=f"copy, {how}", of=row["path"], **{"class": row["class"]})
    digits = load_digits().images
    for i in range(round(FOREIGN * count)):
        with Image.open(folder / rows[i]["path"]) as image:
            size = image.size
        if i % 2:
            image = Image.fromarray((digits[rng.integers(len(digits))] * (255 / 16)).astype(np.uint8)).resize(size, 3)
        else:
            image = texture(size, rng)
        label = str(rng.choice(classes))
        save(image.convert("RGB"), label, "train", kind="foreign", **{"class": ""})
    with listed.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return rows


def resized(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    share = rng.uniform(0.6, 1.6)
    return image.resize((round(share * image.width), round(share * image.height)), Image.Resampling.LANCZOS)


def cropped(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    width, height = (round(rng.uniform(0.86, 0.97) * side) for side in image.size)
    left, top = rng.integers(image.width - width + 1), rng.integers(image.height - height + 1)
    return image.crop((left, top, left + width, top + height))


CHANGES = {
    "saved again": lambda image, rng: image,
    "resized": resized,
    "cropped": cropped,
    "mirrored": lambda image, rng: ImageOps.mirror(image),
}


def texture(size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    """Stripes, checks, a gradient or noise, in two colours."""
    x, y = np.meshgrid(*(np.arange(side) / side for side in size))
    angle, waves = rng.uniform(0, np.pi), rng.uniform(3, 9)
    along = x * np.cos(angle) + y * np.sin(angle)
    across = y * np.cos(angle) - x * np.sin(angle)
    share = [
        np.sin(2 * np.pi * waves * along) > 0,
        (np.sin(2 * np.pi * waves * along) > 0) ^ (np.sin(2 * np.pi * waves * across) > 0),
        (along - along.min()) / np.ptp(along),
        rng.random(x.shape),
    ][rng.integers(4)]
    first, second = rng.integers(0, 256, (2, 3))
    return Image.fromarray((share[..., None] * first + (1 - share[..., None]) * second).astype(np.uint8))


if __name__ == "__main__":
    main()
