import json
import math
import os
import pathlib
import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sdclr_jax import progress
from sdclr_jax.data import decoding, sources
from sdclr_jax.data.sources import catalogues, records
from sdclr_jax.errors import ArgumentError, UserError
from tests.pictures import picture, put, tfds_set

CLASSES = ("n01", "n02", "n03")


def load(name, data_dir, split="train", **where):
    return sources.source(name, data_dir, **where).load(split)


# From a folder


@pytest.fixture
def imagenet(tmp_path):
    """Classes of 3, 2 and 1 training images, and one test image each, with what usually lies around."""
    root = tmp_path / "imagenet"
    put(root, [f"train/{c}/{c}_{i}.JPEG" for n, c in zip((3, 2, 1), CLASSES, strict=True) for i in range(n)])
    put(root, [f"val/{c}/ILSVRC2012_val_0000000{i}.JPEG" for i, c in enumerate(CLASSES)])
    (root / "train" / "n01" / ".DS_Store").touch()
    (root / "train" / "n01" / "list.txt").touch()
    (root / "train" / ".cache").mkdir()
    return root


@pytest.mark.parametrize("name", ["imagenet", "imagenet100", "places365"])
def test_a_directory_a_class(imagenet, tmp_path, name, monkeypatch):
    monkeypatch.setattr(decoding, "decode", None)  # nothing is decoded
    train, test = (load(name, tmp_path, split, root=str(imagenet)) for split in ("train", "test"))
    assert train.class_names == test.class_names == CLASSES
    assert train.ids.tolist()[:3] == [f"train/n01/n01_{i}.JPEG" for i in range(3)]
    assert train.labels.tolist() == [0, 0, 0, 1, 1, 2] and test.labels.tolist() == [0, 1, 2]
    for row, path in enumerate(train.ids):
        assert train.images.read(row) == (imagenet / path).read_bytes() == pathlib.Path(train.path(row)).read_bytes()
    assert sources.source(name, tmp_path, root=str(imagenet)).provenance() == {"root": str(imagenet)}
    assert sources.source(name, tmp_path, root=str(imagenet)).prepare() == imagenet


def test_a_test_image_has_the_class_of_its_directory_whatever_other_directories_there_are(imagenet, tmp_path):
    """ImageNet's val has all classes, train perhaps a hundred; and a class may be missing."""
    put(imagenet, [f"val/{c}/a.JPEG" for c in ("n00", "n015", "n9")])
    shutil.rmtree(imagenet / "val" / "n02")
    train, test = (load("imagenet", tmp_path, split, root=str(imagenet)) for split in ("train", "test"))
    assert test.class_names == ("n00", "n01", "n015", "n03", "n9")
    found = test.of_classes(train.class_names)
    assert found.class_names == CLASSES
    assert {path.split("/")[1]: label for path, label in zip(found.ids, found.labels.tolist(), strict=True)} == {
        "n01": 0, "n03": 2,
    }  # fmt: skip
    assert train.of_classes(CLASSES) is train
    with pytest.raises(ArgumentError, match="names are 'cats' and others, and the classes of the test images 'n00'"):
        test.of_classes(("cats", "dogs"))


def test_what_has_no_ending_is_no_image_of_a_published_data_set(imagenet, tmp_path):
    (imagenet / "train" / "n01" / "README").touch()
    (imagenet / "train" / "n01" / "more.JPEG").mkdir()
    assert load("imagenet", tmp_path, root=str(imagenet)).ids.tolist() == [
        *(f"train/n01/n01_{i}.JPEG" for i in range(3)), *(f"train/n02/n02_{i}.JPEG" for i in range(2)),
        "train/n03/n03_0.JPEG",
    ]  # fmt: skip
    put(imagenet, ["train/n04/images/a.JPEG"])  # as Tiny ImageNet has it
    with pytest.raises(UserError, match="n04 holds no image; unpack that class again, with its images as train/CLASS/"):
        load("imagenet", tmp_path, root=str(imagenet))


def test_a_folder_that_is_not_the_data_set(imagenet, tmp_path):
    def refused(message, split="train", root=imagenet):
        with pytest.raises((ArgumentError, UserError), match=message):
            load("imagenet", tmp_path, split, root=str(root))

    refused(r"root is .*/none, which is no folder: give the folder of imagenet$", root=tmp_path / "none")
    refused("holds no train images: put train/CLASS/IMAGE there", root=tmp_path)
    refused("Split 'val' is not in imagenet; choose one of: train, test", split="val")
    (imagenet / "train" / "n02x").mkdir()
    refused(r"train/n02x holds no image; unpack that class again")
    shutil.rmtree(imagenet / "val")
    refused("holds no test images: put val/CLASS/IMAGE there", split="test")
    put(imagenet, ["val/ILSVRC2012_val_00000001.JPEG"])
    refused("val holds no directory of images a class; sort the images into one directory a class", split="test")


def few(monkeypatch, name, classes=3):
    """Let a data set have fewer classes than it has."""
    monkeypatch.setitem(catalogues.CATALOGUES, name, catalogues.CATALOGUES[name]._replace(classes=classes))


@pytest.fixture
def places(tmp_path, monkeypatch):
    few(monkeypatch, "places365")
    root = tmp_path / "places"
    names = ["a/abbey/00000001.jpg", "a/abbey/00000002.jpg", "b/bar/00000001.jpg", "b/bow/wide/00000001.jpg"]
    put(root / "data_256", names)
    put(root / "val_256", ["Places365_val_00000001.jpg", "Places365_val_00000002.jpg", "Places365_val_00000003.jpg"])
    (root / "categories_places365.txt").write_text("/a/abbey 0\n/b/bar 1\n/b/bow/wide 2\n")
    lines = [f"/{name} {label}" for name, label in zip(names[::-1], (2, 1, 0, 0), strict=True)]
    (root / "places365_train_standard.txt").write_text("\n".join(lines) + "\n")
    (root / "places365_val.txt").write_text("".join(f"Places365_val_0000000{i}.jpg {3 - i}\n" for i in (1, 2, 3)))
    return root


def test_places_as_published(places, tmp_path):
    train, test = (load("places365", tmp_path, split, root=str(places)) for split in ("train", "test"))
    assert train.class_names == ("a/abbey", "b/bar", "b/bow/wide")
    assert train.ids[0] == "data_256/a/abbey/00000001.jpg" and train.labels.tolist() == [0, 0, 1, 2]
    assert test.ids[0] == "val_256/Places365_val_00000001.jpg" and test.labels.tolist() == [2, 1, 0]
    assert train.images.read(3) == (places / "data_256/b/bow/wide/00000001.jpg").read_bytes()


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("categories_places365.txt", None, r"categories_places365\.txt cannot be read as a list of images \(No such"),
        ("categories_places365.txt", "/a/abbey 0\n", r"is not of 3 classes, 0 to 2; get it"),
        ("places365_train_standard.txt", None, "holds no train images: put train/CLASS/IMAGE there or put"),
        ("places365_train_standard.txt", "/a/abbey/00000001.jpg 7\n", "is not of 3 classes"),
        ("places365_train_standard.txt", "/a/abbey/00000001.jpg\n", r"cannot be read as a list of images \(ValueError"),
        ("places365_train_standard.txt", "/a/x.jpg 0\n", r"names data_256/a/x\.jpg, which is not in .*; put"),
        ("places365_train_standard.txt", "/a/abbey/00000001.jpg 0\n" * 2, r"00000001\.jpg twice; get it again"),
    ],
)  # fmt: skip
def test_damaged_lists_of_places(places, tmp_path, file, text, message):
    (places / file).unlink() if text is None else (places / file).write_text(text)
    with pytest.raises((ArgumentError, UserError), match=message):
        load("places365", tmp_path, root=str(places))


@pytest.fixture
def inaturalist(tmp_path, monkeypatch):
    few(monkeypatch, "inaturalist2018")
    root = tmp_path / "inat"
    categories = [{"id": c, "name": str(c), "supercategory": "Aves"} for c in range(3)]
    for split, labels in (("train", (0, 0, 2, 1)), ("val", (2, 1, 0))):
        names = [f"train_val2018/Aves/{c}/{split}{i}.jpg" for i, c in enumerate(labels)]
        put(root, names)
        content = {
            "images": [{"id": 100 + i, "file_name": name} for i, name in enumerate(names)],
            "annotations": [{"image_id": 100 + i, "category_id": c} for i, c in reversed([*enumerate(labels)])],
            "categories": categories,
        }
        (root / f"{split}2018.json").write_text(json.dumps(content))
    return root


def test_inaturalist_as_published(inaturalist, tmp_path):
    train, test = (load("inaturalist2018", tmp_path, split, root=str(inaturalist)) for split in ("train", "test"))
    assert train.class_names == ("0", "1", "2") and train.labels.tolist() == [0, 0, 1, 2]
    assert train.ids.tolist()[2] == "train_val2018/Aves/1/train3.jpg" and test.labels.tolist() == [0, 1, 2]
    for damage, message in (("{", "JSONDecodeError"), ("{}", "KeyError: 'annotations'"), ("[]", "TypeError")):
        (inaturalist / "train2018.json").write_text(damage)
        with pytest.raises(UserError, match=rf"train2018\.json cannot be read as a list of images \({message}"):
            load("inaturalist2018", tmp_path, root=str(inaturalist))
    (inaturalist / "train2018.json").unlink()
    with pytest.raises(
        ArgumentError, match=r"holds no train images: put train2018\.json there, beside the images that it"
    ):
        load("inaturalist2018", tmp_path, root=str(inaturalist))


# As tfds has prepared it


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A data folder with imagenet2012 of 7 training and 3 validation images, the names in no order."""
    data_dir = tmp_path_factory.mktemp("tfds")
    features = {
        "image": tfds.features.Image(encoding_format="jpeg"),
        "label": tfds.features.ClassLabel(names=CLASSES),
        "file_name": tfds.features.Text(),
    }

    def examples(names, split):
        return [
            {"image": picture(i + 100 * split, kind="JPEG"), "label": int(name[2]) - 1, "file_name": name}
            for i, name in enumerate(names)
        ]

    train = ["n03_1.JPEG", "n01_2.JPEG", "n02_10.JPEG", "n01_1.JPEG", "n02_9.JPEG", "n01_10.JPEG", "n02_1.JPEG"]
    validation = ["x03.JPEG", "x01.JPEG", "x02.JPEG"]
    splits = {"train": examples(train, 0), "validation": examples(validation, 1)}
    tfds_set(data_dir, "imagenet2012", "5.0.0", features, splits)
    tfds_set(data_dir, "imagenet2012", "5.1.0", features, splits)
    return data_dir


def test_records(prepared):
    folder = sources.source("imagenet", prepared).prepare()
    assert folder == prepared / "imagenet2012" / "5.1.0"  # the newest
    assert sources.source("imagenet", prepared).provenance() == {"tfds": str(folder)}
    train, test = (load("imagenet", prepared, split) for split in ("train", "test"))
    ids = ["n01_1", "n01_10", "n01_2", "n02_1", "n02_10", "n02_9", "n03_1"]
    assert train.ids.tolist() == [f"{i}.JPEG" for i in sorted(ids, key=lambda i: f"{i}.JPEG")]
    assert train.class_names == CLASSES and test.ids.tolist() == ["x01.JPEG", "x02.JPEG", "x03.JPEG"]
    assert [CLASSES[c] for c in train.labels] == [i[:3] for i in train.ids] and train.labels.dtype == np.int32
    made = ["n03_1.JPEG", "n01_2.JPEG", "n02_10.JPEG", "n01_1.JPEG", "n02_9.JPEG", "n01_10.JPEG", "n02_1.JPEG"]
    for row, name in enumerate(train.ids):
        assert train.images.read(row) == picture(made.index(name), kind="JPEG")
    few = train.images[np.array([5, 2])]
    assert len(few) == 2 and few.read(1) == train.images.read(2) and few[np.array([1])].read(0) == few.read(1)
    assert few.name(0).startswith(f"{folder}, train record ")
    assert train.path(0) == ""  # no file of its own


def test_labels_are_read_once(prepared, monkeypatch):
    first = load("imagenet", prepared)
    monkeypatch.setattr(records, "_all", None)
    again = load("imagenet", prepared)
    assert all(np.array_equal(a, b) for a, b in zip(first[1:3], again[1:3], strict=True))


def test_a_damaged_note_of_the_labels_is_made_afresh(prepared):
    first = load("imagenet", prepared)
    note = prepared / "imagenet2012" / "5.1.0" / "sdclr_train.npz"
    with np.load(note) as kept:  # of other records, as many
        np.savez(note, ids=kept["ids"], labels=kept["labels"][::-1], shards=np.array(["of another day"]))
    before = progress.done
    again = load("imagenet", prepared)
    assert progress.done > before  # as it takes long, other processes of a run see that this one does not stand still
    assert all(np.array_equal(a, b) for a, b in zip(first[1:3], again[1:3], strict=True))
    for damage in (b"", note.read_bytes()[:100], None):
        if damage is None:  # of another number of records
            np.savez(note, ids=np.array(["a"]), labels=np.array([0]))
        else:
            note.write_bytes(damage)
        assert np.array_equal(load("imagenet", prepared).labels, first.labels)


def test_workers_open_the_records_themselves(prepared):
    """In another process, without JAX, and small to send."""
    images = load("imagenet", prepared).images
    images.read(0)  # is open here
    sent = pickle.dumps(images)
    assert len(sent) < 1000
    code = (
        "import pickle, sys; images = pickle.load(sys.stdin.buffer); data = images.read(1);"
        "assert 'jax' not in sys.modules and 'tensorflow' not in sys.modules; sys.stdout.buffer.write(data)"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    read = subprocess.run([sys.executable, "-c", code], input=sent, env=environment, capture_output=True, check=True)
    assert read.stdout == images.read(1)


def test_a_record_that_cannot_be_read(prepared, tmp_path):
    shutil.copytree(prepared, tmp_path / "copy")
    images = load("imagenet", tmp_path / "copy").images
    for path in (tmp_path / "copy" / "imagenet2012" / "5.1.0").glob("*train*array_record*"):
        path.write_bytes(b"x" * path.stat().st_size)
    with pytest.raises((OSError, UserError)):
        images.read(0)


def test_not_prepared(tmp_path):
    message = (
        r"^root is empty, and imagenet is not prepared: give its folder \(put train/CLASS/IMAGE there\), or let tfds "
        rf"prepare imagenet2012 in {tmp_path} with file_format='array_record'$"
    )
    with pytest.raises(ArgumentError, match=message):
        load("imagenet", tmp_path)
    with pytest.raises(UserError, match="imagenet is used as it is; leave out --archive"):
        sources.source("imagenet", tmp_path).prepare(archive="x")


def test_damaged_tfds(prepared, tmp_path):
    folder = tmp_path / "imagenet2012" / "5.1.0"
    shutil.copytree(prepared / "imagenet2012" / "5.1.0", folder)
    info = json.loads((folder / "dataset_info.json").read_text())
    (folder / "dataset_info.json").write_text(json.dumps(info | {"fileFormat": "tfrecord"}))
    with pytest.raises(
        UserError, match="stored as tfrecord, which only TensorFlow reads; prepare it again with tfds and"
    ):
        load("imagenet", tmp_path)
    (folder / "dataset_info.json").write_text(json.dumps(info | {"splits": info["splits"][:1]}))
    split = info["splits"][0]["name"]
    with pytest.raises(UserError, match=rf"is not in the data set in {folder}; it has {split}\.$"):
        load("imagenet", tmp_path, "test" if split == "train" else "train")
    (folder / "dataset_info.json").write_text("{")
    with pytest.raises(UserError, match=rf"The data set in {folder} is damaged; prepare it again with tfds"):
        load("imagenet", tmp_path)


def test_two_records_of_one_name(tmp_path):
    features = {
        "image": tfds.features.Image(encoding_format="png"),
        "label": tfds.features.ClassLabel(names=CLASSES),
        "file_name": tfds.features.Text(),
    }
    record = {"image": picture(0), "label": 0, "file_name": "a"}
    tfds_set(tmp_path, "imagenet2012", "5.1.0", features, {"train": [record, record]})
    with pytest.raises(UserError, match="has two records named a; prepare it again"):
        load("imagenet", tmp_path)


# CelebA

NAMES = ("Bald", "Young", "Arched_Eyebrows")
ATTRIBUTES = [(1, 0, 1), (0, 0, 1), (0, 1, 1), (1, 1, 0), (0, 1, 0), (1, 0, 0)]
PARTITION = (0, 1, 2, 0, 0, 2)


@pytest.fixture
def celeba(tmp_path):
    root = tmp_path / "celeba"
    names = [f"{i + 1:06d}.jpg" for i in range(6)]
    put(root / "img_align_celeba", names, width=6, height=8)
    rows = [f"{n} " + " ".join(f"{2 * a - 1:2d}" for a in row) for n, row in zip(names, ATTRIBUTES, strict=True)]
    (root / "list_attr_celeba.txt").write_text("\n".join(["6", " ".join(NAMES) + " ", *rows]) + "\n")
    (root / "list_eval_partition.txt").write_text("".join(f"{n} {p}\n" for n, p in zip(names, PARTITION, strict=True)))
    return root


def test_celeba_as_published(celeba, tmp_path):
    train, test = (load("celeba", tmp_path, split, root=str(celeba)) for split in ("train", "test"))
    assert train.class_names == NAMES and train.ids.tolist() == ["000001.jpg", "000002.jpg", "000004.jpg", "000005.jpg"]
    assert train.labels.dtype == np.uint8 and train.labels.tolist() == [list(ATTRIBUTES[i]) for i in (0, 1, 3, 4)]
    assert train.held_out.tolist() == [False, True, False, False] and test.held_out is None
    assert test.labels.tolist() == [list(ATTRIBUTES[i]) for i in (2, 5)]
    assert train.images.read(2) == (celeba / "img_align_celeba" / "000004.jpg").read_bytes()
    assert train.path(2) == str(celeba / "img_align_celeba" / "000004.jpg")


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        (
            "list_attr_celeba.txt",
            lambda text: "",
            "cannot be read .*give the folder with img_align_celeba",
        ),
        ("list_attr_celeba.txt", lambda text: text.replace(" 1", " 2", 1), "not one line of 3 attributes, -1 or 1"),
        ("list_attr_celeba.txt", lambda text: text[:-4], "cannot be read"),
        ("list_eval_partition.txt", lambda text: text[:30], "cannot be read"),
        ("list_eval_partition.txt", lambda text: text.replace(" 2", " 3"), "cannot be read .KeyError: '3'"),
    ],
)
def test_damaged_celeba(celeba, tmp_path, file, change, message):
    (celeba / file).write_text(change((celeba / file).read_text()))
    with pytest.raises(UserError, match=message):
        load("celeba", tmp_path, root=str(celeba))


def test_half_celeba(celeba, tmp_path):
    (celeba / "img_align_celeba" / "000002.jpg").unlink()
    with pytest.raises(UserError, match=r"does not hold 000002\.jpg; unpack img_align_celeba\.zip in"):
        load("celeba", tmp_path, root=str(celeba))
    (celeba / "list_eval_partition.txt").unlink()
    with pytest.raises(UserError, match=r"list_eval_partition\.txt cannot be read \(No such file or directory\)"):
        load("celeba", tmp_path, root=str(celeba))
    with pytest.raises(
        ArgumentError, match="^root is empty, and celeba is not prepared: give a folder with img_align_celeba, list_"
    ):
        load("celeba", tmp_path)


def test_celeba_of_tfds(tmp_path):
    features = {
        "image": tfds.features.Image(encoding_format="jpeg"),
        "landmarks": {"nose_x": np.int64},
        "attributes": {name: np.bool_ for name in NAMES},
    }

    def example(i):
        attributes = {name: bool(a) for name, a in zip(NAMES, ATTRIBUTES[i], strict=True)}
        return {"image": picture(i, kind="JPEG"), "landmarks": {"nose_x": i}, "attributes": attributes}

    splits = {"train": (0, 3, 4), "validation": (1,), "test": (2, 5)}
    tfds_set(tmp_path, "celeb_a", "2.1.0", features, {k: [example(i) for i in v] for k, v in splits.items()})
    sources.source("celeba", tmp_path).prepare()
    train, test = (load("celeba", tmp_path, split) for split in ("train", "test"))
    assert sorted(train.class_names) == sorted(NAMES) and train.held_out.tolist() == [False, False, False, True]
    assert len(set(train.ids)) == 4 and train.ids.tolist() == sorted(train.ids)
    for examples, members in ((train, {0, 3, 4, 1}), (test, {2, 5})):
        found = set()
        for row in range(len(examples.ids)):
            i = next(i for i in range(6) if examples.images.read(row) == picture(i, kind="JPEG"))
            found.add(i)
            expected = dict(zip(NAMES, ATTRIBUTES[i], strict=True))
            assert dict(zip(examples.class_names, examples.labels[row].tolist(), strict=True)) == expected
            assert examples.held_out is None or examples.held_out[row] == (i == 1)
        assert found == members


# Whatever a list says.


def odd(**parts) -> str:
    return json.dumps({"annotations": [], "categories": [], "images": []} | parts)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        ("[" * 100_000, "RecursionError"),
        ("7", "TypeError: no object"),
        (odd(annotations=[1]), "TypeError: annotations are no list of objects"),
        (odd(annotations=1), "TypeError: annotations are no list"),
        (odd(annotations=[{"image_id": [], "category_id": 0}]), "TypeError"),
        (odd(annotations=[{"image_id": 0, "category_id": 1e999}]), "ValueError: 'inf'"),
        (odd(annotations=[{"image_id": 0, "category_id": math.nan}]), "ValueError: 'nan'"),
        (odd(annotations=[{"image_id": 0, "category_id": True}]), "'True' is no number"),
        (odd(annotations=[{"image_id": 0, "category_id": 10**10}]), "is no number"),
        (odd(annotations=[{"image_id": 0, "category_id": "\u0661"}]), "is no number"),
    ],
)
def test_odd_json_is_refused_in_a_sentence(inaturalist, tmp_path, damage, reason):
    (inaturalist / "train2018.json").write_text(damage)
    with pytest.raises(UserError, match=rf"train2018\.json cannot be read as a list of images \(.*{reason}") as error:
        load("inaturalist2018", tmp_path, root=str(inaturalist))
    assert len(str(error.value)) < 500 and "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["../secret.jpg", "/etc/passwd", "a/../../b", 7, None, "", "x\0y", "\ud800", "a\nb"])
def test_a_list_leads_nowhere_but_below_its_folder(inaturalist, tmp_path, name):
    path = inaturalist / "train2018.json"
    content = json.loads(path.read_text())
    content["images"][0]["file_name"] = name
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"train2018\.json names .*, which is no path below its folder; get it again"):
        load("inaturalist2018", tmp_path, root=str(inaturalist))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3), lambda v: st.lists(v, max_size=2)
)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(["annotations", "categories", "images"]),
    st.sampled_from([None, "image_id", "category_id", "id", "name", "file_name"]),
    VALUES,
)
def test_whatever_json_says_it_is_a_list_or_refused(inaturalist, tmp_path, part, field, value):
    path = inaturalist / "val2018.json"
    content = json.loads((inaturalist / "train2018.json").read_text())
    if field:
        content[part][0][field] = value
    else:
        content[part] = value
    path.write_text(json.dumps(content))
    try:
        load("inaturalist2018", tmp_path, "test", root=str(inaturalist))
    except UserError as error:
        assert "\n" not in str(error)


def test_a_list_with_a_byte_order_mark(places, tmp_path):
    path = places / "places365_train_standard.txt"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(load("places365", tmp_path, "train", root=str(places)).ids) == 4


def test_blank_lines_in_celeba_are_none(celeba, tmp_path):
    for name in ("list_attr_celeba.txt", "list_eval_partition.txt"):
        with (celeba / name).open("a") as file:
            file.write("\n\t \n")
    assert len(load("celeba", tmp_path, root=str(celeba)).ids) == 4
