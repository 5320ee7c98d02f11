"""`sdclr prepare`, and CIFAR from the archive to the images that a run trains on."""

import pathlib

import numpy as np
import pytest

from sdclr_jax import build, workdir
from sdclr_jax.commands import evaluate, flags, main
from sdclr_jax.data import cifar, longtail
from tests import archives

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
    assert said.out == f"{tmp_path}/data/cifar10/3.0.2 holds cifar10: 80 train and 10 test images of 10 classes\n"
    assert (
        said.err
        == "warning: cifar10 was not made from the published archive of cifar10: its figures are none for cifar10\n"
    )

    config = flags.pretrain(pretrain[1:], "").config
    data = build.data(config, str(tmp_path / "data"))
    images = archives.original("cifar10", content, "train")[0]
    chosen = np.sort(np.load(tmp_path / "split1_D_i.npy"))
    assert np.array_equal(data.part("long_tail").images, images[chosen])
    about = evaluate.about(config, data)
    assert about["provenance"]["sha256"] == checksum and not about["provenance"]["published"]
    assert about["train_counts"] == counts
    for name, file in (("train", "split1_D_i"), ("validation", "valIdxList"), ("few_shot", "split1_S_b")):
        ids = (f"train_{i:05d}" for i in np.load(tmp_path / f"{file}.npy"))
        assert about["lists"][name] == longtail.list_hash(ids)


def test_the_warning_is_seen_with_the_scores(tmp_path, capsys, monkeypatch):
    config = flags.pretrain([f"--config={ROOT / 'configs' / 'cifar10_lt.py'}", f"--workdir={tmp_path}"], "").config
    workdir.write_json(tmp_path / "config.json", config.to_dict())
    results = {"data": {"provenance": {"published": False, "warning": "not the published one"}}, "protocols": {}}
    monkeypatch.setattr(evaluate, "evaluate", lambda *arguments: results)
    assert main.main(["evaluate", str(tmp_path)]) == 0
    assert capsys.readouterr().err == f"{tmp_path}  warning: cifar10 was not the published one\n"
    for unmarked in ({"published": True}, None):
        results["data"]["provenance"] = unmarked
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
        (["cifar11"], "data.name 'cifar11' is not known; choose one of: celeba, cifar10, cifar100, digits, im"),
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
