"""Odd files of real people: turned, deep, of damaged metadata, of kinds that are not decoded."""

import io
import pickle
import re
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, TiffImagePlugin

from sdclr_jax.data import decoding, metadata
from sdclr_jax.data.crops import CentreCrop, RandomCrops, cut
from sdclr_jax.data.decoding import BadImage, Gray, decode
from sdclr_jax.data.pictures import Pictures
from sdclr_jax.data.quiet import without_warnings
from tests.photos import encoded, jpeg, photo

CROPS = (
    RandomCrops(count=3, size=8, scale=(0.1, 0.6), ratio=(3 / 4, 4 / 3), seed=1),
    CentreCrop(size=12, resize=16),
)
# From the table of EXIF 2.32, Section 4.6.4: quarter turns and a mirror that make what is stored upright.
TURNED = {1: "", 2: "m", 3: "rr", 4: "rrm", 5: "rm", 6: "r", 7: "rrrm", 8: "rrr"}


def upright(stored: np.ndarray, orientation: int) -> np.ndarray:
    for step in TURNED[orientation]:
        stored = np.rot90(stored, k=-1) if step == "r" else stored[:, ::-1]
    return stored


def turned(kind: str, orientation: int, image: Image.Image) -> bytes:
    """A file of this kind that stores the image, and an orientation, as well as the kind can say it."""
    if kind == "XMP":
        xmp = f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf tiff:Orientation="{orientation}"/></x:xmpmeta>'
        return encoded(image, "WEBP", lossless=True, xmp=xmp.encode())
    options = {"WEBP": {"lossless": True}, "AVIF": {"quality": 100, "subsampling": "4:4:4"}}.get(kind, {})
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    if kind.startswith("TIFF"):
        tags = TiffImagePlugin.ImageFileDirectory_v2()
        tags[ExifTags.Base.Orientation] = orientation
        compression = "tiff_lzw" if kind == "TIFF-LZW" else None
        frames = {"save_all": True, "append_images": [image]} if kind == "TIFF-pages" else {}
        return encoded(image, "TIFF", tiffinfo=tags, compression=compression, **frames)
    return encoded(image, kind, exif=exif, **options)


@pytest.mark.parametrize("size", [(40, 12), (13, 31)])
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["TIFF", "TIFF-LZW", "TIFF-pages", "PNG", "WEBP", "XMP", "JPEG", "MPO", "AVIF"])
def test_a_turned_picture_gives_the_pixels_of_the_upright_one(kind, orientation, size):
    """Decoded whole, and its crops, and from an opened image."""
    data = turned(kind, orientation, photo(*size))
    stored = np.asarray(photo(*size))
    if kind in ("JPEG", "MPO", "AVIF"):  # which change the pixels
        stored = np.asarray(decode(turned(kind, 1, photo(*size))).image)
    expected = upright(stored, orientation)
    as_png = encoded(Image.fromarray(expected), "PNG")
    np.testing.assert_array_equal(np.asarray(decode(data).image), expected)
    for place in range(3):
        for found, right in zip(cut(data, CROPS, 0, place), cut(as_png, CROPS, 0, place), strict=True):
            np.testing.assert_array_equal(found, right)
    (picture,) = Pictures([Image.open(io.BytesIO(data))]).fitted(*expected.shape[:2])
    np.testing.assert_array_equal(picture, expected)


def gray(values: np.ndarray, kind: str = "TIFF", **options) -> bytes:
    return encoded(Image.fromarray(values), kind, **options)


def tiff(values: np.ndarray, bits: int, sample_format: int, photometric: int = 1) -> bytes:
    """An uncompressed TIFF of one strip, whatever Pillow itself would write."""
    pixels = np.ascontiguousarray(values).tobytes()
    tags = [(256, values.shape[1]), (257, values.shape[0]), (258, bits), (259, 1), (262, photometric), (273, 8)]
    tags += [(277, 1), (278, values.shape[0]), (279, len(pixels)), (339, sample_format)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    head = struct.pack("<2sHI", b"II", 42, 8 + len(pixels))
    return head + pixels + struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0)


def test_gray_of_12_and_16_bits_is_scaled_from_the_range_of_its_type():
    values = np.array([[0, 257, 4095, 65535]], np.uint16)
    for kind in ("PNG", "TIFF"):
        found = decode(gray(values, kind))
        assert np.asarray(found.image)[0, :, 0].tolist() == [0, 1, 15, 255]
        assert found.gray == Gray(0, 65535, 0, 65535) and found.gray.share == 1
    twelve = np.array([[0, 1, 2048, 4095]])  # two pixels in three bytes
    packed = b"".join(struct.pack(">I", a << 12 | b)[1:] for a, b in twelve.reshape(-1, 2).tolist())
    found = decode(tiff(np.frombuffer(packed, np.uint8)[None], 12, 1).replace(
        struct.pack("<HHII", 256, 4, 1, 6), struct.pack("<HHII", 256, 4, 1, 4)))  # fmt: skip
    assert np.asarray(found.image)[0, :, 0].tolist() == [0, 0, 127, 255]
    assert found.gray == Gray(0, 4095, 0, 4095)


def test_gray_where_white_is_zero_is_turned_about():
    values = np.array([[0, 257, 65535]], np.uint16)
    assert np.asarray(decode(tiff(values, 16, 1, photometric=0)).image)[0, :, 0].tolist() == [255, 254, 0]


def test_gray_that_uses_little_of_its_range_is_known():
    found = decode(gray(np.array([[100, 4095]], np.uint16)))
    assert found.gray == Gray(100, 4095, 0, 65535) and found.gray.share == 3995 / 65535


@pytest.mark.parametrize(
    ("dtype", "lowest", "highest", "kind"),
    [
        (np.int8, -100, 100, "whole numbers"),
        (np.int16, -1024, 3071, "whole numbers"),
        (np.int32, -70000, 70000, "whole numbers"),
        (np.uint32, 5, 4_000_000_000, "whole numbers"),
        (np.float32, -0.5, 1.5, "floating-point numbers"),
    ],
)
def test_gray_of_no_known_range_is_refused_and_can_be_given_one(dtype, lowest, highest, kind):
    values = np.linspace(lowest, highest, 5).astype(dtype)[None]
    bits, sample_format = values.itemsize * 8, {"i": 2, "u": 1, "f": 3}[values.dtype.kind]
    data = tiff(values, bits, sample_format)
    found = re.escape(f"{lowest:g} to {highest:g}")
    message = rf"^pixels are {kind} from {found}, .*: set data\.gray_range to train on them, or scale"
    with pytest.raises(BadImage, match=message):
        decode(data)
    with pytest.raises(BadImage, match="set data.gray_range"):
        cut(data, CROPS, 0, 0)
    shown = np.asarray(decode(data, (lowest, highest)).image)[0, :, 0]
    assert shown.tolist() == [0, 63, 127, 191, 255]
    narrow = lowest + (highest - lowest) / 4, lowest + (highest - lowest) * 3 / 4
    np.testing.assert_allclose(np.asarray(decode(data, narrow).image, int)[0, :, 0], [0, 0, 127, 255, 255], atol=1)
    (crop, _) = cut(tiff(np.repeat(values, 5, axis=0), bits, sample_format), CROPS, 0, 0, (lowest, highest))
    assert crop.max() > crop.min()


def test_floating_point_gray_of_a_portable_map_has_no_known_range():
    """Its kind of file also stores whole numbers, of which the range is known."""
    data = b"Pf\n5 1\n-1.0\n" + np.linspace(0, 1, 5, dtype="<f4").tobytes()
    with pytest.raises(BadImage, match=r"^pixels are floating-point numbers from 0 to 1, .*: set data\.gray_range"):
        decode(data)
    assert np.asarray(decode(data, (0.0, 1.0)).image)[0, :, 0].tolist() == [0, 63, 127, 191, 255]


def test_gray_that_is_not_a_number_is_black():
    data = gray(np.array([[np.nan, np.inf, -np.inf, 0.5]], np.float32))
    assert np.asarray(decode(data, (0.0, 1.0)).image)[0, :, 0].tolist() == [0, 255, 0, 127]


def test_a_range_changes_only_gray_of_more_than_eight_bits():
    data = encoded(photo(9, 7), "PNG")
    np.testing.assert_array_equal(decode(data, (0, 10)).image, decode(data).image)
    deep = gray(np.array([[0, 2048, 4095]], np.uint16), "PNG")
    assert np.asarray(decode(deep, (0, 4095)).image)[0, :, 0].tolist() == [0, 127, 255]


def test_pictures_at_hand_have_the_range_that_they_are_given(tmp_path):
    deep = Image.fromarray(np.full((4, 6), 4095, np.uint16))
    deep.save(tmp_path / "x.png")
    for gray_range, expected in (((), 15), ((0.0, 4095.0), 255)):
        for grayscale in (False, True):
            found = Pictures([str(tmp_path / "x.png"), deep], grayscale, gray_range)[np.array([1, 0])]
            assert found.fitted(2, 2).shape == (2, 2, 2, 1 if grayscale else 3)
            assert (found.fitted(2, 2) == expected).all()


# Metadata.


def png_chunk(kind: bytes, content: bytes, whole: bool = True) -> bytes:
    crc = zlib.crc32(kind + content) ^ (not whole)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)


def png_with(chunk: bytes, at_end: bool = False) -> bytes:
    data = encoded(photo(24, 16), "PNG")
    place = data.rindex(b"IEND") - 4 if at_end else 33
    return data[:place] + chunk + data[place:]


def tiff_with(tag: int, value) -> bytes:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags.tagtype[tag] = 2 if isinstance(value, str) else 4
    tags[tag] = value
    tags[296] = 3  # resolutions are by the centimetre
    return encoded(photo(24, 16), "TIFF", tiffinfo=tags)


DAMAGED = {
    "EXIF that is no TIFF": png_with(png_chunk(b"eXIf", b"nothing of the kind")),
    "a text chunk of a wrong checksum": png_with(png_chunk(b"tEXt", b"Comment\0x", whole=False)),
    "one behind the pixels": png_with(png_chunk(b"iTXt", b"Comment\0x", whole=False), at_end=True),
    "text that is far too long": png_with(png_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(2**27)))),
    "a resolution as text": tiff_with(282, "300 dpi"),
    "EXIF of a WebP that is no TIFF": encoded(photo(24, 16), "WEBP", lossless=True, exif=b"nothing of the kind"),
}


@pytest.mark.parametrize("what", DAMAGED)
def test_damaged_metadata_do_not_lose_the_picture(what):
    found = decode(DAMAGED[what])
    np.testing.assert_array_equal(np.asarray(found.image), np.asarray(photo(24, 16)))
    assert found.damage or what == "one behind the pixels", "it is said where it was in the way"
    (crop, _), (right, _) = (cut(data, CROPS, 0, 0) for data in (DAMAGED[what], encoded(photo(24, 16), "PNG")))
    np.testing.assert_array_equal(crop, right)


def test_damaged_exif_of_a_jpeg_with_a_resolution():
    whole = jpeg(photo(24, 16), orientation=6, dpi=(72, 72))
    data = whole.replace(b"Exif\0\0MM\0*", b"Exif\0\0nothg")
    assert data != whole and decode(whole).damage == ""
    found = decode(data)
    assert (found.width, found.height) == (24, 16) and found.damage.startswith("EXIF: ")
    for crop, right in zip(cut(data, CROPS, 0, 0), cut(jpeg(photo(24, 16)), CROPS, 0, 0), strict=True):
        np.testing.assert_array_equal(crop, right)


def test_what_is_damaged_itself_is_refused_with_and_without_its_metadata():
    for kind in ("PNG", "JPEG", "TIFF"):
        data = encoded(photo(64, 64), kind)
        with pytest.raises(BadImage):
            decode(data[: len(data) // 2])


def test_pixels_are_the_same_without_metadata():
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    exif[ExifTags.Base.Make] = "maker"
    for kind in ("PNG", "JPEG", "TIFF"):
        data = encoded(photo(24, 16), kind, exif=exif)
        bare = metadata.without(data)
        np.testing.assert_array_equal(np.asarray(decode(bare).image), np.asarray(decode(data).image))
    assert metadata.without(b"GIF89a") is None


# Kinds that are not decoded.


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0", "^HEIC, which is not decoded here: convert it to JPEG or PNG$"),
        (b"\xff\x0a" + bytes(20), "^JPEG XL, which"),
        (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(20), "^JPEG XL, which"),
        (b"\0\0\0\x18ftypcrx " + bytes(20), "^a camera's raw file, which is not decoded here: develop it"),
        (b"FUJIFILMCCD-RAW 0201" + bytes(20), "^a camera's raw file"),
        (b"IIRO\x08\0\0\0" + bytes(20), "^a camera's raw file"),
        (tiff_with(50706, 1), "^a camera's raw file"),  # its first picture is a preview
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n", "^not an image of a known format$"),
        (b"%PDF-1.7", "^PDF, which is not"),
    ],
)
def test_kinds_that_are_not_decoded_are_named(data, reason):
    with pytest.raises(BadImage, match=reason):
        decode(data)


def test_a_plugin_of_this_process_changes_nothing(monkeypatch):
    """Workers, and the process that reads the same folder tomorrow, do not have it."""
    monkeypatch.setattr(Image, "ID", [*Image.ID])
    monkeypatch.setattr(Image, "OPEN", {**Image.OPEN})
    made_up, before = b"made up" + bytes(20), decoding.about()
    Image.register_open("MADE UP", lambda file, name: Image.new("RGB", (2, 2)), lambda start: start.startswith(b"made"))
    assert Image.open(io.BytesIO(made_up)).size == (2, 2) and decoding.about() == before
    for read in (decode, decoding.identify):
        with pytest.raises(BadImage, match="^not an image of a known format$"):
            read(made_up)


def test_a_picture_that_is_too_large_says_how_large_it_may_be(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2_000_000)
    with pytest.raises(
        BadImage, match="^more than 4 megapixels, the most that are decoded: make it smaller, or cut it"
    ):
        decode(encoded(Image.new("1", (3000, 2000)), "PNG"))


def test_memory_that_is_short_is_no_damage(monkeypatch):
    def short(*_):
        raise MemoryError

    monkeypatch.setattr(decoding, "_decoded", short)
    with pytest.raises(OSError, match="Cannot allocate memory"):
        decode(encoded(photo(8, 8), "PNG"))


# Whatever a file does.


@pytest.mark.parametrize("size", [(1, 1), (1, 400), (400, 1), (2, 3)])
def test_narrow_images_can_be_cropped(size):
    for kind in ("PNG", "JPEG", "TIFF"):
        wide = RandomCrops(count=2, size=4, scale=(0.01, 1.0), ratio=(3.0, 4.0), seed=0)
        for place in range(5):
            assert [c.shape for c in cut(encoded(photo(*size), kind), (wide, *CROPS), 0, place)][0] == (2, 4, 4, 3)


FILES = [turned(kind, 6, photo(16, 12)) for kind in ("TIFF", "TIFF-LZW", "PNG", "WEBP", "JPEG", "MPO", "AVIF")]
FILES += [encoded(photo(16, 12), kind) for kind in ("GIF", "BMP", "PPM", "TGA", "JPEG2000", "ICO", "PCX")]
FILES += [gray(np.arange(12, dtype=np.uint16).reshape(3, 4)), tiff(np.ones((2, 2), np.int16), 16, 2), *DAMAGED.values()]
FILES = [data for data in FILES if len(data) < 10_000]


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(FILES), st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=6), st.floats(0, 1.2))
def test_whatever_a_file_does_it_is_an_image_or_cannot_be_read(data, changes, end):
    damaged = bytearray(data[: int(end * len(data)) + 1])
    for place, value in changes:
        damaged[int(place**3 * (len(damaged) - 1))] = value  # most of them near the start, where the headers are
    try:
        made = cut(bytes(damaged), CROPS, 0, 0)
    except BadImage as error:
        assert str(error) and "\n" not in str(error)
    else:
        assert [part.shape for part in made] == [(3, 8, 8, 3), (1, 12, 12, 3)]


def test_threads_that_decode_leave_the_filters_of_warnings_as_they_were():
    data = encoded(photo(300, 200), "PNG")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        before = list(warnings.filters)
        with ThreadPoolExecutor(8) as pool:
            for _ in range(5):
                list(pool.map(lambda _: decoding.decode(data), range(20)))
                assert list(warnings.filters) == before
        with pytest.raises(UserWarning, match="of somebody else"):
            warnings.warn("of somebody else", stacklevel=1)
        other_thread = warnings.catch_warnings()
        with without_warnings(), other_thread, without_warnings():
            warnings.warn("of Pillow", stacklevel=1)
        assert list(warnings.filters) == before
        caught = warnings.catch_warnings()
        with caught:  # of another thread, which began before and ends while this one decodes
            first = without_warnings()
            first.__enter__()
        with without_warnings():
            warnings.warn("of Pillow", stacklevel=1)
        first.__exit__(None, None, None)
        assert list(warnings.filters) == before


def test_a_process_is_given_the_limits_of_another(monkeypatch):
    monkeypatch.setattr(decoding.Image, "MAX_IMAGE_PIXELS", 100)
    monkeypatch.setattr(decoding.ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    monkeypatch.setattr(decoding.Image, "MAX_IMAGE_PIXELS", float("inf"))
    assert decoding.limits() == (0, 1)
    monkeypatch.setattr(decoding.Image, "MAX_IMAGE_PIXELS", 1e2)
    given = decoding.limits()
    assert given == (100, 1) and "(100, 1)" in decoding.about()
    decoding.set_limits(0, 0)
    assert (decoding.Image.MAX_IMAGE_PIXELS, decoding.ImageFile.LOAD_TRUNCATED_IMAGES) == (None, False)
    decoding.set_limits(*given)
    assert decoding.limits() == given


def test_a_worker_sees_what_this_process_sees(tmp_path):
    """Pillow's pickle leaves out the tag of a TIFF that says that 0 is white; and a picture is turned once."""
    values = np.linspace(0, 60_000, 64).reshape(8, 8).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "negative.tif", tiffinfo={262: 0})
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3)).save(tmp_path / "turned.png", exif=exif)
    for name in ("negative.tif", "turned.png"):
        for grayscale in (False, True):
            here = Pictures([Image.open(tmp_path / name)], grayscale)
            assert pickle.loads(pickle.dumps(here)).read(0) == here.read(0)
    black = Pictures([Image.fromarray(values)]).fitted(8, 8)
    np.testing.assert_array_equal(Pictures([Image.open(tmp_path / "negative.tif")]).fitted(8, 8), 255 - black)
    unknown = pickle.loads(pickle.dumps(Pictures([Image.fromarray(values.astype(np.float32))])))
    with pytest.raises(BadImage, match="what is black and white among them is not known"):
        unknown.read(0)
