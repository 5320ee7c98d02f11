"""What a signal that asks for a stop does: to a run that trains, before its first step, and to what saves nothing."""

import contextlib
import os
import select
import signal
import threading
import time
from collections.abc import Iterator

import jax
from jax._src import distributed  # whether JAX looks after SIGTERM has no public door
from jax.experimental import multihost_utils

from sdclr_jax import signals
from sdclr_jax.errors import Stopped
from sdclr_jax.output import tell

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
PATIENCE = 20.0  # seconds that a stop waits for a good step, or for any
taken = 0  # the last step of this process
_looking: "Stop | None" = None  # that of the run that this process trains
_NOT_BEGUN = "stopped before the first step: run it again to start, or to resume"


class Overdue(Stopped):
    """A stop was asked for, and no step has come since: the state is that after the last one."""


def look() -> None:
    """For what waits between two steps, maybe for good: raises Overdue where a stop was asked for too long ago. Several
    processes would have to save together, so they wait on."""
    if _looking and _looking.overdue():
        raise Overdue("stopped while no batch came: run it again to resume")


class Stop(contextlib.AbstractContextManager):
    """A stop that is asked for while a run trains, by Ctrl-C, SIGTERM, SIGHUP or SIGUSR1 to any of the processes. A
    second Ctrl-C ends this one at once.

    with Stop() as stop:
        for step in steps:
            if stop.at(step, convenient=True): ...  # save, and leave
    """

    def __init__(self):
        self.asked, self._since, self._looked = False, 0.0, 0
        self._together = jax.process_count() > 1 and distributed.global_state.preemption_sync_manager is not None

    def __enter__(self):
        global _looking
        _looking = self
        # Of several, JAX itself takes SIGTERM, and finds a step that all of them have still to come to.
        self._taken = signals.take((s for s in SIGNALS if s != signal.SIGTERM or not self._together), self._ask)
        return self

    def _ask(self, number, frame):
        if self.asked:
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            return
        self.asked, self._since = True, time.monotonic()
        tell("\nstopping; Ctrl-C again to stop without saving")
        if self._together:
            os.kill(os.getpid(), signal.SIGTERM)

    def overdue(self) -> bool:
        """Whether a stop was asked for so long ago that no good step is waited for; never of several processes."""
        return self.asked and not self._together and time.monotonic() - self._since > PATIENCE

    def at(self, step: int, convenient: bool) -> bool:
        """Whether to stop after this step. All processes are asked after the same steps, and say yes at the same.

        Args:
            step: its number.
            convenient: whether this is a good step to stop at; one process alone waits for such a one, and at most
                PATIENCE seconds.
        """
        global taken
        taken = step
        if self._together:
            # JAX waits for the number that follows the last one, and steps may come by several. Nobody else may ask it.
            self._looked += 1
            return multihost_utils.reached_preemption_sync_point(self._looked)
        return self.asked and (convenient or self.overdue())

    def __exit__(self, *error):
        global _looking
        _looking = None
        signals.give_back(self._taken)


@contextlib.contextmanager
def heeded() -> Iterator[None]:
    """Inside, a stop that is asked for before `Stop` looks after it ends a command as one that is to be run again.

    Several processes that have joined stop after their first step, as only there all of them are at one place; a second
    Ctrl-C ends them at once.
    """
    asked = []

    def ask(number, frame):
        if distributed.global_state.preemption_sync_manager is None:
            raise Stopped(_NOT_BEGUN)
        if asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.append(number)
        tell("\nstopping after the first step; Ctrl-C again to stop at once")
        os.kill(os.getpid(), signal.SIGTERM)  # which JAX has taken

    held = signals.take(SIGNALS, ask)
    try:
        yield
    finally:
        signals.give_back(held)


class Interrupts(contextlib.AbstractContextManager):
    """Signals that raise KeyboardInterrupt where this process is in Python, and are known to other threads where it
    is not: a long computation."""

    def __enter__(self):
        self.asked: float | None = None  # when the first one came
        self._read, self._write = os.pipe()
        for end in (self._read, self._write):
            os.set_blocking(end, False)
        try:
            self._wakeup = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        except ValueError:  # not the main thread, as in some notebooks
            self._taken = {}
        else:
            self._taken = signals.take(SIGNALS, signal.default_int_handler)  # also SIGTERM, which JAX has
        return self

    def waited(self) -> float:
        """Seconds since the first signal; 0 where there was none."""
        with contextlib.suppress(BlockingIOError):
            if set(os.read(self._read, 100)) & {int(s) for s in self._taken} and self.asked is None:
                self.asked = time.monotonic()
        return 0.0 if self.asked is None else time.monotonic() - self.asked

    def __del__(self):  # not before the thread that looks into it has ended
        for end in (self._read, self._write):
            os.close(end)

    def __exit__(self, *error):
        if self._taken:
            signal.set_wakeup_fd(self._wakeup)
        signals.give_back(self._taken)


@contextlib.contextmanager
def stopping_before_the_first_step(patience: float = 10.0) -> Iterator[None]:
    """Inside, a stop that is asked for before the first step ends this process after `patience` seconds, and a second
    Ctrl-C at once, whatever the main thread does. Python handles signals between its own instructions, and XLA may
    compile a step for many minutes. Nothing is lost then. For commands: the program that calls is ended too.

    Does nothing where there are several processes, which stop at one step.
    """
    if jax.process_count() > 1 or threading.current_thread() is not threading.main_thread():
        yield
        return
    received, sent = os.pipe()
    os.set_blocking(sent, False)
    before = signal.set_wakeup_fd(sent, warn_on_full_buffer=False)
    thread = threading.Thread(target=_stop_before_the_first_step, args=(received, patience), daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(sent)  # which ends the thread
        thread.join()
        os.close(received)


def _stop_before_the_first_step(received: int, patience: float) -> None:
    """Read the numbers of signals from a pipe until it is closed, or a first step is taken."""
    asked = None
    while not taken:
        left = None if asked is None else max(0.0, asked + patience - time.monotonic())
        if not select.select([received], [], [], left)[0]:
            if not taken:
                _end_at_once(_NOT_BEGUN, Stopped.status)
            return
        numbers = os.read(received, 100)
        if not numbers:
            return
        for number in set(numbers) & set(SIGNALS):
            if asked is not None and number == signal.SIGINT:
                _end_at_once("stopped", 130)
            asked = asked or time.monotonic()


def _end_at_once(sentence: str, status: int) -> None:
    tell(f"\nsdclr: {sentence}")
    os._exit(status)
