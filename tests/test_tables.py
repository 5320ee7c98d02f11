"""Tables as lists of runs: planned, priced, run, interrupted, resumed, collected; and the documents made of them.

`sdclr` is played by a script that writes a run's folder as the real one does, since what is looked at is who starts it,
when, and what becomes of what it wrote.
"""

import csv
import fcntl
import json
import pathlib
import re
import shutil
import sys
from dataclasses import replace

import pytest

from sdclr_jax import recipes, records
from sdclr_jax.errors import UserError
from sdclr_jax.reports import published
from tests.test_launch import played  # noqa: F401

ROOT = pathlib.Path(__file__).parents[1]
sys.path.append(str(ROOT / "experiments"))

import collected  # noqa: E402
import documents  # noqa: E402
import jobs  # noqa: E402
import ledger  # noqa: E402
import lists  # noqa: E402
import prices  # noqa: E402
import tables  # noqa: E402
import throughput  # noqa: E402

TABLE = """
title = "Two methods on a few digits"
about = "A line."
seeds = [0, 1]
draws = true
images = { train = 369 }
fields = { epochs = 4, "model.width" = 2 }
column = [{ title = "k-NN", score = "knn.all" }, { title = "warned of", score = "warnings" }]
row = [
    { name = "simclr", label = "SimCLR", config = "digits_lt:simclr" },
    { name = "sdclr", config = "digits_lt:sdclr", fields = { "prune.rate" = 0.7 } },
]
"""
# Trains an epoch at a time; the file `stop` lets it ask its caller for a stop after the second, as a scheduler would.
PLAYED = """
import json, os, pathlib, signal, sys, time
known = pathlib.Path(sys.argv[1]); command, *argv = sys.argv[2:]
given = [arg.partition("=")[2] for arg in argv if arg.startswith("--workdir=")] or argv
folder = pathlib.Path(given[0])
about = json.loads((known / f"{folder.name}.json").read_text())
with (known / "calls").open("a") as calls:
    print(command, folder.name, file=calls)
if command == "evaluate":
    (folder / "results.json").write_text(json.dumps(about["results"]))
    sys.exit()
folder.mkdir(exist_ok=True)
for name in ("config", "versions", "data"):
    (folder / f"{name}.json").write_text(json.dumps(about[name]))
lines = folder / "metrics.jsonl"
done = len(lines.read_text().splitlines()) if lines.exists() else 0
for epoch in range(done + 1, 5):
    with lines.open("a") as file:
        line = {"step": 5 * epoch, "epoch": epoch, "loss": 1.0, "images_per_second": 9.0, "seconds": epoch}
        print(json.dumps(line), file=file)
    (folder / "saved.json").write_text(json.dumps({"format": 1, "step": 5 * epoch}))
    if epoch == 2 and about["diverges"]:
        said = {"step": 11, "epoch": 2.2, "cause": "diverged", "message": "the loss is nan"}
        (folder / "warnings.jsonl").write_text(json.dumps(said) + "\\n")
        sys.exit(1)
    if epoch == 2 and (known / "stop").exists():
        (known / "stop").unlink()
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
        os.kill(os.getppid(), signal.SIGUSR1)
        time.sleep(60)
"""


def results_of(config, score: float, **provenance) -> dict:
    groups = ["many", "medium", "few"]
    found = {"settings": {}, "found": [], "per_class": [score] * 3, "validation_accuracy": None}
    found |= {"all": score, "many": score, "medium": score, "few": score, "std": 0.0}
    lists_ = {"train": "a" * 64}
    data = {"name": config.data.name, "subset": "long_tail", "split": 0, "seed": config.data.seed, "lists": lists_}
    data |= {"class_names": ["a", "b", "c"], "train_counts": [9, 5, 1], "group_rule": "thirds", "groups": groups}
    data |= {"provenance": provenance or None}
    run = {"method": config.method, "seed": config.seed, "step": 20, "epoch": 4.0}
    protocols = dict.fromkeys(config.evaluate.protocols, found)
    return {"format": 1, "run": run, "data": data, "encoder_checksum": 1, "protocols": protocols}


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A table of four tiny runs, `sdclr` played: calls() lists what it was asked; about(name, ...) changes a run."""
    path, known = tmp_path / "small.toml", tmp_path / "known"
    path.write_text(TABLE)
    known.mkdir()
    (tmp_path / "played.py").write_text(PLAYED)
    monkeypatch.setattr(jobs, "SDCLR", [sys.executable, str(tmp_path / "played.py"), str(known)])
    table = lists.load(str(path))
    for number, run in enumerate(table.runs()):
        config = jobs.config_of(run.job)
        about = {
            "config": json.loads(config.to_json()),
            "versions": {"commit": "1" * 40, "hardware": "a toaster", "devices": "1 x cpu", "jax": "0.0"},
            "data": {"images": 369, "sha256": "a" * 64},
            "results": results_of(config, 0.5 + number / 10),
            "diverges": False,
        }
        (known / f"{run.job.name}.json").write_text(json.dumps(about))

    class Small:
        out, stop, file = tmp_path / "runs", known / "stop", path
        folder = tmp_path / "runs" / "small"

        def main(self, *options):
            tables.main([str(path), f"--out={self.out}", *options])

        def calls(self):
            return (known / "calls").read_text().splitlines() if (known / "calls").exists() else []

        def about(self, name, **changes):
            file = known / f"{name}.json"
            file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return Small()


def test_all_tables_are_priced_together_and_a_run_of_two_of_them_once(capsys):
    tables.main(["--plan"])
    said = capsys.readouterr().out
    together = said.rpartition(f"# {len(lists.names())} tables\n")[2]
    names = [lists.load(name) for name in lists.names()]
    folders = {(table.folder or table.name, run.job.name) for table in names for run in table.runs()}
    assert len(folders) < sum(len(table.runs()) for table in names)
    hours = r"[\d,]+ core hours on .+\n"
    assert re.fullmatch(rf"# in all: {len(folders)} runs, {hours}# left: \d+ runs, {hours}", together)
    assert all(f"# {table.title}: {len(table.runs())} runs" in said for table in names)


def test_a_table_is_planned_run_interrupted_resumed_and_collected(small, capsys, tmp_path, monkeypatch):
    small.about("sdclr-1", diverges=True)
    small.main("--plan")
    said = capsys.readouterr().out
    assert "# 1: sdclr-0, not run, price not measured" in said
    assert (
        "sdclr pretrain --config=digits_lt:sdclr --config.seed=0 --config.data.seed=0 --config.epochs=4 "
        f"--config.model.width=2 --config.prune.rate=0.7 --workdir={small.folder}/sdclr-0\n"
        f"sdclr evaluate {small.folder}/sdclr-0\n"
    ) in said

    small.stop.touch()
    with pytest.raises(SystemExit) as end:
        small.main("--run")
    assert end.value.code == 75
    assert small.calls() == ["pretrain simclr-0"]
    assert len((small.folder / "simclr-0" / "metrics.jsonl").read_text().splitlines()) == 2
    capsys.readouterr()
    small.main("--collect")
    assert "simclr-0 is under way." in capsys.readouterr().out

    small.main("--run")
    first = ["pretrain simclr-0", "evaluate simclr-0", "pretrain sdclr-0", "evaluate sdclr-0"]
    assert small.calls()[1:] == [*first, "pretrain simclr-1", "evaluate simclr-1", "pretrain sdclr-1"]
    epochs = [line["epoch"] for line in records.read_metrics(small.folder / "simclr-0" / "metrics.jsonl")]
    assert epochs == [1, 2, 3, 4]
    assert "sdclr-1 diverged" in capsys.readouterr().err

    small.main("--run")
    assert len(small.calls()) == 8
    assert "4 of 4 runs were there already" in capsys.readouterr().err
    small.main("--plan")
    assert "# left: 0 runs" in capsys.readouterr().out

    small.main("--collect")
    assert (small.folder / "table.md").read_text().splitlines() == [
        "|                         | k-NN        | warned of   |",
        "|-------------------------|-------------|-------------|",
        "| SimCLR                  | 60.0 ± 14.1 | none        |",
        "| sdclr (1 of 2 diverged) | 60.0        | none        |",
        "",
        "Averaged: runs of commit 1111111.",
        "",
        "sdclr-1 diverged.",
    ]
    with (small.folder / "ledger.csv").open() as file:
        simclr, _, sdclr, _ = csv.DictReader(file)
    assert (simclr["ours"], simclr["n"], simclr["planned"], simclr["paper"]) == ("60.0", "2", "2", "")
    assert (sdclr["n"], sdclr["diverged"], sdclr["not_run"]) == ("1", "1", "0")
    assert (sdclr["commit"], sdclr["data"], sdclr["hardware"]) == ("1" * 40, "digits", "a toaster, 1 x cpu")
    monkeypatch.setattr(documents, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(documents, "fill", list)
    small.main("--collect", "--keep")
    (small.out / "small").rename(tmp_path / "gone")
    small.out = tmp_path / "results"  # the committed file makes the same table as the folders
    capsys.readouterr()
    small.main("--collect")
    assert (tmp_path / "gone" / "table.md").read_text() in capsys.readouterr().out
    kept = ledger.from_csv((tmp_path / "gone" / "runs.csv").read_text())
    assert [(run.run, run.state, run.seconds) for run in kept] == [
        ("sdclr-0", "done", 4.0), ("sdclr-1", "diverged", 2.0), ("simclr-0", "done", 4.0), ("simclr-1", "done", 4.0),
    ]  # fmt: skip


def test_a_task_of_an_array_runs_its_run_alone_and_none_that_another_is_at(small, capsys):
    small.main("--run", "--index=3")
    assert small.calls() == ["pretrain sdclr-1", "evaluate sdclr-1"]
    with (small.folder / "simclr-1.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(SystemExit) as end:
            small.main("--run", "--index=2")
    assert end.value.code == 75
    assert "simclr-1: another process is at it" in capsys.readouterr().err
    assert len(small.calls()) == 2
    with pytest.raises(SystemExit, match="--index is 4: there are 4 runs, 0 to 3"):
        small.main("--run", "--index=4")


@pytest.mark.parametrize(("status", "queued_again"), [(0, False), (1, False), (75, True)])
def test_a_task_that_stopped_and_saved_is_queued_again(played, status, queued_again):  # noqa: F811
    environment = {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_JOB_ID": "7"}
    commands = {"srun": f"exit {status}", "scontrol": ""}
    ended, calls = played("slurm_array.sh", "cifar10_lt", "--out=/shared", commands=commands, **environment)
    assert ended == status
    assert calls[0] == "srun python experiments/tables.py cifar10_lt --out=/shared --run --index=3"
    assert calls[1:] == (["scontrol requeue 7_3"] if queued_again else [])


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


def test_images_that_are_not_the_published_ones_have_another_name():
    def name(**provenance):
        return ledger._called("cifar10", provenance)

    assert name(published=True, sha256="0") == "cifar10"
    assert name(published=False, sha256="0123456789") == "cifar10 (not as published: 01234567)"
    for copies in ledger.COPIES:
        assert name(published=False, sha256=copies) == "cifar10 (JPEG copies)"
        assert ledger.named(f"cifar10 (not as published: {copies[:8]})") == "cifar10 (JPEG copies)"
    assert ledger.named("cifar10 (not as published: 01234567)") == "cifar10 (not as published: 01234567)"


def test_each_list_is_sound_and_what_two_share_is_the_same_run():
    seen = {}
    for name in lists.names():
        table = lists.load(name)
        for run in table.runs():
            assert seen.setdefault((table.folder or name, run.job.name), run.job) == run.job
        assert not table.paper or {row.paper for row in table.rows} >= {"simclr", "sdclr"}
    for name in ("cifar10_lt", "cifar100_lt", "imagenet100_lt"):
        table, paper = lists.load(name), published.DATA_SETS[lists.load(name).paper]
        assert table.images["train"] == paper.images
        assert (len(table.splits) or 1) == paper.splits
        # What stands beside a figure has the recipe of that figure.
        beside = [run for run in table.runs()[: len(table.rows)] if run.row.paper in paper.recipe_of]
        assert {run.row.paper for run in beside} == {"simclr", "sdclr"}
        for run in beside:
            fields = records.flat(json.loads(jobs.config_of(run.job).to_json()))
            recipe = dict(paper.recipe) | dict(paper.recipe_of[run.row.paper])
            assert {name: fields[name] for name in recipe} == recipe


def test_the_papers_figures_are_those_that_are_at_hand_and_no_others():
    text = documents.table_of("cifar10_lt")
    (line,) = [x for x in text.splitlines() if x.startswith("| SDCLR ") and "82.00" in x]
    assert [cell.strip() for cell in line.split("|")[2:9]] == [
        "paper", "5", "82.00", "86.44 ± 3.12", "81.84 ± 4.78", "76.23 ± 6.29", "not at hand",
    ]  # fmt: skip
    known = [x for x in text.splitlines() if "| paper" in x and "balanced" in x]
    assert len(known) == 2 and all(x.count("not at hand") == 5 for x in known)


def test_a_price_is_images_over_the_nearest_measured_rate():
    table = lists.load("cifar10_lt")
    run = table.runs()[-1]
    trained, encoded = prices.images(table, run)
    assert (trained, encoded) == (2000 * 11_165, 30 * 45_000 + 100 * 450 + 15_000)
    line = throughput.Rate(
        "a chip", "chip", "simclr", "resnet18", "64", "32", "512", "float32", "1000", "3", "", "", "", ""
    )
    rates = [line, line._replace(method="sdclr", batch_size="64", images_per_second="500")]
    rates += [line._replace(width="32", images_per_second="9"), line._replace(dtype="bfloat16", hardware="another")]
    (price,) = prices.prices(table, run, rates)
    assert price.hours == pytest.approx((trained + encoded / 6) / 500 / 3600)
    assert price[:2] == ("a chip", "chip") and price.by == "sdclr at batch 64"
    (exact,) = prices.prices(table, run, [*rates, line._replace(method="sdclr", images_per_second="2000")])
    assert (exact.by, exact.hours) == ("", pytest.approx(price.hours / 4))
    assert prices.total([[price], [price, exact._replace(hardware="b")]]) == {("a chip", "chip"): 2 * price.hours}
    assert prices.prices(table, run, rates[2:]) == []
    (newer,) = prices.prices(table, run, [*rates, rates[1]._replace(images_per_second="1000")])
    assert newer.hours == pytest.approx(price.hours / 2)  # the last of two lines on the same thing


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("nmae", "has nmae, which is no field of a row: the nearest is name"),
        ("no rows", "has no row: add one"),
        ("twice", "rows has simclr twice"),
        ("not toml", "cannot be read as a table"),
        ("seeds = 3", "seeds is not what it should be"),
        ("seeds = []", "seeds is empty"),
        ("seeds = [0, 0]", "seeds has 0 twice"),
        ("seeds = [-1]", "seeds is not what it should be"),
        ("images = { test = 3 }", "it lacks images.train"),
        ("fields = { seed = 3 }", "fields has seed, which seeds set"),
        ("draws", "fields has data.seed, which seeds set"),
        ('about = "A line."\npaper = "cifar"', "paper is cifar: known are cifar10, cifar100"),
        ("row = 3", "rows is not what it should be"),
        ("lacks", "it lacks rows.config"),
    ],
)
def test_a_list_that_is_wrong_is_refused(tmp_path, change, said):
    field = change.partition(" = ")[0]
    line = next((line for line in TABLE.splitlines() if line.startswith(f"{field} = ")), "")
    rows = TABLE.partition("row = [")[0]
    text = {
        "lacks": rows + '[[row]]\nname = "simclr"\n',
        "row = 3": f"row = 3\n{rows}",
        "nmae": TABLE.replace("{ name", "{ nmae", 1),
        "draws": TABLE.replace('"prune.rate" = 0.7', '"data.seed" = 7'),
        "no rows": TABLE.partition("row = [")[0],
        "twice": TABLE.replace('"sdclr"', '"simclr"', 1),
        "not toml": TABLE + "= 3",
    }.get(change, TABLE.replace(line, change, 1))
    (tmp_path / "bad.toml").write_text(text)
    with pytest.raises(UserError, match=said):
        lists.load(str(tmp_path / "bad.toml"))


def test_what_is_missing_or_unknown_is_said_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.delenv("CIFAR10_LISTS", raising=False)
    out = f"--out={tmp_path / 'runs'}"
    for argv, said in [
        (["cifar10_lt", "--run"], "CIFAR10_LISTS is not set: export CIFAR10_LISTS=FOLDER, a folder with the files"),
        (["cifar_lt", "--run"], "there is no table cifar_lt: the nearest is cifar10"),
        (["cifar10_lt", "--run", "--config.epoch=3"], "the nearest is --config.epochs"),
        (["cifar10_lt", "--run", "--seeds=a"], "--seeds is a: give whole numbers"),
        (["cifar10_lt", "--run", "--seeds=1,1"], "--seeds is 1,1: give each number once"),
        (
            ["cifar10_lt", "--run", "--config.data.split=3"],
            "would make repeats in cifar10_lt the same run: give --splits",
        ),
        (["methods_table", "--run", "--config.data.seed=7"], "same run: give --seeds"),
        (["cifar10_lt", "--run", "--rows=sdclr,sdclrr"], "there is no row sdclrr, the nearest is sdclr"),
        (["cifar10_lt", "--run", "--splits=1,7"], "there is no split 7, those there are 1, 2, 3, 4, 5"),
        (["methods_table", "--run", "--splits=1"], "there is no split 1, these tables have none"),
        (["methods_table", "--collect", "--rows=sdclr"], "--rows and --splits are for --plan and --run"),
        (
            ["methods_table", "--run", "--config.model.start=weights"],
            "model.start_sha256 is empty: give what sha256sum",
        ),
        (["methods_table", "--collect", "--keep", "--seeds=1"], "--keep is for a table as it stands"),
        (["methods_table", "--collect", "--keep", "--commit=1"], "--keep is for a table as it stands"),
        (["--run"], "name a table"),
    ]:
        with pytest.raises(SystemExit, match=said):
            tables.main([*argv, out])
    for wrong in (["--at_a_time=0", out], ["--out=gs://bucket/runs"], ["--out=s3://bucket/runs"]):
        with pytest.raises(SystemExit) as end:
            tables.main(["methods_table", "--run", *wrong])
        assert end.value.code == 2
    assert not (tmp_path / "runs").exists()
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(SystemExit, match="runs"):
        tables.main(["methods_table", "--run", out])


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """What `jobs.run` is asked to run: (folder, names); in a folder that has no runs."""
    found = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(jobs, "run", lambda own, out, at_a_time: found.append((out, [job.name for job in own])))
    return found


def test_several_tables_are_counted_through_and_looked_at_before_the_first_one_is_run(
    tmp_path, monkeypatch, capsys, asked
):
    fields = 'fields = { epochs = 4, "data.lists" = "$OTHER_LISTS" }'
    (tmp_path / "one.toml").write_text(TABLE)
    (tmp_path / "two.toml").write_text(re.sub("^fields = .*", fields, TABLE, flags=re.MULTILINE))
    names, out = [str(tmp_path / f"{name}.toml") for name in ("one", "two")], tmp_path / "runs"
    monkeypatch.delenv("OTHER_LISTS", raising=False)
    with pytest.raises(SystemExit, match="OTHER_LISTS is not set"):
        tables.main([*names, "--run"])
    assert asked == []
    monkeypatch.setenv("OTHER_LISTS", "lists")
    tables.main([*names, "--plan"])
    found = re.findall(r"^# (\d+): (\S+),", capsys.readouterr().out, re.MULTILINE)
    assert [int(number) for number, _ in found] == list(range(8))
    tables.main([*names, *names, "--run", "--index=5", f"--out={out}", "--seeds=0,1", "--config.epochs=9"])
    assert asked == [(out / "two", [found[5][1]])]
    again = f"{names[0]} {names[1]} --out={out} --seeds=0,1 --config.epochs=9 --collect\n"
    assert capsys.readouterr().out.endswith(f"The table: python experiments/tables.py {again}")


def test_one_row_or_one_split_is_planned_and_run(monkeypatch, capsys, asked):
    monkeypatch.setenv("CIFAR10_LISTS", "lists")
    only = ("cifar10_lt", "--rows=sdclr,simclr", "--splits=3,1")
    tables.main([*only, "--run"])
    assert asked == [(pathlib.Path("runs/cifar10_lt"), ["simclr-3", "sdclr-3", "simclr-1", "sdclr-1"])]
    tables.main([*only, "--run", "--index=3"])
    assert asked[1][1] == ["sdclr-1"]
    capsys.readouterr()
    tables.main([*only, "--plan"])
    assert "# 3: sdclr-1, not run" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="no run is of --rows=untrained and --splits=1: give others"):
        tables.main(["cifar10_lt", "methods_table", "--run", "--rows=untrained", "--splits=1"])


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


def test_the_command_that_measures_a_price_has_the_fields_that_it_depends_on(tmp_path, capsys):
    fields = 'fields = { epochs = 4, batch_size = 128, "model.width" = 2, "views.shift" = 2.0 }'
    (tmp_path / "one.toml").write_text(re.sub("^fields = .*", fields, TABLE, flags=re.MULTILINE))
    tables.main([str(tmp_path / "one.toml"), "--plan", "--config.model.dtype=bfloat16"])
    (command,) = [line for line in capsys.readouterr().out.splitlines() if "throughput.py" in line]
    assert command.split("throughput.py ")[1] == (
        "--config=digits_lt:sdclr --config.batch_size=128 --config.model.width=2 --config.views.shift=2.0 "
        "--config.model.dtype=bfloat16 --steps=20"
    )


def test_the_folder_of_a_run_is_the_same_whatever_other_seeds_are_run(capsys):
    def names(*seeds):
        return [
            run.job.name for run in replace(lists.load("cifar10_lt"), seeds=seeds).runs() if run.row.name == "sdclr"
        ]

    assert names(0) == ["sdclr-1", "sdclr-2", "sdclr-3", "sdclr-4", "sdclr-5"]
    assert names(0, 1) == [*names(0), *names(1)] and not set(names(0)) & set(names(1))


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


def test_a_run_is_there_if_its_config_and_its_protocols_are(small):
    (job, *_) = [run.job for run in lists.load(str(small.file)).runs()]
    assert jobs.settled(job, small.folder) is None
    small.main("--run", "--index=0")
    assert jobs.settled(job, small.folder).state == "done"
    other = job._replace(fields=(*job.fields, "--config.optimizer.learning_rate=0.3"))
    assert jobs.settled(other, small.folder) is None
    more = job._replace(fields=(*job.fields, "--config.evaluate.protocols=('knn', 'ridge')"))
    assert jobs.settled(more, small.folder) is None


def test_a_run_is_planned_as_it_would_be_run(small, capsys):
    small.main("--run", "--index=0")
    for fields, said in [
        ((), "# 0: simclr-0, done,"),
        (("--config.optimizer.learning_rate=0.3",), "# 0: simclr-0, of another config,"),
        (("--config.evaluate.protocols=('knn', 'ridge')",), "# 0: simclr-0, not evaluated by ridge,"),
    ]:
        capsys.readouterr()
        small.main("--plan", *fields)
        out = capsys.readouterr().out
        assert said in out
        assert f"# left: {4 if fields else 3} runs" in out


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
