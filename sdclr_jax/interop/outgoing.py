"""From the variables of a network to tensors under the other side's names."""

from collections.abc import Mapping

import numpy as np

from sdclr_jax.interop import names
from sdclr_jax.models import Encoder


def encoder_tensors(
    encoder: Encoder, variables: Mapping[str, np.ndarray], to: str, *, features: int = 0, classes: int = 0
) -> dict[str, np.ndarray]:
    """An encoder under the names of torchvision or timm.

    Args:
        encoder: whose variables they are.
        variables: our names -> arrays, `params/stem/kernel` and `batch_stats/stem_norm/mean`.
        to: 'torchvision' or 'timm'.
        features: width of what the encoder gives; read where there are classes.
        classes: outputs of a classifier of zeros that is added, as their models have one; 0 adds none.

    Raises:
        ArgumentError: that side has no such encoder.
    """
    side = names.side(encoder, to)
    found = _written(side.table, {name.partition("/")[2]: x for name, x in variables.items()})
    if classes:
        found[f"{side.classifier}.weight"] = np.zeros((classes, features), np.float32)
        found[f"{side.classifier}.bias"] = np.zeros(classes, np.float32)
    return found


def training_tensors(
    encoder: Encoder,
    branches: Mapping[str, Mapping[str, np.ndarray]],
    mean: tuple[float, ...],
    std: tuple[float, ...],
    with_projector: bool,
) -> dict[str, np.ndarray]:
    """A network under the names of the SDCLR code, which subtracts the mean itself.

    Args:
        encoder: of the network.
        branches: branch -> our names -> arrays, `params/encoder/...`, `params/projector/...`; 'dense', and where the
            branches have norms of their own, 'sparse'.
        mean: of the colours.
        std: of the colours.
        with_projector: whether the projector is one that this code has.

    Raises:
        ArgumentError: that code has no such encoder.
    """
    lists = len(branches) > 1
    side = names.side(encoder, "authors, a norm per branch" if lists else "authors")
    found = {"normalize.mean": np.asarray(mean, np.float32), "normalize.std": np.asarray(std, np.float32)}
    for number, variables in enumerate(branches.values()):
        parts: dict[str, dict[str, np.ndarray]] = {"encoder": {}, "projector": {}}
        for name, x in variables.items():
            _, part, rest = name.split("/", 2)
            parts.get(part, {})[rest] = x
        found |= _written(side.table, parts["encoder"], number)
        if with_projector:
            found |= _written(names.HEAD_IN_LISTS if lists else names.HEAD, parts["projector"], number)
    return found


def _written(table: Mapping[str, str], variables: Mapping[str, np.ndarray], number: int = 0) -> dict[str, np.ndarray]:
    there = names.theirs(table, variables, number)
    return {there[name]: names.to_theirs(np.asarray(x), there[name]) for name, x in variables.items()}
