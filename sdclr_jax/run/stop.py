"""A stop that is asked for while a run trains."""

import contextlib
import signal
import sys

import jax


class Stop(contextlib.AbstractContextManager):
    """Ctrl-C and SIGTERM ask once; a second time they end the process. One process only: several must stop together."""

    def __init__(self):
        self.asked = False

    def __enter__(self):
        try:
            self._before = {s: signal.signal(s, self._ask) for s in (signal.SIGINT, signal.SIGTERM)}
        except ValueError:  # not the main thread, as in some notebooks
            self._before = {}
        return self

    def _ask(self, number, frame):
        if self.asked or jax.process_count() > 1:
            raise KeyboardInterrupt
        self.asked = True
        print("\nstopping at the next line of metrics; again to stop without saving", file=sys.stderr)

    def __exit__(self, *error):
        for number, handler in self._before.items():
            signal.signal(number, handler)
