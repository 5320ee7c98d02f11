"""The loop of a run: steps, lines of metrics, measurements, checkpoints, and stops."""

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from sdclr_jax import files, parallel, processes, pruning, recipes
from sdclr_jax.data.batches import Resident, Sent, Streamed
from sdclr_jax.errors import Diverged, Stopped, UserError
from sdclr_jax.evaluation import collapse
from sdclr_jax.evaluation.online import OnlineProbe
from sdclr_jax.output import Output
from sdclr_jax.parallel import Shardings
from sdclr_jax.processes import Stop
from sdclr_jax.progress import bar
from sdclr_jax.records import names
from sdclr_jax.records.metrics import DIVERGED
from sdclr_jax.run import metrics, wandb
from sdclr_jax.run.checkpoints import Checkpoints
from sdclr_jax.run.clock import Clock
from sdclr_jax.run.profile import WARM_UP, Profile
from sdclr_jax.stops import Overdue
from sdclr_jax.train import Method, State, Step
from sdclr_jax.trees import Tree

_BEGUN = "begun"  # among the notes of a checkpoint: what the next line of metrics has so far
Scalars = dict[str, Any]  # of a step, by name: on the devices, or read back from a checkpoint


class Parts(NamedTuple):
    """What a run is made of, once all of it has been looked at."""

    config: ConfigDict
    method: Method
    batches: Resident | Sent | Streamed
    online: OnlineProbe | None  # None where nothing is measured while it trains
    like: State  # shapes, types and shardings
    start: Mapping[str, Tree]  # weights that the first state takes over, by branch; most often none
    view_shape: tuple[int, ...]
    shardings: Shardings


def train(
    parts: Parts, directory: files.Path, still_held: Callable[[], None], *, progress: bool, profiled_steps: int
) -> State:
    """Train to the last step, from the newest checkpoint in `directory` if there is one; returns the last state.

    Args:
        parts: what the run is made of.
        directory: the run's folder, which this process holds.
        still_held: raises UserError where another process holds it by now; called before anything is written.
        progress: whether to draw a progress bar.
        profiled_steps: steps that are traced.

    Raises:
        Diverged: something is no longer finite; the last good checkpoint stays.
        Stopped: a stop was asked for, and the state is saved.
    """
    config, method, batches = parts.config, parts.method, parts.batches
    epoch = batches.steps_per_epoch  # all that follows counts in steps
    total, checkpoint_every = config.epochs * epoch, config.checkpoint_every * epoch
    errors = Output(sys.stderr)  # the state is also saved where nobody reads it any more
    density = jax.jit(pruning.density, out_shardings=parts.shardings.replicated)

    with (
        Stop() as stop,  # ends after the last checkpoint is written, so that another signal does not break that off
        Checkpoints(directory / names.CHECKPOINTS, config.keep_every * epoch, still_held=still_held) as checkpoints,
    ):
        state = checkpoints.restore(like=parts.like)
        if state is None and config.model.start and not parts.start:
            raise UserError(
                f"{directory / names.CHECKPOINTS} had a checkpoint when this began, and has none that is whole: run "
                "the same command again, and move away what is there if it says the same"
            )
        state = _first(parts) if state is None else state
        start = int(state.step)
        notes = checkpoints.notes(start) if start else {}
        with (
            _opened(batches, start) as (stream, whole),
            contextlib.closing(metrics.opened(directory, start, notes, still_held)) as log,
            _sent(directory, config) as send,
            bar(None, total, progress and processes.is_main(), errors, initial=start, unit="step") as shown,
            processes.telling(),
            _noted(log, epoch),
        ):
            window = _Window(notes.get(_BEGUN, {}))
            clock = Clock(batches.images_before, start, window.seconds or log.seconds)
            traces, profile = directory / names.PROFILE, None
            if profiled_steps:
                warm_up = WARM_UP * config.steps_per_dispatch
                profile = Profile(traces, profiled_steps, start + warm_up, total, method.jitted_step.lower)
            measurements = _measurements(parts, clock)
            intervals = [config.log_every, checkpoint_every, *(m.every for m in measurements if m.every)]
            reporter = _Reporter(parts, log, send, shown, errors)

            def convenient(step: int) -> bool:
                """Whether a line of the log is due: all else that is due falls on one."""
                return step == total or any(step % interval == 0 for interval in intervals)

            def due(step: int) -> bool:
                return convenient(step) or (profile is not None and step in profile.bounds)

            def save(more: dict[str, Any]) -> None:
                log.publish()
                checkpoints.save(number, state, log.notes() | more)

            if not shown.disable:
                devices = parts.shardings.batch.mesh.devices
                shown.write(f"Training on {devices.size} x {devices.flat[0].device_kind}", file=errors)
            reporter.lost(log.lost, start)
            number = start
            for step in _until_overdue(method.train(state, clock.timed(stream), until=total, due=due)):
                number, state = step.number, step.state
                whole = step.images if len(step.images) == config.batch_size else whole
                window.add(step.scalars)
                if profile and (costs := profile.after(step, waited=clock.waited, batch_size=config.batch_size)):
                    shown.write(costs.sentence(traces), file=errors)
                stopping = stop.at(number, convenient(number))
                if not (convenient(number) or stopping):
                    continue
                last = number == total
                checkpoint = last or number % checkpoint_every == 0
                window.count(processes.summed(batches.counts()))
                if not convenient(number):  # the next line is that of a run without a stop
                    save({_BEGUN: window.notes(number, clock.read(number)["seconds"])})
                    raise Stopped(_stopped(number, total))
                line = window.line(number) | {"epoch": number / epoch}  # waits for the devices
                if method.damaged:
                    line |= {f"density/{k}": float(v) for k, v in jax.device_get(density(state.mask)).items()}
                for every, measure in measurements:
                    if every and (last or number % every == 0):
                        line |= measure(step._replace(images=whole))
                line |= clock.read(number)
                reporter.line(number, line)
                if checkpoint or stopping:
                    save({})
                if stopping and not last:
                    raise Stopped(_stopped(number, total))
            if number < total:
                if number > start:
                    window.count(batches.counts())
                    save({} if convenient(number) else {_BEGUN: window.notes(number, clock.read(number)["seconds"])})
                raise Stopped(_stopped(number, total))
    return state


def _until_overdue(steps: Iterator[Step]) -> Iterator[Step]:
    """The steps until a stop that was asked for waits for too long. While a batch is waited for, the state after the
    last step is whole: the step that is to come reuses its memory."""
    with contextlib.suppress(Overdue):
        yield from steps


@contextlib.contextmanager
def _opened(batches: Resident | Sent | Streamed, start: int) -> Iterator[tuple[Iterator[Any], Any]]:
    """The batches of the steps after `start`; and where the first of them is a part of one, the whole one before it,
    else None. Ranks are bounded by the images that they are measured on, so these are always a whole batch, the same
    one whether the run was stopped or not."""
    begun = start - batches.is_part(start)
    with contextlib.closing(batches.from_step(begun)) as stream:
        whole = [next(stream) if begun < start else None]
        batches.counts()  # what is replaced in that batch was counted before the stop
        yield stream, whole.pop()  # which this frame does not hold on to


def _first(parts: Parts) -> State:
    """The state before the first step."""
    init = jax.jit(
        lambda seed, view, start: recipes.started(parts.method.init(seed, view), start),
        out_shardings=parallel.of(parts.like),
        compiler_options=quick_compile(parts.shardings),
    )
    return init(np.uint32(parts.config.seed), np.zeros(parts.view_shape, np.float32), parts.start)


def quick_compile(shardings: Shardings) -> dict[str, object] | None:
    """What the compiler is told of `Method.init`."""
    # One random draw a layer, run once: on a CPU, unoptimised code compiles in a quarter of the time.
    on_cpu = shardings.batch.mesh.devices.flat[0].platform == "cpu"
    return {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True} if on_cpu else None


@cache
def _jitted_collapse(replicated: jax.sharding.Sharding) -> Callable[..., dict[str, jax.Array]]:
    """`collapse.measure`, compiled once for all runs of this process."""
    return jax.jit(collapse.measure, static_argnames="pairs", out_shardings=replicated)


class _Measurement(NamedTuple):
    """What is measured every so many steps, and after the last; 0 is never."""

    every: int
    measure: Callable[[Step], metrics.Line]


def _measurements(parts: Parts, clock: Clock) -> list[_Measurement]:
    config, method, online = parts.config, parts.method, parts.online
    collapse_of = _jitted_collapse(parts.shardings.replicated)

    def measure_collapse(step: Step) -> metrics.Line:
        outputs = method.jitted_diagnose(step.state, step.images)
        (found,) = _fetched([collapse_of(outputs, method.pairs)], step.number)
        return {name: float(value) for name, value in found.items()}

    def measure_online(probe: OnlineProbe, step: Step) -> metrics.Line:
        with clock.paused():
            return probe.measure(step.state)

    found = [_Measurement(config.collapse_every, measure_collapse)]
    if online:
        every = config.evaluate.every * parts.batches.steps_per_epoch
        found.append(_Measurement(every, partial(measure_online, online)))
    return found


class _Window:
    """The steps since the last line of metrics: their scalars, which stay on the devices until they are asked for, and
    counts. `begun` is what `notes` gave where the run stopped between two lines."""

    def __init__(self, begun: Mapping[str, Any]):
        scalars = begun.get("scalars", ())
        self._scalars: list[Scalars] = [{name: np.float32(x) for name, x in step.items()} for step in scalars]
        self._counts: dict[str, float] = dict(begun.get("counts", {}))
        self.seconds: float | None = begun.get("seconds")  # spent on training by then

    def add(self, scalars: Scalars) -> None:
        """Add those of a step."""
        self._scalars.append(scalars)

    def count(self, counts: Mapping[str, float]) -> None:
        """Add counts since the last ones."""
        self._counts |= {name: count + self._counts.get(name, 0) for name, count in counts.items()}

    def line(self, number: int) -> metrics.Line:
        """Means and counts of the steps up to `number`, with which the next line begins. Raises Diverged."""
        steps = _fetched(self._scalars, number)
        line: metrics.Line = {"step": number}
        line |= {name: float(np.mean([step[name] for step in steps])) for name in steps[0]} | self._counts
        self._scalars, self._counts = [], {}
        return line

    def notes(self, number: int, seconds: float) -> dict[str, Any]:
        """What goes on in another process after step `number`. Raises Diverged."""
        scalars = [{name: float(x) for name, x in step.items()} for step in _fetched(self._scalars, number)]
        return {"scalars": scalars, "counts": self._counts, "seconds": seconds}


def _fetched(window: list[Scalars], done: int) -> list[dict[str, np.ndarray]]:
    """The scalars of the steps up to `done`, on the host.

    Raises:
        Diverged: names the first step with a scalar that is not finite, and the branch it came from.
    """
    # Of several steps that were one dispatch, each scalar is [K].
    dispatches: list[dict[str, np.ndarray]] = jax.device_get(window)
    fetched = [
        dict(zip(scalars, step, strict=True))
        for scalars in dispatches
        for step in zip(*map(np.ravel, scalars.values()), strict=True)
    ]
    for step, scalars in enumerate(fetched, done - len(fetched) + 1):
        bad = [name for name, x in scalars.items() if not np.isfinite(x)]
        if bad:
            branches = [name.split("/")[1] for name in bad if "/" in name]
            where = f"in the {' and the '.join(branches)} branch" if branches else "in no branch's outputs"
            name = "loss" if "loss" in bad else bad[0]
            raise Diverged(
                f"the {name} is {scalars[name]} at step {step}, {where}: the last good checkpoint is kept; "
                "try a lower optimizer.learning_rate, a longer optimizer.warmup_epochs or model.dtype float32",
                step,
            )
    return fetched


@contextlib.contextmanager
def _noted(log: metrics.Metrics, epoch: int) -> Iterator[None]:
    """That a run diverged stands in its folder, too, which would look like one that waits to be resumed."""
    try:
        yield
    except Diverged as error:
        log.warn({"step": error.step, "epoch": error.step / epoch}, DIVERGED, str(error))
        raise


def _stopped(number: int, total: int) -> str:
    return f"stopped at step {number} of {total}: run it again to resume"


class _Reporter:
    """Tells of lines of metrics in the run's folder, to Weights & Biases, and beside the bar."""

    def __init__(
        self, parts: Parts, log: metrics.Metrics, send: Callable[[metrics.Line], None], bar: tqdm, errors: Output
    ):
        self._log, self._send, self._bar, self._errors = log, send, bar, errors
        self._epoch = parts.batches.steps_per_epoch
        self._warnings_in = partial(
            collapse.warnings,
            epochs=parts.config.epochs,
            images=parts.config.batch_size,
            dimensions=parts.config.projector.out,
            objective=parts.config.objective.name,
            damaged=[name for name, branch in parts.method.branches.items() if branch.masked],
        )
        self._shown: dict[str, str] = {}  # beside the bar

    def line(self, number: int, line: metrics.Line) -> None:
        """Of the line after step `number`, with the warnings that follow from it."""
        self.lost(self._log.write(line), number)
        self._send(line)
        for cause, message in self._warnings_in(line):
            if self._log.warn(line, cause, message):
                self._bar.write(f"warning at step {number}: {message}", file=self._errors)
        self._shown |= {"loss": f"{line['loss']:.3f}", "images_per_s": f"{line['images_per_second']:.0f}"}
        self._shown |= {f"knn_{g}": _percent(line[f"knn/{g}"]) for g in ("all", "few") if f"knn/{g}" in line}
        self._bar.set_postfix(self._shown)
        self._bar.update(number - self._bar.n)

    def lost(self, sentences: list[str], step: int) -> None:
        """Of lines that were written, and are gone."""
        for sentence in sentences:
            self._bar.write(f"warning at step {step}: {sentence}", file=self._errors)
            self._log.warn({"step": step, "epoch": step / self._epoch}, f"lost lines at step {step}", sentence)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}%"


@contextlib.contextmanager
def _sent(directory: files.Path, config: ConfigDict) -> Iterator[Callable[[metrics.Line], None]]:
    """Sends a line of metrics to Weights & Biases, where that is asked for, from the main process."""
    if not (config.wandb and processes.is_main()):
        yield lambda line: None
        return
    with contextlib.closing(wandb.WandB(config.wandb, directory, recipes.fields(config))) as run:
        yield run.write
