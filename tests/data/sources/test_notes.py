"""What a person is told of a folder: 16 bits in colour, several pages, copies across splits, and nothing to use."""

import shutil

import numpy as np
import pytest
from PIL import Image

from sdclr_jax.data import sources
from sdclr_jax.errors import UserError
from tests.data.test_depth import png
from tests.pictures import put


def notes(root, data_dir, **where):
    return sources.source(f"folder:{root}", data_dir, **where).provenance()["notes"]


def test_colour_of_16_bits_that_uses_little_of_its_range_is_counted(tmp_path):
    put(tmp_path / "p", ["0.png"])
    dark = np.arange(48, dtype=np.uint16).reshape(4, 4, 3) * 87  # up to 4089
    (tmp_path / "p" / "1.png").write_bytes(png(dark))
    (tmp_path / "p" / "2.png").write_bytes(png(dark * 16))
    for gray_range in ((), (0.0, 4095.0)):
        assert notes(tmp_path / "p", tmp_path / "data", gray_range=gray_range) == [
            "Almost uniform, as at most a sixteenth of the range from black to white, 0 to 65535, is used: 1 image of "
            "16 bits in colour or with an alpha channel, such as 1.png; their values are 0 to 4095: scale them to "
            "eight bits."
        ]


def test_files_of_several_pages_or_frames_are_counted(tmp_path):
    put(tmp_path / "p", ["0.png", "1.tif"])
    pages = [Image.fromarray(np.full((4, 5), shade, np.uint8)) for shade in (10, 200)]
    for name, kind in (("2.tif", "TIFF"), ("3.gif", "GIF"), ("4.jpg", "MPO"), ("5.png", "PNG"), ("6.webp", "WEBP")):
        pages[0].save(tmp_path / "p" / name, kind, save_all=True, append_images=pages[1:])
    for _ in range(2):  # found, and then known
        assert notes(tmp_path / "p", tmp_path / "data") == [
            "Only the first page or frame is used: 4 files, such as 2.tif."
        ]


def test_copies_of_images_that_are_trained_on_are_counted_by_split(tmp_path):
    """And a test image that is a copy of one for validation is said to be that."""
    put(tmp_path / "p", [f"{split}/{c}/{i}.png" for split in ("train", "val", "test") for c in "ab" for i in range(2)])
    shutil.copy(tmp_path / "p/val/a/0.png", tmp_path / "p/test/a/0.png")
    of_val = (
        "Copies of validation images: 1 test image, such as test/a/0.png of val/a/0.png; scores on them say too much."
    )
    assert notes(tmp_path / "p", tmp_path / "data") == [of_val]
    shutil.copy(tmp_path / "p/train/b/0.png", tmp_path / "p/val/b/0.png")
    assert notes(tmp_path / "p", tmp_path / "data") == [
        "Copies of images that are trained on: 1 validation image, such as val/b/0.png of train/b/0.png; scores on "
        "them say nothing.",
        of_val,
    ]
    shutil.copy(tmp_path / "p/train/b/0.png", tmp_path / "p/test/b/1.png")
    assert [note.split(",")[0] for note in notes(tmp_path / "p", tmp_path / "data")] == [
        "Copies of images that are trained on: 1 validation image",
        "Copies of images that are trained on: 1 test image",
        "Copies of validation images: 1 test image",
    ]


def test_a_folder_of_other_files_names_their_endings(tmp_path):
    put(tmp_path / "p", ["1.dcm", "2.dcm", "3.nii"])
    with pytest.raises(UserError, match=r"image \(none at all\); .* not read: \.dcm \(2\), \.nii \(1\)\.$"):
        notes(tmp_path / "p", tmp_path / "data")
