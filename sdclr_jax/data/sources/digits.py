"""The embedded data set: scikit-learn's handwritten digits as a tfds builder, prepared without a download.

The 1,797 images of 8 x 8 pixels and 16 grey levels over white come with scikit-learn (`load_digits`); they are the
test part of "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak, UCI Machine Learning Repository, 1998).

Importing this module imports tensorflow_datasets, which takes a second or two; TensorFlow itself is not needed.
"""

from collections.abc import Iterator

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

_NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


def to_uint8(levels: np.ndarray) -> np.ndarray:
    """Grey levels 0..16, whole numbers in any shape and type, as uint8: 255/16 times the level, halves rounded up.

    So 0 -> 0, 1 -> 16, 8 -> 128, 16 -> 255. Whole-number arithmetic, and no two levels share a value.
    """
    return ((levels.astype(np.int32) * 255 + 8) // 16).astype(np.uint8)


def is_test(labels: np.ndarray) -> np.ndarray:
    """Bool [N]: every 4th image of each class, in the order of the file, beginning with the class's 4th.

    Stratified and without a random number: 445 test images, 43 to 45 a class. The file runs through its writers one
    after the other, so both splits hold every writer.
    """
    test = np.zeros(len(labels), bool)
    for c in np.unique(labels):
        test[np.flatnonzero(labels == c)[3::4]] = True
    return test


class SdclrDigits(tfds.core.GeneratorBasedBuilder):
    """Features `id` (`digits_00042`: the image's index in `load_digits`), `image` uint8 [8, 8, 1], `label` 0..9.

    Splits `train` (1,352 images) and `test` (445), see `is_test`.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "All images of scikit-learn's load_digits."}

    def _info(self) -> tfds.core.DatasetInfo:
        # Not `dataset_info_from_configs`: that looks for files beside the builder, and there are none.
        return tfds.core.DatasetInfo(
            builder=self,
            description="Handwritten digits of 8 x 8 pixels, as shipped with scikit-learn.",
            features=tfds.features.FeaturesDict(
                {
                    "id": tfds.features.Text(),
                    "image": tfds.features.Image(shape=(8, 8, 1), encoding_format="png"),
                    "label": tfds.features.ClassLabel(names=_NAMES),
                }
            ),
            supervised_keys=("image", "label"),
            homepage="https://scikit-learn.org/stable/modules/generated/sklearn.datasets.load_digits.html",
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        from sklearn.datasets import load_digits  # here: only preparation needs scikit-learn

        digits = load_digits()
        test = is_test(digits.target)
        return {
            "train": self._generate_examples(digits, np.flatnonzero(~test)),
            "test": self._generate_examples(digits, np.flatnonzero(test)),
        }

    def _generate_examples(self, digits, indices: np.ndarray) -> Iterator[tuple[str, dict]]:
        images = to_uint8(digits.images)
        for i in indices:
            name = f"digits_{i:05d}"
            # A PIL image: tfds encodes NumPy arrays through TensorFlow.
            yield name, {"id": name, "image": Image.fromarray(images[i]), "label": int(digits.target[i])}
