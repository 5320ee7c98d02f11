"""Train a method, or resume a run that was stopped."""

import contextlib
import pathlib
import signal
import sys
import time
from collections.abc import Iterator
from functools import partial

import jax
import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from sdclr_jax import parallel, pruning, recipes
from sdclr_jax.data.batches import Resident, Streamed
from sdclr_jax.errors import Diverged, UserError
from sdclr_jax.evaluation import collapse, protocols
from sdclr_jax.evaluation.online import OnlineProbe
from sdclr_jax.parallel import Shardings
from sdclr_jax.run import folder, metrics
from sdclr_jax.run.checkpoints import Checkpoints
from sdclr_jax.train import State


def pretrain(
    config: ConfigDict,
    directory: pathlib.Path,
    data_dir: str | None = None,
    *,
    devices: list[jax.Device] | None = None,
    progress: bool = False,
) -> State:
    """Train to the last step, from the newest checkpoint in `directory` if there is one; returns the last state.

    Raises:
        UserError: bad input, before anything is written.
        Diverged: something is no longer finite; the last good checkpoint stays.
    """
    recipes.check(config)
    protocols.check_names(config)
    config = recipes.located(config)
    folder.check(directory, config, recipes.identity)
    shardings = parallel.shardings(devices)
    data = recipes.data(config, data_dir)
    live = OnlineProbe(config, data, shardings) if config.evaluate.every else None
    images, trained_on = data.part(config.data.subset).images, data.about(config.data.subset)
    if changed := folder.about_other_data(directory, trained_on):
        raise UserError(f"{changed}: put the images back, or give another --workdir")
    batches, shape = recipes.batches(config, images, shardings), recipes.image_shape(config, images)
    like = recipes.abstract_state(config, shape, shardings)
    recipes.try_step(config, like, images)
    parallel.barrier("checked")  # no process writes before all have looked
    view_shape = recipes.view_shape(config, shape)
    if not parallel.is_main():
        return _train(config, directory, batches, live, like, view_shape, shardings, progress)
    with folder.lock(directory):
        folder.claim(directory, config, trained_on, recipes.identity)
        return _train(config, directory, batches, live, like, view_shape, shardings, progress)


def _train(
    config: ConfigDict,
    directory: pathlib.Path,
    batches: Resident | Streamed,
    live: OnlineProbe | None,
    like: State,
    view_shape: tuple[int, ...],
    shardings: Shardings,
    progress: bool,
) -> State:
    epoch = batches.steps_per_epoch  # all that follows counts in steps
    total, refresh_every = config.epochs * epoch, config.prune.every or epoch
    checkpoint_every, keep_every = config.checkpoint_every * epoch, config.keep_every * epoch
    live_every = config.evaluate.every * epoch if live else 0

    method = recipes.method(config, epoch)
    init = jax.jit(method.init, out_shardings=shardings.replicated, compiler_options=_quick_compile(shardings))
    step_fn = jax.jit(method.step, donate_argnums=0, out_shardings=(shardings.replicated, shardings.replicated))
    refresh = jax.jit(method.refresh, donate_argnums=0, out_shardings=shardings.replicated)
    density = jax.jit(pruning.density)
    measure = jax.jit(
        lambda state, batch: collapse.measure(method.diagnose(state, batch), method.pairs),
        out_shardings=shardings.replicated,
    )
    warnings_in = partial(
        collapse.warnings,
        epochs=config.epochs,
        dimensions=config.projector.out,
        images=config.batch_size,
        objective=config.objective.name,
        damaged=[name for name, branch in method.branches.items() if branch.masked],
    )

    with Checkpoints(directory / "checkpoints", keep_every) as checkpoints, _Stop() as stop:
        state = checkpoints.restore(like=like)
        if state is None:
            state = init(np.uint32(config.seed), np.zeros(view_shape, np.float32))
        start = int(state.step)
        stream = batches.from_step(start)
        with (
            contextlib.closing(stream),
            contextlib.closing(_log(directory, start)) as log,
            _bar(total, start, progress) as bar,
        ):
            clock = _Clock(config.batch_size, start, log.seconds)
            window = []  # scalars of the steps since the last line, on the device
            shown = {}  # beside the bar
            for done, batch in zip(range(start + 1, total + 1), clock.timed(stream), strict=False):
                if method.damaged and (done - 1) % refresh_every == 0:
                    state = refresh(state)
                state, scalars = step_fn(state, batch)
                window.append(scalars)

                # What is due falls on lines of the log, so the means in a line do not depend on where a run stopped.
                checkpoint = done % checkpoint_every == 0 or done == total
                measured = config.collapse_every and (done % config.collapse_every == 0 or done == total)
                evaluated = live and (done % live_every == 0 or done == total)
                if not (checkpoint or measured or evaluated or done % config.log_every == 0):
                    continue
                line = _mean_of(window, done)  # waits for the devices
                window.clear()
                line |= {"epoch": done / epoch}
                if method.damaged:
                    line |= {f"density/{k}": float(v) for k, v in jax.device_get(density(state.mask)).items()}
                if measured:
                    line |= _mean_of([measure(state, batch)], done)
                if evaluated:
                    with clock.paused():
                        scores = live.measure(state)
                    line |= scores
                    shown |= {f"knn_{group}": _percent(scores.get(f"knn/{group}")) for group in ("all", "few")}
                line |= batches.counts() | clock.read(done)
                log.write(line)
                for cause, message in warnings_in(line):
                    if log.warn(line, cause, message):
                        bar.write(f"warning at step {done}: {message}", file=sys.stderr)
                shown |= {"loss": f"{line['loss']:.3f}", "images_per_s": f"{line['images_per_second']:.0f}"}
                bar.set_postfix(shown)
                bar.update(done - bar.n)
                if checkpoint or stop.asked:
                    checkpoints.save(done, state)
                if stop.asked and done < total:
                    sys.exit(f"stopped at step {done} of {total}; the same command goes on from there")
    return state


def _quick_compile(shardings: parallel.Shardings) -> dict[str, object] | None:
    # One random draw a layer, run once: on a CPU, unoptimised code compiles in a quarter of the time.
    on_cpu = shardings.batch.mesh.devices.flat[0].platform == "cpu"
    return {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True} if on_cpu else None


def _mean_of(window: list[dict[str, jax.Array]], done: int) -> dict[str, float]:
    """Means of the scalars of the steps up to `done`.

    Raises:
        Diverged: names the first step with a scalar that is not finite, and the branch it came from.
    """
    window = jax.device_get(window)
    for step, scalars in enumerate(window, done - len(window) + 1):
        bad = [name for name, x in scalars.items() if not np.isfinite(x)]
        if bad:
            branches = [name.split("/")[1] for name in bad if "/" in name]
            where = f"in the {' and the '.join(branches)} branch" if branches else "in no branch's outputs"
            name = "loss" if "loss" in bad else bad[0]
            raise Diverged(
                f"the {name} is {scalars[name]} at step {step}, {where}: the last good checkpoint is kept; "
                "try a lower optimizer.learning_rate, a longer optimizer.warmup_epochs or model.dtype float32"
            )
    return {"step": done} | {name: float(np.mean([scalars[name] for scalars in window])) for name in window[0]}


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}%"


class _Clock:
    """Images a second since the last line (the first one counts compilation), seconds of training in all, and
    seconds spent waiting for data since the last line; seconds of pauses, which are no training, where there were any.
    """

    def __init__(self, batch_size: int, step: int, seconds: float):
        self._batch_size, self._step, self._seconds = batch_size, step, seconds
        self._since, self._wait, self._pause = time.perf_counter(), 0.0, 0.0

    def timed(self, batches: Iterator[jax.Array]) -> Iterator[jax.Array]:
        """The batches, with the time that each took to come counted as waiting."""
        while True:
            before = time.perf_counter()
            batch = next(batches)
            self._wait += time.perf_counter() - before
            yield batch

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        before = time.perf_counter()
        yield
        self._pause += time.perf_counter() - before

    def read(self, step: int) -> dict[str, float]:
        now = time.perf_counter()
        elapsed, wait, pause, steps = now - self._since - self._pause, self._wait, self._pause, step - self._step
        self._since, self._step, self._wait, self._pause = now, step, 0.0, 0.0
        self._seconds += elapsed
        read = {"images_per_second": steps * self._batch_size / elapsed, "seconds": self._seconds}
        return read | {"data_wait_seconds": wait} | ({"evaluation_seconds": pause} if pause else {})


class _Stop(contextlib.AbstractContextManager):
    """Ctrl-C and SIGTERM ask once; a second time they end the process. One process only: several must stop together."""

    def __init__(self):
        self.asked = False

    def __enter__(self):
        try:
            self._before = {s: signal.signal(s, self._ask) for s in (signal.SIGINT, signal.SIGTERM)}
        except ValueError:  # not the main thread, as in some notebooks
            self._before = {}
        return self

    def _ask(self, number, frame):
        if self.asked or jax.process_count() > 1:
            raise KeyboardInterrupt
        self.asked = True
        print("\nstopping at the next line of metrics; again to stop without saving", file=sys.stderr)

    def __exit__(self, *error):
        for number, handler in self._before.items():
            signal.signal(number, handler)


class _NoLog:
    """The log of a process that is not the main one."""

    seconds = 0.0

    def write(self, line):
        pass

    def warn(self, line, cause, message):
        return False

    def close(self):
        pass


def _log(directory: pathlib.Path, step: int):
    return metrics.Metrics(directory, step) if parallel.is_main() else _NoLog()


def _bar(total: int, start: int, progress: bool) -> tqdm:
    # A terminal is drawn afresh often; a file would fill up.
    interval = 0.5 if sys.stderr.isatty() else 30
    quiet = not (progress and parallel.is_main())
    return tqdm(total=total, initial=start, unit="step", mininterval=interval, disable=quiet, dynamic_ncols=True)
