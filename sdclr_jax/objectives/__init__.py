"""Objectives, one paper a file; the pure functions under their plain names."""

from sdclr_jax.objectives import nt_xent as _nt_xent
from sdclr_jax.objectives.barlow_twins import barlow_twins
from sdclr_jax.objectives.base import Objective, stateless
from sdclr_jax.objectives.byol import byol
from sdclr_jax.objectives.info_nce import info_nce
from sdclr_jax.objectives.nt_xent import nt_xent, nt_xent_chunked
from sdclr_jax.objectives.simsiam import simsiam
from sdclr_jax.objectives.swav import sinkhorn, swav
from sdclr_jax.objectives.vicreg import vicreg
from sdclr_jax.objectives.w_mse import whiten, wmse

__all__ = [
    "OBJECTIVES",
    "Objective",
    "barlow_twins",
    "byol",
    "info_nce",
    "nt_xent",
    "nt_xent_chunked",
    "simsiam",
    "sinkhorn",
    "stateless",
    "swav",
    "vicreg",
    "whiten",
    "wmse",
]

# name -> function from the fields of `objective` (less the name) to an Objective
OBJECTIVES = {"nt_xent": _nt_xent.objective}
