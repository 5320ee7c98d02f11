"""Features on disk: made once a key, made anew where the file is damaged, and never in the way."""

import os
import pathlib
import shutil

import numpy as np
import pytest
from PIL import Image

from sdclr_jax import trees
from sdclr_jax.data.images import Files, as_images
from sdclr_jax.data.pictures import Pictures
from sdclr_jax.data.sources.records import Records
from sdclr_jax.evaluation import cache

FEATURES = np.arange(6, dtype=np.float32).reshape(3, 2)


@pytest.fixture
def extract():
    class Extract:
        calls = 0

        def __call__(self):
            self.calls += 1
            return FEATURES

    return Extract()


def test_a_key_is_extracted_once(tmp_path, extract):
    folder = tmp_path / "features"
    for key in ({"a": 1, "b": [2]}, {"b": [2], "a": 1}):
        np.testing.assert_array_equal(cache.features(folder, key, extract), FEATURES)
    assert extract.calls == 1
    cache.features(folder, {"a": 1, "b": [3]}, extract)
    assert extract.calls == 2
    assert len(list(folder.iterdir())) == 2


def _flipped(content, place, bit):
    return content[:place] + bytes([content[place] ^ (1 << bit)]) + content[place + 1 :]


def test_a_damaged_file_is_not_used_and_made_again(tmp_path, extract):
    """One bit anywhere, zeros, two rows that changed places, a part only, another file's content."""
    cache.features(tmp_path, {}, extract)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    np.testing.assert_array_equal(np.load(path, allow_pickle=False), FEATURES)  # other programs read it too
    pickled = (
        b"\x93NUMPY\x01\x00v\x00" + b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }".ljust(117) + b"\n."
    )
    huge = whole.replace(b"(3, 2)", b"(3000000000000, 2)")
    rows, end = whole.index(FEATURES.tobytes()), len(whole) - 32
    shuffled = whole[:rows] + FEATURES[::-1].tobytes() + whole[end:]
    other = tmp_path / "other"
    cache.features(other, {"another": "key"}, lambda: FEATURES[::-1].copy())
    (moved,) = other.iterdir()
    damages = [b"", whole[:20], whole[:-4], whole[:-32], whole + b"\0", bytes(len(whole)), pickled, huge, shuffled]
    damages += [moved.read_bytes(), *(_flipped(whole, place, place % 8) for place in range(0, len(whole), 7))]
    for damaged in damages:
        path.write_bytes(damaged)
        np.testing.assert_array_equal(cache.features(tmp_path, {}, extract), FEATURES)
        assert path.read_bytes() == whole
    assert extract.calls == 1 + len(damages)


def test_a_folder_that_cannot_be_written_is_done_without(tmp_path, extract):
    (tmp_path / "features").write_text("a file where the folder should be")
    np.testing.assert_array_equal(cache.features(tmp_path / "features", {}, extract), FEATURES)
    assert [path.name for path in tmp_path.iterdir()] == ["features"]


def test_digests_of_arrays_are_of_their_content():
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 2, 2, 3)
    seen = {
        as_images(pixels).digest(),
        as_images(pixels[::-1]).digest(),
        as_images(pixels[:1]).digest(),
        as_images(pixels.reshape(1, 4, 2, 3)).digest(),
    }
    assert len(seen) == 4
    assert as_images(pixels[::-1]).digest() == as_images(pixels[::-1].copy()).digest()
    tree = {"w": np.ones((2, 3), np.float32), "b": np.zeros(3, np.float32)}
    assert trees.digest(tree) == trees.digest({name: leaf.copy() for name, leaf in tree.items()})
    changed = [tree | {"w": tree["w"].T}, tree | {"w": tree["w"] * 2}, {"v": tree["w"], "b": tree["b"]}]
    assert len({trees.digest(other) for other in [tree, *changed]}) == 4


def _same_time(*paths):
    for path in paths:
        os.utime(path, ns=(10**18, 10**18))


def test_files_are_identified_without_reading_them(tmp_path, monkeypatch):
    for name, content in {"a": b"one", "b": b"two"}.items():
        (tmp_path / name).write_bytes(content)
    _same_time(tmp_path / "a", tmp_path / "b")

    def digest(*names, root=tmp_path):
        return Files(root, np.array(names)).digest()

    with monkeypatch.context() as patch:
        patch.setattr(pathlib.Path, "read_bytes", None)  # not called
        before = digest("a", "b")
        assert len({before, digest("b", "a"), digest("a"), digest("a", "b", "a")}) == 4
    assert digest("a", "b", root=shutil.copytree(tmp_path, tmp_path / "moved")) == before
    seen = {before}
    (tmp_path / "b").write_bytes(b"tvo")  # of another time
    seen.add(digest("a", "b"))
    (tmp_path / "b").write_bytes(b"three")
    _same_time(tmp_path / "b")  # of another size
    seen.add(digest("a", "b"))
    (tmp_path / "b").unlink()
    seen.add(digest("a", "b"))
    assert len(seen) == 4


def test_records_are_identified_by_the_files_that_hold_them(tmp_path):
    rows = np.arange(3)
    path = tmp_path / "digits-train.array_record-00000-of-00001"
    path.write_bytes(b"one")
    _same_time(path)
    before = Records(tmp_path, "train", rows).digest()
    assert Records(shutil.copytree(tmp_path, tmp_path / "moved"), "train", rows).digest() == before
    seen = {before, Records(tmp_path, "test", rows).digest(), Records(tmp_path, "train", rows[::-1]).digest()}
    path.write_bytes(b"once")
    _same_time(path)
    assert len(seen | {Records(tmp_path, "train", rows).digest()}) == 4


def test_pictures_are_identified_too(tmp_path):
    pixels = np.zeros((2, 2, 3), np.uint8)
    (tmp_path / "a").write_bytes(b"one")
    kinds = [[pixels], [pixels + 1], [pixels, pixels], [pixels.reshape(4, 1, 3)], [tmp_path / "a"]]
    assert len({Pictures(kind).digest() for kind in kinds}) == 5
    assert Pictures([Image.fromarray(pixels)]).digest() == Pictures([pixels]).digest()
