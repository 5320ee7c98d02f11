"""What a file says beside its pixels: the image without it, where it is damaged, and the channels of a TIFF."""

import io
import struct
import zlib

from PIL import TiffImagePlugin

_PNG = b"\x89PNG\r\n\x1a\n"
# Chunks that decide about pixels; the orientation, in eXIf, is kept where it is whole.
_PNG_KEPT = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
# Tags of TIFF 6.0 that say how pixels are stored; 274 is the orientation.
_TIFF_KEPT = frozenset(
    (254, 256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 284, 292, 293, 317, 320, 322, 323, 324, 325)
    + (332, 338, 339, 347, *range(512, 522), 529, 530, 531, 532)
)


def without(data: bytes) -> bytes | None:
    """The same image without its metadata; None for a kind of file that is not known here, or one that is not whole.

    Of PNG, JPEG and TIFF. No pixel changes, and the orientation stays where it can be read.

    >>> without(b"not an image") is None
    True
    """
    try:
        if data.startswith(_PNG):
            return _png(data)
        if data.startswith(b"\xff\xd8\xff"):
            return _jpeg(data)
        if data[:4] in (b"II*\0", b"MM\0*"):
            return _tiff(data)
    except (struct.error, IndexError):
        pass
    return None


def unread_tiff(data: bytes) -> str:
    """Why a TIFF that Pillow does not know is not decoded; '' for what is no TIFF.

    >>> unread_tiff(b"not an image")
    ''
    """
    if data[:4] not in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return ""
    try:
        head = data[: 16 if 43 in data[2:4] else 8]  # BigTIFF's is longer
        tags, file = TiffImagePlugin.ImageFileDirectory_v2(head), io.BytesIO(data)
        file.seek(tags.next)
        tags.load(file)
        bits = tags[258]
        channels, bits = int(tags.get(277, 1)), int(bits[0] if isinstance(bits, tuple) else bits)
        packed = int(tags.get(259, 1))
    except Exception:  # Pillow raises a type of its own for each kind of damage
        return ""
    if packed not in TiffImagePlugin.COMPRESSION_INFO:
        return f"a TIFF of a compression that is not known here (tag 259 is {packed}): save it as PNG"
    return (
        f"a TIFF of {channels} {'channel' if channels == 1 else 'channels'} of {bits} bits, which is not decoded here: "
        "save one or three channels of it as PNG"
    )


def _png(data: bytes) -> bytes:
    kept, place = [_PNG], len(_PNG)
    while place < len(data):
        (length,) = struct.unpack_from(">I", data, place)
        chunk, kind = data[place : place + length + 12], data[place + 4 : place + 8]
        whole = kind == b"eXIf" and chunk[-4:] == struct.pack(">I", zlib.crc32(chunk[4:-4]))
        if kind in _PNG_KEPT or whole:
            kept.append(chunk)
        place += length + 12
    return b"".join(kept)


def _jpeg(data: bytes) -> bytes | None:
    kept, place = [data[:2]], 2
    while data[place] == 0xFF:
        marker = data[place + 1]
        if marker == 0xDA:  # the scan: pixels from here on
            return b"".join([*kept, data[place:]])
        (length,) = struct.unpack_from(">H", data, place + 2)
        # APP0 and APP14 say how colors are stored; APP1 has the orientation, and is passed over where it is damaged.
        if not (0xE2 <= marker <= 0xED or marker in (0xEF, 0xFE)):
            kept.append(data[place : place + 2 + length])
        place += 2 + length
    return None


def _tiff(data: bytes) -> bytes:
    order = "<" if data.startswith(b"II") else ">"
    (start,) = struct.unpack_from(f"{order}I", data, 4)
    (count,) = struct.unpack_from(f"{order}H", data, start)
    entries = [data[place : place + 12] for place in range(start + 2, start + 2 + 12 * count, 12)]
    kept = [entry for entry in entries if struct.unpack_from(f"{order}H", entry)[0] in _TIFF_KEPT]
    # A list of tags of its own at the end, where nothing can point into it.
    place = len(data) + len(data) % 2
    head = data[:4] + struct.pack(f"{order}I", place) + data[8:]
    tags = struct.pack(f"{order}H", len(kept)) + b"".join(kept) + struct.pack(f"{order}I", 0)
    return head.ljust(place, b"\0") + tags
