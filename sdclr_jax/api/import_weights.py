"""Make a run of weights that another program trained."""

import contextlib
import os
import pathlib
import sys
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from sdclr_jax import numerics, parallel, recipes
from sdclr_jax.api.load import Run, load
from sdclr_jax.api.loop import quick_compile
from sdclr_jax.data import sources
from sdclr_jax.errors import UserError
from sdclr_jax.files import expanded
from sdclr_jax.records import names
from sdclr_jax.run import folder
from sdclr_jax.run.checkpoints import Checkpoints
from sdclr_jax.train import State


def import_weights(
    file: str | os.PathLike,
    workdir: str | os.PathLike,
    config: str = "folder:simclr",
    fields: Mapping[str, Any] | None = None,
) -> Run:
    """Make a run of the weights in a file, which `load`, `evaluate`, `exemplars` and `export` take as any other.

    Encoder, stem, width, patches and the size of the images are what the file says; the heads are new.

    Args:
        file: .safetensors, .npz, or one of PyTorch's (.pt, .pth, .tar, .ckpt, .bin).
        workdir: the run's folder, which is made.
        config: "NAME:METHOD", with the data set that the run will be evaluated on; for a folder of images, `evaluate`
            can be told later where it is.
        fields: to change, by nested or dotted names, such as {"views.mean": (0.5, 0.5, 0.5)}.

    Returns:
        The run, as `sdclr_jax.load` opens it.

    Raises:
        UserError: the file is damaged, holds more than weights, or is of an architecture that is not known here; or
            there is something in the folder.

    >>> written = sdclr_jax.export("runs/sdclr", to="timm", out="weights", classes=0)
    >>> run = sdclr_jax.import_weights(written / "model.safetensors", "runs/imported", "digits_lt:simclr")
    >>> run.step, run.encoder.features
    (0, 8)
    """
    changed = recipes.mapping("fields", fields)
    made = config_of(file, config)
    recipes.override(made, changed)
    import_run(made, expanded(workdir))
    return load(workdir)


def config_of(file: str | os.PathLike, config: str, model: str = "") -> ConfigDict:
    """A config with the encoder that is in a file, which it starts from.

    Args:
        file, config: as of `import_weights`.
        model: the encoder that it has to be, with the size that this name stands for; '' takes any.

    Raises:
        UserError: as `import_weights`, or it is another encoder.
    """
    path = expanded(file)
    made, found = recipes.load(config), recipes.architecture_of(path)
    if model:
        recipes.encoder({"name": model})  # which says so where there is none of this name
        named = recipes.encoder_fields(model) | {"name": model}
        size = {field: value for field, value in found.model.items() if field in ("name", "width", "depth", "depths")}
        if size.items() - named.items():
            raise UserError(f"{path} is of {found.says}, and not of {model}: leave out --model to take what it has")
    recipes.choose_architecture(made, found)
    made.method = recipes.IMPORTED
    made.model.start = str(path)
    return made


@numerics.fixed()
def import_run(config: ConfigDict, directory: pathlib.Path) -> None:
    """Write the folder of a run whose first checkpoint has the weights that the config starts from.

    Raises:
        UserError: as `import_weights`.
    """
    recipes.check(config)
    if folder.steps_in(directory / names.CHECKPOINTS):  # without one, an import was stopped, and goes on
        raise UserError(f"{directory} holds a run already: give another --out")
    config = recipes.with_hash_of_start(recipes.located(config), directory)
    folder.check(directory, config, recipes.identity)
    shardings = parallel.shardings(jax.local_devices()[:1])
    known = sources.SHAPES.get(config.data.name)
    size = config.views.get("size", 0)
    shape = (1, *(known or (size, size, 3)))
    like = recipes.abstract_state(config, shape, shardings)
    taken = recipes.start(config, like)
    view, method = recipes.view_shape(config, shape), recipes.method(config, 1)

    def init(seed: jax.Array, view: jax.Array, arrays: Mapping[str, Mapping[str, np.ndarray]]) -> State:
        state = recipes.started(method.init(seed, view), arrays)
        return method.refresh(state) if method.damaged else state  # no training will make the mask of these weights

    jitted = jax.jit(init, compiler_options=quick_compile(shardings))
    state = jitted(np.uint32(config.seed), np.zeros(view, np.float32), taken.branches)
    with contextlib.ExitStack() as stack:
        held = stack.enter_context(folder.lock(directory))
        record = recipes.encoder_record(config, shape, encoded=known is None)
        folder.claim(directory, config, None, record, recipes.identity)
        stack.enter_context(Checkpoints(directory / names.CHECKPOINTS, still_held=held)).save(0, state)
    print(f"{config.model.start}: {taken}", file=sys.stderr)
