"""The demo's analysis: what it counts, what chance gives, and what it says; and that its pages say it."""

import csv
import pathlib

import digits_demo
import pytest
import scipy.stats

from sdclr_jax import recipes, records
from tests.played_table import results_of
from tests.reports.test_extras import summary

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture
def demo(monkeypatch):
    """The demo's functions, with fewer random draws."""
    monkeypatch.setattr(digits_demo, "DRAWS", 5000)
    return digits_demo


def classes(demo, forgotten, seed=0, method="sdclr"):
    """Ten classes of ten images each, the first the most frequent; so many of each are among the most changed."""
    return [demo.Forgotten(method, seed, i, 10, float(n)) for i, n in enumerate(forgotten)]


def test_chance_is_any_tenth_of_the_images_or_any_five_classes(demo):
    rare = [classes(demo, [0] * 5 + [2] * 5)]  # the five rarer classes alone, and all in the same measure
    low, high = scipy.stats.hypergeom.interval(0.95, 100, 50, 10)
    assert demo.by_image(rare) == (1.0, pytest.approx(low / 10), pytest.approx(high / 10))
    assert demo.by_image(rare).beyond
    # Five of ten classes hold k of the rare ones by the hypergeometric law: four or five in 26 of 252 choices.
    low, high = scipy.stats.hypergeom.interval(0.95, 10, 5, 5)
    assert demo.by_class(rare) == (0.2, pytest.approx(0.2 * low / 5), pytest.approx(0.2 * high / 5))
    # In two seeds of two all five is beyond the chance of 1 in 252 for each.
    assert demo.by_class([*rare, classes(demo, [0] * 5 + [2] * 5, seed=1)]).high < 0.2
    alike = demo.by_class([classes(demo, [1] * 10)])
    assert (alike, alike.beyond) == ((0.1, 0.1, 0.1), False)
    # The frequent one of two classes of other sizes is not among the rarer.
    assert [row.label for row in demo._rare(classes(demo, range(10)))] == [5, 6, 7, 8, 9]
    sizes = [row._replace(images=10 * (row.label + 1)) for row in classes(demo, range(10))]
    assert sorted(row.label for row in demo._rare(sizes)) == [0, 1, 2, 3, 4]


def test_the_demo_says_what_it_found_whichever_way_it_falls(demo):
    cases = {
        "forget rare classes more than chance": [0] * 5 + [2] * 5,
        "forget rare classes less than chance": [2] * 5 + [0] * 5,
        "Images of one class are forgotten together": [0] * 8 + [0, 10],
        "no sign that rare classes": [1] * 10,
    }
    for words, forgotten in cases.items():
        rows = [row for m in demo.METHODS for seed in range(3) for row in classes(demo, forgotten, seed, m)]
        simclr, sdclr = demo.whom(rows)
        assert words in sdclr
        assert "SimCLR, 3 seeds:" in simclr and simclr.endswith("This is for comparison with SDCLR, and is not tested.")
        assert not any(other in simclr for other in cases)  # the claim is SDCLR's alone


def test_how_many_seeds_an_accuracy_takes(demo):
    # G*Power's manual: 34 pairs show half a standard deviation with a power of 0.8078.
    assert demo.power(34, 0.5) == pytest.approx(0.8078, abs=2e-4)
    assert demo.seeds_for(0.5, 1.0) == demo.seeds_for(1.0, 2.0) == 34
    assert demo.power(5, demo.smallest(5, 1.0)) == pytest.approx(0.8)
    scores = {("simclr", 0): 90.0, ("sdclr", 0): 91.0, ("simclr", 1): 90.0, ("sdclr", 1): 93.0}
    # Differences of 1 and 3: mean 2, standard deviation 1.41, and 12.7 standard errors of 1 either way.
    assert "is +2.0 points [\N{MINUS SIGN}10.7, +14.7], which does not show a difference" in demo.accuracy(scores)
    assert f"takes {demo.seeds_for(1.0, 2**0.5)} seeds" in demo.accuracy(scores)
    assert "two seeds or more" in demo.accuracy({key: x for key, x in scores.items() if key[1] == 0})


def test_what_the_demo_found_follows_from_the_committed_files(demo, monkeypatch):
    monkeypatch.setattr(demo, "DRAWS", 100_000)
    results = ROOT / "experiments" / "results" / "digits_demo"
    rows = demo.read(results / "forgotten.csv")
    with (results / "report.csv").open(encoding="utf-8-sig") as file:
        scores = {
            (row["method"], int(row["seed"])): 100 * float(row["value"])
            for row in csv.DictReader(file)
            if (row["protocol"], row["score"]) == ("linear_full", "all")
        }
    for page in ("README.md", "docs/results.md", results / "findings.txt"):
        quoted = " ".join((ROOT / page).read_text().split())
        assert all(text in quoted for text in (*demo.whom(rows), demo.accuracy(scores))), page


def test_forgotten_are_the_images_whose_features_change_most(demo, tmp_path):
    """The tenth of 20 images, of which features change most in the first class and projections in the second."""
    rows = ["label,features_0.5,features_0.9,projections_0.9"]
    rows += [f"{i % 2},{i},{i + 50 * (i in (4, 6))},{i + 50 * (i in (5, 7))}" for i in range(20)]
    (tmp_path / "exemplars").mkdir()
    (tmp_path / "exemplars" / "exemplars.csv").write_text("\n".join(rows) + "\n")
    assert demo.counted("sdclr", 3, tmp_path) == [
        demo.Forgotten("sdclr", 3, 0, 10, 2.0),
        demo.Forgotten("sdclr", 3, 1, 10, 0.0),
    ]


def test_the_accuracy_is_all_of_the_full_probe(demo, tmp_path):
    config = recipes.load("digits_lt:sdclr")
    for protocols, found in ((("knn", "linear_full"), 50), (("knn",), None)):
        config.evaluate.protocols = protocols
        records.write(tmp_path / "results.json", results_of(config, 0.5))
        assert demo._all(tmp_path) == found


def test_a_run_is_measured_when_its_last_checkpoint_is(demo, tmp_path):
    records.write(tmp_path / "saved.json", records.Saved(step=20))
    assert not demo._measured(tmp_path)
    (tmp_path / "exemplars").mkdir()
    for checkpoints in (1, 2):  # at steps 10 and 20
        records.write(tmp_path / "exemplars" / "summary.json", summary([0.2] * checkpoints))
        assert demo._measured(tmp_path) == (checkpoints == 2)
