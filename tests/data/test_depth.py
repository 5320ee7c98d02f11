"""Files of more than eight bits a channel, and of more or fewer channels than are decoded."""

import contextlib
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from sdclr_jax.data import decoding
from sdclr_jax.data.decoding import BadImage, Gray, decode
from sdclr_jax.data.images import Files
from tests.photos import encoded, jpeg, photo


def png(values: np.ndarray, bits: int = 16, transparent: tuple[int, ...] = ()) -> bytes:
    """A PNG of numbers without a sign [H, W, C]: gray, gray with alpha, colour, or colour with alpha."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    height, width, channels = values.shape
    head = struct.pack(">IIBBBBB", width, height, bits, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    each = np.unpackbits(values.astype(">u2").view(np.uint8)).reshape(height, -1, 16)[:, :, -bits:]
    rows = b"".join(b"\0" + np.packbits(row).tobytes() for row in each)
    key = chunk(b"tRNS", np.array(transparent, ">u2").tobytes()) if transparent else b""
    parts = chunk(b"IHDR", head), key, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def tiff(values: np.ndarray) -> bytes:
    """An uncompressed TIFF of unsigned numbers [H, W, C], whatever Pillow itself would write or read."""
    pixels, (height, width, channels) = values.tobytes(), values.shape
    bits = struct.pack(f"<{channels}H", *[8 * values.itemsize] * channels).ljust(4, b"\0")
    tags = {256: width, 257: height, 259: 1, 262: 1 + (channels > 2), 273: 8, 277: channels, 278: height}
    place = 8 + len(pixels) + 2 + 12 * (len(tags) + 2) + 4
    entries = {tag: struct.pack("<HHII", tag, 4, 1, value) for tag, value in (tags | {279: len(pixels)}).items()}
    entries[258] = struct.pack("<HHI", 258, 3, channels) + (bits if len(bits) == 4 else struct.pack("<I", place))
    listed = b"".join(entries[tag] for tag in sorted(entries))
    head = struct.pack("<2sHI", b"II", 42, 8 + len(pixels))
    return head + pixels + struct.pack("<H", len(entries)) + listed + struct.pack("<I", 0) + bits


@pytest.mark.parametrize(
    ("make", "channels"), [(png, 3), (tiff, 3), (png, 4), (png, 2)], ids=["png", "tiff", "colour, alpha", "gray, alpha"]
)
def test_of_colour_of_16_bits_the_range_is_known(make, channels):
    """The upper one of two bytes is kept, whatever `gray_range` is; what is transparent does not count."""
    values = np.full((2, 3, channels), 65535, np.uint16)
    values[..., : channels - (channels % 2 == 0)] = 0x0F21
    values[0, 0, 0] = 0x0302
    for gray_range in ((), (0.0, 4095.0)):
        found = decode(make(values), gray_range)
        assert found.gray == Gray(0x0300, 0x0FFF, 0, 65535, fixed=True) and found.gray.share < 1 / 16
        assert np.asarray(found.image)[0, :, 0].tolist() == [3, 15, 15]


def test_the_transparent_gray_or_colour_of_a_png_is_white_whatever_its_bits():
    """Of 16 bits of colour the upper 8 are compared, as Pillow keeps no others."""
    gray = png(np.array([[[0], [257], [65535]]]), transparent=(0,))
    assert decode(gray).gray == Gray(257, 65535, 0, 65535)
    found = [(gray, [255, 1, 255])]
    for bits, step in ((4, 17), (2, 85)):
        found.append((png(np.array([[[0], [1], [2]]]), bits, (1,)), [0, 255, 2 * step]))
    colours = np.array([[[0x0203, 1, 2], [0x0304, 1, 2], [0x0401, 0x0100, 0x0200]]])
    found.append((png(colours, transparent=(0x0203, 1, 2)), [255, 3, 4]))
    for data, red in found:
        assert np.asarray(decode(data).image)[0, :, 0].tolist() == red


def test_of_eight_bits_no_range_is_known():
    for kind in ("PNG", "TIFF", "JPEG"):
        for mode in ("RGB", "L"):
            assert decode(encoded(photo(5, 4).convert(mode), kind)).gray is None


@pytest.mark.parametrize(
    ("channels", "bits"),
    [(13, 16), (13, 8), (2, 8)],
)
def test_a_tiff_of_other_channels_is_named(channels, bits):
    data = tiff(np.zeros((3, 4, channels), f"<u{bits // 8}"))
    message = f"^a TIFF of {channels} channels of {bits} bits, which is not decoded here: save one or three channels"
    with pytest.raises(BadImage, match=message):
        decode(data)
    with pytest.raises(BadImage, match="^not an image of a known format$"):
        decode(data[:50])  # its tags are lost
    for cut in range(1, 80, 10):
        with contextlib.suppress(BadImage):
            decode(data[:-cut])  # Pillow warns of nothing, which would be an error here


def test_a_tiff_of_another_compression_is_named():
    data = tiff(np.zeros((3, 4, 3), np.uint8))
    usual, other = (struct.pack("<HHII", 259, 4, 1, packed) for packed in (1, 33003))
    with pytest.raises(
        BadImage, match=r"^a TIFF of a compression that is not known here \(tag 259 is 33003\): save it"
    ):
        decode(data.replace(usual, other))


def test_pages_behind_the_first_one_that_are_damaged_do_not_count():
    pages = [photo(5, 4, seed) for seed in range(2)]
    whole = encoded(pages[0], "TIFF", save_all=True, append_images=pages[1:])
    assert decoding.has_more(whole) and not decoding.has_more(encoded(pages[0], "TIFF"))
    assert not decoding.has_more(b"nothing")


def test_pages_that_a_tiff_calls_smaller_copies_do_not_count():
    page, copy = photo(5, 4), photo(5, 4)
    copy.encoderinfo = {"tiffinfo": {254: 1}}
    pages = encoded(page, "TIFF", save_all=True, append_images=[copy])
    with Image.open(io.BytesIO(pages)) as found:
        found.seek(1)
        assert (found.n_frames, found.tag_v2.get(254)) == (2, 1)
    assert not decoding.has_more(pages)


@pytest.mark.parametrize("size", [(7, 1100), (3, 600), (1100, 7), (1, 1100)])
def test_a_narrow_jpeg_is_made_smaller_as_far_as_it_can_be(tmp_path, size):
    data = jpeg(photo(*size))
    (tmp_path / "x.jpg").write_bytes(data)
    seen = Files(tmp_path, np.array(["x.jpg"])).picture(0, 64)
    found = decode(data, scale=lambda height, width: 8)
    factor = decoding.smaller(min(size))
    assert found.scale == factor == {7: 4, 3: 2, 1: 1}[min(size)] and seen.size == found.image.size
    assert found.image.size == tuple(-(-side // factor) for side in size)
    whole = Image.open(io.BytesIO(data)).convert("RGB").resize(found.image.size, Image.Resampling.BOX)
    assert np.abs(np.asarray(whole, float) - np.asarray(found.image, float)).mean() < 6
