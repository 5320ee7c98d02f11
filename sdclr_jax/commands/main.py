"""The console script `sdclr`: one word names the command, errors are one sentence."""

import contextlib
import importlib
import logging
import os
import pathlib
import signal
import sys
import traceback
from collections.abc import Iterator

import absl.logging

from sdclr_jax import __version__, compiler, signals
from sdclr_jax.commands import ending
from sdclr_jax.errors import (
    LONGEST,
    ArgumentError,
    Diverged,
    Lost,
    Stopped,
    UserError,
    out_of_memory,
    printable,
    shortened,
)

USAGE = """usage: sdclr COMMAND ...

  config      print the fields of a config, and where each value comes from
  prepare     get a data set ready: check it, and convert it once
  pretrain    train a method on unlabelled images, or resume a run that was stopped
  evaluate    probe the frozen encoder of a run
  exemplars   find the images that pruning makes a run forget, and look at them
  report      compare runs: a table, and a page with pictures
  export      write the encoder of a run for torchvision, timm, ONNX or a model hub
  import      make a run of weights that another program trained
  photos      find what is wrong and what is rare in a folder of images, with one command

sdclr COMMAND --help says more. sdclr --version says which version this is."""
COMMANDS = ("config", "prepare", "pretrain", "evaluate", "exemplars", "report", "export", "import", "photos")

_LESS_MEMORY = (
    "free some, or lower batch_size (evaluate.batch_size for what is measured); model.remat, model.dtype=bfloat16 and "
    "objective.chunk save memory, too"
)
_MODULES = {"import": "import_"}  # where a command is a word of Python's


def console() -> int:
    """`main`, as the console script runs it: the process ends with this status, whatever threads libraries hold."""
    return ending.run(main)


def main(argv: list[str] | None = None) -> int:
    """Run a command; returns the exit status: 0, 1 for a failed run, 2 for bad input, 75 for a run that was stopped and
    saved, 130 for what was stopped at once."""
    try:
        status = _run(sys.argv[1:] if argv is None else argv)
    except Exception:  # a fault of this program: JAX would let this process wait for the others, and then abort
        if not (several := ending.several_processes()):
            raise
        traceback.print_exc()
        several.leave(1)
    if status and (several := ending.several_processes()):
        several.leave(status)
    return status


def _run(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(USAGE)
        return 0
    if argv[0] == "--version":
        print(f"sdclr_jax {__version__}")
        return 0
    command, *rest = argv
    compiler.set_flags()
    # What was compiled once is not compiled again, in this run's next start or in another one of the same shape. Set
    # before JAX is imported; each variable can be set to something else, or to nothing, from outside.
    with contextlib.suppress(RuntimeError):  # there is no home folder, as in some containers
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(pathlib.Path.home() / ".cache" / "sdclr_jax" / "xla"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
    with contextlib.suppress(AttributeError):  # a notebook's output is not a file
        sys.stdout.reconfigure(errors="replace")  # a terminal that does not know a sign shows a question mark
    try:
        if command not in COMMANDS:
            raise UserError(f"there is no command {command!r}: known are {', '.join(COMMANDS)}")
        # Orbax and tfds tell of their own housekeeping as warnings; what they log as errors, they raise, too.
        absl.logging.set_verbosity(absl.logging.FATAL)
        # Orbax leaves readers behind where one of them fails, and asyncio prints a traceback of each.
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)
        # Imported here, so that `report` and `prepare` do not wait for JAX.
        with _signals_as_ctrl_c():
            importlib.import_module(f"sdclr_jax.commands.{_MODULES.get(command, command)}").main(rest)
            sys.stdout.flush()
    except (UserError, ArgumentError, Diverged, Lost, Stopped) as error:
        print(f"sdclr: {printable(shortened(error, LONGEST))}", file=sys.stderr)
        return error.status
    except BrokenPipeError:  # the reader of what is printed has seen enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python still has to print
        return 1
    except KeyboardInterrupt:
        print("sdclr: stopped", file=sys.stderr)
        return 130
    except Exception as error:  # of the system; of another kind is a fault of this program
        if why := out_of_memory(error):
            said = f"there is not enough memory ({why}): {_LESS_MEMORY}"
        elif isinstance(error, OSError) and error.filename and error.strerror:
            said = f"{error.filename} cannot be used ({error.strerror}): mend that, then run again"
        else:
            raise
        print(f"sdclr: {printable(said)}", file=sys.stderr)
        return 1
    return 0


@contextlib.contextmanager
def _signals_as_ctrl_c() -> Iterator[None]:
    """What a scheduler stops keeps what it has found, and removes what it has begun."""
    taken = signals.take((signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1), signal.default_int_handler)
    try:
        yield
    finally:
        signals.give_back(taken)


if __name__ == "__main__":
    sys.exit(console())
