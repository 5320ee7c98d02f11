"""The gallery as a page: what it says, that it is safe and alone, and in headless Chromium that it works."""

import base64
import hashlib
import io
import itertools
import json
import re

import numpy as np
import pytest
from PIL import Image

from sdclr_jax import records
from sdclr_jax.reports import gallery
from tests.reports.chromium import Page, in_chromium

HOSTILE = "</script><script>alert(1)</script>\"'&<b>"
NAMES = ("cat", HOSTILE, "dog")
SCORES = ("features", "projections")


def summary(images=30, labelled=True, epochs=(1.0, 2.0)):
    def part(share):
        found = {"share": share, "expected": 0.3, "low": 0.1, "high": 0.5}
        found["by_class"] = {"share": 0.25, "expected": 0.2, "low": 0.05, "high": 0.35}
        groups = {"many": found, "few": found, "rarer_half": found} if labelled else {}
        return [{"fraction": f, "images": int(images * f) or 1, "groups": groups} for f in (0.01, 0.05, 0.1)]

    overlap = {"rank_correlation": None, "sets": []}
    drift = {"jaccard": 0.9, "chance": 0.1}
    found = {
        "format": 1,
        "run": {"method": "sdclr", "seed": 3},
        "data": {
            "name": f"photos{HOSTILE}",
            "subset": "long_tail",
            "split": 0,
            "seed": 0,
            "images": images,
            "list": "0",
            "class_names": list(NAMES) if labelled else [],
            "class_groups": ["many", "few", "few"] if labelled else [],
        },
        "settings": {
            "against": "recalibrated",
            "rates": [0.5, 0.9],
            "pairs_of_views": 2,
            "batch_size": 8,
            "calibration_batches": 50,
        },
        "confidence": 0.95,
        "ranked_by": {"score": "features", "rate": 0.9},
        "checkpoints": [
            {
                "step": int(10 * epoch),
                "epoch": epoch,
                "rates": [
                    {
                        "rate": rate,
                        "scores": {
                            name: {
                                "mean": 0.5,
                                "shares": part(0.6 if name == "features" else 0.2),
                                "since_previous": overlap,
                            }
                            for name in SCORES
                        },
                        "mask": {"density": {"stem": 0.5}, "since_first": drift, "since_previous": drift},
                    }
                    for rate in (0.5, 0.9)
                ],
            }
            for epoch in epochs
        ],
    }
    return records.decode(records.Summary, found)


def rows(images=30, labelled=True):
    """Image i has rank i + 1, class i % 3, score 1 - i / images by features and i / images by projections."""
    found = []
    for i in range(images):
        row = {"rank": i + 1, "id": f"train_{i:05d}", "path": f"photos/{HOSTILE}/{i}.jpg"}
        if labelled:
            row |= {"label": i % 3, "class": NAMES[i % 3], "group": "few"}
        row |= {"score": 1 - i / images, "neighbour_distance": (7 * i) % images / images, "loss": 2 + i % 2}
        for rate in (0.5, 0.9):
            row |= {f"features_{rate}": 1 - i / images, f"projections_{rate}": i / images}
        found.append(row)
    return found


def page(images=30, shown=20, labelled=True, side=8, epochs=(1.0, 2.0)):
    """The page of 30 images, of which 20 have a tile; each image's neighbours are the next ones."""
    thumbnails = np.zeros((images, side, side, 3), np.uint8) + np.arange(images, dtype=np.uint8)[:, None, None, None]
    near = [[(i + 1) % images, (i + 2) % images] for i in range(shown)]
    return gallery.render(summary(images, labelled, epochs), rows(images, labelled), near, thumbnails)


def data_of(text):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1])


def test_only_its_own_script_may_run_and_names_are_only_text():
    text = page()
    assert HOSTILE not in text
    assert "<script>alert" not in text
    data, script = re.findall(r"<script[^>]*>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in text
    assert "default-src 'none'" in text
    assert json.loads(data)["classes"] == list(NAMES)
    assert not set(data) & set("<>&")
    assert not re.findall(r'(?:src|href)="(?!data:|#)', text)
    assert not re.search(r'\son\w+="', text)


def test_the_page_is_the_same_byte_for_byte():
    assert page() == page()


def test_words_and_intervals():
    text = page()
    assert "60 % are of the rarer half of the classes" in text
    assert "images drawn at random give 10 % to 50 %: beyond chance." in text
    assert "images drawn at random give 10 % to 50 %: within chance." in text  # projections
    assert "On average 25 % of such a class" in text
    assert "as many classes drawn at random give 5 % to 35 %: within chance." in text
    assert re.search(r"by class 25 % <span class=\"soft\">\(5 to 35\)", text)
    assert re.search(r"<b>60 %</b> <span class=\"soft\">\(10 to 50\)", text)
    assert (
        "Here are 20 of 30 images: the most and the least forgotten, the farthest from the images nearest to them and "
        "those of the highest loss, as many of each."
    ) in text
    assert "All images are here." in page(shown=30)
    assert "Over training" in text
    assert "Over training" not in page(epochs=(1.0,))


def test_without_labels_there_is_nothing_about_classes():
    text = page(labelled=False)
    assert gallery.sentences(summary(labelled=False)) == []
    assert 'name="only"' not in text
    assert "Shares of the most forgotten" not in text
    assert data_of(text)["images"][0][2] is None


@pytest.mark.parametrize("count", [1, 2, 3, 4, 10, 11, 12])
def test_the_chosen_images_are_as_many_as_asked_for_and_no_image_comes_twice(count):
    order, distances, losses = np.random.default_rng(0).permutation(11), np.arange(11.0), -np.arange(11.0)
    found = gallery.chosen(order, [distances, losses], count).tolist()
    assert len(found) == min(count, 11)
    assert found == [image for image in order.tolist() if image in found]
    firsts = list(dict.fromkeys([order[0], order[-1], 10, 0]))  # of each ranking
    assert set(firsts[:count]) <= set(found)


@pytest.mark.parametrize("side", [8, 64])
def test_sheets_hold_every_thumbnail_in_its_place(side):
    colours = np.random.default_rng(0).integers(0, 256, (300, 1, 1, 3), np.uint8)
    sheets = gallery.sheets(np.broadcast_to(colours, (300, side, side, 3)))
    assert len(sheets) == 2
    pictures = [np.asarray(Image.open(io.BytesIO(base64.b64decode(sheet)))) for sheet in sheets]
    for i in (0, 15, 16, 255, 256, 299):
        sheet, at = divmod(i, gallery.SHEET)
        y, x = divmod(at, gallery.COLUMNS)
        centre = pictures[sheet][y * side + side // 2, x * side + side // 2].astype(int)
        assert abs(centre - colours[i, 0, 0]).max() <= (0 if side <= gallery.LOSSLESS else 12)


COUNT = "document.getElementById('count').textContent"
FOCUS = "document.activeElement.getAttribute('aria-label')"
DETAIL = "document.getElementById('detail').innerText"
SEEN = """[...document.querySelectorAll('#rack .tile')].sort((a, b) => a.ariaPosInSet - b.ariaPosInSet)
          .map((tile) => +tile.dataset.image)"""


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gallery")
    (folder / "gallery.html").write_text(page())
    with Page(folder / "gallery.html", folder / "profile") as browser:
        yield browser


@pytest.fixture
def browser(opened):
    opened.run("document.forms[0].reset()")
    opened.run("new Promise((done) => setTimeout(done, 50))")
    opened.run("document.activeElement.blur()")
    yield opened
    assert opened.errors == []


@in_chromium
def test_it_loads_alone_and_without_complaint(browser):
    assert browser.run(COUNT) == "20 of 20 images"
    assert browser.run(SEEN) == list(range(20))
    assert all(url.startswith(("file:", "data:")) for url in browser.requests)
    assert sum(url.startswith("file:") for url in browser.requests) == 1
    assert browser.run("document.querySelectorAll('script').length") == 2
    assert HOSTILE in browser.run("[...document.forms[0].only.options].map((o) => o.text).join()")


def choose(browser, **fields):
    for name, value in fields.items():
        browser.run(f"document.forms[0][{json.dumps(name)}].value = {json.dumps(value)}")
    browser.run("document.forms[0].dispatchEvent(new Event('input'))")


@in_chromium
@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"only": "class 1"}, [i for i in range(20) if i % 3 == 1]),
        ({"only": "group few"}, [i for i in range(20) if i % 3]),
        ({"low": "0.8", "high": "0.9"}, [3, 4, 5, 6]),  # 1 - i / 30, to four digits
        ({"text": "_0001"}, list(range(10, 20))),
        ({"text": "/7.JPG"}, [7]),
        ({"order": "least"}, list(range(20))[::-1]),
        ({"score": "3"}, list(range(20))[::-1]),  # projections, of rate 0.5
        ({"score": "1", "low": "2.5"}, list(range(1, 20, 2))),  # loss
        ({"score": "0"}, sorted(range(20), key=lambda i: -(7 * i % 30))),  # distance to the nearest images
        ({"score": "0", "low": "0.9"}, [17, 4]),
        ({"only": "class 0", "high": "0.5", "order": "least"}, [18, 15]),
        ({"text": "nowhere"}, []),
    ],
)
def test_filters_and_order(browser, fields, expected):
    choose(browser, **fields)
    assert browser.run(SEEN) == expected
    assert browser.run(COUNT) == f"{len(expected)} of 20 images"
    assert browser.run("document.getElementById('none').hidden") == bool(expected)
    assert bool(browser.run(DETAIL)) == bool(expected)


@in_chromium
def test_keys_alone_reach_filters_images_and_neighbours(browser):
    """From the search field by Tab to the images, along them, to a neighbour of one, and there by Enter."""
    browser.run("document.forms[0].text.focus()")
    browser.write("train_0000")
    assert browser.run(COUNT) == "10 of 20 images"
    browser.press("Tab", "Tab", "Tab")  # the order, Reset, the images
    assert "train_00000" in browser.run(FOCUS)
    across = browser.run("columns")
    for key, image in (
        ("ArrowRight", 1),
        ("ArrowLeft", 0),
        ("ArrowLeft", 0),
        ("End", 9),
        ("ArrowRight", 9),
        ("Home", 0),
    ):
        browser.press(key)
        assert f"train_{image:05d}" in browser.run(FOCUS), key
    browser.press("ArrowDown")
    assert f"train_{min(across, 9):05d}" in browser.run(FOCUS)
    browser.press("Home")
    assert "rank 1 of 30" in " ".join(browser.run(DETAIL).split()).lower()
    assert browser.run("document.querySelectorAll('[role=option][tabindex=\"0\"]').length") == 1
    browser.press("Tab")  # the first neighbour
    assert "neighbour: " in browser.run(FOCUS)
    browser.press("Enter")
    assert "train_00001" in browser.run(FOCUS)
    browser.press("Tab", "Tab", "Enter")  # the second neighbour of image 1
    assert "train_00003" in browser.run(FOCUS)
    browser.press("Tab", shift=True)
    assert browser.run("document.activeElement.type") == "reset"


@in_chromium
def test_a_neighbour_that_the_filters_hide_is_still_reached_and_one_without_a_tile_is_only_shown(browser):
    choose(browser, text="train_00007")
    browser.run("select(7, true)")
    browser.run("document.querySelector('.near button').click()")
    browser.run("new Promise((done) => setTimeout(done, 50))")
    assert "train_00008" in browser.run(FOCUS) and "train_00008" in browser.run(DETAIL)
    assert browser.run(COUNT) == "20 of 20 images"
    browser.run("select(19, true)")  # its neighbours, 20 and 21, have no tile
    assert browser.run("document.querySelectorAll('.near button').length") == 0
    assert browser.run("document.querySelectorAll('.near span[role=img]').length") == 2


@in_chromium
def test_unlabelled_images_can_be_looked_at(tmp_path):
    (tmp_path / "gallery.html").write_text(page(labelled=False))
    with Page(tmp_path / "gallery.html", tmp_path / "profile", dark=True) as browser:
        assert browser.run(COUNT) == "20 of 20 images"
        assert "Class" not in browser.run(DETAIL)
        choose(browser, text="00012")
        assert browser.run(SEEN) == [12]
        assert browser.errors == []


@in_chromium
def test_ten_thousand_images_are_no_burden(tmp_path):
    """Only the tiles near the window exist. A twentieth of the bounds on the processor's time is taken."""
    (tmp_path / "gallery.html").write_text(page(images=10_000, shown=10_000))
    with Page(tmp_path / "gallery.html", tmp_path / "profile") as browser:
        assert 0 < browser.processor_seconds() < 2
        assert browser.run(COUNT) == "10000 of 10000 images"
        assert browser.run("document.querySelectorAll('#rack .tile').length") < 500
        browser.run("select(0, true)")
        browser.press("End")
        assert "train_09999" in browser.run(FOCUS)
        box = "document.activeElement.getBoundingClientRect().bottom <= grid.getBoundingClientRect().bottom + 5"
        assert browser.run(box)
        browser.run("grid.scrollTop = 0")
        browser.run("new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")
        seen = browser.run(SEEN)
        assert seen[:50] == list(range(50))
        assert seen[-1] == 9999  # the one with the focus stays
        before = browser.processor_seconds()
        browser.run("filter()")
        assert 0 < browser.processor_seconds() - before < 0.4
        assert browser.errors == []


@in_chromium
def test_other_scripts_are_refused(tmp_path):
    """The policy in the page works: what was added to it does not run, and the console says so."""
    (tmp_path / "gallery.html").write_text(page() + "<script>window.added = true</script>")
    with Page(tmp_path / "gallery.html", tmp_path / "profile") as browser:
        assert browser.run("window.added") is None
        assert len(browser.errors) == 1


def test_every_image_of_the_run_may_have_a_tile_or_few():
    for images, shown in itertools.product((1, 5), (1, 5)):
        if shown <= images:
            text = gallery.render(summary(images), rows(images), [[]] * shown, np.zeros((images, 8, 8, 3), np.uint8))
            assert data_of(text)["shown"] == shown
