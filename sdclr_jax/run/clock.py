"""How fast a run trains, and how long it waits for data."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

T = TypeVar("T")


class Clock:
    """Images a second since the last line (the first one counts compilation), seconds of training in all, and
    seconds spent waiting for data since the last line; seconds of pauses, which are no training, where there were any.
    """

    def __init__(self, images_before: Callable[[int], int], step: int, seconds: float):
        """`images_before` says how many images the steps before one see in all; `seconds` were trained by `step`."""
        self._images_before, self._step, self._seconds = images_before, step, seconds
        self._since, self._wait, self._pause = time.perf_counter(), 0.0, 0.0
        self.waited = 0.0  # seconds spent waiting for data, in all

    def timed(self, batches: Iterator[T]) -> Iterator[T]:
        """The batches, with the time that each took to come counted as waiting."""
        while True:
            before = time.perf_counter()
            batch = next(batches)
            took = time.perf_counter() - before
            self._wait, self.waited = self._wait + took, self.waited + took
            yield batch

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        before = time.perf_counter()
        yield
        self._pause += time.perf_counter() - before

    def read(self, step: int) -> dict[str, float]:
        """The fields of a line of metrics at this step."""
        now = time.perf_counter()
        elapsed, wait, pause = now - self._since - self._pause, self._wait, self._pause
        images = self._images_before(step) - self._images_before(self._step)
        self._since, self._step, self._wait, self._pause = now, step, 0.0, 0.0
        self._seconds += elapsed
        read = {"images_per_second": images / elapsed, "seconds": self._seconds}
        return read | {"data_wait_seconds": wait} | ({"evaluation_seconds": pause} if pause else {})
