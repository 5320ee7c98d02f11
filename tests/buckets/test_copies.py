"""Prepared data in a bucket, and its copy on the disk."""

import os
import pathlib

import numpy as np
import pytest

from sdclr_jax import files, progress
from sdclr_jax.buckets import copies
from sdclr_jax.commands import prepare
from sdclr_jax.data import sources
from sdclr_jax.errors import UserError


@pytest.fixture(autouse=True)
def copied_here(tmp_path, monkeypatch):
    monkeypatch.setattr(copies, "ROOT", tmp_path / "copies")


def test_a_copy_follows_the_bucket_and_reads_nothing_twice(cloud):
    folder, read = files.expanded("gs://bucket/data/set"), []
    for name in ("1.0.0/a", "1.0.0/b", "1.0.0/c d"):
        cloud.put(f"data/set/{name}", name.encode())
    cloud.fault = lambda method, path, name: read.append(name) if path.startswith("/download") else None
    assert not copies.fetch(folder, "last.json") and not read  # somebody still writes it
    cloud.put("data/set/1.0.0/last.json", b"{}")
    assert copies.fetch(folder, "last.json") and len(read) == 4
    here = copies.place(folder)
    assert (here / "1.0.0" / "c d").read_bytes() == b"1.0.0/c d"
    read.clear()
    (here / "1.0.0" / ".copying-left").mkdir()
    os.utime(here / "1.0.0" / ".copying-left", (0, 0))
    cloud.put("data/set/1.0.0/a", b"changed")
    del cloud.objects["data/set/1.0.0/b"]
    (here / "1.0.0" / "c d").unlink()
    copies.fetch(folder, "last.json")
    assert sorted(read) == ["data/set/1.0.0/a", "data/set/1.0.0/c d"]
    found = {path.relative_to(here).as_posix(): path.read_bytes() for path in here.rglob("[!.]*") if path.is_file()}
    assert not (here / "1.0.0" / ".copying-left").exists()
    assert found == {"1.0.0/a": b"changed", "1.0.0/c d": b"1.0.0/c d", "1.0.0/last.json": b"{}"}


def test_a_copy_that_breaks_off_is_gone_on_with(cloud, monkeypatch):
    folder, read, take = files.expanded("gs://bucket/data/set"), [], copies._take
    for name in "abc":
        cloud.put(f"data/set/{name}", name.encode())
    monkeypatch.setattr(copies, "_AT_ONCE", 1)

    def taken(source, *given):
        read.append(source.name)
        if read == ["a", "b"]:
            raise OSError("the bucket does not answer")
        take(source, *given)

    monkeypatch.setattr(copies, "_take", taken)
    with pytest.raises(UserError, match="cannot be copied to .* the same command again"):
        copies.fetch(folder)
    read.clear()
    before = progress.done
    copies.fetch(folder)
    assert "b" in read and "a" not in read
    assert progress.done - before == len(read)  # other processes of a run see that this one does not stand still
    assert {name: (copies.place(folder) / name).read_text() for name in "abc"} == {name: name for name in "abc"}


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a/../../outside"])
def test_a_name_that_leads_out_of_the_copy_is_refused(cloud, name, tmp_path):
    cloud.put(f"data/set/{name}", b"x")
    with pytest.raises(UserError, match="has no place on a disk"):
        copies.fetch(files.expanded("gs://bucket/data/set"))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_file_that_arrives_damaged_is_not_used(cloud, monkeypatch):
    folder = files.expanded("gs://bucket/data/set")
    cloud.put("data/set/a", b"whole")
    monkeypatch.setattr(type(folder), "take", lambda self, path: path.write_bytes(b"half"))
    with pytest.raises(UserError, match="set/a did not arrive as it is there"):
        copies.fetch(folder)
    assert not (copies.place(folder) / "a").exists()


def test_a_set_is_prepared_in_a_bucket_and_read_from_another_machine(cloud, monkeypatch, tmp_path, capsys):
    prepare.main(["digits", "--data_dir=gs://bucket/my data", "--noprogress"])
    assert "gs://bucket/my data/sdclr_digits holds digits: 1352 train and 445 test images" in capsys.readouterr().out
    assert "sdclr_digits/1.0.0/dataset_info.json" in cloud.names("my data")
    here = sources.source("digits", "gs://bucket/my data").load("test")
    before = {name: found.generation for name, found in cloud.objects.items()}
    monkeypatch.setattr(copies, "ROOT", tmp_path / "another machine")
    there = sources.source("digits", "gs://bucket/my data").load("test")
    np.testing.assert_array_equal(here.images, there.images)
    assert {name: found.generation for name, found in cloud.objects.items()} == before
    assert list((tmp_path / "another machine" / "bucket" / "my data" / "sdclr_digits").rglob("*.array_record*"))


def test_a_set_that_is_not_prepared_in_the_bucket(cloud):
    with pytest.raises(UserError, match=r"cifar10 is not prepared in gs://bucket/data; run: sdclr prepare cifar10"):
        sources.source("cifar10", "gs://bucket/data").load("train")
    assert not cloud.objects


def test_a_bucket_that_may_not_be_written_is_refused_before_anything_is_made(cloud, tmp_path):
    cloud.fault = lambda method, path, name: 403 if method == "POST" else None
    with pytest.raises(UserError, match="gs://bucket/data cannot be written"):
        sources.source("digits", "gs://bucket/data").prepare()
    assert not list(tmp_path.rglob("*.array_record*"))


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("folder:gs://bucket/photos", {}, "photos are read from a disk only: copy it to one"),
        ("folder:/photos", {"manifest": "gs://bucket/m.csv"}, "a manifest is read from a disk only"),
        ("imagenet100", {"root": "gs://bucket/imagenet"}, "data sets are read from a disk only"),
        ("celeba", {"root": "s3://bucket/celeba"}, "only gs://BUCKET/FOLDER is known"),
    ],
)
def test_images_in_a_bucket_that_no_tool_has_prepared_are_refused(name, given, said):
    with pytest.raises(UserError, match=said):
        sources.source(name, **given)


def test_what_is_known_of_photos_stays_on_this_machine(cloud, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    source = sources.source(f"folder:{tmp_path}", "gs://bucket/data")
    assert pathlib.Path(source._known).parent == tmp_path / ".cache" / "sdclr_jax" / "data" / "folders"
