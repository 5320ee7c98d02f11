"""Whether training is equal to the bit from one time to the next, with this config on this machine."""

import contextlib
import hashlib
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from sdclr_jax import numerics, parallel, processes, recipes, trees
from sdclr_jax.api import agreement
from sdclr_jax.api.loop import quick_compile
from sdclr_jax.errors import Diverged, UserError
from sdclr_jax.trees import Tree


class Trajectory(NamedTuple):
    """What is compared of some steps, by name; all on the host."""

    images: list[dict[str, np.ndarray]]  # SHA-256 of what a step was given, by the device that has it
    scalars: list[dict[str, np.ndarray]]  # of each step
    first: dict[str, np.ndarray]  # arrays of the state before the first step
    last: dict[str, np.ndarray]  # and after the last


@numerics.fixed()
def check_determinism(
    config: ConfigDict,
    steps: int,
    data_dir: str | os.PathLike | None = None,
    *,
    devices: list[jax.Device] | None = None,
) -> str:
    """Train some steps twice from the same state, and compare images, scalars and all arrays bit by bit. Nothing is
    written.

    Args:
        config: of a run.
        steps: how many; from 1 to those of the run.
        data_dir, devices: as of `sdclr_jax.pretrain`.

    Returns:
        A sentence with the SHA-256 of the last state, which is the same elsewhere where training is equal there.

    Raises:
        UserError: bad input, as `sdclr_jax.pretrain` refuses it.
        Diverged: the two differ; says where first, and in which arrays.
    """
    with processes.together():
        recipes.check(config)
        config = recipes.located(config)
        agreement.on_run(config, {"--check-determinism": steps})
        shardings = parallel.shardings(devices)
        examples = recipes.data(config, data_dir).part(config.data.subset)
        agreement.on_images({"training": examples})
        images = examples.images
        shape = recipes.image_shape(config, images)
        per_epoch = recipes.batches(config, images, shardings).steps_per_epoch
        total = config.epochs * per_epoch
        if not 1 <= steps <= total:
            raise UserError(f"--check-determinism is {steps}: it must be from 1 to {total}, the steps of this run")
        like = recipes.abstract_state(config, shape, shardings, training=True)
        method = recipes.method(config, per_epoch, parallel.of(like))
        recipes.try_step(config, method, like, images, shardings.batch)
        init = jax.jit(method.init, out_shardings=parallel.of(like), compiler_options=quick_compile(shardings))
        view = np.zeros(recipes.view_shape(config, shape), np.float32)

        def trajectory() -> Trajectory:
            state = init(np.uint32(config.seed), view)
            first = _arrays(state)
            seen: list[dict[str, np.ndarray]] = []
            scalars: list[dict[str, np.ndarray]] = []
            stream: Any = recipes.batches(config, images, shardings).from_step(0)
            with contextlib.closing(stream):
                for step in method.train(state, _noted(stream, seen), until=steps):
                    scalars.append({name: np.asarray(value) for name, value in step.scalars.items()})
            return Trajectory(seen[:steps], scalars, first, _arrays(step.state))

        one, two = trajectory(), trajectory()
        if found := differences(one, two):
            raise Diverged(f"two runs of {steps} steps from one state differ: {'; '.join(found)}")
        digest = hashlib.sha256()
        for name, array in one.last.items():
            digest.update(f"{name} {array.shape} {array.dtype}\n".encode() + array.tobytes())
        return (
            f"{steps} steps, twice: the images and the {len(one.scalars[0])} scalars of each step and all "
            f"{len(one.last)} arrays of the state are equal to the bit; the last state has the SHA-256 "
            f"{digest.hexdigest()}"
        )


def differences(one: Trajectory, two: Trajectory) -> list[str]:
    """Where two trajectories differ, in words; nothing where they are equal to the bit."""
    found = []
    if names := _unequal(one.first, two.first):
        found.append(f"the start in {_some(names, one.first, two.first)}")
    for what, ones, twos in (("images", one.images, two.images), ("scalars", one.scalars, two.scalars)):
        for step, (a, b) in enumerate(zip(ones, twos, strict=True), 1):
            if names := _unequal(a, b):
                how = "" if what == "images" else f" in {_some(names, a, b)}"
                found.append(f"the {what} from step {step} on{how}")
                break
    if names := _unequal(one.last, two.last):
        found.append(f"the last state in {_some(names, one.last, two.last)}")
    return found


def _unequal(one: dict[str, np.ndarray], two: dict[str, np.ndarray]) -> list[str]:
    return [name for name in one if one[name].tobytes() != two[name].tobytes()]


def _some(names: list[str], one: dict[str, np.ndarray], two: dict[str, np.ndarray]) -> str:
    """The first names, each with its first two values that differ."""
    said = []
    for name in names[:3]:
        a, b = one[name].ravel(), two[name].ravel()
        unequal = np.flatnonzero([x.tobytes() != y.tobytes() for x, y in zip(a, b, strict=True)])
        said.append(f"{name} ({len(unequal)} of {len(a)} numbers, such as {a[unequal[0]]} and {b[unequal[0]]})")
    return ", ".join(said) + (f" and {len(names) - 3} more arrays" if len(names) > 3 else "")


def _arrays(tree: Tree) -> dict[str, np.ndarray]:
    data = jax.tree.map(
        lambda x: jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x, tree
    )
    return {name: np.array(trees.on_host(leaf)) for name, leaf in trees.named(data).items()}


def _noted(stream: Iterator[Any], seen: list[dict[str, np.ndarray]]) -> Iterator[Any]:
    """The batches of a stream; what this process's devices have of each is added to `seen`."""
    for batch in stream:
        seen.append(
            {
                f"{name} {shard.device}": np.frombuffer(
                    hashlib.sha256(np.array(shard.data).tobytes()).digest(), np.uint8
                )
                for name, leaf in trees.named(batch).items()
                for shard in leaf.addressable_shards
            }
        )
        yield batch
