"""`sdclr prepare`, and CIFAR from the archive to the images that a run trains on."""

import copy
import errno
import json
import os
import pathlib
import signal
import subprocess
import sys
import types

import numpy as np
import pytest
from PIL import Image

from configs import digits_lt
from sdclr_jax import recipes, records
from sdclr_jax.api import evaluate
from sdclr_jax.commands import flags, main
from sdclr_jax.data.sources import cifar
from sdclr_jax.data.subsets import longtail
from sdclr_jax.errors import UserError
from tests import archives
from tests.pictures import picture, put

ROOT = pathlib.Path(__file__).parents[2]
PROFILE = ("--config.evaluate.knn_k=5", "--config.data.n_max=5", "--config.data.imbalance=5")


def write_lists(folder, labels):
    """Lists of integers by the authors' names, of 8 images a class, the last two for validation."""
    counts = [int(5 * 5 ** (-k / 9) + 1e-9) for k in range(10)]
    images = [np.flatnonzero(labels == c) for c in range(10)]
    each = sum(counts) // 10
    for file, parts in {
        "split1_D_i": [rows[:n] for rows, n in zip(images, counts, strict=True)],
        "split1_D_b": [rows[:each] for rows in images],
        "split1_S_b": [rows[:1] for rows in images],
        "trainIdxList": [rows[:6] for rows in images],
        "valIdxList": [rows[6:] for rows in images],
    }.items():
        np.save(folder / f"{file}.npy", np.concatenate(parts))
    return counts


def test_from_the_archive_to_a_run(tmp_path, capsys):
    content = archives.files("cifar10", per_class=8)
    checksum = archives.pack(tmp_path / "cifar.tar.gz", content)
    data_dir, run = f"--data_dir={tmp_path / 'data'}", tmp_path / "run"
    config = f"--config={ROOT / 'configs' / 'cifar10_lt.py'}:sdclr"
    pretrain = ["pretrain", config, f"--workdir={run}", data_dir, f"--config.data.lists={tmp_path}", *PROFILE]
    pretrain += ["--config.data.split=1"]

    (tmp_path / "data").mkdir()
    counts = write_lists(tmp_path, archives.original("cifar10", content, "train")[1][:, 0])
    assert main.main([*pretrain, "--noprogress"]) == 2
    assert f"cifar10 is not prepared in {tmp_path}/data; run: sdclr prepare cifar10 --data" in capsys.readouterr().err
    assert not run.exists()

    prepare = ["prepare", "cifar10", f"--archive={tmp_path / 'cifar.tar.gz'}", data_dir, "--noprogress"]
    assert main.main(prepare) == 2
    assert f"add --accept_checksum={checksum}." in capsys.readouterr().err
    assert main.main([*prepare, f"--accept_checksum={checksum}"]) == 0
    said = capsys.readouterr()
    assert said.out.startswith(
        f"{tmp_path}/data/cifar10/3.0.2 holds cifar10: 80 train and 10 test images of 10 classes\n"
    )
    assert [line.split() for line in said.out.splitlines()[1:3]] == [
        ["train", "test"],
        ["batches.meta.txt", "0", "8", "1"],
    ]
    assert (
        said.err
        == "warning: cifar10 was not made from the published archive of cifar10: its figures are none for cifar10\n"
    )

    config = flags.pretrain(pretrain[1:], "").config
    data = recipes.data(config, str(tmp_path / "data"))
    images = archives.original("cifar10", content, "train")[0]
    chosen = np.sort(np.load(tmp_path / "split1_D_i.npy"))
    assert np.array_equal(data.part("long_tail").images, images[chosen])
    about = evaluate.about(config, data).to_json()
    assert about["provenance"]["sha256"] == checksum and not about["provenance"]["published"]
    assert about["train_counts"] == counts
    for name, file in (("train", "split1_D_i"), ("validation", "valIdxList"), ("few_shot", "split1_S_b")):
        ids = (f"train_{i:05d}" for i in np.load(tmp_path / f"{file}.npy"))
        assert about["lists"][name] == longtail.list_hash(ids)


def test_the_warning_is_seen_with_the_scores(tmp_path, capsys, monkeypatch):
    config = flags.pretrain([f"--config={ROOT / 'configs' / 'cifar10_lt.py'}", f"--workdir={tmp_path}"], "").config
    records.write(tmp_path / "config.json", config.to_dict())
    data = types.SimpleNamespace(provenance={"published": False, "warning": "not the published one"})
    results = types.SimpleNamespace(data=data, protocols={})
    monkeypatch.setattr(evaluate, "evaluate_run", lambda *arguments: results)
    assert main.main(["evaluate", str(tmp_path)]) == 0
    assert capsys.readouterr().err == f"{tmp_path}  warning: cifar10 was not the published one\n"
    for unmarked in ({"published": True}, None):
        data.provenance = unmarked
        assert main.main(["evaluate", str(tmp_path)]) == 0
        assert capsys.readouterr().err == ""


def test_digits_and_help(tmp_path, capsys):
    assert main.main(["prepare", "digits", f"--data_dir={tmp_path}"]) == 0
    assert "1352 train and 445 test images of 10 classes" in capsys.readouterr().out
    assert main.main(["prepare", "digits", f"--data_dir={tmp_path}"]) == 0  # again: as it is
    with pytest.raises(SystemExit) as stop:
        main.main(["prepare", "--help"])
    assert stop.value.code == 0 and "cifar10, cifar100, digits, im" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["cifar11"], "DATASET is 'cifar11', which is not known: choose one of celeba, cifar10, cifar100, digits, im"),
        (["cifar10", "--archive=/none"], "/none cannot be read as an archive (No such file or directory); give the"),
        (["digits", "--archive=x"], "leave out --archive"),
    ],
)
def test_bad_input(tmp_path, capsys, argv, sentence):
    assert main.main(["prepare", *argv, f"--data_dir={tmp_path}"]) == 2
    assert sentence in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_where_to_put_the_file_without_a_network(tmp_path, capsys, monkeypatch):
    archive = cifar.ARCHIVES["cifar10"]._replace(url="http://127.0.0.1:9/cifar-10-binary.tar.gz")
    monkeypatch.setitem(cifar.ARCHIVES, "cifar10", archive)
    assert main.main(["prepare", "cifar10", f"--data_dir={tmp_path}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "put cifar-10-binary.tar.gz from" in line and f"into {tmp_path}/downloads, or give its path" in line


def test_an_archive_in_a_bucket_is_refused_as_one(tmp_path, capsys):
    assert main.main(["prepare", "cifar10", f"--data_dir={tmp_path}", "--archive=gs://bucket/x.tar.gz"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "gs://bucket/x.tar.gz is in a bucket, and archives are read from a disk only: copy it to one" in line


# A person's own photos and large data sets


def test_photos(tmp_path, capsys):
    root, data_dir = tmp_path / "photos", f"--data_dir={tmp_path / 'data'}"
    put(root, [f"{c}/{i}.png" for c in ("cat", "dog") for i in range(5)])
    (root / "cat" / "broken.jpg").write_bytes(picture(0, kind="JPEG")[:50])
    assert main.main(["prepare", f"folder:{root}", data_dir, "--noprogress"]) == 0
    said, (known,) = capsys.readouterr(), (tmp_path / "data" / "folders").iterdir()
    assert said.out.splitlines() == [
        f"{known} holds folder:{root}: 8 train and 2 test images of 2 classes",
        "            train        test",
        "  cat           4           1",
        "  dog           4           1",
    ]
    first, reason = said.err.splitlines()
    assert first == f"skipped files: 1, listed in {known}/skipped.csv" and reason.startswith("  1: ")
    assert main.main(["prepare", f"folder:{root}", data_dir]) == 0
    assert "looking at" not in capsys.readouterr().err  # nothing has changed since
    (root / "cat" / "9.png").write_bytes(picture(1))
    assert main.main(["prepare", f"folder:{root}", data_dir]) == 0
    assert "looking at photos: 100%" in capsys.readouterr().err

    (tmp_path / "m.csv").write_text("path,sharp\n" + "".join(f"cat/{i}.png,{i % 2}\n" for i in range(5)))
    prepare = ["prepare", f"folder:{root}", data_dir, f"--manifest={tmp_path / 'm.csv'}", "--noprogress"]
    assert main.main(prepare) == 0
    said = capsys.readouterr().out
    assert (
        "4 train and 1 test images with 1 attributes\ncolumns used: path, sharp (attribute); not used: none\n" in said
    )
    assert "images that the manifest does not name, and which are left out: 6\n" in said


def test_images_for_validation_are_counted(tmp_path, capsys):
    root, data_dir = tmp_path / "photos", f"--data_dir={tmp_path / 'data'}"
    put(root, [f"{split}/{i}.png" for split, count in (("train", 4), ("val", 2), ("test", 1)) for i in range(count)])
    assert main.main(["prepare", f"folder:{root}", data_dir, "--noprogress"]) == 0
    assert capsys.readouterr().out.endswith(": 4 train, 2 validation and 1 test images without labels\n")


def test_prepare_says_what_it_took_and_what_it_did_not(tmp_path, capsys):
    root, data_dir = tmp_path / "photos", f"--data_dir={tmp_path / 'data'}"
    put(root, ["a/1.png", "a/2.png", "b\x1b[2J/3.png", "b\x1b[2J/4.png", "c/5.png", "@eaDir/6.png"])
    (root / "a" / "7.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0")
    (root / "a" / "8.nef").write_bytes(picture(0, kind="TIFF"))
    deep = Image.fromarray(np.full((4, 4), 300, np.int32))
    deep.save(root / "c" / "9.tif")
    assert main.main(["prepare", f"folder:{root}", data_dir, "--noprogress"]) == 0
    said = capsys.readouterr()
    assert [line.split() for line in said.out.splitlines()[1:]] == [
        ["train", "test"], ["a", "1", "1"], [r"b\x1b[2J", "1", "1"], ["c", "1", "0"],
    ]  # fmt: skip
    for part in (
        "note: The class 'c' has no test image, and so no score; means are over the other classes.\n",
        "note: Passed over: 1 folder that systems make, such as @eaDir.\n",
        "skipped files: 3, listed in",
        "  1: HEIC, which is not decoded here: convert it to JPEG or PNG\n",
        "  1: a camera's raw file, which is not decoded here: develop it",
        "  1: pixels are whole numbers from 300 to 300, and what is black and white among them is not known: set data",
    ):
        assert part in said.err
    assert main.main(["prepare", f"folder:{root}", data_dir, "--noprogress", "--gray_range=0,300"]) == 0
    said = capsys.readouterr()
    assert ["c", "1", "1"] in [line.split() for line in said.out.splitlines()] and "skipped files: 2" in said.err
    for wrong in ("x", "5", "3,1", "1,2,3"):
        assert main.main(["prepare", f"folder:{root}", data_dir, f"--gray_range={wrong}"]) == 2
        assert "--gray_range is" in capsys.readouterr().err


def test_large_data_sets_are_used_where_they_lie(tmp_path, capsys):
    put(tmp_path / "in", [f"{split}/n0{c}/{c}.JPEG" for split in ("train", "val") for c in range(3)])
    before = sorted(tmp_path.rglob("*"))
    assert main.main(["prepare", "imagenet", f"--root={tmp_path / 'in'}", f"--data_dir={tmp_path / 'data'}"]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"{tmp_path / 'in'} holds imagenet: 3 train and 3 test images of 3 classes\n")
    for name in ("imagenet", "imagenet100", "places365", "inaturalist2018", "celeba"):
        assert main.main(["prepare", name, f"--data_dir={tmp_path / 'data'}"]) == 2
        assert f"--root is empty, and {name} is not prepared: give " in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def test_a_full_disk_leaves_no_half_index(tmp_path, capsys, monkeypatch):
    put(tmp_path / "photos", ["1.png", "2.png"])

    def full(path, content):
        with path.open("wb") as file:
            file.write(content[:1])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(pathlib.Path, "write_bytes", full)
    data_dir = f"--data_dir={tmp_path / 'data'}"
    assert main.main(["prepare", f"folder:{tmp_path / 'photos'}", data_dir, "--noprogress"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "index.json cannot be written (No space left on device): make room" in line
    assert not [path for path in (tmp_path / "data").rglob("*") if path.is_file()]


@pytest.mark.parametrize("method", ["simclr", "sdclr"])
def test_photos_in_the_config(tmp_path, method):
    """From the command line to the subsets of a run."""
    put(tmp_path / "photos", [f"{c}/{i}.png" for c, n in (("cat", 30), ("dog", 9), ("newt", 4)) for i in range(n)])
    argv = [f"--config={ROOT / 'configs' / 'folder.py'}:{method}", f"--workdir={tmp_path / 'run'}"]
    config = flags.pretrain([*argv, f"--config.data.name=folder:{tmp_path / 'photos'}"], "").config
    recipes.check(config)
    data = recipes.data(config, str(tmp_path / "data"))
    about = evaluate.about(config, data).to_json()
    assert about["class_names"] == ["cat", "dog", "newt"] and about["groups"] == ["medium", "few", "few"]
    assert about["train_counts"] == [20, 7, 3] and len(data.subsets.validation) == 4 + 1
    assert about["provenance"]["images"] == 43 and len(data.test.ids) == 6 + 1 + 1
    assert len(data.part("few_shot").images) == 10 + 7 + 3

    for changes, message in (
        (
            {"subset": "balanced"},
            "data.subset is 'balanced', which folder:.* does not have, since its smallest class is",
        ),
        ({"profile": "exponential"}, "data.n_max .* class . has .* training images and needs"),
        ({"profile": "zipf"}, "unknown data.profile 'zipf': known are exponential, pareto, as_is"),
        ({"name": "folder:"}, "'folder:' without a path"),
        (
            {"name": "folders:/x"},
            "data.name is 'folders:/x', which is not known: choose one of .* or folder:/path/to/images",
        ),
    ):
        wrong = copy.deepcopy(config)
        wrong.data.update(changes)
        with pytest.raises(UserError, match=message):
            recipes.check(wrong)
            recipes.data(wrong, str(tmp_path / "data"))


def test_photos_without_labels_in_the_config(tmp_path):
    put(tmp_path / "photos", [f"{i}.png" for i in range(5)])
    argv = [f"--config={ROOT / 'configs' / 'folder.py'}", f"--config.data.name=folder:{tmp_path / 'photos'}"]
    config = flags.pretrain([*argv, f"--workdir={tmp_path / 'run'}"], "").config
    data = recipes.data(config, str(tmp_path / "data"))
    assert len(data.part("long_tail").ids) == 5 and not len(data.test.ids)
    config.data.subset = "probe_train"
    with pytest.raises(UserError, match="data.subset is 'probe_train', .*, since its images have no labels: set it to"):
        recipes.data(config, str(tmp_path / "data"))
    config.data.subset = "long_tail"
    config.views = digits_lt.get_config().views
    with pytest.raises(UserError, match="views.name 'digits' leaves images as large as they are, and those of folder:"):
        recipes.data(config, str(tmp_path / "data"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_is_stopped_keeps_what_it_has_looked_at(tmp_path, number):
    """A real process, told to stop while it is at the last of its tasks."""
    put(tmp_path / "photos", [f"{i:04}.png" for i in range(600)])
    program = (
        "import os, signal, sys, time; from sdclr_jax.commands import main; from sdclr_jax.data.sources import index\n"
        "look, entry, kept = index._look, index.Entry, []\n"
        "index.Entry = lambda *given, **more: kept.append(1) or entry(*given, **more)\n"
        "def slow(root, paths, *more):\n"
        "    if '0599.png' in paths:\n"
        "        while len(kept) < 256:\n"
        "            time.sleep(0.01)\n"
        f"        os.kill(os.getpid(), {int(number)})\n"
        "        time.sleep(1)\n"
        "    return look(root, paths, *more)\n"
        "index._look = slow\n"
        "sys.exit(main.main(sys.argv[1:]))"
    )
    argv = ["prepare", f"folder:{tmp_path / 'photos'}", f"--data_dir={tmp_path / 'data'}", "--noprogress"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", program, *argv], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr) == (130, "sdclr: stopped\n")
    (kept,) = (tmp_path / "data").rglob("index.json")
    assert len(json.loads(kept.read_text())["files"]) >= 256
    assert not list((tmp_path / "data").rglob(".*"))


def test_a_published_folder_whose_test_images_are_of_other_classes(tmp_path, capsys):
    """Some are not trained on, and one that is has none."""
    put(tmp_path / "root", [f"train/{c}/{i}.JPEG" for c in ("n1", "n2", "n3") for i in range(2)])
    put(
        tmp_path / "root", [f"val/{c}/{i}.JPEG" for c, count in (("n0", 3), ("n1", 1), ("n3", 2)) for i in range(count)]
    )
    argv = ["prepare", "imagenet", f"--root={tmp_path / 'root'}", f"--data_dir={tmp_path}", "--noprogress"]
    assert main.main(argv) == 0
    said = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line for line in said if line[:1] in (["n0"], ["n1"], ["n2"], ["n3"])] == [
        ["n1", "2", "1"], ["n2", "2", "0"], ["n3", "2", "2"],
    ]  # fmt: skip
