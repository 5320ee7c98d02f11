"""What a table costs: hours of one core or chip, by the measured rates of `throughput.py`.

Training is priced by the images of all epochs. What an evaluation encodes counts as a sixth of a training image each,
since a step is 2 forward and 2 backward passes, which is 6 forward ones by XLA's count (experiments/flops.py). Fits on
features, decoding of files and compilation are not counted, nor an evaluation on sets whose sizes the table does not
give.
"""

import math
from typing import NamedTuple

import jobs
import throughput
from lists import Planned, Table, kind_of

ENCODED = 1 / 6  # of what a training image costs
SHAPE = ("encoder", "width", "size", "dtype")  # a rate of another one says nothing


class Price(NamedTuple):
    """Hours of one `unit` of some hardware; `by` says which rate it is by, where that is not of the very config."""

    hardware: str
    unit: str
    hours: float
    by: str


def images(table: Table, planned: Planned) -> tuple[int, int]:
    """Images that a run trains on, in all epochs, and that its evaluation encodes."""
    config = jobs.config_of(planned.job)
    found = table.images
    encoded = found.get("held_out", 0)
    for protocol, part in (("linear_full", "probe"), ("linear_few_shot", "few_shot")):
        if protocol in map(kind_of, config.evaluate.protocols):
            encoded += getattr(config.evaluate, protocol.removeprefix("linear_") + "_epochs") * found.get(part, 0)
    return config.epochs * found.get("train", 0), encoded


def prices(table: Table, planned: Planned, rates: list[throughput.Rate]) -> list[Price]:
    """The price of a run on each hardware that a rate for it was measured on, by the nearest rate."""
    wanted = throughput.kind(jobs.config_of(planned.job))
    trained, encoded = images(table, planned)
    if not trained:
        return []
    near: dict[tuple[str, str], throughput.Rate] = {}
    for rate in sorted(rates, key=lambda rate: _distance(rate, wanted), reverse=True):
        if all(getattr(rate, name) == wanted[name] for name in SHAPE):
            near[rate.hardware, rate.unit] = rate
    found = []
    for (hardware, unit), rate in near.items():
        hours = (trained + ENCODED * encoded) / float(rate.images_per_second) / 3600
        same = all(getattr(rate, name) == wanted[name] for name in wanted)
        found.append(Price(hardware, unit, hours, "" if same else f"{rate.method} at batch {rate.batch_size}"))
    return sorted(found)


def _distance(rate: throughput.Rate, wanted: dict[str, str]) -> tuple:
    return rate.method != wanted["method"], abs(math.log(int(rate.batch_size) / int(wanted["batch_size"])))


def total(found: list[list[Price]]) -> dict[tuple[str, str], float]:
    """Hours of all runs on each hardware on which every one of them has a price."""
    keys = set.intersection(*({price[:2] for price in of_run} for of_run in found)) if found else set()
    return {key: sum(p.hours for of_run in found for p in of_run if p[:2] == key) for key in sorted(keys)}


def shown(hours: float) -> str:
    """`12`, `1.2` or `0.03`: two digits, as rates are not known better."""
    if hours >= 10:
        return f"{float(f'{hours:.2g}'):,.0f}"
    return f"{hours:.2g}"
