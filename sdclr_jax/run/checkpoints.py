"""Checkpoints of a run's state; nothing else of orbax stands anywhere else.

with Checkpoints(workdir / "checkpoints") as checkpoints:
    checkpoints.save(step, state)                # returns at once, written in the background
    state = checkpoints.restore(like=state)      # the newest one that is whole
"""

import contextlib
import logging
import pathlib
import time
import warnings
from collections.abc import Iterator
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from sdclr_jax import parallel, trees
from sdclr_jax.errors import UserError

LOG = logging.getLogger(__name__)


class Checkpoints(contextlib.AbstractContextManager):
    """The checkpoints below a folder; leaving the context waits until everything is on disk, or raises UserError.

    Args:
        directory: where they stand, a folder a step.
        keep_every: a step divisible by it is kept for good; of the others the last two. 0 keeps only those two.
        read_only: change nothing on disk, as beside a run that is still training.
    """

    def __init__(self, directory: pathlib.Path, keep_every: int = 0, *, read_only: bool = False):
        policies = [checkpoint_managers.LatestN(2)]
        if keep_every:
            policies.append(checkpoint_managers.EveryNSteps(keep_every))
        self._directory, self._read_only = directory.absolute(), read_only
        self._manager = ocp.CheckpointManager(
            self._directory,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=checkpoint_managers.AnyPreservationPolicy(policies),
                enable_async_checkpointing=True,
                create=not read_only,
                read_only=read_only,
            ),
        )

    def __exit__(self, *error: Any) -> None:
        with self._writing():
            self._manager.close()

    @property
    def steps(self) -> list[int]:
        """Steps that have a checkpoint, ascending; beside a run that is still training, at this moment."""
        if self._read_only:
            self._manager.reload()
        return sorted(self._manager.all_steps())

    def save(self, step: int, state: Any) -> None:
        """Save in the background, unless this step is there; the state may be donated as soon as this returns.

        Raises:
            UserError: the disk is full, or the folder cannot be written; perhaps one before could not be.
        """
        if step in self._manager.all_steps():
            return
        meta = {"checksum": int(trees.checksum(state))}
        args = ocp.args.Composite(state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta))
        with self._writing():
            self._manager.save(step, args=args)

    def restore(self, like: Any, step: int | None = None) -> Any | None:
        """The state of the newest whole checkpoint, or None where there is no checkpoint.

        A newer one that cannot be read, or whose checksum is wrong (orbax does not notice a flipped byte), is passed
        over with a warning. Once an older one has been read it is moved out of the way, so that the run can save that
        step again; if none can be read, the cause may be this program, and all stay where they are.

        Args:
            like: a state of the same structure; shapes, types and shardings are taken from it.
            step: one step only.

        Raises:
            UserError: there are checkpoints, but none can be read; or there is none of this step.
        """
        steps = self.steps if step is None else [s for s in self.steps if s == step]
        damaged, cause = [], None
        for candidate in reversed(steps):
            try:
                state = self._read(candidate, like)
            except Exception as error:  # orbax raises bare Exception for a damaged file
                LOG.warning("checkpoint %d of %s cannot be used: %s", candidate, self._directory, _first_line(error))
                damaged.append(candidate)
                cause = error
            else:
                if damaged and not self._read_only:
                    self._set_aside(damaged)
                return state
        if steps or step is not None:
            raise UserError(
                f"no checkpoint{'' if step is None else f' of step {step}'} in {self._directory} can be read: give "
                "another workdir, put back the files from a copy, or use the version that versions.json names"
            ) from cause
        return None

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:  # a full disk is a ValueError of tensorstore's
            raise UserError(
                f"a checkpoint cannot be written to {self._directory} ({_first_line(error)}): make room and permission "
                "there; the same command then goes on from the last whole one"
            ) from error

    def _read(self, step: int, like: Any) -> Any:
        args = ocp.args.Composite(state=ocp.args.StandardRestore(like), meta=ocp.args.JsonRestore())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            restored = self._manager.restore(step, args=args)
        if int(trees.checksum(restored["state"])) != restored["meta"]["checksum"]:
            raise ValueError("its checksum is wrong, so it is damaged")
        return restored["state"]

    def _set_aside(self, steps: list[int]) -> None:
        if jax.process_index() == 0:
            for step in steps:
                damaged = self._directory.parent / "damaged_checkpoints" / f"{step}.{time.time_ns()}"
                damaged.parent.mkdir(exist_ok=True)
                (self._directory / str(step)).rename(damaged)
        parallel.barrier("damaged checkpoints moved")
        self._manager.reload()


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:200]
