"""The page of `sdclr photos`: what it shows, that nothing in a file's name gets out of its place, and that it fits."""

import re

import numpy as np
import pytest

from sdclr_jax.reports import photos
from tests.reports.chromium import Page, in_chromium

HOSTILE = "</style><script>alert(1)</script>\"'&<b>"


def row(name, **more):
    return {"id": name, "path": f"/photos/{name}", "split": "train", "class": "cat"} | more


@pytest.fixture(scope="module")
def page():
    both = {"in_several_classes": True, "in_several_splits": True}
    alone = {"in_several_classes": False, "in_several_splits": False}
    lists = {
        "duplicates": [
            row("a.jpg", group=1, likeness=0.99, mirrored=True, keep=True, **both),
            row("test/b.jpg", group=1, likeness=0.97, mirrored=False, keep=False, **both | {"split": "test"}),
            row("c.jpg", group=2, likeness=1.0, mirrored=False, keep=True, **alone),
            row("d.jpg", group=2, likeness=1.0, mirrored=False, keep=False, **alone),
        ],
        "outliers": [],
        "labels": [row(f"{HOSTILE}.jpg", suggested=HOSTILE, label_probability=0.01)],
        "rare": [row("c.jpg", apart=3.0)],
        "not_learned": [row(f"{i:03}.jpg", change=1.0) for i in range(300)],
        "subset": [row("a.jpg", place=1)],
    }
    names = sorted({image["id"] for listed in lists.values() for image in listed})
    return photos.render(
        HOSTILE,
        images=500,
        totals={name: len(listed) for name, listed in lists.items()} | {"rare": 25},
        lists=lists,
        place={name: i for i, name in enumerate(names)},
        thumbnails=np.zeros((len(names), 8, 8, 3), np.uint8),
    )


def test_it_says_what_is_remarkable_about_copies_and_what_to_keep(page):
    groups = re.findall(r"<li>(?:<span class=\"tag\">.*?)?<span class=\"soft\">.*?</ul></li>", page, re.DOTALL)
    assert [re.findall(r'class="tag">(.*?)<', group) for group in groups] == [
        ["two labels", "in train and test", "mirrored"], [],
    ]  # fmt: skip
    assert "97.0% alike" in groups[0] and "100.0% alike" in groups[1]
    assert [group.count(" keep") for group in groups] == [1, 1]
    assert 'title="a.jpg"' in groups[0] and 'title="test/b.jpg"' in groups[0]


def test_each_list_says_how_many_it_has_and_where_the_table_is(page):
    counts = dict(re.findall(r'href="#(\w+)">.*? <b>(\d+)</b>', page))
    assert counts == {
        "duplicates": "4",
        "outliers": "0",
        "labels": "1",
        "rare": "25",
        "not_learned": "300",
        "subset": "1",
    }
    assert "The first 1 of 25 images" in page and "All 300 images" in page
    assert "No image stands apart from the others." in page and 'href="outliers.csv"' not in page
    assert 'href="rare.csv"' in page and 'href="rare.parquet"' in page


def test_names_stay_text(page):
    assert "<script" not in page and "alert(1)" in page
    assert page.count("</style>") == 1


@in_chromium
def test_it_fits_a_phone_and_asks_nobody_for_anything(page, tmp_path):
    (tmp_path / "index.html").write_text(page)
    with Page(tmp_path / "index.html", tmp_path / "profile", size=(390, 800), dark=True) as shown:
        shown._call("Emulation.setDeviceMetricsOverride", width=390, height=800, deviceScaleFactor=1, mobile=True)
        assert shown.run("document.documentElement.scrollWidth") <= 390
        assert shown.run("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 27)"
        assert shown.run("document.querySelectorAll('.picture').length") == 4 + 1 + 1 + 300 + 1
        sheets = shown.run("new Set([...document.querySelectorAll('.picture')].map(p => p.classList[1])).size")
        assert sheets == 2
        assert not shown.errors and all(url.startswith(("file:", "data:")) for url in shown.requests)
