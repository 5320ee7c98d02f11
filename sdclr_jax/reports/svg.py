"""Matplotlib figures as inline SVG that takes its colours and font from the page, so one serves light and dark.

Figures are drawn in stand-in colours, which then become CSS variables. Text stays text.
"""

import io
import re
import warnings
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

WIDTH = 430  # units of the picture: about the pixels of a phone, so that 12 units of text stay readable there
COLOURS = 7  # of groups, before they repeat
MARKERS = "os^Dv"
DASHES = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)))
INK, GRID = "#010101", "#010102"
STAND_INS = {INK: "var(--ink)", GRID: "var(--grid)"} | {f"#0102{i:02}": f"var(--g{i})" for i in range(COLOURS)}

STYLE = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a class may well be called $x$
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 12.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.labelsize": "medium",
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "grid.color": GRID,
    "grid.linewidth": 1,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
}
SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"


def colour(index: int) -> str:
    return f"#0102{index % COLOURS:02}"


def dash(index: int):
    return DASHES[index % len(DASHES)]


def draw_line(
    axes: Axes, index: int, x: np.ndarray, mean: np.ndarray, sd: np.ndarray | None, width: float, marker: float = 0
) -> None:
    """The line of a group, with a band of `sd` either way where there is one and markers of a size above 0."""
    look = {"color": colour(index)}
    if sd is not None:
        axes.fill_between(x, mean - sd, mean + sd, alpha=0.18, linewidth=0, **look)
    shape = MARKERS[index % len(MARKERS)] if marker else None
    axes.plot(x, mean, linewidth=width, linestyle=dash(index), marker=shape, markersize=marker, **look)


@contextmanager
def drawing(height: float, rows: int = 1) -> Iterator[Any]:
    """Axes in a picture of the given height, in the report's style whatever the user's own settings are; with several
    `rows` an array of axes, one below the other over one x axis."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(STYLE)
        figure = Figure(figsize=(WIDTH / 72, height / 72), layout="constrained")
        FigureCanvasSVG(figure)
        yield figure.subplots(rows, sharex=True)


def swatch(index: int) -> str:
    """A piece of the group's line, for legends beside the picture: those wrap on narrow screens."""
    style = dash(index)
    dashes = "" if style == "-" else f' stroke-dasharray="{" ".join(f"{2.2 * on:g}" for on in style[1])}"'
    return (
        f'<svg class="swatch" viewBox="0 0 30 10" aria-hidden="true"><line x1="0" x2="30" y1="5" y2="5" '
        f'stroke-width="4"{dashes} style="stroke: {STAND_INS[colour(index)]}"/></svg>'
    )


def finish(axes: Axes, name: str, label: str) -> str:
    """The drawing as an element for the page: no metadata, ids of its own, the page's colours and font."""
    mpl.rcParams["svg.hashsalt"] = name
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # the page's font may have it
        axes.figure.savefig(file, format="svg", metadata={"Date": None})
    root = ElementTree.fromstring(file.getvalue())
    for child in [child for child in root if child.tag == f"{{{SVG}}}metadata"]:
        root.remove(child)
    for definitions in list(root.iter(f"{{{SVG}}}defs")):
        for sheet in definitions.findall(f"{{{SVG}}}style"):
            definitions.remove(sheet)
    used = set(re.findall(r"#([\w-]+)", " ".join(v for e in root.iter() for k, v in e.items() if k != "style")))
    for element in root.iter():
        element.tail = None  # indentation
        for key, value in element.items():
            if key == "id":
                del element.attrib["id"]
                if value in used:
                    element.set("id", f"{name}-{value}")
            elif key in ("clip-path", f"{{{XLINK}}}href"):
                element.set(key, value.replace("#", f"#{name}-"))
            else:
                element.set(key, _themed(value))
    for size in ("width", "height", "version"):
        del root.attrib[size]
    root.attrib |= {"role": "img", "aria-label": label}
    ElementTree.register_namespace("", SVG)
    ElementTree.register_namespace("xlink", XLINK)
    return ElementTree.tostring(root, encoding="unicode")


def _themed(value: str) -> str:
    """An attribute with the page's colours and font, and coordinates no finer than can be seen."""
    value = re.sub(r"font: ([\d.]+px)[^;]*", r"font-size: \1", re.sub(r"font-family:[^;]*;?", "", value))
    value = re.sub(r"(\.\d\d)\d+", r"\1", value)
    return re.sub(r"#[0-9a-f]{6}\b", lambda match: STAND_INS.get(match[0], match[0]), value)
