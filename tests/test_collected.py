"""Tables of runs that are there: what is averaged, listed, missing, diverged, damaged; and documents made of them."""

import csv
import io
import json
import shutil
from dataclasses import replace

import collected
import documents
import jobs
import ledger
import lists
import pytest
import tables

from sdclr_jax import recipes, records
from sdclr_jax.errors import UserError
from tests import played_table
from tests.played_table import TABLE, results_of


@pytest.fixture
def small(tmp_path, monkeypatch):
    return played_table.small(tmp_path, monkeypatch)


def test_what_is_of_another_commit_config_or_images_is_listed_and_never_averaged(small):
    table = lists.load(str(small.file))
    runs = table.runs()
    sound = [
        ledger.Finished(
            run=run.job.name, state="done", method=run.row.name, seed=run.seed, data_seed=run.seed, commit="a" * 40,
            config=ledger.config_hash(records.flat(json.loads(jobs.config_of(run.job).to_json()))), data="digits",
            images=f"list {run.seed}", scores={"knn.all": 0.5 + run.seed / 10},
        )
        for run in runs
    ]  # fmt: skip
    whole = collected.collect(table, sound, runs)
    assert [len(line.done) for line in whole.lines] == [2, 2]
    names = [run.run for run in sound]
    assert names == ["simclr-0", "sdclr-0", "simclr-1", "sdclr-1"]
    for change, why in [
        ({"commit": "b" * 40}, "commit bbbbbbb"),
        ({"commit": f"{'a' * 40} then {'b' * 40}"}, "commit aaaaaaa then bbbbbbb"),
        ({"config": "other"}, "another config"),
        ({"data": "cifar10 (JPEG copies)"}, "other images: cifar10 (JPEG copies)"),
        ({"seed": 7}, "another seed or split"),
    ]:
        found = collected.collect(table, [replace(sound[0], **change), *sound[1:]], runs)
        assert found.lines[0].listed == {"simclr-0": why}
        assert [run.run for run in found.lines[0].done] == ["simclr-1"]
        assert f"Not averaged: simclr-0 ({why})." in collected.markdown(found)
    other = [replace(run, commit="b" * 40) for run in sound if run.method == "simclr"]
    found = collected.collect(table, [*other, *(run for run in sound if run.method == "sdclr")], runs, "a")
    assert [line.shown(table.columns[0]) for line in found.lines] == ["not averaged", "55.0 ± 7.1"]
    pinned = replace(table, lists={"long_tail": {"0": "list 0"}})  # these runs are of no split, 0
    found = collected.collect(pinned, sound, runs)
    assert found.lines[0].listed == {"simclr-1": "another list of images: list 1…"}
    chosen = collected.collect(table, [replace(sound[0], commit="b" * 40), *sound[1:]], runs, commit="bb")
    assert "Averaged: runs of commit bbbbbbb." in collected.markdown(chosen)
    assert [run.run for run in chosen.lines[0].done] == ["simclr-0"]
    even = [replace(run, commit="f" * 40 + " then " + "a" * 40) for run in sound[:2]]
    assert collected.collect(table, [*even, *sound[2:]], runs).commit == "a" * 40
    over = collected.collect(table, [replace(sound[0], state="diverged", scores={}), *sound[1:]], runs)
    assert (over.lines[0].diverged, over.lines[0].not_run) == (["simclr-0"], [])


def test_runs_that_leave_images_out_are_on_a_list_of_their_own(small):
    """Even where that of the whole subset is known."""
    table = lists.load(str(small.file))
    row = replace(table.rows[1], fields=table.rows[1].fields | {"data.without": "forgotten.txt"})
    table = replace(table, rows=(table.rows[0], row), lists={"long_tail": {"0": "whole"}})
    runs = [
        ledger.Finished(
            run=run.job.name, state="done", method="", seed=run.seed, data_seed=run.seed, scores={"knn.all": 0.5},
            images="fewer" if run.row is row else "whole",
        )
        for run in table.runs()
    ]  # fmt: skip
    found = collected.collect(table, runs, table.runs())
    assert [(len(line.done), line.listed) for line in found.lines] == [(2, {}), (2, {})]


def test_seeds_of_one_split_are_one_sample_of_several_splits(small):
    table = lists.load(str(small.file))
    (column,) = (column for column in table.shown() if column.score == "knn.all")
    runs = [
        ledger.Finished(run=f"{split}-{seed}", state="done", method="", seed=seed, split=split, scores={"knn.all": x})
        for split, of_split in ((1, (0.1, 0.3)), (2, (0.6,)))
        for seed, x in enumerate(of_split)
    ]
    line = collected.Line(table.rows[0], planned=3, done=runs)
    assert line.values(column) == pytest.approx([20, 60])
    found = collected.Collected(table, [line], "a" * 40, "digits")
    assert line.shown(column) in collected.markdown(found) and line.shown(column).endswith("± 28.3")
    assert "The seeds of each split are averaged first: ± is over the splits." in collected.sentences(found)
    row = next(row for row in csv.DictReader(io.StringIO(collected.to_csv(found))) if row["score"] == "knn.all")
    assert (row["n"], row["planned"], float(row["sd"])) == ("2", "3", pytest.approx(800**0.5))
    line.done = runs[1:]
    assert not any("seeds of each split" in sentence for sentence in collected.sentences(found))


def test_images_that_are_not_the_published_ones_have_another_name():
    def name(**provenance):
        return ledger._called("cifar10", provenance)

    assert name(published=True, sha256="0") == "cifar10"
    assert name(published=False, sha256="0123456789") == "cifar10 (not as published: 01234567)"
    for copies in ledger.COPIES:
        assert name(published=False, sha256=copies) == "cifar10 (JPEG copies)"
        assert ledger.named(f"cifar10 (not as published: {copies[:8]})") == "cifar10 (JPEG copies)"
    assert ledger.named("cifar10 (not as published: 01234567)") == "cifar10 (not as published: 01234567)"


def test_a_table_whose_runs_have_another_folder_keeps_its_own_file(tmp_path, monkeypatch, capsys):
    """Its runs.csv and that of the folder, as copied from a cluster, without the folders of runs."""
    text = TABLE.replace("seeds = [0, 1]", "seeds = [0]")
    (tmp_path / "first.toml").write_text(text)
    (tmp_path / "second.toml").write_text('folder = "first"\n' + text.replace('name = "sdclr"', 'name = "other"'))
    out = tmp_path / "runs"
    for name, runs in (("first", ["simclr-0", "sdclr-0"]), ("second", ["simclr-0", "other-0"])):
        kept = [ledger.Finished(run=run, state="done", method="", seed=0, scores={"knn.all": 0.5}) for run in runs]
        (out / name).mkdir(parents=True)
        (out / name / "runs.csv").write_text(ledger.to_csv(kept))
    for name in ("second", "first"):
        before = ledger.read_kept(out / name)
        tables.main([str(tmp_path / f"{name}.toml"), "--collect", f"--out={out}"])
        assert ledger.read_kept(out / name).keys() == before.keys()
    more = [*ledger.read_kept(out / "first").values(), replace(kept[0], run="sdclr-1", seed=1)]
    (out / "first" / "runs.csv").write_text(ledger.to_csv(more))
    (out / "first" / "sdclr-1").mkdir()
    (out / "first" / "sdclr-1" / "config.json").write_text(
        recipes.load("digits_lt:sdclr").to_json()
    )  # it has begun again, and has no scores
    with pytest.raises(SystemExit, match=r"first/runs.csv has runs that would be lost \(sdclr-1\)"):
        tables.main([str(tmp_path / "first.toml"), "--collect", f"--out={out}"])
    shutil.rmtree(out / "first" / "sdclr-1")
    tables.main([str(tmp_path / "first.toml"), "--collect", f"--out={out}", "--seeds=0,1"])
    assert list(ledger.read_kept(out / "first")) == ["simclr-0", "sdclr-0", "sdclr-1"]


def test_the_documents_are_those_that_the_committed_results_make():
    for page in documents.PAGES:
        assert documents.filled(page.read_text()) == page.read_text(), page.name
    marked = [name for page in documents.PAGES for _, name, *_ in documents.MARKED.findall(page.read_text())]
    assert sorted(set(marked)) == sorted(documents.FILLED)
    for name in ("methods_table", "vicreg_ablation"):
        assert documents.table_of(name) == (documents.RESULTS / name / "table.md").read_text()
    changed = documents.filled("<!-- table: methods_table -->\n| 1 |\n<!-- end -->\n")
    assert "| untrained       | 54.1 ± 1.6 |" in changed and "| 1 |" not in changed
    with pytest.raises(UserError, match="there is no table x to fill in"):
        documents.filled("<!-- table: x -->\n<!-- end -->\n")


def test_results_of_another_run_are_not_averaged_but_made_again(small, capsys):
    small.main("--run")
    first, second = small.folder / "simclr-0", small.folder / "simclr-1"
    own = (first / "results.json").read_text()
    for file in (second / "results.json", small.folder / "sdclr-0" / "results.json"):
        (first / "results.json").write_text(file.read_text())
        capsys.readouterr()
        small.main("--collect")
        assert "Not averaged: simclr-0 (results.json of another run)." in capsys.readouterr().out
        small.main("--plan")
        assert "# 0: simclr-0, results.json of another run," in capsys.readouterr().out
        small.main("--run")  # evaluates it again
        assert (first / "results.json").read_text() == own
    other = json.loads(own)
    other["data"]["lists"]["train"] = "b" * 64
    (first / "results.json").write_text(json.dumps(other))
    assert ledger.read(first).fault == "results.json of another run"


def test_a_run_that_was_evaluated_otherwise_is_listed(small, capsys):
    small.main("--run")
    file = small.folder / "simclr-0" / "results.json"
    found = json.loads(file.read_text())
    found["protocols"]["knn"]["settings"] = {"images": 3, "list": "of this seed"}  # which follow from what was drawn
    file.write_text(json.dumps(found))
    small.main("--collect")
    assert "Not averaged" not in capsys.readouterr().out
    found["protocols"]["knn"]["settings"] = {"k": 1}
    file.write_text(json.dumps(found))
    capsys.readouterr()
    small.main("--collect")
    assert "Not averaged: simclr-0 (other settings of knn)." in capsys.readouterr().out
    kept = ledger.from_csv((small.folder / "runs.csv").read_text())  # says it, too
    assert [run.settings for run in kept] == [run.settings for run in ledger.read_all(small.folder)]
    assert len({run.settings["knn"] for run in kept}) == 2


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("diverged", [["simclr-0"], ["simclr-0", "simclr-1", "sdclr-0"]])
def test_a_run_that_diverged_counts_as_that_on_images_that_are_not_the_published_ones(small, known, diverged):
    copies = {"published": False, "sha256": next(iter(ledger.COPIES))}
    for run in lists.load(str(small.file)).runs():
        data = {"images": 369, "sha256": "a" * 64} | ({"provenance": copies} if known else {})
        results = results_of(jobs.config_of(run.job), 0.5, **copies)
        small.about(run.job.name, data=data, results=results, diverges=run.job.name in diverged)
    small.main("--run")
    table = lists.load(str(small.file))
    found = collected.collect(table, ledger.read_all(small.folder), table.runs())
    assert sorted(name for line in found.lines for name in line.diverged) == sorted(diverged)
    assert sum(len(line.done) for line in found.lines) == 4 - len(diverged)
    assert found.data == "cifar10 (JPEG copies)"
    assert not any(line.listed for line in found.lines)


def test_runs_that_are_missing_are_said_and_never_kept_in_place_of_more(small, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(documents, "fill", list)
    small.main("--run")
    small.main("--collect", "--keep")
    (small.folder / "simclr-1").rename(tmp_path / "moved")
    capsys.readouterr()
    files = [folder / "runs.csv" for folder in (small.folder, tmp_path / "results" / "small")]
    before = [file.read_text() for file in files]
    for options in ((), ("--keep",)):
        with pytest.raises(SystemExit, match=r"has runs that would be lost \(simclr-1\), so nothing was written: coll"):
            small.main("--collect", *options)
        assert "Not run: 1 of 2 of simclr." in capsys.readouterr().out
        assert [file.read_text() for file in files] == before
    files[0].unlink()
    small.main("--collect")
    with pytest.raises(SystemExit, match=r"results/small/runs.csv has runs that would be lost \(simclr-1\)"):
        small.main("--collect", "--keep")
    assert files[1].read_text() == before[1]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"a": 1}', "method is not what it should be"),
        ("[]", "not an object of fields"),
        ("", "not complete JSON"),
        ('"epochs"', "epochs is not what it should be"),
    ],
)
def test_a_folder_that_is_no_run_is_named_if_it_is_one_of_the_table(small, content, said):
    small.main("--run", "--index=0")
    config = small.folder / "simclr-0" / "config.json"
    if content == '"epochs"':  # hand-edited: a text in place of a number
        content = json.dumps(json.loads(config.read_text()) | {"epochs": "4"})
    (small.folder / "foreign").mkdir()
    (small.folder / "foreign" / "config.json").write_text(content)
    small.main("--collect")  # it is none of the table's
    config.write_text(content)
    for what in ("--plan", "--collect", "--run"):
        with pytest.raises(SystemExit, match=rf"simclr-0/config.json cannot be used \({said}\): put it back"):
            small.main(what)


def test_a_line_of_metrics_without_an_epoch_is_no_end(small):
    small.main("--run", "--index=0")
    (small.folder / "simclr-0" / "results.json").unlink()
    with (small.folder / "simclr-0" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 21, "epoch": null}\n')
    assert ledger.read(small.folder / "simclr-0").state == ledger.BEGUN


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("0.5", "half", "line 2: could not convert string to float: 'half'"),
        ("0.5", "nan", r"line 2: metrics.loss is no finite number|line 2: knn.all is no finite number"),
        ("run,", "walk,", "line 2: .*walk"),
        (None, "", "it has no run"),
    ],
)
def test_a_committed_file_that_is_damaged_is_named(tmp_path, old, new, said):
    run = ledger.Finished(run="simclr-0", state="done", method="simclr", seed=0, scores={"knn.all": 0.5})
    text = ledger.to_csv([run])
    (tmp_path / "runs.csv").write_text("" if old is None else text.replace(old, new, 1))
    with pytest.raises(UserError, match=rf"runs.csv cannot be used \(({said})"):
        ledger.read_all(tmp_path)
