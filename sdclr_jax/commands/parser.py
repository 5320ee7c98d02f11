"""Command lines without a config: argparse, errors as one sentence. Imports neither JAX nor the configs."""

import argparse
from typing import NoReturn

from sdclr_jax.errors import UserError, shortened

DISTRIBUTED = "join the processes of a cluster first (TPU pod, Slurm, MPI); without one, work alone"


class Parser(argparse.ArgumentParser):
    """A parser that says what is wrong in a sentence, as all else does."""

    def error(self, message: str) -> NoReturn:
        raise UserError(shortened(f"{message}: {self.prog} --help says more", 500))
