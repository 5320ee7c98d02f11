"""CIFAR-10 and CIFAR-100 (Krizhevsky, 2009) from their published binary archives into what stock tfds reads.

tfds itself prepares them with TensorFlow only. The data sets written here have the stock names, versions, features and
ids, so `tfds.data_source("cifar10")` takes them for its own; an example's id (`train_00042`) is its place in the
archive, from 0, whatever the order of the records on disk.

An archive is read as a stream and never unpacked to disk. Importing this module imports tensorflow_datasets.
"""

import contextlib
import hashlib
import http.client
import os
import pathlib
import tarfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from sdclr_jax import files
from sdclr_jax.errors import UserError
from sdclr_jax.progress import bar

_IMAGE_SHAPE = (32, 32, 3)
_IMAGE_BYTES = 3 * 32 * 32  # the red plane, the green one, the blue one
_MOST_RECORDS = 100_000  # a split, since ids have five digits
_LARGEST = 2**30  # bytes of an archive, and of a file in it
_MOST_MEMBERS, _MOST_HEADER_BYTES = 1000, 2**16  # of an archive; of one long name or list of attributes
_TIMEOUT = 30  # seconds without a byte


class Archive(NamedTuple):
    """A published archive and its layout."""

    url: str
    sha256: str
    folder: str  # in the archive
    splits: dict[str, tuple[str, ...]]  # split -> files of records, in order
    labels: dict[str, tuple[str, int]]  # label, in the order of a record's first bytes -> file of class names, classes

    @property
    def file(self) -> str:
        return self.url.rsplit("/", 1)[1]


# The checksums are those of tfds (tensorflow_datasets/url_checksums/cifar10.txt and cifar100.txt).
ARCHIVES = {
    "cifar10": Archive(
        url="https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
        sha256="c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
        folder="cifar-10-batches-bin",
        splits={"train": tuple(f"data_batch_{n}.bin" for n in range(1, 6)), "test": ("test_batch.bin",)},
        labels={"label": ("batches.meta.txt", 10)},
    ),
    "cifar100": Archive(
        url="https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
        sha256="58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
        folder="cifar-100-binary",
        splits={"train": ("train.bin",), "test": ("test.bin",)},
        labels={"coarse_label": ("coarse_label_names.txt", 20), "label": ("fine_label_names.txt", 100)},
    ),
}


class Content(NamedTuple):
    """What an archive holds, in its order."""

    images: dict[str, np.ndarray]  # split -> uint8 [N, 32, 32, 3]
    labels: dict[str, dict[str, np.ndarray]]  # split -> label -> uint8 [N]
    class_names: dict[str, list[str]]  # label -> names by class
    provenance: dict[str, object]  # archive, sha256, published, and a warning if it is not


def read(name: str, path: pathlib.Path, accept_checksum: str = "") -> Content:
    """Read an archive whole, about 200 MB.

    Args:
        name: a key of `ARCHIVES`.
        path: the archive.
        accept_checksum: SHA-256, in hexadecimal, of an archive that is not the published one but meant all the same.

    Raises:
        UserError: the file is missing, cut short or of neither checksum; it has a member that could lead out of its
            folder; or what it holds is not laid out as the published archive.
    """
    archive = ARCHIVES[name]
    try:
        with files.opened(path, _LARGEST) as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            if sha256 not in (archive.sha256, accept_checksum.strip().lower()):
                raise UserError(
                    f"{path} has the SHA-256 {sha256} and not the published {archive.sha256}, so it is damaged, cut "
                    f"short or something else; get it again from {archive.url}, or, if you mean this very file, add "
                    f"--accept_checksum={sha256}."
                )
            file.seek(0)
            members = _members(archive, path, file)
    except (OSError, EOFError, tarfile.TarError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"{path} cannot be read as an archive ({reason}); give the path of {archive.file}, from {archive.url}."
        ) from error
    class_names = {}
    for label, (file, classes) in archive.labels.items():
        lines = members[file].decode(errors="replace").splitlines()
        names = [line.strip() for line in lines if line.strip()]
        if not len(names) == len(set(names)) == classes:
            raise UserError(f"{path} does not name {classes} classes in {file}; {_again(archive)}.")
        class_names[label] = names
    images, labels = {}, {}
    for split, names in archive.splits.items():
        records = np.concatenate([_records(archive, path, file, members[file]) for file in names])
        if len(records) > _MOST_RECORDS:
            raise UserError(f"{path} holds more than {_MOST_RECORDS} {split} images; {_again(archive)}.")
        width = len(archive.labels)
        images[split] = records[:, width:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        labels[split] = {label: records[:, i] for i, label in enumerate(archive.labels)}
    provenance = {"archive": path.name, "sha256": sha256, "published": sha256 == archive.sha256}
    if not provenance["published"]:
        provenance["warning"] = f"not made from the published archive of {name}: its figures are none for {name}"
    return Content(images, labels, class_names, provenance)


class _Member(tarfile.TarInfo):
    """A header that says no more of a file than a published archive does: headers are read whole."""

    @classmethod
    def frombuf(cls, buf: bytes, encoding: str, errors: str) -> "_Member":
        member = super().frombuf(buf, encoding, errors)
        plain = member.type in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE)
        if not plain and member.size > _MOST_HEADER_BYTES:
            raise tarfile.ReadError(f"{member.size:,} bytes of headers")
        if member.type == tarfile.GNUTYPE_SPARSE:
            raise tarfile.ReadError("a file with holes")
        return member


def _members(archive: Archive, path: pathlib.Path, file: BinaryIO) -> dict[str, bytes]:
    """The files that matter, by name within the archive's folder."""
    wanted = {name for names in archive.splits.values() for name in names}
    wanted |= {name for name, _ in archive.labels.values()}
    found = {}
    # As a stream: nothing is sought by a name that the archive chose, and links cannot be followed.
    with tarfile.open(fileobj=file, mode="r|gz", tarinfo=_Member) as tar:
        for number, member in enumerate(tar):
            name = pathlib.PurePosixPath(member.name)
            if name.is_absolute() or ".." in name.parts or not (member.isfile() or member.isdir()):
                raise UserError(
                    f"{path} holds {member.name!r}, a link, a device or a name that leads out of the archive; "
                    f"{_again(archive)}."
                )
            if number > _MOST_MEMBERS or member.size > _LARGEST:
                raise UserError(f"{path} holds far more than the published archive; {_again(archive)}.")
            if not member.isfile() or str(name.parent) != archive.folder or name.name not in wanted:
                continue
            if name.name in found or member.size > _MOST_RECORDS * (_IMAGE_BYTES + len(archive.labels)):
                raise UserError(f"{path} holds {member.name} twice, or far too large; {_again(archive)}.")
            found[name.name] = tar.extractfile(member).read()
    if missing := sorted(wanted - found.keys()):
        raise UserError(f"{path} holds no {archive.folder}/{missing[0]}; {_again(archive)}.")
    return found


def _records(archive: Archive, path: pathlib.Path, file: str, content: bytes) -> np.ndarray:
    """A file of records as uint8 [N, labels + 3072]."""
    width = len(archive.labels) + _IMAGE_BYTES
    if not content or len(content) % width:
        raise UserError(
            f"{path} holds {file} with {len(content)} bytes, which is no whole number of records of {width}; "
            f"{_again(archive)}."
        )
    records = np.frombuffer(content, np.uint8).reshape(-1, width)
    for i, (_, classes) in enumerate(archive.labels.values()):
        if wrong := np.flatnonzero(records[:, i] >= classes).tolist():
            raise UserError(
                f"{path} holds {file} with label {records[wrong[0], i]} in record {wrong[0]}, of {classes} classes; "
                f"{_again(archive)}."
            )
    return records


def _again(archive: Archive) -> str:
    return f"get {archive.file} again from {archive.url}"


def fetch(name: str, folder: pathlib.Path, progress: bool = False) -> pathlib.Path:
    """The published archive in `folder`: the one that lies there, or else downloaded, whole or not at all.

    Raises:
        UserError: the network or the disk does not allow it, or what came has another checksum.
    """
    archive = ARCHIVES[name]
    path = folder / archive.file
    by_hand = f"put {archive.file} from {archive.url} into {folder}, or give its path with --archive"
    if os.path.exists(path):
        return path
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with files.scratch(folder, "downloading") as own:
            part = own / archive.file
            sha256 = _download(archive.url, part, progress)
            if sha256 != archive.sha256:
                raise UserError(f"{archive.url} sent a file of another checksum ({sha256}); try again, or {by_hand}.")
            os.replace(part, path)
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", None) or error
        raise UserError(f"{archive.url} cannot be downloaded ({reason}); {by_hand}.") from error
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{folder} cannot be written ({reason}); make room there, or {by_hand}.") from error
    return path


def _download(url: str, path: pathlib.Path, progress: bool) -> str:
    """Write what `url` sends to `path`; returns its SHA-256. Raises ConnectionError where the network breaks off, and
    another OSError where the disk is full."""
    sha256 = hashlib.sha256()
    with _of_network():
        response = urllib.request.urlopen(url, timeout=_TIMEOUT)
    with response, path.open("wb") as file:
        size = int(response.headers.get("Content-Length") or 0) or None
        with bar("downloading", size, progress, unit="B", unit_scale=True) as shown:
            while True:
                with _of_network():
                    block = response.read(1 << 20)
                if not block:
                    break
                file.write(block)
                sha256.update(block)
                shown.update(len(block))
    return sha256.hexdigest()


@contextlib.contextmanager
def _of_network() -> Iterator[None]:
    """Inside, an OSError is the network's: also one of TLS, and that there is no way to the host."""
    try:
        yield
    except urllib.error.URLError:
        raise
    except OSError as error:
        raise ConnectionError(error.strerror or error) from error


class _Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Writes a `Content`; not in the registry of tfds, where the stock builders have these names."""

    VERSION = tfds.core.Version("3.0.2")

    def __init__(self, content: Content, *, progress: bool = False, **options):
        self._content, self._progress = content, progress
        super().__init__(**options)

    def _info(self) -> tfds.core.DatasetInfo:
        labels = {label: tfds.features.ClassLabel(names=names) for label, names in self._content.class_names.items()}
        image = tfds.features.Image(shape=_IMAGE_SHAPE)
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"{self.name}, prepared by sdclr_jax; provenance.json says from which archive.",
            features=tfds.features.FeaturesDict({"id": tfds.features.Text(), "image": image, **labels}),
            supervised_keys=("image", "label"),
            homepage="https://www.cs.toronto.edu/~kriz/cifar.html",
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        return {split: self._generate_examples(split) for split in self._content.images}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict]]:
        images, labels = self._content.images[split], self._content.labels[split]
        with bar(f"{self.name} {split}", len(images), self._progress, unit="image") as shown:
            for i, image in enumerate(images):
                # tfds sorts the records by a hash of this key: the stock key gives the stock order.
                yield (
                    i,
                    {
                        "id": f"{split}_{i:05d}",
                        "image": Image.fromarray(image),  # tfds encodes NumPy arrays through TensorFlow
                        **{label: int(values[i]) for label, values in labels.items()},
                    },
                )
                shown.update()


class SdclrCifar10(_Builder, skip_registration=True):
    """Features `id`, `image` uint8 [32, 32, 3], `label` 0..9."""

    name = "cifar10"


class SdclrCifar100(_Builder, skip_registration=True):
    """Features `id`, `image` uint8 [32, 32, 3], `label` 0..99 and `coarse_label` 0..19."""

    name = "cifar100"


BUILDERS = {builder.name: builder for builder in (SdclrCifar10, SdclrCifar100)}
