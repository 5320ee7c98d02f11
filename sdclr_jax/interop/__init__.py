"""Weights of PyTorch in and out: files, names, and what is said of them. It knows encoders and arrays, no configs."""

from sdclr_jax.interop import names
from sdclr_jax.interop.architecture import Architecture, described
from sdclr_jax.interop.names import SIDES
from sdclr_jax.interop.outgoing import encoder_tensors, training_tensors
from sdclr_jax.interop.taking import Taken, take
from sdclr_jax.interop.weights import SUFFIXES, opened, sha256, write
