"""Damage to the files of a run, at random. Each function changes a file, and says what it did."""

import collections
import os
import pathlib
import random
import shutil
from collections.abc import Callable


def cut(path: pathlib.Path, rng: random.Random) -> str:
    size = path.stat().st_size
    left = rng.choice((0, size // 2, max(size - 1, 0), rng.randrange(size + 1)))
    os.truncate(path, left)
    return f"cut to {left} of {size} bytes"


def flip(path: pathlib.Path, rng: random.Random) -> str:
    data = bytearray(path.read_bytes() or b"x")
    at, bit = rng.randrange(len(data)), rng.randrange(8)
    data[at] ^= 1 << bit
    path.write_bytes(data)
    return f"bit {bit} of byte {at} flipped"


def zero(path: pathlib.Path, rng: random.Random) -> str:
    data = bytearray(path.read_bytes())
    at, size = rng.randrange(len(data) + 1), rng.choice((16, 512, 4096))
    data[at : at + size] = bytes(len(data[at : at + size]))
    path.write_bytes(data)
    return f"{size} bytes from {at} on are 0"


def swap(path: pathlib.Path, rng: random.Random) -> str:
    data = bytearray(path.read_bytes())
    size = min(rng.choice((4, 512)), len(data) // 2)
    a, b = sorted(rng.randrange(len(data) - size + 1) for _ in range(2)) if size else (0, 0)
    if b >= a + size:
        data[a : a + size], data[b : b + size] = data[b : b + size], data[a : a + size]
        path.write_bytes(data)
    return f"{size} bytes at {a} and {b} swapped"


def remove(path: pathlib.Path, rng: random.Random) -> str:
    path.unlink()
    return "removed"


def folder(path: pathlib.Path, rng: random.Random) -> str:
    path.unlink()
    path.mkdir()
    return "a folder stands in its place"


def another(path: pathlib.Path, rng: random.Random) -> str:
    content = rng.choice((b"[]", b"3", b"null", b"NaN", b"{}", b"\xff\xfe", b"[" * 5000, b'{"format": 99}'))
    path.write_bytes(content)
    return f"replaced by {content[:20]!r}"


def sibling(path: pathlib.Path, rng: random.Random) -> str:
    others = [p for p in path.parent.iterdir() if p.is_file() and p != path]
    if not others:
        return remove(path, rng)
    shutil.copyfile(other := rng.choice(others), path)
    return f"{other.name} copied over it"


DAMAGES: tuple[Callable[[pathlib.Path, random.Random], str], ...] = (
    *(cut, flip, flip, zero, swap, remove, folder, another, sibling),
)


def damage(run: pathlib.Path, rng: random.Random) -> str:
    """Damage one file of a run, of a kind of file drawn first; or rename or copy one of its checkpoints."""
    if rng.random() < 0.08:
        steps = sorted((run / "checkpoints").iterdir())
        if len(steps) > 1 and rng.random() < 0.5:
            shutil.rmtree(steps[-1])
            shutil.copytree(steps[0], steps[-1])
            return f"checkpoint {steps[0].name} copied over {steps[-1].name}"
        steps[-1].rename(steps[-1].with_suffix(".bak"))
        return f"checkpoint {steps[-1].name} renamed"
    kinds = collections.defaultdict(list)
    for path in sorted(run.rglob("*")):
        if path.is_file():
            name = path.relative_to(run)
            kinds[
                name.parts[0] if name.parts[0] != "checkpoints" else "/".join(name.parts[:1] + name.parts[2:4])
            ].append(path)
    path = rng.choice(kinds[rng.choice(sorted(kinds))])
    return f"{path.relative_to(run)}: {rng.choice(DAMAGES)(path, rng)}"
