"""metrics.jsonl and warnings.jsonl: their fields and their lines."""

import pathlib
from collections.abc import Sequence
from typing import Any

from sdclr_jax.errors import UserError
from sdclr_jax.records import record

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
    "alignment_ratio": "that over the distance of two images: 1 where images are not told apart",
    "unreadable_images": "images that were replaced since the line before (decoded sets only)",
    "knn/GROUP": "every `evaluate.every` epochs: score of neighbours on validation images, 0 to 1, for all, many, "
    "medium, few, and their std; null for an empty group",
    "probe/GROUP": "the same of a light probe",
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


def lines(path: pathlib.Path, needed: Sequence[str]) -> list[dict[str, Any]]:
    """The objects in a file of one JSON object a line, less a last one that a crash has cut short; none without a file.

    Args:
        path: the file.
        needed: fields that each line has.

    Raises:
        UserError: the file cannot be read, or another line is damaged.
    """
    try:
        content = path.read_bytes().splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): make it readable") from error
    found = []
    for number, line in enumerate(content, start=1):
        try:
            found.append(_line(line, needed))
        except ValueError as error:
            if number < len(content):
                raise UserError(
                    f"line {number} of {path} is damaged ({error}): mend or delete that line, or put the file back"
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
