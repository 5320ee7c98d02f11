"""What the design of experiments/factors.py can find, and how often it finds what is not there: simulated from the
standard deviations that the design assumes.
"""

import numpy as np
from factors_analysis import LEVEL, arm_model, factor_model, in_arm_model, in_factor_model, tested
from factors_design import SCALES, runs
from scipy import stats

BETWEEN_CELLS = ("rate", "criterion", "refresh")  # factors that are one level in all four runs of a cell


def smallest_seen(scale: str, blocks: int, simulations: int = 4000, power: float = 0.8) -> dict[str, float]:
    """The difference, in points of All, that is found with this power by Holm's test, all others being 0: simulated
    from the standard deviations that the design assumes."""
    rng = np.random.default_rng(0)
    of = [run for run in runs(scale) if run.block <= blocks]
    within, lack_of_fit = SCALES[scale].noise
    statistics: dict[str, tuple[np.ndarray, np.ndarray, int]] = {}
    for belongs, make, noise in (
        (in_factor_model, factor_model, np.hypot(within, lack_of_fit)),
        (in_arm_model, arm_model, within),
    ):
        model = make([run for run in of if belongs(run)])
        y = noise * rng.standard_normal((simulations, len(model.matrix)))
        inverse = np.linalg.pinv(model.matrix)
        freedom = len(model.matrix) - np.linalg.matrix_rank(model.matrix)
        if freedom < 1:
            return {}
        sigma = np.sqrt(np.sum((y - y @ inverse.T @ model.matrix.T) ** 2, axis=1) / freedom)
        for name, contrast in model.effects.items():
            weights = contrast @ inverse
            statistics[name] = (y @ weights, sigma * np.sqrt(weights @ weights), freedom)
    names = tested(list(statistics))
    p = {n: 2 * stats.t.sf(np.abs(statistics[n][0]) / statistics[n][1], statistics[n][2]) for n in names}
    found = {}
    for name in names:
        estimate, error, freedom = statistics[name]
        others = np.sort(np.stack([p[n] for n in names if n != name]), axis=0)
        # Holm rejects it if, of those with smaller p, each is rejected in its turn, and its own is below its limit.
        limits = LEVEL / (len(names) - np.arange(len(names)))

        def share(size: float, e=estimate, s=error, df=freedom, o=others, at=limits) -> float:
            own = 2 * stats.t.sf(np.abs(e + size) / s, df)
            before = np.sum(o < own, axis=0)
            passed = np.cumprod(o < at[: len(o), None], axis=0).sum(axis=0)  # how many of the others fall from the top
            return float(np.mean((passed >= before) & (own < at[before])))

        low, high = 0.0, 50.0
        for _ in range(20):
            middle = (low + high) / 2
            low, high = (low, middle) if share(middle) >= power else (middle, high)
        found[name] = high
    return found


def false_alarms(scale: str, simulations: int = 40_000) -> dict[str, float]:
    """Share of experiments in which a difference has an interval without 0, though no factor has an effect: if all that
    the design assumes beside what a repeated run varies by lies between cells, of the four runs of a block that share
    rate, criterion and refresh. The model takes all runs as independent."""
    rng = np.random.default_rng(0)
    damaged = [run for run in runs(scale) if in_factor_model(run)]
    cells = [(run.block, *(getattr(run.arm.levels, name) for name in BETWEEN_CELLS)) for run in damaged]
    of_cell = np.unique(cells, axis=0, return_inverse=True)[1].ravel()
    within, between = SCALES[scale].noise
    y = within * rng.standard_normal((simulations, len(damaged)))
    y += between * rng.standard_normal((simulations, of_cell.max() + 1))[:, of_cell]
    model = factor_model(damaged)
    inverse = np.linalg.pinv(model.matrix)
    freedom = len(damaged) - np.linalg.matrix_rank(model.matrix)
    sigma = np.sqrt(np.sum((y - y @ inverse.T @ model.matrix.T) ** 2, axis=1) / freedom)
    reach = stats.t.ppf(1 - LEVEL / 2, freedom)
    found = {}
    for name, contrast in model.effects.items():
        weights = contrast @ inverse
        found[name] = float(np.mean(np.abs(y @ weights) > reach * sigma * np.sqrt(weights @ weights)))
    return found
