import csv
import io

import numpy as np
import pytest
from scipy import stats

from sdclr_jax.errors import UserError
from sdclr_jax.reports import figures, groups, page, runs, tables, words
from sdclr_jax.reports.groups import confounds, group


def test_levels_are_means_and_sample_deviations(six_runs):
    rows = tables.compare(runs.read(six_runs))
    assert [(row.protocol, row.label, row.n) for row in rows] == [
        ("linear_full", "simclr", 3), ("linear_full", "sdclr", 3), ("knn", "simclr", 3), ("knn", "sdclr", 3),
    ]  # fmt: skip
    cells = rows[0].cells
    # few: 50, 52, 54. many: (90 + 80) / 2, (92 + 80) / 2, (88 + 80) / 2. all: 72.5, 73.5, 73.
    assert (cells["few"].mean, cells["few"].sd) == pytest.approx((52, 2))
    assert (cells["many"].mean, cells["many"].sd) == pytest.approx((85, 1))
    assert (cells["medium"].mean, cells["medium"].sd) == pytest.approx((70, 0), abs=1e-9)
    assert (cells["all"].mean, cells["all"].sd) == pytest.approx((73, 0.5))
    assert cells["few"].text() == "52.0 ± 2.0"


def test_differences_are_paired(six_runs):
    row = tables.differences(runs.read(six_runs))[0]
    assert (row.protocol, row.label, row.n) == ("linear_full", "sdclr − simclr", 3)
    # few: +10, +12, +14, so mean 12, deviation 2, standard error 1.15. medium: +1, -1, 0.
    assert (row.cells["few"].mean, row.cells["few"].sd) == pytest.approx((12, 2))
    assert (row.cells["medium"].mean, row.cells["medium"].sd) == pytest.approx((0, 1), abs=1e-9)
    assert {score: cell.stands_out for score, cell in row.cells.items()} == {
        "all": True, "many": False, "medium": False, "few": True, "std": True,
    }  # fmt: skip
    # Student's t with 2 degrees of freedom, from a table: 4.303. So 12 ± 4.97, and 0 ± 2.48.
    assert row.cells["few"].interval == pytest.approx((7.032, 16.968), abs=1e-3)
    assert row.cells["medium"].interval == pytest.approx((-2.484, 2.484), abs=1e-3)
    assert row.cells["few"].text(sign=True) == "+12.0 [+7.0, +17.0]"
    assert row.cells["medium"].text(sign=True) == "+0.0 [−2.5, +2.5]"
    assert row.cells["std"].text(sign=True).startswith("−")


def test_best_is_marked_only_where_it_is_clearly_best(six_runs):
    simclr, sdclr, *_ = tables.compare(runs.read(six_runs))
    assert not any(cell.stands_out for cell in simclr.cells.values())
    assert {score for score, cell in sdclr.cells.items() if cell.stands_out} == {"all", "few", "std"}


def test_a_group_that_lacks_a_protocol_takes_nothing_from_the_others(make_run, six_runs):
    """Neither the star of the best, nor the group that another one is held against."""

    def lacks(results):
        del results["protocols"]["linear_full"]

    folders = [make_run(f"moco-{seed}", "moco", seed, accuracy=0.5, edit=lacks) for seed in range(3)]
    found = runs.read([*folders, *six_runs])
    row = next(row for row in tables.compare(found) if row.label == "sdclr")
    assert {score for score, cell in row.cells.items() if cell.stands_out} == {"all", "few", "std"}
    (said, lacking) = words.summary(found)
    assert said.startswith("Linear probe (full): against simclr, sdclr is ahead on All (+3.0 [+1.9, +4.1])")
    assert lacking == "Linear probe (full): moco was not evaluated by it."

    alone = runs.read([*folders, *six_runs[:3]])
    row = next(row for row in tables.compare(alone) if row.protocol == "linear_full")
    assert row.label == "simclr" and not any(cell.stands_out for cell in row.cells.values())
    assert words.summary(alone) == [
        "Linear probe (full): simclr reaches 73.0 ± 0.5 % on All (n = 3); there is nothing to compare it with.",
        lacking,
    ]


# Student's t at 97.5 %, from a table: 12.706 with two pairs, 4.303 with three.
@pytest.mark.parametrize(
    ("gains", "clear"),
    [
        ((0.02, 0.02), True),
        ((0.0100, 0.0116), True),  # mean 1.08, standard error 0.08: t = 13.5
        ((0.0100, 0.0118), False),  # mean 1.09, standard error 0.09: t = 12.1
        ((0.010, 0.020, 0.0267), False),  # mean 1.89, standard error 0.485: t = 3.9
        ((0.010, 0.018, 0.022), True),  # mean 1.67, standard error 0.353: t = 4.7
    ],
)
def test_direction_takes_a_confidence_interval_without_zero(make_run, gains, clear):
    folders = [make_run(f"simclr-{seed}", seed=seed, accuracy=0.5) for seed in range(len(gains))]
    folders += [make_run(f"sdclr-{seed}", "sdclr", seed, accuracy=0.5 + gain) for seed, gain in enumerate(gains)]
    assert tables.differences(runs.read(folders))[0].cells["all"].stands_out is clear


def test_seeds_of_one_split_are_one_sample_of_several_splits(make_run):
    """The oracle is Student's t on the means of the splits; counted as runs, the difference would have a direction."""
    gains = {0: (0.03, 0.035, 0.04), 1: (0.01, 0.02, 0.03), 2: (-0.01,)}
    folders = [
        make_run(f"{method}-{split}-{seed}", method, seed, split, accuracy=0.5 + (method == "sdclr") * gain)
        for method in ("simclr", "sdclr")
        for split, of_split in gains.items()
        for seed, gain in enumerate(of_split)
    ]
    found = runs.read(folders)
    row = tables.differences(found)[0]
    means = [100 * np.mean(of_split) for of_split in gains.values()]
    oracle = stats.ttest_1samp(means, 0).confidence_interval(0.95)
    assert row.cells["all"].interval == pytest.approx(tuple(oracle))
    assert (row.n, row.cells["all"].mean, row.cells["all"].sd) == pytest.approx(
        (3, np.mean(means), np.std(means, ddof=1))
    )
    each = [100 * gain for of_split in gains.values() for gain in of_split]
    assert stats.ttest_1samp(each, 0).pvalue < 0.05 and not row.cells["all"].stands_out
    level = tables.compare(found)[1]
    assert (level.n, level.cells["all"].mean) == (3, pytest.approx(50 + np.mean(means)))
    assert level.cells["all"].sd == pytest.approx(np.std(means, ddof=1))
    assert "n = 3 splits)" in words.summary(found[-7:])[0]
    assert "points on All, n = 3 splits)" in words.summary(found)[0]
    assert " 3 splits " in tables.to_text([level]) and "| 3 splits | " in tables.to_markdown([row], sign=True)
    assert " & 3 splits & " in tables.to_latex([level])
    assert {row["n"] for row in csv.DictReader(io.StringIO(tables.means_to_csv([level], [row])))} == {"3"}
    assert figures._by_class(list(group(found)[1].runs), "knn") == pytest.approx(np.array([means] * 4).T / 100 + 0.5)


def test_equal_runs_have_no_direction(make_run):
    found = runs.read([make_run(f"{m}-{s}", m, s, accuracy=0.7) for m in ("simclr", "sdclr") for s in range(3)])
    assert not any(cell.stands_out for row in tables.differences(found) for cell in row.cells.values())
    assert (
        "show no difference of sdclr and simclr in any score (+0.0 [+0.0, +0.0] points on All, n = 3)"
        in words.summary(found)[0]
    )


def test_one_pair_never_has_a_direction(make_run):
    found = runs.read([make_run("a", accuracy=0.1), make_run("b", "sdclr", accuracy=0.9)])
    row = tables.differences(found)[0]
    assert (row.n, row.cells["all"].text(sign=True), row.cells["all"].stands_out) == (1, "+80.0", False)
    assert row.cells["all"].interval is None
    assert words.summary(found) == [
        "Linear probe (full): sdclr against simclr, +80.0 points on All, n = 1. "
        "One pair of runs cannot distinguish an effect from chance, so no direction is claimed."
    ]


def test_only_common_seeds_and_splits_are_paired(make_run):
    folders = [make_run(f"simclr-{seed}", seed=seed, accuracy=0.5 + 0.1 * seed) for seed in range(3)]
    folders += [make_run(f"sdclr-{seed}", "sdclr", seed, accuracy=0.5 + 0.1 * seed) for seed in range(1, 4)]
    folders += [make_run("sdclr-other-split", "sdclr", 0, split=1, accuracy=0.9)]
    found = runs.read(folders)
    row = tables.differences(found)[0]
    assert (row.n, row.cells["all"].mean) == (2, pytest.approx(0))
    assert "sdclr and simclr share 2 of their seeds and splits; differences use only those." in words.notes(found)


def test_no_common_seed(make_run):
    found = runs.read([make_run("a", seed=0), make_run("b", "sdclr", seed=1)])
    assert tables.differences(found) == []
    assert "no two runs of one seed and split" in words.summary(found)[0]
    assert any("share no seed and split, so they have no differences" in note for note in words.notes(found))


def test_groups_leave_out_seed_split_and_settings_that_are_not_read(make_run):
    folders = [make_run("a", seed=0), make_run("b", seed=1, config={"prune.rate": 0.3}), make_run("c", seed=0, split=1)]
    assert [(found.label, len(found.runs)) for found in group(runs.read(folders))] == [("simclr", 3)]


def test_groups_leave_out_where_photos_lie_and_what_changes_nothing_of_what_is_learnt(make_run):
    def on(path):
        return lambda results: results["data"].update(name=path)

    folders = [
        make_run(
            str(seed), seed=seed, config={"data.name": path, "data.workers": seed, "log_every": 9 + seed}, edit=on(path)
        )
        for seed, path in enumerate(("folder:/old/photos", "folder:/new/photos"))
    ]
    (found,) = group(runs.read(folders))
    assert (found.label, len(found.runs), found.data_name) == ("simclr", 2, "folder:photos (long_tail)")


FILES = {"mean": [0.5], "resize": 40, "crop": 32}  # what is seen of images of any size


@pytest.mark.parametrize(
    ("field", "seen", "alike"),
    [
        ("evaluate.every", None, True),
        ("evaluate.protocols", None, True),
        ("evaluate.interpolation", None, True),  # where older versions have another default; digits have one size
        ("evaluate.crop", {"mean": [0.5]}, True),
        ("evaluate.crop", FILES, True),  # which may be rewritten; what was seen decides
        ("evaluate.crop_scale", FILES, False),
        ("evaluate.padding", FILES, True),
        ("evaluate.padding", {"mean": [0.5]}, False),
        ("evaluate.knn_k", None, False),
        ("target.momentum", None, True),
        ("optimizer.trust_coefficient", None, True),
        ("optimizer.momentum", None, False),
        ("data.pareto", None, True),
        ("data.n_max", None, False),
    ],
)
def test_groups_leave_out_what_changes_no_score(make_run, field, seen, alike):
    folders = []
    for seed in range(2):
        groups = {"evaluate": {}, "target": {}, "optimizer": {"name": "sgd"}, "data.profile": "exponential"}
        groups |= {field: seed}
        folders.append(make_run(str(seed), seed=seed, config=groups, edit=lambda found: found.update(seen=seen)))
    assert len(group(runs.read(folders))) == (1 if alike else 2)


def test_groups_go_by_what_the_scores_saw_and_older_runs_that_do_not_say_it_by_the_others(make_run):
    def on(seen):
        return lambda results: results.update(seen=seen) or results["data"].update(name="folder:/photos")

    config = {"evaluate": {"padding": 4, "resize": 40, "crop": 32}, "data.name": "folder:/photos"}
    seen = [FILES, FILES | {"crop": 24}, None]
    folders = [make_run(str(seed), seed=seed, config=config, edit=on(seen[seed])) for seed in range(3)]
    found = runs.read(folders)
    assert [(member.label, [run.seed for run in member.runs]) for member in group(found)] == [
        ("simclr evaluate.crop=32", [0, 2]), ("simclr evaluate.crop=24", [1]),
    ]  # fmt: skip
    assert [page._protocol_settings(run).get("seen.crop") for run in found] == [32, 24, None]


def test_groups_of_one_method_are_labelled_by_what_differs(make_run):
    folders = [make_run(f"sdclr-{rate}", "sdclr", config={"prune.rate": rate}) for rate in (0.9, 0.7)]
    folders += [make_run("simclr"), make_run("simsiam", config={"method": "simsiam"}, edit=_method("simsiam"))]
    labels = [found.label for found in group(runs.read(folders))]
    assert labels == ["simclr", "simsiam", "sdclr prune.rate=0.9", "sdclr prune.rate=0.7"]


def _method(name):
    return lambda results: results["run"].update(method=name)


def test_same_seed_twice_is_refused(make_run):
    with pytest.raises(
        UserError, match="a and .*b have the same configuration, seed and split: leave one of them out$"
    ):
        group(runs.read([make_run("a"), make_run("b")]))

    def by_mine(results):
        results["protocols"]["mine"] = results["protocols"].pop("knn")

    with pytest.raises(
        UserError, match=r"out, and evaluate the other by the protocols of both \(linear_full, knn, mine\)$"
    ):
        group(runs.read([make_run("c"), make_run("d", edit=by_mine)]))


def test_a_number_of_lists_is_given_only_where_nothing_else_tells_two_groups_apart(make_run):
    def fewer(results):
        results["data"].update(train_counts=[20, 10, 5, 1])

    def by_counts(results):
        results["data"].update(group_rule="counts")

    of_100, of_20 = {"data.imbalance": 100.0}, {"data.imbalance": 20.0}
    found = [make_run("a", config=of_100), make_run("b", config=of_20, edit=fewer)]
    found += [make_run(name, name, config=of_100, edit=by_counts) for name in ("sdclr", "simclr")]
    labels = [member.label for member in group(runs.read(found))]
    of_100 = "simclr data.imbalance=100.0"
    assert labels == [of_100, "simclr data.imbalance=20.0", f"{of_100} (lists 3)", "sdclr"]


def test_other_example_lists_are_other_data(make_run):
    def other_lists(results):
        results["data"]["lists"]["train"] = "0123"

    found = runs.read([make_run("a"), make_run("b", seed=1), make_run("c", edit=other_lists)])
    assert [(found.label, len(found.runs)) for found in group(found)] == [("simclr", 2), ("simclr (lists 2)", 1)]
    assert tables.differences(found) == []
    assert "different data" in words.notes(found)[0]
    # Nothing says which of the two lists of split 0 those of split 1 belong to.
    found = [*found, *runs.read([make_run("d", split=1), make_run("e", "sdclr"), make_run("f", "sdclr", split=1)])]
    assert [(found.label, len(found.runs), found.runs[0].split) for found in group(found)] == [
        ("simclr (data.seed=0)", 2, (0, 0)), ("simclr (data.seed=0, lists 2)", 1, (0, 0)),
        ("simclr (data.seed=1)", 1, (0, 1)),
        ("sdclr (data.seed=0)", 1, (0, 0)), ("sdclr (data.seed=1)", 1, (0, 1)),
    ]  # fmt: skip
    assert words.notes(found)[1].startswith("One split of digits (long_tail) has two sets of lists or labels, and ")


def test_runs_on_other_images_are_no_repeats_in_another_split_either(make_run):
    """Each split has one set of lists here, so that the lists do not say it."""

    def images(*names, **data):
        return lambda results: results["data"].update(class_names=list(names), **data)

    for name, config, edit in (
        ("without", {"data.without": "/lists/1/drop-1.txt"}, None),
        ("published", {"data.lists": "/lists"}, None),
        ("classes", {}, images("a", "b", "c", "d")),
    ):
        folders = [make_run(f"{name}-{n}", seed=n, split=n, config=config, edit=edit) for n in (1, 2)]
        found = runs.read([make_run(f"{name}-0"), *folders])
        assert [len(member.runs) for member in group(found)] == [1, 2], name
        assert len({(member.label, member.on) for member in group(found)}) == 2
        assert "nothing is averaged or compared" in words.notes(found)[0]
        rows = csv.DictReader(io.StringIO(tables.to_csv(found)))
        assert len({(row["group"], row["subset"]) for row in rows}) == 2


def test_lists_of_images_that_are_left_out_are_called_alike_in_all_splits(make_run):
    config = [{"data.without": f"/lists/{name}.txt"} for name in ("drop-1", "drop-2", "random-3")]
    found = runs.read([make_run(str(n), seed=n, split=n, config=config[n - 1]) for n in (1, 2, 3)])
    assert [(member.data_name, len(member.runs)) for member in group(found)] == [
        ("digits (long_tail without drop-#)", 2), ("digits (long_tail without random-#)", 1),
    ]  # fmt: skip


def test_splits_of_images_with_attributes_are_averaged(make_run):
    """How many images have an attribute depends on which ones a split has drawn."""

    def drawn(seed):
        def edit(results):
            results["data"]["train_counts"][0] += seed
            for protocol in results["protocols"].values():
                protocol |= {"metric": "average_precision", "validation_average_precision": None}

        return edit

    found = runs.read([make_run(str(seed), seed=seed, split=seed, edit=drawn(seed)) for seed in range(3)])
    assert [len(member.runs) for member in group(found)] == [3]
    assert figures._class_ticks(found)[1][-1] == "zero (5 to 7)"


def test_other_labels_of_the_same_images_are_other_data(make_run):
    def labelled(name):
        return lambda results: results["data"].update(labels={"test": name})

    others = [make_run(name, seed=seed, edit=labelled(name[0])) for seed, name in enumerate(("x", "y", "x2"))]
    found = runs.read([make_run("old", seed=3), *others])  # an older version did not say
    assert [(found.label, len(found.runs)) for found in group(found)] == [("simclr", 3), ("simclr (lists 2)", 1)]
    assert tables.differences(found) == []
    assert "labels" in words.notes(found)[0]


def test_other_data_stand_side_by_side_with_a_note(make_run):
    def balanced(results):
        results["data"].update(subset="balanced", train_counts=[40, 40, 40, 40])

    both = [make_run(f"sdclr-{seed}", "sdclr", seed, accuracy=0.9) for seed in range(2)]
    both += [make_run(f"b{s}", seed=s, accuracy=0.5, config={"data.subset": "balanced"}, edit=balanced) for s in (0, 1)]
    found = runs.read(both)
    assert tables.differences(found) == []
    assert not any(cell.stands_out for row in tables.compare(found) for cell in row.cells.values())
    note = words.notes(found)[0]
    assert "simclr on digits (balanced), sdclr on digits (long_tail)" in note
    assert "nothing is averaged" in note
    assert [sentence.split(":")[0] for sentence in words.summary(found)] == [
        "Linear probe (full), digits (balanced)", "Linear probe (full), digits (long_tail)",
    ]  # fmt: skip


def test_one_method_on_two_data_sets_is_told_apart_by_them_alone(make_run):
    """Settings that belong to the data set are no variants of the method, nor are its evaluation's unequal ones."""

    def photos(results):
        results["data"]["name"] = "folder:/home/somebody/photos"
        results["protocols"]["knn"]["settings"]["images"] = 7

    other = {"data.name": "folder:/home/somebody/photos", "epochs": 9}
    folders = [make_run(f"{m}-{s}", m, s) for m in ("simclr", "sdclr") for s in range(2)]
    folders += [make_run(f"photos-{s}", "sdclr", s, config=other, edit=photos) for s in range(2)]
    found = runs.read(folders)
    assert [(member.label, member.on) for member in group(found)] == [
        ("simclr", ", digits (long_tail)"), ("sdclr", ", digits (long_tail)"), ("sdclr", ", folder:photos (long_tail)"),
    ]  # fmt: skip
    assert "sdclr, folder:photos (long_tail)" in tables.to_text(tables.compare(found))
    assert "sdclr − simclr, digits (long_tail)" in tables.to_markdown(tables.differences(found), sign=True)
    assert not any("different settings" in note for note in words.notes(found))
    html = page.render(found)
    assert "</svg>sdclr, folder:photos (long_tail)</th>" in html


def test_group_without_classes_and_protocols_of_any_name(make_run):
    def edit(results):
        results["data"]["groups"] = ["many", "many", "medium", "many"]
        for protocol in results["protocols"].values():
            protocol["few"] = None
        results["protocols"]["ahead of | all"] = results["protocols"]["knn"]

    found = runs.read([make_run(f"{m}-{s}", m, s, edit=edit) for m in ("simclr", "sdclr") for s in range(2)])
    rows = tables.compare(found)
    assert [row.protocol for row in rows][::2] == ["linear_full", "knn", "ahead of | all"]
    assert rows[0].cells["few"].text() == "–"
    assert "Few" not in words.summary(found)[0]


def test_protocols_have_names_for_readers_and_unknown_ones_keep_theirs():
    assert tables.title("ts_few_shot") == "Linear SVM (few-shot)"
    assert tables.title("knn (average precision)") == "Nearest neighbours (average precision)"
    assert tables.title("mine") == "mine"


def test_text_and_markdown(six_runs):
    found = runs.read(six_runs)
    text, markdown = tables.to_text(tables.compare(found)), tables.to_markdown(tables.differences(found), sign=True)
    assert "64.0 ± 4.0 *" in text
    assert "52.0 ± 2.0  " in text
    assert markdown.splitlines()[0].split("|")[1:4] == [" protocol    ", " runs of        ", "   n "]
    assert "**+12.0 [+7.0, +17.0]**" in markdown
    assert markdown.endswith("|\n")


def test_bars_in_names_do_not_break_markdown(make_run):
    folders = [
        make_run("a", config={"projector.layers": "x|y"}),
        make_run("b", config={"projector.layers": "\x1b[31m"}),
    ]
    markdown = tables.to_markdown(tables.compare(runs.read(folders)))
    assert "simclr projector.layers=x\\|y" in markdown
    assert "\x1b" not in markdown


def test_names_cannot_break_markdown(make_run):
    evil = r"a_b _c_ *d* `e` <i> &lt; ~~f~~ \| $g$ [h](i)"
    folders = [make_run("a", config={"projector.layers": evil}), make_run("b", config={"projector.layers": "c"})]
    line = tables.to_markdown(tables.compare(runs.read(folders))).splitlines()[2]
    escaped = r"a_b \_c\_ \*d\* \`e\` \<i> \&lt; \~\~f\~\~ \\\| \$g\$ [h]\(i)"
    assert f"| linear_full | simclr projector.layers={escaped} |" in " ".join(line.split())


def test_latex_is_a_booktabs_table_with_signs_and_bold(six_runs):
    found = runs.read(six_runs)
    assert tables.to_latex(tables.compare(found)).splitlines() == [
        r"\begin{tabular}{llrlllll}",
        r"\toprule",
        r"protocol & runs of & n & All & Many & Medium & Few & Std \\",
        r"\midrule",
        r"linear\_full & simclr & 3 & 73.0 $\pm$ 0.5 & 85.0 $\pm$ 1.0 & 70.0 $\pm$ 0.0 & "
        r"52.0 $\pm$ 2.0 & 13.5 $\pm$ 1.1 \\",
        r"linear\_full & sdclr & 3 & \textbf{76.0 $\pm$ 0.7} & 85.0 $\pm$ 1.0 & 70.0 $\pm$ 1.0 & "
        r"\textbf{64.0 $\pm$ 4.0} & \textbf{8.9 $\pm$ 1.6} \\",
        r"\addlinespace",
        *tables.to_latex(tables.compare(found)).splitlines()[7:9],
        r"\bottomrule",
        r"\end{tabular}",
    ]
    assert r"sdclr $-$ simclr & 3 & \textbf{+3.0 [+1.9, +4.1]}" in tables.to_latex(tables.differences(found), sign=True)


def test_names_cannot_break_latex(make_run):
    evil = "50% \\input{x} $a_b^c$ #&~<>\x1b"
    folders = [make_run("a", config={"projector.layers": evil}), make_run("b", config={"projector.layers": "c"})]
    line = tables.to_latex(tables.compare(runs.read(folders))).splitlines()[4]
    escaped = r"layers=50\% \textbackslash{}input\{x\} \$a\_b\^{}c\$ \#\&\textasciitilde{}\ensuremath{<}\ensuremath{>}"
    assert f"{escaped}\N{REPLACEMENT CHARACTER} & 1 &" in line
    assert line.count(" & ") == 7
    assert tables.latex("[1cm] | *") == "{}[1cm] $|$ *"


def test_means_as_csv_hold_both_tables_at_full_precision(six_runs):
    found = runs.read(six_runs)
    text = tables.means_to_csv(tables.compare(found), tables.differences(found))
    rows = list(csv.DictReader(io.StringIO(text)))
    assert len(rows) == 4 * 5 + 2 * 5
    few = [row for row in rows if row["score"] == "few" and row["protocol"] == "linear_full"]
    assert [(row["kind"], row["data"], row["group"], row["n"]) for row in few] == [
        ("mean", "digits (long_tail)", "simclr", "3"), ("mean", "digits (long_tail)", "sdclr", "3"),
        ("difference", "digits (long_tail)", "sdclr − simclr", "3"),
    ]  # fmt: skip
    assert (few[0]["low"], few[0]["high"]) == ("", "")
    numbers = [float(few[2][name]) for name in ("mean", "sd", "low", "high")]
    assert numbers == pytest.approx([0.12, 0.02, 0.07032, 0.16968], abs=1e-5)


def test_empty_tables():
    assert "protocol" in tables.to_text([])
    assert "protocol" in tables.to_markdown([])
    assert tables.to_latex([]).splitlines()[-2:] == ["\\bottomrule", "\\end{tabular}"]


def test_csv_is_tidy_and_exact(six_runs):
    rows = list(csv.DictReader(io.StringIO(tables.to_csv(runs.read(six_runs)))))
    assert len(rows) == 6 * 2 * 6  # runs, protocols, scores
    assert rows[0] == {
        "run": "runs/simclr-0", "group": "simclr", "method": "simclr", "seed": "0", "split": "0", "data_seed": "0",
        "data": "digits", "subset": "long_tail", "protocol": "linear_full", "score": "all", "value": rows[0]["value"],
    }  # fmt: skip
    assert float(rows[0]["value"]) == pytest.approx(0.725, rel=1e-12)
    assert [row["value"] for row in rows if row["score"] == "validation_accuracy"] == [""] * 12


def test_summary_says_what_is_clear_and_what_is_not(six_runs):
    assert words.summary(runs.read(six_runs)) == [
        "Linear probe (full): against simclr, sdclr is ahead on All (+3.0 [+1.9, +4.1]) and Few (+12.0 [+7.0, +17.0]) "
        "and more even over the classes, by Std (−4.6 [−5.9, −3.3]), in points over 3 pairs of runs, with 95 % "
        "confidence intervals; on Many and Medium the runs do not separate them.",
    ]


def test_summary_says_behind(make_run):
    folders = [make_run(f"simclr-{seed}", seed=seed, accuracy=[0.6, 0.6, 0.6, 0.6]) for seed in range(2)]
    folders += [make_run(f"sdclr-{seed}", "sdclr", seed, accuracy=[0.5, 0.7, 0.6, 0.6]) for seed in range(2)]
    said = "sdclr is ahead on Many (+5.0 [+5.0, +5.0]), behind on Few (−10.0 [−10.0, −10.0]) and less even"
    assert said in words.summary(runs.read(folders))[0]


def test_summary_of_one_group(make_run):
    found = runs.read([make_run("a", seed=0, accuracy=0.7), make_run("b", seed=1, accuracy=0.8)])
    assert words.summary(found) == [
        "Linear probe (full): simclr reaches 75.0 ± 7.1 % on All (n = 2); there is nothing to compare it with."
    ]


def test_a_note_says_that_data_were_not_made_from_what_was_published(make_run):
    def edit(provenance):
        return lambda results: results["data"].update(provenance=provenance)

    warning = "not made from the published archive of digits: its figures are none for digits"
    marked = [make_run("a", seed=0, edit=edit({"warning": warning})), make_run("b", seed=1, edit=edit(None))]
    assert words.notes(runs.read(marked)) == [f"digits was {warning}."]
    assert words.notes(runs.read([make_run("c", edit=edit({"published": True}))])) == []


def test_notes_name_confounds_unfinished_runs_and_environments(make_run):
    folders = [make_run("a", config={"projector.layers": 2, "epochs": 8}), make_run("b", "sdclr")]
    (folders[0] / "versions.json").write_text('{"commit": "other", "sdclr_jax": "0.1.0", "jax": "0.10.2"}')
    notes = words.notes(runs.read(folders))
    assert (
        "Not only the method, projector.layers differs (simclr 2, sdclr 3): compare groups where it is equal." in notes
    )
    assert "runs/a was evaluated at epoch 2 of 8." in notes
    imported = make_run("imported", edit=lambda results: results["run"].update(step=0, epoch=0.0))
    assert words.notes(runs.read([imported])) == []
    assert "The runs do not share one environment; see the details for: commit." in notes


def test_evaluations_of_other_settings_are_noted(make_run):
    def other_k(results):
        results["protocols"]["knn"]["settings"]["epochs"] = 31

    found = runs.read([make_run("a", accuracy=0.5), make_run("b", seed=1, edit=other_k)])
    assert [note for note in words.notes(found) if "settings" in note] == [
        "Nearest neighbours was run with different settings (epochs): run `sdclr evaluate` on all runs with the same "
        "ones before you trust its averages."
    ]


def test_images_that_were_cropped_otherwise_are_noted(make_run):
    def seen(crop):
        return lambda results: results.update(seen={"mean": [crop / 100], "resize": 40, "crop": crop})

    found = runs.read([make_run("a", edit=seen(32)), make_run("b", seed=1, edit=seen(6)), make_run("c", seed=2)])
    assert [note for note in words.notes(found) if "ways" in note] == [
        "The encoders were given the images in different ways (crop): run `sdclr evaluate` on all runs with the same "
        "ones before you compare them."
    ]
    assert not [note for note in words.notes(found[::2]) if "ways" in note]


def test_what_a_fit_finds_is_no_setting(make_run):
    def edit(value):
        return lambda results: results["protocols"]["knn"]["settings"].update(all_of_draws=[value], best_epoch=value)

    found = runs.read([make_run("a", edit=edit(0.4)), make_run("b", seed=1, edit=edit(0.5))])
    assert words.notes(found) == []


@pytest.mark.parametrize("found", [None, ["images", "best_epoch"], ["images", "list", "best_epoch"]])
def test_which_images_are_drawn_to_fine_tune_on_is_no_setting(make_run, found):
    """The run's seed draws them, so no second evaluation makes them alike. Older versions did not name them."""

    def edit(value):
        def changed(results):
            score = results["protocols"].pop("linear_full")
            score["settings"] = {"share": 0.01, "images": value, "list": str(value) * 64, "best_epoch": value}
            results["protocols"]["fine_tune_1"] = score | ({"found": found} if found else {})

        return changed

    read = runs.read([make_run("a", edit=edit(4)), make_run("b", seed=1, edit=edit(5))])
    assert words.notes(read) == []
    assert [run.protocols["fine_tune_1"].settings for run in read] == [{"share": 0.01}] * 2
    assert read[0].results.protocols["fine_tune_1"].to_json()["settings"]["list"] == "4" * 64


def test_what_makes_the_method_is_no_confound(make_run):
    folders = [make_run("a", config={"prune.rate": 0.1}), make_run("b", "sdclr")]
    folders += [make_run("c", "sdclr", config={"prune.rate": 0.5})]
    assert confounds(group(runs.read(folders))) == {}


def test_classes_as_csv_are_ranked_by_frequency(make_run):
    text = tables.classes_to_csv(runs.read([make_run("a", accuracy=[0.1, 0.2, 0.3, 0.4])]))
    rows = [row for row in csv.DictReader(io.StringIO(text)) if row["protocol"] == "knn"]
    fields = ("rank", "class", "class_group", "train_images", "value")
    assert [tuple(row[field] for field in fields) for row in rows] == [
        ("1", "one", "many", "110", "0.2"), ("2", "three", "many", "40", "0.4"),
        ("3", "two", "medium", "20", "0.3"), ("4", "zero", "few", "5", "0.1"),
    ]  # fmt: skip


def test_many_groups_are_compared_with_the_first_one_and_few_are_pictured(make_run, monkeypatch):
    """Each two of a thousand would be half a million rows."""
    folders = [make_run("simclr", accuracy=0.5)]
    folders += [
        make_run(f"t{t}-{seed}", "sdclr", seed, accuracy=0.6 + t / 100 + seed / 1000, config={"prune.rate": t / 10})
        for t in range(4)
        for seed in range(2)
    ]
    found = runs.read([make_run("simclr-1", seed=1, accuracy=0.501), *folders])
    assert len(tables.differences(found)) == 2 * 10
    whole = tables.compare(found)
    for module in (groups, words, page):
        monkeypatch.setattr(module, "MANY", 3)
    rows = tables.differences(found)
    assert [row.label for row in rows[:4]] == [f"sdclr prune.rate={t / 10} − simclr" for t in range(4)]
    assert (len(rows), rows[3].cells["all"].n) == (2 * 4, 2)
    assert tables.compare(found) == whole  # the best one is still marked
    assert [row.label for row in whole if row.cells["all"].stands_out] == ["sdclr prune.rate=0.3"] * 2
    said = words.summary(found)
    assert [sentence.split(": ")[1].split(",")[0] for sentence in said[:3]] == ["against simclr"] * 3
    assert said[3:] == ["Linear probe (full): 1 more group is in the table of differences."]
    assert "There are 5 groups: each is compared with simclr only, and pictures show the first 3." in words.notes(found)
    pictured = []
    monkeypatch.setattr(page, "_pictures", lambda groups: pictured.extend(member.label for member in groups))
    page.render(found)
    assert pictured == ["simclr", "sdclr prune.rate=0.0", "sdclr prune.rate=0.1"]


def test_labels_name_all_settings_in_which_any_group_differs(make_run):
    folders = [
        make_run(str(i), config=config)
        for i, config in enumerate(({"epochs": 1}, {"epochs": 2}, {"epochs": 2, "projector.layers": 2}))
    ]
    assert [found.label for found in group(runs.read(folders))] == [
        "simclr epochs=1 projector.layers=3",
        "simclr epochs=2 projector.layers=3",
        "simclr epochs=2 projector.layers=2",
    ]
