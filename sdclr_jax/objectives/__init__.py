"""Objectives, one paper a file; the pure functions under their plain names."""

import importlib
import pkgutil

from sdclr_jax.objectives.barlow_twins import barlow_twins
from sdclr_jax.objectives.base import Objective, stateless
from sdclr_jax.objectives.byol import byol
from sdclr_jax.objectives.info_nce import info_nce
from sdclr_jax.objectives.nt_xent import nt_xent, nt_xent_chunked
from sdclr_jax.objectives.simsiam import simsiam
from sdclr_jax.objectives.swav import sinkhorn, swav
from sdclr_jax.objectives.vicreg import vicreg
from sdclr_jax.objectives.w_mse import whiten, wmse, wmse_sliced

# A file with a function `objective` is an objective by the file's name: {name: function from the fields of the config's
# `objective`, less the name, to an Objective}.
_FILES = {file.name: importlib.import_module(f"{__name__}.{file.name}") for file in pkgutil.iter_modules(__path__)}
OBJECTIVES = {name: module.objective for name, module in _FILES.items() if hasattr(module, "objective")}
