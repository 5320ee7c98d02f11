"""One encoded image into eight-bit red, green and blue, as it is meant to be seen.

Whatever a file does, what comes out of here is its pixels or a `BadImage`. This module imports neither JAX nor tfds, so
that worker processes start quickly.
"""

import contextlib
import errno
import io
import logging
import math
import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import PIL
from PIL import ExifTags, Image, ImageFile, features

from sdclr_jax.data import metadata
from sdclr_jax.data.quiet import without_warnings
from sdclr_jax.errors import first_line

logging.getLogger("PIL").addHandler(logging.NullHandler())  # what it has to say of a damaged file is raised, too

_TURNS = {  # EXIF's orientation -> what makes the image upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ROWS = 256  # of a gray image scaled at a time, so that it is not held as floats
# Tags of TIFF.
_SUBFILE_TYPE, _BITS, _PHOTOMETRIC, _SUB_IFDS, _SAMPLE_FORMAT, _DNG = 254, 258, 262, 330, 339, 50706
_WHITE_IS_ZERO = 0
# Kinds of file that store 16 bits of gray from 0 to 65535, or whose reader scales them so.
_FULL_RANGE = ("PNG", "PPM", "JPEG2000")

# What Pillow itself reads of the endings in docs/images.md; a plugin that one process has registered may be missing in
# another. Those without a plain beginning, which many files could be, come last.
_KINDS = ("JPEG", "PNG", "GIF", "BMP", "PPM", "WEBP", "TIFF", "JPEG2000", "AVIF", "ICO", "PCX", "DIB", "TGA")

RAW = "a camera's raw file, which is not decoded here: develop it, and save it as JPEG or TIFF"
# What is no image to Pillow, by its first bytes: where, what, and what to call it.
_OTHER_KINDS = (
    (4, (b"ftypheic", b"ftypheix", b"ftypheim", b"ftypheis", b"ftyphevc", b"ftypmif1", b"ftypmsf1"), "HEIC"),
    (0, (b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n"), "JPEG XL"),
    (4, (b"ftypavif", b"ftypavis"), "AVIF"),
    (0, (b"%PDF",), "PDF"),
    (4, (b"ftypmp4", b"ftypisom", b"ftypqt", b"ftypM4V"), "video"),
)
_RAW_STARTS = ((4, b"ftypcrx"), (0, b"IIRO"), (0, b"IIRS"), (0, b"MMOR"), (0, b"IIU\0"), (0, b"FUJIFILMCCD-RAW"))
_RAW_STARTS += ((0, b"FOVb"), (0, b"\0MRM"), (8, b"CR\x02"))


class BadImage(ValueError):
    """An image that cannot be decoded; its message says why, in a few words."""


class Gray(NamedTuple):
    """Of an image of more than eight bits a channel."""

    lowest: float  # of its pixels
    highest: float
    black: float  # the values that are shown black and white
    white: float
    fixed: bool = False  # whether these cannot be set: in colour, and with alpha, the upper 8 of 16 bits count

    @property
    def share(self) -> float:
        """How much of the range from black to white the pixels use.

        >>> Gray(0, 4095, 0, 65535).share < 0.07
        True
        """
        used = min(self.highest, self.white) - max(self.lowest, self.black)
        return max(used, 0.0) / (self.white - self.black)


class UnknownRange(BadImage):
    """A gray image of a type of numbers that does not say which are black and white."""

    def __init__(self, kind: str, lowest: float, highest: float):
        super().__init__(
            f"pixels are {kind} from {lowest:g} to {highest:g}, and what is black and white among them is not known: "
            f"set data.gray_range to train on them, or scale them to eight bits without a sign"
        )
        self.kind, self.lowest, self.highest = kind, lowest, highest

    def __reduce__(self) -> tuple[Any, ...]:
        """For another process, and for a copy."""
        return type(self), (self.kind, self.lowest, self.highest), self.__dict__


class Decoded(NamedTuple):
    """An image, upright."""

    image: Image.Image  # RGB
    height: int  # in pixels of the file
    width: int
    scale: int = 1  # pixels of the file to one of `image`, along a side
    before: tuple[int, int] = (0, 0)  # pixels of the file by which the first row and column of `image` begin outside
    gray: Gray | None = None  # where it has more than eight bits a channel
    damage: str = ""  # of its metadata, without which it was decoded


def decode(data: bytes, gray_range: tuple[float, ...] = (), scale: Callable[[int, int], int] | None = None) -> Decoded:
    """An encoded image as it is meant to be seen: upright, RGB, eight bits, transparent parts on white, the first frame
    of an animation, CMYK and gray converted. Metadata that are damaged are left out.

    Gray of 12 and 16 bits without a sign is scaled from its whole range. Other types of numbers (with a sign, of 32
    bits, floating-point) have no known range, and need `gray_range`. Colour of 16 bits, and gray of 16 bits with an
    alpha channel, are scaled from their whole range, whatever `gray_range` is.

    Args:
        data: the file.
        gray_range: values that are black and white in gray images of more than eight bits, or with a sign; () is their
            type's range.
        scale: (height, width) -> 1, 2, 4 or 8, by which a JPEG may be decoded smaller.

    Raises:
        BadImage: not an image, truncated, damaged, too large, or of an unknown range.
        OSError: there is not enough memory.
    """
    with _only_bad_images(data):
        try:
            return _decoded(_opened(data), gray_range, scale)
        except (BadImage, MemoryError, Image.DecompressionBombError):
            raise
        except Exception as error:  # as in `_only_bad_images`
            if (bare := metadata.without(data)) is None:
                raise
            try:
                found = _decoded(_opened(bare), gray_range, scale)
            except (BadImage, MemoryError):
                raise
            except Exception:  # so it was not the metadata
                raise error from None
            unread = isinstance(error, Image.UnidentifiedImageError)  # which says nothing of why
            return found._replace(damage="not as the format has it" if unread else _reason(error, data))


def smaller(times: float) -> int:
    """By how much to decode a JPEG smaller that is so many times larger than needed: for `scale` of `decode`.

    >>> [smaller(times) for times in (0.1, 1.9, 4, 100)]
    [1, 1, 4, 8]
    """
    return max(s for s in (1, 2, 4, 8) if s <= max(times, 1))


def identify(data: bytes) -> None:
    """Raise BadImage where a file is no image at all; the pixels of one that is may still be damaged."""
    with _only_bad_images(data):
        try:
            _opened(data)
        except Image.UnidentifiedImageError:
            if (bare := metadata.without(data)) is None:
                raise
            _opened(bare)


def has_more(data: bytes) -> bool:
    """Whether a file has pages or frames behind its first one, which alone is decoded. Smaller copies do not count: the
    second picture of a camera's JPEG, and pages that a TIFF calls so."""
    try:
        with without_warnings(), _opened(data) as image:
            if image.format != "TIFF":
                return image.format != "MPO" and bool(getattr(image, "is_animated", False))
            for page in range(1, image.n_frames):
                image.seek(page)
                if not image.tag_v2.get(_SUBFILE_TYPE, 0) & 1:
                    return True
            return False
    except Exception:  # as in `_only_bad_images`: the first one may be whole
        return False


def limits() -> tuple[int, int]:
    """Pillow's in this process, which a caller may have changed: pixels of an image at most, 0 for any number; and
    whether the rest of a file that is cut short is left empty."""
    pixels = Image.MAX_IMAGE_PIXELS or 0
    return int(pixels) if math.isfinite(pixels) else 0, int(bool(ImageFile.LOAD_TRUNCATED_IMAGES))


def set_limits(pixels: int, truncated: int) -> None:
    """Give this process the limits of another."""
    Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = pixels or None, bool(truncated)


def about() -> str:
    """What decides which files can be decoded: Pillow, the kinds of file that it knows here, and its limits."""
    kinds = sorted({"webp", "avif", "jpg_2000", "libtiff"} & set(features.get_supported()))
    return f"Pillow {PIL.__version__}, {', '.join(kinds)}, {limits()}"


def shown(image: Image.Image, gray_range: tuple[float, ...] = ()) -> Image.Image:
    """An image that Pillow has opened, as `decode` shows it; also raises what that does."""
    with _only_bad_images(b""):
        return _decoded(image, gray_range, None).image


def _opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data), formats=_KINDS)


@contextlib.contextmanager
def _only_bad_images(data: bytes) -> Iterator[None]:
    """Nothing else comes out of what is done inside, but for what is no fault of the file."""
    with without_warnings():
        try:
            yield
        except BadImage:
            raise
        except MemoryError as error:
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)) from error
        except Exception as error:  # Pillow's readers raise a type of their own for each kind of damage
            raise BadImage(_reason(error, data)) from error


def _decoded(image: Image.Image, gray_range: tuple[float, ...], scale: Callable[[int, int], int] | None) -> Decoded:
    if image.format == "EPS":  # which a caller has opened: a program, which Pillow would have another program run
        raise BadImage("not an image of a known format")
    tags = getattr(image, "tag_v2", {})
    if _DNG in tags or (tags.get(_SUBFILE_TYPE) == 1 and _SUB_IFDS in tags):  # what lies first is a small preview
        raise BadImage(RAW)
    orientation, damage, factor = 1, "", 1
    deep, transparent = _is_deep(image, tags), _transparent(image)  # which Pillow knows before it reads the pixels
    if scale and image.format in ("JPEG", "MPO"):
        # Only a JPEG tells its size, orientation and all, before it is decoded, and only it can be decoded smaller.
        # Of other kinds the size, and even the orientation, may be another one once the pixels are there: TIFF's are.
        orientation, damage = _orientation(image)
        stored = image.size
        factor = min(scale(*_upright(stored, orientation)), smaller(min(stored)))
        if factor > 1 and not image.draft(None, (image.width // factor, image.height // factor)):
            factor = 1
        image.load()
    else:
        image.load()
        orientation, damage = _orientation(image)
        stored = image.size
    height, width = _upright(stored, orientation)
    # The last pixel stored of a row or column may reach beyond the image; turned about, it is the first one.
    backwards = orientation in (3, 4, 7, 8), orientation in (2, 3, 6, 7)
    before = tuple(-side % factor if back else 0 for side, back in zip((height, width), backwards, strict=True))
    if transparent is not None:
        image = image.copy()
        image.info["transparency"] = transparent
    pixels, gray = _rgb(image, tags, gray_range)
    if deep and not gray:
        bands = np.array([band != "A" for band in image.getbands()])
        upper = np.atleast_2d(image.getextrema())[bands]  # of two bytes, of which Pillow keeps this one
        gray = Gray(256 * int(upper.min()), 256 * int(upper.max()) + 255, 0, 65535, fixed=True)
    if orientation in _TURNS:
        pixels = pixels.transpose(_TURNS[orientation])
    return Decoded(pixels, height, width, factor, before, gray, damage)


def _orientation(image: Image.Image) -> tuple[int, str]:
    """EXIF's orientation of an image, and what is wrong with its EXIF; 1 where that is the case."""
    try:
        found = image.getexif().get(ExifTags.Base.Orientation, 1)
    except MemoryError:
        raise
    except Exception as error:  # as above
        return 1, f"EXIF: {_reason(error, b'')}"
    return (found if found in _TURNS else 1), ""


def _upright(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    """Height and width."""
    width, height = size
    return (width, height) if orientation in (5, 6, 7, 8) else (height, width)


def _is_deep(image: Image.Image, tags: dict) -> bool:
    """Whether the file of an image, whose pixels are not read yet, has 16 bits a channel."""
    return ";16" in _stored(image) or _first(tags.get(_BITS, 8)) == 16


def _transparent(image: Image.Image) -> int | tuple[int, ...] | None:
    """The gray or colour that a PNG, whose pixels are not read yet, calls transparent, as the numbers of its pixels in
    eight bits. None where it has none, or the file says it in these numbers, as Pillow takes it to do."""
    told, stored = image.info.get("transparency"), _stored(image)
    if isinstance(told, tuple) and stored.startswith("RGB;16"):
        return tuple(value >> 8 for value in told)
    highest = {"L;2": 3, "L;4": 15}.get(stored)
    return (told & highest) * 255 // highest if isinstance(told, int) and highest else None


def _stored(image: Image.Image) -> str:
    """How a PNG, whose pixels are not read yet, stores them: RGB;16B, say."""
    return str(image.tile[0].args) if image.format == "PNG" and image.tile else ""


def _rgb(image: Image.Image, tags: dict, gray_range: tuple[float, ...]) -> tuple[Image.Image, Gray | None]:
    if image.mode.startswith("I") or image.mode == "F" or (image.mode == "L" and _has_sign(tags)):
        pixels, gray = _scaled(image, tags, gray_range)
        return Image.fromarray(pixels).convert("RGB"), gray
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB"), None
    return (image if image.mode == "RGB" else image.convert("RGB")), None


def _scaled(image: Image.Image, tags: dict, gray_range: tuple[float, ...]) -> tuple[np.ndarray, Gray]:
    """Gray of more than eight bits, or with a sign, as uint8 [H, W]."""
    values, bits = np.asarray(image), _first(tags.get(_BITS, 16))
    if tags and image.mode == "I" and not _has_sign(tags):
        values = values.view(np.uint32)  # Pillow reads them as numbers with a sign
    elif image.mode == "L":
        values = values.view(np.int8)  # and these without
    finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values
    transparent = image.info.get("transparency")  # one of the values of a PNG
    if transparent is not None:
        finite = finite[finite != transparent]
    lowest, highest = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    if gray_range:
        black, white = gray_range
    elif image.mode.startswith("I;16") and (not image.format or image.format in (*_FULL_RANGE, "TIFF")):
        black, white = 0, 4095 if tags and bits == 12 else 65535
    elif image.mode != "F" and image.format in _FULL_RANGE:
        black, white = 0, 65535
    else:
        kind = "floating-point numbers" if image.mode == "F" else "whole numbers"
        raise UnknownRange(kind, lowest, highest)
    if (black, white) == (0, 65535) and values.dtype == np.uint16:
        pixels = (values // 257).astype(np.uint8)
    else:
        pixels = np.empty(values.shape, np.uint8)
        for row in range(0, len(values), _ROWS):
            part = np.nan_to_num(values[row : row + _ROWS].astype(np.float64), nan=black, posinf=white, neginf=black)
            pixels[row : row + _ROWS] = ((part.clip(black, white) - black) * 255 / (white - black)).astype(np.uint8)
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:  # of eight bits and fewer, Pillow turns this about
        pixels = 255 - pixels
    if transparent is not None:
        pixels[values == transparent] = 255
    return pixels, Gray(lowest, highest, black, white)


def _has_sign(tags: dict) -> bool:
    return _first(tags.get(_SAMPLE_FORMAT, 1)) == 2


def _first(value: int | tuple[int, ...]) -> int:
    return value[0] if isinstance(value, tuple) and value else value


def _reason(error: Exception, data: bytes) -> str:
    if isinstance(error, Image.DecompressionBombError):
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0) // 10**6
        return f"more than {most} megapixels, the most that are decoded: make it smaller, or cut it into several"
    if any(data[place:].startswith(start) for place, start in _RAW_STARTS):
        return RAW
    if isinstance(error, Image.UnidentifiedImageError):
        for place, starts, kind in _OTHER_KINDS:
            if data[place : place + 16].startswith(starts):
                return f"{kind}, which is not decoded here: convert it to JPEG or PNG"
        return metadata.unread_tiff(data) or "not an image of a known format"
    return first_line(error)
