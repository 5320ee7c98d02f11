"""A run's folder as one record: what it is, what made it, how it ended, what was scored.

`read` makes it of a folder, `write` and `load` keep many of them as `runs.csv`, a row a run, which is what is committed
of an experiment. Nothing here starts JAX.
"""

import csv
import hashlib
import io
import json
import math
import pathlib
from collections.abc import Container, Iterable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from sdclr_jax import records
from sdclr_jax.errors import UserError
from sdclr_jax.records import Results, Saved, TrainedOn, names
from sdclr_jax.records.metrics import DIVERGED

# How far a run has come. Only runs that are done have scores; one that diverged is an end, too.
DONE, OVER, TRAINED, BEGUN = "done", "diverged", "trained", "begun"
_OF_SAMPLE = ("images", "list")  # settings of a protocol that follow from what a run drew
REPEATED = ("seed", "data.seed", "data.split")  # what repeats of one recipe differ in
# Archives that are known, though they are not the published ones: SHA-256 -> what they are.
COPIES = dict.fromkeys(
    (
        "10518d960ace6d91b8d10a3975b754175e9e823f379f221e55e7e79e1a380b2b",
        "d2c4630304c4d0ca29d36c23ae3773606b64d07d5aab58a355e7398aefff1ea3",
    ),
    "cifar10 (JPEG copies)",
)


@dataclass(frozen=True)
class Finished:
    """A run that has begun, or ended. '' and None stand for what is not known.

    Attributes:
        run: name of its folder.
        state: `DONE`, `OVER` (it diverged), `TRAINED` (not evaluated) or `BEGUN`.
        commit: of the code; `A then B` where it was resumed by another.
        config: hash of all fields that change what is learnt, without `REPEATED`.
        data: name of the images, which is not that of the data set where they are not the published ones.
        fault: why its scores are not to be used.
        settings: protocol -> digits of the SHA-256 of its settings, for those that it was evaluated by.
        images: SHA-256 of the list of training images.
        lists: name -> digits of the SHA-256 of each other list that it was evaluated on.
        hardware: processor, cores and devices.
        seconds: of training.
        scores: `PROTOCOL.all`, `.many`, `.medium`, `.few`, `.std` as shares from 0 to 1; `features.NAME`; and
            `metrics.NAME`, the last value of each field of metrics.jsonl.
        warnings: causes, each with the step.
    """

    run: str
    state: str
    method: str
    seed: int
    split: int = 0
    data_seed: int = 0
    commit: str = ""
    config: str = ""
    data: str = ""
    images: str = ""
    hardware: str = ""
    jax: str = ""
    seconds: float | None = None
    scores: dict[str, float] = field(default_factory=dict)
    warnings: dict[str, int] = field(default_factory=dict)
    fault: str = ""
    settings: dict[str, str] = field(default_factory=dict)
    lists: dict[str, str] = field(default_factory=dict)

    @property
    def sample(self) -> tuple[int, int, int]:
        """What is drawn or chosen of it: two runs of one sample are a pair, or the same run twice."""
        return self.seed, self.split, self.data_seed


def read(folder: pathlib.Path) -> Finished | None:
    """The record of a run's folder; None where no run has begun there.

    Raises:
        UserError: a file in it is damaged.
    """
    try:
        fields = records.load(folder / names.CONFIG, "put it back from a copy, or move that folder away", _fields)
    except FileNotFoundError:
        return None
    results = _or_none(Results, folder / names.RESULTS)
    lines = records.read_metrics(folder / names.METRICS)
    last: dict[str, Any] = {}
    for line in lines:  # some fields are not in every line
        last |= {f"metrics.{name}": value for name, value in line.items() if value is not None}
    warnings = {
        line["cause"]: line["step"] for line in records.read_warnings(folder / names.WARNINGS) if "cause" in line
    }
    trained = lines and (lines[-1].get("epoch") or 0) >= fields["epochs"] and _or_none(Saved, folder / names.SAVED)
    trained = bool(trained) and trained.step >= lines[-1]["step"]
    evaluated = results is not None and results.run.epoch >= fields["epochs"]
    state = OVER if DIVERGED in warnings else DONE if evaluated else TRAINED if trained else BEGUN
    versions, trained_on = _versions(folder / names.VERSIONS), _or_none(TrainedOn, folder / names.DATA)
    found = Finished(
        run=folder.name,
        state=state,
        method=fields["method"],
        seed=fields["seed"],
        split=fields["data.split"],
        data_seed=fields["data.seed"],
        commit=_both(versions, "commit"),
        config=config_hash(fields),
        data=_called(fields["data.name"], trained_on.provenance) if trained_on and trained_on.provenance else "",
        images=trained_on.sha256 if trained_on else "",
        hardware=", ".join(filter(None, (_both(versions, "hardware"), _both(versions, "devices")))),
        jax=_both(versions, "jax"),
        seconds=last.get("metrics.seconds"),
        scores=last,
        warnings=warnings,
    )
    if results is None:
        return found
    scores = {f"{protocol}.{name}": x for protocol, s in results.protocols.items() for name, x in s.summary.items()}
    if results.features:
        scores["features.effective_rank"] = results.features.effective_rank
    about, measured = results.data, results.run
    same = found.images in ("", about.lists.get("train")) and measured.method == found.method
    same &= (measured.seed, about.split, about.seed) == found.sample
    settings = {
        name: _digits({key: value for key, value in score.settings.items() if key not in _OF_SAMPLE}, 8)
        for name, score in results.protocols.items()
    }
    return replace(
        found,
        data=_called(about.name, about.provenance),
        images=found.images or about.lists.get("train", ""),
        fault="" if same else f"{names.RESULTS} of another run",
        settings=settings,
        lists={name: sha256[:8] for name, sha256 in about.lists.items() if name != "train"},
        scores={name: x for name, x in scores.items() if x is not None} | last if state == DONE else last,
    )


def _fields(config: Any) -> dict[str, Any]:
    """The fields of a config.json, by their full names; raises ValueError where one that is read here is not there."""
    kinds = {"method": str, "epochs": int, "seed": int, "data.name": str, "data.split": int, "data.seed": int}
    if not isinstance(config, dict):
        raise ValueError("not an object of fields")
    fields = records.flat(records.config.of_today(config))
    for name, kind in kinds.items():
        if type(fields.get(name)) is not kind:
            raise ValueError(f"{name} is not what it should be")
    return fields


def _called(name: str, provenance: dict[str, Any] | None) -> str:
    """What the images are called. Only what was made from the published archive has the name of its data set.

    >>> _called("cifar10", {"published": False, "sha256": "12345678"})
    'cifar10 (not as published: 12345678)'
    """
    provenance, name = provenance or {}, _name(name)
    if provenance.get("published", True) and "warning" not in provenance:
        return name
    sha256 = str(provenance.get("sha256", ""))
    return COPIES.get(sha256, f"{name} (not as published: {sha256[:8] or 'unknown'})")


def named(data: str) -> str:
    """What the images of a record are called, also of one that was written before their archive was known.

    >>> named("cifar10 (not as published: d2c46303)")
    'cifar10 (JPEG copies)'
    """
    known = {f"(not as published: {sha256[:8]})": name for sha256, name in COPIES.items()}
    return next((name for end, name in known.items() if data.endswith(end)), data)


def _name(name: str) -> str:
    kind, colon, path = name.partition(":")
    return f"{kind}{colon}{pathlib.PurePath(path).name}"  # a folder without the machine's layout


def config_hash(fields: dict[str, Any]) -> str:
    """Twelve digits of the SHA-256 of a config's fields, by their full names, that repeats of a recipe share."""
    unlearnt = {*records.config.free(fields), *REPEATED}
    kept = {name: value for name, value in fields.items() if name not in unlearnt}
    if str(kept["data.name"]).startswith(records.config.FOLDER):
        kept["data.name"] = records.config.FOLDER
    return _digits(kept, 12)


def _digits(value: Any, count: int) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:count]


def _or_none(kind: type, path: pathlib.Path) -> Any:
    try:
        return records.read(kind, path)
    except FileNotFoundError:
        return None


def _versions(path: pathlib.Path) -> dict[str, Any]:
    try:
        return records.load_object(path, "put it back from a copy, or delete it")
    except FileNotFoundError:
        return {}


def _both(versions: dict[str, Any], name: str) -> str:
    first, later = versions.get(name, ""), versions.get(f"resumed_{name}")
    return f"{first} then {later}" if later else str(first)


_SCORES = "scores."  # in front of their columns
_KINDS = {"seed": int, "split": int, "data_seed": int, "seconds": float}
_OBJECTS = ("warnings", "settings", "lists")


def to_csv(runs: Iterable[Finished], scores: Iterable[str] | None = None) -> str:
    """A row a run; of the scores all, or those named."""
    rows = []
    for run in runs:
        row = asdict(run) | {name: json.dumps(getattr(run, name)) for name in _OBJECTS}
        found = row.pop("scores")
        rows.append(row | {_SCORES + name: found.get(name) for name in (found if scores is None else scores)})
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: "" if value is None else value for name, value in row.items()} for row in rows)
    return text.getvalue()


def from_csv(text: str) -> list[Finished]:
    """The runs that `to_csv` wrote; raises ValueError where it is not of its writing."""
    runs = []
    for number, row in enumerate(csv.DictReader(io.StringIO(text)), start=2):
        try:
            runs.append(_of_row({name: value or "" for name, value in row.items()}))
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(f"line {number}: {error}") from error
    if not runs:
        raise ValueError("it has no run")
    return runs


def _of_row(row: dict[str, str]) -> Finished:
    scores = {k.removeprefix(_SCORES): float(x) for k, x in row.items() if k.startswith(_SCORES) and x != ""}
    if strange := [name for name, x in scores.items() if not math.isfinite(x)]:
        raise ValueError(f"{strange[0]} is no finite number")
    facts: dict[str, Any] = {k: x for k, x in row.items() if not k.startswith(_SCORES)}
    facts |= {name: kind(facts[name]) if facts[name] else None for name, kind in _KINDS.items() if name in facts}
    facts |= {name: json.loads(facts[name]) for name in _OBJECTS if name in facts}
    return Finished(**facts, scores=scores)


def read_all(folder: pathlib.Path, only: Container[str] | None = None, beside: str = "") -> list[Finished]:
    """The runs of a folder of run folders, by name, those named alone; where it has none, those of its runs.csv.

    Args:
        folder: of the run folders.
        only: names of runs.
        beside: a folder next to it, whose runs.csv is read, too, where there are no run folders.

    Raises:
        UserError: a file of one of them, or a runs.csv, is damaged.
    """
    paths = [path for path in sorted(folder.iterdir()) if path.is_dir()] if folder.is_dir() else []
    found = [read(path) for path in paths if only is None or path.name in only]
    if there := [run for run in found if run is not None]:
        return there
    kept = read_kept(folder.parent / beside) | read_kept(folder) if beside else read_kept(folder)
    return [run for run in kept.values() if only is None or run.run in only]


def read_kept(folder: pathlib.Path) -> dict[str, Finished]:
    """The runs of a folder's runs.csv, by name.

    Raises:
        UserError: the file is damaged.
    """
    try:
        return {run.run: run for run in from_csv((folder / "runs.csv").read_text())}
    except FileNotFoundError:
        return {}
    except (ValueError, OSError) as error:
        raise UserError(f"{folder / 'runs.csv'} cannot be used ({error}): put it back from a copy") from error
