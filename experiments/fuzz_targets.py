"""The readers that experiments/fuzz.py tries, and inputs that they take."""

import gzip
import hashlib
import io
import json
import pathlib
import tarfile
import tempfile
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from sdclr_jax import recipes, records
from sdclr_jax.commands import flags
from sdclr_jax.data import crops, decoding
from sdclr_jax.data.examples import Examples
from sdclr_jax.data.sources import catalogues, celeba, cifar, index, layouts, manifests, prepared
from sdclr_jax.data.subsets import labelled_lists, lists
from sdclr_jax.errors import ArgumentError, UserError
from sdclr_jax.evaluation import cache
from sdclr_jax.records import EncoderRecord, Results, Summary, TrainedOn
from sdclr_jax.records.folder import Embedding
from sdclr_jax.reports import runs

OWN = (UserError, ArgumentError, decoding.BadImage)  # what readers may raise
EXAMPLE = pathlib.Path(__file__).parents[1] / "tests" / "golden" / "run_f1e7a00"  # a finished run


class Target(NamedTuple):
    """A reader."""

    kind: str  # of its input: text, json, jsonl, npy, tar, image
    seeds: Callable[[], list[bytes]]
    read: Callable[[pathlib.Path, bytes], object]  # (a folder to write to, input); raises what the reader raises
    prepare: Callable[[pathlib.Path], object] = lambda folder: None  # what stands around the input


def _put(path: pathlib.Path, data: bytes) -> pathlib.Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def _npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def _examples() -> Examples:
    ids = np.array([f"train/{c}/{i}.png" for c in "ab" for i in range(6)])
    labels = np.repeat(np.arange(2, dtype=np.int32), 6)
    return Examples(np.zeros((12, 4, 4, 3), np.uint8), labels, ids, ("a", "b"))


def _labelled() -> list[bytes]:
    """Four of the six images of each class, so that some are left for validation."""
    return ["".join(f"train/{c}/{i}.png {label}\n" for label, c in enumerate("ab") for i in range(4)).encode()]


def _read_labelled(folder: pathlib.Path, data: bytes) -> object:
    files = {"long_tail": _put(folder / "long_tail.txt", data)}
    rules = {"validation_per_class": 1, "few_shot_per_class": 1, "seed": 0, "profile": "as_is"}
    return labelled_lists.read(
        files, _examples(), _examples(), name="photos", **rules, n_max=4, imbalance=2.0, pareto=(6.0, 0.4)
    )


def _read_manifest(folder: pathlib.Path, data: bytes) -> object:
    names = [f"{c}/{i}.png" for c in "ab" for i in range(3)]
    return layouts.with_test(manifests.from_manifest(_put(folder / "m.csv", data), names, ["c/x.png"]), 0)


def _catalogue(folder: pathlib.Path) -> None:
    catalogues.CATALOGUES["three"] = catalogues.CATALOGUES["inaturalist2018"]._replace(classes=3)
    for i in range(3):
        _put(folder / f"a/{i}.jpg", b"")


def _read_catalogue(folder: pathlib.Path, data: bytes) -> object:
    _put(folder / "train2018.json", data)
    return catalogues.Catalogue("three", folder, str(folder)).load("train")


def _inaturalist() -> list[bytes]:
    content = {
        "images": [{"id": i, "file_name": f"a/{i}.jpg"} for i in range(3)],
        "annotations": [{"image_id": i, "category_id": i, "id": i} for i in range(3)],
        "categories": [{"id": i, "name": str(i), "supercategory": "Plants"} for i in range(3)],
    }
    return [json.dumps(content).encode()]


def _celeba(folder: pathlib.Path) -> None:
    _put(folder / "img_align_celeba" / "1.jpg", b"")
    _put(folder / "img_align_celeba" / "2.jpg", b"")
    _put(folder / "list_eval_partition.txt", b"1.jpg 0\n2.jpg 1\n")


def _read_celeba(folder: pathlib.Path, data: bytes) -> object:
    _put(folder / "list_attr_celeba.txt", data)
    return celeba.CelebA(folder, str(folder)).load("train")


def _photos(folder: pathlib.Path) -> None:
    for i in range(3):
        _put(folder / "photos" / f"{i}.png", _picture("PNG", i))


def _read_index(folder: pathlib.Path, data: bytes) -> object:
    _put(folder / "index" / "index.json", data)
    found = index.refresh(folder / "photos", folder / "index")
    assert list(found.usable) == ["0.png", "1.png", "2.png"], "an index that is damaged hides images"
    return found


def _an_index() -> list[bytes]:
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch)
        _photos(folder)
        index.refresh(folder / "photos", folder / "index")
        return [(folder / "index" / "index.json").read_bytes()]


def _read_provenance(folder: pathlib.Path, data: bytes) -> object:
    _put(folder / prepared.PROVENANCE, data)
    return prepared.provenance(folder)


def _picture(kind: str, seed: int = 0, mode: str = "RGB", **options: Any) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 9, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, kind, **options)
    return file.getvalue()


def _pictures() -> list[bytes]:
    turned = Image.Exif()
    turned[274] = 6
    made = [_picture(kind, exif=turned) for kind in ("JPEG", "PNG", "TIFF", "WEBP")]
    made += [_picture("TIFF", compression=c) for c in ("tiff_lzw", "tiff_adobe_deflate", "jpeg")]
    made += [_picture("PNG", mode=mode) for mode in ("P", "L", "LA", "RGBA", "1", "I;16")]
    return made + [_picture(kind) for kind in ("GIF", "BMP", "PPM", "JPEG2000")] + [_picture("JPEG", mode="CMYK")]


def _read_image(folder: pathlib.Path, data: bytes) -> object:
    random_crops = crops.RandomCrops(count=2, size=6, scale=(0.1, 1.0), ratio=(0.75, 1.3), seed=0, first=0)
    crops.cut(data, [random_crops, crops.CentreCrop(size=4, resize=5)], 0, 0)
    found = decoding.decode(data)
    size = found.image.height, found.image.width
    assert size == (found.height, found.width), "the size that crops are chosen by is not that of the pixels"


def _archive(members: list[tuple[str, bytes]]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, content in members:
            header = tarfile.TarInfo(name)
            header.size = len(content)
            tar.addfile(header, io.BytesIO(content))
    return file.getvalue()


def _archives() -> list[bytes]:
    archive = cifar.ARCHIVES["cifar10"]
    batches = [name for names in archive.splits.values() for name in names]
    members = [(f"{archive.folder}/{name}", bytes([1]) + bytes(3072)) for name in batches]
    names = "\n".join(f"class{i}" for i in range(10)).encode()
    return [_archive([*members, (f"{archive.folder}/batches.meta.txt", names)]), _archive(members[:1])]


def _read_archive(folder: pathlib.Path, data: bytes) -> object:
    path = _put(folder / "a.tar.gz", gzip.compress(data, 1, mtime=0))
    return cifar.read("cifar10", path, hashlib.sha256(path.read_bytes()).hexdigest())


def _record(kind: type, name: str) -> Callable[[pathlib.Path, bytes], object]:
    return lambda folder, data: records.read(kind, _put(folder / name, data))


def _encoder() -> list[bytes]:
    view = {"height": 8, "width": 8, "channels": 1}
    made = {"model": {"name": "resnet8", "width": 4}, "view": view, "mean": [0.5], "std": [0.5], "features": 16}
    return [json.dumps({"format": 1, **made, "resize": None, "crop": None}).encode()]


def _a_run(folder: pathlib.Path) -> None:
    for path in EXAMPLE.iterdir():
        if path.is_file():
            _put(folder / "run" / path.name, path.read_bytes())
    _put(folder / "run" / "warnings.jsonl", _WARNING)


_WARNING = b'{"step": 3, "epoch": 0.5, "cause": "collapse", "message": "it has collapsed"}\n' * 2


def _of_run(name: str) -> Target:
    """A file of a run, as reports read it."""

    def read(folder: pathlib.Path, data: bytes) -> object:
        _put(folder / "run" / name, data)
        return runs.read([folder / "run"])

    seed = (lambda: [_WARNING]) if name == "warnings.jsonl" else (lambda: [(EXAMPLE / name).read_bytes()])
    return Target(name.rpartition(".")[2], seed, read, _a_run)


def _read_cache(folder: pathlib.Path, data: bytes) -> object:
    right = np.ones((4, 3), np.float32)
    cache.features(folder / "features", {"x": 1}, lambda: right)
    (path,) = (folder / "features").glob("*.npy")
    path.write_bytes(data)
    found = cache.features(folder / "features", {"x": 1}, lambda: right)
    assert isinstance(found, np.ndarray) and found.dtype == np.float32 and found.shape == (4, 3), (
        "damaged features are given"
    )


def _read_override(folder: pathlib.Path, data: bytes) -> object:
    given = [f"--config.{text}" for text in data.decode(errors="surrogateescape").split("\n") if "\0" not in text][:3]
    config = flags.pretrain(["--config=digits_lt:sdclr", "--workdir=x", *given], "").config
    return recipes.check(config)


def _overrides() -> list[bytes]:
    texts = ("epochs=30", "prune.rate=0.5", "views.crop_scale=(0.2, 1.0)", "pairs=((('dense', 0), ('sparse', 1)),)")
    texts += ("evaluate.protocols=('knn',)", "optimizer.decay_vectors=False", "model.name=vit_tiny\nmodel.depth=2")
    return [text.encode() for text in texts]


def _read_config(folder: pathlib.Path, data: bytes) -> object:
    _put(folder / "run" / "config.json", data)
    return recipes.check(recipes.read(folder / "run"))


TARGETS = {
    "list.npy": Target("npy", lambda: [_npy(np.arange(9)), _npy(np.arange(3, dtype=">u2"))],
                       lambda folder, data: lists.read(_put(folder / "list.npy", data))),
    "list.txt": Target("text", lambda: [b"train_00001\ntrain_00002\n"],
                       lambda folder, data: lists.read(_put(folder / "list.txt", data))),
    "labelled list": Target("text", _labelled, _read_labelled),
    "manifest": Target("text", lambda: [b"path,label,split\na/0.png,a,train\nb/0.png,b,train\na/1.png,b,test\n",
                                        b"path,x,y\na/0.png,1,0\nb/2.png,0,0\n"], _read_manifest),
    "archive": Target("tar", _archives, _read_archive),
    "catalogue": Target("json", _inaturalist, _read_catalogue, _catalogue),
    "attributes": Target("text", lambda: [b"2\nbald smiling\n1.jpg 1 -1\n2.jpg -1 1\n"], _read_celeba, _celeba),
    "folder index": Target("json", _an_index, _read_index, _photos),
    "provenance": Target("json", lambda: [b'{"archive": "a", "sha256": "b", "published": true}'], _read_provenance),
    "image": Target("image", _pictures, _read_image),
    "feature cache": Target("npy", lambda: [_npy(np.ones((4, 3), np.float32))],
                            _read_cache),
    "overrides": Target("text", _overrides, _read_override),
    "config.json": Target("json", lambda: [(EXAMPLE / "config.json").read_bytes()], _read_config),
    "encoder.json": Target("json", _encoder, _record(EncoderRecord, "encoder.json")),
    "embedding.json": Target("json", lambda: [(EXAMPLE / "embedding.json").read_bytes()],
                             _record(Embedding, "embedding.json")),
    "summary.json": Target("json", lambda: [(EXAMPLE / "exemplars" / "summary.json").read_bytes()],
                           _record(Summary, "summary.json")),
    "data.json": Target("json", lambda: [(EXAMPLE / "data.json").read_bytes()], _record(TrainedOn, "data.json")),
    "results.json alone": Target("json", lambda: [(EXAMPLE / "results.json").read_bytes()],
                                 _record(Results, "results.json")),
    **{f"report: {name}": _of_run(name) for name in (
        "config.json", "results.json", "versions.json", "data.json", "metrics.jsonl", "warnings.jsonl")},
}  # fmt: skip
