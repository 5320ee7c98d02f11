"""Maps of features as small SVG elements: one path a class, as thousands of separate marks would make a page heavy."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape

from sdclr_jax.records import GROUPS, Embedding
from sdclr_jax.reports.runs import Run
from sdclr_jax.reports.svg import COLOURS, SVG, WIDTH

MARGIN = 14  # units of the picture
SHAPES = ("h0", "m-2.2 0h4.4m-2.2-2.2v4.4", "m-1.8-1.8l3.6 3.6m0-3.6l-3.6 3.6")  # around a place: dot, plus, cross
STROKES = (4.2, 1.4, 1.4)
NAMED = COLOURS * len(SHAPES)  # classes that colour and shape can distinguish
SHADES = 7  # of frequency, where there are more classes
GROUP_COLOURS = {"many": 0, "medium": 2, "few": 1}


@dataclass(frozen=True)
class Mark:
    """How a part of the images is drawn, and what the legend says of it."""

    text: str
    colour: str  # CSS
    shape: int
    classes: tuple[int, ...]

    @property
    def style(self) -> str:
        return f"fill: none; stroke: {self.colour}; stroke-width: {STROKES[self.shape]}; stroke-linecap: round"

    @property
    def swatch(self) -> Markup:
        path = f'<path d="M5 5{SHAPES[self.shape]}" style="{self.style}; stroke-width: {1.6 * STROKES[self.shape]}"/>'
        return Markup(f'<svg class="swatch dot" viewBox="0 0 10 10" aria-hidden="true">{path}</svg>')


def by_class(run: Run) -> list[Mark]:
    """A mark for each class, the most frequent first; where there are more classes than that, a shade for each part."""
    data = run.results.data
    order = np.argsort(-np.array(data.train_counts), kind="stable").tolist()
    if len(order) <= NAMED:
        return [
            Mark(data.class_names[c], f"var(--g{rank % COLOURS})", rank // COLOURS, (c,))
            for rank, c in enumerate(order)
        ]
    parts = [part.tolist() for part in np.array_split(order, SHADES)]
    marks = []
    for place, part in enumerate(parts):
        share = round(100 * place / (SHADES - 1))
        counts = [data.train_counts[c] for c in (part[0], part[-1])]
        marks.append(
            Mark(f"{counts[0]} to {counts[1]}", f"color-mix(in oklab, var(--g1) {share}%, var(--g0))", 0, tuple(part))
        )
    return marks


def by_group(run: Run) -> list[Mark]:
    """A mark for the classes that are many, medium and few."""
    groups = run.results.data.groups
    return [
        Mark(name, f"var(--g{GROUP_COLOURS[name]})", 0, tuple(c for c, group in enumerate(groups) if group == name))
        for name in GROUPS
        if name in groups
    ]


def draw(embedding: Embedding, marks: list[Mark], label: str, named: bool = False) -> Markup:
    """The map; with `named`, each mark's text stands where the middle of its images is."""
    classes = np.array([point[2] for point in embedding.points])
    places, height = _places(np.array([point[:2] for point in embedding.points], float))
    parts = [places[np.isin(classes, mark.classes)] for mark in marks]
    body = [
        Markup('<path d="{}" style="{}; opacity: 0.75"/>').format(_path(part, SHAPES[mark.shape]), mark.style)
        for mark, part in zip(marks, parts, strict=True)
        if len(part)
    ]
    if named:
        texts = [(mark.text, np.median(part, axis=0)) for mark, part in zip(marks, parts, strict=True) if len(part)]
        body += _texts(texts, height)
    return Markup('<svg xmlns="{}" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        SVG, WIDTH, height, label, Markup("").join(body)
    )


def _places(positions: np.ndarray) -> tuple[np.ndarray, int]:
    """Positions [N, 2] in the picture, one scale for both axes, and the picture's height."""
    low, spread = positions.min(axis=0), np.maximum(np.ptp(positions, axis=0), 1e-9)
    # A map that is all of a line or a point still has a picture.
    scale = (WIDTH - 2 * MARGIN) / max(spread[0], spread[1] / 1.2)
    height = max(round(spread[1] * scale), WIDTH // 4) + 2 * MARGIN
    middle = np.array([WIDTH, height]) / 2
    return middle + (positions - low - spread / 2) * scale * (1, -1), height


def _path(places: np.ndarray, shape: str) -> str:
    return "".join(f"M{x:.1f} {y:.1f}{shape}" for x, y in places)


def _texts(texts: list[tuple[str, np.ndarray]], height: int) -> Iterator[Markup]:
    """Texts at places, from above: one that would cover another moves down, if there is room."""
    taken: list[tuple[float, float, float]] = []
    for text, (x, y) in sorted(texts, key=lambda found: found[1][1]):
        text = text if len(text) <= 16 else text[:15] + "…"
        half = 4.5 * len(text)
        x = min(max(x, half), WIDTH - half)
        while any(abs(x - other) < half + wide and abs(y - line) < 14 for other, line, wide in taken):
            y += 2
        taken.append((x, y, half))
        yield Markup(
            '<text x="{:.1f}" y="{:.1f}" style="font-size: 12.5px; font-weight: 600; text-anchor: middle; '
            "dominant-baseline: middle; fill: var(--ink); stroke: var(--paper); stroke-width: 3.5px; "
            'paint-order: stroke">{}</text>'
        ).format(x, min(max(y, 10), height - 10), escape(text))
