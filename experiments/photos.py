"""What `sdclr photos` finds of what was planted into a folder of photographs, beside other programs.

    python experiments/photos.py IMAGES [--out=runs/photos] [--seeds=3] [--minutes=6] [--images=2000]

IMAGES has one directory a class. Of each seed a long-tailed choice is made from it, a fifth of each class lies in
`test`, and into it are planted: copies (1 % of the images: saved again, resized, cropped, mirrored; half of them in the
other split, a quarter under another label), foreign images (2 %: digits of scikit-learn and drawn textures) and wrong
labels (3 %). `sdclr photos` then looks at the folder, and sees nothing of what is planted. Its lists are compared with
those of cleanlab on the same features and of the pixel hashes of imagededup and cleanvision, where these are installed
(`pip install cleanlab imagededup cleanvision`), in the same run. The folder gets `table.md` and `table.csv`. Run it
again to resume.
"""

import csv
import pathlib

import numpy as np
from PIL import Image, ImageOps
from sklearn.datasets import load_digits

IMBALANCE, TEST = 50, 0.2
COPIES, FOREIGN, WRONG = 0.01, 0.02, 0.03  # shares of the images


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
            image = Image.open(files[name][row]).convert("RGB")
            save(image, label, split, 90, kind="wrong" if wrong else "", **{"class": name})
    sources = rng.permutation([i for i, row in enumerate(rows) if not row["kind"]])[: round(COPIES * count)]
    for i, source in enumerate(sources.tolist()):
        row, (how, change) = rows[source], list(CHANGES.items())[i % len(CHANGES)]
        split = {"train": "test", "test": "train"}[row["split"]] if i % 2 else row["split"]
        label = other(row["label"]) if i % 4 == 3 else row["label"]
        image = change(Image.open(folder / row["path"]), rng)
        quality = int(rng.integers(30, 71)) if how == "saved again" else 85
        save(image, label, split, quality, kind=f"copy, {how}", of=row["path"], **{"class": row["class"]})
    digits = load_digits().images
    for i in range(round(FOREIGN * count)):
        size = Image.open(folder / rows[i]["path"]).size
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
