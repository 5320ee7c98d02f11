"""How an exported file is loaded on the other side, in words and code."""

from typing import Any, NamedTuple

from sdclr_jax.records import EncoderRecord

# Encoders that timm makes by name: the first word of ours, and its fields; a ResNet needs another stem beside that.
TIMM = {
    "resnet18": ("resnet18", {"width": 64}),
    "resnet34": ("resnet34", {"width": 64}),
    "resnet50": ("resnet50", {"width": 64}),
    "vit_tiny_patch16_224": ("vit", {"patch": 16, "width": 192, "depth": 12, "heads": 3}),
    "vit_small_patch16_224": ("vit", {"patch": 16, "width": 384, "depth": 12, "heads": 6}),
    "vit_base_patch16_224": ("vit", {"patch": 16, "width": 768, "depth": 12, "heads": 12}),
    "vit_large_patch16_224": ("vit", {"patch": 16, "width": 1024, "depth": 24, "heads": 16}),
    "convnext_tiny": ("convnext", {"depths": (3, 3, 9, 3), "width": 96}),
    "convnext_small": ("convnext", {"depths": (3, 3, 27, 3), "width": 96}),
    "convnext_base": ("convnext", {"depths": (3, 3, 27, 3), "width": 128}),
    "convnext_large": ("convnext", {"depths": (3, 3, 27, 3), "width": 192}),
}
TORCHVISION = tuple(name for name in TIMM if not name.startswith("vit"))  # of these, under the same names


class Usage(NamedTuple):
    """Of a folder that was exported."""

    encoder: EncoderRecord
    to: str
    classes: int
    projector: bool = False

    def text(self) -> str:
        """Markdown, for the card."""
        if self.to == "onnx":
            return (
                "`model.onnx` takes `images`, float32 [N, "
                f"{self.encoder.view.channels}, {self.encoder.view.height}, {self.encoder.view.width}] after the "
                f"preprocessing above, for any N, and gives [N, {self.encoder.features}]."
            )
        if self.to == "authors":
            heads = "with the projector" if self.projector else "without a projector, since that code has none like it"
            return (
                f"`model.safetensors` has the names of https://github.com/VITA-Group/SDCLR, {heads}; `normalize.mean` "
                "and `normalize.std` are those of the preprocessing above, which that code does itself."
            )
        made = self._made()
        if not made:
            return self.fits()
        lines = ["```python", *made[0]]
        lines += [*self._stem(), *made[1], "```"]
        if self.classes:
            lines += ["", f"The classifier of {self.classes} classes is zeros: it was never trained."]
        return "\n".join(lines)

    def fits(self) -> str:
        """What loads the file, in one sentence."""
        if self.to == "onnx":
            return "`model.onnx` is for ONNX runtimes: its README.md says how it is fed."
        if self.to == "authors":
            return "`model.safetensors` has the names of https://github.com/VITA-Group/SDCLR: its README.md says more."
        if not (architecture := self._architecture()):
            return (
                f"`model.safetensors` has the names of {self._library}, which has no such "
                f"{self.encoder.model['name']}: a module of your own with these names loads it."
            )
        stem = " with another first layer" if self._stem() else ""
        return f"`model.safetensors` fits {self._library}'s `{architecture}`{stem}: its README.md says how to load it."

    @property
    def _library(self) -> str:
        return "torchvision" if self.to == "torchvision" else "timm"

    def _architecture(self) -> str:
        """What the library calls this encoder, '' where it has none."""
        model = self.encoder.model
        first = model["name"].partition("_")[0]
        same = (
            name
            for name, (word, fields) in TIMM.items()
            if word == first and all(_plain(model.get(field)) == _plain(value) for field, value in fields.items())
        )
        name = next(same, "")
        if self.to == "torchvision" and (name not in TORCHVISION or self.encoder.view.channels != 3):
            return ""
        return name

    def _made(self) -> tuple[list[str], list[str]] | None:
        architecture, channels = self._architecture(), self.encoder.view.channels
        if not architecture:
            return None
        load = 'model.load_state_dict(load_file("model.safetensors"))'
        if self.to == "torchvision":
            drop = "model.classifier[2]" if architecture.startswith("convnext") else "model.fc"
            begin = ["import torch, torchvision", "from safetensors.torch import load_file", ""]
            classes = f"num_classes={self.classes}" if self.classes not in (0, 1000) else ""
            begin += [f"model = torchvision.models.{architecture}({classes})"]
            identity = f"{drop} = torch.nn.Identity()  # now model(images) gives features"
            return begin, [load, identity] if self.classes else [identity, load]
        more = "" if channels == 3 else f", in_chans={channels}"
        more += (
            f", img_size={self.encoder.view.height}"
            if "vit" in architecture and self.encoder.view.height != 224
            else ""
        )
        if self.to == "hub-folder" and not self._stem():
            return ["import timm", ""], ['model = timm.create_model("local-dir:FOLDER", pretrained=True)']
        begin = ["import timm, torch", "from safetensors.torch import load_file", ""]
        classes = f", num_classes={self.classes}"
        begin += [f'model = timm.create_model("{architecture}"{more}{classes})']
        reset = ["model.reset_classifier(0)  # now model(images) gives features"] if self.classes else []
        return begin, [load, *reset]

    def _stem(self) -> list[str]:
        """A ResNet for small images begins with one 3x3 convolution, which neither library has by name."""
        model = self.encoder.model
        if model.get("stem") != "cifar":
            return []
        return [
            f"model.conv1 = torch.nn.Conv2d({self.encoder.view.channels}, {model['width']}, 3, padding=1, bias=False)",
            "model.maxpool = torch.nn.Identity()",
        ]

    def of_timm(self) -> dict[str, Any]:
        """config.json of a folder that timm loads; {} where timm makes no such encoder by name."""
        architecture, view = self._architecture(), self.encoder.view
        if not architecture or self._stem():
            return {}
        return {
            "architecture": architecture,
            "num_classes": 0,
            "num_features": self.encoder.features,
            "global_pool": "token" if architecture.startswith("vit") else "avg",
            "model_args": {"img_size": view.height} if architecture.startswith("vit") else {},
            "pretrained_cfg": {
                "input_size": [view.channels, view.height, view.width],
                "mean": list(self.encoder.mean),
                "std": list(self.encoder.std),
                "interpolation": self.encoder.interpolation,
                "crop_mode": "center",
                "crop_pct": self.encoder.crop / self.encoder.resize if self.encoder.crop else 1.0,
                "num_classes": 0,
            },
        }


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
