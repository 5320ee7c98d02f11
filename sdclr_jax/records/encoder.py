"""encoder.json: what turns images into features, apart from the weights."""

import dataclasses
from typing import Annotated, ClassVar

from sdclr_jax.records.record import Object, Record, says

INTERPOLATIONS = ("bicubic", "bilinear")
Size = Annotated[int, lambda value: value >= 1]


@dataclasses.dataclass(frozen=True, kw_only=True)
class View(Record):
    """The size of an image as the encoder sees it."""

    height: Size = says("pixels")
    width: Size = says("pixels")
    channels: Size = says("1 of grey images, 3 of RGB")


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncoderRecord(Record):
    """encoder.json: with the weights in a checkpoint, all that it takes to turn images into features.

    Images become (image / 255 - mean) / std. Those of many sizes are resized so that the shorter side has `resize`
    pixels, and the middle `crop` pixels square are seen; where all images are one array, `resize` and `crop` are null,
    and each is seen whole.
    """

    FORMAT: ClassVar[int] = 1
    REMEDY: ClassVar[str] = "put it back from a copy, or delete it to have it derived from config.json"

    format: int = says("version of this file", default=FORMAT)
    model: Object = says("the encoder's name and its own fields, as config.model")
    view: View = says("the size of an image as the encoder sees it")
    mean: tuple[float, ...] = says("subtracted from images in 0..1, one number a channel")
    std: tuple[float, ...] = says("what images are then divided by, one number a channel")
    resize: Size | None = says("pixels of the shorter side after resizing; null where images are one array")
    crop: Size | None = says("side in pixels of the middle that is seen; null where images are one array")
    features: Size = says("width of the features")
    gray_range: tuple[float, ...] = says(
        "values that are black and white in gray images of more than eight bits; empty for the range of their type",
        default=(),
    )
    interpolation: str = says("of resizing: 'bilinear' or 'bicubic', both antialiased", default="bicubic")

    def check(self, where: str) -> None:
        if not isinstance(self.model.get("name"), str):
            raise ValueError("model.name is not what it should be")
        if self.gray_range and not (len(self.gray_range) == 2 and self.gray_range[0] < self.gray_range[1]):
            raise ValueError("gray_range is not what it should be")
        if self.interpolation not in INTERPOLATIONS:
            raise ValueError("interpolation is not what it should be")
        for name in ("mean", "std"):
            numbers = getattr(self, name)
            if len(numbers) not in (1, self.view.channels) or (name == "std" and min(numbers) <= 0):
                raise ValueError(f"{name} is not what it should be")
        if (self.resize is None) != (self.crop is None) or (self.crop or 0) > (self.resize or 0):
            raise ValueError("crop is not what it should be")
        if self.crop and (self.view.height, self.view.width, self.view.channels) != (self.crop, self.crop, 3):
            raise ValueError("view is not what it should be")
