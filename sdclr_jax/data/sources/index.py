"""What is known of a person's folder of images: which files can be decoded, and why others cannot.

Each file is opened and decoded once. The result is kept in a file, and only files that are new or have changed since
are looked at again.
"""

import hashlib
import io
import json
import math
import os
import pathlib
import stat
import sys
import threading
import time
import types
import zlib
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from sdclr_jax import files
from sdclr_jax.data import decoding, threads
from sdclr_jax.data.decoding import Gray
from sdclr_jax.data.images import LARGEST
from sdclr_jax.errors import ArgumentError
from sdclr_jax.progress import bar, progressed
from sdclr_jax.records import sheets

# What cameras, phones and the web write. Those that are not decoded are named as skipped and not passed over.
_RAW = ("raw", "dng", "cr2", "cr3", "crw", "nef", "nrw", "arw", "srf", "sr2", "orf", "rw2", "raf", "pef", "srw", "x3f")
_RAW += ("3fr", "iiq", "erf", "kdc", "dcr", "mrw", "rwl")
_ENDINGS = (
    *("jpg", "jpeg", "jpe", "jfif", "mpo", "png", "apng", "gif", "bmp", "dib", "webp", "tif", "tiff", "ppm", "pgm"),
    *("pbm", "pnm", "tga", "pcx", "ico", "jp2", "j2k", "j2c", "jpx", "jpf", "avif", "heic", "heif", "heics", "hif"),
    *("jxl", *_RAW),
)
_SUFFIXES = {"", *(f".{ending}" for ending in _ENDINGS)}
_RAW_SUFFIXES = {f".{ending}" for ending in _RAW}
# Folders that systems make beside a person's, with thumbnails and what was deleted in them: of archivers, Synology,
# QNAP, Windows, file systems, and Apple's file servers. Those whose names begin with a dot are passed over as all such.
_OF_SYSTEMS = frozenset(
    ("__macosx", "@eadir", "@tmp", "@recycle", "@recently-snapshot", "@transcode", "@__thumb", "@sharebin")
    + ("@synoresource", "#recycle", "#snapshot", "#archive", "$recycle.bin", "recycler", "recycled")
    + ("system volume information", "found.000", "lost+found", "network trash folder", "temporary items")
    + ("thevolumesettingsfolder", "desktop db", "desktop df", "__pycache__")
)
# What lies beside images and what nobody takes for one; other files that are passed over are counted.
_BESIDE = frozenset(
    (".txt", ".md", ".rst", ".log", ".csv", ".tsv", ".xls", ".xlsx", ".json", ".jsonl", ".xml", ".xmp", ".yaml", ".yml")
    + (".toml", ".ini", ".html", ".aae", ".py", ".sh", ".npy", ".npz", ".parquet", "thumbs.db", "ehthumbs.db", "icon\r")
)
_TOLD = 4096  # entries in a text for other processes
_BATCH = 256  # files a task at most: enough that handing them out costs nothing
_SAVE_EVERY = 180  # seconds, after which what has been found is written
_FORMAT = 4  # of index.json; an older one is made again
_LARGEST = 2**33  # bytes of index.json: of ten million images


class Entry(NamedTuple):
    """One file: its size and time when it was looked at, and what was found."""

    bytes: int
    mtime_ns: int
    width: int  # as it is meant to be seen; 0 where it cannot be decoded
    height: int
    reason: str  # why it cannot be decoded; '' where it can
    sha256: str = ""  # the first half, of all bytes
    gray: Gray | None = None  # where it has more than eight bits a channel
    damage: str = ""  # of its metadata, without which it was decoded
    has_more: bool = False  # pages or frames than the one that is decoded


class Index(NamedTuple):
    """Paths are POSIX and relative to the folder."""

    usable: dict[str, Entry]  # in the order of the paths' code points
    skipped: dict[str, str]  # path -> reason
    skipped_list: pathlib.Path  # of the same, as CSV
    of_systems: tuple[str, ...] = ()  # folders that are no person's, and were passed over
    others: Mapping[str, int] = types.MappingProxyType({})  # endings that are not read -> files passed over


def is_of_system(name: str) -> bool:
    """Whether a folder of this name is hidden, or made by a system and not by a person.

    >>> [is_of_system(name) for name in ("@eaDir", "$RECYCLE.BIN", ".git", "cats")]
    [True, True, True, False]
    """
    return name.startswith(".") or name.casefold() in _OF_SYSTEMS


def is_image_name(name: str) -> bool:
    """Whether a file of this name may be an image: no hidden file, and with the ending of one, or without any."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in _SUFFIXES


class Scanned(NamedTuple):
    files: dict[str, tuple[int, int]]  # may be images: path -> bytes and time
    skipped: dict[str, str]  # are none, or cannot be reached: path -> reason
    of_systems: tuple[str, ...]  # folders
    others: Counter[str]  # endings that are not read -> files


def scan(root: pathlib.Path) -> Scanned:
    """The files below a folder.

    Links are followed. A folder that can be reached in two ways is entered once, in the way without links if there is
    one, so a loop ends and no image comes twice through linked folders; the other way is one of those skipped.
    """
    found, skipped, of_systems, others, entered = {}, {}, [], Counter(), {}
    later, linked = deque([("", root)]), deque()
    while later or linked:
        progressed()
        prefix, folder = (later or linked).popleft()
        try:
            status = folder.stat()
            first = entered.setdefault((status.st_dev, status.st_ino), prefix)
            if first != prefix:
                skipped[prefix] = f"the same folder as {first or '.'}"
                continue
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            skipped[prefix or "."] = f"folder cannot be read ({error.strerror or error})"
            continue
        for entry in entries:
            path = prefix + entry.name
            try:
                if is_of_system(entry.name):
                    if not entry.name.startswith(".") and entry.is_dir():
                        of_systems.append(path)
                elif entry.is_dir():
                    (linked if entry.is_symlink() else later).append((f"{path}/", pathlib.Path(entry.path)))
                elif is_image_name(entry.name):
                    status = entry.stat()
                    if not stat.S_ISREG(status.st_mode):
                        skipped[path] = "not a file of data"
                    elif not _is_text(path):
                        skipped[path] = "file name is not UTF-8"
                    else:
                        found[path] = status.st_size, status.st_mtime_ns
                elif not {entry.name.lower(), ending := os.path.splitext(entry.name)[1].lower()} & _BESIDE:
                    others[ending] += 1
            except OSError as error:  # a link that leads nowhere, or in a circle
                if is_image_name(entry.name):
                    skipped[path] = error.strerror or str(error)
    return Scanned(found, skipped, tuple(of_systems), others)


def refresh(
    root: pathlib.Path, folder: pathlib.Path, progress: bool = False, gray_range: tuple[float, ...] = ()
) -> Index:
    """The index of the images below `root`, kept in `folder` and brought up to date.

    A file is looked at again where its size or its time of change is another one; one that could not be decoded where
    Pillow is another one, or its limits are; and one that could where it has more pixels than are decoded now, or where
    Pillow no longer knows a kind of file or no longer takes those that are cut short. `gray_range` is that of
    `decoding.decode`; where it is another one, gray images are looked at again.

    A process that is stopped keeps what it has found, and one that is killed all but the last minutes of it; one that
    finds the disk full leaves the index that was there.

    Raises:
        ArgumentError: `root` is no folder.
        UserError: `folder` cannot be written.
    """
    if not os.path.isdir(root):
        raise ArgumentError("root", f"is {root}, where there is no folder: give the path of the images")
    there, skipped, of_systems, others = scan(root)
    known = _read(folder / "index.json", gray_range)
    entries = {path: known[path] for path, now in there.items() if path in known and known[path][:2] == now}

    several = _several_processes()

    def save() -> None:
        # What could not be read, as opposed to decoded, may be readable the next time.
        found = {path: entries[path] for path in there if path in entries}
        kept = {path: entry for path, entry in found.items() if not entry.reason.startswith(_UNREAD)}
        if kept != known:
            about = {"format": _FORMAT, "root": str(root), "gray_range": gray_range, "decoder": decoding.about()}
            text = json.dumps(about | {"files": kept}, separators=(",", ":"), allow_nan=False)
            files.write(folder / "index.json", text.encode())

    def look(paths: list[str]) -> None:
        count, saved, stop = min(32, os.cpu_count() or 1), time.monotonic(), threading.Event()
        size = min(_BATCH, math.ceil(len(paths) / (4 * count)) or 1)

        def look_at(batch: list[str]) -> int:
            for path, found in _look(root, batch, gray_range):
                entries[path] = Entry(*there[path], **found)
                if stop.is_set():
                    break
            return len(batch)

        with (
            bar(f"looking at {root.name}", len(paths), progress and bool(paths), unit="image") as shown,
            threads.pool(count) as pool,
        ):
            batches = [paths[i : i + size] for i in range(0, len(paths), size)]
            try:
                for done in [pool.submit(look_at, batch) for batch in batches]:
                    shown.update(done.result())
                    if time.monotonic() - saved >= _SAVE_EVERY:
                        save()
                        saved = time.monotonic()
            finally:
                stop.set()

    try:
        if several:
            _look_together(several, there, entries, look)
        look([path for path in there if path not in entries])
    finally:
        save()
    skipped |= {path: entry.reason for path, entry in entries.items() if entry.reason}
    skipped = dict(sorted(skipped.items()))
    usable = {path: entries[path] for path in sorted(entries) if not entries[path].reason}
    return Index(usable, skipped, _write_skipped(folder / "skipped.csv", skipped), of_systems, others)


_UNREAD = "cannot be read: "


def _several_processes() -> types.ModuleType | None:
    """`sdclr_jax.processes` where several of them come here together. Not imported, since that takes as long as JAX."""
    processes = sys.modules.get("sdclr_jax.processes")
    return processes if processes and processes.is_shared() else None


def _look_together(
    several: types.ModuleType,
    there: dict[str, tuple[int, int]],
    entries: dict[str, Entry],
    look: Callable[[list[str]], None],
) -> None:
    """Add to `entries` what all processes find, each in its share of the folder; `look` adds what this one finds. Files
    that others do not have are left out."""

    def is_own(path: str) -> bool:
        return zlib.crc32(path.encode()) % several.count() == several.number()

    missing = [path for path in there if path not in entries]
    if not any(map(int, several.exchange("images to look at", str(len(missing))))):
        return
    look([path for path in missing if is_own(path)])
    own = [path for path in entries if is_own(path)]
    texts = (json.dumps({path: entries[path] for path in own[i : i + _TOLD]}) for i in range(0, len(own), _TOLD))
    for text in several.gathered("images looked at", texts):
        for path, entry in json.loads(text).items():
            if path in there and path not in entries:
                entries[path] = _entry(entry)._replace(bytes=there[path][0], mtime_ns=there[path][1])


def _look(root: pathlib.Path, paths: list[str], gray_range: tuple[float, ...]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each path, and the fields of its entry that are not known without opening it."""
    for path in paths:
        yield path, _look_at(root / path, gray_range)


def _look_at(path: pathlib.Path, gray_range: tuple[float, ...]) -> dict[str, Any]:
    bad = {"width": 0, "height": 0}
    if path.suffix.lower() in _RAW_SUFFIXES:  # of which a reader of TIFF would take the preview for the picture
        return bad | {"reason": decoding.RAW}
    try:
        data = files.read(path, LARGEST)
        found = decoding.decode(data, gray_range)
    except OSError as error:
        return bad | {"reason": f"{_UNREAD}{error.strerror or error}"}
    except decoding.UnknownRange as error:
        return bad | {"reason": str(error), "gray": Gray(error.lowest, error.highest, 0, 0)}
    except decoding.BadImage as error:
        return bad | {"reason": str(error)}
    sha256 = hashlib.sha256(data).hexdigest()[:32]
    size = {"width": found.width, "height": found.height}
    about = {"gray": found.gray, "damage": found.damage, "has_more": decoding.has_more(data)}
    return size | {"reason": "", "sha256": sha256} | about


def _read(path: pathlib.Path, gray_range: tuple[float, ...]) -> dict[str, Entry]:
    """The index that was there; nothing where there is none, or it is damaged, or of another version."""
    try:
        kept = json.loads(files.read(path, _LARGEST))
        if kept["format"] != _FORMAT:
            return {}
        found = {name: _entry(values) for name, values in kept["files"].items()}
        same_range = tuple(kept["gray_range"]) == tuple(gray_range)
        decoder, now = kept.get("decoder"), decoding.about()
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
        return {}
    all_kinds, (most, _) = _kinds(decoder) <= _kinds(now), decoding.limits()

    def holds(entry: Entry) -> bool:
        decodable = all_kinds and not 0 < 2 * most < entry.width * entry.height  # as Pillow has it
        return (same_range or entry.gray is None) and (decoder == now or (decodable and not entry.reason))

    return {name: entry for name, entry in found.items() if holds(entry)}


def _kinds(decoder: object) -> set[str]:
    """The kinds of file that a text of `decoding.about` names, and "1)" where files that are cut short are taken."""
    return {part for part in str(decoder).split(", ")[1:] if part != "0)" and not part.startswith("(")}


def _entry(values: list) -> Entry:
    """Raises TypeError or ValueError where the values are not those of an entry."""
    entry = Entry(*values)
    texts = entry.reason, entry.sha256, entry.damage
    if any(type(x) is not int for x in entry[:4]) or any(type(x) is not str for x in texts) or min(entry[2:4]) < 0:
        raise ValueError(values)
    if type(entry.has_more) is not bool:
        raise ValueError(values)
    if entry.gray is not None:
        gray = Gray(*entry.gray)
        if not all(type(x) in (int, float) and math.isfinite(x) for x in gray[:4]) or type(gray.fixed) is not bool:
            raise ValueError(values)
        entry = entry._replace(gray=gray)
    return entry


def _write_skipped(path: pathlib.Path, skipped: dict[str, str]) -> pathlib.Path:
    text = io.StringIO()
    for row in [("path", "reason"), *skipped.items()]:
        sheets.Writer(text).writerow(row)
    files.write_changed(path, sheets.marked(text.getvalue()))
    return path


def _is_text(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True
