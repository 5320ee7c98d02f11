"""The lists of `sdclr photos` as one HTML page that needs nothing else: no network, no script. Beside it lie the tables
that it links to."""

from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup

from sdclr_jax.reports import gallery, templates
from sdclr_jax.reports.runs import plain


class About(NamedTuple):
    heading: str
    words: str  # what the list has, and what to do with it
    empty: str


ABOUT = {
    "duplicates": About(
        "Near duplicates",
        "The same picture saved again, resized, slightly cropped or mirrored. The framed one of each group has the "
        "most pixels; the others can go. Copies in train and test make scores too good; copies with two labels "
        "contradict each other.",
        "No picture is there twice.",
    ),
    "outliers": About(
        "Images that do not belong",
        "They are far from the other images in what the network sees, the farthest first. Rare images are, too: look "
        "before you remove one.",
        "No image stands apart from the others.",
    ),
    "labels": About(
        "Labels that look wrong",
        "A classifier that has not seen the image finds another class likelier than its label. The likeliest errors "
        "come first; the arrow points to the class that it suggests.",
        "No label looks wrong.",
    ),
    "rare": About(
        "Rare images",
        "There are few images like these, though they belong: if such images matter, collect more of them.",
        "",
    ),
    "not_learned": About(
        "Not learned yet",
        "Pruning the network changes what it sees in these images most, as of images that it has not learned well.",
        "",
    ),
    "subset": About(
        "A diverse subset",
        "Chosen so that each next image is the one farthest from those before it, without copies and images that do "
        "not belong. The first N of the table are the subset of N images: label these first.",
        "",
    ),
}


def render(
    title: str,
    *,
    images: int,
    totals: dict[str, int],
    lists: dict[str, list[dict[str, Any]]],
    place: dict[str, int],
    thumbnails: np.ndarray,
) -> str:
    """The page.

    Args:
        title: the folder's name.
        images: how many there are.
        totals: rows of each list, by its name.
        lists: of each list the rows that are shown.
        place: id of an image -> row of `thumbnails`.
        thumbnails: uint8 [M, side, side, 3].
    """
    environment = templates.environment()

    def tile(row: dict[str, Any]) -> dict[str, Any]:
        at = place[row["id"]]
        label = plain(row.get("class", ""))
        if "suggested" in row:
            label += f" → {plain(row['suggested'])}"
        return {
            "sheet": at // gallery.SHEET,
            "x": at % gallery.SHEET % gallery.COLUMNS,
            "y": at % gallery.SHEET // gallery.COLUMNS,
            "name": plain(row["id"].rpartition("/")[2]),
            "id": plain(row["id"]),
            "label": label,
            "split": row["split"],
            "keep": row.get("keep", False),
        }

    sections = []
    for name, about in ABOUT.items():
        if name not in lists:
            continue
        rows = lists[name]
        if name == "duplicates":
            groups = [list(members) for _, members in groupby(rows, key=lambda row: row["group"])]
            tiles = [
                {
                    "words": _words(members),
                    "likeness": f"{min(row['likeness'] for row in members):.1%}",
                    "tiles": [tile(row) for row in members],
                }
                for members in groups
            ]
        else:
            tiles = [tile(row) for row in rows]
        sections.append({"name": name, "about": about, "total": totals[name], "shown": len(rows), "tiles": tiles})
    return environment.get_template("photos.html.jinja").render(
        title=plain(title),
        images=images,
        sections=sections,
        columns=gallery.COLUMNS,
        pixelated=thumbnails.shape[1] <= gallery.LOSSLESS,
        sheets=[Markup(sheet) for sheet in gallery.sheets(thumbnails)],
    )


def _words(members: list[dict[str, Any]]) -> list[str]:
    """What is remarkable about a group of copies."""
    said = {
        "two labels": members[0]["in_several_classes"],
        "in " + " and ".join(sorted({row["split"] for row in members}, reverse=True)): members[0]["in_several_splits"],
        "mirrored": any(row["mirrored"] for row in members),
    }
    return [words for words, holds in said.items() if holds]
