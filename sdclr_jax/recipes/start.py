"""Weights that a run starts from: the file that `config.model.start` names, and its place in the state."""

import os
import pathlib
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from sdclr_jax import branches, interop, trees
from sdclr_jax.data import sources
from sdclr_jax.errors import UserError
from sdclr_jax.files import on_disk
from sdclr_jax.interop import Architecture, Taken
from sdclr_jax.recipes.configs import base, fields, override
from sdclr_jax.recipes.encoders import encoder
from sdclr_jax.records import names
from sdclr_jax.run import folder
from sdclr_jax.train import State


def with_hash_of_start(config: ConfigDict, directory: pathlib.Path) -> ConfigDict:
    """The config with `model.start_sha256`, by which a run is known; one that has been started needs the file no more.

    Args:
        config: as `located` gives it.
        directory: the run's folder, which may not exist yet.

    Raises:
        UserError: there is no such file, or its hash is not the one that the config gives.
    """
    values = fields(config)
    start, given = values.get("model.start", ""), values.get("model.start_sha256", "")
    if not start:
        if given:
            raise UserError(f"model.start_sha256 is {given}, and model.start is empty: give the file that it is of")
        return config
    path, found = on_disk(start, "the weights of model.start are read from"), ""
    if path.is_file():
        found = interop.sha256(path)
    elif (directory / names.CONFIG).exists():
        before = fields(folder.read_config(directory))
        found = before.get("model.start_sha256", "") if before.get("model.start") == start else ""
    if not found:
        raise UserError(f"model.start is {start}, and there is no such file: give a file of weights, or '' for none")
    if given not in ("", found):
        raise UserError(f"model.start is {start}, which has the SHA-256 {found}, and model.start_sha256 says {given}")
    config = config.copy_and_resolve_references()
    config.update_from_flattened_dict({"model.start_sha256": found})
    return config


def start(config: ConfigDict, like: State) -> Taken:
    """What the file holds for a run whose state has these shapes.

    Raises:
        UserError: the file is damaged, holds more than weights, or is of another architecture.
    """
    shapes = {f"params/{name}": leaf.shape for name, leaf in trees.named(branches.dense(like.params)).items()}
    shapes |= {f"batch_stats/{name}": leaf.shape for name, leaf in trees.named(like.stats["dense"]).items()}
    known = {name: shape for name, shape in shapes.items() if name.split("/")[1] in ("encoder", "projector")}
    return interop.take(pathlib.Path(config.model.start), encoder(config.model), config.model.name, known)


def started(state: State, arrays: Mapping[str, Mapping[str, np.ndarray]]) -> State:
    """A state with the weights of a file in every branch, the target too; what the file does not have stays.

    Args:
        state: before the first step.
        arrays: `Taken.branches`; a branch that the file does not know gets what the dense one has.
    """
    if not arrays:
        return state

    def placed(path: tuple, leaf: jax.Array) -> jax.Array:
        kind, *rest = trees.name(path).split("/")
        branch = "dense"
        if kind == "stats" or (kind == "params" and rest[0] == "norms"):
            branch = rest[0] if kind == "stats" else rest[1]
            rest = rest[1:] if kind == "stats" else rest[2:]
        elif kind == "params":
            rest = rest[1:]
        elif kind != "target":
            return leaf
        name = "/".join(["batch_stats" if kind == "stats" else "params", *rest])
        array = arrays.get(branch, arrays["dense"]).get(name)
        return leaf if array is None else jnp.asarray(array, leaf.dtype, copy=True)

    return jax.tree_util.tree_map_with_path(placed, state)


def architecture_of(path: str | os.PathLike) -> Architecture:
    """What the names and shapes of a file of weights say.

    Raises:
        UserError: the file is damaged, holds more than weights, or none of a kind that is known here.
    """
    with interop.opened(path) as tensors:
        found = interop.described({name: tensor.shape for name, tensor in tensors.items()})
    if found is None:
        raise UserError(f"{path} holds no encoder of a kind that is known here: give one of a ResNet, ViT or ConvNeXt")
    return found


def choose_architecture(config: ConfigDict, found: Architecture) -> None:
    """Make a config that of a file of weights: its encoder, and views of the size that it is for, which the evaluation
    sees, too.

    Raises:
        UserError: no encoder of this version is like it.
    """
    if not found.model["name"]:
        raise UserError(f"the file is of {found.says}, and no encoder of this version is like it")
    override(config, {"model": found.fields})
    if config.data.name in sources.SHAPES or "size" not in config.views:
        return
    size = found.view or (32 if found.model.get("stem") == "cifar" else 224)
    override(config, {"views.size": size})
    base.seen_as_trained(config)
