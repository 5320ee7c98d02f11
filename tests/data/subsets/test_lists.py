import io
import os
import pathlib
import pickle
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs import digits_lt
from sdclr_jax import recipes
from sdclr_jax.data.examples import Examples
from sdclr_jax.data.subsets import lists, longtail
from sdclr_jax.errors import ArgumentError, UserError

CLASSES, PER_CLASS = 5, 40
PROFILE = {"name": "cifar10", "n_max": 20, "imbalance": 10.0}
FILES = {
    "long_tail": "split3_D_i.npy",
    "balanced": "split3_D_b.npy",
    "few_shot": "split3_S_b.npy",
    "probe_train": "trainIdxList.npy",
    "validation": "valIdxList.npy",
}


@pytest.fixture(scope="module")
def examples():
    """200 images of five classes in a random order, with ids as CIFAR has them."""
    rng = np.random.default_rng(1)
    labels = rng.permutation(np.repeat(np.arange(CLASSES, dtype=np.int32), PER_CLASS))
    ids = np.array([f"train_{i:05d}" for i in range(len(labels))])
    return Examples(rng.integers(0, 256, (len(labels), 2, 2, 3), np.uint8), labels, ids, tuple("abcde"))


@pytest.fixture(scope="module")
def drawn(examples):
    arguments = {"n_max": 20, "imbalance": 10, "validation_per_class": 8, "few_shot_per_class": 4, "seed": 3}
    return longtail.draw(examples.labels, num_classes=CLASSES, **arguments)


@pytest.fixture
def folder(drawn, tmp_path):
    """Lists in the authors' form, each in an order of its own, as theirs are."""
    rng = np.random.default_rng(2)
    for subset, file in FILES.items():
        np.save(tmp_path / file, rng.permutation(getattr(drawn, subset)))
    return tmp_path


def read(folder, examples, **changes):
    arguments = PROFILE | changes
    return lists.subsets(lists.find(folder, arguments["name"], 3), examples, **arguments)


def assert_same(subsets, expected):
    for field, value in expected._asdict().items():
        assert np.array_equal(getattr(subsets, field), value), field
        assert getattr(subsets, field).dtype == value.dtype


def test_lists_give_the_subsets_that_they_hold(folder, examples, drawn):
    assert_same(read(folder, examples), drawn)


def test_lists_are_joined_on_ids_and_not_on_positions(folder, examples, drawn):
    """The same examples at other positions, with others among them."""
    more = np.array([f"aaa_{i:03d}" for i in range(7)])
    ids = np.concatenate([more, examples.ids])
    labels = np.concatenate([np.zeros(7, np.int32), examples.labels])
    subsets = read(folder, Examples(np.zeros((len(ids), 1, 1, 3), np.uint8), labels, ids, examples.class_names))
    for subset in FILES:
        assert np.array_equal(getattr(subsets, subset), getattr(drawn, subset) + 7)


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint16, ">i8"])
def test_any_type_of_whole_number(folder, examples, drawn, dtype):
    np.save(folder / FILES["long_tail"], drawn.long_tail.astype(dtype))
    assert_same(read(folder, examples), drawn)


def test_text_lists_hold_ids(folder, examples, drawn):
    (folder / FILES["few_shot"]).unlink()
    (folder / "split3_S_b.txt").write_text("\n".join(examples.ids[drawn.few_shot][::-1]) + "\r\n\n")
    assert_same(read(folder, examples), drawn)


def test_other_data_sets_have_their_name_in_front(folder, examples, drawn):
    for path in list(folder.iterdir()):
        path.rename(folder / f"cifar100_{path.name}")
    assert_same(read(folder, examples, name="cifar100"), drawn)
    with pytest.raises(
        ArgumentError, match=r"neither split3_D_i.npy nor split3_D_i.txt: put one list for each of split"
    ):
        read(folder, examples)


def test_ties_between_classes_go_by_label(folder, examples):
    for subset, file in FILES.items():
        each = {"validation": range(20, 25), "probe_train": range(20)}.get(subset, range(4))
        np.save(folder / file, [np.flatnonzero(examples.labels == c)[n] for c in range(CLASSES) for n in each])
    subsets = read(folder, examples, n_max=4, imbalance=1.0)
    assert subsets.class_order.tolist() == [0, 1, 2, 3, 4]
    assert subsets.train_counts.tolist() == [4] * 5


def save(numbers):
    return lambda path: np.save(path, numbers)


def replaced(numbers, old, new):
    return save(np.where(numbers == old, new, numbers))


def with_pickle(path):
    path.write_bytes(pickle.dumps([1, 2, 3]))


def object_array(path):
    np.save(path, np.array([1, "two"], object), allow_pickle=True)


def cut(path):
    path.write_bytes(path.read_bytes()[:-9])


def truncate(path):
    path.write_bytes(b"")


REMEDY = r"get the list again, or go without lists, which are then drawn by the paper's rule\.$"


@pytest.mark.parametrize("subset", FILES)
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (save(np.array([3, 5, 3])), "names train_00003 more than once; "),
        (save(np.array([3, 200])), "train_00200, but cifar10 has 200 training examples, train_00000 to train_00199; "),
        (save(np.array([3, -1])), r"names train_-0001, but cifar10 has 200 training examples"),
        (save(np.array([3.0, 5.0])), "of 1 dimensions and type float64, not a row of whole numbers"),
        (save(np.array([True, False])), "type bool, not a row"),
        (save(np.array([[3], [5]])), "of 2 dimensions and type int64"),
        (save(np.array(7)), "of 0 dimensions"),
        (save(np.array(["3"])), "type <U1"),
        (save(np.array([], np.int64)), "is empty; "),
        (object_array, r"cannot be read as a list \(an array of 1 dimensions and type object"),
        (with_pickle, "cannot be read as a list"),
        (cut, "cannot be read as a list"),
        (truncate, "cannot be read as a list"),
    ],
)  # fmt: skip
def test_no_list(folder, examples, subset, damage, message):
    damage(folder / FILES[subset])
    with pytest.raises(UserError, match=message) as error:
        read(folder, examples)
    assert str(error.value).startswith(str(folder / FILES[subset])) and "\n" not in str(error.value)
    assert re.search(REMEDY, str(error.value))


def test_nothing_in_a_list_is_executed(folder, examples):
    class Trap:
        def __reduce__(self):
            return pathlib.Path.touch, (folder / "sprung",)

    np.save(folder / FILES["long_tail"], np.array([Trap()], object), allow_pickle=True)
    with pytest.raises(UserError, match="cannot be read as a list"):
        read(folder, examples)
    assert not (folder / "sprung").exists()


def test_text_that_names_no_example(folder, examples):
    (folder / FILES["few_shot"]).unlink()
    for text, message in (
        ("train_00001\n41", "names 41, but"),
        ("", "is empty"),
        ("\udcff", "cannot be read as a list"),
    ):
        (folder / "split3_S_b.txt").write_bytes(text.encode(errors="surrogateescape"))
        with pytest.raises(UserError, match=message):
            read(folder, examples)


def test_lists_of_another_data_set(folder, examples, drawn):
    """Right numbers, wrong images: a shift by one gives each number another image's class."""
    np.save(folder / FILES["long_tail"], (drawn.long_tail + 1) % 200)
    with pytest.raises(
        UserError, match=r"split3_D_i.npy has \d+ images of the class of cifar10 that is number \d by fr"
    ):
        read(folder, examples)


@pytest.mark.parametrize(("changes", "number"), [({"n_max": 19}, 0), ({"imbalance": 8.0}, 2), ({"n_max": 20.9}, 4)])
def test_another_profile(folder, examples, drawn, changes, number):
    if changes == {"n_max": 20.9}:  # the rarest class has one image less
        rarest = np.flatnonzero(examples.labels[drawn.long_tail] == drawn.class_order[-1])[0]
        np.save(folder / FILES["long_tail"], np.delete(drawn.long_tail, rarest))
        changes = {}
    message = rf"that is number {number} by frequency, from 0, where n_max \d+ and imbalance \d+ give \d+; ch"
    with pytest.raises(UserError, match=message):
        read(folder, examples, **changes)


@pytest.mark.parametrize(
    ("subset", "left", "message"),
    [
        (
            "balanced",
            7,
            "has 7 to 8 images a class of cifar10 and not 8, the mean of the long tail, or 9;",
        ),
        ("few_shot", 3, "has 3 to 4 images a class of cifar10 and not the same number of each;"),
    ],
)
def test_unbalanced(folder, examples, drawn, subset, left, message):
    rows = getattr(drawn, subset)
    first = examples.labels[rows] == 0
    np.save(folder / FILES[subset], np.concatenate([rows[first][:left], rows[~first]]))
    with pytest.raises(UserError, match=message):
        read(folder, examples)


@pytest.mark.parametrize("subset", ["probe_train", "validation"])
def test_a_class_missing(folder, examples, drawn, subset):
    rows = getattr(drawn, subset)
    np.save(folder / FILES[subset], rows[examples.labels[rows] != 2])
    with pytest.raises(UserError, match=rf"{FILES[subset]} has no image of class 2 of cifar10; it belongs to another"):
        read(folder, examples)


@pytest.mark.parametrize("subset", ["long_tail", "balanced", "few_shot", "probe_train"])
def test_validation_images_must_not_be_trained_on(folder, examples, drawn, subset):
    rows = getattr(drawn, subset)
    same = rows[examples.labels[rows] == 1][0]
    other = drawn.validation[examples.labels[drawn.validation] == 1][0]
    np.save(folder / FILES[subset], np.where(rows == same, other, rows))
    message = rf"{FILES[subset]} and .*valIdxList.npy share 1 examples, such as {examples.ids[other]}, so validation"
    with pytest.raises(UserError, match=message):
        read(folder, examples)


@pytest.mark.parametrize("subset", FILES)
def test_a_missing_file(folder, examples, subset):
    (folder / FILES[subset]).unlink()
    with pytest.raises(ArgumentError, match=rf"{folder}, which holds neither {FILES[subset]} nor .*\.txt"):
        read(folder, examples)


def test_a_missing_split_names_those_that_are_there(folder):
    with pytest.raises(ArgumentError, match=rf"^split is 0: {folder} has lists of the splits 3$"):
        lists.find(folder, "cifar10", 0)


def test_two_files_for_one_list(folder):
    (folder / "valIdxList.txt").touch()
    with pytest.raises(ArgumentError, match="holds both valIdxList.npy and valIdxList.txt"):
        lists.find(folder, "cifar10", 3)


def test_no_folder(folder):
    for path in (folder / "none", folder / FILES["few_shot"]):
        with pytest.raises(
            ArgumentError, match=rf"^folder is {path}, which is no folder: give the folder of the lists"
        ):
            lists.find(path, "cifar10", 3)


def test_the_home_folder(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder.parent))
    assert lists.find(f"~/{folder.name}", "cifar10", 3)["long_tail"] == folder / FILES["long_tail"]


# Through the config


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return str(tmp_path_factory.mktemp("data"))


def test_a_run_reads_the_lists_that_its_config_names(data_dir, tmp_path):
    """Drawn lists, written down as text and read again, are the same data; another split is not there."""
    config = digits_lt.get_config()
    config.data.seed = 2
    drawn = recipes.data(config, data_dir)
    for subset, pattern in lists.NAMES.items():
        text = io.StringIO()
        print(*drawn.part(subset).ids, sep="\n", file=text)
        (tmp_path / f"digits_{pattern.format(2)}.txt").write_text(text.getvalue())
    config.data.lists, config.data.split = str(tmp_path), 2
    given = recipes.data(config, data_dir)
    assert_same(given.subsets, drawn.subsets._replace(class_order=given.subsets.class_order))
    counts = given.subsets.train_counts[given.subsets.class_order]
    assert counts.tolist() == sorted(counts.tolist(), reverse=True)
    assert longtail.list_hash(given.part("long_tail").ids) == longtail.list_hash(drawn.part("long_tail").ids)
    config.data.split = 1
    with pytest.raises(UserError, match=r"^data\.split is 1: .* has lists of the splits 2$"):
        recipes.data(config, data_dir)


def test_images_that_are_listed_are_left_out_of_what_is_trained_on_and_of_nothing_else(data_dir, tmp_path):
    config = digits_lt.get_config()
    whole = recipes.data(config, data_dir)
    ids = whole.part("long_tail").ids
    path = tmp_path / "without.txt"
    path.write_text("\n".join(ids[[5, 0, 9]]) + "\n")
    config.data.without = "gs://bucket/without.txt"
    with pytest.raises(UserError, match="without.txt is in a bucket, and the list of data.without is read from a disk"):
        recipes.data(config, None)
    config.data.without = str(path)
    found = recipes.data(config, data_dir)
    stay = np.delete(ids, [0, 5, 9])
    assert found.part("long_tail").ids.tolist() == stay.tolist()
    assert_same(found.subsets._replace(long_tail=whole.subsets.long_tail), whole.subsets)
    about = found.about("long_tail")
    assert (about.images, about.sha256) == (len(ids) - 3, longtail.list_hash(stay))
    assert about.sha256 != whole.about("long_tail").sha256
    other = next(i for i in whole.train.ids if i not in set(ids))
    for content, said in (
        (f"{ids[0]}\n{other}", rf"names {other}, which is not among the 369 examples of long_tail: give ids such as"),
        ("\n".join(ids), "names all 369 examples of long_tail: leave some to train on"),
        (f"{ids[0]}\n{ids[0]}", f"names {ids[0]} more than once; give a file with an example id a line"),
    ):
        path.write_text(content)
        with pytest.raises(UserError, match=said):
            recipes.data(config, data_dir)


def test_a_wrong_folder_is_told_before_data_are_read(tmp_path):
    config = digits_lt.get_config()
    config.data.lists = str(tmp_path / "none")
    with pytest.raises(UserError, match="which is no folder"):
        recipes.data(config, str(tmp_path / "data"))
    assert not list(tmp_path.iterdir())


def header(text: str, data: bytes = b"") -> bytes:
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + data


@pytest.mark.parametrize(
    "content",
    [
        header("{'descr': '<i8', 'fortran_order': False, 'shape': (1000000000000,)}", bytes(8)),
        header("{'descr': '<i8', 'fortran_order': False, 'shape': (-1,)}", bytes(8)),
        header("{'descr': '<i8', 'fortran_order': False, 'shape': (2,)}", bytes(8)),
        header("{'descr': '<i8', 'fortran_order': False, 'shape': (1L,)"),
        header("((((((((("),
        header('"' * 3),
        header("{'descr': 'O', 'fortran_order': False, 'shape': (1,)}", bytes(8)),
        header("[" * 5000),
        b"\x93NUMPY\x07\x00",
        b"",
    ],
)
def test_whatever_the_header_of_a_list_says(tmp_path, content):
    (tmp_path / "x.npy").write_bytes(content)
    with pytest.raises(UserError, match=r"x\.npy cannot be read as a list \(") as error:
        lists.read(tmp_path / "x.npy")
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


@settings(max_examples=200, deadline=None)
@given(st.text("{}()[]',:<i8descrshapfn_oFal Lb0\n\"\\", max_size=60), st.binary(max_size=16))
def test_any_header_is_read_or_refused(tmp_path_factory, text, data):
    path = tmp_path_factory.getbasetemp() / "any.npy"
    path.write_bytes(header(text, data))
    with pytest.raises(UserError, match="cannot be read as a list"):
        lists.read(path)


def test_a_pipe_or_a_device_is_no_list(tmp_path):
    os.mkfifo(tmp_path / "x.txt")
    (tmp_path / "x.npy").symlink_to("/dev/zero")
    for name in ("x.txt", "x.npy"):
        with pytest.raises(UserError, match=r"cannot be read as a list \(not a file of data\)"):
            lists.read(tmp_path / name)


def test_a_list_with_a_byte_order_mark(tmp_path):
    (tmp_path / "x.txt").write_bytes(b"\xef\xbb\xbftrain_00001\r\ntrain_00002\r\n")
    assert lists.read(tmp_path / "x.txt") == ["train_00001", "train_00002"]
