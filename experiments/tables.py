"""Tables as lists of runs: what they cost, the runs themselves, and what came of them beside the paper's figures.

    python experiments/tables.py                          the tables there are
    python experiments/tables.py [NAME ...] --plan        commands, prices, and what is there already; all tables
    python experiments/tables.py NAME ... --run           run what is left, on this machine
    python experiments/tables.py NAME ... --run --index=N run the N-th run alone, from 0, as a task of an array
    python experiments/tables.py NAME ... --collect       the table, and the ledger, of the runs that are there
    python experiments/tables.py --collect                fill the README's and docs' tables from committed runs

--run goes on where it stopped. --config.FIELD=VALUE changes a field of every run; --rows=NAME,... and --splits=N,...
plan or run these alone. docs/reproduce.md says more.
"""

import argparse
import difflib
import pathlib
import re
import shlex
import sys
import time
from collections.abc import Collection
from dataclasses import replace
from typing import NamedTuple

import collected
import documents
import jobs
import ledger
import lists
import prices
import throughput
from tabulate import tabulate

from sdclr_jax import files
from sdclr_jax.errors import UserError

OUT = pathlib.Path("runs")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="a table of experiments/lists, or a file NAME.toml")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--plan", action="store_true")
    what.add_argument("--run", action="store_true")
    what.add_argument("--collect", action="store_true")
    parser.add_argument("--out", type=jobs.on_disk, default=OUT, help="where the runs' folders are")
    parser.add_argument("--index", type=int, help="of --run: the one run to run, from 0")
    parser.add_argument(
        "--at_a_time", type=jobs.at_least_one, default=1, help="of --run: how many runs share this machine"
    )
    parser.add_argument("--seeds", help="other seeds than the table's, such as 0,1,2")
    parser.add_argument("--rows", help="of --plan and --run: these rows alone, such as simclr,sdclr")
    parser.add_argument("--splits", help="of --plan and --run: these splits alone, such as 1,2")
    parser.add_argument(
        "--commit",
        default="",
        help="of --collect: average runs of this one; default: that of most runs, clean ones first",
    )
    parser.add_argument("--keep", action="store_true", help="of --collect: put them into experiments/results, too")
    options, fields = parser.parse_known_args(argv)
    options.names = list(dict.fromkeys(options.names))
    if strange := [field for field in fields if not field.startswith(("--config.", "--noconfig."))]:
        parser.error(f"there is no option {strange[0]}: fields are changed with --config.FIELD=VALUE")
    try:
        _do(options, tuple(fields))
    except (UserError, OSError) as error:
        sys.exit(f"tables.py: {error}")


def _do(options: argparse.Namespace, fields: tuple[str, ...]) -> None:
    if options.keep and (options.seeds or options.commit or fields):
        raise UserError("--keep is for a table as it stands, without --seeds, --commit and --config.FIELD=VALUE")
    if options.collect and (options.rows or options.splits):
        raise UserError("--rows and --splits are for --plan and --run: a table is collected with all of its rows")
    tables = _tables(options)
    runs = [(table, run) for table in tables for run in table.runs(fields)]
    for job in {(table.name, run.row.name): run.job for table, run in runs}.values():
        jobs.config_of(job)  # which refuses fields that do not exist, before anything is written
    if not tables and options.collect:
        for path in documents.fill():
            print(f"wrote {path.relative_to(jobs.ROOT)}")
    elif not tables and not options.run:
        listed = [lists.load(name) for name in lists.names()]
        print(tabulate([[table.name, table.title, len(table.runs())] for table in listed], ["table", "what", "runs"]))
    elif not tables:
        raise UserError(f"name a table: known are {', '.join(lists.names())}")
    elif options.run:
        _run(options, fields, runs)
    elif options.collect:
        for table in tables:
            _collect(table, table.runs(fields), options)
    else:
        of_all: dict[pathlib.Path, _Priced] = {}  # a run of two tables is one run
        number = 0
        for table in tables:
            own = table.runs(fields)
            of_all |= _plan(table, own, options.out, number)
            number += len(own) if options.names else 0  # as --index counts, which takes names
        if len(tables) > 1:
            print(f"\n# {len(tables)} tables")
            _say_totals(list(of_all.values()))


def _tables(options: argparse.Namespace) -> list[lists.Table]:
    """The tables that are named, with the seeds, the rows and the splits that are asked for."""
    tables = [lists.load(name) for name in options.names or (lists.names() if options.plan else ())]
    if options.seeds:
        tables = [replace(table, seeds=_numbers("seeds", options.seeds)) for table in tables]
    if options.rows and tables:
        rows, known = options.rows.split(","), [row.name for table in tables for row in table.rows]
        if unknown := [name for name in rows if name not in known]:
            near = difflib.get_close_matches(unknown[0], known, n=1, cutoff=0)[0]
            raise UserError(f"--rows is {options.rows}: there is no row {unknown[0]}, the nearest is {near}")
        tables = [replace(table, rows=tuple(row for row in table.rows if row.name in rows)) for table in tables]
    if options.splits and tables:
        splits, known = _numbers("splits", options.splits), sorted({n for table in tables for n in table.splits})
        if unknown := [n for n in splits if n not in known]:
            there = f"those there are {', '.join(map(str, known))}" if known else "these tables have none"
            raise UserError(f"--splits is {options.splits}: there is no split {unknown[0]}, {there}")
        tables = [replace(table, splits=tuple(n for n in splits if n in table.splits)) for table in tables]
        tables = [table for table in tables if table.splits]
    tables = [table for table in tables if table.rows]
    if options.names and not tables:
        raise UserError(f"no run is of --rows={options.rows} and --splits={options.splits}: give others")
    return tables


def _numbers(name: str, text: str) -> tuple[int, ...]:
    if not re.fullmatch(r"\d+(,\d+)*", text):
        raise UserError(f"--{name} is {text}: give whole numbers with commas, such as 0,1,2")
    numbers = tuple(map(int, text.split(",")))
    if len(set(numbers)) < len(numbers):
        raise UserError(f"--{name} is {text}: give each number once")
    return numbers


class _Priced(NamedTuple):
    prices: list[prices.Price]
    left: bool


def _folder(table: lists.Table, out: pathlib.Path) -> pathlib.Path:
    return out / (table.folder or table.name)


def _plan(table: lists.Table, runs: list[lists.Planned], out: pathlib.Path, first: int) -> dict[pathlib.Path, _Priced]:
    """Print the plan of a table, whose runs have numbers from `first` on; their prices, by their folders."""
    rates, folder = throughput.read(), _folder(table, out)
    print(f"# {table.title}: {len(runs)} runs\n#")
    for line in table.about.strip().splitlines():
        print(f"# {line}")
    for variable, what in table.places.items():
        print(f"export {variable}=FOLDER  # {what}")
    of_each: dict[pathlib.Path, _Priced] = {}
    unpriced: dict[tuple[str, ...], jobs.Job] = {}  # on accelerators: a job of each shape
    for number, run in enumerate(runs, start=first):
        found, price = ledger.read(folder / run.job.name), prices.prices(table, run, rates)
        left = jobs.left(run.job, folder, found) if found else "not run"
        state = left or found.state
        cost = (
            "; ".join(f"{prices.shown(p.hours)} {p.unit} hours on {p.hardware}" for p in price) or "price not measured"
        )
        print(f"\n# {number}: {run.job.name}, {state}, {cost}")
        print("\n".join(run.job.commands(folder)))
        of_each[folder / run.job.name] = _Priced(price, bool(left))
        if not any(p.unit == "chip" for p in price):
            kind = throughput.kind(jobs.config_of(run.job))
            unpriced[tuple(kind[name] for name in prices.SHAPE)] = run.job
    print()
    _say_totals(list(of_each.values()))
    notes = {price.by: None for run in of_each.values() for price in run.prices if price.by}
    if notes:
        print(f"# priced by the nearest rate there is: {'; '.join(notes)}")
    if unpriced:
        print("# on an accelerator: not measured; there, this adds a line to experiments/results/throughput.csv:")
    for job in unpriced.values():
        own = [field for field in job.fields if re.match(r"--config\.(model\.(?!start)|views\.|batch_size=)", field)]
        config = f"--config={job.config.replace('.py', '')}"
        print(" ".join(["#   python experiments/throughput.py", config, *map(jobs.quoted, own), "--steps=20"]))
    return of_each


def _say_totals(runs: list[_Priced]) -> None:
    for what, of in (("in all", runs), ("left", [run for run in runs if run.left])):
        found = prices.total([run.prices for run in of])
        hours = [f"{prices.shown(h)} {unit} hours on {hardware}" for (hardware, unit), h in found.items()]
        print(f"# {what}: {len(of)} runs, {'; '.join(hours) if hours or not of else 'price not measured'}")


def _run(options: argparse.Namespace, fields: tuple[str, ...], runs: list[tuple[lists.Table, lists.Planned]]) -> None:
    began = time.perf_counter()
    if options.index is not None:
        if not 0 <= options.index < len(runs):
            raise UserError(f"--index is {options.index}: there are {len(runs)} runs, 0 to {len(runs) - 1}")
        runs = runs[options.index : options.index + 1]
    of_table: dict[str, tuple[lists.Table, list[jobs.Job]]] = {}
    for table, run in runs:
        of_table.setdefault(table.name, (table, []))[1].append(run.job)
    placed = [(table, lists.placed(own, table)) for table, own in of_table.values()]  # all, before the first one begins
    for table, own in placed:
        jobs.run(own, _folder(table, options.out), at_a_time=options.at_a_time)
    same = [f"--out={options.out}"] * (options.out != OUT) + [f"--seeds={options.seeds}"] * bool(options.seeds)
    again = shlex.join([*options.names, *same, *fields, "--collect"])
    print(f"{jobs.minutes_since(began)}. The table: python experiments/tables.py {again}")


def _collect(table: lists.Table, runs: list[lists.Planned], options: argparse.Namespace) -> None:
    source = _folder(table, options.out)
    there = ledger.read_all(source, only={run.job.name for run in runs}, beside=table.name)
    found = collected.collect(table, there, runs, options.commit)
    text = collected.markdown(found)
    print(text)
    if not there:
        return
    scores = dict.fromkeys(n for run in there for n in run.scores if not n.startswith("metrics."))
    scores |= dict.fromkeys(column.score for column in table.columns if column.score != lists.WARNED)
    contents = {"runs.csv": ledger.to_csv(there, scores), "table.md": text, "ledger.csv": collected.to_csv(found)}
    own, kept = options.out / table.name, documents.RESULTS / table.name
    _check_none_is_lost(own, there, source)
    if options.keep:
        _check_none_is_lost(kept, there)
    for folder in (own, *[kept] * options.keep):
        for name, content in contents.items():
            files.write(folder / name, content.encode())
        print(f"wrote {', '.join(str(folder / name) for name in contents)}")
    if options.keep:
        documents.fill()


def _check_none_is_lost(folder: pathlib.Path, there: list[ledger.Finished], source: pathlib.Path | None = None) -> None:
    """Refuse to write over a runs.csv with runs that have ended and are neither `there` nor in folders of `source`."""
    ends = (ledger.DONE, ledger.OVER)
    before = {run.run for run in ledger.read_kept(folder).values() if run.state in ends}
    lost = before - {run.run for run in there if run.state in ends}
    if lost := sorted(run for run in lost if source is None or not _ended(source / run, ends)):
        raise UserError(
            f"{folder / 'runs.csv'} has runs that would be lost ({', '.join(lost)}), so nothing was written: collect "
            "them, too (--seeds), run them again, or move that file away"
        )


def _ended(folder: pathlib.Path, ends: Collection[str]) -> bool:
    """Whether a folder holds a run that has ended, which is collected with its scores."""
    found = ledger.read(folder)
    return found is not None and found.state in ends


if __name__ == "__main__":
    main()
