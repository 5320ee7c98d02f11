"""Checkpoints of a run's state; nothing of orbax stands anywhere else.

with Checkpoints(workdir / "checkpoints") as checkpoints:
    checkpoints.save(step, state)                # returns at once, written in the background
    state = checkpoints.restore(like=state)      # the newest one that is whole
    step, variables = checkpoints.encoder()      # the encoder of its dense branch alone

A checkpoint has three items: `encoder`, the variables of the dense branch's encoder; `state`, all other leaves of the
state; and `meta`, the format and a checksum of each of the two. Format 1 had the whole state in one item.
"""

import contextlib
import dataclasses
import logging
import pathlib
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax import traverse_util
from orbax.checkpoint import checkpoint_managers

from sdclr_jax import processes, trees
from sdclr_jax.errors import UserError
from sdclr_jax.records import names
from sdclr_jax.trees import Tree

LOG = logging.getLogger(__name__)
T = TypeVar("T")

FORMAT = 2
# Fields of a state that have another name in a checkpoint of format 1.
RENAMED = {"objective_state": "memory"}
# Where the leaves of the dense branch's encoder stand in a state, and in the item `encoder`.
_ENCODER = {
    "params/weights/encoder/": "params/",
    "params/norms/dense/encoder/": "params/",
    "stats/dense/encoder/": "batch_stats/",
}


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
        with _quiet():
            options = ocp.CheckpointManagerOptions(
                preservation_policy=checkpoint_managers.AnyPreservationPolicy(policies),
                enable_async_checkpointing=True,
                create=not read_only,
                read_only=read_only,
            )
            self._manager = ocp.CheckpointManager(self._directory, options=options)

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
        items = {"encoder": encoder(state), "state": _others(state)}
        meta = {"format": FORMAT, "checksums": {name: int(trees.checksum(item)) for name, item in items.items()}}
        saved = {name: ocp.args.StandardSave(item) for name, item in items.items()}
        with self._writing():
            self._manager.save(step, args=ocp.args.Composite(**saved, meta=ocp.args.JsonSave(meta)))

    def restore(self, like: Any, step: int | None = None) -> Any | None:
        """The state of the newest whole checkpoint, or None where there is no checkpoint.

        A newer one that cannot be read, or whose checksum is wrong (orbax does not notice a flipped byte), is passed
        over with a warning. Once an older one has been read it is moved out of the way, so that the run can save that
        step again; if none can be read, the cause may be this program, and all stay where they are.

        Args:
            like: a state of the same structure; shapes, types and shardings are taken from it.
            step: one step only.

        Raises:
            UserError: there are checkpoints, but none can be read; there is none of this step; or one has a newer
                format.
        """
        found = self._newest(step, lambda candidate: self._state(candidate, like))
        return found and found[1]

    def encoder(self, step: int | None = None) -> tuple[int, Tree] | None:
        """Step and encoder of the newest whole checkpoint, or None where there is no checkpoint.

        The encoder is that of the dense branch, {"params": tree, "batch_stats": tree} of NumPy arrays, without
        `batch_stats` where the network keeps none. Nothing else of the state is read. Its checksum is compared, but
        for a checkpoint of format 1, which has one for the whole state only.

        Args:
            step: one step only.

        Raises:
            UserError: as `restore`.
        """
        return self._newest(step, self._encoder)

    def _newest(self, step: int | None, read: Callable[[int], T]) -> tuple[int, T] | None:
        """Step and what `read(step)` gives of the newest checkpoint where it succeeds."""
        steps = self.steps if step is None else [s for s in self.steps if s == step]
        damaged, cause = [], None
        for candidate in reversed(steps):
            try:
                found = read(candidate)
            except UserError:
                raise
            except Exception as error:  # orbax raises bare Exception for a damaged file
                LOG.warning("checkpoint %d of %s cannot be used: %s", candidate, self._directory, _first_line(error))
                damaged.append(candidate)
                cause = error
            else:
                if damaged and not self._read_only:
                    self._set_aside(damaged)
                return candidate, found
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

    def _meta(self, step: int) -> dict[str, Any]:
        meta = self._restored(step, meta=ocp.args.JsonRestore())["meta"]
        if meta.get("format", 1) > FORMAT:
            raise UserError(
                f"checkpoint {step} of {self._directory} has format {meta['format']}, and this version reads formats "
                f"up to {FORMAT}: use the version that versions.json names"
            )
        return meta

    def _state(self, step: int, like: Any) -> Any:
        meta = self._meta(step)
        if meta.get("format", 1) == 1:
            return self._state_of_format_1(step, like, meta["checksum"])
        items = {"encoder": encoder(like), "state": _others(like)}
        restored = self._restored(step, **{name: ocp.args.StandardRestore(item) for name, item in items.items()})
        for name in items:
            _verify(restored[name], meta["checksums"][name])
        leaves = traverse_util.flatten_dict(restored["encoder"], sep="/")
        return jax.tree_util.tree_map_with_path(
            lambda path, _, other: leaves[place] if (place := _place(trees.name(path))) else other,
            like,
            restored["state"],
        )

    def _state_of_format_1(self, step: int, like: Any, checksum: int) -> Any:
        stored_as = {field.name: RENAMED.get(field.name, field.name) for field in dataclasses.fields(like)}
        item = {stored: getattr(like, name) for name, stored in stored_as.items()}
        restored = self._restored(step, state=ocp.args.StandardRestore(item))["state"]
        state = like.replace(**{name: restored[stored] for name, stored in stored_as.items()})
        _verify(state, checksum)
        return state

    def _encoder(self, step: int) -> Tree:
        meta = self._meta(step)
        in_item = meta.get("format", 1) > 1
        folder = self._directory / str(step) / ("encoder" if in_item else "state")
        handler = ocp.PyTreeCheckpointHandler()
        with _quiet():
            metadata = handler.metadata(folder).tree
        stored = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), metadata)
        wanted = stored if in_item else trees.partition(stored, lambda name, leaf: bool(_place(name)))[0]
        as_numpy = jax.tree.map(lambda leaf: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
        args = ocp.args.PyTreeRestore(item=wanted, restore_args=as_numpy, partial_restore=not in_item)
        with _quiet():
            restored = handler.restore(folder, args=args)
        if not in_item:
            return encoder(restored)
        _verify(restored, meta["checksums"]["encoder"])
        return restored

    def _restored(self, step: int, **items: Any) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return self._manager.restore(step, args=ocp.args.Composite(**items))

    def _set_aside(self, steps: list[int]) -> None:
        if processes.is_main():
            for step in steps:
                damaged = self._directory.parent / names.DAMAGED / f"{step}.{time.time_ns()}"
                damaged.parent.mkdir(exist_ok=True)
                # A bucket moves file by file: without this one, what is left counts as unfinished at once.
                (self._directory / str(step) / "commit_success.txt").unlink(missing_ok=True)
                (self._directory / str(step)).rename(damaged)
        processes.exchange("damaged checkpoints moved")
        self._manager.reload()


def encoder(state: Any) -> Tree:
    """The variables of the dense branch's encoder in a state, {"params": tree, "batch_stats": tree}."""
    leaves = {place: leaf for name, leaf in trees.named(state).items() if (place := _place(name))}
    return traverse_util.unflatten_dict(leaves, sep="/")


def _others(state: Any) -> Any:
    """The state with holes in place of the leaves that `encoder` gives."""
    return trees.partition(state, lambda name, leaf: bool(_place(name)))[1]


def _place(name: str) -> str:
    """The name in `encoder` of a leaf of a state, '' for one that is no part of it."""
    return next((own + name.removeprefix(prefix) for prefix, own in _ENCODER.items() if name.startswith(prefix)), "")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Orbax tells of its own housekeeping as warnings."""
    log = logging.getLogger("absl")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


def _verify(item: Tree, checksum: int) -> None:
    if int(trees.checksum(item)) != checksum:
        raise ValueError("its checksum is wrong, so it is damaged")


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:200]
