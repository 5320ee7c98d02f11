"""What a run's folder may hold beside its results: what pruning forgets, and a map of its features."""

from dataclasses import dataclass
from pathlib import Path

from sdclr_jax import records
from sdclr_jax.errors import UserError
from sdclr_jax.records import Embedding, Summary, names
from sdclr_jax.records.exemplars import Drift, GroupShare
from sdclr_jax.reports.runs import Run, plain

TOP = 0.1  # of the images: the forgotten set of which shares are shown


@dataclass(frozen=True)
class Checkpoint:
    """What pruning at the ranking rate does to one checkpoint."""

    step: int
    epoch: float
    shares: dict[str, GroupShare]  # by what classes are forgotten
    since_first: Drift
    since_previous: Drift | None


@dataclass(frozen=True)
class Exemplars:
    """What `sdclr exemplars` found of a run."""

    score: str  # that ranks
    rate: float  # of the pruning
    against: str  # what the whole network is held against
    confidence: float  # of the intervals `low` to `high` of what chance gives
    checkpoints: list[Checkpoint]
    gallery: Path | None

    @property
    def way(self) -> tuple[str, float, str]:
        """How it was measured: what was found in different ways is not comparable."""
        return self.score, self.rate, self.against


def exemplars(run: Run) -> Exemplars | None:
    """What DIR/exemplars holds; None where `sdclr exemplars` was not run. Raises UserError where it is damaged."""
    try:
        summary = records.read(Summary, run.path / names.SUMMARY, folder=run.path)
    except FileNotFoundError:
        return None
    score, rate = summary.ranked_by.score, summary.ranked_by.rate
    checkpoints = []
    for checkpoint in summary.checkpoints:
        at = checkpoint.at(rate)
        shares = next((part.groups for part in at.scores[score].shares if part.fraction == TOP), {})
        found = shares, at.mask.since_first, at.mask.since_previous
        checkpoints.append(Checkpoint(checkpoint.step, checkpoint.epoch, *found))
    gallery = run.path / names.GALLERY
    measured = plain(score), rate, plain(summary.settings.against), summary.confidence
    return Exemplars(*measured, checkpoints, gallery if gallery.is_file() else None)


def embedding(run: Run) -> Embedding | None:
    """The map of DIR/embedding.json; None where there is none. Raises UserError where it is damaged."""
    path = run.path / names.EMBEDDING
    try:
        found = records.read(Embedding, path)
    except FileNotFoundError:
        return None
    if not all(point[2] < len(run.results.data.class_names) for point in found.points):
        remedy = Embedding.REMEDY.format(folder=run.path)
        raise UserError(f"{path} cannot be used (points has a class that is not there): {remedy}")
    return found
