"""Threads that read from a disk, which may not answer."""

import contextlib
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

LEFT = 2.0  # seconds after which threads and processes that are still at work are left to it


@contextlib.contextmanager
def pool(count: int | None = None, name: str = "") -> Iterator[ThreadPoolExecutor]:
    """`count` threads, or some for each core. Where an error or a stop ends the context, they begin nothing more, and
    what they are at is waited for a moment only: a disk may let them wait for good."""
    made = ThreadPoolExecutor(count, name)
    try:
        yield made
    finally:
        made.shutdown(wait=False, cancel_futures=True)
        until = time.monotonic() + LEFT
        for thread in made._threads:
            thread.join(max(0.0, until - time.monotonic()))
