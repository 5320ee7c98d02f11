"""Tiny archives in the layout of the published ones, made on the spot."""

import hashlib
import io
import pathlib
import tarfile

import numpy as np

from sdclr_jax.data.sources.cifar import ARCHIVES


def records(labels: np.ndarray, seed: int) -> bytes:
    """uint8 [N, L] label bytes, each row followed by 3,072 bytes of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (len(labels), 3072), np.uint8)
    return np.concatenate([labels, pixels], axis=1).tobytes()


def files(name: str, per_class: int = 3) -> dict[str, bytes]:
    """Path in the archive -> content: `per_class` training images a class, in a random order, and one test image."""
    archive, rng = ARCHIVES[name], np.random.default_rng(0)
    sizes = [classes for _, classes in archive.labels.values()]
    content = {}
    for split, names in archive.splits.items():
        fine = rng.permutation(np.repeat(np.arange(sizes[-1]), per_class if split == "train" else 1))
        labels = np.stack([fine % size for size in sizes], axis=1).astype(np.uint8)
        # Files of unequal sizes, so that an order of files other than by name is seen.
        cuts = np.arange(1, len(names)) * len(fine) // (len(names) + 1)
        for file, part in zip(names, np.split(labels, cuts), strict=True):
            content[f"{archive.folder}/{file}"] = records(part, len(content))
    for file, classes in archive.labels.values():
        stem = file.partition("_")[0]
        content[f"{archive.folder}/{file}"] = "\n".join([*(f"{stem} {c}" for c in range(classes)), "", ""]).encode()
    return content


def pack(path: pathlib.Path, content: dict[str, bytes], extra: tuple[tarfile.TarInfo, ...] = ()) -> str:
    """Write the archive, `extra` members first; returns its SHA-256."""
    with tarfile.open(path, "w:gz", compresslevel=1) as tar:
        for info in extra:
            tar.addfile(info)
        for name, data in content.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def original(name: str, content: dict[str, bytes], split: str) -> tuple[np.ndarray, np.ndarray]:
    """What the records of a split mean, byte by byte: images uint8 [N, 32, 32, 3] and label bytes [N, L]."""
    archive = ARCHIVES[name]
    width = len(archive.labels) + 3072
    data = b"".join(content[f"{archive.folder}/{file}"] for file in archive.splits[split])
    images, labels = [], []
    for start in range(0, len(data), width):
        record = data[start : start + width]
        labels.append(list(record[: len(archive.labels)]))
        planes = [record[len(archive.labels) + 1024 * c :][:1024] for c in range(3)]
        images.append([[[plane[32 * y + x] for plane in planes] for x in range(32)] for y in range(32)])
    return np.array(images, np.uint8), np.array(labels)
