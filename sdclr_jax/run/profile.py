"""What some steps of a run cost: a trace for a viewer, and the sentence for a person."""

import pathlib
import re
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from sdclr_jax.errors import UserError

# Dispatches that are not measured: they compile, and wait for what was begun before them.
WARM_UP = 3

# Published dense peaks of one device in bfloat16 (float16 where there is no bfloat16), in operations a second; the
# first name whose words stand in a device's own. TPU v2 and v3 have two devices a chip.
# Sources: cloud.google.com/tpu/docs (system architecture), NVIDIA's data sheets.
PEAKS = {
    "TPU v2": 22.5e12,
    "TPU v3": 61.5e12,
    "TPU v4 lite": 138e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,
    "TPU v5p": 459e12,
    "TPU v6": 918e12,
    "TPU v6e": 918e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "A100": 312e12,
    "L4": 121e12,
    "V100-PCIE": 112e12,
    "V100": 125e12,
    "T4": 65e12,
}


Lower = Callable[[Any, Any], jax.stages.Lowered]


def peak_of(kind: str) -> float | None:
    """The published peak of one device of this kind; None where none is known.

    >>> peak_of("NVIDIA H100 80GB HBM3")
    989000000000000.0
    """
    if re.search(r"\bMIG\b", kind):  # a part of a device
        return None
    return next((peak for name, peak in PEAKS.items() if re.search(rf"\b{name}\b", kind)), None)


def check(steps: int, after: int, until: int) -> None:
    """See that so many steps can be traced after number `after` of a run that ends after `until`.

    Raises:
        UserError: so many steps are not left.
    """
    left = max(until - after, 0)
    if steps > left:
        raise UserError(
            f"--profile is {steps}, and {left} steps are left after step {after}, before which nothing is measured: "
            "give fewer, or more epochs"
        )


class Costs(NamedTuple):
    """What the steps that were traced took."""

    steps: int
    seconds: float  # a step
    images: float  # a second
    waiting: float  # share of the time that the loop waited for data
    operations: float | None  # floating-point operations a step; None where XLA does not count them
    peak: float | None  # operations a second that all devices together could do; None for an unknown device
    devices: str

    def sentence(self, trace: pathlib.Path) -> str:
        said = (
            f"profile: {self.steps} steps of {self.seconds:.4g} s, {self.images:.4g} images a second, "
            f"{self.waiting:.1%} of the time waiting for data"
        )
        if self.operations:
            rate = self.operations / self.seconds
            said += f"; {self.operations:.3g} operations a step, {rate:.3g} a second on {self.devices}"
            if self.peak:
                said += f" ({rate / self.peak:.1%} of the published bfloat16 peak)"
        return f"{said}; open {trace} with `tensorboard` and its profile plugin, or its trace with ui.perfetto.dev"


class Profile:
    """Traces steps of a run into a folder, and says what they cost.

    profile = Profile(folder, steps=20, after=WARM_UP, until=1000, lower=method.jitted_step.lower)
    for step in method.train(...):
        if costs := profile.after(step, waited=clock.waited, batch_size=512):
            print(costs.sentence(folder))

    Args:
        directory: where the trace goes.
        steps: how many are traced.
        after: number of the step after which they come; those before compile.
        until: the last step of the run.
        lower: (state, images) -> the step as JAX lowers it, whose operations XLA counts.

    Raises:
        UserError: so many steps are not left.
    """

    def __init__(self, directory: pathlib.Path, steps: int, after: int, until: int, lower: Lower):
        check(steps, after, until)
        self.bounds = after, after + steps  # numbers of the steps after which the trace begins and ends
        self._directory, self._steps, self._lower = directory, steps, lower
        self._since = self._waited = 0.0

    def after(self, step: Any, *, waited: float, batch_size: int) -> Costs | None:
        """To be called after each step; gives the costs after the last one that is traced.

        Args:
            step: as `train.Step`; where the trace begins and ends, its state is waited for.
            waited: seconds that the loop has waited for data since any fixed time.
            batch_size: images a step.
        """
        if step.number == self.bounds[0]:
            jax.block_until_ready(step.state)
            jax.profiler.start_trace(self._directory)
            self._since, self._waited = time.perf_counter(), waited
        if step.number != self.bounds[1]:
            return None
        jax.block_until_ready(step.state)
        elapsed = time.perf_counter() - self._since
        jax.profiler.stop_trace()
        devices = jax.devices()
        kind = devices[0].device_kind
        peak = peak_of(kind)
        return Costs(
            steps=self._steps,
            seconds=elapsed / self._steps,
            images=self._steps * batch_size / elapsed,
            waiting=(waited - self._waited) / elapsed,
            operations=_operations(self._lower(step.state, step.images)),
            peak=peak and peak * len(devices),
            devices=f"{len(devices)} x {kind}",
        )


def _operations(lowered: jax.stages.Lowered) -> float | None:
    """Floating-point operations of a program, over all devices; None where XLA does not count them."""
    try:
        return lowered.cost_analysis()["flops"]
    except (KeyError, NotImplementedError, TypeError, jax.errors.JaxRuntimeError):
        return None
