"""The report as one HTML page that needs nothing else: no network, no script, no other file."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from markupsafe import Markup

from sdclr_jax import files, records
from sdclr_jax.records import SUMMARY, names
from sdclr_jax.reports import extras, figures, forgetting, maps, tables, templates, words
from sdclr_jax.reports.gallery import AGAINST
from sdclr_jax.reports.groups import MANY, Group, by_data, group, shown
from sdclr_jax.reports.runs import Run, plain
from sdclr_jax.reports.svg import swatch

RULES = {  # by which classes are many, medium or few
    "thirds": "thirds of the classes by number of training images",
    "counts": "more than 100, 20 to 100, and fewer than 20 training images",
}


@dataclass(frozen=True)
class Figure:
    """A picture, what is said under it, and its legend: pieces of SVG with what they stand for."""

    heading: str
    svg: Markup
    caption: str
    legend: list[tuple[Markup, str]]
    is_open: bool = True  # the others unfold on a click


@dataclass(frozen=True)
class Section:
    """Figures under one heading, and links to pages of runs."""

    heading: str
    figures: list[Figure]
    links: list[tuple[str, str]]  # text and address


@dataclass(frozen=True)
class Fact:
    """A field of the runs: its one value, or each value with the runs that have it."""

    name: str
    values: dict[str, list[str]]


def render(runs: list[Run], note: str = "", folder: Path | None = None) -> str:
    """The page of these runs. The same runs and note give the same text, byte for byte.

    Args:
        runs: of any number of methods and data sets.
        note: paragraphs to the reader.
        folder: where the page will lie, for links from there to the runs' own pages; without it there are none.

    Raises:
        UserError: what a run's folder holds beside its results is damaged.
    """
    groups = group(runs)
    pictured = [member for part in by_data(groups) for member in part[:MANY]]
    methods = words.listed(list(dict.fromkeys(run.method for member in groups for run in member.runs)))
    data = words.listed(list(dict.fromkeys(member.data_name for member in groups)))
    levels = tables.compare(runs)
    environment = templates.environment()
    environment.filters |= {
        "swatch": lambda index: Markup(swatch(index)),
        "protocol": tables.title,
        "unbroken": _unbroken,
    }
    return environment.get_template("page.html.jinja").render(
        title=f"{methods} on {data}",
        size=f"{_count(len(runs), 'run')} in {_count(len(groups), 'group')}",
        note=[plain(" ".join(part.split())) for part in re.split(r"\n\s*\n", note) if part.strip()],
        summary=words.summary(runs),
        notes=words.notes(runs),
        scores=SUMMARY,
        levels=levels,
        differences=tables.differences(runs),
        sections=list(filter(None, [_pictures(pictured), _maps(pictured), _exemplars(pictured, folder)])),
        of_paper=any(row.of_paper for row in levels),
        rules=[RULES.get(rule, plain(rule)) for rule in sorted({run.results.data.group_rule for run in runs})],
        attributes=any(run.has_attributes for run in runs),
        groups=groups,
        facts=[
            ("Settings", _facts([(run, records.flat(run.config)) for run in runs])),
            ("Settings of the evaluation", _facts([(run, _protocol_settings(run)) for run in runs])),
            ("Versions", _facts([(run, run.versions) for run in runs])),
            ("SHA-256 of the example lists", _facts([(run, run.results.data.lists) for run in runs])),
            ("SHA-256 of the lists with their labels", _facts([(run, run.results.data.labels) for run in runs])),
        ],
    )


def _legend(groups: list[Group]) -> list[tuple[Markup, str]]:
    return [(Markup(swatch(member.index)), member.label) for member in groups]


def _pictures(groups: list[Group]) -> Section:
    return Section("Pictures", list(_figures(groups)), [])


def _maps(groups: list[Group]) -> Section | None:
    """The first map of each group, coloured by class and by group of classes."""
    found = []
    for member in groups:
        drawn = ((run, embedding) for run in member.runs if (embedding := extras.embedding(run)))
        run, embedding = next(drawn, (None, None))
        if not embedding:
            continue
        some = (
            f", {len(embedding.points)} of {embedding.of} chosen at random"
            if embedding.of > len(embedding.points)
            else ""
        )
        caption = (
            f"{plain(embedding.method)} of the features of test images{some}; {run.name}. Near images have like "
            "features; sizes of clumps and distances between them mean little."
        )
        for by, marks in (("class", maps.by_class(run)), ("many, medium and few", maps.by_group(run))):
            shades = any(len(mark.classes) > 1 for mark in marks)
            named = by == "class" and not shades
            by = "class, in shades of how many training images it has" if by == "class" and shades else by
            label = f"Scatter plot: map of the features of {run.name}, coloured by {by}."
            picture = maps.draw(embedding, marks, label, named)
            legend = [(mark.swatch, mark.text) for mark in marks]
            found.append(Figure(f"{member.label}{member.on}, by {by}", picture, caption, legend))
    return Section("Maps of the features", found, []) if found else None


def _link(page: Path, folder: Path) -> str:
    """From a page in `folder` to another one; to one in a bucket by its address for browsers."""
    if files.in_bucket(page):
        return f"https://storage.cloud.google.com/{quote(f'{page.bucket}/{page.key}')}"
    if files.in_bucket(folder):
        return page.resolve().as_uri()
    return quote(os.fsencode(os.path.relpath(page.resolve(), folder.resolve()).replace(os.sep, "/")))


def _exemplars(groups: list[Group], folder: Path | None) -> Section | None:
    """What pruning forgets, for each data set in turn, and links to the galleries of runs."""
    every = {run: found for member in groups for run in member.runs if (found := extras.exemplars(run))}
    if not every:
        return None
    shown_figures, parts = [], by_data(groups)
    for number, part in enumerate(parts):
        of_part = {run: every[run] for member in part for run in member.runs if run in every}
        ways = list(dict.fromkeys(map(extras.way, of_part.values())))
        for place, way in enumerate(ways):
            found = {run: exemplars for run, exemplars in of_part.items() if extras.way(exemplars) == way}
            on = f", {part[0].data_name}" if len(parts) > 1 else ""
            on += f", {100 * way[1]:g} % cut, {way[2]}, by {way[0]}" if len(ways) > 1 else ""
            shown_figures += _forgotten(part, found, f"{number}-{place}", on)
    pages = [(run.name, run.path / names.GALLERY) for run in every]
    links = [(name, _link(gallery, folder)) for name, gallery in pages if folder and gallery.is_file()]
    return Section("What pruning forgets", shown_figures, links)


def _forgotten(part: list[Group], found: forgetting.Found, name: str, on: str) -> Iterator[Figure]:
    """The pictures of what was found in one way of runs on one data set."""
    one = next(iter(found.values()))
    score, rate, against = extras.way(one)
    legend = _legend([member for member in part if any(run in found for run in member.runs)])
    cut = f"{100 * rate:g} %"
    if picture := forgetting.rare(part, found, f"forgotten-{name}"):
        yield Figure(
            f"Few-shot images among the most forgotten{on}",
            Markup(picture),
            f"Of the tenth of the training images whose {score.replace('_', ' ')} change most when {cut} of the "
            "weights are cut: the share that is of few-shot classes; means over the runs or splits. "
            f"{AGAINST.get(against, against)} Grey: where {100 * one.confidence:g} % of random tenths of one "
            "run have it, around the share in all images.",
            legend,
        )
    if picture := forgetting.drift(part, found, f"drift-{name}"):
        yield Figure(
            f"Drift of the mask{on}",
            Markup(picture),
            f"Of the weights that the masks of two checkpoints keep, those that both do, where {cut} are cut: of a "
            "checkpoint with the first one, and with the one before it. Means over the runs or splits; thin lines are "
            "masks of the same densities placed at random.",
            legend,
        )


def _figures(groups: list[Group]) -> Iterator[Figure]:
    """All pictures, for each data set in turn."""
    parts = by_data(groups)
    for number, part in enumerate(parts):
        on = f", {part[0].data_name}" if len(parts) > 1 else ""
        for place, protocol in enumerate(tables.protocols(part)):
            shown_groups = [member for member in part if any(protocol in run.protocols for run in member.runs)]
            yield Figure(
                f"{figures.subject(part, protocol).capitalize()}: {tables.title(protocol)}{on}",
                Markup(figures.accuracy(part, protocol, f"accuracy-{number}-{place}")),
                "From the most to the least frequent, with their training images in brackets. Means over the runs or "
                "splits; strokes or bands are one sample standard deviation either way.",
                _legend(shown_groups),
                is_open=place == 0,
            )
        if picture := figures.loss(part, f"loss-{number}"):
            many = any(len(member.runs) > figures.MOST_RUNS for member in part)
            some = f" ({figures.MOST_RUNS} of a group at most)" if many else ""
            yield Figure(
                f"Training loss{on}",
                Markup(picture),
                f"Thin lines are runs{some}, thick lines the mean of their group up to where all its runs have come. "
                "Heights of different methods or settings do not say whose features are better: damage makes the same "
                "task harder.",
                _legend([member for member in part if any(run.metrics for run in member.runs)]),
            )
        for measure in ("knn", "probe"):
            if picture := figures.over_training(part, measure, f"{measure}-{number}"):
                yield Figure(
                    f"{tables.title(measure)} over training{on}",
                    Markup(picture),
                    "Scores on validation images while the runs were trained, so not those of the tables above. Means "
                    "over the runs or splits, bands one sample standard deviation either way.",
                    _legend([m for m in part if any(f"{measure}/all" in row for r in m.runs for row in r.metrics)]),
                )
        if picture := figures.collapse(part, f"collapse-{number}"):
            yield Figure(
                f"Collapse{on}",
                Markup(picture),
                "Means over the runs or splits; lines with triangles are the sparse branch, with circles the target, "
                "the others the dense one. Std: mean standard deviation of the dimensions of unit-length "
                "projections, 0 where all images have become one point. Rank: how many directions the projections, "
                "or the features, of a batch use (RankMe). Uniformity: 0 for one point, about −4 for an even spread. "
                "Alignment: squared distance of the two views of an image; its ratio: over that of two images, 1 "
                "where images are not distinguished. Prototypes: how evenly images use them, 1 is best.",
                _legend([member for member in part if any(map(figures.measured, member.runs))]),
                is_open=False,
            )
        if picture := figures.density(part, f"density-{number}"):
            yield Figure(
                f"What the mask keeps{on}",
                Markup(picture),
                "Share of each layer's weights in the sparse branch: bars at the last refresh of the mask, strokes at "
                "the first; means over the runs or splits.",
                _legend([member for member in part if any(figures.masks(run) for run in member.runs)]),
            )


def _unbroken(text: str) -> str:
    """The text with numbers that no line end tears from their spread or interval."""
    return re.sub(
        r" [±=] |(?<=\d) \[|(?<=\d), (?=[+−][\d.]+\])", lambda found: found[0].replace(" ", "\N{NO-BREAK SPACE}"), text
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _facts(fields: list[tuple[Run, dict]]) -> list[Fact]:
    """Each field of any run once."""
    facts: dict[str, dict[str, list[str]]] = {}
    for run, record in fields:
        for name, value in record.items():
            facts.setdefault(plain(name), {}).setdefault(shown(value), []).append(run.name)
    return [Fact(name, values) for name, values in facts.items()]


def _protocol_settings(run: Run) -> dict[str, object]:
    of_protocols = {name: score.settings | score.found for name, score in run.protocols.items()}
    return records.flat({"seen": run.results.seen or {}} | of_protocols)
