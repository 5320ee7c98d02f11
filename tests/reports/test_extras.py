"""What pruning forgets and maps of features: read with care, drawn where they are, absent where not."""

import copy
import json
import re
from urllib.parse import unquote

import numpy as np
import pytest

from sdclr_jax import records
from sdclr_jax.commands.report import main
from sdclr_jax.errors import UserError
from sdclr_jax.evaluation import embedding
from sdclr_jax.reports import extras, forgetting, maps, page, runs
from sdclr_jax.reports.groups import group
from tests.reports.conftest import protocol as scored
from tests.reports.test_report_page import EVIL, Parsed, pictures

SVG = "{http://www.w3.org/2000/svg}"


def summary(shares=(0.2, 0.4), few=True):
    """What summary.json holds of checkpoints at epochs 1, 2, ..., of which the ranking rate is 0.9."""
    checkpoints = []
    for number, share in enumerate(shares, start=1):
        part = {"share": share, "expected": 0.25, "low": 0.1, "high": 0.3}
        part |= {"by_class": dict(part)}
        shown = [{"fraction": f, "images": 3, "groups": {"few": part} if few else {}} for f in (0.01, 0.05, 0.1)]
        mask = {
            "density": {},
            "since_first": {"jaccard": 1 / number, "chance": 0.05},
            "since_previous": {"jaccard": 0.9, "chance": 0.05} if number > 1 else None,
        }
        scores = {"features": {"mean": 0.1, "shares": shown, "since_previous": None}}
        rates = [{"rate": 0.5, "scores": {}, "mask": mask}, {"rate": 0.9, "scores": scores, "mask": mask}]
        checkpoints.append({"step": 10 * number, "epoch": float(number), "rates": rates})
    return copy.deepcopy(
        {
            "format": 1,
            "run": {"method": "sdclr", "seed": 0},
            "data": {
                "name": "digits",
                "subset": "long_tail",
                "split": 0,
                "seed": 0,
                "images": 30,
                "list": "0" * 64,
                "class_names": [],
                "class_groups": [],
            },
            "settings": {
                "against": "recalibrated",
                "rates": [0.5, 0.9],
                "pairs_of_views": 4,
                "batch_size": 64,
                "calibration_batches": 50,
            },
            "confidence": 0.95,
            "ranked_by": {"score": "features", "rate": 0.9},
            "checkpoints": checkpoints,
        }
    )


def with_exemplars(folder, content=None, gallery=True):
    (folder / "exemplars").mkdir()
    (folder / "exemplars" / "summary.json").write_text(json.dumps(summary() if content is None else content))
    if gallery:
        (folder / "exemplars" / "gallery.html").write_text("<!doctype html>")
    return folder


def with_map(folder, points=((0, 0, 0), (10, 5, 1), (4, 8, 1), (9, 9, 3)), **fields):
    content = {"format": 1, "method": "t-SNE", "settings": {"of": 9}, "images": len(points), "points": points}
    (folder / "embedding.json").write_text(json.dumps(content | fields))
    return folder


def texts(picture):
    return ["".join(text.itertext()) for text in picture.iter(f"{SVG}text")]


def test_what_is_read_of_exemplars(make_run):
    (run,) = runs.read([with_exemplars(make_run("a"))])
    found = extras.exemplars(run)
    assert extras.way(found) == ("features", 0.9, "recalibrated")
    points = found.checkpoints
    assert [(point.step, point.epoch, forgetting._few(found, point).share) for point in points] == [
        (10, 1.0, 0.2), (20, 2.0, 0.4),
    ]  # fmt: skip
    assert [forgetting._drift("since_first", "jaccard")(found, point) for point in points] == [1, 0.5]
    assert [forgetting._drift("since_previous", "jaccard")(found, point) for point in points] == [None, 0.9]


def test_shares_and_drift_have_pictures_and_galleries_links(make_run, tmp_path):
    folders = [with_exemplars(make_run(f"{m} #{s}", m, s)) for m in ("simclr", "sdclr") for s in range(2)]
    html = page.render(runs.read(folders), folder=tmp_path / "runs" / "pages")
    Parsed(html)
    rare = next(p for p in pictures(html) if "few-shot images" in p.get("aria-label"))
    assert rare.get("aria-label").endswith("of simclr and sdclr.")
    drift = next(p for p in pictures(html) if "weights that two masks share" in p.get("aria-label"))
    assert {"with first, %", "with previous, %"} <= set(texts(drift))
    links = re.findall(r'<a href="([^"]+)">([^<]+)</a>', html)
    assert links[0] == ("../simclr%20%230/exemplars/gallery.html", "runs/simclr #0")
    for address, _ in links:
        assert (tmp_path / "runs" / "pages" / unquote(address)).resolve().is_file()
    assert len(links) == 4


def test_what_was_measured_in_different_ways_is_not_in_one_picture(make_run, monkeypatch):
    """Other statistics of batch norm, another rate."""
    for kind in ("rare", "drift"):
        monkeypatch.setattr(forgetting, kind, lambda part, found, name: f"{name}: {[run.seed for run in found]}")

    def found(against, rate):
        content = summary()
        content["ranked_by"]["rate"] = rate
        content["settings"]["against"] = against
        for checkpoint in content["checkpoints"]:
            checkpoint["rates"][1]["rate"] = rate
        return content

    ways = [("recalibrated", 0.9), ("pruned", 0.9), ("recalibrated", 0.7), ("recalibrated", 0.9)]
    folders = [with_exemplars(make_run(str(n), seed=n), found(*way)) for n, way in enumerate(ways)]
    section = page._exemplars(group(runs.read(folders)), None)
    rare = [figure for figure in section.figures if figure.heading.startswith("Few-shot")]
    assert [figure.heading.partition("forgotten, ")[2] for figure in rare] == [
        "90 % cut, recalibrated, by features", "90 % cut, pruned, by features", "70 % cut, recalibrated, by features",
    ]  # fmt: skip
    assert "keeps the batch norm statistics of the whole one, which fit it badly." in rare[1].caption
    assert "when 70 % of the weights are cut" in rare[2].caption
    assert [figure.svg for figure in section.figures] == [
        f"{kind}-0-{place}: {seeds}"
        for place, seeds in enumerate(([0, 3], [1], [2]))
        for kind in ("forgotten", "drift")
    ]


def test_the_line_is_the_share_and_the_band_is_chance(make_run):
    html = page.render(runs.read([with_exemplars(make_run("a"))]))
    picture = next(p for p in pictures(html) if "few-shot images" in p.get("aria-label"))
    heights = {}
    for path in picture.iter(f"{SVG}path"):
        style, found = path.get("style", ""), [float(x) for x in re.findall(r"-?[\d.]+", path.get("d"))][1::2]
        if "stroke: var(--g0)" in style and len(found) == 2:
            heights["line"] = found
        elif "stroke: var(--ink); stroke-width: 0.8;" in style.replace("fill: none; ", "") and found[0] == found[-1]:
            heights.setdefault("expected", found)
        elif path.get("id"):  # of a filled part
            heights.setdefault(path.get("id"), found)
    band = next(use for use in picture.iter(f"{SVG}use") if "0.12" in use.get("style"))
    path = band.get("{http://www.w3.org/1999/xlink}href")[1:]
    heights["band"] = [y + float(band.get("y")) for y in heights[path]]
    # Heights on paper of 20 and 40 %, of 10 to 30 % and of 25 %: 20 % of the axis is the distance of the first two.
    (one, two), unit = heights["line"], (heights["line"][0] - heights["line"][1]) / 20
    assert max(heights["band"]) == pytest.approx(one + 10 * unit, abs=0.05)
    assert min(heights["band"]) == pytest.approx(two + 10 * unit, abs=0.05)
    assert heights["expected"][0] == pytest.approx(one - 5 * unit, abs=0.05)


def test_one_checkpoint_has_no_drift_and_no_few_shot_classes_no_shares(make_run):
    one = page.render(runs.read([with_exemplars(make_run("a"), summary(shares=(0.2,)), gallery=False)]))
    assert "Few-shot images among the most forgotten" in one
    assert "Drift of the mask" not in one
    assert "<a href" not in one
    none = page.render(runs.read([with_exemplars(make_run("b"), summary(few=False))]))
    assert "Few-shot images among the most forgotten" not in none
    assert "Drift of the mask" in none


def test_runs_without_extras_have_no_sections(make_run):
    html = page.render(runs.read([make_run("a")]))
    for heading in ("What pruning forgets", "Maps of the features", "Drift of the mask"):
        assert heading not in html


def change(*keys, value):
    content = summary()
    at = content
    for key in keys[:-1]:
        at = at[key]
    if value is None:
        del at[keys[-1]]
    else:
        at[keys[-1]] = value
    return content


AT = ("checkpoints", 1, "rates", 1)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ([], "not an object of fields"),
        (change("format", value=2), "format 2"),
        (change("ranked_by", "rate", value=0.7), r"checkpoints\.0\.rates"),
        (change("ranked_by", "score", value="projections"), r"checkpoints\.0\.rates"),
        (change("checkpoints", value=[]), "checkpoints"),
        (change("checkpoints", 0, "step", value=-1), r"checkpoints\.step"),
        (change("checkpoints", 0, "epoch", value="1"), "epoch"),
        (change(*AT, "scores", "features", "shares", value=[{"fraction": 0.5, "images": 1}]), "groups"),
        (change(*AT, "scores", "features", "shares", 2, "groups", "few", "share", value=1.5), r"groups\.few\.share"),
        (change(*AT, "scores", "features", "shares", 2, "groups", "few", "low", value=None), r"groups\.few\.low"),
        (change(*AT, "mask", "since_first", value={"jaccard": 1}), r"mask\.since_first\.chance"),
        (change(*AT, "mask", "since_previous", value=3), r"mask\.since_previous"),
        (change("confidence", value="high"), "confidence"),
    ],
)
def test_damaged_exemplars_name_file_field_and_remedy(make_run, content, says):
    found = runs.read([with_exemplars(make_run("a"), content)])
    match = rf"summary\.json cannot be used \(.*{says}.*\): run `sdclr exemplars .*a` again"
    with pytest.raises(UserError, match=match):
        page.render(found)


def test_maps_are_drawn_by_class_and_by_group_for_the_first_run_of_each_group(make_run):
    folders = [make_run("a"), with_map(make_run("b", seed=1)), with_map(make_run("c", seed=2))]
    html = page.render(runs.read(folders))
    Parsed(html)
    by_class, by_group = (p for p in pictures(html) if p.get("aria-label").startswith("Scatter plot"))
    assert by_class.get("aria-label") == "Scatter plot: map of the features of runs/b, coloured by class."
    assert "4 of 9 chosen at random; runs/b" in html
    assert sorted(texts(by_class)) == ["one", "three", "zero"]  # no image of class two is on it
    assert texts(by_group) == []
    paths = [(path.get("d").count("h0"), path.get("style")) for path in by_group.iter(f"{SVG}path")]
    # one and three are many, zero is few; --g0 and --g1 are their colours
    assert [(count, style.split("stroke: ")[1].split(";")[0]) for count, style in paths] == [
        (3, "var(--g0)"), (1, "var(--g1)"),
    ]  # fmt: skip


def test_places_on_the_map_keep_their_shape_with_y_upwards(make_run):
    (run,) = runs.read([with_map(make_run("a"), [[0, 0, 0], [10, 0, 0], [0, 5, 0]])])
    picture = maps.draw(extras.embedding(run), maps.by_group(run), "x")
    places = np.array(re.findall(r"M([\d.]+) ([\d.]+)h0", picture), float)
    right, up = places[1] - places[0], places[2] - places[0]
    assert right[0] == pytest.approx(-2 * up[1], abs=0.2)
    assert right[1] == up[0] == 0
    width, height = map(float, re.search(r'viewBox="0 0 (\d+) (\d+)"', picture).groups())
    assert (places > 0).all()
    assert (places < (width, height)).all()


def test_maps_of_one_point_and_of_many_classes(make_run):
    def many(results):
        classes = 40
        counts, groups = list(range(classes, 0, -1)), ["many"] * 20 + ["few"] * 20
        results["data"].update(class_names=[f"c{i}" for i in range(classes)], train_counts=counts, groups=groups)
        for protocol in results["protocols"].values():
            protocol |= scored([0.5] * classes, groups)

    points = [[1, 1, i] for i in range(40)]
    html = page.render(runs.read([with_map(make_run("a", edit=many), points)]))
    Parsed(html)
    by_class = next(p for p in pictures(html) if "coloured by class" in p.get("aria-label"))
    assert len(list(by_class.iter(f"{SVG}path"))) == maps.SHADES
    assert texts(by_class) == []
    assert "nan" not in html
    assert "40 to 35" in html


def test_colour_and_shape_tell_twenty_one_classes_apart(make_run):
    def some(results):
        results["data"].update(class_names=[f"c{i}" for i in range(21)], train_counts=[1] * 21, groups=["many"] * 21)
        for protocol in results["protocols"].values():
            protocol |= scored([0.5] * 21, ["many"] * 21)

    (run,) = runs.read([make_run("a", edit=some)])
    marks = maps.by_class(run)
    assert len({(mark.colour, mark.shape) for mark in marks}) == len(marks) == 21


def test_names_on_maps_are_escaped(make_run):
    def edit(results):
        results["data"]["class_names"][0] = EVIL

    html = page.render(runs.read([with_map(make_run("a", edit=edit), method=EVIL)]))
    assert not {"script", "img"} & {tag for tag, _ in Parsed(html).tags}
    assert "<script>alert(1…" in [text for p in pictures(html) for text in texts(p)]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"format": 3}, "format 3"),
        ({"method": 1}, "method"),
        ({"points": []}, "points"),
        ({"points": [[0, 0, 4]], "images": 1}, "points"),  # of four classes
        ({"points": [[0, 0, -1]], "images": 1}, "points"),
        ({"points": [[0, None, 0]], "images": 1}, "points"),
        ({"points": [[0, 0]], "images": 1}, "points"),
        ({"images": 5}, "images"),
        ({"settings": []}, "settings"),
    ],
)
def test_damaged_maps_name_file_field_and_remedy(make_run, fields, says):
    found = runs.read([with_map(make_run("a"), **fields)])
    with pytest.raises(
        UserError, match=rf"embedding\.json cannot be used \(.*{says}.*\): run `sdclr evaluate .*a` again"
    ):
        page.render(found)


def test_a_map_as_the_evaluation_writes_it_is_read(make_run):
    folder = make_run("a")
    labels = np.arange(12) % 4
    written = embedding.about(np.random.default_rng(0).standard_normal((12, 5)), labels, seed=0, limit=8)
    records.write(folder / "embedding.json", written)
    found = extras.embedding(runs.read([folder])[0])
    assert (found.method, found.of, len(found.points)) == ("t-SNE", 12, 8)


def test_the_command_links_from_where_the_page_lies(make_run, tmp_path):
    folder = with_exemplars(make_run("a"))
    (tmp_path / "out").mkdir()
    main([str(folder), f"--output={tmp_path}/out/report.html"])
    html = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert '<a href="../runs/a/exemplars/gallery.html">runs/a</a>' in html
