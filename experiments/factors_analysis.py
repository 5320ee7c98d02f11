"""The analysis of experiments/factors.py: what is compared, and by which model.

Only the records of runs are read, and nothing here starts JAX.
"""

from typing import Any, NamedTuple

import numpy as np
from factors_design import CRITERIA, LADDER, PUBLISHED, RATES, SCALES, UNPRUNED, Run, fields, runs
from scipy import stats

PRIMARY = "logistic.all"
RESPONSES = {  # as tables name them; the first is the primary one
    "All": PRIMARY,
    "Few": "logistic.few",
    "Std": "logistic.std",
    "few-shot All": "linear_few_shot.all",
    "k-NN All": "knn.all",
}
LEVEL, CHANCE = 0.05, 10.0  # of the tests; points of All, of ten classes
ONE_DIRECTION = 2.0  # effective rank of the features below which a run has collapsed


class Effect(NamedTuple):
    """A difference in points, its 95 % interval, and its p-value: of itself, and by Holm of its family."""

    name: str
    family: str  # 'factor', 'ladder', 'premise'
    estimate: float
    error: float
    low: float
    high: float
    p: float
    holm: float


class Model(NamedTuple):
    """A linear model of some runs: a column for each block, then those of the effects."""

    matrix: np.ndarray  # float64 [N, P]
    effects: dict[str, np.ndarray]  # name -> what of the P coefficients is its difference


def factor_model(of: list[Run]) -> Model:
    """Main effects, each a difference between two levels, averaged over those of the other factors.

    Criterion and refresh are centred over their three levels and 0 where nothing is cut, so that an effect of the rate
    is the mean over both, held against rate 0.
    """
    blocks = sorted({run.block for run in of})
    columns = [f"rate {rate:g} − 0" for rate in RATES]
    columns += ["random − smallest", "largest − smallest", "every step − every epoch", "once − every epoch"]
    columns += ["norms: private − shared", "head: 3 − 2 layers", "gradient: on − off"]
    rows = []
    for run in of:
        x, cut = run.arm.levels, float(run.arm.levels.rate > 0)
        rows.append(
            [float(run.block == block) for block in blocks]
            + [float(x.rate == rate) for rate in RATES]
            + [(float(x.criterion == level) - 1 / 3) * cut for level in CRITERIA[1:]]
            + [(float(x.refresh == level) - 1 / 3) * cut for level in ("step", "once")]
            + [float(x.norms == "private") - 0.5, float(x.head == 3) - 0.5, float(x.gradient == "on") - 0.5]
        )
    matrix = np.array(rows).reshape(len(of), len(blocks) + len(columns))
    identity = np.eye(matrix.shape[1])
    return Model(matrix, {name: identity[len(blocks) + i] for i, name in enumerate(columns)})


LADDER_STEPS = {  # name -> (arm, the one it is held against)
    "head: SimCLR with 3 − 2 layers": ("simclr", "simclr-head-2"),
    "private norms, nothing cut − SimCLR": (UNPRUNED.name, "simclr"),
    "SDCLR − the same with nothing cut": (PUBLISHED.name, UNPRUNED.name),
    "SDCLR − SimCLR, both with 3 layers": (PUBLISHED.name, "simclr"),
    "as published: SDCLR − SimCLR with 2 layers": (PUBLISHED.name, "simclr-head-2"),
}
PREMISE_STEPS = {
    "without the most forgotten − without random ones": ("without-forgotten", "without-random"),
    "without the most forgotten − SimCLR with all": ("without-forgotten", "simclr"),
}
# What is tested; the other differences are sums of these, or say less, and are given with their interval alone.
TESTED = 3, 1


def arm_model(of: list[Run]) -> Model:
    """Arms and blocks; the effects are differences between two arms, paired within the blocks."""
    blocks, names = sorted({run.block for run in of}), sorted({run.arm.name for run in of})
    matrix = np.array(
        [[float(run.block == b) for b in blocks] + [float(run.arm.name == name) for name in names[1:]] for run in of]
    ).reshape(len(of), -1)

    def column(name: str) -> np.ndarray:
        return np.array([0.0] * len(blocks) + [float(other == name) for other in names[1:]])

    steps = {n: s for n, s in (LADDER_STEPS | PREMISE_STEPS).items() if set(s) <= set(names)}
    return Model(matrix, {name: column(a) - column(b) for name, (a, b) in steps.items()})


def in_factor_model(run: Run) -> bool:
    return run.arm.fraction


def in_arm_model(run: Run) -> bool:
    return bool(run.arm.without) or run.arm.name in {arm.name for arm in LADDER}


def residual(model: Model, y: np.ndarray) -> tuple[float, int]:
    """Variance of what a model leaves, and its degrees of freedom; 0 where there are none."""
    freedom = int(len(y) - np.linalg.matrix_rank(model.matrix))
    left = y - model.matrix @ (np.linalg.pinv(model.matrix) @ y)
    return (float(left @ left) / freedom if freedom else 0.0), freedom


def fit(model: Model, y: np.ndarray) -> dict[str, tuple[float, float, int]]:
    """Least squares: effect -> (estimate, standard error, degrees of freedom of the residual)."""
    inverse = np.linalg.pinv(model.matrix)
    variance, freedom = residual(model, y)
    if freedom < 1:
        return {}
    found = {}
    for name, contrast in model.effects.items():
        weights = contrast @ inverse
        # A difference that these runs do not determine is none of theirs.
        if np.allclose(weights @ model.matrix, contrast, atol=1e-8):
            found[name] = (float(weights @ y), float(np.sqrt(variance * weights @ weights)), freedom)
    return found


def holm(p: dict[str, float]) -> dict[str, float]:
    """p-values adjusted for all of them (Holm, 1979).

    >>> holm({"a": 0.01, "b": 0.04, "c": 0.03})
    {'a': 0.03, 'b': 0.06, 'c': 0.06}
    """
    adjusted, least = {}, 0.0
    for i, name in enumerate(sorted(p, key=p.__getitem__)):
        least = max(least, min(1.0, (len(p) - i) * p[name]))
        adjusted[name] = least
    return {name: adjusted[name] for name in p}


def tested(names: list[str]) -> list[str]:
    """Those of the differences that hypotheses are about."""
    own = {*list(LADDER_STEPS)[: TESTED[0]], *list(PREMISE_STEPS)[: TESTED[1]]}
    return [name for name in names if name in own or name not in LADDER_STEPS | PREMISE_STEPS]


def effects(of: list[Run], y: dict[tuple[int, str], float]) -> list[Effect]:
    """All differences, in points, from the responses of runs in points, by (block, arm)."""
    found: dict[str, tuple[str, float, float, int]] = {}
    for belongs, make in ((in_factor_model, factor_model), (in_arm_model, arm_model)):
        own = [run for run in of if belongs(run) and run.key in y]
        if own:
            for name, values in fit(make(own), np.array([y[run.key] for run in own])).items():
                family = "ladder" if name in LADDER_STEPS else "premise" if name in PREMISE_STEPS else "factor"
                found[name] = (family, *values)
    p = {name: float(2 * stats.t.sf(abs(e) / s, df)) if s else 1.0 for name, (_, e, s, df) in found.items()}
    adjusted = holm({name: p[name] for name in tested(list(p))})
    table = []
    for name, (family, estimate, error, freedom) in found.items():
        half = float(stats.t.ppf(1 - LEVEL / 2, freedom)) * error
        adjusted_p = adjusted.get(name, float("nan"))
        table.append(Effect(name, family, estimate, error, estimate - half, estimate + half, p[name], adjusted_p))
    return table


def _pixels(row: dict[str, Any]) -> str:
    """What the images of a run are, by their pixels; where a record does not have that, by what they were made from."""
    return row.get("pixels") or row["data"]


class Sorted(NamedTuple):
    """The records that one analysis may use, and why the others are left out."""

    used: list[dict[str, Any]]  # done
    diverged: list[dict[str, Any]]
    left_out: list[str]


def _sample(row: dict[str, Any]) -> dict[str, Any]:
    """What a record says of its method and of what is drawn, where it says it."""
    return {name: row[name] for name in ("method", "seed", "split", "data_seed") if name in row}


def _expected(run: Run) -> dict[str, Any]:
    """The same of a run of the design."""
    method, given = fields(SCALES[run.scale], run.block, run.arm)
    return {"method": method, "seed": given["seed"]} | {
        name: given[f"data.{field}"]
        for name, field in (("split", "split"), ("data_seed", "seed"))
        if f"data.{field}" in given
    }


def sort(scale: str, records: list[dict[str, Any]]) -> Sorted:
    """One commit, one data set, one list of images a block: those of the first record. Nothing else is averaged in."""
    known = {run.key: run for run in runs(scale)}
    used, diverged, left_out = [], [], []
    lists: dict[tuple[int, str], str] = {}
    seen: set[tuple[int, str]] = set()
    for row in records:
        key, first, why = (row["block"], row["arm"]), records[0], ""
        # The arms of the premise have images of their own, and are scored by those of their block.
        has = {} if str(row["arm"]).startswith("without-") else {"trained on": row["images"]}
        has |= {name: row["lists"][name] for name in ("probe_train", "test") if name in row.get("lists", {})}
        if key not in known:
            why = "is no run of the design"
        elif row["commit"] != first["commit"]:
            why = f"is of commit {row['commit'][:12]}"
        elif _pixels(row) != _pixels(first) or any(lists.get((row["block"], n), x) != x for n, x in has.items()):
            why = f"is of other data ({row['data']}, {row['images'][:12]})"
        elif differs := [n for n, x in _sample(row).items() if _expected(known[key]).get(n, x) != x]:
            why = f"has another {' and '.join(differs)} than the design"
        elif row["state"] not in ("done", "diverged"):
            why = f"is {row['state']}"
        elif key in seen:
            why = "is there twice: the first one counts"
        else:
            lists |= {(row["block"], name): value for name, value in has.items()}
            seen.add(key)
            (used if row["state"] == "done" else diverged).append(row)
            continue
        left_out.append(f"block {row['block']} {row['arm']} {why}")
    return Sorted(used, diverged, left_out)


class Progress(NamedTuple):
    """How far a scale is."""

    ended: set[tuple[int, str]]  # the runs that are done or diverged
    cannot: list[tuple[int, str]]  # arms of the premise of a block whose SimCLR diverged: none says what they leave out
    whole: list[int]  # blocks of which nothing is to come
    interim: bool  # whether anything is to come


def progress(scale: str, of: Sorted) -> Progress:
    design = runs(scale)
    ended = {(row["block"], row["arm"]) for row in (*of.used, *of.diverged)}
    without_simclr = {row["block"] for row in of.diverged if row["arm"] == "simclr"}
    cannot = [run.key for run in design if run.arm.without and run.block in without_simclr]
    to_come = {run.block for run in design if run.key not in ended | set(cannot)}
    return Progress(ended, cannot, sorted({run.block for run in design} - to_come), bool(to_come))


def collapsed(row: dict[str, Any]) -> bool:
    """Whether a run ended with all features in one direction. It stays in the models: no run is left out by score."""
    return bool(row["scores"].get("features.effective_rank", np.inf) < ONE_DIRECTION)


def residuals(of: list[Run], y: dict[tuple[int, str], float]) -> list[float]:
    """Standard deviation of what the models leave, in points: of the fraction, then of ladder and premise."""
    found = []
    for belongs, make in ((in_factor_model, factor_model), (in_arm_model, arm_model)):
        own = [run for run in of if belongs(run) and run.key in y]
        variance, _ = residual(make(own), np.array([y[run.key] for run in own]))
        found.append(float(np.sqrt(variance)))
    return found
