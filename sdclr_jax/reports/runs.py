"""Run folders as `pretrain` and `evaluate` leave them: found, read and checked. Only JSON is read."""

import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any
from unicodedata import category

from sdclr_jax import files, records
from sdclr_jax.errors import UserError
from sdclr_jax.records import Record, Results, Score, TrainedOn, names


@dataclass(frozen=True, eq=False)
class Run:
    """One run folder: the parsed content of its JSON files, and the few facts that reports sort runs by."""

    path: Path
    name: str  # the last two parts of its path, without the machine's own layout; more where two runs have the same
    config: dict
    versions: dict
    metrics: list[dict[str, float]]
    warnings: list[dict]  # step, epoch and message, by step
    results: Results
    trained_on: str | None = None  # SHA-256 of the list of images, None where that is not known

    @property
    def method(self) -> str:
        return plain(self.config["method"])

    @property
    def seed(self) -> int:
        return self.config["seed"]

    @property
    def split(self) -> tuple[int, int]:
        """Which lists of the data set: the number of published ones, and the seed of drawn ones."""
        return self.config["data"]["split"], self.config["data"]["seed"]

    @cached_property
    def protocols(self) -> dict[str, Score]:
        """What is found by the name of the protocol, with its metric where that is not accuracy."""
        return {_title(name, score): score for name, score in self.results.protocols.items()}

    @cached_property
    def lists(self) -> str:
        """The fingerprints of the example lists, as one string: equal exactly where the examples are the same."""
        return json.dumps(self.results.data.lists, sort_keys=True)

    @cached_property
    def has_sparse_branch(self) -> bool:
        return '"sparse"' in json.dumps(self.config.get("pairs", []))

    @cached_property
    def has_attributes(self) -> bool:
        """Whether an image has any number of attributes, in place of one class."""
        return any(score.metric != "accuracy" for score in self.protocols.values())

    def score(self, protocol: str, score: str) -> float | None:
        """A share from 0 to 1, or None where the run lacks the protocol or the group has no class."""
        found = self.protocols.get(protocol)
        return found and getattr(found, "validation" if score.startswith("validation") else score)


def read(dirs: Iterable[str | os.PathLike]) -> list[Run]:
    """The runs of these folders, each once. A folder without config.json stands for its subfolders that have one."""
    folders = {}
    for folder in map(files.expanded, dirs):
        for found in _run_folders(folder):
            folders.setdefault(found.resolve(), found)
    called = _names([path.parts for path in folders])
    return [_read_run(folder, name) for folder, name in zip(folders.values(), called, strict=True)]


def _names(paths: Sequence[Sequence[str]]) -> list[str]:
    """Of each path the last two parts, or as many as no other one has."""
    found = [plain("/".join(path[-2:])) for path in paths]
    for parts in range(3, max(map(len, paths), default=0) + 1):
        often, before = Counter(found), zip(found, paths, strict=True)
        found = [plain("/".join(path[-parts:])) if often[name] > 1 else name for name, path in before]
    return found


def plain(text: str) -> str:
    """The text with what no page, picture or terminal can show (control characters, halves of pairs) replaced."""
    return "".join("\N{REPLACEMENT CHARACTER}" if category(c) in ("Cc", "Cs", "Cn") else c for c in text)


def _title(name: str, score: Score) -> str:
    return name if score.metric == "accuracy" else f"{name} ({score.metric.replace('_', ' ')})"


def _run_folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder: give run folders written by `sdclr pretrain`")
    if (folder / names.CONFIG).is_file():
        return [folder]
    found = sorted(child for child in folder.iterdir() if (child / names.CONFIG).is_file())
    if not found:
        raise UserError(
            f"{folder} has no config.json, nor has any of its subfolders: give run folders written by `sdclr pretrain`"
        )
    return found


def _read_run(folder: Path, name: str) -> Run:
    config = _read_config(folder / names.CONFIG)
    path = folder / names.RESULTS
    try:
        results = records.read(Results, path)
    except FileNotFoundError:
        raise UserError(
            f"{path} is missing: run `sdclr evaluate {folder}` first, or leave this folder out, as one of images "
            "without labels, which have no scores to compare (`sdclr exemplars` makes a page of those)"
        ) from None
    measured = results.run.method, results.run.seed, results.data.seed
    if measured != (config["method"], config["seed"], config["data"]["seed"]):
        raise UserError(
            f"{path} cannot be used (its method or a seed is not that of {names.CONFIG}): "
            f"{Results.REMEDY.format(folder=folder)}"
        )
    data = replace(results.data, class_names=tuple(map(plain, results.data.class_names)))
    versions, metrics, warnings = (
        _read_versions(folder / names.VERSIONS),
        _read_metrics(folder / names.METRICS),
        _read_warnings(folder / names.WARNINGS),
    )
    results, trained_on = replace(results, data=data), _read_trained_on(folder / names.DATA)
    return Run(folder, name, config, versions, metrics, warnings, results, trained_on)


@dataclass(frozen=True, kw_only=True)
class _ConfigData(Record):
    split: int
    seed: int


@dataclass(frozen=True, kw_only=True)
class _Config(Record):
    """What reports ask of any config.json."""

    method: str
    seed: int
    data: _ConfigData


def _read_config(path: Path) -> dict:
    def made(config: Any) -> dict:
        config = records.config.of_today(config) if isinstance(config, dict) else config
        records.decode(_Config, config)
        return config

    return records.load(path, "run `sdclr pretrain` again, or leave it out", made)


def _read_versions(path: Path) -> dict:
    try:
        return records.load_object(path, "delete it to report without versions")
    except FileNotFoundError:
        return {}


def _read_trained_on(path: Path) -> str | None:
    try:
        return records.read(TrainedOn, path).sha256
    except FileNotFoundError:
        return None


def _read_metrics(path: Path) -> list[dict[str, float]]:
    rows = {row["step"]: row for row in records.read_metrics(path)}
    return [
        {name: math.nan if value is None else float(value) for name, value in rows[step].items()}
        for step in sorted(rows)
    ]


def _read_warnings(path: Path) -> list[dict]:
    found = [
        {"step": row["step"], "epoch": row["epoch"], "message": plain(row["message"])}
        for row in records.read_warnings(path)
    ]
    return sorted(found, key=lambda row: row["step"])
