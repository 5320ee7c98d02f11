"""How a command ends as a process: with its status, soon after its last word, wherever its output goes."""

import contextlib
import os
import pathlib
import sys
import threading
import time
import traceback
import types
from collections.abc import Callable

from sdclr_jax.output import Output

# Seconds that a process may take after its last word. Threads of libraries may wait minutes for a disk that is gone. Of
# several processes, one may have to wait for the others.
PATIENCE, PATIENCE_OF_SEVERAL = 5, 30
_PACKAGE = pathlib.Path(__file__).parents[1]


def run(main: Callable[[], int]) -> int:
    """Run the whole program, which gives its exit status, and see to it that the process ends soon after.

    Its status is 1 where what it printed could not be written.
    """
    _open_streams()
    threading.excepthook = of_thread
    sys.unraisablehook = unraised
    sys.stdout, sys.stderr = output, errors = Output(sys.stdout, needs_reader=True), Output(sys.stderr)
    status = 1
    try:
        status = main()
        with contextlib.suppress(BrokenPipeError):  # what it has not read is lost
            output.flush()
        if output.error:
            print(f"sdclr: what was printed could not be written ({output.error.strerror})", file=errors)
            status = status or 1
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        raise
    finally:
        patience = PATIENCE_OF_SEVERAL if several_processes() else PATIENCE
        threading.Thread(target=_end, args=(status, patience), daemon=True).start()
    return status


def of_thread(found: threading.ExceptHookArgs) -> None:
    """What Python does with an error that ends a thread: nothing where the thread is of a library alone, which raises
    it in the main thread too, as orbax does with a disk that is full."""
    frames = traceback.extract_tb(found.exc_traceback)
    if any(pathlib.Path(frame.filename).is_relative_to(_PACKAGE) for frame in frames):
        threading.__excepthook__(found)


def unraised(found: "sys.UnraisableHookArgs") -> None:
    """What Python does with an error that nobody can catch: nothing where a reader that orbax has left behind, because
    another one failed, finds that its event loop is closed."""
    if not (isinstance(found.exc_value, RuntimeError) and "Event loop is closed" in str(found.exc_value)):
        sys.__unraisablehook__(found)


def several_processes() -> types.ModuleType | None:
    """`sdclr_jax.processes` where a command has joined others. Not imported, since that takes as long as JAX."""
    processes = sys.modules.get("sdclr_jax.processes")
    return processes if processes and processes.joined() else None


def _end(status: int, seconds: float) -> None:
    """End this process where Python, which waits for all threads, has not ended it by itself."""
    time.sleep(seconds)
    with contextlib.suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)


def _open_streams() -> None:
    """Where a stream is closed, as by `>&-`, print to nowhere; else a file that is opened later would take its place,
    and get what is printed."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            _to_nowhere(number)
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "w" if number else "r", closefd=False))


def _to_nowhere(number: int) -> None:
    nowhere = os.open(os.devnull, os.O_RDWR)
    if nowhere != number:
        os.dup2(nowhere, number)
        os.close(nowhere)
