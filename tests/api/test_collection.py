"""What `sdclr photos` sees in a folder: labels, splits, what is left out, and what it says of that."""

import numpy as np
import pytest
from PIL import Image

from sdclr_jax.api.collection import described, look
from sdclr_jax.commands.prepare import main as prepare
from sdclr_jax.errors import ArgumentError, UserError
from tests.pictures import picture


@pytest.fixture
def put(tmp_path):
    """Puts images of these names into a folder; returns it."""

    def put(*names):
        for seed, name in enumerate(names):
            path = tmp_path / "photos" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(picture(seed))
        return tmp_path / "photos"

    return put


def test_labels_and_splits_are_used_as_the_folder_has_them(put, tmp_path):
    """A class may have no image to train on, `val` stays what it is called, and no image is drawn for testing."""
    root = put("test/new/1.png", "test/a/2.png", "train/a/3.png", "train/b/4.png", "val/b/5.png")
    seen = look(root, data_dir=tmp_path / "data")
    assert seen.ids.tolist() == ["test/a/2.png", "test/new/1.png", "train/a/3.png", "train/b/4.png", "val/b/5.png"]
    assert seen.splits.tolist() == ["test", "test", "train", "train", "val"]
    assert [seen.class_names[label] for label in seen.labels] == ["a", "new", "a", "b", "b"]
    assert described(seen) == ["5 images: 2 train, 1 val, 2 test", "3 classes: a 2, b 2, new 1"]
    for path in (root / "test").rglob("*.png"):
        path.unlink()
    assert set(look(root, data_dir=tmp_path / "data").splits) == {"train", "val"}
    assert not list((tmp_path / "data").rglob("test_split*"))


def test_what_cannot_be_told_is_looked_at_without_labels_unless_a_manifest_says_it(put, tmp_path):
    root = put("a/1.png", "a/2.png", "3.png")
    seen = look(root, data_dir=tmp_path / "data")
    assert seen.labels is None and set(seen.splits) == {"train"} and len(seen.ids) == 3
    assert described(seen)[1].startswith(f"No labels are used: {root} has images both beside directories")
    (tmp_path / "m.csv").write_text("path,label\n3.png,x\na/9.png,y\n")
    with pytest.raises(UserError, match="line 3, names 'a/9.png', which is no image in the folder"):
        look(root, manifest=str(tmp_path / "m.csv"), data_dir=tmp_path / "data")
    (tmp_path / "m.csv").write_text("path,label\n3.png,x\na/1.png,y\n")
    seen = look(root, manifest=str(tmp_path / "m.csv"), data_dir=tmp_path / "data")
    assert described(seen) == [
        "2 images: 2 train", "1 image is left out: the manifest names the others only.", "2 classes: x 1, y 1",
    ]  # fmt: skip
    with pytest.raises(UserError, match="holds no usable image"):
        look(tmp_path / "data", data_dir=tmp_path / "data")


def test_splits_are_used_where_classes_cannot_be(put, tmp_path):
    """So a copy of an image that is trained on is found among those for testing."""
    root = put("test/cat/1.png", "train/cat/2.png", "train/cat/3.png")
    (root / "test" / "cat" / "4.png").write_bytes((root / "train" / "cat" / "3.png").read_bytes())
    seen = look(root, data_dir=tmp_path / "data")
    assert seen.labels is None and seen.splits.tolist() == ["test", "test", "train", "train"]
    counts, no_labels, note = described(seen)
    assert counts == "4 images: 2 train, 2 test" and "has the class directory 'cat' only" in no_labels
    assert note.startswith("Note: Copies of images that are trained on: 1 test image, such as test/cat/4.png of train/")
    (root / "1.png").write_bytes(picture(9))
    assert set(look(root, data_dir=tmp_path / "data").splits) == {"train"}  # it cannot be told which ones are meant


def test_skipped_files_have_their_reasons(put, tmp_path, capsys):
    root = put("1.png", "2.png")
    for i in range(3):
        (root / f"{i}.heic").write_bytes(b"\0\0\0\x18ftypheic")
    (root / "cut.png").write_bytes(b"")
    said = described(look(root, data_dir=tmp_path / "data"))
    assert said[2].startswith("4 files are skipped, listed in ") and said[3:] == [
        "  3: HEIC, which is not decoded here: convert it to JPEG or PNG",
        "  1: not an image of a known format",
    ]
    prepare([f"folder:{root}", f"--data_dir={tmp_path / 'data'}", "--noprogress"])
    assert capsys.readouterr().err.splitlines()[1:] == said[3:]  # `sdclr prepare` says the same


def test_gray_images_are_seen_in_the_range_that_is_given(put, tmp_path):
    root = put("1.png")
    Image.fromarray(np.full((6, 8), 1000.0, np.float32)).save(root / "x.tif")
    assert described(look(root, data_dir=tmp_path / "data"))[3].endswith(
        "set data.gray_range to train on them, or scale them to eight bits without a sign"
    )
    seen = look(root, gray_range=(0.0, 4000.0), data_dir=tmp_path / "data")
    assert seen.ids.tolist() == ["1.png", "x.tif"] and not seen.skipped.files
    assert np.asarray(seen.files.picture(1)).tolist() == np.full((6, 8, 3), 63).tolist()
    (note,) = look(root, gray_range=(0.0, 1e6), data_dir=tmp_path / "data").notes
    assert "1 gray image, such as x.tif" in note and "data.gray_range is (0.0, 1000000.0)" in note
    with pytest.raises(ArgumentError, match="gray_range is"):
        look(root, gray_range=(2.0, 1.0), data_dir=tmp_path / "data")
