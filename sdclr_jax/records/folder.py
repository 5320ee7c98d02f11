"""data.json, saved.json and embedding.json of a run's folder."""

import dataclasses
from typing import ClassVar

from sdclr_jax.records.record import Count, Object, Record, says


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainedOn(Record):
    """data.json: what a run is trained on. With other images a run does not go on, and an evaluation says so."""

    REMEDY: ClassVar[str] = "put it back from a copy, or delete it"

    images: Count = says("how many images are trained on")
    sha256: str = says("SHA-256 of their sorted ids, as in `lists` of results.json")
    # Not compared: an archive that is packed again has another hash, and the same images.
    provenance: Object | None = says(
        "what the data set was made from, as in results.json; null where that is not known", default=None, compare=False
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Saved(Record):
    """saved.json: whether the run has had a checkpoint. One that has, and has none now, does not start from nothing."""

    FORMAT: ClassVar[int] = 1
    REMEDY: ClassVar[str] = "put it back from a copy, or delete it"

    format: int = says("version of this file", default=FORMAT)
    step: Count = says("that of the newest checkpoint that is whole on the disk; 0 before the first")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Embedding(Record):
    """embedding.json: a map of the test images' features, to look at."""

    FORMAT: ClassVar[int] = 1
    REMEDY: ClassVar[str] = "run `sdclr evaluate {folder}` again"

    format: int = says("version of this file", default=FORMAT)
    method: str = says("how the map is made: t-SNE")
    settings: Object = says("`of`: how many test images there are; perplexity, metric and seed of the map")
    images: Count = says("images on the map")
    points: tuple[tuple[float, ...], ...] = says("of each image: x, y, and its class's place in the class names")

    def check(self, where: str) -> None:
        if not self.points or not all(len(p) == 3 and isinstance(p[2], int) and p[2] >= 0 for p in self.points):
            raise ValueError("points is not what it should be")
        if self.images != len(self.points):
            raise ValueError("images is not what it should be")
        if not (isinstance(self.of, int) and not isinstance(self.of, bool) and self.of >= 0):
            raise ValueError("settings.of is not what it should be")

    @property
    def of(self) -> int:
        """Test images in all, of which those on the map are a random choice."""
        return self.settings.get("of", self.images)
