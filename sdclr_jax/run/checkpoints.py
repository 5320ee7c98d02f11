"""Checkpoints of a run's state; nothing of orbax stands anywhere else.

with Checkpoints(workdir / "checkpoints") as checkpoints:
    checkpoints.save(step, state)                # returns at once, written in the background
    state = checkpoints.restore(like=state)      # the newest one that is whole
    step, variables = checkpoints.encoder()      # the encoder of its dense branch alone

A checkpoint has three items: `encoder`, the variables of the dense branch's encoder; `state`, all other leaves of the
state; and `meta`: the format, the step, the SHA-256 of each of the two items, and notes. Format 2 had no step, and
checksums that saw less; format 1 had the whole state in one item.
"""

import contextlib
import dataclasses
import json
import logging
import pathlib
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax import traverse_util
from orbax.checkpoint import checkpoint_managers

from sdclr_jax import processes, records, trees
from sdclr_jax.errors import Lost, UserError, first_line
from sdclr_jax.records import Saved, names
from sdclr_jax.run import damage, folder
from sdclr_jax.trees import Tree

LOG = logging.getLogger(__name__)
T = TypeVar("T")

ALIKE = 90  # seconds until all processes see the same checkpoints, on a disk that shows folders late
FORMAT = 3
# Fields of a state that have another name in a checkpoint of format 1.
RENAMED = {"objective_state": "memory"}
# Where the leaves of the dense branch's encoder stand in a state, and in the item `encoder`.
_ENCODER = {
    "params/weights/encoder/": "params/",
    "params/norms/dense/encoder/": "params/",
    "stats/dense/encoder/": "batch_stats/",
}


class _Manager(ocp.CheckpointManager):
    """Orbax's, which leaves it to `stops.Stop` to ask JAX for the step at which all processes stop: JAX takes the
    largest number that it was asked with, and `Stop` does not count steps."""

    def reached_preemption(self, step: int) -> bool:
        return False


class Checkpoints(contextlib.AbstractContextManager):
    """The checkpoints below a folder; leaving the context waits until everything is on disk, or raises UserError.

    Args:
        directory: where they stand, a folder a step.
        keep_every: a step divisible by it is kept for good; of the others the last two. 0 keeps only those two.
        read_only: change nothing on disk, as beside a run that is still training.
        still_held: raises UserError where another process holds the run's folder by now; called before it is written.
    """

    def __init__(
        self,
        directory: pathlib.Path,
        keep_every: int = 0,
        *,
        read_only: bool = False,
        still_held: Callable[[], None] = lambda: None,
    ):
        policies = [checkpoint_managers.LatestN(2)]
        if keep_every:
            policies.append(checkpoint_managers.EveryNSteps(keep_every))
        self._directory, self._read_only = directory.absolute(), read_only
        self._begun: int | None = None  # the step that is being written
        self._still_held = still_held
        folder.steps_in(self._directory)  # refuses what is no folder, or may not be read
        with _quiet():
            self._options = ocp.CheckpointManagerOptions(
                preservation_policy=checkpoint_managers.AnyPreservationPolicy(policies),
                enable_async_checkpointing=True,
                async_options=ocp.AsyncOptions(barrier_sync_fn=_barrier()),
                create=not read_only,
                read_only=read_only,
                cleanup_tmp_directories=not read_only,  # of a save that broke off
            )
        self._open()

    def __exit__(self, *error: Any) -> None:
        begun, self._begun = self._begun, None
        with self._writing():
            self._manager.close()
        with contextlib.suppress(*[UserError] if error and error[0] else []):  # the first error is the one to tell
            self._note(begun)

    def _open(self) -> None:
        with _quiet(), self._writing():
            self._manager = _Manager(self._directory, options=self._options)

    @property
    def steps(self) -> list[int]:
        """Steps that have a checkpoint, ascending; beside a run that is still training, at this moment."""
        if self._read_only:
            self._manager.reload()
        return sorted(self._manager.all_steps())

    def steps_of_all(self, moved: Sequence[int] = ()) -> list[int]:
        """The steps that all processes see; each of several calls this. A disk may show a new folder on another host
        after a minute only, and for as long one that was moved away.

        Args:
            moved: steps that none is to see any more.

        Raises:
            Lost: they still see different ones after `ALIKE` seconds.
        """
        until = time.monotonic() + ALIKE
        while True:
            steps = self.steps
            seen = processes.exchange("checkpoints", json.dumps(steps)) if processes.is_shared() else [""]
            if len(set(seen)) == 1 and not set(steps) & set(moved):
                return steps
            if time.monotonic() > until:
                said = "; ".join(f"process {number} sees {text}" for number, text in enumerate(seen))
                raise Lost(
                    f"the processes see other checkpoints in {self._directory}: {said}. Give a --workdir that all see, "
                    "or start all again when the disk shows the same to each"
                )
            time.sleep(1)
            self._manager.reload()

    def save(self, step: int, state: Any, notes: dict[str, Any] | None = None) -> None:
        """Save in the background, unless this step is there; the state may be donated as soon as this returns.

        Where the one before turns out not to have been written, that is a warning, and this one is waited for; of
        several processes, all end, as the others wait for a part of it.

        Args:
            step: that of the state.
            state: what is saved.
            notes: what `notes(step)` gives afterwards, anything that JSON writes.

        Raises:
            UserError: the disk is full, or the folder cannot be written, or another process holds it.
        """
        if step in self._manager.all_steps():
            return
        begun, failed = self._begun, False
        try:
            self._wait()
        except UserError as error:
            self._still_held()  # what was lost meanwhile is the reason
            if processes.is_shared():
                raise
            failed = True
            LOG.warning("checkpoint %s was not finished, and %d is saved now: %s", begun, step, error)
            with contextlib.suppress(OSError, ValueError):  # it may raise more of what went wrong
                self._manager.close()
            self._open()
        items = {"encoder": encoder(state), "state": _others(state)}
        hashes = {name: trees.digest(item) for name, item in items.items()}  # in all processes, which have a share each
        meta = {"format": FORMAT, "step": step, "sha256": hashes, "notes": notes or {}}
        saved = {name: ocp.args.StandardSave(item) for name, item in items.items()}
        self._still_held()  # to wait may have taken minutes
        with self._writing():
            self._manager.save(step, args=ocp.args.Composite(**saved, meta=ocp.args.JsonSave(meta)))
        self._begun = step
        if failed:
            self._wait()

    def notes(self, step: int) -> dict[str, Any]:
        """The notes that a checkpoint was saved with."""
        return self._meta(step).get("notes", {})

    def restore(self, like: Any, step: int | None = None) -> Any | None:
        """The state of the newest whole checkpoint, or None where there is no checkpoint.

        A newer one that is damaged, or that is of another step than its folder says, is passed over with a warning;
        orbax itself notices neither. Once an older one has been read it is moved out of the way, so that the run can
        save that step again; if none can be read, the cause may be this program, and all stay where they are.

        Args:
            like: a state of the same structure; shapes, types and shardings are taken from it.
            step: one step only.

        Raises:
            UserError: there are checkpoints, but none can be read; there is none of this step; one has a newer format;
                or the system does not let one be read, for want of permission or memory, which is no damage.
        """
        found = self._newest(step, lambda candidate: self._state(candidate, like))
        return found and found[1]

    def encoder(self, step: int | None = None) -> tuple[int, Tree] | None:
        """Step and encoder of the newest whole checkpoint, or None where there is no checkpoint.

        The encoder is that of the dense branch, {"params": tree, "batch_stats": tree} of NumPy arrays, without
        `batch_stats` where the network keeps none. Nothing else of the state is read. Its hash is compared, but for a
        checkpoint of format 1, which has one for the whole state only.

        Args:
            step: one step only.

        Raises:
            UserError: as `restore`.
        """
        return self._newest(step, self._encoder)

    def _newest(self, step: int | None, read: Callable[[int], T]) -> tuple[int, T] | None:
        """Step and what `read(step)` gives of the newest checkpoint where it succeeds, in all processes."""
        self._wait()
        there = self.steps_of_all()
        steps = [s for s in there if step in (None, s)]
        if step is not None and not steps:
            known = f"those there are of {', '.join(map(str, there))}" if there else "there is none yet"
            raise UserError(f"there is no checkpoint of step {step!r} in {self._directory}: {known}")
        saved = folder.saved_step(self._directory.parent)
        if step is None and steps and steps[-1] < saved:
            LOG.warning(
                "checkpoint %d of %s is gone, and %d is the newest that is there", saved, self._directory, steps[-1]
            )
        damaged, cause = [], None
        for candidate in reversed(steps):
            try:
                found = read(candidate)
            except (UserError, Lost):
                raise
            except Exception as error:  # orbax raises bare Exception for a damaged file
                if why := damage.hindrance(self._directory / str(candidate), error):
                    raise UserError(
                        f"checkpoint {candidate} of {self._directory} cannot be read ({why}): it may well be whole, so "
                        "see to that and run the same command again; or move it away, to go on from the one before"
                    ) from error
                LOG.warning("checkpoint %d of %s cannot be used: %s", candidate, self._directory, first_line(error))
                damaged.append(candidate)
                cause = error
            else:
                if damaged and not self._read_only:
                    self._set_aside(damaged)
                return candidate, found
        if steps:
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
            if processes.broke_down(error):  # it is not the disk, and `processes` will say what it is
                raise
            raise UserError(
                f"a checkpoint cannot be written to {self._directory} ({first_line(error)}): make room and permission "
                "there; the same command then goes on from the last whole one"
            ) from error

    def _meta(self, step: int) -> dict[str, Any]:
        meta = self._restored(step, meta=ocp.args.JsonRestore())["meta"]
        if meta.get("format", 1) > FORMAT:
            raise UserError(
                f"checkpoint {step} of {self._directory} has format {meta['format']}, and this version reads formats "
                f"up to {FORMAT}: use the version that versions.json names"
            )
        if "step" in meta:
            damage.verify_step(step, meta["step"])
        return meta

    def _wait(self) -> None:
        """Until the checkpoint that is being written is whole; one that fails is not noted as saved."""
        begun, self._begun = self._begun, None
        with self._writing():
            self._manager.wait_until_finished()
        self._note(begun)

    def _note(self, saved: int | None) -> None:
        """Write down in the run's folder which step was saved last, once its checkpoint is whole on the disk."""
        if saved is not None and processes.is_main() and self._directory.is_dir():
            self._still_held()
            records.write(self._directory.parent / names.SAVED, Saved(step=saved))

    def _state(self, step: int, like: Any) -> Any:
        meta = self._meta(step)
        if meta.get("format", 1) == 1:
            return self._state_of_format_1(step, like, meta["checksum"])
        items = {"encoder": encoder(like), "state": _others(like)}
        restored = self._restored(step, **{name: ocp.args.StandardRestore(item) for name, item in items.items()})
        with damage.in_all("checksums"):
            for name in items:
                damage.verify(restored[name], meta, name)
            damage.verify_step(step, restored["state"].step)
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
        with damage.in_all("checksums"):
            if int(trees.checksum(state)) != checksum:
                raise ValueError(damage.OTHER_CONTENT)
            damage.verify_step(step, state.step)
        return state

    def _encoder(self, step: int) -> Tree:
        meta = self._meta(step)
        if meta.get("format", 1) == 1:
            found = self._leaves(step, "state", lambda name: name == "step" or bool(_place(name)))
            damage.verify_step(step, found["step"])
            return encoder(found)
        if "step" not in meta:
            damage.verify_step(step, self._leaves(step, "state", lambda name: name == "step")["step"])
        found = self._leaves(step, "encoder", lambda name: True)
        damage.verify(found, meta, "encoder")
        return found

    def _leaves(self, step: int, item: str, wanted: Callable[[str], bool]) -> Tree:
        """The leaves of an item whose names are wanted, as NumPy arrays, without the shape of anything."""
        place, handler = self._directory / str(step) / item, ocp.PyTreeCheckpointHandler()
        with _quiet():
            metadata = handler.metadata(place).tree
        stored = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), metadata)
        some = trees.partition(stored, lambda name, leaf: wanted(name))[0]
        as_numpy = jax.tree.map(lambda leaf: ocp.RestoreArgs(restore_type=np.ndarray), some)
        args = ocp.args.PyTreeRestore(item=some, restore_args=as_numpy, partial_restore=True)
        with _quiet():
            return handler.restore(place, args=args)

    def _restored(self, step: int, **items: Any) -> Any:
        # Not by the manager, where a process that has read its items waits for one that could not.
        handlers = {name: _HANDLERS[type(args)]() for name, args in items.items()}
        with warnings.catch_warnings(), damage.in_all("items"):
            warnings.simplefilter("ignore")
            place = self._directory / str(step)
            return {name: handlers[name].restore(place / name, args=args) for name, args in items.items()}

    def _set_aside(self, steps: list[int]) -> None:
        if processes.is_main():
            for step in steps:
                damaged = self._directory.parent / names.DAMAGED / f"{step}.{time.time_ns()}"
                damaged.parent.mkdir(exist_ok=True)
                # A bucket moves file by file: without this one, what is left counts as unfinished at once.
                (self._directory / str(step) / names.COMMITTED).unlink(missing_ok=True)
                (self._directory / str(step)).rename(damaged)
        processes.exchange("damaged checkpoints moved")
        self._manager.reload()
        self.steps_of_all(moved=steps)


_HANDLERS: dict[type, Callable[[], Any]] = {
    ocp.args.StandardRestore: ocp.StandardCheckpointHandler,
    ocp.args.JsonRestore: ocp.JsonCheckpointHandler,
}


def encoder(state: Any) -> Tree:
    """The variables of the dense branch's encoder in a state, {"params": tree, "batch_stats": tree}."""
    leaves = {place: leaf for name, leaf in trees.named(state).items() if (place := _place(name))}
    return traverse_util.unflatten_dict(leaves, sep="/")


def _barrier() -> Callable[..., None]:
    """How processes wait for each other while they save. One whose part has failed does not: orbax would let it wait
    twenty minutes for those that wait for its part, before anything is said."""
    wait = ocp.multihost.get_barrier_sync_fn()

    def unless_failed(*, key: str, timeout_ms: int) -> None:
        if sys.exception() is None:  # orbax calls this in a `finally`, too
            wait(key=key, timeout_ms=timeout_ms)

    return unless_failed


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
