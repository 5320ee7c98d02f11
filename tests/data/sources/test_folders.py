import csv
import io
import pathlib
import re
import shutil

import numpy as np
import pytest
from PIL import ExifTags, Image, TiffImagePlugin

from sdclr_jax.data import copies, crops, images, sources
from sdclr_jax.data.sources import folders
from sdclr_jax.errors import ArgumentError, UserError
from sdclr_jax.records.config import of_today
from tests.pictures import picture, pixels, put


def load(root, data_dir, split="train", **where):
    return sources.source(f"folder:{root}", data_dir, **where).load(split)


def both(root, data_dir, **where):
    return load(root, data_dir, **where), load(root, data_dir, "test", **where)


@pytest.fixture
def classes(tmp_path):
    """Images of many sizes in three classes of 10, 5 and 1."""
    names = [f"{c}/{i}.png" for c, n in (("cat", 10), ("dog été", 5), ("newt", 1)) for i in range(n)]
    put(tmp_path / "photos", names)
    return tmp_path / "photos"


@pytest.fixture
def data_dir(tmp_path):
    return tmp_path / "data"


def test_flat_images_have_no_labels_and_no_test(tmp_path, data_dir):
    put(tmp_path / "photos", ["b.png", "a.png", "ü.png"])
    train, test = both(tmp_path / "photos", data_dir)
    assert train.ids.tolist() == ["a.png", "b.png", "ü.png"] and train.class_names == ()
    assert train.labels.tolist() == [-1, -1, -1] and train.labels.dtype == np.int32 and train.held_out is None
    assert len(test.ids) == len(test.images) == 0
    assert isinstance(train.images, images.Files) and train.images.read(1) == picture(0)
    assert train.images.name(0) == str(tmp_path / "photos" / "a.png")


def test_a_directory_a_class(classes, data_dir):
    train, test = both(classes, data_dir)
    assert train.class_names == test.class_names == ("cat", "dog été", "newt")
    ids = train.ids.tolist() + test.ids.tolist()
    assert sorted(ids) == sorted(str(path.relative_to(classes)) for path in classes.glob("*/*"))
    for examples in (train, test):
        assert examples.ids.tolist() == sorted(examples.ids.tolist())
        assert [examples.class_names[c] for c in examples.labels] == [i.split("/")[0] for i in examples.ids]
        for row, name in enumerate(examples.ids):
            assert examples.images.read(row) == (classes / name).read_bytes()
    assert np.bincount(test.labels, minlength=3).tolist() == [2, 1, 0]  # a fifth, and never the only one


def test_drawn_test_images_are_a_function_of_the_seed_and_written_down(classes, data_dir, tmp_path):
    tests = {seed: load(classes, data_dir, "test", seed=seed).ids.tolist() for seed in range(4)}
    assert len({tuple(ids) for ids in tests.values()}) > 1
    assert load(classes, tmp_path / "other", "test", seed=2).ids.tolist() == tests[2]
    about = sources.source(f"folder:{classes}", data_dir, seed=3).provenance()
    assert about["test"] == "0.2 of each class, drawn with data.seed 3"
    with open(about["test_list"], newline="", encoding="utf-8-sig") as file:
        assert [row["path"] for row in csv.DictReader(file)] == tests[3]
    put(classes, ["cat/later.png"])  # one more image moves at most one other into or out of the test images
    assert len(set(load(classes, data_dir, "test", seed=3).ids) ^ set(tests[3])) <= 2


def test_the_first_use_and_prepare_do_the_same(classes, data_dir, tmp_path):
    folder = sources.source(f"folder:{classes}", tmp_path / "prepared").prepare()
    load(classes, data_dir)
    kept = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert set(kept) == {"index.json", "skipped.csv", "test_split0.csv"}
    assert kept == {path.name: path.read_bytes() for path in (data_dir / "folders" / folder.name).iterdir()}


def test_names_that_a_spreadsheet_would_take_for_formulas_are_listed_as_text(tmp_path, data_dir):
    root = tmp_path / "photos"
    put(root, [f"{name}/{i}.png" for name in ("=a", "-b") for i in range(10)])
    (root / "=a" / "bad.png").write_bytes(b"x")
    about = sources.source(f"folder:{root}", data_dir)
    drawn = load(root, data_dir, "test").ids.tolist()
    with open(about.provenance()["test_list"], newline="", encoding="utf-8-sig") as file:
        assert [row["path"] for row in csv.DictReader(file)] == [f"'{path}" for path in drawn] != []
    assert "'=a/bad.png,not an image" in pathlib.Path(about.provenance()["skipped_list"]).read_text()


def test_provenance_says_what_was_skipped(classes, data_dir):
    (classes / "cat" / "bad.png").write_bytes(b"x")
    about = sources.source(f"folder:{classes}", data_dir).provenance()
    assert (about["folder"], about["images"], about["skipped"]) == (str(classes), 16, 1)
    assert "cat/bad.png,not an image" in pathlib.Path(about["skipped_list"]).read_text()


@pytest.mark.parametrize("test", ["val", "test", "validation"])
def test_directories_of_splits(tmp_path, data_dir, test):
    put(tmp_path / "p", ["train/a/1.png", "train/a/deep/2.png", "train/b/1.png", f"{test}/a/1.png", f"{test}/b/1.png"])
    train, held = both(tmp_path / "p", data_dir)
    assert train.ids.tolist() == ["train/a/1.png", "train/a/deep/2.png", "train/b/1.png"]
    assert train.labels.tolist() == [0, 0, 1] and train.class_names == ("a", "b") and train.held_out is None
    assert held.ids.tolist() == [f"{test}/a/1.png", f"{test}/b/1.png"] and held.labels.tolist() == [0, 1]
    assert "test" not in sources.source(f"folder:{tmp_path / 'p'}", data_dir).provenance()  # nothing was drawn


def test_all_three_splits(tmp_path, data_dir):
    put(tmp_path / "p", [f"{split}/{c}/{i}.png" for split in ("train", "val", "test") for c in "ab" for i in range(2)])
    train, test = both(tmp_path / "p", data_dir)
    assert train.held_out.tolist() == [i.startswith("val") for i in train.ids] and train.held_out.sum() == 4
    assert test.held_out is None and len(test.ids) == 4
    assert train.take(np.array([7, 0])).held_out.tolist() == [True, False]


def test_flat_splits_have_no_labels(tmp_path, data_dir):
    put(tmp_path / "p", ["train/1.png", "train/2.png", "test/1.png"])
    train, test = both(tmp_path / "p", data_dir)
    assert train.ids.tolist() == ["train/1.png", "train/2.png"] and train.class_names == ()
    assert test.ids.tolist() == ["test/1.png"]


def test_images_of_one_size_are_decoded_at_once(tmp_path, data_dir, monkeypatch):
    put(tmp_path / "p", [f"{c}/{i}.png" for c in "ab" for i in range(5)], width=7, height=4)
    train, test = both(tmp_path / "p", data_dir)
    assert train.images.dtype == np.uint8 and train.images.shape == (8, 4, 7, 3) and test.images.shape == (2, 4, 7, 3)
    for row, name in enumerate(train.ids):
        assert np.array_equal(train.images[row], pixels((tmp_path / "p" / name).read_bytes()))
        assert train.path(row) == str(tmp_path / "p" / name)
    assert train.take(np.array([7])).path(0) == train.path(7)
    monkeypatch.setattr(folders, "RESIDENT_BYTES", 10 * 4 * 7 * 3)
    assert isinstance(load(tmp_path / "p", data_dir).images, np.ndarray)
    monkeypatch.setattr(folders, "RESIDENT_BYTES", 10 * 4 * 7 * 3 - 1)
    assert isinstance(load(tmp_path / "p", data_dir).images, images.Files)


def test_an_image_that_can_no_longer_be_read(tmp_path, monkeypatch):
    put(tmp_path, ["a.png", "b.png"], width=7, height=4)
    files = images.Files(tmp_path, np.array(["a.png", "b.png"]))
    for content, message in ((picture(0, 1, 1), "another size than 7 x 4"), (b"x", "not an image")):
        (tmp_path / "b.png").write_bytes(content)
        said = rf"^{tmp_path}/b\.png could be decoded before, .* now \({message}.*\): run again if .*, else mend it or"
        with pytest.raises(UserError, match=said):
            folders.decoded(files, 4, 7)
    with pytest.raises(UserError, match=said):
        copies.make(files, 4, 4)
    monkeypatch.setattr(images.Files, "read", lambda *_: (tmp_path / "b.png" / "none").read_bytes())
    with pytest.raises(UserError, match=r"/a\.png could .*, and cannot be read now \(Not a directory\): "):
        copies.make(files, 4, 4)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], r"p holds no usable image \(none at all\); give a folder of JPEG, PNG or other images\.$"),
        (["notes.txt"], r"holds no usable image \(none at all\)"),
        (["bad.png", "worse.jpg"], r"holds no usable image \(2 skipped, see .*skipped\.csv, most of them as: not an"),
        (["only/1.png", "only/2.png"], r"p has the class directory 'only' only, and telling classes apart takes"),
        (["train/a/1.png", "test/a/1.png"], r"the class directory 'a' only"),
        (["a/1.png", "b/1.png", "c.png"], r"both beside directories \('c\.png'\) and in them \('a/1\.png'\): move"),
        (["train/a/1.png", "train/b/1.png", "test/c/1.png"], r"The class 'c' has no image to train on: put"),
        (["train/1.png", "test/1.png", "more/1.png"], r"p has test and train, and 'more' beside them: move"),
    ],
)  # fmt: skip
def test_refused(tmp_path, data_dir, names, message):
    (tmp_path / "p").mkdir()
    put(tmp_path / "p", names)
    for name in names:
        if name in ("bad.png", "worse.jpg", "notes.txt"):
            (tmp_path / "p" / name).write_bytes(b"nothing")
    with pytest.raises(UserError, match=message) as error:
        load(tmp_path / "p", data_dir)
    assert "\n" not in str(error.value)


def test_arguments_that_do_not_fit(tmp_path, data_dir):
    put(tmp_path / "p", ["1.png", "2.png"])
    name = f"folder:{tmp_path / 'p'}"
    for call, message in (
        (
            lambda: sources.source("folder:", data_dir).load("train"),
            "'folder:' without a path: write folder:/path",
        ),
        (
            lambda: sources.source("folder:/none/here", data_dir).load("train"),
            "^name is folder:/none/here, where there is no folder",
        ),
        (
            lambda: sources.source(name, data_dir).load("validation"),
            r"Split 'validation' is not in .*; choose one of: train, test",
        ),
        (lambda: sources.source(name, data_dir).prepare(archive="x"), "leave out --archive and --accept_checksum"),
        (
            lambda: sources.source(name, data_dir, root="/x").load("train"),
            r"^root is '/x', which folder:.* does not use",
        ),
        (
            lambda: sources.source("digits", data_dir, root="/x").load("train"),
            r"^root is '/x', which digits does not use",
        ),
        (
            lambda: sources.source("digits", data_dir, manifest="m").load("train"),
            "only folder:/path reads one: leave",
        ),
    ):
        with pytest.raises((ArgumentError, UserError), match=message):
            call()
    assert not data_dir.exists()


def test_a_path_from_home_and_from_here(tmp_path, data_dir, monkeypatch):
    put(tmp_path / "p", ["1.png", "2.png"])
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    known = {sources.source(f"folder:{path}", data_dir).prepare() for path in ("~/p", "p", "./q/../p/", tmp_path / "p")}
    assert len(known) == 1


# Manifests


@pytest.fixture
def manifest(tmp_path):
    """Write the CSV, and load what it tells of four images and a broken one."""
    put(tmp_path / "p", ["x/1.png", "x/2.png", "y, z/3.png", "4.png"])
    (tmp_path / "p" / "bad.png").write_bytes(b"x")

    def load(text, encoding="utf-8"):
        (tmp_path / "m.csv").write_bytes(text.encode(encoding))
        return both(tmp_path / "p", tmp_path / "data", manifest=str(tmp_path / "m.csv"))

    return load


def test_a_manifest_with_labels_and_splits(manifest, tmp_path):
    train, test = manifest(
        'split,label,path,camera\r\ntrain,b,x/1.png,c1\r\nTrain,a,./x/2.png,\r\ntest,a,"y, z/3.png",c2\r\n'
        "val, b ,4.png,\r\ntrain,a,bad.png,\r\n",
        "utf-8-sig",
    )
    assert train.ids.tolist() == ["4.png", "x/1.png", "x/2.png"] and train.class_names == ("a", "b")
    assert train.labels.tolist() == [1, 1, 0] and train.held_out.tolist() == [True, False, False]
    assert test.ids.tolist() == ["y, z/3.png"] and test.labels.tolist() == [0]


def test_a_manifest_of_paths_alone_means_no_labels(manifest, tmp_path):
    train, test = manifest("path\nx/1.png\n4.png\n")
    assert train.ids.tolist() == ["4.png", "x/1.png"] and train.class_names == () and not len(test.ids)
    about = sources.source(f"folder:{tmp_path / 'p'}", tmp_path / "data", manifest=str(tmp_path / "m.csv")).provenance()
    assert about["manifest"] == str(tmp_path / "m.csv") and about["not_in_manifest"] == 2 and about["skipped"] == 1
    assert re.fullmatch("[0-9a-f]{64}", about["manifest_sha256"])


def test_columns_of_0_and_1_are_attributes(manifest):
    train, test = manifest('path,red,round\nx/1.png,1,0\nx/2.png,1,1\n4.png,0,0\n"y, z/3.png",0,1\n')
    assert train.class_names == ("red", "round") and train.labels.dtype == np.uint8 and len(test.ids) == 1
    rows = dict(
        zip(train.ids.tolist() + test.ids.tolist(), [*train.labels.tolist(), *test.labels.tolist()], strict=True)
    )
    assert rows == {"x/1.png": [1, 0], "x/2.png": [1, 1], "4.png": [0, 0], "y, z/3.png": [0, 1]}


def test_a_drawn_test_of_attributes_is_a_fifth_of_all(tmp_path, data_dir):
    put(tmp_path / "p", [f"{i}.png" for i in range(10)])
    (tmp_path / "m.csv").write_text("path,red\n" + "".join(f"{i}.png,{i % 2}\n" for i in range(10)))
    assert len(load(tmp_path / "p", data_dir, "test", manifest=tmp_path / "m.csv").ids) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"line 1, has the columns \[\]: there must be one named path"),
        ("photo,label\nx/1.png,a\n", "line 1, has the columns .*: there must be one named path"),
        ("path,path\nx/1.png,4.png\n", "each must have its own name"),
        ("path,label\n/etc/passwd,a\n", "line 2, names '/etc/passwd', which leads out of the folder: give"),
        ("path,label\nx/../../secret.png,a\n", "line 2, names .*, which leads out of the folder"),
        ("path,label\nx/1.png,a\nx//1.png,b\n", "line 3, names 'x/1.png' a second time: keep one"),
        ("path,label\nx/9.png,a\n", "line 2, names 'x/9.png', which is no image in the folder: correct"),
        ("path,label\nx/1.png\n", "line 2, does not have 2 fields: give each line one field a column"),
        ("path,label\nx/1.png,a,b\n", "line 2, does not have 2 fields"),
        ("path,label\nx/1.png,a\n4.png, \n", "line 3, has no label: fill it in, or remove the column label"),
        ("path,label\nx/1.png,a\n4.png,a\n", "has the class 'a' only, and telling classes apart takes two"),
        ("path,label,split\nx/1.png,a,tset\n", "line 2, has the split 'tset': write train, val or test"),
        ("path,red,age\nx/1.png,1,41\n", "line 2, has '41' for age: without a column label, all others must"),
        ("path,label\n", "names no usable image; list the images of the folder in it"),
        ("path,label\nbad.png,a\n", "names no usable image"),
        ("path,split\nx/1.png,test\n", "All images are for validation or testing: put some into train"),
        ('path\n"x/1.png\n', "cannot be read as CSV"),
    ],
)  # fmt: skip
def test_bad_manifests(manifest, text, message):
    with pytest.raises(UserError, match=message) as error:
        manifest(text)
    assert "\n" not in str(error.value)


def test_a_manifest_that_cannot_be_read(manifest, tmp_path):
    with pytest.raises(UserError, match=r"m\.csv cannot be read as CSV \(.*\); give a UTF-8 CSV file\.$"):
        manifest("path\nü.png\n", "latin-1")
    with pytest.raises(UserError, match=r"none\.csv cannot be read as CSV \(No such file or directory\)"):
        load(tmp_path / "p", tmp_path / "data", manifest="none.csv")


# What a person is told.


def notes(root, data_dir, **where):
    return sources.source(f"folder:{root}", data_dir, **where).provenance()["notes"]


def test_copies_across_splits_and_classes_are_counted(tmp_path, data_dir):
    put(tmp_path / "p", [f"train/{c}/{i}.png" for c in "ab" for i in range(3)])
    shutil.copytree(tmp_path / "p" / "train", tmp_path / "p" / "test")
    (note,) = notes(tmp_path / "p", data_dir)
    assert note.startswith("Copies of images that are trained on: 6 test images, such as test/a/0.png of train/a/0")
    shutil.copy(tmp_path / "p/train/a/0.png", tmp_path / "p/train/b/9.png")
    assert "Copies of an image of another class: 1 image, such as train/b/9.png of train/a/0.png." in notes(
        tmp_path / "p", data_dir
    )


def test_gray_images_of_a_small_part_of_their_range_are_counted_and_can_be_given_another(tmp_path, data_dir):
    put(tmp_path / "p", ["0.png"], width=6, height=4)
    dark = np.linspace(0, 4095, 24).astype(np.uint16).reshape(4, 6)
    for name in ("1.png", "2.png"):
        Image.fromarray(dark).save(tmp_path / "p" / name)
    Image.fromarray(dark.astype(np.float32)).save(tmp_path / "p" / "3.tif")
    name = f"folder:{tmp_path / 'p'}"
    (note,) = notes(tmp_path / "p", data_dir)
    assert note == (
        "Almost uniform, as at most a sixteenth of the range from black to white, 0 to 65535, is used: 2 gray images, "
        "such as 1.png; their values are 0 to 4095, and data.gray_range is not set."
    )
    train = sources.source(name, data_dir).load("train")
    assert train.ids.tolist() == ["0.png", "1.png", "2.png"] and train.images[1].max() == 15
    train = sources.source(name, data_dir, gray_range=(0.0, 4095.0)).load("train")
    assert train.ids.tolist() == ["0.png", "1.png", "2.png", "3.tif"] and train.images[1].max() == 255
    assert np.array_equal(train.images[1], train.images[3])
    assert notes(tmp_path / "p", data_dir, gray_range=(0.0, 4095.0)) == []
    again = sources.source(name, data_dir, gray_range=(0.0, 0.0))  # which is the range of their type
    assert again.load("train").ids.tolist() == ["0.png", "1.png", "2.png"]
    assert "floating-point numbers from 0 to 4095" in next(iter(again.provenance()["skipped_reasons"]))
    for wrong in ((5.0, 5.0), (1.0, 0.0), (1.0,), (0.0, np.inf), (-np.inf, 0.0), (0.0, np.nan)):
        with pytest.raises(ArgumentError, match="^gray_range is .*: it must be two numbers, black and white"):
            sources.source(name, data_dir, gray_range=wrong)
    with pytest.raises(ArgumentError, match="^gray_range is .*, which digits does not use"):
        sources.source("digits", data_dir, gray_range=(0.0, 1.0))


def test_encoded_images_keep_their_range(tmp_path, data_dir):
    put(tmp_path / "p", ["0.png"], width=9, height=9)
    Image.fromarray(np.full((4, 6), 4095, np.uint16)).save(tmp_path / "p" / "1.png")
    train = sources.source(f"folder:{tmp_path / 'p'}", data_dir, gray_range=(0.0, 4095.0)).load("train")
    assert np.asarray(train.take(np.array([1, 0])).images.picture(0)).min() == 255
    (view,) = crops.cut(train.images.read(1), [crops.CentreCrop(4, 4)], 0, 0, train.images.gray_range)
    assert view.min() == 255


def test_damaged_metadata_are_said_once(tmp_path, data_dir, caplog):
    put(tmp_path / "p", ["0.png", "1.png"])
    data = (tmp_path / "p" / "0.png").read_bytes()
    text = b"Comment\0x"
    chunk = len(text).to_bytes(4, "big") + b"tEXt" + text + b"\0\0\0\0"  # of a wrong checksum
    (tmp_path / "p" / "0.png").write_bytes(data[:33] + chunk + data[33:])
    for _ in range(2):
        assert len(load(tmp_path / "p", data_dir).ids) == 2
    (said,) = (record.getMessage() for record in caplog.records)
    assert said.startswith(f"{tmp_path / 'p'}: Damaged metadata, beside pixels that are used: 1 image, such as 0.png (")


def test_folders_of_systems_are_no_classes(tmp_path, data_dir):
    put(tmp_path / "p", ["cat/0.png", "dog/1.png", "@eaDir/cat/x.png", "cat/@eaDir/0.png", "$Recycle.Bin/1.png",
                         "lost+found/2.png", "#recycle/cat/4.png", "System Volume Information/5.png",
                         ".Trash-1000/6.png",
                         "cat/.AppleDouble/0.png"])  # fmt: skip
    train, test = both(tmp_path / "p", data_dir)
    assert train.class_names == ("cat", "dog") and len(train.ids) + len(test.ids) == 2
    said = notes(tmp_path / "p", data_dir)
    assert "Passed over: 6 folders that systems make, such as #recycle." in said
    for i, ending in enumerate(("mov", "psd", "psd", "psd", "x" * 50, "1", "2", "3", "txt")):
        (tmp_path / "p" / f"{i}.{ending}").write_bytes(b"")
    shown = ".psd (3), .1 (1), .2 (1), .3 (1), .mov (1) and 1 more"
    said = notes(tmp_path / "p", data_dir)
    assert f"Passed over: 8 files of endings that are not read: {shown}." in said


def test_a_class_of_skipped_files_alone_is_said(tmp_path, data_dir):
    for split in ("", "train/"):
        put(tmp_path / "p", [f"{split}cat/0.png", f"{split}dog/1.png"])
        (tmp_path / "p" / f"{split}eel").mkdir()
        (tmp_path / "p" / f"{split}eel" / "2.heic").write_bytes(b"x")
        said = notes(tmp_path / "p", data_dir)
        assert f"All files were skipped of 1 class directory, such as {split}eel." in said
        shutil.rmtree(tmp_path / "p")


def test_lines_of_a_manifest_that_name_skipped_files_are_counted(manifest, tmp_path):
    manifest("path\nx/1.png\n4.png\nbad.png\n")
    said = notes(tmp_path / "p", tmp_path / "data", manifest=str(tmp_path / "m.csv"))
    assert said == ["Lines of the manifest that name skipped files: 1, such as that of bad.png."]


def test_two_links_to_one_folder_are_said(tmp_path, data_dir):
    put(tmp_path / "p", ["cat/0.png", "dog/1.png"])
    put(tmp_path / "elsewhere", ["2.png"])
    for name in ("eel", "fox"):
        (tmp_path / "p" / name).symlink_to(tmp_path / "elsewhere")
    source = sources.source(f"folder:{tmp_path / 'p'}", data_dir)
    assert source.load("train").class_names == ("cat", "dog", "eel")
    assert source.provenance()["skipped_reasons"] == {"the same folder as eel/": 1}


def test_a_path_that_is_too_long_is_no_folder(tmp_path, data_dir):
    for path in ("x" * 300, "x/" * 3000):
        for name, where, root in (
            (f"folder:{path}", data_dir, ""),
            ("imagenet", data_dir, path),
            ("imagenet", path, ""),
        ):
            with pytest.raises(UserError, match="it may have (255|3900) at most"):
                sources.source(name, where, root=root)
    for where in ({"root": "x\0y"}, {"data_dir": "x\0y"}):
        with pytest.raises(UserError, match="a path has a character of number 0 in it: write it without"):
            sources.source("imagenet", **where)


def test_a_run_of_an_older_version_keeps_the_order_of_its_classes():
    old = of_today({"data": {"name": "folder:/photos", "seed": 0}})
    assert old["data"]["class_order"] == "text" and tuple(old["data"]["gray_range"]) == (0.0, 0.0)
    assert of_today({"data": {"name": "folder:/x", "class_order": "natural"}})["data"]["class_order"] == "natural"


@pytest.mark.parametrize("is_resident", [True, False])
def test_turned_tiffs_are_upright_in_memory_and_as_files(tmp_path, data_dir, monkeypatch, is_resident):
    """Wide ones, which are high as they are meant to be seen."""
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[ExifTags.Base.Orientation] = 6
    (tmp_path / "p").mkdir()
    for i in range(3):
        stored = Image.open(io.BytesIO(picture(i, width=40, height=8)))
        stored.save(tmp_path / "p" / f"{i}.tif", tiffinfo=tags)
        stored.transpose(Image.Transpose.ROTATE_270).save(tmp_path / "p" / f"{i}.png")
    monkeypatch.setattr(folders, "RESIDENT_BYTES", 2**30 if is_resident else 0)
    train = load(tmp_path / "p", data_dir)
    assert train.ids.tolist() == ["0.png", "0.tif", "1.png", "1.tif", "2.png", "2.tif"]
    if is_resident:
        assert train.images.shape == (6, 40, 8, 3) and np.array_equal(train.images[::2], train.images[1::2])
        return
    many = crops.RandomCrops(count=4, size=8, scale=(0.1, 1.0), ratio=(3 / 4, 4 / 3), seed=0)
    for row in range(0, 6, 2):
        (upright,), (turned,) = (crops.cut(train.images.read(row + i), [many], 0, 0) for i in (0, 1))
        assert np.array_equal(upright, turned)
