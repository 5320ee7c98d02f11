"""The authors' own figures, to stand beside ours: Jiang et al., Self-Damaging Contrastive Learning, ICML 2021.

All of them are second-hand, and in percent. `All` is quoted in papers that compare with theirs; Many, Medium and Few of
CIFAR-10-LT, with their spreads, in https://github.com/VITA-Group/SDCLR/issues/2, which quotes the paper's Table 4. What
no source at hand gives is left out: the other Many, Medium and Few, every Std, and ImageNet-LT.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sdclr_jax import records
from sdclr_jax.reports.groups import Group, shown, subset
from sdclr_jax.reports.runs import plain

PAPER = "Jiang et al., Self-Damaging Contrastive Learning, ICML 2021"


class Figure(NamedTuple):
    """A score in percent: mean over the paper's splits and, where known, their standard deviation (over n)."""

    mean: float
    sd: float | None = None


Scores = Mapping[str, Figure]


@dataclass(frozen=True)
class DataSet:
    """What the paper reports of one data set, and what it did for it."""

    title: str
    images: int  # in the long-tailed training list
    splits: int
    scores: Mapping[tuple[str, str], Scores]  # protocol, method -> score -> figure
    recipe: Mapping[str, Any]  # fields of the config
    recipe_of: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # method -> fields of its own
    probe: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # protocol -> fields of its settings

    def figures(self, protocol: str, method: str) -> Scores | None:
        """Of a protocol, which may be that of the authors' script."""
        for script in ("train_cifar_", "train_imagenet_"):
            protocol = protocol.replace(script, "linear_") if protocol.startswith(script) else protocol
        return self.scores.get((protocol, method))


def _all(mean: float) -> Scores:
    return {"all": Figure(mean)}


_COMMON = {  # of both methods on all data sets, by the authors' code: docs/published.md
    "objective.name": "nt_xent",
    "projector.out": 128,
    "optimizer.name": "sgd",
    "optimizer.learning_rate": 0.5,
    "optimizer.momentum": 0.9,
    "optimizer.weight_decay": 1e-4,
    "optimizer.decay_vectors": True,
    "optimizer.warmup_epochs": 10,
    "optimizer.final_learning_rate": 1e-6,
    "optimizer.rate_moves": "before_update",
    "data.last_batch": "kept",
    "views.interpolation": "bicubic",
    "views.flip": 0.5,
    "views.jitter": [0.4, 0.4, 0.4, 0.1],
    "views.jitter_probability": 0.8,
    "views.grayscale_probability": 0.2,
}
_DAMAGED = {
    "projector.layers": 3,
    "prune.criterion": "smallest",
    "prune.random_rate": 0.0,
    "prune.every": 0,
    "prune.norms": "private",
    "prune.gradient": True,
}
_CIFAR = {
    "splits": 5,
    "recipe": {
        "epochs": 2000,
        "batch_size": 512,
        "model.name": "resnet18",
        "model.width": 64,
        "projector.hidden": 512,
        "objective.temperature": 0.2,
        "views.size": 32,
        "views.crop_scale": [0.1, 1.0],
        "views.blur_probability": 0.0,
        **_COMMON,
    },
    "recipe_of": {"simclr": {"projector.layers": 2}, "sdclr": {"prune.rate": 0.9, **_DAMAGED}},
    "probe": {
        "linear_full": {"epochs": 30, "learning_rate": 30.0, "padding": 4, "flip": 0.5},
        "linear_few_shot": {"epochs": 100, "learning_rate": 30.0, "padding": 4, "flip": 0.5},
    },
}
DATA_SETS = {
    "cifar10": DataSet(
        "CIFAR-10-LT",
        images=11_165,
        scores={
            ("linear_full", "simclr"): {
                "all": Figure(75.55),
                "many": Figure(78.18, 4.18),
                "medium": Figure(76.23, 5.33),
                "few": Figure(71.37, 7.07),
            },
            ("linear_full", "sdclr"): {
                "all": Figure(82.00),
                "many": Figure(86.44, 3.12),
                "medium": Figure(81.84, 4.78),
                "few": Figure(76.23, 6.29),
            },
            ("linear_few_shot", "simclr"): _all(67.08),
            ("linear_few_shot", "sdclr"): _all(70.47),
        },
        **_CIFAR,
    ),
    "cifar100": DataSet(
        "CIFAR-100-LT",
        images=9_754,
        scores={
            ("linear_full", "simclr"): _all(47.11),
            ("linear_full", "sdclr"): _all(55.48),
            ("linear_few_shot", "simclr"): _all(21.10),
            ("linear_few_shot", "sdclr"): _all(25.27),
        },
        **_CIFAR,
    ),
    "imagenet100": DataSet(
        "ImageNet-100-LT",
        images=12_205,
        splits=1,
        scores={
            ("linear_full", "simclr"): _all(65.46),
            ("linear_full", "sdclr"): _all(66.48),
            ("linear_few_shot", "simclr"): _all(42.16),
            ("linear_few_shot", "sdclr"): _all(42.38),
        },
        recipe={
            "epochs": 500,
            "batch_size": 256,
            "model.name": "resnet50",
            "model.width": 64,
            "projector.hidden": 2048,
            "views.size": 224,
            "views.crop_scale": [0.08, 1.0],
            "views.blur_probability": 0.5,
            **_COMMON,
        },
        recipe_of={
            "simclr": {"objective.temperature": 0.2, "projector.layers": 2},
            "sdclr": {"objective.temperature": 0.3, "prune.rate": 0.3, **_DAMAGED},
        },
    ),
}


class Match(NamedTuple):
    """The paper's figures for the method of a group."""

    group: Group
    method: str
    splits: int
    scores: Scores
    other_images: bool  # whether the group's images are known not to be the paper's


def data_set(member: Group) -> DataSet | None:
    """The paper's data set that a group was pretrained on, by its name, its subset and the size of its long tail."""
    data = member.runs[0].results.data
    found = DATA_SETS.get(data.name)
    same = found and subset(member.runs[0]) == "long_tail" and sum(data.train_counts) == found.images
    return found if same else None


def matches(part: list[Group], protocol: str) -> Iterator[Match]:
    """The paper's figures in a protocol, once for each of its methods that groups of one data set have."""
    methods = set()
    for member in part:
        found, method = data_set(member), member.runs[0].config["method"]
        measured = any(protocol in run.protocols for run in member.runs)
        figures = found.figures(protocol, method) if found else None
        if found and figures and measured and method not in methods:
            methods.add(method)
            yield Match(member, method, found.splits, figures, bool(_other_images(part)))


def notes(part: list[Group]) -> list[str]:
    """What a reader must know before holding these groups against the paper's figures; nothing where there are none."""
    protocols = {protocol for member in part for run in member.runs for protocol in run.protocols}
    compared = [match.group for protocol in sorted(protocols) for match in matches(part, protocol)]
    if not compared:
        return []
    found = data_set(compared[0])
    over = (
        f"means over its {found.splits} splits ± their standard deviation where known"
        if found.splits > 1
        else "one list"
    )
    said = [
        f"Rows marked (paper) are the figures of {PAPER}, for {found.title} ({over}), taken from secondary sources: "
        f"they are not ours, and no source at hand gives the missing ones."
    ]
    if other := _other_images(part):
        said.append(f"The images of {', '.join(other)} are not the paper's: its figures are no target for these runs.")
    if differing := _differences(found, part):
        said.append(f"The paper's recipe is not that of the runs beside it: {'; '.join(differing)}.")
    return said


def _other_images(part: list[Group]) -> list[str]:
    """Names of the runs whose data were not made from what was published."""
    return [run.name for member in part for run in member.runs if _differs(run.results.data.provenance or {})]


def _differs(provenance: dict) -> bool:
    return provenance.get("published") is False or "warning" in provenance


def _differences(found: DataSet, part: list[Group]) -> list[str]:
    """Each setting of the paper that some run of its methods does not have, with the values that runs have."""
    differing: dict[tuple[str, str], dict[str, None]] = {}

    def compare(expected: Mapping[str, Any], actual: Mapping[str, Any], where: str) -> None:
        for name, value in expected.items():
            if name in actual and not _equal(actual[name], value):
                differing.setdefault((f"{where}{name}", shown(value)), {})[shown(actual[name])] = None

    for run in (run for member in part for run in member.runs):
        method = run.config["method"]
        if not any(method == known for _, known in found.scores):
            continue
        compare(found.recipe, records.flat(run.config), "")
        compare(found.recipe_of.get(method, {}), records.flat(run.config), f"{plain(method)}: ")
        for protocol, expected in found.probe.items():
            if protocol in run.protocols:
                compare(expected, run.protocols[protocol].settings, f"{protocol}: ")
    return [f"{name} {paper} ({' and '.join(ours)} here)" for (name, paper), ours in differing.items()]


def _equal(one: Any, other: Any) -> bool:
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in (one, other))
    return math.isclose(one, other) if numbers else one == other
