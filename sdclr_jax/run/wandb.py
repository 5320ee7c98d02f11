"""Metrics to Weights & Biases, where a person asks for it: the optional package `wandb`."""

import importlib.util
import pathlib
import secrets
from typing import Any

from sdclr_jax import files
from sdclr_jax.errors import ArgumentError, UserError, first_line

ID = "wandb/id"  # in the run's folder: under which id its metrics go to one run there, however often it is resumed


def check(project: str) -> None:
    """Raises ArgumentError where metrics are wanted there and the package is missing."""
    if project and not importlib.util.find_spec("wandb"):
        raise ArgumentError("project", f"is {project!r}, and wandb is not installed: pip install wandb")


class WandB:
    """One run of a project. Without a network, WANDB_MODE=offline keeps what `wandb sync` sends later.

    Args:
        project: its name.
        directory: the run's folder, which names the run.
        config: its fields, shown beside the curves.

    Raises:
        UserError: nobody is logged in, or there is no network, or what else wandb says.
    """

    def __init__(self, project: str, directory: pathlib.Path, config: dict[str, Any]):
        import wandb  # takes a second, and is optional

        known = directory / ID
        if not known.exists():
            files.write(known, secrets.token_hex(8).encode())
        settings = {"project": project, "name": directory.name, "dir": directory, "config": config}
        settings |= {"id": known.read_text(), "resume": "allow"}
        try:
            self._run = wandb.init(**settings)
        except Exception as error:  # it has types of its own, and the network has others
            said = UserError(
                f"wandb is {project!r}, and wandb cannot start ({first_line(error)}): run `wandb login`, or set "
                "WANDB_MODE=offline; then run the same command again"
            )
            said.status = 1  # what starts the run again may try: the network may be back by then
            raise said from error
        # Steps are a metric of their own: those of wandb must rise, and a run may be resumed from an earlier step.
        self._run.define_metric("*", step_metric="step")

    def write(self, line: dict[str, int | float | None]) -> None:
        """A line of metrics; None, which cannot be measured, is left out."""
        self._run.log({name: value for name, value in line.items() if value is not None})

    def close(self) -> None:
        self._run.finish()
