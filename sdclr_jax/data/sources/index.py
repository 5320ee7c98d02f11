"""What is known of a person's folder of images: which files can be decoded, and why others cannot.

Each file is opened and decoded once. The result is kept in a file, and only files that are new or have changed since
are looked at again.
"""

import csv
import io
import json
import os
import pathlib
import stat
import sys
import types
import zlib
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from sdclr_jax.data import images
from sdclr_jax.data.sources.progress import bar
from sdclr_jax.errors import ArgumentError
from sdclr_jax.files import write, write_changed

# What cameras, phones and the web write. Those that Pillow cannot read are named as skipped and not passed over.
_ENDINGS = (
    *("jpg", "jpeg", "jpe", "jfif", "png", "gif", "bmp", "dib", "webp", "tif", "tiff", "ppm", "pgm", "pbm", "pnm"),
    *("tga", "jp2", "avif", "heic", "heif", "jxl", "raw", "dng", "cr2", "cr3", "nef", "arw", "orf", "rw2"),
)
_SUFFIXES = {"", *(f".{ending}" for ending in _ENDINGS)}
_NO_PHOTOS = frozenset(("__MACOSX",))  # folders that archivers make
_TOLD = 4096  # entries in a text for other processes
_BATCH = 256  # files a task: enough that handing them out costs nothing


class Entry(NamedTuple):
    """One file: its size and time when it was looked at, and what was found."""

    bytes: int
    mtime_ns: int
    width: int  # as it is meant to be seen; 0 where it cannot be decoded
    height: int
    reason: str  # why it cannot be decoded; '' where it can


class Index(NamedTuple):
    """Paths are POSIX and relative to the folder."""

    usable: dict[str, Entry]  # in the order of the paths' code points
    skipped: dict[str, str]  # path -> reason
    skipped_list: pathlib.Path  # of the same, as CSV


def is_image_name(name: str) -> bool:
    """Whether a file of this name may be an image: no hidden file, and with the ending of one, or without any."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in _SUFFIXES


def scan(root: pathlib.Path) -> tuple[dict[str, tuple[int, int]], dict[str, str]]:
    """The files below a folder that may be images: path -> bytes and time; and those that cannot be: path -> reason.

    Links are followed. A folder that can be reached in two ways is entered once, in the way without links if there is
    one, so a loop ends and no image comes twice through linked folders.
    """
    files, skipped, entered = {}, {}, set()
    later, linked = deque([("", root)]), deque()
    while later or linked:
        prefix, folder = (later or linked).popleft()
        try:
            status = folder.stat()
            if (status.st_dev, status.st_ino) in entered:
                continue
            entered.add((status.st_dev, status.st_ino))
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            skipped[prefix or "."] = f"folder cannot be read ({error.strerror or error})"
            continue
        for entry in entries:
            path = prefix + entry.name
            if entry.name.startswith(".") or entry.name in _NO_PHOTOS:
                continue
            try:
                if entry.is_dir():
                    (linked if entry.is_symlink() else later).append((f"{path}/", pathlib.Path(entry.path)))
                elif is_image_name(entry.name):
                    status = entry.stat()
                    if not stat.S_ISREG(status.st_mode):
                        skipped[path] = "not a file of data"
                    elif not _is_text(path):
                        skipped[path] = "file name is not UTF-8"
                    else:
                        files[path] = status.st_size, status.st_mtime_ns
            except OSError as error:  # a link that leads nowhere, or in a circle
                if is_image_name(entry.name):
                    skipped[path] = error.strerror or str(error)
    return files, skipped


def refresh(root: pathlib.Path, folder: pathlib.Path, progress: bool = False) -> Index:
    """The index of the images below `root`, kept in `folder` and brought up to date.

    A process that is stopped keeps what it has found; one that finds the disk full leaves the index that was there.

    Raises:
        ArgumentError: `root` is no folder.
        UserError: `folder` cannot be written.
    """
    if not root.is_dir():
        raise ArgumentError("root", f"is {root}, where there is no folder: give the path of the images")
    files, skipped = scan(root)
    known = _read(folder / "index.json")
    entries = {path: known[path] for path, now in files.items() if path in known and known[path][:2] == now}

    several = _several_processes()

    def look(paths: list[str]) -> None:
        with (
            bar(f"looking at {root.name}", len(paths), progress and bool(paths), unit="image") as shown,
            ThreadPoolExecutor(min(32, os.cpu_count() or 1)) as pool,
        ):
            batches = [paths[i : i + _BATCH] for i in range(0, len(paths), _BATCH)]
            try:
                for done in [pool.submit(_look, root, batch) for batch in batches]:
                    for path, (width, height, reason) in done.result().items():
                        entries[path] = Entry(*files[path], width, height, reason)
                        shown.update()
                    if several:
                        several.progressed()
            finally:
                pool.shutdown(cancel_futures=True)

    try:
        if several:
            _look_together(several, files, entries, look)
        look([path for path in files if path not in entries])
    finally:
        # What could not be read, as opposed to decoded, may be readable the next time.
        kept = {path: entry for path, entry in entries.items() if not entry.reason.startswith(_UNREAD)}
        if kept != known:
            text = json.dumps({"root": str(root), "files": kept}, separators=(",", ":"))
            write(folder / "index.json", text.encode())
    skipped |= {path: entry.reason for path, entry in entries.items() if entry.reason}
    skipped = dict(sorted(skipped.items()))
    usable = {path: entries[path] for path in sorted(entries) if not entries[path].reason}
    return Index(usable, skipped, _write_skipped(folder / "skipped.csv", skipped))


_UNREAD = "cannot be read: "


def _several_processes() -> types.ModuleType | None:
    """`sdclr_jax.processes` where several of them come here together. Not imported, since that takes as long as JAX."""
    processes = sys.modules.get("sdclr_jax.processes")
    return processes if processes and processes.is_shared() else None


def _look_together(
    several: types.ModuleType,
    files: dict[str, tuple[int, int]],
    entries: dict[str, Entry],
    look: Callable[[list[str]], None],
) -> None:
    """Add to `entries` what all processes find, each in its share of the folder; `look` adds what this one finds. Files
    that others do not have are left out."""

    def is_own(path: str) -> bool:
        return zlib.crc32(path.encode()) % several.count() == several.number()

    missing = [path for path in files if path not in entries]
    if not any(map(int, several.exchange("images to look at", str(len(missing))))):
        return
    look([path for path in missing if is_own(path)])
    own = [path for path in entries if is_own(path)]
    texts = (json.dumps({path: entries[path] for path in own[i : i + _TOLD]}) for i in range(0, len(own), _TOLD))
    for text in several.gathered("images looked at", texts):
        for path, entry in json.loads(text).items():
            if path in files and path not in entries:
                entries[path] = Entry(*entry)._replace(bytes=files[path][0], mtime_ns=files[path][1])


def _look(root: pathlib.Path, paths: list[str]) -> dict[str, tuple[int, int, str]]:
    """path -> width, height and '', or the reason why there are none."""
    found = {}
    for path in paths:
        try:
            found[path] = (*images.rgb(images.opened((root / path).read_bytes())).size, "")
        except OSError as error:
            found[path] = 0, 0, f"{_UNREAD}{error.strerror or error}"
        except images.BadImage as error:
            found[path] = 0, 0, str(error)
    return found


def _read(path: pathlib.Path) -> dict[str, Entry]:
    """The index that was there; nothing where there is none, or it is damaged."""
    try:
        return {name: Entry(*entry) for name, entry in json.loads(path.read_bytes())["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _write_skipped(path: pathlib.Path, skipped: dict[str, str]) -> pathlib.Path:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerows([("path", "reason"), *skipped.items()])
    write_changed(path, text.getvalue().encode(errors="backslashreplace"))
    return path


def _is_text(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True
