"""metrics.jsonl and warnings.jsonl: their fields and their lines."""

import pathlib
from collections.abc import Callable, Sequence
from typing import Any

from sdclr_jax import files
from sdclr_jax.errors import UserError
from sdclr_jax.records import record

DIVERGED = "diverged"  # cause of the warning that a run ended with, where its loss was no longer a number
_MOST = 2**32  # bytes of a file of lines: 3 million lines
# Of a line of metrics.jsonl, one every `log_every` steps and at every checkpoint; means are over the steps since the
# line before. Capitals stand for a name.
METRICS = {
    "step": "steps done",
    "epoch": "epochs done, a fraction",
    "loss": "mean",
    "grad_norm": "mean",
    "weight_norm": "mean, of the weights after the step",
    "learning_rate": "mean",
    "projection_std/BRANCH": "mean over dimensions of the standard deviation of unit-length projections: "
    "1 / sqrt(dimensions) where they are spread evenly, 0 where they have collapsed",
    "density/LAYER": "share of a layer's weights that the mask keeps (runs with a sparse branch)",
    "density/all": "the same of all layers",
    "projection_rank/BRANCH": "every `collapse_every` steps, on a batch: directions in use (RankMe, Garrido et al., "
    "ICML 2023)",
    "feature_rank/BRANCH": "the same of the features",
    "feature_std/BRANCH": "with them: spread of the features",
    "uniformity/BRANCH": "uniformity of the projections (Wang and Isola, ICML 2020)",
    "prototype_usage/BRANCH": "share of the prototypes that are the nearest of some image, weighted",
    "alignment": "squared distance of the two views of an image",
    "alignment_ratio": "that over the distance of two images: 1 where images are not distinguished",
    "unreadable_images": "images that were replaced since the line before (decoded sets only)",
    "knn/GROUP": "every `evaluate.every` epochs: score of neighbours on validation images, 0 to 1, for all, many, "
    "medium, few, and their std; null for an empty group",
    "probe/GROUP": "the same of a fast linear probe",
    "images_per_second": "rate since the line before; the first one counts compilation",
    "seconds": "training time in all",
    "data_wait_seconds": "time since the line before spent waiting for data",
    "evaluation_seconds": "time since the line before spent on knn and probe, which is not counted as training",
}
# Of a line of warnings.jsonl, one for each cause.
WARNINGS = {
    "step": "steps done",
    "epoch": "epochs done, a fraction",
    "cause": "a word for what was noticed",
    "message": "what it means and what to do, in a sentence",
}


def read_metrics(path: pathlib.Path, needed: Sequence[str] = ("step",)) -> list[dict[str, int | float | None]]:
    """The lines of a metrics.jsonl: in each, `step` is a whole number from 0, and every other field a finite number or
    null, which stands for what cannot be measured.

    Args:
        path: the file; none is as one without lines.
        needed: fields that each line has; they are no null.

    Raises:
        UserError: as `lines`.
    """

    def made(line: dict[str, Any]) -> dict[str, int | float | None]:
        for name, value in line.items():
            right = record.is_count(value) if name == "step" else record.is_number(value)
            if not (right or (value is None and name not in needed)):
                raise ValueError(f"{name[:100]} is no {'step' if name == 'step' else 'number'}")
        return line

    return lines(path, needed, made)


def read_warnings(path: pathlib.Path) -> list[dict[str, Any]]:
    """The lines of a warnings.jsonl, with what `WARNINGS` names; `cause` may be missing.

    Raises:
        UserError: as `lines`.
    """

    def made(line: dict[str, Any]) -> dict[str, Any]:
        kinds = {"step": record.is_count, "epoch": record.is_number, "message": _is_text, "cause": _is_text}
        for name, right in kinds.items():
            if name in line and not right(line[name]):
                raise ValueError(f"{name} is not what it should be")
        return line

    return lines(path, ("step", "epoch", "message"), made)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def lines(
    path: pathlib.Path,
    needed: Sequence[str] = (),
    made: Callable[[dict[str, Any]], dict[str, Any]] = lambda line: line,
) -> list[dict[str, Any]]:
    """The objects in a file of one JSON object a line; none without a file. A last line without an end is left out
    where it is not whole: a crash has cut it short, or it is being written.

    Args:
        path: the file.
        needed: fields that each line has.
        made: what is given of a line; raises ValueError where a field is not what it should be.

    Raises:
        UserError: the file cannot be read, or another line is damaged.
    """
    try:
        content = files.content(path, _MOST)
    except FileNotFoundError:
        return []
    found, separate = [], content.split(b"\n")
    for number, line in enumerate(separate, start=1):
        is_last = number == len(separate)
        if is_last and not line:
            break
        try:
            found.append(made(_line(line, needed)))
        except ValueError as error:
            if not is_last:
                why = str(error)[:200]
                raise UserError(
                    f"line {number} of {path} is damaged ({why}): mend or delete that line, or put the file back"
                ) from error
    return found


def _line(line: bytes, needed: Sequence[str]) -> dict[str, Any]:
    try:
        found = record.parse(line.decode())
    except UnicodeDecodeError:
        raise ValueError("not text in UTF-8") from None
    if not isinstance(found, dict):
        raise ValueError("not an object of fields")
    for field in needed:
        if field not in found:
            raise ValueError(f"it lacks {field}")
    return found
