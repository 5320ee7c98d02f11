"""Tables as data: a file of `experiments/lists/` is a list of runs, with the columns that are made of their scores.

A row is a config (`NAME:METHOD`) and the fields that it overrides; it is run once for each split and seed. Fields may
name variables of the shell, such as `$CIFAR10_LISTS`, which `places` explains. A table shows either `protocols`, each
with all, many, medium, few and std, or `columns` of its own. `lists` has the hashes of published lists of images.
"""

import difflib
import os
import pathlib
import re
import tomllib
from dataclasses import dataclass, field, fields
from typing import Any

import jobs

from sdclr_jax import records
from sdclr_jax.errors import UserError
from sdclr_jax.records import SUMMARY, Record
from sdclr_jax.records.record import Count
from sdclr_jax.reports import published

FOLDER = pathlib.Path(__file__).parent / "lists"
WARNED = "warnings"  # the score that is the causes that runs were warned of
_OPTIONS = {"seed": "seeds", "data.seed": "seeds", "data.split": "splits"}  # field -> what set it


@dataclass(frozen=True, kw_only=True)
class Row(Record):
    """A line of a table: one recipe. `paper` names the row of the paper: the method of reports/published.py whose
    figures stand beside it, or any other word where none is at hand; '' where the paper has no such row."""

    name: str
    config: str
    label: str = ""
    paper: str = ""
    fields: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Column(Record):
    """A score of `ledger.Finished`, times `scale`."""

    title: str
    score: str
    scale: float = 100
    decimals: int = 1


@dataclass(frozen=True)
class Planned:
    """A run of a table, not yet or already there."""

    row: Row
    seed: int
    split: int
    job: jobs.Job


@dataclass(frozen=True, kw_only=True)
class Table(Record):
    """A file of `lists/`."""

    name: str
    title: str
    about: str = ""
    folder: str = ""  # of the runs, below that of all; '' is the table's name
    paper: str = ""  # the data set of reports/published.py
    corner: str = ""  # above the labels
    seeds: tuple[Count, ...] = (0,)
    splits: tuple[Count, ...] = ()  # of published lists
    draws: bool = False  # whether data.seed is the run's seed
    places: dict[str, str] = field(default_factory=dict)  # variable of the shell -> what it is to hold
    images: dict[str, int] = field(default_factory=dict)  # how many: train, and what an evaluation encodes
    fields: dict[str, Any] = field(default_factory=dict)  # of all rows
    protocols: tuple[str, ...] = ()  # by which its runs are evaluated; empty: those of the config
    columns: tuple[Column, ...] = ()
    rows: tuple[Row, ...] = ()
    lists: dict[str, dict[str, str]] = field(default_factory=dict)  # subset -> split -> SHA-256

    def check(self, where: str) -> None:
        """Raise ValueError where a run would be there twice, or none, or what stands beside them is not known."""
        if not self.seeds:
            raise ValueError("seeds is empty")
        for name, values in (("seeds", self.seeds), ("splits", self.splits), ("rows", [row.name for row in self.rows])):
            if twice := {value for value in values if values.count(value) > 1}:
                raise ValueError(f"{name} has {min(twice)} twice")
        for of in (self, *self.rows):
            if twice := of.fields.keys() & self._sample(0, 0):
                raise ValueError(f"fields has {min(twice)}, which {_OPTIONS[min(twice)]} set")
        if self.paper and self.paper not in published.DATA_SETS:
            raise ValueError(f"paper is {self.paper}: known are {', '.join(published.DATA_SETS)}")
        if self.images and "train" not in self.images:
            raise ValueError("it lacks images.train")

    def runs(self, more: tuple[str, ...] = ()) -> list[Planned]:
        """All runs, sample by sample, so that a table that is stopped early has whole pairs.

        Args:
            more: `--config.FIELD=VALUE` of all of them.

        Raises:
            UserError: one of these is what makes a run another than its repeats.
        """
        for name in self._sample(0, 0):
            if any(field.startswith(f"--config.{name}=") for field in more):
                raise UserError(
                    f"--config.{name} would make repeats in {self.name} the same run: give --{_OPTIONS[name]}"
                )
        return [
            self._planned(row, seed, split, more)
            for seed in self.seeds
            for split in self.splits or (0,)
            for row in self.rows
        ]

    def _sample(self, seed: int, split: int) -> dict[str, int]:
        """The fields in which the runs of a row differ."""
        drawn = {"data.seed": seed} if self.draws else {}
        return {"seed": seed} | ({"data.split": split} if self.splits else {}) | drawn

    def _planned(self, row: Row, seed: int, split: int, more: tuple[str, ...]) -> Planned:
        protocols = {"evaluate.protocols": self.protocols} if self.protocols else {}
        given = self._sample(seed, split) | protocols | self.fields | row.fields
        own = tuple(f"--config.{name}={_written(value)}" for name, value in given.items())
        numbers = [split] * bool(self.splits) + [seed] * (seed != 0 or not self.splits)
        name, _, method = row.config.partition(":")
        job = jobs.Job("-".join(map(str, (row.name, *numbers))), f"{name}.py:{method}", (*own, *more))
        return Planned(row, seed, split, job)

    def shown(self) -> tuple[Column, ...]:
        """Its columns, or those of its protocols."""
        made = [Column(title=s.capitalize(), score=f"{p}.{s}") for p in self.protocols for s in SUMMARY]
        return self.columns or tuple(made)


def kind_of(protocol: str) -> str:
    """`linear_full` or `linear_few_shot`, also of the protocols that are named after the authors' scripts.

    >>> kind_of("train_cifar_full")
    'linear_full'
    """
    return re.sub("^train_(cifar|imagenet)_", "linear_", protocol)


def names() -> list[str]:
    """All tables."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def load(name: str) -> Table:
    """The table of a file of `lists/`, or of a file of one's own, `FILE.toml`.

    Raises:
        UserError: there is none, or it says what no table has.
    """
    path = pathlib.Path(name) if name.endswith(".toml") else FOLDER / f"{name}.toml"
    try:
        found = tomllib.loads(path.read_text())
    except FileNotFoundError:
        near = difflib.get_close_matches(name, names(), n=1, cutoff=0)[0]
        raise UserError(f"there is no table {name}: the nearest is {near}, known are {', '.join(names())}") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as a table ({error}): mend that line") from error
    found = {"name": path.stem, "rows": found.pop("row", []), "columns": found.pop("column", [])} | found
    _check_names(Table, found, path)
    for kind, part in ((Row, "rows"), (Column, "columns")):
        for values in found[part] if isinstance(found[part], list) else ():
            _check_names(kind, values, path)
    try:
        table = records.decode(Table, found)
    except ValueError as error:
        raise UserError(f"{path} cannot be read as a table ({error}): mend that, as the others have it") from error
    if not table.rows or not (table.columns or table.protocols):
        raise UserError(
            f"{path} has no {'row' if not table.rows else 'protocols and no column'}: add one, as the others have"
        )
    return table


def _check_names(kind: type, values: Any, path: pathlib.Path) -> None:
    known = [f.name for f in fields(kind)]
    if unknown := sorted(values.keys() - known) if isinstance(values, dict) else []:
        near = difflib.get_close_matches(unknown[0], known, n=1, cutoff=0)[0]
        raise UserError(
            f"{path} has {unknown[0]}, which is no field of a {kind.__name__.lower()}: the nearest is {near}"
        )


def _written(value: Any) -> str:
    """As `--config.FIELD=VALUE` is read."""
    if isinstance(value, list | tuple):
        return f"({', '.join(map(repr, value))}{',' * (len(value) == 1)})"
    return str(value)


def placed(jobs_: list[jobs.Job], table: Table) -> list[jobs.Job]:
    """The jobs with the variables of the shell in place.

    Raises:
        UserError: one is not set.
    """
    used = {v for job in jobs_ for text in job.fields for v in re.findall(r"\$(\w+)", text)}
    for variable in sorted(used):
        if not os.environ.get(variable):
            about = table.places.get(variable, "what the table says")
            raise UserError(f"{variable} is not set: export {variable}=FOLDER, {about}")
    return [job._replace(fields=tuple(map(os.path.expandvars, job.fields))) for job in jobs_]
