import csv
import errno
import hashlib
import io
import json
import math
import os
import pathlib
import re
import signal
import sys
import threading
import types
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sdclr_jax.data import decoding, threads
from sdclr_jax.data.sources import index
from sdclr_jax.errors import ArgumentError, UserError
from tests.pictures import picture, put


@pytest.fixture
def root(tmp_path):
    put(tmp_path / "photos", ["a/1.png", "a/2.JPG", "b.png"])
    return tmp_path / "photos"


@pytest.fixture
def opened(monkeypatch):
    """How many files are opened and decoded."""
    count, decode = [], decoding.decode
    monkeypatch.setattr(decoding, "decode", lambda *given: count.append(1) or decode(*given))
    return count


def test_what_is_known_of_a_file(root, tmp_path):
    found = index.refresh(root, tmp_path / "known")
    assert list(found.usable) == ["a/1.png", "a/2.JPG", "b.png"] and not found.skipped
    status = (root / "b.png").stat()
    assert found.usable["b.png"] == (
        *(status.st_size, status.st_mtime_ns, 9, 6, ""),
        *(hashlib.sha256((root / "b.png").read_bytes()).hexdigest()[:32], None, "", False),
    )


def test_several_processes_look_at_a_share_each_and_know_all(root, tmp_path, opened):
    """The second of two, which has an index of one image already, and a file that the other does not see."""
    put(root, ["only_here.png"])
    alone = index.refresh(root, tmp_path / "alone").usable
    looked_at, others = len(opened), {}

    def gathered(place, texts):
        own = [path for text in texts for path in json.loads(text)]
        assert set(own) == {path for path in alone if zlib.crc32(path.encode()) % 2 == 1}
        others.update({path: entry for path, entry in alone.items() if path not in (*own, "only_here.png")})
        assert own and others
        yield json.dumps({path: entry._replace(mtime_ns=7) for path, entry in others.items()})

    several = types.SimpleNamespace(
        is_shared=lambda: True,
        count=lambda: 2,
        number=lambda: 1,
        exchange=lambda place, text: ["4", text],
        gathered=gathered,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "sdclr_jax.processes", several)
        assert index.refresh(root, tmp_path / "known").usable == alone
        assert len(opened) - looked_at == len(alone) - len(others)
        several.exchange = lambda place, text: ["0", text]  # all know all: nothing is told
        several.gathered = None
        assert index.refresh(root, tmp_path / "known").usable == alone


def test_turned_photos_have_the_size_as_seen(tmp_path):
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (8, 6)).save(tmp_path / "photos" / "x.jpg", exif=exif)
    entry = index.refresh(tmp_path / "photos", tmp_path / "known").usable["x.jpg"]
    assert (entry.width, entry.height) == (6, 8)


def test_only_new_and_changed_files_are_looked_at_again(root, tmp_path, opened):
    (root / "bad.png").write_bytes(b"nothing")
    first = index.refresh(root, tmp_path / "known")
    assert len(opened) == 4
    before = (tmp_path / "known" / "index.json").stat().st_mtime_ns
    assert index.refresh(root, tmp_path / "known") == first and len(opened) == 4
    assert (tmp_path / "known" / "index.json").stat().st_mtime_ns == before  # so nothing was written
    (root / "bad.png").write_bytes(picture(5, width=3))
    (root / "new.png").write_bytes(picture(6))
    (root / "a" / "1.png").unlink()
    again = index.refresh(root, tmp_path / "known")
    assert len(opened) == 6 and not again.skipped
    assert list(again.usable) == ["a/2.JPG", "b.png", "bad.png", "new.png"] and again.usable["bad.png"].width == 3
    os.utime(root / "b.png", ns=(1, 1))
    index.refresh(root, tmp_path / "known")
    assert len(opened) == 7


WHOLE = b'{"format": 3, "root": "", "gray_range": [], "files": {"b.png": [%s]}}'


@pytest.mark.parametrize(
    "damage",
    [b"", b"{", b"[1]", b'{"files": {"b.png": [1]}}', b'{"files": 3}', b"[" * 100_000, b"null", b"1e999"]
    + [WHOLE % entry for entry in (b"1", b'1, 2, 3, 4, ""', b'1, 2, "x", 4, "", ""', b'NaN, 2, 3, 4, "", "", null, ""')]
    + [WHOLE % entry for entry in (b'1, 2, 3, -4, "", "", null, ""', b'1, 2, 3, 4, "", "", [1, 2, 3, Infinity], ""')]
    + [WHOLE % entry for entry in (b'1, 2, 3, 4, null, "", null, ""', b'1, 2, 3, 4, "", "", [1], ""')]
    + [WHOLE % entry for entry in (b'1, 2, 3, 4, "", "", null, "", 1', b'1, 2, 3, 4, "", "", [0, 1, 0, 1, 2], ""')]
    + [WHOLE.replace(b"3", b"1", 1) % b'1, 2, 3, 4, ""', WHOLE.replace(b"[]", b"7") % b'1, 2, 3, 4, "", "", null, ""'],
)
def test_a_damaged_index_is_made_afresh(root, tmp_path, damage):
    first = index.refresh(root, tmp_path / "known")
    (tmp_path / "known" / "index.json").write_bytes(damage)
    assert index.refresh(root, tmp_path / "known") == first
    assert json.loads((tmp_path / "known" / "index.json").read_text())["root"] == str(root)


VALUES = st.recursive(
    st.sampled_from([None, True, 0, 2, -1, 1.5, 10**30, math.nan, math.inf, "", "x", "\ud800", {}]),
    lambda values: st.lists(values, max_size=5),
    max_leaves=5,
)


@settings(max_examples=100, deadline=None)
@given(VALUES, VALUES, VALUES, st.lists(VALUES, min_size=5, max_size=9))
def test_whatever_an_index_says_it_is_used_whole_or_not_at_all(tmp_path_factory, version, gray_range, kept, entry):
    path = tmp_path_factory.getbasetemp() / "any.json"
    for content in ({"format": 3, "gray_range": gray_range, "files": {"x": entry}}, {"format": version, "files": kept}):
        path.write_text(json.dumps(content))
        for found in index._read(path, ()).values():
            assert all(type(value) is int for value in found[:4]) and type(found.reason) is str


def test_what_is_skipped_is_counted_and_listed(root, tmp_path):
    whole = picture(0, width=64, height=64, kind="JPEG")
    (root / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (root / "empty.png").touch()
    (root / "text, with a comma.gif").write_text("hello")
    (root / "no_ending").write_bytes(b"neither")
    (root / "phone.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    (root / "gone.jpg").symlink_to("/nowhere.jpg")
    os.mkfifo(root / "pipe.png")
    found = index.refresh(root, tmp_path / "known")
    names = ["cut.jpg", "empty.png", "gone.jpg", "no_ending", "phone.HEIC", "pipe.png", "text, with a comma.gif"]
    assert list(found.skipped) == names and list(found.usable) == ["a/1.png", "a/2.JPG", "b.png"]
    assert found.skipped["empty.png"] == "not an image of a known format"
    assert found.skipped["phone.HEIC"] == "HEIC, which is not decoded here: convert it to JPEG or PNG"
    assert "truncated" in found.skipped["cut.jpg"] and found.skipped["gone.jpg"] == "No such file or directory"
    with found.skipped_list.open(newline="", encoding="utf-8-sig") as file:
        assert list(csv.reader(file)) == [["path", "reason"], *map(list, found.skipped.items())]


def test_raw_files_are_named_as_such_though_they_hold_a_preview(root, tmp_path):
    for name in ("a.DNG", "b.nef", "c.CR2"):
        (root / name).write_bytes(picture(0, kind="TIFF"))
    found = index.refresh(root, tmp_path / "known")
    assert list(found.skipped) == ["a.DNG", "b.nef", "c.CR2"] and set(found.skipped.values()) == {decoding.RAW}


def test_what_is_no_image_by_its_name_is_passed_over(root, tmp_path):
    for name in (
        "@eaDir/x.png",
        "a/@eaDir/1.png",
        ".hidden.png",
        "notes.txt",
        "labels.csv",
        "meta.json",
        "Thumbs.db",
        "1.psd",
        "a/2.PSD",
        "3.jpg_large",
        ".git/x.psd",
        "__MACOSX/x.png",
    ):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(b"not an image")
    found = index.refresh(root, tmp_path / "known")
    assert len(found.usable) == 3 and not found.skipped
    assert found.of_systems == ("@eaDir", "__MACOSX", "a/@eaDir")
    assert found.others == {".psd": 2, ".jpg_large": 1}


def test_the_page_lists_the_endings_that_are_read():
    page = (pathlib.Path(__file__).parents[3] / "docs" / "images.md").read_text()
    listed = page.split("## Which files are read")[1].split(", in any case")[0]
    skipped = {"heic", "heif", "heics", "hif", "jxl", *index._RAW}  # by name
    assert sorted(re.findall(r"`\.(\w+)`", listed)) == sorted(set(index._ENDINGS) - skipped)


@pytest.mark.parametrize(
    ("name", "kind", "options"),
    [
        ("a.mpo", "MPO", {"save_all": True, "quality": 100, "subsampling": 0}),
        ("a.apng", "PNG", {"save_all": True}),
        ("a.pcx", "PCX", {}),
        ("a.ICO", "ICO", {"sizes": [(8, 8), (16, 16)]}),
        ("a.jpx", "JPEG2000", {}),
        ("a.jpf", "JPEG2000", {}),
        ("a.j2k", "JPEG2000", {"no_jp2": True}),
        ("a.j2c", "JPEG2000", {"no_jp2": True}),
    ],
)
def test_rarer_kinds_are_read_by_their_first_picture(tmp_path, name, kind, options):
    whole = Image.open(io.BytesIO(picture(0, width=16, height=16)))
    more = {"append_images": [whole.rotate(90)]} if options.get("save_all") else {}
    (tmp_path / "photos").mkdir()
    whole.save(tmp_path / "photos" / name, kind, **options, **more)
    found = index.refresh(tmp_path / "photos", tmp_path / "known")
    assert [(path, entry.width, entry.height) for path, entry in found.usable.items()] == [(name, 16, 16)]
    shown = np.asarray(decoding.decode((tmp_path / "photos" / name).read_bytes()).image, int)
    assert np.abs(shown - np.asarray(whole)).mean() < 2
    (tmp_path / "photos" / name).write_bytes(b"\0" * 99)
    assert list(index.refresh(tmp_path / "photos", tmp_path / "known").skipped) == [name]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_could_not_be_read_is_tried_again(root, tmp_path):
    (root / "b.png").chmod(0)
    assert index.refresh(root, tmp_path / "known").skipped == {"b.png": "cannot be read: Permission denied"}
    (root / "b.png").chmod(0o644)
    assert not index.refresh(root, tmp_path / "known").skipped


def test_what_could_not_be_decoded_is_tried_again_where_the_decoder_is_another(root, tmp_path, monkeypatch, opened):
    (root / "bad.png").write_bytes(b"no image")
    found = index.refresh(root, tmp_path / "kept")
    assert "bad.png" in found.skipped and len(opened) > 1
    opened.clear()
    index.refresh(root, tmp_path / "kept")
    assert not opened
    monkeypatch.setattr(decoding.Image, "MAX_IMAGE_PIXELS", 12345)
    assert index.refresh(root, tmp_path / "kept").usable.keys() == found.usable.keys()
    assert len(opened) == len(found.skipped)  # and no other


def test_what_could_be_decoded_is_tried_again_where_the_limits_are_narrower(root, tmp_path, monkeypatch, opened):
    """Those that Pillow had in a notebook, say. A newer Pillow decodes what an older one did."""
    put(root, ["large.png"], width=30, height=20)
    with monkeypatch.context() as patch:
        patch.setattr(decoding.Image, "MAX_IMAGE_PIXELS", None)
        assert len(index.refresh(root, tmp_path / "known").usable) == 4
    opened.clear()
    monkeypatch.setattr(decoding.PIL, "__version__", "99.0")
    assert len(index.refresh(root, tmp_path / "known").usable) == 4 and not opened
    monkeypatch.setattr(decoding.Image, "MAX_IMAGE_PIXELS", 299)  # twice as many are decoded
    (skipped,) = index.refresh(root, tmp_path / "known").skipped
    assert skipped == "large.png" and len(opened) == 1
    monkeypatch.setattr(decoding.features, "get_supported", lambda: ["webp"])
    assert len(index.refresh(root, tmp_path / "known").usable) == 3 and len(opened) == 1 + 4
    monkeypatch.setattr(decoding.features, "get_supported", lambda: ["webp", "avif"])
    assert len(index.refresh(root, tmp_path / "known").usable) == 3 and len(opened) == 1 + 4 + 1  # the one skipped


def test_a_reading_error_is_not_kept(root, tmp_path, monkeypatch):
    def fail(path, most):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(index.files, "read", fail)
        assert len(index.refresh(root, tmp_path / "known").skipped) == 3
    assert len(index.refresh(root, tmp_path / "known").usable) == 3


def test_loops_end_and_no_image_comes_twice(root, tmp_path):
    (root / "a" / "up").symlink_to(root)
    (root / "a" / "self").symlink_to(root / "a" / "self")
    (root / "Z_first_by_name").symlink_to(root / "a")
    put(tmp_path / "elsewhere", ["c.png", "deep/d.png"])
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    (root / "linked_too").symlink_to(tmp_path / "elsewhere")
    found = index.refresh(root, tmp_path / "known")
    assert list(found.usable) == ["a/1.png", "a/2.JPG", "b.png", "linked/c.png", "linked/deep/d.png"]


def test_odd_names(tmp_path):
    names = ["ünï/çødé 图.png", "with space/and\nnewline.png", "quote'\"/#;$(x).png", "-dash.png"]
    put(tmp_path / "photos", names)
    (tmp_path / "photos" / os.fsdecode(b"latin\xff.png")).write_bytes(picture(0))
    found = index.refresh(tmp_path / "photos", tmp_path / "known")
    assert list(found.usable) == sorted(names)
    assert [*found.skipped.values()] == ["file name is not UTF-8"]
    assert index.refresh(tmp_path / "photos", tmp_path / "known") == found


def test_a_full_disk_leaves_the_index_that_was_there(root, tmp_path, monkeypatch):
    first = index.refresh(root, tmp_path / "known")
    before = (tmp_path / "known" / "index.json").read_bytes()
    (root / "new.png").write_bytes(picture(6))

    def full(path, content):
        with path.open("wb") as file:
            file.write(content[:10])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(pathlib.Path, "write_bytes", full)
        with pytest.raises(UserError, match=r"index\.json cannot be written \(No space left on device\): make room"):
            index.refresh(root, tmp_path / "known")
        with pytest.raises(UserError, match="No space left"):
            index.refresh(root, tmp_path / "new")
    assert (tmp_path / "known" / "index.json").read_bytes() == before
    assert sorted(path.name for path in (tmp_path / "known").iterdir()) == ["index.json", "skipped.csv"]
    assert not list((tmp_path / "new").iterdir())
    assert len(index.refresh(root, tmp_path / "known").usable) == len(first.usable) + 1


def test_a_process_that_is_stopped_keeps_what_it_has_found_and_ends_soon(tmp_path, monkeypatch, opened):
    """It is told to while it looks at the second file of a task of three."""
    put(tmp_path / "photos", [f"{i:02}.png" for i in range(12)])
    monkeypatch.setattr(index.os, "cpu_count", lambda: 1)
    begun, closing, look_at = threading.Barrier(2), threading.Event(), index._look_at

    class Pool(threads.ThreadPoolExecutor):
        def submit(self, look, batch):
            task = super().submit(look, batch)
            if batch[0] == "03.png":  # the thread has started
                begun.wait(60)
            return task

        def shutdown(self, *args, **more):
            closing.set()
            super().shutdown(*args, **more)

    def look_and_stop(path, gray_range):
        if path.name == "01.png":
            begun.wait(60)
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            assert closing.wait(60)
        return look_at(path, gray_range)

    with monkeypatch.context() as patch:
        patch.setattr(threads, "ThreadPoolExecutor", Pool)
        patch.setattr(index, "_look_at", look_and_stop)
        with pytest.raises(KeyboardInterrupt):
            index.refresh(tmp_path / "photos", tmp_path / "known")
    kept = json.loads((tmp_path / "known" / "index.json").read_text())["files"]
    assert list(kept) == ["00.png", "01.png"]
    assert len(index.refresh(tmp_path / "photos", tmp_path / "known").usable) == 12 and len(opened) == 12


def test_a_process_that_is_killed_keeps_what_it_has_written(root, tmp_path, monkeypatch):
    monkeypatch.setattr(index, "_SAVE_EVERY", 0)
    written, write = [], index.files.write
    monkeypatch.setattr(index.files, "write", lambda path, content: written.append(path.name) or write(path, content))
    assert len(index.refresh(root, tmp_path / "known").usable) == 3
    assert written.count("index.json") == 1 + 3  # tasks


def test_all_cores_look_at_a_small_folder(tmp_path, monkeypatch):
    put(tmp_path / "photos", [f"{i:02}.png" for i in range(12)])
    monkeypatch.setattr(index.os, "cpu_count", lambda: 2)
    tasks, look = [], index._look
    monkeypatch.setattr(index, "_look", lambda root, paths, *more: tasks.append(paths) or look(root, paths, *more))
    assert len(index.refresh(tmp_path / "photos", tmp_path / "known").usable) == 12
    assert sorted(map(len, tasks)) == [2] * 6


def test_no_folder(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "none", tmp_path / "file"):
        with pytest.raises(ArgumentError, match=rf"^root is {path}, where there is no folder"):
            index.refresh(path, tmp_path / "known")
    assert not (tmp_path / "known").exists()
