"""Command lines without a config: argparse, errors as one sentence. Imports neither JAX nor the configs."""

import argparse
from typing import NoReturn

from sdclr_jax.errors import UserError, shortened

DATA_DIR = "prepared data sets; default $SDCLR_DATA or ~/.cache/sdclr_jax/data"
DISTRIBUTED = "join the processes of a cluster first (TPU pod, Slurm, MPI); without one, work alone"


def asks_for_help(argv: list[str]) -> bool:
    """Whether a command line wants to know what can be written, whatever else it says."""
    return "--help" in argv or "-h" in argv


class Parser(argparse.ArgumentParser):
    """A parser that says what is wrong in a sentence, as all else does."""

    def error(self, message: str) -> NoReturn:
        raise UserError(shortened(f"{message}: {self.prog} --help says more", 500))

    def parse_beside_config(self, argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
        """The options, and the arguments among them that override fields of the config."""
        overrides = [arg for arg in argv if arg.startswith(("--config.", "--noconfig."))]
        return self.parse_args([arg for arg in argv if arg not in overrides]), overrides
