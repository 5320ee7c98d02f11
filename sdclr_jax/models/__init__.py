"""Networks: an encoder and the heads on it, plain Flax modules."""

from typing import NamedTuple

import flax.linen as nn
import jax

from sdclr_jax.models.heads import Projector
from sdclr_jax.models.resnet import RESNETS, STEMS

__all__ = ["RESNETS", "STEMS", "Network", "Outputs", "Projector"]


class Outputs(NamedTuple):
    """What a branch makes of a view: `features` [B, D] of the encoder, `projection` [B, P] of the head."""

    features: jax.Array
    projection: jax.Array


class Network(nn.Module):
    """An encoder and a projector: views [B, H, W, C] -> Outputs."""

    encoder: nn.Module
    projector: nn.Module

    def __call__(self, views: jax.Array, train: bool) -> Outputs:
        features = self.encoder(views, train)
        return Outputs(features, self.projector(features, train))

    def encode(self, views: jax.Array) -> jax.Array:
        """Features [B, D] with running statistics, for evaluation."""
        return self.encoder(views, train=False)
