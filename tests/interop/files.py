"""Weights as both sides can make them from their names, and the golden files of names."""

import json
import pathlib
import zlib
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sdclr_jax import interop, trees
from sdclr_jax.models import ENCODERS

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"


def features() -> dict[str, Any]:
    """Of tiny models of the libraries' own classes."""
    return json.loads((GOLDEN / "torch_features.json").read_text())


def names() -> dict[tuple[str, str], dict[str, tuple[int, ...]]]:
    """(library, encoder) -> names and shapes of the real model, its classifier too."""
    found: dict[tuple[str, str], dict[str, tuple[int, ...]]] = {}
    for line in (GOLDEN / "torch_names.txt").read_text().splitlines():
        first, second, *rest = line.split()
        if first == "#":
            current = found[second, rest[0]] = {}
        else:
            current[first] = tuple(map(int, second.split("x")))
    return found


def made(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A weight from its name, so that both sides have it; statistics of norms are not 0 and 1."""
    x = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
    if name.endswith("running_var"):
        return 0.5 + np.abs(x)
    if len(shape) in (2, 4):
        return x / np.sqrt(np.prod(shape[1:]))
    return 1 + 0.1 * x if name.endswith("weight") else 0.1 * x


@cache
def shapes_of(encoder, side: int, channels: int = 3) -> dict[str, tuple[int, ...]]:
    """Our names, `params/encoder/stem/kernel`, and shapes."""
    variables = jax.eval_shape(
        lambda: encoder.init(jax.random.key(0), jnp.zeros((1, side, side, channels)), train=False)
    )
    named = {collection: trees.named(tree) for collection, tree in variables.items()}
    return {f"{kind}/encoder/{name}": x.shape for kind, tree in named.items() for name, x in tree.items()}


def resnet8(tmp_path: pathlib.Path, prefix: str = "", suffix: str = ".safetensors", **changed) -> pathlib.Path:
    """A file with the weights of a ResNet-8 of width 2 for grey images, under a prefix; `changed` replaces tensors."""
    encoder = ENCODERS["resnet8"](width=2)
    table = interop.SIDES[type(encoder)]["torchvision"].table
    tensors = {}
    for name, shape in shapes_of(encoder, 8, channels=1).items():
        (there,) = interop.names.theirs(table, [name.split("/", 2)[2]]).values()
        tensors[prefix + there] = made(there, interop.names.their_shape(shape, there)).astype(np.float32)
    tensors = {name: x for name, x in (tensors | changed).items() if x is not None}
    path = tmp_path / f"weights{suffix}"
    if suffix == ".npz":
        np.savez(path, **tensors)
    else:
        interop.write(path, tensors, {})
    return path
