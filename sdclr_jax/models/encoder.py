"""What every encoder says of itself, whatever its architecture."""

import flax.linen as nn
import jax

from sdclr_jax.errors import ArgumentError, shortened
from sdclr_jax.trees import Tree


class Encoder(nn.Module):
    """Base class of the encoders: (views [B, H, W, C], train) -> features [B, D].

    Its fields, all with defaults, are those of the config's `model`; `dtype`, the type of the computation, is one of
    them. A norm is a module whose name contains `norm`, as Flax names it: the branches hold its parameters apart.

    >>> class Linear(Encoder):
    ...     width: int = 64
    ...     dtype: Any = jnp.float32
    ...
    ...     @nn.compact
    ...     def __call__(self, views, train):
    ...         return nn.Dense(self.width, dtype=self.dtype)(views.reshape(len(views), -1))
    >>> ENCODERS["linear"] = Linear  # --config.model.name=linear --config.model.width=32
    """

    @staticmethod
    def prunable(name: str, leaf: jax.Array) -> bool:
        """Whether the mask of the sparse branch covers a parameter, by its name in the encoder (`stem/kernel`).

        Every kernel is, the first layer's too, as SDCLR has it. A class that keeps some of them whole says so here.
        """
        return name.split("/")[-1] == "kernel"

    @nn.nowrap
    def check_view(self, height: int, width: int) -> None:
        """Refuse views of a size that the encoder makes nothing of.

        Raises:
            ArgumentError: names the field that does not fit.
        """

    @nn.nowrap
    def for_views(self, params: Tree, height: int, width: int) -> Tree:
        """Parameters with which the encoder gives the same features of views of this size, and has the shapes that it
        is initialised with for them. A class whose parameters depend on the size of the views says here how."""
        return params


def check_at_least(least: int, **arguments: int) -> None:
    """Raises ArgumentError where one of the arguments is smaller."""
    for name, value in arguments.items():
        if not value >= least:
            raise ArgumentError(name, f"is {value}: it must be at least {least}")


def check_at_most(most: int, **arguments: int) -> None:
    """Raises ArgumentError where one of the arguments is larger."""
    for name, value in arguments.items():
        if not value <= most:
            raise ArgumentError(name, f"is {shortened(value)}: it must be at most {most}")
