import errno
import gzip
import hashlib
import http.client
import io
import itertools
import os
import pathlib
import resource
import shutil
import ssl
import subprocess
import sys
import tarfile
import tracemalloc
import urllib.error

import numpy as np
import pytest
import tensorflow_datasets as tfds
from tensorflow_datasets.core import hashing

from sdclr_jax.data import sources
from sdclr_jax.data.sources import cifar
from sdclr_jax.errors import UserError
from tests import archives

NAMES = ("cifar10", "cifar100")


@pytest.fixture(scope="module", params=NAMES)
def prepared(request, tmp_path_factory):
    """A data set's name, the files of its archive, and the folder that it was prepared in."""
    name, folder = request.param, tmp_path_factory.mktemp(request.param)
    content = archives.files(name, per_class=3 if name == "cifar10" else 1)
    checksum = archives.pack(folder / "archive.tar.gz", content)
    sources.source(name, folder / "data").prepare(archive=folder / "archive.tar.gz", accept_checksum=checksum)
    return name, content, folder / "data", checksum


@pytest.fixture
def content():
    return archives.files("cifar10")


def prepare(tmp_path, content, extra=(), name="cifar10"):
    path = tmp_path / "archive.tar.gz"
    checksum = archives.pack(path, content, extra)
    return sources.source(name, tmp_path / "data").prepare(archive=path, accept_checksum=checksum)


def refused(tmp_path, message, content, extra=()):
    """The archive is refused with this message, and nothing is left behind."""
    with pytest.raises(UserError, match=message) as error:
        prepare(tmp_path, content, extra)
    assert str(error.value).count("\n") == 0
    assert not list(tmp_path.glob("data/**/*"))


def test_checksums_are_those_of_tfds():
    for name, archive in cifar.ARCHIVES.items():
        known = pathlib.Path(tfds.__file__).parent / "url_checksums" / f"{name}.txt"
        url, _, checksum, file = known.read_text().split()
        assert (archive.url, archive.sha256, archive.file) == (url, checksum, file)


def test_examples_are_the_records_in_the_order_of_the_archive(prepared):
    name, content, data_dir, _ = prepared
    for _, split in itertools.product(range(2), ("train", "test")):  # decoded, and then from what is kept
        images, labels = archives.original(name, content, split)
        examples = sources.source(name, data_dir).load(split)
        assert examples.ids.tolist() == [f"{split}_{i:05d}" for i in range(len(images))]
        assert examples.images.dtype == np.uint8 and np.array_equal(examples.images, images)
        assert examples.labels.dtype == np.int32 and np.array_equal(examples.labels, labels[:, -1])
        prefix = "batches.meta.txt" if name == "cifar10" else "fine"
        assert examples.class_names == tuple(f"{prefix} {c}" for c in range(int(name[5:])))


def test_stock_tfds_reads_it(prepared):
    name, content, data_dir, _ = prepared
    stock = tfds.builder_cls(name)
    assert stock.__module__ == "tensorflow_datasets.image_classification.cifar"
    images, labels = archives.original(name, content, "train")
    by_name = tfds.data_source(name, data_dir=data_dir, split="train")
    folder = data_dir / name / str(stock.VERSION)
    for source in (by_name, tfds.builder_from_directory(folder).as_data_source("train")):
        assert len(source) == len(images)
        places = []
        for record in source:
            places.append(int(record["id"].decode().removeprefix("train_")))
            assert np.array_equal(record["image"], images[places[-1]])
            assert [record[label] for label in cifar.ARCHIVES[name].labels] == labels[places[-1]].tolist()
        # On disk they lie in the order that tfds gives to the stock builder's keys, the places themselves.
        assert places == sorted(range(len(images)), key=hashing.Hasher("train").hash_key)


def test_features_and_shards_are_the_stock_ones(prepared):
    name, _, data_dir, _ = prepared
    builder = tfds.builder_from_directory(data_dir / name / "3.0.2")
    stock = tfds.builder_cls(name)(data_dir=data_dir / "nowhere")
    assert set(builder.info.features) == set(stock.info.features)
    for feature in stock.info.features:
        ours, theirs = (b.info.features[feature] for b in (builder, stock))
        assert type(ours) is type(theirs) and (ours.shape, ours.np_dtype) == (theirs.shape, theirs.np_dtype)
    assert builder.info.features["label"].num_classes == stock.info.features["label"].num_classes
    assert builder.info.splits["train"].filenames == [f"{name}-train.array_record-00000-of-00001"]


def test_tensorflow_is_not_imported(tmp_path, content):
    checksum = archives.pack(tmp_path / "archive.tar.gz", content)
    code = (
        "import sys; from sdclr_jax.commands.main import main;"
        "status = main(sys.argv[1:]); assert not {'tensorflow', 'jax'} & set(sys.modules); sys.exit(status)"
    )
    argv = ["prepare", "cifar10", f"--archive={tmp_path / 'archive.tar.gz'}", f"--data_dir={tmp_path / 'data'}"]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *argv, f"--accept_checksum={checksum}"],
        capture_output=True,
        text=True,
        cwd=pathlib.Path(sources.__file__).parents[3],
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.partition("\n")[0].endswith("holds cifar10: 30 train and 10 test images of 10 classes")
    assert "cifar10 train: 100%" in done.stderr and "warning: cifar10 was not made from the published" in done.stderr


# Where it came from


def test_another_archive_is_taken_when_named_and_stays_marked(prepared):
    name, _, data_dir, checksum = prepared
    assert sources.source(name, data_dir).provenance() == {
        "archive": "archive.tar.gz",
        "sha256": checksum,
        "published": False,
        "warning": f"not made from the published archive of {name}: its figures are none for {name}",
    }


def test_the_published_archive_has_no_warning(tmp_path, content, monkeypatch):
    checksum = archives.pack(tmp_path / "archive.tar.gz", content)
    monkeypatch.setitem(cifar.ARCHIVES, "cifar10", cifar.ARCHIVES["cifar10"]._replace(sha256=checksum))
    sources.source("cifar10", tmp_path).prepare(archive=tmp_path / "archive.tar.gz")
    published = {"archive": "archive.tar.gz", "sha256": checksum, "published": True}
    assert sources.source("cifar10", tmp_path).provenance() == published


@pytest.mark.parametrize("accepted", ["", "0" * 64, "*"])
def test_another_checksum_is_refused(tmp_path, content, accepted):
    checksum = archives.pack(tmp_path / "archive.tar.gz", content)
    with pytest.raises(UserError) as error:
        sources.source("cifar10", tmp_path).prepare(archive=tmp_path / "archive.tar.gz", accept_checksum=accepted)
    assert f"{checksum} and not the published c4a38c50" in str(error.value)
    assert str(error.value).endswith(f"add --accept_checksum={checksum}.")
    assert not (tmp_path / "cifar10").exists()


def test_what_is_prepared_is_used_as_it_is(prepared, tmp_path):
    name, _, data_dir, checksum = prepared
    folder = data_dir / name / "3.0.2"
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert sources.source(name, data_dir).prepare() == folder  # neither archive nor network is asked for
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    (tmp_path / "other").write_bytes(b"another archive")
    with pytest.raises(UserError, match=rf"made from another archive \(SHA-256 {checksum}\) than .*; delete that"):
        sources.source(name, data_dir).prepare(archive=tmp_path / "other")


def test_data_that_tfds_prepared_is_used_as_it_is(prepared, tmp_path):
    """Stock data: no note of its origin, no decoded images, and a folder that nothing may be written to."""
    name, content, data_dir, _ = prepared
    folder = tmp_path / name / "3.0.2"
    shutil.copytree(data_dir / name / "3.0.2", folder)
    for path in (*folder.glob("decoded_*"), folder / "provenance.json"):
        path.unlink()
    examples = sources.source(name, tmp_path).load("train")
    assert np.array_equal(examples.images, archives.original(name, content, "train")[0])
    assert sources.source(name, tmp_path).provenance() is None


def test_tfds_data_in_a_format_for_tensorflow_is_refused_by_name(prepared, tmp_path):
    name, _, data_dir, _ = prepared
    folder = tmp_path / name / "3.0.2"
    shutil.copytree(data_dir / name / "3.0.2", folder, ignore=shutil.ignore_patterns("decoded_*"))
    info = folder / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(UserError, match=r"is stored as tfrecord, which only TensorFlow reads; .*--data_dir"):
        sources.source(name, tmp_path).load("train")


# Archives that are refused


def test_no_archive(tmp_path):
    with pytest.raises(
        UserError, match=r"/none cannot be read .*\(No such file or directory\); give the path of cifar-10-bin"
    ):
        sources.source("cifar10", tmp_path).prepare(archive=tmp_path / "none")


@pytest.mark.parametrize("share", [0, 0.001, 0.5, 0.99])
def test_half_an_archive(tmp_path, content, share):
    path = tmp_path / "archive.tar.gz"
    archives.pack(path, content)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(UserError, match="cut short or something else; get it again from https://www.cs.toronto"):
        sources.source("cifar10", tmp_path).prepare(archive=path)
    checksum = cifar.hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(UserError, match="cannot be read as an archive|holds no cifar-10-batches-bin/"):
        sources.source("cifar10", tmp_path).prepare(archive=path, accept_checksum=checksum)
    assert [p.name for p in tmp_path.iterdir()] == ["archive.tar.gz"]


def member(name, kind=tarfile.REGTYPE, link=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


@pytest.mark.parametrize(
    "bad",
    [
        member("../outside"),
        member("cifar-10-batches-bin/../../outside"),
        member("/tmp/outside"),
        member("cifar-10-batches-bin/link", tarfile.SYMTYPE, "/etc/passwd"),
        member("cifar-10-batches-bin/test_batch.bin", tarfile.SYMTYPE, "/etc/passwd"),
        member("cifar-10-batches-bin/hard", tarfile.LNKTYPE, "cifar-10-batches-bin/test_batch.bin"),
        member("cifar-10-batches-bin/pipe", tarfile.FIFOTYPE),
        member("cifar-10-batches-bin/device", tarfile.CHRTYPE),
    ],
    ids=lambda info: info.name + (" -> " + info.linkname if info.linkname else ""),
)
def test_unsafe_members(tmp_path, content, bad):
    message = rf"holds {bad.name!r}, a link, a device or a name that leads out of the archive; get cifar-10-binary"
    refused(tmp_path, message, content, (bad,))


def test_folders_and_readmes_are_passed_over(tmp_path, content):
    extra = (member("cifar-10-batches-bin", tarfile.DIRTYPE), member("cifar-10-batches-bin/readme.html"))
    extra += (member("elsewhere/test_batch.bin"),)
    prepare(tmp_path, {f"./{name}": data for name, data in content.items()}, extra)
    assert len(sources.source("cifar10", tmp_path / "data").load("test").ids) == 10


BATCH = "cifar-10-batches-bin/data_batch_2.bin"
META = "cifar-10-batches-bin/batches.meta.txt"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({BATCH: None}, "holds no cifar-10-batches-bin/data_batch_2.bin; get cifar-10-binary.tar.gz again"),
        ({META: None}, "holds no cifar-10-batches-bin/batches.meta.txt"),
        ({BATCH: lambda data: data[:-1]}, "data_batch_2.bin with 15364 bytes, .* no whole number of records of 3073;"),
        ({BATCH: lambda data: data + b"\0"}, "data_batch_2.bin with 15366 bytes"),
        ({BATCH: lambda data: b""}, "data_batch_2.bin with 0 bytes"),
        ({BATCH: lambda data: data[:3073] + b"\x0a" + data[3074:]}, "with label 10 in record 1, of 10 classes"),
        ({BATCH: lambda data: b"\xff" + data[1:]}, "with label 255 in record 0, of 10 classes"),
        ({META: lambda data: data.replace(b"txt 3\n", b"")}, "does not name 10 classes in batches.meta.txt"),
        ({META: lambda data: data.replace(b"txt 3\n", b"txt 4\n")}, "does not name 10 classes in batches.meta.txt"),
    ],
)  # fmt: skip
def test_content_that_is_not_cifar(tmp_path, content, change, message):
    for name, new in change.items():
        content = {k: v if k != name else new and new(v) for k, v in content.items()}
    refused(tmp_path, message, {k: v for k, v in content.items() if v is not None})


def test_a_member_twice(tmp_path, content):
    refused(tmp_path, r"holds cifar-10-batches-bin/data_batch_2.bin twice", content, (member(BATCH),))


def test_more_records_than_ids(tmp_path, content, monkeypatch):
    monkeypatch.setattr(cifar, "_MOST_RECORDS", 12)
    refused(tmp_path, "more than 12 train images", content)
    monkeypatch.setattr(cifar, "_MOST_RECORDS", 4)
    refused(tmp_path, "or far too large", content)


def test_the_archive_of_another_data_set(tmp_path):
    refused(tmp_path, "holds no cifar-10-batches-bin/", archives.files("cifar100", per_class=1))


# Disks


def test_a_full_disk_leaves_nothing(tmp_path, content):
    """The system refuses to write files beyond 20 kB, in earnest."""
    checksum = archives.pack(tmp_path / "archive.tar.gz", content)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(UserError) as error:
            sources.source("cifar10", tmp_path / "d").prepare(
                archive=tmp_path / "archive.tar.gz", accept_checksum=checksum
            )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "File too large); make room and permission there" in str(error.value)
    assert not list((tmp_path / "d").iterdir())


def test_what_is_read_back_differs(tmp_path, content, monkeypatch):
    fromarray = cifar.Image.fromarray
    monkeypatch.setattr(cifar.Image, "fromarray", lambda image: fromarray(image ^ 1))
    with pytest.raises(UserError, match="train images read back differ from those written"):
        prepare(tmp_path, content)
    assert not list(tmp_path.glob("data/*"))


def test_half_a_folder_is_not_taken_for_whole(tmp_path, content):
    """What a killed process leaves lies elsewhere; a folder emptied by hand is named."""
    (tmp_path / "data" / ".sdclr_jax-preparing-cifar10-x" / "cifar10" / "3.0.2").mkdir(parents=True)
    with pytest.raises(
        UserError, match=r"cifar10 is not prepared in .*; run: sdclr prepare cifar10 --data_dir=/.*/data$"
    ):
        sources.source("cifar10", tmp_path / "data").load("train")
    folder = prepare(tmp_path, content)
    for path in folder.iterdir():
        path.unlink()
    with pytest.raises(UserError, match=r"cifar10/3.0.2 is damaged; delete that folder"):
        sources.source("cifar10", tmp_path / "data").load("train")


def test_decoded_images_that_are_damaged_are_made_afresh(tmp_path, content):
    folder = prepare(tmp_path, content)
    images, _ = archives.original("cifar10", content, "train")
    kept = folder / "decoded_train.npz"
    whole = kept.read_bytes()
    for damaged in (whole[:50_000] + bytes([whole[50_000] ^ 1]) + whole[50_001:], whole[:50_000], b"", b"no zip"):
        kept.write_bytes(damaged)
        assert np.array_equal(sources.source("cifar10", tmp_path / "data").load("train").images, images)
        with np.load(kept) as arrays:
            assert np.array_equal(arrays["images"], images)
    assert not list(folder.glob(".*"))


# Downloads


@pytest.fixture
def web(tmp_path, content, monkeypatch):
    """A `published` archive at a file: address."""
    checksum = archives.pack(tmp_path / "cifar-10-binary.tar.gz", content)
    archive = cifar.ARCHIVES["cifar10"]._replace(url=(tmp_path / "cifar-10-binary.tar.gz").as_uri(), sha256=checksum)
    monkeypatch.setitem(cifar.ARCHIVES, "cifar10", archive)
    return tmp_path / "data"


def test_download(web):
    folder = sources.source("cifar10", web).prepare()
    assert sources.source("cifar10", web).provenance()["published"]
    assert [p.name for p in (web / "downloads").iterdir()] == ["cifar-10-binary.tar.gz"]
    shutil.rmtree(folder)
    web.parent.joinpath("cifar-10-binary.tar.gz").unlink()
    sources.source("cifar10", web).prepare()  # from downloads/


def test_a_download_that_is_not_the_archive(web):
    web.parent.joinpath("cifar-10-binary.tar.gz").write_bytes(b"<html>Sign in to the network</html>")
    with pytest.raises(
        UserError, match=r"sent a file of another checksum .*; try again, or put cifar-10-binary.tar.gz"
    ):
        sources.source("cifar10", web).prepare()
    assert not list((web / "downloads").iterdir())


class Breaks(io.BytesIO):
    headers = http.client.HTTPMessage()

    def __init__(self, error):
        super().__init__()
        self.error = error

    def read(self, size=-1):
        raise self.error


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (urllib.error.URLError("Name or service not known"), "Name or service not known"),
        (TimeoutError("timed out"), "timed out"),
        (ConnectionResetError(104, "Connection reset by peer"), "Connection reset by peer"),
        (OSError(errno.EHOSTUNREACH, "No route to host"), "No route to host"),
        (ssl.SSLEOFError(8, "EOF occurred in violation of protocol"), "EOF occurred in violation of protocol"),
    ],
)
@pytest.mark.parametrize("when", ["at once", "later"])
def test_no_network(tmp_path, monkeypatch, error, reason, when):
    def urlopen(url, timeout):
        if when == "at once":
            raise error
        return Breaks(error)

    monkeypatch.setattr(cifar.urllib.request, "urlopen", urlopen)
    with pytest.raises(UserError) as told:
        sources.source("cifar100", tmp_path).prepare()
    url = "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz"
    assert str(told.value).startswith(f"{url} cannot be downloaded (") and reason in str(told.value)
    by_hand = f"put cifar-100-binary.tar.gz from {url} into {tmp_path}/downloads, or give its path with --archive."
    assert str(told.value).endswith(by_hand)
    assert not list((tmp_path / "downloads").iterdir())


def test_a_full_disk_while_downloading(web):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(UserError, match=r"downloads cannot be written \(File too large\); make room there"):
            sources.source("cifar10", web).prepare()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list((web / "downloads").iterdir())


def test_digits_take_no_archive(tmp_path):
    with pytest.raises(UserError, match="digits come with scikit-learn; leave out --archive"):
        sources.source("digits", tmp_path).prepare(archive="x")


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK])
def test_a_header_of_a_gigabyte_takes_no_memory(tmp_path, kind):
    header = tarfile.TarInfo("name")
    header.type, header.size = kind, 2**30
    path = tmp_path / "a.tar.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(header.tobuf(tarfile.GNU_FORMAT) + bytes(2**16))
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=r"cannot be read as an archive \(1,073,741,824 bytes of headers\)"):
            cifar.read("cifar10", path, hashlib.sha256(path.read_bytes()).hexdigest())
        assert tracemalloc.get_traced_memory()[1] < 2**23
    finally:
        tracemalloc.stop()


def test_an_archive_of_endless_files_is_refused(tmp_path, monkeypatch):
    checksum = archives.pack(tmp_path / "a.tar.gz", {f"x/{i}": b"" for i in range(30)})
    monkeypatch.setattr(cifar, "_MOST_MEMBERS", 20)
    with pytest.raises(UserError, match="holds far more than the published archive; get"):
        cifar.read("cifar10", tmp_path / "a.tar.gz", checksum)


def test_a_pipe_or_a_device_is_no_archive(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", pathlib.Path("/dev/zero")):
        with pytest.raises(UserError, match=r"cannot be read as an archive \(not a file of data\)"):
            cifar.read("cifar10", path)
