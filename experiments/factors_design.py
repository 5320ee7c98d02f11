"""The design of experiments/factors.py: its factors, blocks and arms, and the runs that they make.

Why it is so stands in experiments/results/factors/DESIGN.md.
"""

import random
from collections.abc import Callable
from typing import Any, NamedTuple

CRITERIA, REFRESHES = ("smallest", "random", "largest"), {"epoch": 0, "step": 1, "once": -1}
RATES, NORMS, HEADS, GRADIENTS = (0.3, 0.6, 0.9), ("private", "shared"), (3, 2), ("on", "off")
TENTH = 0.1  # share of the images that the arms of the premise leave out


class Levels(NamedTuple):
    """A damaged network: a level of each factor. At rate 0 nothing is cut, so the second and third say nothing."""

    rate: float
    criterion: str
    refresh: str
    norms: str
    head: int
    gradient: str

    @property
    def name(self) -> str:
        cut = f"{self.rate:g}-{self.criterion}-{self.refresh}" if self.rate else "0"
        return f"rate-{cut}-{self.norms}-head-{self.head}-gradient-{self.gradient}"


class Arm(NamedTuple):
    """A row of the design: SimCLR, or a damaged network; `without` names images that are left out."""

    name: str
    levels: Levels | None = None
    head: int = 3
    without: str = ""  # '', 'forgotten' or 'random'
    fraction: bool = False  # whether it belongs to the fractional factorial


PUBLISHED = Levels(0.9, "smallest", "epoch", "private", 3, "on")
UNPRUNED = Levels(0.0, "", "", "private", 3, "on")  # two branches with norms of their own, and no weight cut
# From the published SimCLR to the published SDCLR, one change at a time; then the premise.
LADDER = (Arm("simclr-head-2", head=2), Arm("simclr"), Arm(UNPRUNED.name, UNPRUNED), Arm(PUBLISHED.name, PUBLISHED))
PREMISE = (Arm("without-forgotten", without="forgotten"), Arm("without-random", without="random"))
BLOCKS = 6  # that make the whole fraction; more are repeats of it with other seeds


def fraction(block: int) -> list[Levels]:
    """The 14 runs of a block of the fractional factorial; 1, 2, 3 are a whole fraction, and 4, 5, 6 its fold-over.

    Number the levels of rate (0.3, 0.6, 0.9), criterion and refresh i, j, k and work modulo 3. Blocks 1 to 3 have
    k = i + j, and block g has i + 2j = g; blocks 4 to 6 have k = i + 2j and i + j = g. Each of these three rows of a
    block comes with all four choices of norms and head; the gradient is on where these two agree (blocks 1 to 3) or
    differ (4 to 6). Two runs more have rate 0, and opposite levels of norms, head and gradient.
    """
    of, fold = (block - 1) % BLOCKS, (block - 1) % BLOCKS // 3
    runs = []
    for i, rate in enumerate(RATES):
        for j, criterion in enumerate(CRITERIA):
            if (i + (2 - fold) * j) % 3 != of % 3:
                continue
            refresh = list(REFRESHES)[(i + (1 + fold) * j) % 3]
            for a, norms in enumerate(NORMS):
                for b, head in enumerate(HEADS):
                    runs.append(Levels(rate, criterion, refresh, norms, head, GRADIENTS[(a + b + fold) % 2]))
    pair = (0, of >> 1 & 1, of & 1)
    for sign in (0, 1):
        a, b, c = (bit ^ sign for bit in pair)
        runs.append(Levels(0.0, "", "", NORMS[a], HEADS[b], GRADIENTS[c]))
    return runs


def arms(block: int) -> list[Arm]:
    """All runs of a block in their order: SimCLR first, whose forgotten images a later arm leaves out; the others in a
    random order. An arm of the ladder that is one of the fraction, too, is run once."""
    of_fraction = fraction(block)
    ladder = [arm._replace(fraction=arm.levels in of_fraction) for arm in LADDER if arm.name != "simclr"]
    named = {arm.name for arm in ladder}
    others = ladder + [Arm(x.name, x, fraction=True) for x in of_fraction if x.name not in named]
    random.Random(block).shuffle(others)
    return [Arm("simclr"), *others, *PREMISE]


class Scale(NamedTuple):
    """Data, network and schedule: all that is not a factor."""

    config: str  # configs/NAME.py
    fields: dict[str, Any]
    of_block: Callable[[int], dict[str, int]]  # block -> what it is paired by
    blocks: int
    milliseconds: float  # CPU time of an image in an epoch of SDCLR, measured beside other work
    overhead: float  # CPU seconds of a run beside its steps, the same
    images: int
    noise: tuple[float, float]  # assumed: points of All between runs of one cell, and of what main effects do not fit


_LEAN = {"evaluate.map_images": 0, "collapse_every": 0}
SCALES = {
    "digits": Scale(
        config="digits_lt",
        fields=_LEAN | {"epochs": 50, "optimizer.warmup_epochs": 3, "checkpoint_every": 50},
        of_block=lambda block: {"seed": block, "data.seed": block},
        blocks=6,
        milliseconds=0.45,
        overhead=13.0,
        images=369,
        noise=(0.6, 0.3),
    ),
    "photos": Scale(
        config="cifar10_lt",
        # Learning rate in proportion to the batch, warm-up as a share of the epochs: as published. The last two fields
        # are what the package did when the design was written.
        fields=_LEAN
        | {
            "model.name": "resnet8",
            "model.width": 8,
            "projector.hidden": 128,
            "batch_size": 128,
            "optimizer.learning_rate": 0.125,
            "optimizer.warmup_epochs": 1,
            "epochs": 15,
            "checkpoint_every": 5,
            "optimizer.rate_moves": "after_update",
            "data.last_batch": "dropped",
        },
        of_block=lambda block: {"seed": block, "data.split": (block - 1) % 5 + 1},
        blocks=6,
        milliseconds=3.0,
        overhead=55.0,
        images=11165,
        noise=(0.8, 0.9),
    ),
}
PROTOCOLS = ("linear_few_shot", "logistic", "knn")


def fields(scale: Scale, block: int, arm: Arm) -> tuple[str, dict[str, Any]]:
    """The method of a run, and the fields of its config."""
    given = scale.fields | scale.of_block(block) | {"evaluate.protocols": PROTOCOLS, "projector.layers": arm.head}
    if arm.levels is None:
        return "simclr", given
    x = arm.levels
    given |= {"prune.rate": x.rate, "prune.norms": x.norms, "prune.gradient": x.gradient == "on"}
    given |= {"prune.criterion": x.criterion or CRITERIA[0], "prune.every": REFRESHES.get(x.refresh, 0)}
    return "sdclr", given | {"projector.layers": x.head}


class Run(NamedTuple):
    scale: str
    block: int
    arm: Arm

    @property
    def key(self) -> tuple[int, str]:
        return self.block, self.arm.name


def runs(scale: str) -> list[Run]:
    return [Run(scale, block, arm) for block in range(1, SCALES[scale].blocks + 1) for arm in arms(block)]
