"""A report with all that runs can have, as long as the published recipe: small, and in a browser as it should be."""

import json

import pytest

from sdclr_jax.commands.report import main
from sdclr_jax.reports import page, runs
from tests.reports.chromium import Page, in_chromium
from tests.reports.test_curves import live
from tests.reports.test_extras import summary, with_exemplars, with_map
from tests.reports.test_report_page import Parsed

LAYERS = [f"stage{stage}_block{block}/conv{conv}" for stage in range(4) for block in range(2) for conv in (1, 2)]
EPOCHS = 2000
EVERYTHING = ("Scores", "Paired differences", "Nearest neighbours over training", "Ridge probe over training")
EVERYTHING += ("What the mask keeps", "Collapse", "Maps of the features", "Drift of the mask")


def ten_long_runs(make_run):
    """Two methods, five splits, 2,000 epochs: a line of metrics an epoch, scores every 20, a map of 2,000 images."""
    points = [[round(37.123 * (i % 61) - i / 7, 3), round(53.321 * (i % 43) + i / 9, 3), i % 4] for i in range(2000)]
    folders = []
    for method in ("simclr", "sdclr"):
        for split in range(5):
            how = {"split": split, "accuracy": 0.5 + 0.05 * split, "layers": LAYERS, "measured": True}
            folder = make_run(f"{method}_{split}", method, split, steps=EPOCHS, **how)
            rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
            scored = {row["step"]: row for row in live(0.5, steps=range(20, EPOCHS + 1, 20)) if "knn/all" in row}
            rows = [row | scored.get(row["step"], {}) for row in rows]
            (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
            folders.append(with_map(with_exemplars(folder, summary(shares=[0.2] * 20)), points))
    return folders


def test_ten_runs_of_two_thousand_epochs_stay_small(make_run):
    html = page.render(runs.read(ten_long_runs(make_run)))
    Parsed(html)
    for heading in EVERYTHING:
        assert heading in html
    assert len(html.encode()) < 1_000_000


@in_chromium
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (360, True)])
def test_in_a_browser_nothing_is_fetched_refused_or_wider_than_the_window(make_run, tmp_path, width, dark):
    folders = [
        with_map(with_exemplars(make_run(f"{m}_{s}", m, s, measured=True, layers=LAYERS)))
        for m in ("simclr", "sdclr")
        for s in range(2)
    ]
    main([*map(str, folders), f"--output={tmp_path}/report.html"])
    with Page(tmp_path / "report.html", tmp_path / "profile", size=(max(width, 500), 900), dark=dark) as browser:
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        browser._call("Emulation.setDeviceMetricsOverride", **size)
        browser.run("document.querySelectorAll('details').forEach(part => part.open = true)")
        assert browser.errors == []
        assert [address for address in browser.requests if not address.endswith("report.html")] == []
        assert browser.run("document.documentElement.scrollWidth") <= width
        # Every picture has a size, and no text in it leaves it.
        assert browser.run("document.querySelectorAll('figure > svg').length") == 11
        outside = """
            [...document.querySelectorAll('figure > svg')].flatMap(svg => {
                const all = svg.getBoundingClientRect();
                return [...svg.querySelectorAll('text')].filter(text => {
                    const box = text.getBoundingClientRect();
                    return !all.width || box.left < all.left - 1 || box.right > all.right + 1
                        || box.top < all.top - 1 || box.bottom > all.bottom + 1;
                }).map(text => text.textContent);
            })"""
        assert browser.run(outside) == []
        address = browser.run("document.querySelector('a').href")
        assert address == (folders[0] / "exemplars" / "gallery.html").as_uri()
