"""Features on disk: made once a key, made anew where the file is damaged, and never in the way."""

import numpy as np
import pytest

from sdclr_jax import trees
from sdclr_jax.data.images import Files, as_images
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


def test_a_damaged_file_is_made_anew(tmp_path, extract):
    cache.features(tmp_path, {}, extract)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    pickled = (
        b"\x93NUMPY\x01\x00v\x00" + b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }".ljust(117) + b"\n."
    )
    for damaged in (b"", whole[:20], whole[:-4], pickled):
        path.write_bytes(damaged)
        np.testing.assert_array_equal(cache.features(tmp_path, {}, extract), FEATURES)
        assert path.read_bytes() == whole
    assert extract.calls == 5


def test_a_folder_that_cannot_be_written_is_done_without(tmp_path, extract):
    (tmp_path / "features").write_text("a file where the folder should be")
    np.testing.assert_array_equal(cache.features(tmp_path / "features", {}, extract), FEATURES)
    assert [path.name for path in tmp_path.iterdir()] == ["features"]


def test_digests_are_of_the_content(tmp_path):
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 2, 2, 3)
    seen = {
        as_images(pixels).digest(),
        as_images(pixels[::-1]).digest(),
        as_images(pixels[:1]).digest(),
        as_images(pixels.reshape(1, 4, 2, 3)).digest(),
    }
    assert len(seen) == 4
    assert as_images(pixels[::-1]).digest() == as_images(pixels[::-1].copy()).digest()
    (tmp_path / "a").write_bytes(b"one")
    (tmp_path / "b").write_bytes(b"two")
    before = Files(tmp_path, np.array(["a", "b"])).digest()
    assert before != Files(tmp_path, np.array(["b", "a"])).digest()
    (tmp_path / "b").write_bytes(b"tvo")
    assert before != Files(tmp_path, np.array(["a", "b"])).digest()
    (tmp_path / "b").unlink()
    assert Files(tmp_path, np.array(["a", "b"])).digest() != before
    tree = {"w": np.ones((2, 3), np.float32), "b": np.zeros(3, np.float32)}
    assert trees.digest(tree) == trees.digest({name: leaf.copy() for name, leaf in tree.items()})
    changed = [tree | {"w": tree["w"].T}, tree | {"w": tree["w"] * 2}, {"v": tree["w"], "b": tree["b"]}]
    assert len({trees.digest(other) for other in [tree, *changed]}) == 4
