"""Networks: an encoder and the heads on it, plain Flax modules. They know nothing of branches and masks."""

from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax

from sdclr_jax.errors import ArgumentError
from sdclr_jax.models.convnext import ConvNeXt
from sdclr_jax.models.encoder import Encoder
from sdclr_jax.models.heads import LAST, Head, Prototypes
from sdclr_jax.models.resnet import STEMS, BasicBlock, Bottleneck, ResNet
from sdclr_jax.models.vit import ViT

# name -> from the other fields of the config's `model` to an `Encoder`. What a row gives by name, a config can change.
ENCODERS = {
    "resnet8": partial(ResNet, (1, 1, 1), BasicBlock),  # for images of 8 to 32 pixels
    "resnet10": partial(ResNet, (1, 1, 1, 1), BasicBlock),
    "resnet18": partial(ResNet, (2, 2, 2, 2), BasicBlock),
    "resnet34": partial(ResNet, (3, 4, 6, 3), BasicBlock),
    "resnet50": partial(ResNet, (3, 4, 6, 3), Bottleneck),
    "vit_tiny": partial(ViT, width=192, depth=12, heads=3),
    "vit_small": partial(ViT, width=384, depth=12, heads=6),
    "convnext_tiny": partial(ConvNeXt, width=96),
}


class Outputs(NamedTuple):
    """What a branch makes of a view: `features` [B, D] of the encoder, `projection` [B, P] of the projector,
    `prediction` [B, P] of the predictor; and the `prototypes` [P, K]. None where the network has no such head."""

    features: jax.Array
    projection: jax.Array
    prediction: jax.Array | None = None
    prototypes: jax.Array | None = None

    def of_view(self, i: int, views: int) -> "Outputs":
        """The rows of view i, where the rows of the `views` views of an image stand together."""
        features, projection, prediction = (
            None if x is None else x.reshape(-1, views, x.shape[-1])[:, i] for x in self[:3]
        )
        return Outputs(features, projection, prediction, self.prototypes)


class Network(nn.Module):
    """An encoder and its heads: views [B, H, W, C] -> Outputs."""

    encoder: Encoder
    projector: nn.Module
    predictor: nn.Module | None = None
    prototypes: nn.Module | None = None

    def __call__(self, views: jax.Array, train: bool) -> Outputs:
        features = self.encode(views, train)
        projection = self.projector(features, train)
        prediction = self.predictor(projection, train) if self.predictor else None
        prototypes = self.prototypes(projection.shape[-1]) if self.prototypes else None
        return Outputs(features, projection, prediction, prototypes)

    def encode(self, views: jax.Array, train: bool = False) -> jax.Array:
        """Features [B, D]; with running statistics, for evaluation, where not in training mode.

        Raises:
            ArgumentError: the encoder gives something else, as one without a mean over space.
        """
        features = self.encoder(views, train)
        if features.ndim != 2 or len(features) != len(views):  # the heads would take a place in an image for an image
            raise ArgumentError(
                "features",
                f"of views {list(views.shape)} are {list(features.shape)}: an encoder gives [B, D], a row an image, so "
                "end it with a mean over space",
            )
        return features

    @nn.nowrap
    def prunable(self, name: str, leaf: jax.Array) -> bool:
        """Whether a mask covers a parameter, by its name (`encoder/stem/kernel`): as the encoder says; never a head."""
        module, _, rest = name.partition("/")
        return module == "encoder" and self.encoder.prunable(rest, leaf)
