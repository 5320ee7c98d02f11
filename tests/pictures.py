"""Small image files and tfds data sets, made on the spot."""

import io
import pathlib

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image


def picture(seed: int, width: int = 8, height: int = 6, kind: str = "PNG") -> bytes:
    """An image file of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def put(root: pathlib.Path, names, **size) -> None:
    """An image of its own at each of these paths; the last one differs in size if `size` is empty."""
    for i, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(picture(i, **(size or {"width": 8 + (i == len(names) - 1)})))


def tfds_set(data_dir: pathlib.Path, name: str, version: str, features: dict, splits: dict[str, list[dict]]):
    """Prepare a data set as tfds does: the stock name and features, and few records. Returns its folder."""

    class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version(version)

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            return {split: enumerate(examples) for split, examples in splits.items()}

        def _generate_examples(self):
            raise NotImplementedError

    Builder.name = name
    builder = Builder(data_dir=data_dir, file_format="array_record")
    builder.download_and_prepare()
    return pathlib.Path(builder.data_dir)
