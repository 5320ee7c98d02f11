"""The line to process 0, which has the store that all processes share.

JAX ends a process with a stack trace where its line to process 0 breaks. So it gets a line that ends in this process,
and that does not break: what goes over it is carried on to process 0, and where that is gone, this process ends with a
sentence. Only what processes say to each other goes this way, not what they compute.
"""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator

from sdclr_jax.errors import Lost
from sdclr_jax.output import tell

_START = 30  # seconds for process 0 to take the line at the start
_POLL = 1.0  # seconds between two looks at how long process 0 has been silent
# A machine that is gone sends nothing: asked after 10 s of silence every 5 s, it is given up after 4 times.
_ALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4, "TCP_USER_TIMEOUT": 30_000}


class Line:
    """A line to the process at `address`. JAX is to connect to `Line.address`."""

    def __init__(self, address: str):
        host, _, port = address.rpartition(":")
        self._far, self._named = (host.removeprefix("[").removesuffix("]"), int(port)), address
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._end_of_process_0 = "is nothing yet"  # then "ends this process", and at last "is expected"
        self._limit, self._silent = None, 0.0  # seconds
        self._open: list[socket.socket] = []  # lines of JAX: one that nobody holds would be closed
        threading.Thread(target=self._serve, daemon=True).start()

    def watch(self) -> None:
        """From now on the end of process 0 is the end of this one."""
        self._end_of_process_0 = "ends this process"

    def release(self) -> None:
        """From now on process 0 may end."""
        self._end_of_process_0 = "is expected"
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # which wakes the thread that listens

    @contextlib.contextmanager
    def asking(self, limit: float) -> Iterator[None]:
        """Inside, process 0 has to answer within `limit` seconds."""
        self._silent, self._limit = 0.0, limit
        try:
            yield
        finally:
            self._limit = None

    def _serve(self) -> None:
        with self._listener, contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                threading.Thread(target=self._carry, args=(near,), daemon=True).start()

    def _carry(self, near: socket.socket) -> None:
        """Both ways, until one side ends."""
        try:
            far = self._to_process_0()
        except OSError:
            near.close()  # JAX tries again, as long as it was told to
            return
        ended = threading.Event()
        threading.Thread(target=self._there, args=(near, far, ended), daemon=True).start()
        with far:
            while data := self._heard(far):
                with contextlib.suppress(OSError):
                    near.sendall(data)
            if self._end_of_process_0 == "is nothing yet":
                with near, contextlib.suppress(OSError):
                    near.shutdown(socket.SHUT_RDWR)
            if not ended.is_set():
                self._gone("is gone: it was killed, or its machine is gone")

    def _to_process_0(self) -> socket.socket:
        until = time.monotonic() + _START
        while True:
            try:
                far = socket.create_connection(self._far, timeout=5)
                break
            except OSError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.05)
        far.settimeout(_POLL)
        far.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        far.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _ALIVE.items():
            if hasattr(socket, name):  # not on every system
                far.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        return far

    def _there(self, near: socket.socket, far: socket.socket, ended: threading.Event) -> None:
        self._open.append(near)  # also where process 0 is gone: the other way hears of that, and JAX is not to
        with contextlib.suppress(OSError):
            while data := near.recv(2**16):
                _send(far, data)
            ended.set()  # by JAX, at the end of this process
            with near:
                far.shutdown(socket.SHUT_WR)

    def _heard(self, far: socket.socket) -> bytes:
        """What comes from process 0; nothing where it is gone."""
        while True:
            try:
                data = far.recv(2**16)
                self._silent = 0.0
                return data
            except TimeoutError:
                # Counted by looks, not by the clock: this process may have stood still itself.
                self._silent += _POLL
                if (limit := self._limit) is not None and self._silent > limit:
                    self._gone(f"stands still: it has said nothing for {limit:.0f} s")
            except OSError:
                return b""

    def _gone(self, why: str) -> None:
        if self._end_of_process_0 == "ends this process":
            end_at_once(
                f"process 0, at {self._named}, {why}; start all again, and a run goes on from its last checkpoint",
                Lost.status,
            )


def end_at_once(sentence: str, status: int) -> None:
    """End this process from any of its threads, where JAX would abort it with a stack trace."""
    tell(f"sdclr: {sentence}")
    os._exit(status)


def _send(far: socket.socket, data: bytes) -> None:
    """All of it, however long that takes: whether process 0 lives is seen by what comes from it."""
    left = memoryview(data)
    while left:
        with contextlib.suppress(TimeoutError):
            left = left[far.send(left) :]
