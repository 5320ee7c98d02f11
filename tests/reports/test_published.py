"""The paper's figures: they agree with each other, stand only beside what they are figures of, and are marked."""

import csv
import io
import json
from types import SimpleNamespace

import pytest

from sdclr_jax import recipes
from sdclr_jax.data.subsets import longtail
from sdclr_jax.reports import page, published, runs, tables, words
from sdclr_jax.reports.groups import group
from tests.reports.conftest import protocol

COUNTS = [int(n) for n in longtail.class_counts(4500, 100.0, 10, "exponential", 6.0)]
GROUPS = ["many"] * 4 + ["medium"] * 3 + ["few"] * 3


def cifar(counts=COUNTS, **data):
    """results.json of CIFAR-10-LT with both published protocols and one that is not."""

    def edit(results):
        names = [f"class {i}" for i in range(10)]
        results["data"].update(name="cifar10", class_names=names, train_counts=counts, groups=GROUPS, **data)
        record = protocol([results["protocols"]["linear_full"]["all"]] * 10, GROUPS)
        results["protocols"] = {"linear_full": record, "linear_few_shot": record, "knn": record}

    return edit


def both(make_run, config=None, **data):
    return [make_run(m, m, config=config, edit=cifar(**data)) for m in ("simclr", "sdclr")]


def of(config):
    """A group of one run of this config."""
    return SimpleNamespace(runs=[SimpleNamespace(config=json.loads(config.to_json()), protocols={})])


def test_the_figures_of_the_groups_are_those_of_all():
    for method in ("simclr", "sdclr"):
        scores = published.DATA_SETS["cifar10"].scores["linear_full", method]
        mean = sum(scores[name].mean * n for name, n in (("many", 4), ("medium", 3), ("few", 3))) / 10
        assert mean == pytest.approx(scores["all"].mean, abs=0.005)


@pytest.mark.parametrize(("name", "n_max", "classes"), [("cifar10", 4500, 10), ("cifar100", 450, 100)])
def test_a_long_tail_drawn_by_the_rule_has_as_many_images_as_the_paper_says(name, n_max, classes):
    counts = longtail.class_counts(n_max, 100.0, classes, "exponential", 6.0)
    assert published.DATA_SETS[name].images == sum(counts)


def test_each_method_has_the_figures_of_its_protocol_below_the_runs(make_run):
    rows = tables.compare(runs.read(both(make_run)))
    assert [(row.protocol, row.label, row.of_paper) for row in rows] == [
        ("linear_full", "simclr", False), ("linear_full", "sdclr", False),
        ("linear_full", "simclr (paper)", True), ("linear_full", "sdclr (paper)", True),
        ("linear_few_shot", "simclr", False), ("linear_few_shot", "sdclr", False),
        ("linear_few_shot", "simclr (paper)", True), ("linear_few_shot", "sdclr (paper)", True),
        ("knn", "simclr", False), ("knn", "sdclr", False),
    ]  # fmt: skip
    texts = [row.cells[score].text() for row in rows if row.of_paper for score in ("all", "many", "std")]
    assert texts == ["75.55", "78.18 ± 4.18", "–", "82.00", "86.44 ± 3.12", "–", "67.08", "–", "–", "70.47", "–", "–"]
    assert rows[2].n == 5


def test_the_papers_difference_is_that_of_its_means_and_has_no_interval(make_run):
    rows = [row for row in tables.differences(runs.read(both(make_run))) if row.of_paper]
    assert [(row.protocol, row.label) for row in rows] == [
        ("linear_full", "sdclr − simclr (paper)"), ("linear_few_shot", "sdclr − simclr (paper)"),
    ]  # fmt: skip
    assert rows[0].cells["all"].text(sign=True) == "+6.45"
    assert rows[1].cells["all"].text(sign=True) == "+3.39"
    assert not any(cell.stands_out or cell.interval for row in rows for cell in row.cells.values())


@pytest.mark.parametrize(
    ("data", "method", "config"),
    [
        ({"subset": "balanced"}, "sdclr", {}),
        ({"counts": [4500] * 10}, "sdclr", {}),  # another profile
        ({}, "sd_byol", {}),
        ({}, "sdclr", {"data.without": "forgotten.txt"}),
    ],
)
def test_other_data_and_methods_have_none(make_run, data, method, config):
    found = runs.read([make_run("a", method, config=config, edit=cifar(**data))])
    assert not any(row.of_paper for row in tables.compare(found))
    assert not any("paper" in note for note in words.notes(found))


@pytest.mark.parametrize("provenance", [{"published": False}, {"warning": "made from copies"}])
def test_other_images_are_marked_in_every_row_and_in_a_note(make_run, provenance):
    found = runs.read(both(make_run, provenance=provenance))
    rows = [row for row in [*tables.compare(found), *tables.differences(found)] if "paper" in row.label]
    assert len(rows) == 6
    assert all(row.label.endswith("(paper, other images)") for row in rows)
    note = "The images of runs/simclr, runs/sdclr are not the paper's: its figures are no target for these runs."
    assert note in words.notes(found)


def test_the_published_images_are_not_called_others(make_run):
    found = runs.read(both(make_run, provenance={"published": True}))
    assert not any("other images" in row.label for row in tables.compare(found))
    assert not any("no target" in note for note in words.notes(found))


def test_a_note_names_where_the_recipe_is_another(make_run):
    note = words.notes(runs.read(both(make_run, config={"projector.layers": 3})))
    assert any("secondary sources" in line and "CIFAR-10-LT (means over its 5 splits" in line for line in note)
    assert [line for line in note if line.startswith("The paper's recipe")] == [
        "The paper's recipe is not that of the runs beside it: epochs 2000 (2 here); data.last_batch kept "
        "(dropped here); simclr: projector.layers 2 (3 here); linear_few_shot: epochs 100 (30 here)."
    ]


def test_every_switch_of_the_method_and_its_training_is_part_of_the_recipe():
    changes = {"prune.norms": "shared", "prune.every": 1, "prune.criterion": "largest", "prune.random_rate": 0.1}
    changes |= {"prune.gradient": False, "optimizer.weight_decay": 0.01, "optimizer.warmup_epochs": 2}
    config = recipes.load("cifar10_lt:sdclr")
    same = published._differences(published.DATA_SETS["cifar10"], [of(config)])
    assert same == []
    config.update_from_flattened_dict(changes)
    assert published._differences(published.DATA_SETS["cifar10"], [of(config)]) == [
        "optimizer.weight_decay 0.0001 (0.01 here)",
        "optimizer.warmup_epochs 10 (2 here)",
        "sdclr: prune.criterion smallest (largest here)",
        "sdclr: prune.random_rate 0.0 (0.1 here)",
        "sdclr: prune.every 0 (1 here)",
        "sdclr: prune.norms private (shared here)",
        "sdclr: prune.gradient true (false here)",
    ]


def test_the_protocols_of_the_authors_scripts_have_the_same_figures():
    found = published.DATA_SETS["cifar10"]
    assert found.figures("train_cifar_full", "sdclr") == found.scores["linear_full", "sdclr"]
    assert found.figures("train_cifar_few_shot", "simclr") == found.scores["linear_few_shot", "simclr"]
    assert published.DATA_SETS["imagenet100"].figures("train_imagenet_full", "sdclr")["all"].mean == 66.48
    assert found.figures("knn", "sdclr") is None


def test_all_tables_and_the_page_mark_them(make_run):
    found = runs.read(both(make_run))
    levels, differences = tables.compare(found), tables.differences(found)
    assert "| sdclr (paper)  |   5 | 82.00 " in tables.to_markdown(levels)
    assert r"sdclr (paper) & 5 & 82.00 & 86.44 $\pm$ 3.12" in tables.to_latex(levels)
    rows = list(csv.DictReader(io.StringIO(tables.means_to_csv(levels, differences))))
    paper = [row for row in rows if row["group"] == "sdclr (paper)" and row["score"] == "all"]
    assert [(row["kind"], float(row["mean"])) for row in paper] == [
        ("mean of paper", pytest.approx(0.82)),
        ("mean of paper", pytest.approx(0.7047)),
    ]
    assert not any(row["kind"] in ("mean", "difference") for row in rows if "paper" in row["group"])
    html = page.render(found)
    assert html.count('<tr class="paper">') == 6
    assert "Jiang et al., Self-Damaging Contrastive Learning, ICML 2021" in html
    assert "paper" not in tables.to_csv(found)  # which holds runs
    assert "Rows marked <b>(paper)</b>" in html


def test_a_page_without_them_does_not_explain_them(make_run):
    assert "(paper)" not in page.render(runs.read([make_run("a")]))


def test_a_method_of_several_settings_has_the_figures_once(make_run):
    folders = both(make_run) + [make_run("other", "sdclr", config={"prune.rate": 0.5}, edit=cifar())]
    found = runs.read(folders)
    matches = list(published.matches(group(found), "linear_full"))
    assert [match.method for match in matches] == ["simclr", "sdclr"]
    assert "sdclr: prune.rate 0.9 (0.5 here)" in next(note for note in words.notes(found) if "recipe" in note)
