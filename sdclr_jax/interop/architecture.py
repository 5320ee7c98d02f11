"""What a file of weights is of, by the names and shapes in it."""

import math
import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from sdclr_jax.models import ENCODERS, Bottleneck, ConvNeXt, ResNet, ViT

# Who writes the encoder's names behind which prefix; the first that fits is it. What stands beside that prefix is the
# rest of a training program: the other branch, projectors, queues.
PREFIXES = {
    "module.encoder_q.": "MoCo",
    "module.base_encoder.": "MoCo v3",
    "module.encoder.": "SimSiam",
    "module.backbone.": "Barlow Twins or VICReg",
    "backbone.": "a backbone in a larger module",
    "encoder_q.": "MoCo",
    "encoder.": "an encoder in a larger module",
    "module.": "a model trained on several devices",
    "": "torchvision or timm",
}
# No tensor of a ViT tells how many heads it has. The small and the base one of MoCo v3 have 12 (vits.py of
# facebookresearch/moco-v3), where timm's small one has 6.
_HEADS = {("MoCo v3", 384): 12, ("MoCo v3", 768): 12}
_FIRST = {
    "conv1.weight": ResNet,
    "patch_embed.proj.weight": ViT,
    "stem.0.weight": ConvNeXt,
    "features.0.0.weight": ConvNeXt,
}


class Architecture(NamedTuple):
    """What the names and shapes of a file say.

    Attributes:
        source: who writes such files, in words.
        prefix: what stands before the encoder's own names.
        side: whose names they are, a key of `names.SIDES`.
        model: the encoder's name in `models.ENCODERS`, '' where none is like it, and its fields.
        says: the architecture in words.
        channels: of the images.
        view: side of the images, where the architecture fixes it.
        usual: fields of the encoder that no tensor tells, as encoders of this width usually have them, where they are
            not the defaults of `model`'s name.
    """

    source: str
    prefix: str
    side: str
    model: dict[str, Any]
    says: str
    channels: int
    view: int | None = None
    usual: Mapping[str, Any] = MappingProxyType({})

    @property
    def fields(self) -> dict[str, Any]:
        """All that a config says of such an encoder."""
        return {"name": self.model["name"], **self.usual, **self.model}


def described(shapes: Mapping[str, tuple[int, ...]]) -> Architecture | None:
    """The encoder in a file, from the shapes of its tensors; None where there is none that could be it."""
    for prefix, source in PREFIXES.items():
        for first, kind in _FIRST.items():
            shape = shapes.get(prefix + first, ())
            if len(shape) == 4:
                own = {name.removeprefix(prefix): x for name, x in shapes.items() if name.startswith(prefix)}
                known = {ResNet: _resnet, ViT: _vit, ConvNeXt: _convnext}[kind](own, shape)
                if "projection_head.0.weight" in own or "prototypes.weight" in own:
                    source = "SwAV"
                if kind is ViT and (heads := _HEADS.get((source, known.model["width"]))):
                    known.model["heads"] = heads
                    known = known._replace(says=f"{known.says}, {heads} heads")
                if known.side.startswith("authors"):
                    source = "the authors of SDCLR"
                return known._replace(source=source, prefix=prefix)
    return None


def _resnet(own: Mapping[str, tuple[int, ...]], first: tuple[int, ...]) -> Architecture:
    stages = _counts(own, r"layer(\d+)\.(\d+)\.conv1\.weight")
    bottleneck = any(re.fullmatch(r"layer\d+\.\d+\.conv3\.weight", name) for name in own)
    # Of a wide ResNet the inner convolutions have more outputs, of a grouped one fewer inputs.
    inner = own.get("layer1.0.conv2.weight", (first[0], first[0]))
    usual = inner[:2] == (first[0], first[0])
    name = next(
        (
            name
            for name, row in ENCODERS.items()
            if (encoder := _made(row, ResNet))
            and encoder.stages == stages
            and (encoder.block is Bottleneck) == bottleneck
        ),
        "",
    )
    side = "torchvision"
    if any(".bn_list." in key for key in own):
        side = "authors, a norm per branch"
    elif "fc.fc1.weight" in own:
        side = "authors"
    model = {"name": name if usual else "", "stem": "imagenet" if first[2] > 3 else "cifar", "width": first[0]}
    blocks = ("" if usual else "wide or grouped ") + ("bottlenecks" if bottleneck else "blocks")
    return Architecture("", "", side, model, f"a ResNet of {stages} {blocks}, {first[0]} wide", first[1])


def _vit(own: Mapping[str, tuple[int, ...]], first: tuple[int, ...]) -> Architecture:
    (depth,) = _counts(own, r"()blocks\.(\d+)\.attn\.qkv\.weight") or (0,)
    width, channels, patch, _ = first
    rows = {name: encoder.width for name, row in ENCODERS.items() if (encoder := _made(row, ViT))}
    name = min(rows, key=lambda name: abs(rows[name] - width))
    # From ViT-Ti to ViT-L each head is 64 wide; those that are wider than ViT-L have 16 heads, too.
    heads = next(heads for heads in range(max(min(width // 64, 16), 1), 0, -1) if width % heads == 0)
    usual = {} if rows[name] == width else {"heads": heads}
    places = own.get("pos_embed", (1, 1, width))[1] - 1
    model = {"name": name, "patch": patch, "width": width, "depth": depth}
    says = f"a vision transformer of {depth} blocks, {width} wide, patches of {patch}"
    return Architecture("", "", "timm", model, says, channels, math.isqrt(max(places, 0)) * patch or None, usual)


def _convnext(own: Mapping[str, tuple[int, ...]], first: tuple[int, ...]) -> Architecture:
    timm = "stem.0.weight" in own
    blocks = r"stages\.(\d+)\.blocks\.(\d+)\.conv_dw" if timm else r"features\.(\d+)\.(\d+)\.block\.0"
    depths = _counts(own, rf"{blocks}\.weight")
    scaled = any(key.endswith((".gamma", ".layer_scale")) for key in own)
    second = any(".grn." in key for key in own)
    kind = "ConvNeXt V2" if second else "ConvNeXt" if scaled else "ConvNeXt without layer scale"
    name = next((name for name, row in ENCODERS.items() if scaled and _made(row, ConvNeXt)), "")
    model = {"name": name, "depths": depths, "width": first[0]}
    says = f"a {kind} of {depths} blocks, {first[0]} wide"
    return Architecture("", "", "timm" if timm else "torchvision", model, says, first[1])


def _made(row: Any, kind: type) -> Any:
    """The encoder of a row with its defaults, where it is of this kind; rows from outside may be anything."""
    encoder = row()
    return encoder if type(encoder) is kind else None


def _counts(names: Iterable[str], pattern: str) -> tuple[int, ...]:
    """How many blocks each stage has, from names that hold the numbers of both."""
    found: dict[int, int] = {}
    for name in names:
        if match := re.fullmatch(pattern, name):
            stage, block = int(match[1] or 0), int(match[2])
            found[stage] = max(found.get(stage, 0), block + 1)
    return tuple(found[stage] for stage in sorted(found))
