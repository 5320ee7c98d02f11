"""`sdclr photos` on small folders with planted faults: what it lists and writes, what it refuses. Training is left out:
features are what the fixture says; tests/test_docs.py trains."""

import csv
import types

import jax
import numpy as np
import pyarrow.parquet
import pytest
from PIL import Image, ImageOps

from sdclr_jax import parallel, recipes, records
from sdclr_jax.api import photos, photos_folder
from sdclr_jax.commands import main
from sdclr_jax.data.images import as_images
from sdclr_jax.data.sources import folders
from sdclr_jax.errors import UserError
from sdclr_jax.records import EncoderRecord, View
from tests.photos import encoded, jpeg, photo


@pytest.fixture
def untrained(monkeypatch, tmp_path):
    """The configs of the runs that would be trained. Their features are the mean colours of an image's quarters."""
    configs = []

    def pretrain(config, directory, **settings):
        configs.append(config)
        (directory / "checkpoints").mkdir(parents=True, exist_ok=True)

        def encode(squares, progress):
            half = squares.shape[1] // 2
            return squares.reshape(len(squares), 2, half, 2, half, 3).mean((2, 4)).reshape(len(squares), -1)

        return types.SimpleNamespace(path=directory, step=1, encode=encode)

    monkeypatch.setattr(photos, "pretrain", pretrain)
    monkeypatch.setattr(photos, "_forgotten", lambda run, ids, *more: np.arange(len(ids), dtype=float))
    monkeypatch.setenv("SDCLR_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    return configs


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def run(*argv):
    return main.main(["photos", *map(str, argv), "--noprogress", "--config.epochs=2"])


def read(path):
    with path.open(newline="", encoding="utf-8-sig") as file:
        return list(csv.DictReader(file))


def test_a_folder_with_copies_across_splits_and_labels(untrained, tmp_path, capsys):
    """Two classes, one light and one dark; a copy in test, a mirrored one under the other label, a wrong label."""
    folder = tmp_path / "pets"
    for i in range(30):
        name = "=cats" if i % 2 else "dogs"
        picture = photo(60, 60, seed=i).point(lambda level, bright=i % 2: level // 2 + 120 * bright)
        write(folder / ("test" if i >= 26 else "train") / name / f"{i:02}.jpg", jpeg(picture))
    dark, light = (photo(60, 60, seed=i).point(lambda x, b=i % 2: x // 2 + 120 * b) for i in (0, 1))
    write(folder / "test" / "dogs" / "again.png", encoded(dark.resize((90, 90)), "PNG"))
    write(folder / "train" / "dogs" / "turned.jpg", jpeg(ImageOps.mirror(light), 60))
    write(folder / "train" / "=cats" / "broken.jpg", b"no image")
    assert run(folder, "--out=found", "--subset=5", "--shown=3") == 0
    said = capsys.readouterr().out
    assert "32 images: 27 train, 5 test\n2 classes: dogs 17, =cats 15\n1 file is skipped, listed in " in said
    assert "sdclr, resnet8 of width 16 on 32 x 32 pixels, 2 epochs, 8 images a step." in said
    assert f"open {tmp_path / 'found' / 'index.html'}" in said
    (config,) = untrained
    assert config.data.name == f"folder:{tmp_path / 'found' / 'small'}"
    assert config.views.size == config.evaluate.crop == config.evaluate.resize == 32
    assert config.optimizer.learning_rate == pytest.approx(0.5 * 128 / 512 * 8 / 128)
    assert [row["path"] for row in read(tmp_path / "found" / "images_of_run.csv")] == sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*.*") if path.name != "broken.jpg"
    )

    rows = read(tmp_path / "found" / "duplicates.csv")
    assert [(row["group"], row["id"], row["keep"]) for row in rows] == [
        ("1", "train/=cats/01.jpg", "true"), ("1", "train/dogs/turned.jpg", "false"),
        ("2", "test/dogs/again.png", "true"), ("2", "train/dogs/00.jpg", "false"),
    ]  # fmt: skip
    assert [row["mirrored"] for row in rows] == ["true", "true", "false", "false"]
    assert [row["in_several_classes"] for row in rows] == ["true", "true", "false", "false"]
    assert [row["in_several_splits"] for row in rows] == ["false", "false", "true", "true"]
    assert {row["class"] for row in rows} == {"'=cats", "dogs"}  # no formula for a spreadsheet
    parquet = pyarrow.parquet.read_table(tmp_path / "found" / "duplicates.parquet").to_pylist()
    assert parquet[0]["class"] == "=cats" and parquet[0]["path"] == str(folder / "train" / "=cats" / "01.jpg")
    labels = read(tmp_path / "found" / "labels.csv")
    assert [(row["id"], row["suggested"]) for row in labels] == [("train/dogs/turned.jpg", "'=cats")]
    subset = [row["id"] for row in read(tmp_path / "found" / "subset.csv")]
    assert len(set(subset)) == 5 and not {"train/dogs/turned.jpg", "train/dogs/00.jpg"} & set(subset)
    assert [row["id"] for row in read(tmp_path / "found" / "not_learned.csv")] == [
        "train/dogs/turned.jpg", "train/dogs/24.jpg",
    ]  # fmt: skip

    images = pyarrow.parquet.read_table(tmp_path / "found" / "images.parquet").to_pylist()
    vectors = pyarrow.parquet.read_table(tmp_path / "found" / "features.parquet").to_pydict()
    with np.load(tmp_path / "found" / "features.npz") as features:  # allow_pickle is off
        assert features["ids"].tolist() == vectors["id"] == [row["id"] for row in images]
        np.testing.assert_array_equal(features["features"], np.array(vectors["features"], np.float32))
    assert [(row["height"], row["width"]) for row in images if row["id"].endswith("again.png")] == [(90, 90)]
    copies = {row["id"]: row["copies"] for row in images if row["copies"] is not None}
    assert copies == {row["id"]: int(row["group"]) for row in rows}
    page = (tmp_path / "found" / "index.html").read_text()
    assert "two labels" in page and "in train and test" in page and "The first 3 of 5 images" in page

    (tmp_path / "found" / "run" / "config.json").write_text(config.to_json())  # as `pretrain` leaves it
    (folder / "train" / "dogs" / "turned.jpg").unlink()
    assert run(folder, "--out=found") == 0  # looked at again; the run's own copies stay as they were
    assert [row["id"] for row in read(tmp_path / "found" / "duplicates.csv")] == [
        "test/dogs/again.png",
        "train/dogs/00.jpg",
    ]
    assert len(read(tmp_path / "found" / "images_of_run.csv")) == 32
    write(tmp_path / "found" / "outliers.csv", b"mine")  # without its other half, no list of ours
    (tmp_path / "found" / "outliers.parquet").unlink()
    for path in [*folder.rglob("=cats/*"), *folder.rglob("dogs/1*.jpg")]:
        path.unlink()
    assert run(folder, "--out=found") == 0  # few pictures of one class: what was there of the others is gone
    assert {path.name for path in (tmp_path / "found").iterdir()} == {
        "duplicates.csv", "duplicates.parquet", "images.csv", "images.parquet", "images_of_run.csv", "index.html",
        "outliers.csv", "run", "sizes_of_run.csv", "small",
    }  # fmt: skip
    assert (tmp_path / "found" / "outliers.csv").read_bytes() == b"mine"
    flat(folder / "train" / "dogs", range(40, 64))
    assert main.main(["photos", str(folder), "--out=found", "--method=simclr", "--noprogress"]) == 2
    assert "was trained with sdclr: give that method, or another folder" in capsys.readouterr().err


def test_few_pictures_are_searched_for_copies_without_training(untrained, tmp_path, capsys):
    for name, pictures in {"three": (0, 1, 0), "copied": (5,) * 500}.items():
        for i, seed in enumerate(pictures):
            write(tmp_path / name / f"{i:03}.jpg", jpeg(photo(24, 24, seed=seed)))
        assert run(tmp_path / name) == 0
        said = capsys.readouterr().out
        assert "different pictures are too few to learn from" in said and "There are no labels." in said
        rows = read(tmp_path / "runs" / f"{name}_lists" / "duplicates.csv")
        assert len(rows) == (2 if name == "three" else 500) and {row["group"] for row in rows} == {"1"}
        assert [row["keep"] for row in rows].count("true") == 1
        assert not (tmp_path / "runs" / f"{name}_lists" / "outliers.csv").exists()
    assert not untrained


def test_a_folder_whose_name_is_not_utf8_or_has_signs_is_looked_at(untrained, tmp_path, capsys):
    """Disks of long ago have such names."""
    folder = flat(tmp_path / "M\udcfcnchen [1]\x1b", range(24))
    assert run(folder) == 0
    assert f"Wrote {tmp_path}/runs/M_nchen _1]\\x1b_lists: open" in capsys.readouterr().out  # and steers no terminal
    images = read(tmp_path / "runs" / "M_nchen _1]\x1b_lists" / "images.csv")
    assert images[0]["path"] == f"{tmp_path}/M\\xfcnchen [1]\x1b/IMG_0000.jpg"


def test_one_class_is_looked_at_without_labels(untrained, tmp_path, capsys):
    for i in range(24):
        write(tmp_path / "one" / "cats" / f"{i:02}.png", encoded(photo(20 + i, 24, seed=i), "PNG"))
    assert run(tmp_path / "one", "--out=found") == 0
    said = capsys.readouterr().out
    assert "24 images: 24 train\nNo labels are used: " in said and "'cats' only" in said
    rows = read(tmp_path / "found" / "images.csv")
    assert len(rows) == 24 and "class" not in rows[0] and "label_issue" not in rows[0]
    assert not read(tmp_path / "found" / "duplicates.csv")


def test_bad_input_is_one_sentence_and_nothing_is_written(untrained, tmp_path, capsys, monkeypatch):
    write(tmp_path / "photos" / "0.jpg", jpeg(photo(24, 24)))
    write(tmp_path / "texts" / "0.txt", b"text")
    (tmp_path / "file").write_text("")
    for argv, sentence in {
        ("nowhere",): "FOLDER is folder:",
        ("no\x1b[31m\nwhere",): r"no\x1b[31m\nwhere, where there is no folder",
        ("texts",): "holds no usable image (none at all)",
        ("photos", "--out=photos/found"): "--out is ",
        ("photos", "--out=file/found"): "file is a file",
        ("photos", "--out=found[1]"): "found[1] has one of *?[\\ in it, so no checkpoint could be read: rename it",
        ("photos", "--out=f\udcfcnf"): "f\\xfcnf is not UTF-8, so no checkpoint could be written: rename it",
        ("photos", "--minutes=0"): "--minutes is 0.0: it must be above 0",
        ("photos", "--subset=0"): "--subset is 0: it must be from 1",
        ("photos", "--shown=9999"): "--shown is 9999",
        ("photos", "--method=simcrl"): "simcrl",
        ("photos", "--config.model.widht=3"): "widht",
        ("photos", "--config.data.name=folder:/other"): "data.name would have it train on other images than it lists: "
        "give FOLDER instead",
        ("photos", "--config.data.root=other"): "data.root would have it train on other images",
        ("photos", "--config.data.manifest=table.csv"): "lists: give --manifest instead",
        ("photos", "--config.evaluate.crop=64"): "lists: give views.size instead",
        ("photos", "--config.views.size=1025"): "views.size is 1025, the side of the copies: it must be at most 1024",
        ("photos", "--manifest=nowhere.csv"): "nowhere.csv cannot be read",
    }.items():
        assert main.main(["photos", *argv, "--noprogress"]) == 2, argv
        said = capsys.readouterr().err
        assert sentence in said and said.count("\n") == 1, said
    assert not untrained and not (tmp_path / "runs").exists() and not (tmp_path / "photos" / "found").exists()


def test_the_time_chooses_the_epochs(monkeypatch, tmp_path):
    squares = np.zeros((600, 32, 32, 3), np.uint8)
    small, said = types.SimpleNamespace(squares=squares), []
    settings = {"method": "simclr", "start": "", "on_cpu": True}
    for minutes, epochs in {1: 10, 0.01: 4, 1000: 200}.items():
        monkeypatch.setattr(photos, "_images_per_second", lambda config, squares: 100.0)
        config = photos._chosen(tmp_path, tmp_path / "m.csv", small, settings, minutes, {}, said.append)
        assert (config.epochs, config.method, config.optimizer.warmup_epochs) == (epochs, "simclr", epochs // 10)
    assert said[0] == (
        "simclr, resnet8 of width 16 on 32 x 32 pixels, 10 epochs, 128 images a step: about 1.0 minutes, since a step "
        "of training takes 1280 ms here."
    )
    assert said[1] == "An accelerator would train resnet18 of width 64 on 128 x 128 pixels, for up to 200 epochs."


@pytest.mark.parametrize(
    ("devices", "images", "batch"),
    [(1, 600, 128), (3, 600, 129), (5, 600, 130), (8, 600, 128), (8, 44, 16), (8, 20, 8), (1, 20, 5)],
)
def test_the_devices_can_share_the_images_of_a_step(devices, images, batch, monkeypatch, tmp_path):
    """What does not fit is refused before a step is compiled to be timed."""
    shardings = parallel.shardings(jax.devices()[:devices])
    monkeypatch.setattr(photos.parallel, "shardings", lambda: shardings)
    monkeypatch.setattr(photos, "_images_per_second", lambda config, squares: {batch: 100.0}[config.batch_size])
    small = types.SimpleNamespace(squares=np.zeros((images, 32, 32, 3), np.uint8))

    def chosen(**overrides):
        settings = {"method": "sdclr", "start": "", "on_cpu": False}
        return photos._chosen(tmp_path, tmp_path / "m.csv", small, settings, 1, overrides, lambda line: None)

    config = chosen()
    assert config.batch_size == batch
    assert config.optimizer.learning_rate == pytest.approx(recipes.load("folder").optimizer.learning_rate * batch / 128)
    with pytest.raises(UserError, match=f"^batch_size is 640, but there are {images} images: it must be at least 2"):
        chosen(batch_size=640)


def flat(folder, seeds, side=40):
    for i, seed in enumerate(seeds):
        write(folder / f"IMG_{i:04}.jpg", jpeg(photo(side, side, seed=seed)))
    return folder


def trained(configs, out):
    """As `pretrain` leaves it."""
    (out / "run" / "config.json").write_text(configs[-1].to_json())


def encoder(side, **more):
    """What a run says of images that are seen whole."""
    more = {"resize": None, "crop": None} | more
    return EncoderRecord(
        model={"name": "resnet8"}, view=View(height=side, width=side, channels=3), mean=(0.5,), std=(0.2,), features=8,
        **more,
    )  # fmt: skip


def test_another_folder_of_that_name_does_not_take_the_place_of_the_first(untrained, tmp_path, capsys):
    """Cameras name images alike, and people folders."""
    first, second = flat(tmp_path / "a" / "pics", range(25)), flat(tmp_path / "b" / "pics", range(50, 75))
    assert run(first) == 0
    out = tmp_path / "runs" / "pics_lists"
    trained(untrained, out)
    before = {path: path.read_bytes() for path in out.rglob("*.*") if path.is_file()}
    assert run(second) == 2
    assert f"{out} holds the lists of other images: give another folder to write to" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in out.rglob("*.*") if path.is_file()} == before
    assert run(second, "--out=other") == 0
    first.rename(tmp_path / "moved")  # the same images elsewhere
    assert run(tmp_path / "moved", f"--out={out}") == 0


def test_lists_without_a_run_are_those_of_their_images_too(untrained, tmp_path, capsys):
    assert run(flat(tmp_path / "few", range(5)), "--out=found") == 0
    assert run(flat(tmp_path / "others", range(50, 55)), "--out=found") == 2
    assert "holds the lists of other images" in capsys.readouterr().err
    assert run(tmp_path / "few", "--out=found") == 0


def test_an_image_that_was_replaced_under_its_name_has_no_score_of_the_one_before(untrained, tmp_path, capsys):
    folder = flat(tmp_path / "pics", range(25))
    assert run(folder, "--out=found") == 0
    trained(untrained, tmp_path / "found")
    write(folder / "IMG_0007.jpg", jpeg(photo(44, 44, seed=99)))
    capsys.readouterr()
    for _ in range(2):
        assert run(folder, "--out=found") == 0
        assert "1 images are others than those of these names that" in capsys.readouterr().out
        images = {row["id"]: row for row in read(tmp_path / "found" / "images.csv")}
        assert [name for name, row in images.items() if not row["change"]] == ["IMG_0007.jpg"]
    (tmp_path / "found" / "sizes_of_run.csv").write_text("id,height\nx,1\n")
    assert run(folder, "--out=found") == 2
    assert "sizes_of_run.csv cannot be read (" in capsys.readouterr().err
    (tmp_path / "found" / "sizes_of_run.csv").unlink()  # as of a run of an older version
    capsys.readouterr()
    assert run(folder, "--out=found") == 0
    assert "1 images are others than" in capsys.readouterr().out
    for path in folder.iterdir():  # a program writes into all files what it knows of them
        content = path.read_bytes()
        path.write_bytes(content[:2] + b"\xff\xfe\x00\x06note" + content[2:])
    assert run(folder, "--out=found") == 0
    assert "1 images are others than" in capsys.readouterr().out


def test_a_first_training_is_of_the_images_as_they_are(untrained, tmp_path, capsys):
    """Whatever was there when they were too few."""
    folder = flat(tmp_path / "pics", range(10))
    assert run(folder, "--out=found") == 0
    flat(folder, [0, 1, 2, 99, *range(4, 25)])
    assert run(folder, "--out=found") == 0
    assert "others than" not in capsys.readouterr().out
    assert all(row["change"] for row in read(tmp_path / "found" / "images.csv"))


@pytest.mark.parametrize("name", ["labels.csv", "index.html", "features.npz"])
def test_files_of_another_program_are_not_replaced(untrained, tmp_path, capsys, name):
    folder = flat(tmp_path / "pics", range(25))
    write(tmp_path / "mine" / name, b"mine")
    assert run(folder, "--out=mine") == 2
    assert f"{name} is there, and it is not known that `sdclr photos` has written it" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "mine").iterdir()] == [name]
    assert (tmp_path / "mine" / name).read_bytes() == b"mine" and not untrained


def test_no_photo_of_a_person_is_ever_replaced(untrained, tmp_path, capsys, monkeypatch):
    """`--out` may lie above the images, or beside a folder that has the name of the copies; copies have their names."""
    for name in ("large", "small", "run"):
        flat(tmp_path / "album" / name, range(24), side=36)
    flat(tmp_path / "other" / "large", range(24), side=36)
    for name in ("small", "run"):
        (tmp_path / "other" / name).mkdir()  # which takes nothing from anybody
    (tmp_path / "linked").symlink_to(tmp_path / "album" / "large")
    (tmp_path / "mixed").mkdir()
    (tmp_path / "mixed" / "more").symlink_to(tmp_path / "album" / "large")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.jpg")}
    album = tmp_path / "album"
    monkeypatch.chdir(album / "large")
    for argv, sentence in {
        (album / "small", f"--out={album}"): f"--out is {album}, whose folder small holds the images: name another",
        (album / "run", f"--out={album}"): f"--out is {album}, whose folder run holds the images",
        (album / "large", f"--out={album}"): f"{album / 'run'} is there, and it is not known that `sdclr photos`",
        (tmp_path / "linked", "--out=lists"): f"which lies in {tmp_path / 'linked'}, a folder of the images",
        (tmp_path / "mixed", "--out=lists"): f"which lies in {tmp_path / 'mixed' / 'more'}, a folder of the images",
    }.items():
        assert run(*argv) == 2
        said = capsys.readouterr().err
        assert sentence in said and said.count("\n") == 1, said
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.jpg")} == before
    for name in ("small", "run", "images_of_run.csv", "sizes_of_run.csv"):
        write(tmp_path / "mine" / name, b"mine")
        with pytest.raises(UserError, match=f"{name} is there, and it is not known"):
            photos_folder.check_ours(tmp_path / "mine")
        (tmp_path / "mine" / name).unlink()
    assert not untrained

    out = tmp_path / "other"
    monkeypatch.setattr(photos.lists, "write_csv", lambda *args, **options: 1 / 0)  # in the middle of its first writes
    with pytest.raises(ZeroDivisionError):
        run(out / "large", f"--out={out}")
    assert len(list((out / "small").glob("*.jpg"))) == 24 and not (out / "images_of_run.csv").exists()
    photos_folder.check_ours(out)  # so the same command may do it again
    (out / "small" / ".sdclr_jax_copies").unlink()
    with pytest.raises(UserError, match="small is there"):
        photos_folder.check_ours(out)
    write(out / "run" / "config.json", b"{}")
    with pytest.raises(UserError, match="run is there"):  # a run of `sdclr pretrain`
        photos_folder.check_ours(out)
    write(out / "images_of_run.csv", b"")
    photos_folder.check_ours(out)  # as the versions without a mark have left it


@pytest.mark.parametrize("classes", [0, 2])
def test_a_burst_is_one_picture(untrained, tmp_path, capsys, classes):
    """Frames of a film differ, and are near duplicates of each other: there is nothing to rank."""
    for i in range(24):
        picture = photo(60, 60, seed=i % max(classes, 1)).point(lambda level, i=i: level // 2 + 2 * i)
        place = tmp_path / "film" / (f"class{i % classes}" if classes else ".")
        write(place / f"{i:02}.png", encoded(picture, "PNG"))
    assert run(tmp_path / "film", "--out=found") == 0
    said = capsys.readouterr().out
    assert "Fewer than 20 images are left of near duplicates: no list is made but that of these." in said
    assert len(read(tmp_path / "found" / "duplicates.csv")) == 24
    assert not (tmp_path / "found" / "labels.csv").exists()


def test_the_side_of_the_copies_is_that_of_the_run(untrained, tmp_path, monkeypatch, capsys):
    sides, make = [], photos.copies.make
    monkeypatch.setattr(
        photos.copies, "make", lambda encoded, side, *more: sides.append(side) or make(encoded, side, *more)
    )
    folder = flat(tmp_path / "pics", range(25))
    assert run(folder, "--out=found") == 0
    assert run(folder, "--out=large", "--config.views.size=64") == 0
    trained(untrained, tmp_path / "large")
    records.write(tmp_path / "large" / "run" / "encoder.json", encoder(48))
    capsys.readouterr()
    assert run(folder, "--out=large", "--minutes=600") == 0
    assert sides == [32, 64, 48]
    assert "The earlier run is used, with its 2 epochs, however many minutes are given: to train another" in (
        capsys.readouterr().out
    )
    records.write(tmp_path / "large" / "run" / "encoder.json", encoder(224, resize=256, crop=224))
    assert run(folder, "--out=large") == 0  # whatever the evaluation makes of copies of the size of the views
    assert sides.pop() == 64


def test_copies_too_many_for_memory_are_seen_whole(untrained, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(folders, "RESIDENT_BYTES", 0)
    folder = flat(tmp_path / "pics", range(25))
    assert run(folder, "--out=found") == 0
    trained(untrained, tmp_path / "found")
    (config,) = untrained
    images = recipes.data(config, None).train.images
    assert not as_images(images).is_decoded
    record = recipes.encoder_record(config, recipes.image_shape(config, images), encoded=True)
    assert record.view.height == record.crop == record.resize == config.views.size == 32
    records.write(tmp_path / "found" / "run" / "encoder.json", record)
    before = (tmp_path / "found" / "images.csv").read_bytes()
    capsys.readouterr()
    assert run(folder, "--out=found") == 0
    assert "others than" not in capsys.readouterr().out and (tmp_path / "found" / "images.csv").read_bytes() == before


def test_gray_images_are_trained_on_and_pictured_in_the_range_that_is_given(untrained, tmp_path, monkeypatch, capsys):
    ranges, thumbnails = [], photos.lists.thumbnails.make
    monkeypatch.setattr(
        photos.lists.thumbnails, "make", lambda files, rows: ranges.append(files.gray_range) or thumbnails(files, rows)
    )
    folder = flat(tmp_path / "pics", range(24))
    Image.fromarray(np.asarray(photo(40, 40, seed=99).convert("F")) * 16).save(folder / "x.tif")
    assert run(folder, "--out=found", "--config.data.gray_range=(0.0,4080.0)") == 0
    assert ranges == [(0.0, 4080.0)] and untrained[0].data.gray_range == (0.0, 4080.0)
    square = np.asarray(Image.open(tmp_path / "found" / "small" / "x.tif"), int)
    assert np.abs(square - np.asarray(photo(40, 40, seed=99).convert("L").resize((32, 32)), int)[..., None]).mean() < 6
    trained(untrained, tmp_path / "found")
    records.write(tmp_path / "found" / "run" / "encoder.json", encoder(32, gray_range=(0.0, 4080.0)))
    assert run(folder, "--out=found") == 0  # as the run was trained
    assert ranges[1] == (0.0, 4080.0) and len(read(tmp_path / "found" / "images.csv")) == 25
    assert run(folder, "--out=found", "--config.data.gray_range=(0.0,9.0)") == 2
    assert "was trained with data.gray_range (0.0, 4080.0), and not (0.0, 9.0): give that" in capsys.readouterr().err
