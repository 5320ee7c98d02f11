"""Run folders as `pretrain` and `evaluate` leave them: found, read and checked. Only JSON is read."""

import json
import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from unicodedata import category

from sdclr_jax.errors import UserError
from sdclr_jax.reports import checks

SCORES = ("all", "many", "medium", "few", "std")
GROUPS = ("many", "medium", "few")
METRICS = ("accuracy", "average_precision")
FORMAT = 1  # of results.json


@dataclass(frozen=True, eq=False)
class Run:
    """One run folder: the parsed content of its JSON files, and the few facts that reports sort runs by."""

    path: Path
    config: dict
    versions: dict
    metrics: list[dict[str, float]]
    warnings: list[dict]  # step, epoch and message, by step
    results: dict
    trained_on: str | None = None  # SHA-256 of the list of images, None where that is not known

    @property
    def name(self) -> str:
        """The last two parts of the folder's path: enough to tell runs apart, without the machine's own layout."""
        return plain("/".join(self.path.resolve().parts[-2:]))

    @property
    def method(self) -> str:
        return plain(self.config["method"])

    @property
    def seed(self) -> int:
        return self.config["seed"]

    @property
    def split(self) -> int:
        return self.config["data"]["split"]

    @cached_property
    def protocols(self) -> dict[str, dict]:
        """Records by the name of the protocol, with its metric where that is not accuracy."""
        return {_title(name, record): record for name, record in self.results["protocols"].items()}

    @cached_property
    def lists(self) -> str:
        """The fingerprints of the example lists, as one string: equal exactly where the examples are the same."""
        return json.dumps(self.results["data"]["lists"], sort_keys=True)

    @cached_property
    def has_sparse_branch(self) -> bool:
        return '"sparse"' in json.dumps(self.config.get("pairs", []))

    def score(self, protocol: str, score: str) -> float | None:
        """A share from 0 to 1, or None where the run lacks the protocol or the group has no class."""
        return self.protocols.get(protocol, {}).get(score)


def read(dirs: list[str | Path]) -> list[Run]:
    """The runs of these folders, each once. A folder without config.json stands for its subfolders that have one."""
    folders = {}
    for folder in map(Path, dirs):
        for found in _run_folders(folder):
            folders.setdefault(found.resolve(), found)
    return [_read_run(folder) for folder in folders.values()]


def plain(text: str) -> str:
    """The text with what no page, picture or terminal can show (control characters, halves of pairs) replaced."""
    return "".join("\N{REPLACEMENT CHARACTER}" if category(c) in ("Cc", "Cs", "Cn") else c for c in text)


def metric(record: dict) -> str:
    """What a protocol's scores are: `accuracy` of classes, or `average_precision` of attributes."""
    return record.get("metric", "accuracy")


def _title(name: str, record: dict) -> str:
    return name if metric(record) == "accuracy" else f"{name} ({metric(record).replace('_', ' ')})"


def _run_folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder: give run folders written by `sdclr pretrain`")
    if (folder / "config.json").is_file():
        return [folder]
    found = sorted(child for child in folder.iterdir() if (child / "config.json").is_file())
    if not found:
        raise UserError(
            f"{folder} has no config.json, nor has any of its subfolders: give run folders written by `sdclr pretrain`"
        )
    return found


def _read_run(folder: Path) -> Run:
    config = _read_config(folder / "config.json")
    path = folder / "results.json"
    if not path.is_file():
        raise UserError(
            f"{path} is missing: run `sdclr evaluate {folder}` first, or leave this folder out, as one of images "
            "without labels, which have no scores to compare (`sdclr exemplars` makes a page of those)"
        )
    try:
        results = checks.read_json(path)
        _check_results(results)
        measured = results["run"]["method"], results["run"]["seed"], results["data"]["split"]
        if measured != (config["method"], config["seed"], config["data"]["split"]):
            raise ValueError("its method, seed or split is not that of config.json")
    except ValueError as error:
        # Deleted, for an evaluation keeps what it finds there of other protocols.
        raise UserError(
            f"{path} cannot be used ({error}): delete it and run `sdclr evaluate {folder}` again"
        ) from error
    results["data"]["class_names"] = [plain(name) for name in results["data"]["class_names"]]
    versions, metrics, warnings = (
        _read_versions(folder / "versions.json"),
        _read_metrics(folder),
        _read_warnings(folder),
    )
    return Run(folder, config, versions, metrics, warnings, results, _read_trained_on(folder / "data.json"))


def _read_config(path: Path) -> dict:
    try:
        config = checks.read_json(path)
        checks.check(config, ("method",), checks.is_text)
        checks.check(config, ("seed",), checks.is_integer)
        checks.check(config, ("data", "split"), checks.is_integer)
    except ValueError as error:
        raise UserError(f"{path} cannot be used ({error}): run `sdclr pretrain` again, or leave it out") from error
    return config


def _read_versions(path: Path) -> dict:
    if not path.exists():
        return {}
    try:
        versions = checks.read_json(path)
        checks.check({"it": versions}, ("it",), checks.is_mapping)
    except ValueError as error:
        raise UserError(f"{path} cannot be used ({error}): delete it to report without versions") from error
    return versions


def _read_trained_on(path: Path) -> str | None:
    if not path.exists():
        return None
    try:
        data = checks.read_json(path)
        checks.check(data, ("sha256",), checks.is_text)
    except ValueError as error:
        raise UserError(f"{path} cannot be used ({error}): put it back from a copy, or delete it") from error
    return data["sha256"]


def _read_metrics(folder: Path) -> list[dict[str, float]]:
    def parsed(line: str) -> dict[str, float]:
        row = {key: math.nan if value is None else float(value) for key, value in json.loads(line).items()}
        row["step"]
        return row

    rows = {row["step"]: row for row in _lines(folder / "metrics.jsonl", parsed)}
    return [rows[step] for step in sorted(rows)]


def _read_warnings(folder: Path) -> list[dict]:
    def parsed(line: str) -> dict:
        row = json.loads(line)
        return {"step": float(row["step"]), "epoch": float(row["epoch"]), "message": plain(row["message"])}

    return sorted(_lines(folder / "warnings.jsonl", parsed), key=lambda row: row["step"])


def _lines(path: Path, parsed: Callable[[str], dict]) -> list[dict]:
    """The lines of a file, if there is one. A last line that breaks off is left out: the run may be writing it now."""
    if not path.exists():
        return []
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): make it readable, or leave it out") from error
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(parsed(line))
        except (ValueError, TypeError, AttributeError, KeyError, OverflowError, RecursionError) as error:
            if number < len(lines):
                raise UserError(
                    f"{path} has a damaged line {number}: delete that line, or run `sdclr pretrain` again"
                ) from error
    return rows


def _check_results(results) -> None:
    """Raise ValueError with the first field that is missing or is not what results.json promises."""
    checks.check(results, ("format",), checks.is_integer)
    if results["format"] != FORMAT:
        raise ValueError(f"format {results['format']} is not the format {FORMAT} that this version reads")
    checks.check(results, ("run", "method"), checks.is_text)
    for field, right in (("seed", checks.is_integer), ("step", checks.is_count), ("epoch", checks.is_number)):
        checks.check(results, ("run", field), right)
    for field in ("name", "subset", "group_rule"):
        checks.check(results, ("data", field), checks.is_text)
    checks.check(results, ("data", "split"), checks.is_integer)
    checks.check(results, ("data", "class_names"), checks.list_of(checks.is_text))
    classes = len(results["data"]["class_names"])
    checks.check(results, ("data", "train_counts"), checks.list_of(checks.is_count, classes))
    checks.check(results, ("data", "groups"), checks.list_of(GROUPS.__contains__, classes))
    checks.check(
        results, ("data", "lists"), lambda value: checks.is_mapping(value) and all(map(checks.is_text, value.values()))
    )
    if provenance := results["data"].get("provenance"):
        checks.check(results, ("data", "provenance"), checks.is_mapping)
        if "warning" in provenance:
            checks.check(results, ("data", "provenance", "warning"), checks.is_text)
    checks.check(results, ("encoder_checksum",), checks.is_integer)
    checks.check(results, ("protocols",), lambda value: checks.is_mapping(value) and value)
    for name, record in results["protocols"].items():
        checks.check(results, ("protocols", name, "settings"), checks.is_mapping)
        if metric(record) not in METRICS:
            raise ValueError(f"protocols.{name}.metric is not what it should be")
        # An attribute that no test image has is without a score.
        score = checks.is_share if metric(record) == "accuracy" else checks.is_share_or_none
        checks.check(results, ("protocols", name, "per_class"), checks.list_of(score, classes))
        checks.check(results, ("protocols", name, "all"), checks.is_share)
        for field in (*GROUPS, "std", f"validation_{metric(record)}"):
            checks.check(results, ("protocols", name, field), checks.is_share_or_none)
        for field, value in _scores(record["per_class"], results["data"]["groups"]).items():
            if (record[field] is None) != (value is None) or not math.isclose(
                record[field] or 0, value or 0, abs_tol=1e-6
            ):
                raise ValueError(f"protocols.{name}.{field} is not what follows from per_class")


def _scores(per_class: list[float | None], groups: list[str]) -> dict[str, float | None]:
    """All, the groups' means and their spread, by the scores of the classes."""
    scored = [(score, group) for score, group in zip(per_class, groups, strict=True) if score is not None]
    every = {name: [score for score, group in scored if group == name] for name in GROUPS}
    means = {name: math.fsum(found) / len(found) if found else None for name, found in every.items()}
    present = [mean for mean in means.values() if mean is not None]
    return {
        "all": math.fsum(score for score, _ in scored) / len(scored) if scored else None,
        **means,
        "std": statistics.pstdev(present) if len(present) > 1 else None,
    }
