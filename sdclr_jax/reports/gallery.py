"""A run's images, or the most remarkable of them, as one HTML page that needs nothing else: no network, no other file.

Its only script is gallery.js, and the page's security policy lets no other one run. Thumbnails lie in sheets of many,
so that ten thousand of them are a few images to decode.
"""

import base64
import hashlib
import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from markupsafe import Markup
from PIL import Image

from sdclr_jax.records import Summary
from sdclr_jax.records.exemplars import Interval
from sdclr_jax.reports import templates
from sdclr_jax.reports.runs import plain
from sdclr_jax.reports.svg import INK, colour, dash, drawing, finish, swatch

COLUMNS = 16  # thumbnails in a row of a sheet
SHEET = COLUMNS * COLUMNS  # thumbnails a sheet
LOSSLESS = 16  # pixels of a thumbnail's side up to which every one of them is kept
GROUPS = {"many": "many", "medium": "medium", "few": "few", "rarer_half": "rarer half of the classes"}
OTHERS = {  # columns that are of no rate, and what the images are for which they are highest
    "neighbour_distance": ("neighbour distance", "the farthest from the images nearest to them"),
    "label_disagreement": ("label disagreement", "those whose nearest images have other labels"),
    "loss": ("loss", "those of the highest loss"),
}
AGAINST = {
    "recalibrated": "Both networks have batch norm statistics measured again on the same training views.",
    "pruned": "The pruned network keeps the batch norm statistics of the whole one, which fit it badly.",
    "sparse": "The pruned network is the sparse branch that it was trained with.",
}


def chosen(order: np.ndarray, others: Sequence[np.ndarray], count: int) -> np.ndarray:
    """The images that get a tile where there is no room for all: of the most forgotten, the least forgotten, and the
    highest by each other score, the next one in turn.

    Args:
        order: int [N], the most forgotten image first.
        others: scores [N].
        count: of images wanted.

    Returns:
        int [min(N, count)], indices of images, the most forgotten first.
    """
    if len(order) <= count:
        return order
    rankings = [order, order[::-1], *(np.argsort(-np.asarray(scores), kind="stable") for scores in others)]
    in_turn = np.stack(rankings, axis=1)[:count].ravel().tolist()
    wanted = list(dict.fromkeys(in_turn))[:count]
    return order[np.isin(order, wanted)]


def render(summary: Summary, images: list[dict], neighbours: list[list[int]], thumbnails: np.ndarray) -> str:
    """The page of a run's last checkpoint.

    Args:
        summary: what is known of the run.
        images: rows of exemplars.csv as dicts. The first of them get a tile, the others are their neighbours only.
        neighbours: of each image with a tile, indices into `images`.
        thumbnails: uint8 [len(images), side, side, 3].
    """
    of_rates = summary.last.rates[0].scores
    names = [name for name in images[0] if name in OTHERS or name.rpartition("_")[0] in of_rates]
    ranked, data = summary.ranked_by, summary.data
    shares = summary.last.at(ranked.rate).scores[ranked.score].shares
    groups = {name: words for name, words in GROUPS.items() if name in shares[0].groups}
    classes = [plain(name) for name in data.class_names]
    script = (Path(__file__).parent / "gallery.js").read_text(encoding="utf-8")
    environment = templates.environment()
    environment.filters |= {"percent": percent, "swatch": lambda index: Markup(swatch(index))}
    figure, legend = _figure(summary)
    return environment.get_template("gallery.html.jinja").render(
        title=plain(f"What {summary.run.method} (seed {summary.run.seed}) forgets of {data.name}"),
        ranked=ranked,
        percent=f"{100 * ranked.rate:g}",
        total=data.images,
        against=AGAINST[summary.settings.against],
        settings=f"Mean over the plain image and {2 * summary.settings.pairs_of_views} augmented views of it.",
        sentences=sentences(summary),
        shares=shares if groups else [],
        groups=groups,
        confidence=summary.confidence,
        figure=Markup(figure),
        legend=legend,
        classes=classes,
        group_names=[name for name in ("many", "medium", "few") if name in data.class_groups],
        scores=[_title(name) for name in names],
        ranking=names.index(f"{ranked.score}_{ranked.rate:g}"),
        shown_words=_shown(len(neighbours), data.images, [name for name in names if name in OTHERS]),
        columns=COLUMNS,
        pixelated=thumbnails.shape[1] <= LOSSLESS,
        sheets=[Markup(sheet) for sheet in sheets(thumbnails)],
        data=_json(
            {
                "total": data.images,
                "shown": len(neighbours),
                "scores": [_title(name) for name in names],
                "classes": classes,
                "groups": data.class_groups,
                "columns": COLUMNS,
                "sheet": SHEET,
                "images": [
                    [plain(image["id"]), plain(image["path"]), image.get("label"), image["rank"]]
                    + [[float(f"{image[name]:.4g}") for name in names], near]
                    for image, near in zip(images, neighbours + [[]] * (len(images) - len(neighbours)), strict=True)
                ],
            }
        ),
        script=Markup(script),
        script_hash=f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}",
    )


def sentences(summary: Summary) -> list[str]:
    """What a run's last checkpoint says of rare classes: one sentence for each way of measuring, at the ranking rate.

    Nothing without classes.
    """
    rate = summary.last.at(summary.ranked_by.rate)
    found = []
    for name in ("features", "projections"):
        part = rate.scores[name].shares[-1]
        if share := part.groups.get("rarer_half"):
            by_class = share.by_class
            found.append(
                f"Of the {part.images} images whose {name} change most at step {summary.last.step}, "
                f"{percent(share.share)} are of the rarer half of the classes, which holds "
                f"{percent(share.expected)} of all images; images drawn at random give {_chance(share)}. On average "
                f"{percent(by_class.share)} of such a class are among them; as many classes drawn at random give "
                f"{_chance(by_class)}."
            )
    return found


def _chance(share: Interval) -> str:
    inside = share.low <= share.share <= share.high
    return f"{percent(share.low)} to {percent(share.high)}: {'within' if inside else 'beyond'} chance"


def percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _title(name: str) -> str:
    """features_0.9 -> features, rate 0.9"""
    if name in OTHERS:
        return OTHERS[name][0]
    score, _, rate = name.rpartition("_")
    return f"{score.replace('_', ' ')}, rate {rate}"


def _shown(shown: int, total: int, others: list[str]) -> str:
    if shown == total:
        return "All images are here."
    kinds = ["the most and the least forgotten", *(OTHERS[name][1] for name in others)]
    return f"Here are {shown} of {total} images: {', '.join(kinds[:-1])} and {kinds[-1]}, as many of each."


def _json(value: object) -> Markup:
    """JSON that may stand in a script element: nothing in it can end that."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def sheets(thumbnails: np.ndarray) -> list[str]:
    """The thumbnails in rows of `COLUMNS`, `SHEET` to an image, as WebP in base64."""
    side, made = thumbnails.shape[1], []
    for start in range(0, len(thumbnails), SHEET):
        part = thumbnails[start : start + SHEET]
        rows = -(-len(part) // COLUMNS)
        whole = np.zeros((rows * COLUMNS, side, side, 3), np.uint8)
        whole[: len(part)] = part
        sheet = whole.reshape(rows, COLUMNS, side, side, 3).swapaxes(1, 2).reshape(rows * side, COLUMNS * side, 3)
        file = io.BytesIO()
        Image.fromarray(sheet).save(file, "webp", lossless=side <= LOSSLESS, quality=80)
        made.append(base64.b64encode(file.getvalue()).decode())
    return made


def _figure(summary: Summary) -> tuple[str, list[tuple[int, str]]]:
    """The rarer half's share of the most forgotten tenth by epoch, and the legend; empty for a single checkpoint."""
    checkpoints = summary.checkpoints
    found = {
        name: [
            point.at(summary.ranked_by.rate).scores[name].shares[-1].groups.get("rarer_half") for point in checkpoints
        ]
        for name in ("features", "projections")
    }
    if len(checkpoints) < 2 or None in found["features"]:
        return "", []
    epochs = [point.epoch for point in checkpoints]
    with drawing(height=280) as axes:
        null = found["features"]
        axes.fill_between(
            epochs, *([100 * getattr(p, key) for p in null] for key in ("low", "high")), color=INK, alpha=0.12, lw=0
        )
        axes.plot(epochs, [100 * p.expected for p in null], color=INK, linewidth=0.8)
        for i, points in enumerate(found.values()):
            look = {"color": colour(i), "linestyle": dash(i), "marker": "os"[i], "markersize": 5}
            axes.plot(epochs, [100 * p.share for p in points], **look, linewidth=2)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("epoch")
        axes.set_ylabel("rarer half, %")
        label = "Line chart: share of the rarer half of the classes among the most forgotten tenth, by epoch."
        return finish(axes, "over-training", label), list(enumerate(found))
