"""Which runs are repeats of one experiment, and what keeps two experiments from being compared like with like."""

import json
from dataclasses import dataclass
from itertools import combinations
from pathlib import PurePath

from sdclr_jax import records
from sdclr_jax.errors import UserError
from sdclr_jax.records.config import FOLDER, free
from sdclr_jax.reports.runs import Run, plain


@dataclass(frozen=True, eq=False)
class Group:
    """Runs of one configuration on one data set, that differ in seed and split only."""

    label: str
    index: int  # place among the groups of the report, which decides its colour
    data: tuple  # groups with equal `data` may be compared
    runs: tuple[Run, ...]
    on: str  # `, digits (long_tail)` where the report has other data sets or subsets beside, else empty

    @property
    def data_name(self) -> str:
        return _data_name(self.runs[0])

    @property
    def has_sparse_branch(self) -> bool:
        return self.runs[0].has_sparse_branch


def group(runs: list[Run]) -> list[Group]:
    """Groups in the order in which the runs were given, those without a sparse branch first: they are baselines."""
    members: dict[tuple, list[Run]] = {}
    variants: dict[tuple, list[str]] = {}
    for run in sorted(runs, key=lambda run: run.has_sparse_branch):
        # One split of one data set has one set of example lists. Where it has two, they are two data sets.
        seen = variants.setdefault((_data(run), run.split), [])
        if run.lists not in seen:
            seen.append(run.lists)
        data = (*_data(run), seen.index(run.lists))
        members.setdefault((data, json.dumps(settings(run), sort_keys=True)), []).append(run)
    labels = _labels(list(members.values()))
    names = [_data_name(repeats[0]) for repeats in members.values()]
    groups = []
    for index, ((data, _), repeats) in enumerate(members.items()):
        _forbid_twins(repeats)
        repeats = sorted(repeats, key=lambda run: (run.split, run.seed))
        groups.append(
            Group(labels[index], index, data, tuple(repeats), f", {names[index]}" if len(set(names)) > 1 else "")
        )
    return groups


def by_data(groups: list[Group]) -> list[list[Group]]:
    """The groups in parts that may be compared within themselves."""
    parts: dict[tuple, list[Group]] = {}
    for member in groups:
        parts.setdefault(member.data, []).append(member)
    return list(parts.values())


def _data_name(run: Run) -> str:
    """Data set and subset; a folder of images by its own name, without the machine's layout."""
    data = run.results.data
    kind, colon, path = data.name.partition(":")
    return plain(f"{kind}{colon}{PurePath(path).name} ({data.subset})")


def settings(run: Run) -> dict[str, object]:
    """The configuration as one level of dotted names, without what repeats vary, what changes nothing of what
    is learnt, and what the run never reads."""
    flat = records.flat(run.config)
    if flat.get("data.name", "").startswith(FOLDER):
        flat["data.name"] = FOLDER  # wherever it lies; the lists of images say whether it is the same
    unread = {"seed", "data.split", "data.seed"} | {name for name in free(flat) if not name.startswith("evaluate.")}
    if not run.has_sparse_branch:
        unread |= {name for name in flat if name.startswith("prune.")}
    return {name: value for name, value in flat.items() if name not in unread}


def shown(value: object) -> str:
    """A setting's value as a person would write it."""
    return plain(value if isinstance(value, str) else json.dumps(value))


def confounds(groups: list[Group]) -> dict[str, dict[str, object]]:
    """Settings in which groups of different methods differ besides the method: field -> label -> value."""
    fields: dict[str, dict[str, object]] = {}
    for first, second in combinations(groups, 2):
        one, two = settings(first.runs[0]), settings(second.runs[0])
        if one["method"] == two["method"]:
            continue
        for name in one.keys() & two.keys() - {"method", "pairs", "objective.name"}:
            of_objective = name.startswith("objective.") and one.get("objective.name") != two.get("objective.name")
            if one[name] != two[name] and not of_objective:
                fields.setdefault(name, {}).update({first.label: one[name], second.label: two[name]})
    return dict(sorted(fields.items()))


def _data(run: Run) -> tuple:
    data = run.results.data
    name = FOLDER if data.name.startswith(FOLDER) else data.name
    return name, data.subset, data.group_rule, tuple(sorted(data.train_counts, reverse=True))


def _labels(members: list[list[Run]]) -> list[str]:
    """The method of each group, with the settings in which it differs from others of that method on that data set."""
    every = [(_data(repeats[0])[:2], settings(repeats[0])) for repeats in members]
    labels, seen = [], []
    for data, one in every:
        same = [other for on, other in every if on == data and other["method"] == one["method"]]
        varying = [name for name in one if any(other.get(name) != one[name] for other in same)]
        label = " ".join([shown(one["method"]), *(plain(f"{name}={shown(one[name])}") for name in varying)])
        # Equal configurations are two groups only where their example lists differ.
        seen.append((data, label))
        labels.append(label + (f" (lists {seen.count(seen[-1])})" if seen.count(seen[-1]) > 1 else ""))
    return labels


def _forbid_twins(repeats: list[Run]) -> None:
    """Two runs of one seed and split are no two samples: the spread between them would say nothing."""
    for first, second in combinations(repeats, 2):
        if (first.seed, first.split) == (second.seed, second.split):
            raise UserError(
                f"{first.path} and {second.path} have the same configuration, seed and split: leave one of them out"
            )
