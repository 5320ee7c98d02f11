"""What becomes of every kind of image file; the expected pixels are Pillow's or worked out by hand."""

import io
import pickle

import numpy as np
import pytest
from PIL import ExifTags, Image

from sdclr_jax.data.decoding import BadImage, decode
from sdclr_jax.data.images import Files
from tests.photos import encoded, jpeg, photo


def shown(data: bytes) -> np.ndarray:
    found = decode(data)
    assert found.image.mode == "RGB"
    assert found.image.size == (found.width, found.height)
    return np.asarray(found.image)


def test_a_jpeg_is_what_pillow_decodes():
    data = jpeg(photo(31, 20))
    np.testing.assert_array_equal(shown(data), np.asarray(Image.open(io.BytesIO(data))))


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_shown_upright(orientation, kind):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    stored = photo(24, 16)
    data = encoded(stored, kind, exif=exif)
    # From the table of EXIF 2.32, Section 4.6.4: where the first row and column of what is stored belong.
    turned = {1: "", 2: "m", 3: "rr", 4: "rrm", 5: "rm", 6: "r", 7: "rrrm", 8: "rrr"}[orientation]
    expected = np.asarray(Image.open(io.BytesIO(data)))
    for step in turned:
        expected = np.rot90(expected, k=-1) if step == "r" else expected[:, ::-1]
    np.testing.assert_array_equal(shown(data), expected)


def test_damaged_exif_does_not_lose_the_picture():
    whole = jpeg(photo(24, 16), orientation=6)
    at = whole.index(b"Exif\0\0") + 6
    for damage in (b"\xff" * 8, b"MM\0*\xff\xff\xff\xff", b"II*\0\0\0\0\0"):
        assert shown(whole[:at] + damage + whole[at + 8 :]).shape in [(24, 16, 3), (16, 24, 3)]


def test_grey_becomes_three_equal_channels():
    grey = photo(20, 12).convert("L")
    np.testing.assert_array_equal(shown(encoded(grey, "PNG")), np.asarray(grey)[:, :, None].repeat(3, axis=2))
    assert shown(jpeg(grey)).shape == (12, 20, 3)


def test_sixteen_bit_grey_is_scaled_and_not_clipped():
    deep = np.array([[0, 257, 65535], [128 * 257, 300, 40000]], np.uint16)
    expected = (deep // 257).astype(np.uint8)[:, :, None].repeat(3, axis=2)
    for kind in ("PNG", "TIFF"):
        np.testing.assert_array_equal(shown(encoded(Image.fromarray(deep), kind)), expected)


def test_cmyk_is_converted():
    cmyk = photo(20, 12).convert("CMYK")
    data = encoded(cmyk, "JPEG", quality=95)
    np.testing.assert_allclose(shown(data), np.asarray(cmyk.convert("RGB")), atol=40)
    np.testing.assert_allclose(shown(data).mean(), np.asarray(cmyk.convert("RGB")).mean(), atol=2)


def test_transparent_parts_are_white():
    alpha = np.zeros((4, 6, 4), np.uint8)
    alpha[..., 0] = 200
    alpha[:, 3:, 3] = (0, 255, 128)
    result = shown(encoded(Image.fromarray(alpha), "PNG"))
    assert (result[:, :4] == 255).all()
    assert (result[:, 4] == (200, 0, 0)).all()
    np.testing.assert_allclose(result[:, 5], [[227, 127, 127]] * 4, atol=1)
    palette = Image.fromarray(np.array([[0, 1]], np.uint8), "L").convert("P")
    palette.putpalette([10, 20, 30, 40, 50, 60])
    assert shown(encoded(palette, "PNG", transparency=1)).tolist() == [[[10, 20, 30], [255, 255, 255]]]


def test_an_animation_is_its_first_frame():
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    assert (shown(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])) == (255, 0, 0)).all()


def test_black_and_white_and_other_colour_spaces():
    assert (shown(encoded(Image.new("1", (5, 4), 1), "PNG")) == 255).all()
    lab = photo(6, 6).convert("HSV").convert("RGB")
    assert shown(encoded(lab, "BMP")).shape == (6, 6, 3)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not an image of a known format"),
        (b"<html>not found</html>", "not an image of a known format"),
        (jpeg(photo(64, 64))[:-400], "truncated"),
        (encoded(photo(64, 64), "PNG")[:-400], "truncated|broken|incomplete"),
        (
            encoded(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"),
            "pixels are floating-point numbers from 1 to 1, .*: set data.gray_range",
        ),
    ],
)
def test_what_cannot_be_decoded_says_why(data, reason):
    with pytest.raises(BadImage, match=reason):
        decode(data)


def test_a_bomb_is_refused_before_it_is_decoded(monkeypatch):
    data = encoded(photo(40, 40), "PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 700)
    with pytest.raises(BadImage, match="more than 0 megapixels, the most that are decoded: make it smaller"):
        decode(data)


def test_files_are_read_by_row_and_pickled_small(tmp_path):
    for name in ("a", "b", "c"):
        (tmp_path / name).write_bytes(name.encode() * 3)
    files = Files(tmp_path, np.array(["a", "b", "c"]))
    picked = pickle.loads(pickle.dumps(files[np.array([2, 0, 2])]))
    assert len(picked) == 3
    assert [picked.read(i) for i in range(3)] == [b"ccc", b"aaa", b"ccc"]
    assert picked.name(1) == str(tmp_path / "a")
    (tmp_path / "a").unlink()
    with pytest.raises(OSError, match="a"):
        picked.read(1)
