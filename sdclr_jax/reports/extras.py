"""What a run's folder may hold besides its results: what pruning forgets, and a map of its features."""

from dataclasses import dataclass
from pathlib import Path

from sdclr_jax.errors import UserError
from sdclr_jax.reports import checks
from sdclr_jax.reports.runs import Run, plain

FORMAT = 1  # of both files
TOP = 0.1  # of the images: the forgotten set of which shares are shown


@dataclass(frozen=True)
class Checkpoint:
    """What pruning at the ranking rate does to one checkpoint."""

    step: int
    epoch: float
    shares: dict[str, dict[str, float]]  # group of classes -> share, expected, low, high; by what they are forgotten
    since_first: dict[str, float]  # jaccard of the masks, and what chance gives
    since_previous: dict[str, float] | None


@dataclass(frozen=True)
class Exemplars:
    """What `sdclr exemplars` found of a run."""

    score: str  # that ranks
    rate: float  # of the pruning
    confidence: float  # of the intervals `low` to `high` of what chance gives
    checkpoints: list[Checkpoint]
    gallery: Path | None


@dataclass(frozen=True)
class Embedding:
    """A map of features: a place and a class for each image."""

    method: str
    points: list[tuple[float, float, int]]
    of: int  # images, of which those on the map are a random choice


def exemplars(run: Run) -> Exemplars | None:
    """What DIR/exemplars holds; None where `sdclr exemplars` was not run. Raises UserError where it is damaged."""
    path = run.path / "exemplars" / "summary.json"
    if not path.is_file():
        return None
    try:
        summary = checks.read_json(path)
        _check_format(summary)
        checks.check(summary, ("ranked_by", "score"), checks.is_text)
        checks.check(summary, ("ranked_by", "rate"), checks.is_number)
        checks.check(summary, ("confidence",), checks.is_share)
        checks.check(summary, ("checkpoints",), checks.list_of(checks.is_mapping))
        score, rate = summary["ranked_by"]["score"], summary["ranked_by"]["rate"]
        checkpoints = [_checkpoint(found, score, rate) for found in summary["checkpoints"]]
    except ValueError as error:
        raise UserError(f"{path} cannot be used ({error}): run `sdclr exemplars {run.path}` again") from error
    gallery = path.with_name("gallery.html")
    return Exemplars(plain(score), rate, summary["confidence"], checkpoints, gallery if gallery.is_file() else None)


def embedding(run: Run) -> Embedding | None:
    """The map of DIR/embedding.json; None where there is none. Raises UserError where it is damaged."""
    path = run.path / "embedding.json"
    if not path.is_file():
        return None
    classes = len(run.results["data"]["class_names"])

    def is_point(value) -> bool:
        return (
            isinstance(value, list)
            and len(value) == 3
            and all(map(checks.is_number, value[:2]))
            and checks.is_count(value[2])
            and value[2] < classes
        )

    try:
        found = checks.read_json(path)
        _check_format(found)
        checks.check(found, ("method",), checks.is_text)
        checks.check(found, ("points",), checks.list_of(is_point))
        checks.check(found, ("images",), len(found["points"]).__eq__)
        checks.check(found, ("settings",), checks.is_mapping)
        of = found["settings"].get("of", found["images"])
        checks.check({"settings": {"of": of}}, ("settings", "of"), checks.is_count)
    except ValueError as error:
        raise UserError(f"{path} cannot be used ({error}): run `sdclr evaluate {run.path}` again") from error
    return Embedding(plain(found["method"]), [tuple(point) for point in found["points"]], of)


def _check_format(record) -> None:
    checks.check(record, ("format",), checks.is_integer)
    if record["format"] != FORMAT:
        raise ValueError(f"format {record['format']} is not the format {FORMAT} that this version reads")


def _checkpoint(found: dict, score: str, rate: float) -> Checkpoint:
    checks.check(found, ("step",), checks.is_count)
    checks.check(found, ("epoch",), checks.is_number)
    checks.check(found, ("rates",), checks.list_of(checks.is_mapping))
    at = next((one for one in found["rates"] if one.get("rate") == rate), None)
    checks.check(at, ("scores", score, "shares"), checks.list_of(checks.is_mapping))
    part = next((one for one in at["scores"][score]["shares"] if one.get("fraction") == TOP), None)
    checks.check(part, ("groups",), checks.is_mapping)
    for name in part["groups"]:
        for field in ("share", "expected", "low", "high"):
            checks.check(part, ("groups", name, field), checks.is_share)
    masks = []
    for since in ("since_first", "since_previous"):
        checks.check(at, ("mask", since), lambda value, since=since: value or since == "since_previous")
        masks.append(at["mask"][since])
        for field in ("jaccard", "chance") if masks[-1] is not None else ():
            checks.check(at, ("mask", since, field), checks.is_share)
    return Checkpoint(found["step"], found["epoch"], part["groups"], *masks)
