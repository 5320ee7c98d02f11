"""Damage to inputs, at random: by bytes, or by what their kind of file is made of."""

import io
import json
import random
import tarfile
from collections.abc import Callable
from typing import Any

# What stands in JSON where something else was, written out: some of it no library writes.
_VALUES = (
    *(
        "null",
        "true",
        "-1",
        "0",
        "0.5",
        "1e308",
        "-0.0",
        "9223372036854775808",
        "1e999",
        "NaN",
        "-Infinity",
        '""',
        '"x"',
    ),
    *(
        '"\\u0000"',
        '"\\ud800"',
        '"../../etc/passwd"',
        '"<script>"',
        "[]",
        "{}",
        "[[1]]",
        '{"a":{}}',
        "9" * 5000,
        "[" * 9000,
    ),
    *(
        "[" * 9000 + "]" * 9000,
        '{"a":' * 400 + "1" + "}" * 400,
        '"' + "x" * 100000 + '"',
        '"Infinity"',
        '"1e999"',
        '"\u0663"',
    ),
)
_TOKENS = (
    *(
        b"\n",
        b"\r",
        b"\0",
        b",",
        b'"',
        b"'",
        b" ",
        b"\t",
        b"=",
        b"(",
        b")",
        b"[",
        b"{",
        b"\xff\xfe",
        b"\xef\xbb\xbf",
        b"NaN",
    ),
    *(
        b"-1",
        b"1e999",
        b"9" * 400,
        b"../",
        b"/",
        b"\xc2\xb2",
        b"\xd9\xa3",
        b"path",
        b"label",
        b"split",
        b"(" * 300,
        b"\x1b[2J",
    ),
    *("\u2028".encode(), "\ud800".encode(errors="surrogatepass"), b"x" * 70000, b"True", b"None", b"__import__"),
)


def mutated(kind: str, data: bytes, seeds: list[bytes], rng: random.Random) -> bytes:
    """Input with one to four changes."""
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        by_structure = {"json": _json, "jsonl": _jsonl, "npy": _array, "tar": _tar}.get(kind)
        try:
            data = by_structure(data, rng) if by_structure and rng.random() < 0.6 else _bytes(data, seeds, rng)
        except Exception:  # it has no structure any more
            data = _bytes(data, seeds, rng)
    return data


def _bytes(data: bytes, seeds: list[bytes], rng: random.Random) -> bytes:
    at, length = rng.randrange(len(data) + 1), min(1 << rng.randrange(12), len(data) or 1)
    changes: list[Callable[[], bytes]] = [
        lambda: data[:at] + bytes([(data[at : at + 1] or b"\0")[0] ^ (1 << rng.randrange(8))]) + data[at + 1 :],
        lambda: data[:at],
        lambda: data[:at] + data[at + length :],
        lambda: data[:at] + bytes(length) + data[at + length :],
        lambda: data[:at] + rng.randbytes(min(length, 64)) + data[at + min(length, 64) :],
        lambda: data[:at] + rng.choice(_TOKENS) + data[at:],
        lambda: data[:at] + rng.choice(_TOKENS) + data[at + length :],
        lambda: data[:at] + data[at : at + length] * 2 + data[at + length :],
        lambda: data[:at] + rng.choice(seeds)[at:],
        lambda: data[:at] + b"\xff\xff\xff\x7f" + data[at + 4 :],
    ]
    return rng.choice(changes)()


def _json(data: bytes, rng: random.Random) -> bytes:
    """With one value of the tree replaced, removed, doubled, or put under another name."""
    tree = [json.loads(data)]
    place: Any = tree
    key: Any = 0
    while isinstance(place[key], dict | list) and place[key] and rng.random() < 0.85:
        place = place[key]
        key = rng.choice(list(place)) if isinstance(place, dict) else rng.randrange(len(place))
    mark = f"@{rng.random()}@"
    choice = rng.random()
    if choice < 0.7:
        place[key] = mark
    elif choice < 0.85 and place is not tree:
        del place[key]
    elif isinstance(place, dict):
        place[rng.choice([*place, "x", "", "format"])] = place[key]
    else:
        place.append(place[key])
    return json.dumps(tree[0]).replace(f'"{mark}"', rng.choice(_VALUES)).encode(errors="surrogatepass")


def _jsonl(data: bytes, rng: random.Random) -> bytes:
    lines = data.splitlines()
    at = rng.randrange(len(lines))
    lines[at] = _json(lines[at], rng)
    return b"\n".join(lines)


def _array(data: bytes, rng: random.Random) -> bytes:
    """With another header: what it says of type, order and shape."""
    size = int.from_bytes(data[8:10], "little")
    header, rest = data[10 : 10 + size], data[10 + size :]
    kinds = (
        "<f4",
        "|O",
        "<U9",
        "|V8",
        "<M8[s]",
        "<i8",
        "|b1",
        ">f2",
        "<c16",
        "[('a','<i8')]",
        "<f4,<i4",
        "|S0",
        "x" * 500,
    )
    shapes = (
        "(9,)",
        "()",
        "(0,)",
        "(-1,)",
        "(1000000000000,)",
        "(3,3)",
        "(9",
        "(9.5,)",
        "('9',)",
        "(True,)",
        "9",
        "(9,)*9",
    )
    made = f"{{'descr': '{rng.choice(kinds)}', 'fortran_order': {rng.choice(('False', 'True', '3'))}, 'shape': "
    made += f"{rng.choice(shapes)}, }}\n"
    header = rng.choice((made.encode(), header, header.replace(b"9", b"(" * 200), header[: rng.randrange(size + 1)]))
    size = rng.choice((len(header), len(header), 65535, 0))
    return data[:6] + bytes([rng.choice((1, 1, 1, 2, 3, 9)), 0]) + size.to_bytes(2, "little") + header + rest


def _tar(data: bytes, rng: random.Random) -> bytes:
    """With one member changed: its name, its kind, its content, or the size that its header says."""
    with tarfile.open(fileobj=io.BytesIO(data), mode="r") as tar:
        members = [(header, (tar.extractfile(header) or io.BytesIO()).read()) for header in tar if header.isfile()]
    at = rng.randrange(len(members))
    header, content = members[at]
    header.name = rng.choice((header.name, header.name, "../x", "/x", "x" * 3000, "a/\ud800", "", header.name + "/.."))
    header.type = rng.choice(
        (header.type, header.type, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE)
    )
    header.pax_headers = rng.choice(
        ({}, {}, {"size": "99999999999"}, {"comment": "x" * 100000}, {"path": "../y"}, {"size": "x"})
    )
    members[at] = header, rng.choice((content, content, content[:-1], content * 2, b"\xff" * len(content), b"a\n" * 10))
    if rng.random() < 0.2:
        members.append(members[at])
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=rng.choice((tarfile.PAX_FORMAT, tarfile.GNU_FORMAT))) as tar:
        for header, content in members:
            header.size = len(content) if header.type == tarfile.REGTYPE else 0
            tar.addfile(header, io.BytesIO(content) if header.size else None)
    written = bytearray(file.getvalue())
    if rng.random() < 0.3:  # a header that lies of the size, with the right sum
        written[124:136] = rng.choice((b"77777777777\0", b"\x80" + b"\xff" * 11, b"00000000000\0", b"-0000000001\0"))
        written[148:156] = b" " * 8
        written[148:156] = f"{sum(written[:512]):06o}\0 ".encode()
    return bytes(written)
