"""Paths in a bucket do what paths on a disk do, and what goes wrong is said in a sentence."""

import importlib.util
import pathlib
import types

import pytest

from sdclr_jax import files
from sdclr_jax.buckets import paths
from sdclr_jax.errors import UserError
from sdclr_jax.run.growing import Growing


@pytest.fixture
def impatient(monkeypatch):
    """What fails is tried again without a pause."""

    async def sleep(seconds):
        pass

    monkeypatch.setattr("gcsfs.retry.asyncio", types.SimpleNamespace(sleep=sleep))


def used(folder):
    """What is found in a folder by all methods that this package uses."""
    (folder / "a").mkdir(parents=True, exist_ok=True)
    (folder / "a" / "one.json").write_bytes(b"{}\r\n")
    (folder / "a" / "b c").mkdir()
    (folder / "a" / "b c" / "ü%20+.txt").write_text("ß\n", encoding="utf-8")
    (folder / "a" / "empty").touch()
    top = folder / "a"
    seen = [path.relative_to(folder).as_posix() for path in sorted(top.rglob("*")) if path.is_file()]
    seen += [(path.name, path.is_dir(), path.is_file()) for path in sorted(top.iterdir())]
    seen += [(top / "one.json").read_bytes(), (top / "one.json").stat().st_size, (top / "one.json").exists()]
    seen += [(top / "b c" / "ü%20+.txt").read_text(encoding="utf-8"), sorted(path.name for path in top.glob("*.json"))]
    with (top / "one.json").open("rb") as file:
        seen += [file.seek(1), file.read(1)]
    with (top / "b c" / "ü%20+.txt").open(encoding="utf-8") as file:
        seen += list(file)
    (top / "b c").rename(folder / "moved")
    (top / "empty").unlink()
    (top / "empty").unlink(missing_ok=True)
    (top / "one.json").rename(top / "two.json")
    seen += [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
    for missing in (
        (top / "empty").unlink,
        (top / "none").read_bytes,
        (top / "none").read_text,
        (top / "none").stat,
        (top / "none").open,
    ):
        with pytest.raises(FileNotFoundError) as error:
            missing()
        seen.append((error.value.errno, error.value.strerror, pathlib.PurePath(error.value.filename).name))
    absent = folder / "none"
    seen += [absent.exists(), absent.is_dir(), absent.is_file(), (top / "two.json" / "x").exists()]
    return [*seen, top.name, top.with_name("c").name, (top / "two.json").with_suffix(".md").suffix]


def test_a_path_in_a_bucket_is_used_as_one_on_a_disk(cloud, tmp_path):
    folder = files.expanded("gs://bucket/a run")
    assert files.in_bucket(folder) and not files.in_bucket(tmp_path)
    assert used(folder) == used(tmp_path)
    assert str(folder.absolute()) == str(folder.resolve()) == str(folder.expanduser()) == "gs://bucket/a run"
    assert cloud.names("a run") == {"a/two.json", "moved/ü%20+.txt"}


def test_an_object_is_written_whole_or_not_at_all(cloud):
    """By `open` an append would leave the last text alone, and an error half of one."""
    path = files.expanded("gs://bucket/lines.jsonl")
    for mode in ("a", "w", "wb", "r+b"):
        with pytest.raises(ValueError, match=f"cannot be opened with mode '{mode.replace('+', '.')}'"):
            path.open(mode)
    files.write(path, b"first")
    with pytest.raises(RuntimeError, match="power cut"), files.replacing(path) as part:
        part.write_bytes(b"sec")
        raise RuntimeError("power cut")
    assert cloud.objects["lines.jsonl"].content == b"first"
    generation = cloud.objects["lines.jsonl"].generation
    files.write_changed(path, b"first")
    assert cloud.objects["lines.jsonl"].generation == generation
    files.write_changed(path, b"second")
    assert cloud.objects["lines.jsonl"].content == b"second"


@pytest.mark.filterwarnings("ignore:Sending a large body")  # by gcsfs
def test_what_does_not_fit_in_one_request_arrives_as_it_was(cloud, tmp_path):
    content = bytes(range(256)) * 25_000  # 6.4 MB
    (tmp_path / "large").write_bytes(content)
    path = files.expanded("gs://bucket/large")
    path.put(tmp_path / "large")
    path.take(tmp_path / "again")
    assert path.read_bytes() == (tmp_path / "again").read_bytes() == content


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("s3://bucket/run", "of addresses only gs://BUCKET/FOLDER is known; mount another bucket"),
        ("https://storage.googleapis.com/bucket/run", "of addresses only gs://"),
        ("gs:/bucket/run", "of addresses only gs://"),
        ("GS://bucket/run", "of addresses only gs://"),
        ("gs://", "names no bucket: write gs://BUCKET/FOLDER"),
        ("gs:///run", "names no bucket"),
        ("gs://bucket/a/../b", "has .. in it"),
    ],
)
def test_an_address_that_means_nothing_is_refused(address, said):
    with pytest.raises(UserError, match=said):
        files.expanded(address)


def test_a_bucket_without_the_package_that_reaches_it(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "gcsfs" else find(name))
    with pytest.raises(UserError, match=r"gs://bucket/run is in a bucket, and gcsfs is not installed: pip install"):
        files.expanded("gs://bucket/run")


def test_what_may_be_written_is_told_without_leaving_anything(cloud):
    files.check_writable(files.expanded("gs://bucket/new/run"))
    assert not cloud.objects
    with pytest.raises(UserError, match=r"gs://none/run cannot be written \(there is no bucket gs://none\): see that"):
        files.check_writable(files.expanded("gs://none/run"))
    cloud.fault = lambda method, path, name: 403 if method == "POST" else None
    with pytest.raises(UserError, match=r"cannot be written \(the credentials do not allow it\): see"):
        files.check_writable(files.expanded("gs://bucket/run"))
    cloud.fault = lambda method, path, name: 403 if path == "/storage/v1/b/bucket" else None
    with pytest.raises(UserError, match="roles/storage.legacyBucketReader on gs://bucket lacks"):
        files.check_writable(files.expanded("gs://bucket/run"))
    cloud.fault = lambda method, path, name: 401
    with pytest.raises(UserError, match=r"\(no credentials that it accepts; `gcloud auth application-default login`"):
        files.check_writable(files.expanded("gs://bucket/run"))
    assert not cloud.objects


def test_a_server_that_fails_is_asked_a_few_times_and_then_told_of(cloud, impatient):
    path = files.expanded("gs://bucket/config.json")
    files.write(path, b"old")
    asked = []

    def fails(method, address, name, times=10):
        asked.append(method)
        return 503 if len(asked) <= times else None  # every request is to write

    cloud.fault = fails
    with pytest.raises(UserError, match=r"config.json cannot be written \(the bucket does not answer: a fault of"):
        files.write(path, b"new")
    assert len(asked) == 6
    cloud.fault = lambda method, address, name: None
    assert path.read_bytes() == b"old"
    asked.clear()
    cloud.fault = lambda *request: fails(*request, times=2)
    files.write(path, b"new")
    cloud.fault = lambda method, address, name: 503
    with pytest.raises(OSError, match="the bucket does not answer: a fault of status 503"):
        path.read_bytes()
    cloud.fault = lambda method, address, name: None
    assert path.read_bytes() == b"new"


@pytest.mark.filterwarnings("ignore:Sending a large body")  # by gcsfs
def test_an_upload_in_parts_that_breaks_leaves_what_was_there(cloud, tmp_path, impatient):
    (tmp_path / "large").write_bytes(bytes(6_000_000))
    path = files.expanded("gs://bucket/large")
    path.write_bytes(b"old")
    cloud.fault = lambda method, address, name: 503 if address.startswith("/upload") and not name else None
    with pytest.raises(UserError, match="large cannot be written"), files.replacing(path) as part:
        part.write_bytes((tmp_path / "large").read_bytes())
    assert cloud.objects["large"].content == b"old"


def test_lines_grow_here_and_are_published_where_they_have_changed(cloud):
    folder = files.expanded("gs://bucket/run")
    grown = Growing(folder, lambda: None)
    (grown.at / "tensorboard").mkdir()
    (grown.at / "tensorboard" / "events").write_bytes(b"1")
    for line in ("one\n", "two\n"):
        with (grown.at / "metrics.jsonl").open("a") as file:
            file.write(line)
    assert not cloud.objects
    grown.publish()
    assert cloud.objects["run/metrics.jsonl"].content == b"one\ntwo\n"
    generation = cloud.objects["run/tensorboard/events"].generation
    with (grown.at / "metrics.jsonl").open("a") as file:
        file.write("three\n")
    grown.close()
    assert cloud.objects["run/metrics.jsonl"].content == b"one\ntwo\nthree\n"
    assert cloud.objects["run/tensorboard/events"].generation == generation
    assert not grown.at.exists()


def test_on_a_disk_lines_grow_where_they_are(tmp_path):
    grown = Growing(tmp_path, lambda: None)
    assert grown.at == tmp_path
    grown.publish()
    grown.close()
    assert tmp_path.is_dir()


def test_what_is_read_from_a_disk_only_is_refused_in_a_bucket(tmp_path):
    assert files.on_disk(tmp_path, "photos are read from") == tmp_path
    with pytest.raises(UserError, match="gs://bucket/photos is in a bucket, and photos are read from a disk only"):
        files.on_disk("gs://bucket/photos", "photos are read from")


def test_the_filesystem_keeps_no_lists(cloud):
    """Another machine writes meanwhile."""
    folder = files.expanded("gs://bucket/run")
    assert not list(folder.iterdir()) and not (folder / "a").exists()
    cloud.put("run/a", b"1")
    assert [path.name for path in folder.iterdir()] == ["a"] and (folder / "a").exists()
    cloud.put("run/", b"")  # as consoles make a folder
    assert [path.name for path in folder.iterdir()] == ["a"]
    assert paths.path("gs://bucket/run").below().keys() == {"a"}
