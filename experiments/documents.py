"""The tables in the README and the pages of docs/, made from the committed files of `experiments/results`.

A page has `<!-- table: NAME -->` before a table and `<!-- end -->` behind it; `fill` makes what is between.
"""

import csv
import pathlib
import re
from collections.abc import Callable
from types import SimpleNamespace

import collected
import jobs
import ledger
import lists
import prices
import throughput
from tabulate import tabulate

from sdclr_jax.errors import UserError
from sdclr_jax.records import SUMMARY
from sdclr_jax.reports import tables
from sdclr_jax.reports.groups import Group

RESULTS = jobs.ROOT / "experiments" / "results"
PAGES = [jobs.ROOT / "README.md", *sorted((jobs.ROOT / "docs").glob("*.md"))]
MARKED = re.compile(r"(<!-- table: (\S+) -->\n)(.*?)(<!-- end -->\n)", re.DOTALL)


def _of_list(name: str) -> Callable[[], str]:
    return lambda: table_of(name)


def table_of(name: str, results: pathlib.Path = RESULTS) -> str:
    """The table of a list of runs, as Markdown, of its committed runs."""
    table = lists.load(name)
    return collected.markdown(collected.collect(table, ledger.read_all(results / name), table.runs()))


def measured(name: str) -> str:
    """The table that an experiment wrote into its `table.md`, without what stands around it."""
    lines = (RESULTS / name / "table.md").read_text().splitlines()
    return "\n".join(line for line in lines if line.startswith("|")) + "\n"


def demo(differences: bool) -> str:
    """What `make demo` prints, from the scores of its runs."""
    groups = _groups(RESULTS / "digits_demo" / "report.csv")
    parts = [tables.to_text(tables.compare_groups(groups))]
    if differences:
        parts.append(tables.to_text(tables.group_differences(groups), sign=True))
    return "```text\n" + "\n\n".join(parts) + "\n```\n"


def _groups(path: pathlib.Path) -> list[Group]:
    """The groups of a report of one data set, by its CSV file."""
    members: dict[str, dict[str, SimpleNamespace]] = {}
    with path.open(newline="", encoding="utf-8-sig") as file:
        for row in csv.DictReader(file):
            runs = members.setdefault(row["group"], {})
            if row["run"] not in runs:
                data = SimpleNamespace(name=row["data"])
                split = row["split"], row.get("data_seed")  # reports of older versions have one number for both
                made = SimpleNamespace(seed=row["seed"], split=split, lists="", protocols={}, config=row)
                runs[row["run"]] = made
                made.results = SimpleNamespace(data=data)
                made.score = lambda protocol, score, of=made.protocols: of.get(protocol, {}).get(score)
            value = float(row["value"]) if row["value"] else None
            runs[row["run"]].protocols.setdefault(row["protocol"], {})[row["score"]] = value
    groups = []
    for index, (label, runs) in enumerate(members.items()):
        first = next(iter(runs.values()))
        data = first.results.data.name
        group = Group(label, index, (data,), tuple(runs.values()), "")
        group.__dict__["data_name"] = data  # which it would ask of the files of a run
        groups.append(group)
    return groups


def price_list() -> str:
    """What each table costs, for each hardware that all of its runs have a rate for."""
    rates, body, notes = throughput.read(), [], {}
    for name in lists.names():
        table = lists.load(name)
        runs = table.runs()
        first = {run.row.name: run for run in reversed(runs)}  # the others of a row cost the same
        repeats = len(runs) // len(first)
        priced = [prices.prices(table, run, rates) for run in first.values()] * repeats
        trained = repeats * sum(prices.images(table, run)[0] for run in first.values())
        hours = prices.total(priced)
        for price in (p for of_run in priced for p in of_run if p.by):
            notes[price.by] = None
        cells = [
            "; ".join(f"{prices.shown(h)} on {hardware}" for (hardware, of), h in hours.items() if of == unit)
            or "not measured"
            for unit in ("core", "chip")
        ]
        body.append([f"`{name}`", table.title, str(len(runs)), f"{trained / 1e6:,.1f}", *cells])
    headers = ["table", "what", "runs", "million images", "core hours", "chip hours"]
    by = f"\n\nPriced by the nearest rate there is: {'; '.join(notes)}." if notes else ""
    return tabulate(body, headers, tablefmt="github", disable_numparse=True) + by + "\n"


def paper() -> str:
    """The paper's figures, ours, and what is not run; a table of which neither is at hand is left out."""
    parts = []
    for name in lists.names():
        table = lists.load(name)
        if table.paper or (table.protocols and (RESULTS / name / "runs.csv").exists()):
            parts.append(f"**{table.title}** (`{name}`)\n\n{table_of(name)}")
    return "\n".join(parts)


def evaluated() -> str:
    """What `sdclr evaluate runs/sdclr` prints, from the committed scores of the first such run of the demo."""
    scores: dict[str, dict[str, float]] = {}
    with (RESULTS / "digits_demo" / "report.csv").open(newline="", encoding="utf-8-sig") as file:
        for row in csv.DictReader(file):
            if row["run"].endswith("/sdclr-0") and row["value"]:
                scores.setdefault(row["protocol"], {})[row["score"]] = float(row["value"])
    lines = [
        f"runs/sdclr  {protocol:16s} " + "  ".join(f"{name} {100 * found[name]:5.2f}" for name in SUMMARY)
        for protocol, found in scores.items()
    ]
    return "```text\n" + "\n".join(lines) + "\n```\n"


FILLED: dict[str, Callable[[], str]] = {
    "digits_demo": lambda: demo(differences=False),
    "digits_demo_with_differences": lambda: demo(differences=True),
    "evaluated": evaluated,
    "prices": price_list,
    "paper": paper,
    "methods_table": _of_list("methods_table"),
    "vicreg_ablation": _of_list("vicreg_ablation"),
    "planted": lambda: measured("planted"),
    "mislabelled": lambda: measured("mislabelled"),
    "photos": lambda: measured("photos"),
}


def filled(text: str) -> str:
    """The page with each marked table as the committed results make it.

    Raises:
        UserError: a table of an unknown name.
    """

    def made(found: re.Match) -> str:
        if found[2] not in FILLED:
            raise UserError(f"there is no table {found[2]} to fill in: known are {', '.join(FILLED)}")
        return f"{found[1]}\n{FILLED[found[2]]()}\n{found[4]}"

    return MARKED.sub(made, text)


def fill() -> list[pathlib.Path]:
    """Fill all pages, and the `table.md` of each committed list of runs; returns what has changed."""
    contents = {page: filled(page.read_text()) for page in PAGES}
    for name in lists.names():
        if (RESULTS / name / "runs.csv").exists():
            contents[RESULTS / name / "table.md"] = table_of(name)
    changed = [path for path, text in contents.items() if not path.exists() or path.read_text() != text]
    for path in changed:
        path.write_text(contents[path])
    return changed
