"""The console script `sdclr`: one word names the command, errors are one sentence."""

import importlib
import sys

from sdclr_jax.errors import Diverged, UserError

USAGE = """usage: sdclr COMMAND ...

  pretrain    train a method on unlabelled images, or go on with a stopped run
  evaluate    probe the frozen encoder of a run
  report      compare runs: a table, and a page with pictures

sdclr COMMAND --help says more."""
COMMANDS = ("pretrain", "evaluate", "report")


def main(argv: list[str] | None = None) -> int:
    """Run a command; returns the exit status: 0, 1 for a run that failed, 2 for bad input."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(USAGE)
        return 0
    command, *rest = argv
    try:
        if command not in COMMANDS:
            raise UserError(f"there is no command {command!r}: known are {', '.join(COMMANDS)}")
        # Imported here, so that `report` does not wait for JAX.
        importlib.import_module(f"sdclr_jax.commands.{command}").main(rest)
    except (UserError, Diverged) as error:
        print(f"sdclr: {error}", file=sys.stderr)
        return 2 if isinstance(error, UserError) else 1
    return 0
