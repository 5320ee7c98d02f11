"""Tables as lists of runs: what they cost, the runs themselves, and what came of them beside the paper's figures.

    python experiments/tables.py                          the tables there are
    python experiments/tables.py [NAME ...] --plan        commands, prices, and what is there already; all tables
    python experiments/tables.py NAME ... --run           run what is left, on this machine
    python experiments/tables.py NAME ... --run --index=N run the N-th run alone, from 0, as a task of an array
    python experiments/tables.py NAME ... --collect       the table, and the ledger, of the runs that are there
    python experiments/tables.py --collect                fill the README's and docs' tables from committed runs

--run goes on where it stopped. --config.FIELD=VALUE changes a field of every run. docs/reproduce.md says more.
"""

import argparse
import pathlib
import re
import shlex
import sys
import time
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

from sdclr_jax.errors import UserError


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="a table of experiments/lists, or a file NAME.toml")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--plan", action="store_true")
    what.add_argument("--run", action="store_true")
    what.add_argument("--collect", action="store_true")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs"), help="where the runs' folders are")
    parser.add_argument("--index", type=int, help="of --run: the one run to run, from 0")
    parser.add_argument(
        "--at_a_time", type=jobs.at_least_one, default=1, help="of --run: how many runs share this machine"
    )
    parser.add_argument("--seeds", help="other seeds than the table's, such as 0,1,2")
    parser.add_argument(
        "--commit", default="", help="of --collect: average runs of this one; default: that of most runs"
    )
    parser.add_argument("--keep", action="store_true", help="of --collect: put them into experiments/results, too")
    options, fields = parser.parse_known_args(argv)
    if strange := [field for field in fields if not field.startswith(("--config.", "--noconfig."))]:
        parser.error(f"there is no option {strange[0]}: fields are changed with --config.FIELD=VALUE")
    try:
        _do(options, tuple(fields))
    except (UserError, OSError) as error:
        sys.exit(f"tables.py: {error}")


def _do(options: argparse.Namespace, fields: tuple[str, ...]) -> None:
    tables = [lists.load(name) for name in options.names or (lists.names() if options.plan else ())]
    if options.seeds:
        if not re.fullmatch(r"\d+(,\d+)*", options.seeds):
            raise UserError(f"--seeds is {options.seeds}: give whole numbers with commas, such as 0,1,2")
        seeds = tuple(map(int, options.seeds.split(",")))
        if len(set(seeds)) < len(seeds):
            raise UserError(f"--seeds is {options.seeds}: give each number once")
        tables = [replace(table, seeds=seeds) for table in tables]
    if options.keep and (options.seeds or fields):
        raise UserError("--keep is for the runs of a table as it stands, without --seeds and --config.FIELD=VALUE")
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
        _run(options, runs)
    elif options.collect:
        for table in tables:
            _collect(table, table.runs(fields), options)
    else:
        of_all: dict[pathlib.Path, _Priced] = {}  # a run of two tables is one run
        for table in tables:
            of_all |= _plan(table, table.runs(fields), options.out)
        if len(tables) > 1:
            print(f"\n# {len(tables)} tables")
            _say_totals(list(of_all.values()))


class _Priced(NamedTuple):
    prices: list[prices.Price]
    left: bool


def _folder(table: lists.Table, out: pathlib.Path) -> pathlib.Path:
    return out / (table.folder or table.name)


def _plan(table: lists.Table, runs: list[lists.Planned], out: pathlib.Path) -> dict[pathlib.Path, _Priced]:
    """Print the plan of a table; the prices of its runs, by their folders."""
    rates, folder = throughput.read(), _folder(table, out)
    print(f"# {table.title}: {len(runs)} runs\n#")
    for line in table.about.strip().splitlines():
        print(f"# {line}")
    for variable, what in table.places.items():
        print(f"export {variable}=FOLDER  # {what}")
    of_each: dict[pathlib.Path, _Priced] = {}
    for number, run in enumerate(runs):
        found, price = ledger.read(folder / run.job.name), prices.prices(table, run, rates)
        left = jobs.left(run.job, folder, found) if found else "not run"
        state = left or found.state
        cost = (
            "; ".join(f"{prices.shown(p.hours)} {p.unit} hours on {p.hardware}" for p in price) or "price not measured"
        )
        print(f"\n# {number}: {run.job.name}, {state}, {cost}")
        print("\n".join(run.job.commands(folder)))
        of_each[folder / run.job.name] = _Priced(price, bool(left))
    print()
    _say_totals(list(of_each.values()))
    notes = {price.by: None for run in of_each.values() for price in run.prices if price.by}
    if notes:
        print(f"# priced by the nearest rate there is: {'; '.join(notes)}")
    if not any(price.unit == "chip" for run in of_each.values() for price in run.prices):
        config = runs[-1].job
        print("# on an accelerator: not measured; there, this adds a line to experiments/results/throughput.csv:")
        print(f"#   python experiments/throughput.py --config={config.config.replace('.py', '')} --steps=20")
    return of_each


def _say_totals(runs: list[_Priced]) -> None:
    for what, of in (("in all", runs), ("left", [run for run in runs if run.left])):
        found = prices.total([run.prices for run in of])
        hours = [f"{prices.shown(h)} {unit} hours on {hardware}" for (hardware, unit), h in found.items()]
        print(f"# {what}: {len(of)} runs, {'; '.join(hours) if hours or not of else 'price not measured'}")


def _run(options: argparse.Namespace, runs: list[tuple[lists.Table, lists.Planned]]) -> None:
    began = time.perf_counter()
    if options.index is not None:
        if not 0 <= options.index < len(runs):
            raise UserError(f"--index is {options.index}: there are {len(runs)} runs, 0 to {len(runs) - 1}")
        runs = runs[options.index : options.index + 1]
    for table in dict.fromkeys(table.name for table, _ in runs):
        own = [(of, run.job) for of, run in runs if of.name == table]
        jobs.run(
            lists.placed([job for _, job in own], own[0][0]),
            _folder(own[0][0], options.out),
            at_a_time=options.at_a_time,
        )
    print(f"{jobs.minutes_since(began)}. The table: python experiments/tables.py {shlex.join(options.names)} --collect")


def _collect(table: lists.Table, runs: list[lists.Planned], options: argparse.Namespace) -> None:
    names = {run.job.name for run in runs}
    there = ledger.read_all(_folder(table, options.out), only=names)
    found = collected.collect(table, there, runs, options.commit)
    text = collected.markdown(found)
    print(text)
    if not there:
        return
    scores = dict.fromkeys(n for run in there for n in run.scores if not n.startswith("metrics."))
    scores |= dict.fromkeys(column.score for column in table.columns if column.score != lists.WARNED)
    contents = {"runs.csv": ledger.to_csv(there, scores), "table.md": text, "ledger.csv": collected.to_csv(found)}
    kept = documents.RESULTS / table.name
    if options.keep and (fewer := {run.run for run in ledger.read_all(kept)} - {run.run for run in there}):
        raise UserError(
            f"{kept / 'runs.csv'} has runs that are not in {_folder(table, options.out)} ({', '.join(sorted(fewer))}): "
            "run them, too, or delete that file"
        )
    for folder in (options.out / table.name, *[kept] * options.keep):
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            (folder / name).write_text(content)
        print(f"wrote {', '.join(str(folder / name) for name in contents)}")
    if options.keep:
        documents.fill()


if __name__ == "__main__":
    main()
