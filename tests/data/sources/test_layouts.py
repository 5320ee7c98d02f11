"""What directories and manifests of real people mean."""

import codecs
import os
import time
import types
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdclr_jax import recipes
from sdclr_jax.data.sources import layouts, manifests
from sdclr_jax.data.sources.layouts import from_directories, split_of, with_test
from sdclr_jax.data.sources.manifests import from_manifest
from sdclr_jax.errors import UserError

SPLITS = {
    "train": ("train", "Train", "TRAINING", "train_set", "Train-Images", "01_train", "trainset", "train2017", "trn"),
    "val": ("val", "Valid", "VALIDATION", "dev", "Dev-Set", "val2017", "validation data", "eval"),
    "test": ("test", "Test", "testing", "TEST_IMAGES", "testset", "test2", "hold-out"),
}


@pytest.mark.parametrize(("split", "name"), [(split, name) for split, names in SPLITS.items() for name in names])
def test_splits_are_recognised_as_people_write_them(split, name):
    assert split_of(name) == split


def test_names_that_are_no_splits():
    names = ("cat", "contest", "trainer", "latest", "1", "2017", "images", "", "set", "value", "developer", "tests")
    assert [name for name in names if split_of(name)] == []


@pytest.mark.parametrize(
    "name",
    [
        "LIDC_1.3.6.1.4.1.14519.5.2.1.6279.6001.100225287222365663678666836860_axial",
        "train" + "1" * 90 + "x",
        "a" + "dataset" * 14 + "b",
        "a" + "imagesset" * 10 + "!b",
        "1" * 10**6 + "b",
    ],
)
def test_no_name_takes_longer_than_others(name):
    began = time.process_time()
    assert split_of(name) is None and split_of(f"{'1' * 60}_train_dataset_{'2' * 20}") == "train"
    assert time.process_time() - began < 1  # it was for ever


@pytest.mark.parametrize(
    ("train", "test"), [("Train", "Test"), ("training", "testing"), ("train", "dev"), ("TRAIN_SET", "Validation")]
)
def test_split_folders_are_no_classes(tmp_path, train, test):
    paths = sorted(f"{split}/{c}/{i}.png" for split in (train, test) for c in "ab" for i in "12")
    table = with_test(from_directories(paths, tmp_path), 0)
    note = "There is no test: the images of val are the test images, and validation images are drawn from train."
    assert table.class_names == ("a", "b") and not table.drawn
    assert table.notes == (() if split_of(test) == "test" else (note,))
    assert [split == "test" for split in table.splits] == [path.startswith(test) for path in paths]


def test_val_without_test_is_the_test_set(tmp_path):
    """So who lacks images for validation is told to put some into both."""
    for splits, expected in (("train val", {"train", "test"}), ("train val test", {"train", "val", "test"})):
        paths = sorted(f"{split}/{c}/{i}.png" for split in splits.split() for c in "ab" for i in "12")
        assert set(with_test(from_directories(paths, tmp_path), 0).splits) == expected
    with pytest.raises(UserError, match="^digits has no images for validation.*into `val` and some into `test`$"):
        nothing = types.SimpleNamespace(subsets=types.SimpleNamespace(validation=()))
        recipes.protocols(recipes.load("digits_lt:sdclr"), nothing)


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (["one/a/1.png", "one/b/1.png", "two/a/1.png", "two/b/1.png"], "'one' and 'two', which hold the .*'a', 'b'"),
        (["cat/train/1.png", "cat/test/1.png", "dog/train/1.png", "dog/test/1.png"], "'cat' and 'dog', which hold the"),
        (["x/a/1.png", "x/b/1.png", "x/c/1.png", "y/a/1.png", "y/b/1.png", "z/q/1.png"], "'x' and 'y', which hold"),
        (["cat/1.png", "dog/1.png", "test/1.png"], "has test, and 'cat' beside them: move that elsewhere"),
        (["train/a/1.png", "Training/a/1.png"], "has both Training and train, which stand for one split: put them"),
        (["val/a/1.png", "test/b/1.png"], "has test and val and no train: put images to train on into train"),
        (["cat/1.png", "Cat/1.png"], "the class directory 'Cat' and 'cat', which are most likely one"),
    ],
)  # fmt: skip
def test_what_cannot_be_told_is_refused(tmp_path, paths, message):
    with pytest.raises(UserError, match=message) as error:
        from_directories(sorted(paths), tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("paths", "classes"),
    [
        (["bus/1.png", "train/1.png", "car/1.png"], ("bus", "car", "train")),  # vehicles
        (["Bus/1.png", "Train/1.png", "Car/1.png"], ("Bus", "Car", "Train")),
        (["cat/images/1.png", "dog/images/1.png"], ("cat", "dog")),
        (["cat/1/1.png", "cat/2/1.png", "dog/3/1.png", "dog/1/1.png", "dog/4/1.png"], ("cat", "dog")),
    ],
)
def test_classes_that_look_a_little_like_splits(tmp_path, paths, classes):
    table = from_directories(sorted(paths), tmp_path)
    assert table.class_names == classes
    assert bool(table.notes) == ("train" in classes or "Train" in classes)


def test_numbers_in_class_names_are_sorted_as_numbers_unless_asked_otherwise(tmp_path):
    names = ["10", "2", "1", "a10", "a9", "B", "01b"]
    paths = sorted(f"{name}/1.png" for name in names)
    assert from_directories(paths, tmp_path).class_names == ("1", "01b", "2", "10", "B", "a9", "a10")
    text = from_directories(paths, tmp_path, "text")
    assert text.class_names == tuple(sorted(names)) == ("01b", "1", "10", "2", "B", "a10", "a9")
    assert [text.class_names[c] for c in text.labels] == [path.split("/")[0] for path in paths]


def test_a_class_without_a_test_image_is_told_of(tmp_path):
    paths = sorted([f"{c}/{i}.png" for c in ("cat", "dog") for i in range(5)] + ["newt/1.png"])
    (note,) = with_test(from_directories(paths, tmp_path), 0).notes
    assert note == "The class 'newt' has no test image, and so no score; means are over the other classes."
    many = sorted([*paths, *(f"n{i}/1.png" for i in range(5))])
    (note,) = with_test(from_directories(many, tmp_path), 0).notes
    assert note.startswith("The classes 'n0', 'n1', 'n2' and 3 more have no test image")


# Manifests


@pytest.fixture
def told(tmp_path):
    def told(text, paths=("a/1.png", "a/2.png", "b/3.png"), encoding="utf-8", **options):
        (tmp_path / "m.csv").write_bytes(text if isinstance(text, bytes) else text.encode(encoding))
        return from_manifest(tmp_path / "m.csv", paths, (), **options)

    return told


ROWS = [("a/1.png", "x", "train"), ("a/2.png", "y", "train"), ("b/3.png", "x", "test")]


@pytest.mark.parametrize(
    "header",
    ["path,label,split", "path,label, split", " Path , Label,Split", "path,label,subset", "File Name,Class,Partition",
     "image_path,category,set", "filename,class_name,SPLIT", "path\ufeff,label,phase"],
)  # fmt: skip
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_headers_are_recognised_as_people_write_them(told, header, delimiter):
    lines = [header.replace(",", delimiter), *map(delimiter.join, ROWS)]
    table = told("\n".join(lines))
    assert table.class_names == ("x", "y") and table.splits == ["train", "train", "test"]
    assert table.labels.tolist() == [0, 1, 0] and set(table.columns.values()) == {"path", "label", "split"}


def test_columns_that_are_not_used_are_named(told):
    table = told("path,label,camera,Fold\na/1.png,x,c,0\na/2.png,y,c,1\n")
    assert table.columns == {"path": "path", "label": "label", "camera": "", "Fold": ""}
    assert table.splits == ["train", "train"]
    table = told("path,label,subset\na/1.png,x,north\na/2.png,y,south\n")
    assert table.columns["subset"] == "" and table.splits == ["train", "train"]
    table = told("path,class,label\na/1.png,q,x\na/2.png,q,y\n")
    assert table.class_names == ("x", "y") and table.columns["class"] == ""
    table = told("path,red,round\na/1.png,1,0\n")
    assert table.columns == {"path": "path", "red": "attribute", "round": "attribute"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,class,category\na/1.png,x,y\n", "line 1, has the columns 'class' and 'category': name the one"),
        ("path,label,subset\na/1.png,x,train\na/2.png,y,tset\n", "line 3, has the split 'tset': write train, val or"),
        ("path,label,split\na/1.png,x,north\na/2.png,y,south\n", "line 2, has the split 'north': write train, val"),
        ("path,label\na/1.png,x\na/2.png,nan\n", "line 3, has the label 'nan', which stands for none: fill it in"),
        ("path,label\na/1.png,0\na/2.png,-1\nb/3.png,1\n", "line 3, has the label '-1', which stands for none"),
        ("path,label\na/1.png,Cat\na/2.png,cat\n", "has the class 'Cat' and 'cat', which are most likely one: write"),
        ("path,label\na/1.png,0\na/2.png,0.0\nb/3.png,1\n", "has the class '0' and '0.0', which are most likely one"),
        ("path,red\na/1.png,\x1c1\n", r"line 2, has '\\x1c1' for red: without a column label, all others must be 0"),
        ("path,red\na/1.png,\u0661\n", "line 2, has '\u0661' for red"),
        ("path,label,\na/1.png,x,?\n", r"line 1, has the columns \['path', 'label', ''\]: each must have its own name"),
        ("path,label,\na/1.png,x\na/2.png,y,,?\n", "line 3, does not have 2 fields"),
        ("path\nC:\\Users\\a\\1.png\n", "which leads out of the folder"),
        ("path\n..\\a\\1.png\n", "which leads out of the folder"),
        ("path\n" + "a/" * 5000 + "1.png\n", "which is no image in the folder"),
        ("path\na/1\0.png\n", "which is no image in the folder|cannot be read as CSV"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused(told, text, message):
    with pytest.raises(UserError, match=message) as error:
        told(text)
    assert "\n" not in str(error.value)


def test_numbers_of_any_length_are_classes(told):
    large = "9" * 5000
    assert told(f"path,label\na/1.png,{large}\na/2.png,10\nb/3.png,2\n").class_names == ("2", "10", large)


def test_minus_one_and_one_are_two_classes(told):
    assert told("path,label\na/1.png,-1\na/2.png,1\n").class_names == ("-1", "1")


def test_paths_are_found_however_they_are_written(told):
    composed, decomposed = (unicodedata.normalize(form, "né/é 1.png") for form in ("NFC", "NFD"))
    assert composed != decomposed
    for there, written in ((composed, decomposed), (decomposed, composed)):
        assert told(f"path\n{written}\n", [there]).paths == [there]
    with pytest.raises(UserError, match="is no image in the folder"):  # it could be either
        told("path\ne\u0301\u0323.png\n", ["e\u0323\u0301.png", "\u1eb9\u0301.png"])
    assert told("path\n.\\a\\1.png\na\\2.png\n").paths == ["a/1.png", "a/2.png"]
    assert told("path\na\\1.png\n", ["a\\1.png", "a/1.png"]).paths == ["a\\1.png"]  # a name may have one
    odd = ["A: front.png", "C:\\1.png", '"=\n\r, ;|.png', " x.png", "\ufeffy.png", "..\\z.png"]  # no paths of Windows
    rows = "".join('"' + name.replace('"', '""') + '"\n' for name in odd)
    assert told(f"path\n{rows}", odd).paths == sorted(odd)
    one = unicodedata.normalize("NFD", "né")
    assert told(f"path,label\na/1.png,né\na/2.png,{one}\nb/3.png,x\n").class_names == ("né", "x")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_what_spreadsheets_write_is_read(told, encoding):
    """Rows and columns of empty cells, too, and lines without them."""
    rows = "\t\t\t\r\n\tpath\tlabel\t\r\n\ta/1.png\tü\t\r\n \t\t\t\t\r\n\ta/2.png\ty\r\n\r\n"
    table = told(rows, encoding=encoding)
    assert table.class_names == ("y", "ü") and table.paths == ["a/1.png", "a/2.png"]
    with pytest.raises(UserError, match="cannot be read as CSV"):
        told(codecs.BOM_UTF16_LE + b"p")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("first", ["", "sep=;\n", "SEP=|\n"])
def test_lines_may_end_as_anywhere_and_the_first_may_say_what_separates(told, first, end):
    mark = first[4:5] or ";"
    table = told(f"{first}path;label\na/1.png;x\na/2.png;y\n".replace(";", mark).replace("\n", end))
    assert table.class_names == ("x", "y") and table.paths == ["a/1.png", "a/2.png"]
    with pytest.raises(UserError, match=f"line {4 if first else 3}, names 'a/9.png', which is no image"):
        told(f"{first}path;label\na/1.png;x\na/9.png;y\n".replace(";", mark).replace("\n", end))


def test_row_numbers_without_a_name_are_not_used(told):
    """As pandas writes them; they are no attribute."""
    for text, classes in (
        (",path,label\n0,a/1.png,x\n1,a/2.png,y\n", ("x", "y")),
        (",path,red\n0,a/1.png,1\n", ("red",)),
    ):
        table = told(text)
        assert table.class_names == classes and "" not in table.columns
        assert table.notes == ("The manifest's first column has no name, and is not used.",)
    for text in ("path,label,\na/1.png,x,1\n", ",path,\n0,a/1.png,x\n"):
        with pytest.raises(UserError, match="line 1, has the columns .*: each must have its own name"):
            told(text)


def test_a_pipe_or_a_device_is_not_waited_for(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(UserError, match=r"cannot be read as CSV \(not a file of data\)"):
            from_manifest(path, ["a"], ())
    (tmp_path / "m.csv").write_text("path\na\n")
    monkeypatch.setattr(manifests, "LARGEST", 5)
    with pytest.raises(UserError, match=r"cannot be read as CSV \(larger than 5 bytes\)"):
        from_manifest(tmp_path / "m.csv", ["a"], ())


WORDS = st.sampled_from(
    ["path", "label", "split", "Path ", "a/1.png", "a/2.png", "x", "train", "1", "0", "-1", ",", ";", "\n", "\r", '"']
    + ["\0", "\ufeff", "\x1c", "nan", "\t", "|", "/", "..", "é", "\ud800"]
)


@settings(max_examples=300, deadline=None)
@given(st.lists(WORDS, max_size=30).map("".join) | st.binary(max_size=40))
def test_whatever_a_manifest_says_it_is_a_table_or_refused(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "any.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode(errors="surrogatepass"))
    try:
        table = with_test(from_manifest(path, ["a/1.png", "a/2.png"], ["bad.png"]), 0)
    except UserError as error:
        assert "\n" not in str(error)
    else:
        assert len(table.paths) == len(table.splits) == len(table.labels) and np.all(table.labels >= -1)


def test_the_orders_are_those_of_the_config():
    assert layouts.CLASS_ORDERS == ("natural", "text")
