"""Train a method, or resume a run that was stopped."""

import contextlib
import os
import pathlib
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from sdclr_jax import parallel, processes, pruning, recipes
from sdclr_jax.api.load import Run, load
from sdclr_jax.data.batches import Resident, Sent, Streamed
from sdclr_jax.data.images import as_images
from sdclr_jax.errors import Diverged, Stopped, UserError, renamed
from sdclr_jax.evaluation import collapse
from sdclr_jax.evaluation.online import OnlineProbe
from sdclr_jax.files import expanded
from sdclr_jax.parallel import Shardings
from sdclr_jax.processes import Stop
from sdclr_jax.records import names
from sdclr_jax.run import folder, metrics, versions, wandb
from sdclr_jax.run.checkpoints import Checkpoints
from sdclr_jax.run.clock import Clock
from sdclr_jax.train import Method, State, Step


def pretrain(
    config: ConfigDict,
    workdir: str | os.PathLike,
    *,
    data_dir: str | os.PathLike | None = None,
    devices: list[jax.Device] | None = None,
    progress: bool = False,
) -> Run:
    """Train a method to its last step; where `workdir` holds this run already, resume it.

    Args:
        config: as `sdclr_jax.config` gives it, or a ConfigDict of your own with the same fields.
        workdir: the run's folder, which is made.
        data_dir: folder of prepared data sets; None is $SDCLR_DATA or ~/.cache/sdclr_jax/data.
        devices: those to train on; None is all of all processes.
        progress: whether to draw a progress bar on the standard error.

    Returns:
        The run, as `sdclr_jax.load` opens it.

    Raises:
        UserError: bad input, before anything is written.
        Diverged: something is no longer finite; the last good checkpoint stays.
        Stopped: a stop was asked for (Ctrl-C, SIGTERM, SIGHUP, SIGUSR1), and the state is saved.

    >>> config = sdclr_jax.config("digits_lt:sdclr", epochs=2)
    >>> run = sdclr_jax.pretrain(config, "runs/example")
    >>> run.step  # 369 images, 64 a step
    10
    """
    directory = expanded(workdir)
    train(config, directory, data_dir, devices=devices, progress=progress)
    return load(directory)


def train(
    config: ConfigDict,
    directory: pathlib.Path,
    data_dir: str | os.PathLike | None = None,
    *,
    devices: list[jax.Device] | None = None,
    progress: bool = False,
) -> State:
    """Train to the last step, from the newest checkpoint in `directory` if there is one; returns the last state.

    Raises:
        UserError: bad input, before anything is written; in every process what one of them finds.
        Diverged: something is no longer finite; the last good checkpoint stays.
        Stopped: a stop was asked for, and the state is saved.
    """
    with processes.together():
        recipes.check(config)
        recipes.check_protocols(config)
        with renamed({"project": "wandb"}):
            wandb.check(config.wandb)
        config = recipes.located(config)
        folder.check(directory, config, recipes.identity)
        shardings = parallel.shardings(devices)
        data = recipes.data(config, data_dir)
        online = recipes.online_probe(config, data, shardings) if config.evaluate.every else None
        images, trained_on = data.part(config.data.subset).images, data.about(config.data.subset)
        if changed := folder.about_other_data(directory, trained_on):
            raise UserError(f"{changed}: put the images back, or give another --workdir")
        batches, shape = recipes.batches(config, images, shardings), recipes.image_shape(config, images)
        like = recipes.abstract_state(config, shape, shardings)
        method = recipes.method(config, batches.steps_per_epoch, shardings.replicated)
        recipes.try_step(config, method, like, images, shardings.batch)
        # No process writes before all have looked and found the same.
        if processes.count() > 1:  # to ask for the commit starts git
            of_images = f"{trained_on.images} images, SHA-256 {trained_on.sha256[:8]}…"
            processes.agree(versions.alike() | recipes.identity(config) | {"list of images": of_images})
        folder.check_shared(directory)
        with folder.lock(directory) if processes.is_main() else contextlib.nullcontext():
            if processes.is_main():
                encoder = recipes.encoder_record(config, shape, encoded=not as_images(images).is_decoded)
                folder.claim(directory, config, trained_on, encoder, recipes.identity)
            processes.exchange("the start of training")
            view_shape = recipes.view_shape(config, shape)
            return _train(config, method, directory, batches, online, like, view_shape, shardings, progress)


class _Measurement(NamedTuple):
    """What is measured every so many steps, and after the last; 0 is never."""

    every: int
    measure: Callable[[Step], dict[str, float | None]]


def _train(
    config: ConfigDict,
    method: Method,
    directory: pathlib.Path,
    batches: Resident | Sent | Streamed,
    online: OnlineProbe | None,
    like: State,
    view_shape: tuple[int, ...],
    shardings: Shardings,
    progress: bool,
) -> State:
    epoch = batches.steps_per_epoch  # all that follows counts in steps
    total, checkpoint_every = config.epochs * epoch, config.checkpoint_every * epoch

    init = jax.jit(method.init, out_shardings=shardings.replicated, compiler_options=_quick_compile(shardings))
    density = jax.jit(pruning.density)
    collapsed = jax.jit(
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

    with Checkpoints(directory / names.CHECKPOINTS, config.keep_every * epoch) as checkpoints, Stop() as stop:
        state = checkpoints.restore(like=like)
        if state is None:
            state = init(np.uint32(config.seed), np.zeros(view_shape, np.float32))
        start = int(state.step)
        stream = batches.from_step(start)
        with (
            contextlib.closing(stream),
            contextlib.closing(_log(directory, start)) as log,
            _sent(directory, config) as send,
            _bar(total, start, progress) as bar,
            processes.telling(),
        ):
            clock = Clock(config.batch_size, start, log.seconds)
            window = []  # scalars of the steps since the last line, on the device
            shown = {}  # beside the bar

            def measure_collapse(step: Step) -> dict[str, float]:
                return _mean_of([collapsed(step.state, step.images)], step.number)

            def measure_online(step: Step) -> dict[str, float | None]:
                with clock.paused():
                    scores = online.measure(step.state)
                shown.update({f"knn_{group}": _percent(scores.get(f"knn/{group}")) for group in ("all", "few")})
                return scores

            measurements = (
                _Measurement(config.collapse_every, measure_collapse),
                _Measurement(config.evaluate.every * epoch, measure_online),
            )
            for step in method.train(state, clock.timed(stream), until=total):
                number, state = step.number, step.state
                window.append(step.scalars)
                # What is due falls on lines of the log, so the means in a line do not depend on where a run stopped.
                last = number == total
                due = [m.measure for m in measurements if m.every and (last or number % m.every == 0)]
                checkpoint = last or number % checkpoint_every == 0
                convenient = bool(due) or checkpoint or number % config.log_every == 0
                stopping = stop.at(number, convenient)
                if not (convenient or stopping):
                    continue
                line = _mean_of(window, number)  # waits for the devices
                window.clear()
                line |= {"epoch": number / epoch}
                if method.damaged:
                    line |= {f"density/{k}": float(v) for k, v in jax.device_get(density(state.mask)).items()}
                for measure in due:
                    line |= measure(step)
                line |= batches.counts() | clock.read(number)
                log.write(line)
                send(line)
                for cause, message in warnings_in(line):
                    if log.warn(line, cause, message):
                        bar.write(f"warning at step {number}: {message}", file=sys.stderr)
                shown |= {"loss": f"{line['loss']:.3f}", "images_per_s": f"{line['images_per_second']:.0f}"}
                bar.set_postfix(shown)
                bar.update(number - bar.n)
                if checkpoint or stopping:
                    checkpoints.save(number, state)
                if stopping and not last:
                    raise Stopped(f"stopped at step {number} of {total}: run it again to resume")
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
    return metrics.Metrics(directory, step) if processes.is_main() else _NoLog()


@contextlib.contextmanager
def _sent(directory: pathlib.Path, config: ConfigDict) -> Iterator[Callable[[dict], None]]:
    """Sends a line of metrics to Weights & Biases, where that is asked for, from the main process."""
    if not (config.wandb and processes.is_main()):
        yield lambda line: None
        return
    with contextlib.closing(wandb.WandB(config.wandb, directory, recipes.fields(config))) as run:
        yield run.write


def _bar(total: int, start: int, progress: bool) -> tqdm:
    # A terminal is drawn afresh often; a file would fill up.
    interval = 0.5 if sys.stderr.isatty() else 30
    quiet = not (progress and processes.is_main())
    return tqdm(total=total, initial=start, unit="step", mininterval=interval, disable=quiet, dynamic_ncols=True)
