"""Objectives, one paper a file; the pure functions under their plain names."""

from sdclr_jax.objectives import nt_xent as _nt_xent
from sdclr_jax.objectives.base import Objective, stateless
from sdclr_jax.objectives.nt_xent import nt_xent

__all__ = ["OBJECTIVES", "Objective", "nt_xent", "stateless"]

# name -> function from the fields of `objective` (less the name) to an Objective
OBJECTIVES = {"nt_xent": _nt_xent.objective}
