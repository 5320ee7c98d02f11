"""Tables as lists of runs: planned, priced, run, interrupted, resumed."""

import csv
import fcntl
import json
import pathlib
import re
from dataclasses import replace

import documents
import jobs
import ledger
import lists
import prices
import pytest
import tables
import throughput

from sdclr_jax import records
from sdclr_jax.errors import UserError
from sdclr_jax.reports import published
from tests import played_table
from tests.played_table import TABLE
from tests.test_launch import played  # noqa: F401


@pytest.fixture
def small(tmp_path, monkeypatch):
    return played_table.small(tmp_path, monkeypatch)


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
    ended, calls, _ = played("slurm_array.sh", "cifar10_lt", "--out=/shared", commands=commands, **environment)
    assert ended == status
    assert calls[0] == "srun python experiments/tables.py cifar10_lt --out=/shared --run --index=3"
    assert calls[1:] == (["scontrol requeue 7_3"] if queued_again else [])


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
