"""What a run's folder may hold beside its results: what pruning forgets, and a map of its features."""

from sdclr_jax import records
from sdclr_jax.errors import UserError
from sdclr_jax.records import Embedding, Summary, names
from sdclr_jax.reports.runs import Run, plain


def exemplars(run: Run) -> Summary | None:
    """What `sdclr exemplars` found of a run; None where it was not run. Raises UserError where that is damaged."""
    try:
        return records.read(Summary, run.path / names.SUMMARY, folder=run.path)
    except FileNotFoundError:
        return None


def way(found: Summary) -> tuple[str, float, str]:
    """Score, rate and what the whole network is held against: what was found in different ways is not comparable."""
    return plain(found.ranked_by.score), found.ranked_by.rate, plain(found.settings.against)


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
