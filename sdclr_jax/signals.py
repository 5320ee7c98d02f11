"""Signals that this process takes for a while, and gives back to what had them."""

import ctypes
import signal
from collections.abc import Callable, Iterable, Mapping
from typing import Any

_LIBC = ctypes.CDLL(None)
_LARGEST = 1024  # bytes of a `struct sigaction`, on any system

Taken = Mapping[signal.Signals, tuple[Any, ctypes.Array]]  # who had them: of Python's handlers, and of the system's


def take(signals: Iterable[signal.Signals], handler: Callable[[int, Any], Any]) -> Taken:
    """Let these signals call a handler; none does outside the main thread, as in some notebooks.

    What is ignored stays so: `nohup` does that. So does what a program around Python handles, as Python cannot give it
    back.
    """
    taken = {}
    try:
        for number in signals:
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                of_system = ctypes.create_string_buffer(_LARGEST)
                _LIBC.sigaction(int(number), None, of_system)
                taken[number] = signal.signal(number, handler), of_system
    except ValueError:  # not the main thread
        pass
    return taken


def give_back(taken: Taken) -> None:
    """Let signals do what they did before: also what Python knows nothing of, as where JAX has taken SIGTERM."""
    for number, (of_python, of_system) in taken.items():
        signal.signal(number, of_python)
        _LIBC.sigaction(int(number), of_system, None)
