"""Names and layouts of tensors on the other side: one table per family of encoders, read in both directions.

A row says what a module of ours is called there. `{b}` is a number in both names; there, `{b0}` is one less, `{odd}` is
2 s - 1 and `{even}` is 2 s - 2. A row with a parameter of its own, which belongs to no layer, names it in full.

    torchvision   ResNets, ConvNeXt        timm   ResNets (torchvision's names), ViT, ConvNeXt
    authors       ResNets of the SDCLR code: `{set}` counts the norms, 0 of the dense branch and 1 of the sparse one
"""

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from sdclr_jax.errors import ArgumentError
from sdclr_jax.models import ConvNeXt, Encoder, ResNet, ViT

_RESNET = {
    "stem": "conv1",
    "stem_norm": "bn1",
    "stage{s}_block{b}/conv{i}": "layer{s}.{b0}.conv{i}",
    "stage{s}_block{b}/norm{i}": "layer{s}.{b0}.bn{i}",
    "stage{s}_block{b}/shortcut": "layer{s}.{b0}.downsample.0",
    "stage{s}_block{b}/shortcut_norm": "layer{s}.{b0}.downsample.1",
}
# Each branch has norms of its own, in lists.
_RESNET_IN_LISTS = _RESNET | {
    "stem_norm": "bn1.bn_list.{set}",
    "stage{s}_block{b}/norm{i}": "layer{s}.{b0}.bn{i}.bn_list.{set}",
    "stage{s}_block{b}/shortcut": "layer{s}.{b0}.downsample.conv",
    "stage{s}_block{b}/shortcut_norm": "layer{s}.{b0}.downsample.bn.bn_list.{set}",
}
_VIT = {
    "cls_token": "cls_token",
    "pos_embed": "pos_embed",
    "patch_embed/proj": "patch_embed.proj",
    "blocks_{i}/norm{n}": "blocks.{i}.norm{n}",
    "blocks_{i}/attn/qkv": "blocks.{i}.attn.qkv",
    "blocks_{i}/attn/proj": "blocks.{i}.attn.proj",
    "blocks_{i}/mlp/fc{n}": "blocks.{i}.mlp.fc{n}",
    "norm": "norm",
}
_CONVNEXT_TIMM = {
    "stem": "stem.0",
    "stem_norm": "stem.1",
    "stage{s}_norm": "stages.{s0}.downsample.0",
    "stage{s}_downsample": "stages.{s0}.downsample.1",
    "stage{s}_block{b}/conv": "stages.{s0}.blocks.{b0}.conv_dw",
    "stage{s}_block{b}/norm": "stages.{s0}.blocks.{b0}.norm",
    "stage{s}_block{b}/fc{n}": "stages.{s0}.blocks.{b0}.mlp.fc{n}",
    "stage{s}_block{b}/gamma": "stages.{s0}.blocks.{b0}.gamma",
    "norm": "head.norm",
}
_CONVNEXT_TORCHVISION = {
    "stem": "features.0.0",
    "stem_norm": "features.0.1",
    "stage{s}_norm": "features.{even}.0",
    "stage{s}_downsample": "features.{even}.1",
    "stage{s}_block{b}/conv": "features.{odd}.{b0}.block.0",
    "stage{s}_block{b}/norm": "features.{odd}.{b0}.block.2",
    "stage{s}_block{b}/fc1": "features.{odd}.{b0}.block.3",
    "stage{s}_block{b}/fc2": "features.{odd}.{b0}.block.5",
    "stage{s}_block{b}/gamma": "features.{odd}.{b0}.layer_scale",
    "norm": "classifier.0",
}


class Side(NamedTuple):
    """How an encoder is written on one side."""

    table: Mapping[str, str]
    first: str  # the first layer, by which a file is known
    classifier: str  # the layer that follows the features


SIDES: dict[type[Encoder], dict[str, Side]] = {
    ResNet: {
        "torchvision": Side(_RESNET, "conv1", "fc"),
        "timm": Side(_RESNET, "conv1", "fc"),
        "authors": Side(_RESNET, "conv1", ""),
        "authors, a norm per branch": Side(_RESNET_IN_LISTS, "conv1", ""),
    },
    ViT: {"timm": Side(_VIT, "patch_embed.proj", "head")},
    ConvNeXt: {
        "timm": Side(_CONVNEXT_TIMM, "stem.0", "head.fc"),
        "torchvision": Side(_CONVNEXT_TORCHVISION, "features.0.0", "classifier.2"),
    },
}
HEAD = {"linear{i}": "fc.fc{i}", "norm{i}": "fc.bn{i}"}  # the authors' projector
HEAD_IN_LISTS = HEAD | {"norm{i}": "fc.bn{i}.bn_list.{set}"}

_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}


def side(encoder: Encoder, name: str) -> Side:
    """The tables of an encoder on one side.

    Raises:
        ArgumentError: that side has no such encoder.
    """
    sides = SIDES.get(type(encoder), {})
    if name not in sides:
        known = ", ".join(dict.fromkeys(known.partition(",")[0] for known in sides)) or "none"
        raise ArgumentError("to", f"is {name!r}, which has no names for a {type(encoder).__name__}: known are {known}")
    return sides[name]


def theirs(table: Mapping[str, str], ours: Iterable[str], norm_set: int = 0) -> dict[str, str]:
    """What the leaves of a module are called there.

    >>> theirs(_RESNET, ["stage1_block2/norm1/scale"])
    {'stage1_block2/norm1/scale': 'layer1.1.bn1.weight'}

    Raises:
        LookupError: the table has no row for a leaf.
    """
    return {name: _theirs(table, name, norm_set) for name in ours}


def _theirs(table: Mapping[str, str], name: str, norm_set: int) -> str:
    module, _, leaf = name.rpartition("/")
    for pattern, there in table.items():
        parts = re.compile(re.sub(r"\{(\w)\}", r"(?P<\1>[0-9]+)", pattern))
        for path, ending in ((name, ""), (module, f".{_LEAVES.get(leaf, leaf)}")):
            if found := parts.fullmatch(path):
                numbers = {key: int(value) for key, value in found.groupdict().items()}
                numbers |= {f"{key}0": value - 1 for key, value in numbers.items()}
                stage = numbers.get("s", 0)
                return there.format(**numbers, odd=2 * stage - 1, even=2 * stage - 2, set=norm_set) + ending
    raise LookupError(name)


def to_theirs(x: np.ndarray, there: str) -> np.ndarray:
    """A tensor in their layout: kernels have the outputs first, [out, in, height, width] and [out, in]."""
    if there.endswith(".layer_scale"):
        return x[:, None, None]
    return x.transpose(3, 2, 0, 1) if x.ndim == 4 else x.T if x.ndim == 2 else x


def to_ours(x: np.ndarray, there: str) -> np.ndarray:
    """The inverse of `to_theirs`."""
    if there.endswith(".layer_scale"):
        return x[:, 0, 0]
    return x.transpose(2, 3, 1, 0) if x.ndim == 4 else x.T if x.ndim == 2 else x


def their_shape(shape: tuple[int, ...], there: str) -> tuple[int, ...]:
    """The shape that a tensor of our shape has there."""
    return to_theirs(np.broadcast_to(np.float32(0), shape), there).shape
