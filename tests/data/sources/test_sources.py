import errno
import hashlib
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from sklearn.datasets import load_digits

from sdclr_jax.data import sources
from sdclr_jax.data.sources import prepared
from sdclr_jax.data.subsets import longtail
from sdclr_jax.errors import ArgumentError, UserError

ROOT = pathlib.Path(sources.__file__).parents[3]
FOLDER = pathlib.Path("sdclr_digits") / "1.0.0"
TRAIN = FOLDER / "sdclr_digits-train.array_record-00000-of-00001"


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    data_dir = tmp_path_factory.mktemp("data") / "made" / "on" / "the" / "way"
    sources.source("digits", data_dir).load("test")
    return data_dir


@pytest.fixture
def copy(data_dir, tmp_path):
    """A prepared data folder that a test may damage; what was decoded is left out, else it would be read."""
    shutil.copytree(data_dir, tmp_path / "copy", ignore=shutil.ignore_patterns("decoded_*"))
    return tmp_path / "copy"


def digest(examples):
    parts = [examples.images.tobytes(), examples.labels.tobytes(), "\n".join(examples.ids).encode()]
    return hashlib.sha256(b"".join(parts)).hexdigest()


def start(code, *arguments):
    """A Python process that knows the package and the arguments, with all it prints in pipes."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "error", "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_train_and_test_are_the_images_of_the_package(data_dir):
    original = load_digits()
    splits = {split: sources.source("digits", data_dir).load(split) for split in ("train", "test")}
    for examples in splits.values():
        index = np.array([int(name[-5:]) for name in examples.ids])
        assert np.all(np.diff(index) > 0)
        assert examples.ids.tolist() == [f"digits_{i:05d}" for i in index]
        assert examples.images.dtype == np.uint8 and examples.images.shape == (len(index), 8, 8, 1)
        assert np.array_equal(examples.images[..., 0], np.floor(original.images[index] * 255 / 16 + 0.5))
        assert examples.labels.dtype == np.int32 and np.array_equal(examples.labels, original.target[index])
        assert examples.class_names[0] == "zero" and len(examples.class_names) == 10
    assert len(splits["train"].ids) == 1352 and len(splits["test"].ids) == 445
    assert not set(splits["train"].ids) & set(splits["test"].ids)


def test_records_may_come_in_any_order():
    rng = np.random.default_rng(0)
    records = [
        {"id": f"n_{i:05d}".encode(), "image": rng.integers(0, 256, (2, 2, 3), np.uint8), "label": i % 4}
        for i in range(200)
    ]
    sorted_already = prepared.examples_of(records, ("a", "b", "c", "d"))
    shuffled = prepared.examples_of([records[i] for i in rng.permutation(200)], ("a", "b", "c", "d"))
    assert digest(shuffled) == digest(sorted_already)

    arguments = dict(num_classes=4, n_max=30, imbalance=10, validation_per_class=5, few_shot_per_class=3, seed=0)
    first, second = (longtail.draw(examples.labels, **arguments) for examples in (sorted_already, shuffled))
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_the_defaults_of_the_configuration_fit_the_digits(data_dir):
    labels = sources.source("digits", data_dir).load("train").labels
    subsets = longtail.draw(
        labels, num_classes=10, n_max=110, imbalance=20.0, validation_per_class=20, few_shot_per_class=5, seed=0
    )
    assert (len(subsets.long_tail), len(subsets.balanced), len(subsets.probe_train)) == (369, 360, 1152)


def test_reading_writes_nothing(data_dir):
    def listing():
        return {path: path.stat().st_mtime_ns for path in data_dir.rglob("*")}

    before = listing()
    sources.source("digits", data_dir).load("train")
    assert listing() == before
    assert [path.name for path in data_dir.iterdir()] == ["sdclr_digits"]  # nothing left over from preparing


RACE = """
import os, pathlib, sys, time
from sdclr_jax.data import sources
data_dir, meeting = map(pathlib.Path, sys.argv[1:])
rename = os.rename

def rename_together(source, target):
    if pathlib.Path(target) == data_dir / "sdclr_digits" / "1.0.0":  # both have prepared, none has published
        (meeting / str(os.getpid())).touch()
        end = time.monotonic() + 300
        while len(list(meeting.iterdir())) < 2:
            assert time.monotonic() < end, "the other process did not come"
            time.sleep(0.01)
    rename(source, target)

os.rename = rename_together
examples = sources.source("digits", data_dir).load("train")
assert "tensorflow" not in sys.modules
import hashlib
parts = [examples.images.tobytes(), examples.labels.tobytes(), "\\n".join(examples.ids).encode()]
print(hashlib.sha256(b"".join(parts)).hexdigest())
"""


def test_two_processes_may_prepare_at_the_same_time(data_dir, tmp_path):
    (tmp_path / "meeting").mkdir()
    processes = [start(RACE, tmp_path / "data", tmp_path / "meeting") for _ in range(2)]
    expected = digest(sources.source("digits", data_dir).load("train")) + "\n"
    for process in processes:
        out, err = process.communicate(timeout=400)
        assert (process.returncode, out, err) == (0, expected, "")  # so tfds is silent, too
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["sdclr_digits"]
    assert [path.name for path in (tmp_path / "data" / "sdclr_digits").iterdir()] == ["1.0.0"]


KILLED = """
import os, signal, sys
from PIL import Image
from sdclr_jax.data import sources
fromarray, calls = Image.fromarray, []

def fromarray_or_die(image):
    calls.append(1)
    if len(calls) == 1500:  # the first split is on disk, the second one half encoded
        os.kill(os.getpid(), signal.SIGKILL)
    return fromarray(image)

Image.fromarray = fromarray_or_die
sources.source("digits", sys.argv[1]).load("train")
"""


def test_what_a_killed_process_left_is_not_taken_for_data(data_dir, tmp_path):
    process = start(KILLED, tmp_path)
    process.communicate(timeout=400)
    assert process.returncode == -signal.SIGKILL
    left = [path.name for path in tmp_path.rglob("*.array_record*")]
    assert left, "the process was killed too early to leave anything"
    assert digest(sources.source("digits", tmp_path).load("train")) == digest(
        sources.source("digits", data_dir).load("train")
    )


def flip_a_bit(path):
    with open(path, "r+b") as file:
        file.seek(100_000)
        byte = file.read(1)[0]
        file.seek(100_000)
        file.write(bytes([byte ^ 1]))


def empty(folder):
    for path in (folder / FOLDER).iterdir():
        path.unlink()


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: flip_a_bit(folder / TRAIN),
        empty,
        lambda folder: os.truncate(folder / TRAIN, 200_000),
        lambda folder: (folder / TRAIN).unlink(),
        lambda folder: (folder / FOLDER / "dataset_info.json").unlink(),
        lambda folder: os.truncate(folder / FOLDER / "dataset_info.json", 300),
    ],
    ids=["bit", "empty", "truncated", "no-records", "no-info", "half-info"],
)
def test_damage_is_seen_and_named(copy, damage):
    damage(copy)
    with pytest.raises(UserError) as error:
        sources.source("digits", copy).load("train")
    assert str(error.value) == f"The data set in {copy / FOLDER} is damaged; delete that folder and run again."


@pytest.mark.parametrize("damage", [flip_a_bit, lambda path: os.truncate(path, 1000)], ids=["bit", "truncated"])
def test_decoded_images_that_are_damaged_are_made_afresh(copy, damage):
    expected = digest(sources.source("digits", copy).load("train"))
    kept = copy / FOLDER / "decoded_train.npz"
    whole = kept.read_bytes()
    damage(kept)
    assert kept.read_bytes() != whole
    assert digest(sources.source("digits", copy).load("train")) == expected
    assert digest(sources.source("digits", copy).load("train")) == expected


def test_the_remedy_for_damage_works(data_dir, copy):
    flip_a_bit(copy / TRAIN)
    shutil.rmtree(copy / FOLDER)
    assert digest(sources.source("digits", copy).load("train")) == digest(
        sources.source("digits", data_dir).load("train")
    )


def test_unknown_names_list_the_known_ones(data_dir):
    with pytest.raises(
        ArgumentError,
        match=r"^name is 'digit', which is not known: choose one of celeba, .*, or folder:/path/to/images, or add",
    ):
        sources.source("digit", data_dir).load("train")
    with pytest.raises(UserError, match=r"^Split 'validation' is not in .*; choose one of: train, test\.$"):
        sources.source("digits", data_dir).load("validation")


def test_a_file_in_the_way(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"^The data folder .*file/data cannot .* \(Not a directory\); .*SDCLR_DATA\.$"):
        sources.source("digits", tmp_path / "file" / "data").load("train")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(tmp_path):
    tmp_path.chmod(0o555)
    with pytest.raises(UserError, match=r"\(Permission denied\); .*SDCLR_DATA\.$"):
        sources.source("digits", tmp_path / "data").load("train")


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    from sdclr_jax.data.sources.digits import SdclrDigits

    def fill(self):
        (pathlib.Path(self.data_dir).parent / "half").mkdir(parents=True)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(SdclrDigits, "download_and_prepare", fill)
    with pytest.raises(UserError, match=r"\(No space left on device\); make room .*SDCLR_DATA\.$"):
        sources.source("digits", tmp_path).load("train")
    assert not list(tmp_path.iterdir())


def test_default_data_dir(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for unset in ("", None):
        monkeypatch.setenv("SDCLR_DATA", unset) if unset is not None else monkeypatch.delenv("SDCLR_DATA")
        assert sources.default_data_dir() == tmp_path / ".cache" / "sdclr_jax" / "data"
    monkeypatch.setenv("SDCLR_DATA", "~/elsewhere")
    assert sources.default_data_dir() == tmp_path / "elsewhere"


def test_load_goes_to_the_default_data_dir(data_dir, monkeypatch):
    monkeypatch.setenv("SDCLR_DATA", str(data_dir))
    assert len(sources.source("digits").load("test").ids) == 445


def test_importing_sources_is_cheap():
    process = start(
        "import sys; import sdclr_jax.data.sources; print({'tensorflow_datasets', 'sklearn', 'jax'} & {*sys.modules})"
    )
    assert process.communicate(timeout=400) == ("set()\n", "")
