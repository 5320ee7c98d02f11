"""exemplars/summary.json: what `sdclr exemplars` found."""

import dataclasses
from typing import Any, ClassVar

from sdclr_jax.records import config
from sdclr_jax.records.record import Count, Record, Share, says


@dataclasses.dataclass(frozen=True, kw_only=True)
class Interval(Record):
    """A share, and what it would be if scores had nothing to do with groups."""

    share: Share = says("share that is found")
    expected: Share = says("share that chance gives on average")
    low: Share = says("lower border of the central interval that chance gives, at `confidence`")
    high: Share = says("upper border")


@dataclasses.dataclass(frozen=True, kw_only=True)
class GroupShare(Interval):
    """A group's share of the most forgotten images."""

    by_class: Interval = says("of each class, the share of its images that is forgotten: the mean over the group")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Forgotten(Record):
    """Who the most forgotten images are."""

    fraction: Share = says("of all images, those with the highest scores")
    images: Count = says("how many these are")
    groups: dict[str, GroupShare] = says("share of many, medium, few and of the rarer half; empty without classes")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Overlap(Record):
    """How far two sets of most forgotten images are one set."""

    fraction: Share = says("of all images, those with the highest scores")
    images: Count = says("in each of the two sets")
    shared: float = says("in both; a fraction only where scores tie")
    jaccard: Share = says("shared over those in one or the other")
    expected: Share = says("Jaccard of two random sets")
    low: Share = says("lower border of its central interval, at `confidence`")
    high: Share = says("upper border")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Agreement(Record):
    """How far two scorings of the same images agree."""

    rank_correlation: float | None = says("Spearman's; null where a scoring is constant")
    sets: tuple[Overlap, ...] = says("overlap of the most forgotten images, for each fraction")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScoreSummary(Record):
    """One score at one rate."""

    mean: float = says("over all images")
    shares: tuple[Forgotten, ...] = says("who the most forgotten images are, for each fraction")
    since_previous: Agreement | None = says("agreement with the checkpoint before; null for the first")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Drift(Record):
    """How far two masks keep the same weights."""

    jaccard: Share = says("weights that both keep over those that either keeps")
    chance: Share = says("the same for masks of the same densities by layer, placed at random")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mask(Record):
    """The mask at one rate."""

    density: dict[str, Share] = says("share of each layer's weights that it keeps")
    since_first: Drift = says("against the first checkpoint")
    since_previous: Drift | None = says("against the checkpoint before; null for the first")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rate(Record):
    """A checkpoint at one rate."""

    rate: Share = says("share of the weights cut")
    scores: dict[str, ScoreSummary] = says("by the score's name")
    mask: Mask = says("the mask at this rate")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checkpoint(Record):
    """What pruning does to one checkpoint."""

    step: Count = says("steps trained for")
    epoch: float = says("the same in epochs")
    rates: tuple[Rate, ...] = says("for each rate of the settings")

    def at(self, rate: float) -> Rate:
        """What was found at a rate."""
        return next(found for found in self.rates if found.rate == rate)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SummaryRun(Record):
    method: str = says("method of the run")
    seed: int = says("seed of the run")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SummaryData(Record):
    name: str = says("data set")
    subset: str = says("subset that the run trained on")
    split: int = says("number of the published lists, data.split; 0 for none")
    seed: int = says("seed of what was drawn, data.seed")
    images: Count = says("how many images that subset has")
    list: str = says("SHA-256 of their sorted ids")
    class_names: tuple[str, ...] = says("name of each class; empty where an image has not one class")
    class_groups: tuple[str, ...] = says("many, medium or few, for each class")

    @classmethod
    def read_fields(cls, value: dict[str, Any], where: str) -> dict[str, Any]:
        return super().read_fields(config.with_seed(value), where)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SummarySettings(Record):
    against: str = says("what the whole network is held against: recalibrated, pruned or sparse")
    rates: tuple[Share, ...] = says("shares of the weights cut")
    pairs_of_views: Count = says("pairs of augmented views of each image, beside the plain one")
    batch_size: Count = says("images in a batch")
    calibration_batches: Count = says("batches whose statistics are averaged for batch norm; 0 for none")
    nearest_images: Count | None = says("images that neighbour_distance and label_disagreement are over", default=None)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RankedBy(Record):
    score: str = says("score that the images are ranked by")
    rate: Share = says("rate that they are ranked at")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Summary(Record):
    """exemplars/summary.json."""

    FORMAT: ClassVar[int] = 1
    REMEDY: ClassVar[str] = "run `sdclr exemplars {folder}` again"

    format: int = says("version of this file", default=FORMAT)
    run: SummaryRun = says("the run")
    data: SummaryData = says("the images that it was trained on")
    settings: SummarySettings = says("how pruning was measured")
    confidence: Share = says("of every interval")
    ranked_by: RankedBy = says("by what the images are ranked, at the last checkpoint")
    checkpoints: tuple[Checkpoint, ...] = says("for each checkpoint that was kept")

    def check(self, where: str) -> None:
        if not self.checkpoints:
            raise ValueError("checkpoints is not what it should be")
        for number, checkpoint in enumerate(self.checkpoints):
            ranked = [r for r in checkpoint.rates if r.rate == self.ranked_by.rate and self.ranked_by.score in r.scores]
            if not ranked:
                raise ValueError(f"checkpoints.{number}.rates is not what it should be")

    @property
    def last(self) -> Checkpoint:
        """The checkpoint that the images are ranked at."""
        return self.checkpoints[-1]
