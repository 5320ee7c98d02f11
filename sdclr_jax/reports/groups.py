"""Which runs are repeats of one experiment, and what keeps two experiments from being compared like with like."""

import contextlib
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import combinations
from pathlib import PurePath
from typing import NamedTuple

from sdclr_jax import records
from sdclr_jax.errors import UserError
from sdclr_jax.records import config
from sdclr_jax.reports.runs import Run, plain

ONE_SIZE = ("digits", "cifar10", "cifar100")  # data sets whose images have it
MANY = 20  # groups on one data set: of more, each is compared with the first only, and pictures show the first ones


class Data(NamedTuple):
    """What runs that may be compared have in common."""

    name: str  # 'folder:' of a folder, wherever it lies
    subset: str
    group_rule: str
    published: bool  # whether the lists of images are
    class_names: tuple[str, ...]
    counts: tuple[int, ...]  # training images of each class, without saying of which; none of attributes
    lists: int = 0  # which of the lists and labels of one split
    split: tuple[int, int] | None = None  # where its runs stand by themselves

    @property
    def of_every_split(self) -> "Data":
        return self._replace(split=None)


@dataclass(frozen=True, eq=False)
class Group:
    """Runs of one configuration on one data set, that differ in seed and split only."""

    label: str
    index: int  # place among the groups of the report, which decides its colour
    data: Data  # groups with equal `data` may be compared
    runs: tuple[Run, ...]
    on: str  # `, digits (long_tail)` where the report has other data sets or subsets beside, else empty
    settings: dict[str, object] = field(default_factory=dict)  # what `settings` says of its runs

    @cached_property
    def data_name(self) -> str:
        return _data_name(self.runs[0])

    @property
    def has_sparse_branch(self) -> bool:
        return self.runs[0].has_sparse_branch


def group(runs: list[Run]) -> list[Group]:
    """Groups in the order in which the runs were given, those without a sparse branch first: they are baselines."""
    return list(_group(tuple(runs)))


@lru_cache(maxsize=2)  # a report asks for the groups of the same runs a dozen times
def _group(runs: tuple[Run, ...]) -> tuple[Group, ...]:
    variants: dict[tuple[Data, tuple], list[Run]] = {}
    variant_of: dict[Run, int] = {}
    for run in sorted(runs, key=lambda run: run.has_sparse_branch):
        # One split of one data set has one set of example lists and labels. Where it has two, they are two data sets.
        seen = variants.setdefault((_data(run), run.split), [])
        variant = next((number for number, other in enumerate(seen) if _same_examples(run, other)), len(seen))
        if variant == len(seen) or not seen[variant].results.data.labels:
            seen[variant : variant + 1] = [run]  # the first of them that says which labels it had, for those to come
        variant_of[run] = variant
    # Nothing says which of the two the lists and labels of another split belong to, so each split is then by itself.
    several = {data for (data, _), seen in variants.items() if len(seen) > 1}
    members: dict[tuple[Data, str], list[Run]] = {}
    one_size = _of_one_size(runs)
    settings_of = {run: settings(run, one_size[run]) for run in runs}
    for run, variant in variant_of.items():
        data = _data(run)._replace(lists=variant, split=run.split if _data(run) in several else None)
        members.setdefault((data, json.dumps(settings_of[run], sort_keys=True)), []).append(run)
    every = [settings_of[repeats[0]] for repeats in members.values()]
    names = [_data_name(repeats[0]) for repeats in members.values()]
    labels = _labels([data for data, _ in members], names, every)
    groups = []
    for index, ((data, _), repeats) in enumerate(members.items()):
        _forbid_twins(repeats)
        repeats = sorted(repeats, key=lambda run: (run.split, run.seed))
        on = f", {names[index]}" if len(set(names)) > 1 else ""
        groups.append(Group(labels[index], index, data, tuple(repeats), on, every[index]))
    return tuple(groups)


def compared(part: list[Group]) -> list[tuple[Group, Group]]:
    """Which groups on one data set are compared, the baseline first: each two of them; of more than `MANY` groups, each
    with the first one, or there would be half a million comparisons of a thousand."""
    return list(combinations(part, 2)) if len(part) <= MANY else [(part[0], other) for other in part[1:]]


def by_data(groups: list[Group]) -> list[list[Group]]:
    """The groups in parts that may be compared within themselves."""
    parts: dict[Data, list[Group]] = {}
    for member in groups:
        parts.setdefault(member.data, []).append(member)
    return list(parts.values())


def unmatched(groups: list[Group]) -> list[str]:
    """The data whose splits are not averaged, as one of them has two sets of lists or labels."""
    splits: dict[str, set] = {}
    for member in groups:
        splits.setdefault(member.data_name, set()).add(member.data.split)
    return [name for name, found in splits.items() if len(found - {None}) > 1]


def subset(run: Run) -> str:
    """What was trained on, and without which list of images; its number, of which each split may have one, is #."""
    subset, without = run.results.data.subset, run.config["data"].get("without")
    return plain(f"{subset} without {re.sub('[0-9]+', '#', PurePath(str(without)).stem)}" if without else subset)


def _data_name(run: Run) -> str:
    """Data set and subset; a folder of images by its own name, without the machine's layout."""
    kind, colon, path = run.results.data.name.partition(":")
    return f"{plain(f'{kind}{colon}{PurePath(path).name}')} ({subset(run)})"


def settings(run: Run, one_size: bool | None) -> dict[str, object]:
    """The configuration as one level of dotted names, without what repeats vary, what changes nothing of what
    is learnt and scored, and what the run never reads.

    Args:
        one_size: whether the encoder is given whole images, which all have one size; None where that is not known.
    """
    flat = records.flat(run.config)
    # A run that is started again may have another config.json than its scores were measured by.
    seen = run.results.seen or {}
    flat |= {name: seen[key] for name in config.OF_ANY_SIZE if (key := name.removeprefix("evaluate.")) in seen}
    if flat.get("data.name", "").startswith(config.FOLDER):
        flat["data.name"] = config.FOLDER  # wherever it lies; the lists of images say whether it is the same
    left_out = {"seed", "data.split", "data.seed", *config.UNSCORED}
    left_out |= {name for name in config.free(flat) if not name.startswith("evaluate.")}
    if one_size is not None:
        left_out |= {*(config.OF_ANY_SIZE if one_size else config.OF_ONE_SIZE)}
    with contextlib.suppress(TypeError, ValueError):  # pairs that are none, of a damaged file
        left_out |= config.unread(flat).keys()
    return {name: value for name, value in flat.items() if name not in left_out}


def _of_one_size(runs: Sequence[Run]) -> dict[Run, bool | None]:
    """Whether each run's encoder is given whole images, which all have one size; of a run that does not say so, as one
    of an older version, what the others on its data say."""
    told = {run: "resize" not in run.results.seen for run in runs if run.results.seen is not None}
    told |= {run: True for run in runs if run not in told and run.results.data.name in ONE_SIZE}
    on: dict[Data, set[bool]] = {}
    for run, one_size in told.items():
        on.setdefault(_data(run), set()).add(one_size)
    others = {run: on.get(_data(run), set()) for run in runs if run not in told}
    return told | {run: next(iter(said)) if len(said) == 1 else None for run, said in others.items()}


def shown(value: object) -> str:
    """A setting's value as a person would write it."""
    return plain(value if isinstance(value, str) else json.dumps(value))


def confounds(groups: list[Group]) -> dict[str, dict[str, object]]:
    """Settings in which compared groups of different methods differ, other than the method: field -> label -> value."""
    fields: dict[str, dict[str, object]] = {}
    for first, second in compared(groups):
        one, two = first.settings, second.settings
        if one["method"] == two["method"]:
            continue
        for name in one.keys() & two.keys() - {"method", "pairs", "objective.name"}:
            of_objective = name.startswith("objective.") and one.get("objective.name") != two.get("objective.name")
            if one[name] != two[name] and not of_objective:
                fields.setdefault(name, {}).update({first.label: one[name], second.label: two[name]})
    return dict(sorted(fields.items()))


def _data(run: Run) -> Data:
    """What runs on one data set have in common, whatever their split."""
    data = run.results.data
    return Data(
        name=config.FOLDER if data.name.startswith(config.FOLDER) else data.name,
        subset=subset(run),
        group_rule=data.group_rule,
        published=bool(run.config["data"].get("lists")),
        class_names=tuple(sorted(data.class_names)),
        # Every split has as many images of its classes; how many have an attribute depends on which ones are drawn.
        counts=() if run.has_attributes else tuple(sorted(data.train_counts, reverse=True)),
    )


def _same_examples(run: Run, other: Run) -> bool:
    """Whether two runs are of the same images with the same labels, as far as both say which labels they had."""
    labels, others = run.results.data.labels, other.results.data.labels
    return run.lists == other.lists and (labels == others or not (labels and others))


def _labels(data: list[Data], names: list[str], every: list[dict[str, object]]) -> list[str]:
    """The method of each group, with the settings in which it differs from others of that method on that data set.

    Args:
        data: of each group.
        names: of its data set and subset.
        every: its settings.
    """
    alike: dict[tuple, list[dict[str, object]]] = {}  # the settings of a method on a data set
    lists: dict[str, dict[Data, int]] = {}  # of a name: the data that have it, whatever the split, and their numbers
    for of, name, one in zip(data, names, every, strict=True):
        alike.setdefault((of.name, of.subset, one["method"]), []).append(one)
        lists.setdefault(name, {}).setdefault(of.of_every_split, len(lists[name]) + 1)
    varying: dict[tuple, set[str]] = {}
    for key, of_method in alike.items():
        values: dict[str, Counter] = {}
        for one in of_method:
            for setting, value in one.items():
                values.setdefault(setting, Counter())[json.dumps(value)] += 1
        varying[key] = {setting for setting, found in values.items() if max(found.values()) < len(of_method)}
    found = []
    for of, name, one in zip(data, names, every, strict=True):
        differs = varying[of.name, of.subset, one["method"]]
        told = [plain(f"{setting}={shown(value)}") for setting, value in one.items() if setting in differs]
        found.append((name, " ".join([shown(one["method"]), *told]), *_of_split(of, data)))
    labels, often = [], Counter(found)
    for of, (name, label, *splits) in zip(data, found, strict=True):
        number = lists[name][of.of_every_split]
        needed = number > 1 and (of.lists or often[name, label, *splits] > 1)
        told = [*splits, *([f"lists {number}"] if needed else [])]
        labels.append(label + (f" ({', '.join(told)})" if told else ""))
    return labels


def _of_split(data: Data, every: list[Data]) -> list[str]:
    """The fields of a split that is by itself, as far as others of its data set have other ones."""
    if data.split is None:
        return []
    beside = [other.split for other in every if other._replace(lists=data.lists, split=data.split) == data]
    fields = zip(("data.split", "data.seed"), data.split, zip(*beside, strict=True), strict=True)
    return [f"{name}={value}" for name, value, values in fields if len(set(values)) > 1]


def _forbid_twins(repeats: list[Run]) -> None:
    """Two runs of one seed and split are no two samples: the spread between them would say nothing."""
    seen: dict[tuple, Run] = {}
    for run in repeats:
        first = seen.setdefault((run.seed, run.split), run)
        if first is not run:
            one, other = first.results.protocols, run.results.protocols
            both = plain(", ".join(one | other))
            by = "" if one.keys() == other.keys() else f", and evaluate the other by the protocols of both ({both})"
            raise UserError(
                f"{first.path} and {run.path} have the same configuration, seed and split: leave one of them out{by}"
            )
