import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import matplotlib as mpl
import pytest

from sdclr_jax.errors import UserError
from sdclr_jax.reports import page, runs, svg
from tests.reports.conftest import protocol as scored

EVIL = '<script>alert(1)</script> $x$ & "'
VOID = {"meta", "br", "link", "img"}


class Parsed(HTMLParser):
    """The page's tags, ids and text; closing tags must match, as browsers forgive too much."""

    def __init__(self, html):
        super().__init__()
        self.open, self.tags, self.text = [], [], []
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def pictures(html):
    return [ElementTree.fromstring(text) for text in re.findall(r"<svg xmlns.*?</svg>", html, re.S)]


@pytest.fixture
def html(six_runs):
    return page.render(runs.read(six_runs), note="A small run.\n\nIt <b>cannot</b> show accuracy.")


def test_page_is_well_formed_with_unique_ids(html):
    parsed = Parsed(html)
    ids = [attrs["id"] for _, attrs in parsed.tags if "id" in attrs]
    assert len(ids) == len(set(ids)) > 0
    referred = set(re.findall(r'(?:url\(|href=")#([\w-]+)', html))
    assert referred == set(ids)
    assert len(pictures(html)) == 4  # accuracy twice, loss, density


def test_page_needs_nothing_from_outside(html):
    parsed = Parsed(html)
    assert not {"script", "link", "img", "iframe", "object", "base"} & {tag for tag, _ in parsed.tags}
    for _, attrs in parsed.tags:
        for name, value in attrs.items():
            assert not name.startswith("on")
            if name in ("href", "src", "xlink:href", "action", "srcset"):
                assert value.startswith("#")
            elif not name.startswith("xmlns"):
                assert "//" not in (value or "")
    assert "@import" not in html
    assert not re.search(r"url\((?!#)", html)
    policy = next(
        attrs["content"] for tag, attrs in parsed.tags if attrs.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy.startswith("default-src 'none'")


def test_pictures_follow_the_page_in_colour_and_font(html):
    variables = set(re.findall(r"(--\w+):", html))
    for picture in pictures(html):
        for element in picture.iter():
            for name, value in element.items():
                assert (
                    not re.search(r"#[0-9a-f]{3,8}\b|rgb|black|white|font-family", value)
                    or "url(#" in value
                    or (name.endswith("href"))
                ), (name, value)
                assert set(re.findall(r"var\((--\w+)\)", value)) <= variables
        assert not list(picture.iter(f"{{{svg.SVG}}}style"))
        assert not list(picture.iter(f"{{{svg.SVG}}}metadata"))
    assert not any(stand_in in html for stand_in in svg.STAND_INS)


def test_every_picture_is_described(html):
    assert html.count("<figure>") == html.count("<figcaption>") == 4
    for picture in pictures(html):
        assert picture.get("role") == "img"
        assert re.match(r"(Line|Bar) chart: .*(simclr|sdclr)", picture.get("aria-label"))
        assert picture.get("viewBox")
        assert picture.get("width") is None


def test_numbers_and_words_stand_on_the_page(html):
    text = " ".join("".join(Parsed(html).text).replace("\N{NO-BREAK SPACE}", " ").split())
    for expected in (
        "simclr and sdclr on digits (long_tail)",
        "against simclr, sdclr is ahead on All (+3.0 [+1.9, +4.1])",
        "52.0 ± 2.0",
        "+12.0[+7.0, +17.0]",  # on two lines
        "6 runs in 2 groups",
        "A small run.",
        "It <b>cannot</b> show accuracy.",
        "one (110)",
        "thirds of the classes",
        "runs/sdclr-2",
        "f" * 64,
        "0.10.2",
    ):
        assert expected in text
    assert "<b>64.0 ± 4.0</b>" in html
    assert "<b>52.0 ± 2.0</b>" not in html


def test_foreign_text_is_escaped_everywhere(make_run):
    def edit(results):
        results["run"]["method"] = results["data"]["name"] = results["data"]["subset"] = EVIL
        results["data"].update(class_names=[EVIL, "$", "\x00\x1b\ud800", "漢字"], group_rule=EVIL, lists={EVIL: EVIL})
        results["protocols"][EVIL] = results["protocols"].pop("knn") | {"settings": {EVIL: EVIL}}

    evil = {"method": EVIL, "projector.layers": EVIL, "pairs": [["sparse", EVIL]]}
    folders = [make_run("a" + EVIL.replace("/", ""), config=evil, edit=edit)]
    folders += [make_run("b", config=evil | {"projector.layers": "plain"}, edit=edit)]
    for folder in folders:
        (folder / "versions.json").write_text('{"<img src=x>": "<img src=x>"}')
        (folder / "metrics.jsonl").write_text('{"step": 1, "loss": 1, "density/<i>$a$": 0.1}\n')
    html = page.render(runs.read(folders), note=EVIL)
    parsed = Parsed(html)
    assert not {"script", "img", "i"} & {tag for tag, _ in parsed.tags}
    for picture in pictures(html):
        assert "$x$" in picture.get("aria-label") or "accuracy" not in picture.get("aria-label")
    drawn = " ".join(
        "".join(text.itertext()) for picture in pictures(html) for text in picture.iter(f"{{{svg.SVG}}}text")
    )
    assert "<script>alert(1… (5)" in drawn
    assert "$ (110)" in drawn
    assert "漢字 (40)" in drawn
    assert "<i>$a$" in drawn
    html.encode("utf-8")
    assert "\x00" not in html
    assert "\x1b" not in html


def test_same_runs_give_the_same_bytes_whatever_the_users_settings(six_runs, html):
    note = "A small run.\n\nIt <b>cannot</b> show accuracy."
    with mpl.rc_context({"font.size": 30, "axes.facecolor": "red", "svg.fonttype": "path", "svg.hashsalt": "other"}):
        assert page.render(runs.read(six_runs), note) == html
        assert mpl.rcParams["font.size"] == 30


def test_one_run_without_sparse_branch(make_run):
    html = page.render(runs.read([make_run("a")]))
    Parsed(html)
    assert "1 run in 1 group" in html
    assert "nothing to compare" in html
    assert "Paired differences" not in html
    assert "What the mask keeps" not in html
    assert "Note</h2>" not in html
    assert "±" not in re.search(r'<table class="numbers">.*?</table>', html, re.S)[0]


def test_run_without_metrics_or_with_losses_that_are_no_numbers(make_run):
    first, second = make_run("a"), make_run("b", seed=1)
    (first / "metrics.jsonl").unlink()
    assert "Training loss" not in page.render(runs.read([first]))
    (second / "metrics.jsonl").write_text('{"step": 1, "loss": null}\n{"step": 2, "loss": 1}\n{"step": 3}\n')
    assert "Training loss" in page.render(runs.read([first, second]))
    (second / "metrics.jsonl").write_text('{"step": 1, "loss": Infinity}\n{"step": 2, "loss": NaN}\n{"step": 3}\n')
    with pytest.raises(UserError, match="line 1 of .*metrics.jsonl is damaged .Infinity is no finite number"):
        page.render(runs.read([second]))


def test_run_in_progress_shortens_only_the_mean(make_run):
    long, short = make_run("a", steps=6), make_run("b", seed=1, steps=3)
    lines = pictures(page.render(runs.read([long, short])))[1].iter(f"{{{svg.SVG}}}path")
    points = [path.get("d").count("L") + 1 for path in lines if "var(--g0)" in path.get("style", "")]
    assert points == [6, 3, 3]


def test_layers_are_named_by_what_tells_them_apart_and_the_total_comes_last(make_run):
    html = page.render(runs.read([make_run("a", "sdclr", layers=("stem", "stage1/block0/conv1"))]))
    drawn = ["".join(text.itertext()) for text in pictures(html)[2].iter(f"{{{svg.SVG}}}text")]
    assert [text for text in drawn if text[0].isalpha()] == ["weights kept, %", "stem", "stage1/block0/conv1", "all"]


def test_different_data_get_pictures_of_their_own(make_run):
    def other(results):
        results["data"]["name"] = "letters"

    html = page.render(runs.read([make_run("a", "sdclr"), make_run("b", edit=other)]))
    Parsed(html)
    assert "Training loss, digits (long_tail)" in html
    assert "Training loss, letters (long_tail)" in html
    assert "Before you compare" in html


def test_signs_of_collapse_have_a_picture_with_a_line_for_every_branch(make_run):
    folders = [make_run("a", measured=True), make_run("b", "sdclr", measured=True), make_run("c", "old")]
    html = page.render(runs.read(folders))
    picture = pictures(html)[-1]
    drawn = ["".join(text.itertext()) for text in picture.iter(f"{{{svg.SVG}}}text")]
    assert [text for text in drawn if text[0].isalpha()] == [
        "std", "rank", "feature rank", "uniformity", "epoch", "alignment",
    ]  # fmt: skip
    lines = [path.get("style", "") for path in picture.iter(f"{{{svg.SVG}}}path") if path.get("d").count("L") == 5]
    assert sum("var(--g0)" in style for style in lines) == 5  # simclr: the dense branch, and the alignment
    assert sum("var(--g1)" in style for style in lines) == 0  # never measured
    assert sum("var(--g2)" in style for style in lines) == 9  # sdclr: two branches
    assert "old" not in picture.get("aria-label")
    assert "RankMe" not in page.render(runs.read([folders[2]]))


def test_what_was_measured_once_is_a_point_that_can_be_seen(make_run):
    html = page.render(
        runs.read([make_run("a", "sdclr", steps=1, measured=True), make_run("b", steps=1, measured=True)])
    )
    drawn = {p.get("aria-label").split(":")[1].split(",")[0].strip(): p for p in pictures(html) if p.get("aria-label")}

    def points(picture):
        return sum("var(--g" in mark.get("style", "") for mark in picture.iter(f"{{{svg.SVG}}}use"))

    assert points(drawn["training loss by epoch of simclr and sdclr."]) == 2
    # Std, two ranks and uniformity have a line for each branch, of which sdclr has two; alignment has none.
    assert points(drawn["std"]) == 4 * 3 + 2


def test_warnings_of_a_run_stand_before_its_scores(make_run):
    said = [{"step": 2, "epoch": 0.4, "cause": "one point", "message": EVIL}]
    found = runs.read([make_run("a", warnings=said), make_run("b", seed=1)])
    assert [run.warnings for run in found] == [[{"step": 2, "epoch": 0.4, "message": EVIL}], []]
    parsed = Parsed(page.render(found))
    assert f"runs/a gave a warning at epoch 0.4: {EVIL}." in "".join(parsed.text)
    assert "script" not in {tag for tag, _ in parsed.tags}


def test_every_class_has_a_bar_of_each_group_in_order_of_frequency(six_runs):
    picture = pictures(page.render(runs.read(six_runs)))[0]
    assert picture.get("aria-label").startswith("Bar chart: accuracy by class, most frequent first")
    bars = {}
    for path in picture.iter(f"{{{svg.SVG}}}path"):
        numbers = [float(x) for x in re.findall(r"-?[\d.]+", path.get("d"))]
        for colour in ("var(--g0)", "var(--g1)"):
            if f"fill: {colour}" in path.get("style", "") and path.get("d").count("L") == 3:
                bars.setdefault(colour, []).append((numbers[0], numbers[1] - min(numbers[1::2])))
    heights = [[height for _, height in sorted(bars[colour])] for colour in sorted(bars)]
    # one, three, two and zero: 90, 80, 70 and 52 for simclr, 90, 80, 70 and 64 for sdclr
    for found, expected in zip(heights, ([90, 80, 70, 52], [90, 80, 70, 64]), strict=True):
        assert [height / found[0] for height in found] == pytest.approx([value / 90 for value in expected], abs=0.005)


def test_so_many_bars_that_none_could_be_told_apart_are_lines(make_run):
    methods = [f"method{i}" for i in range(16)]
    for number, kind in ((15, "Bar"), (16, "Line")):  # of four classes each
        folders = [make_run(f"{number}-{m}", m) for m in methods[:number]]
        html = page.render(runs.read(folders))
        assert pictures(html)[0].get("aria-label").startswith(f"{kind} chart: accuracy by class")
    assert "method14 and method15 on digits (long_tail)</h1>" in html
    assert "method0, method1, method2" in html


def test_a_hundred_classes_are_not_all_named(make_run):
    def many_classes(results):
        results["data"].update(
            class_names=[f"class {i}" for i in range(100)],
            train_counts=list(range(100, 0, -1)),
            groups=["many"] * 34 + ["medium"] * 33 + ["few"] * 33,
        )
        for protocol in results["protocols"].values():
            protocol |= scored([0.5] * 100, results["data"]["groups"])

    html = page.render(runs.read([make_run("a", edit=many_classes)]))
    drawn = ["".join(text.itertext()) for text in pictures(html)[0].iter(f"{{{svg.SVG}}}text")]
    assert "class 0 (100)" in drawn
    assert "class 99 (1)" in drawn
    assert sum("class" in text for text in drawn) == 9


def test_classes_are_ranked_where_splits_order_them_differently(make_run):
    def reversed_counts(results):
        for name in ("train_counts", "groups"):
            results["data"][name].reverse()

    folders = [make_run("a"), make_run("b", split=1, edit=reversed_counts), make_run("c", seed=1)]
    html = page.render(runs.read(folders))
    assert "rank 1 (110)" in html and "<td>2 splits</td>" in html
    assert "one (110)" not in html
