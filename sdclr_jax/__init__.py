"""Self-damaging contrastive learning, and two-branch self-supervised methods around it, in JAX and Flax."""

__version__ = "0.1.0"
