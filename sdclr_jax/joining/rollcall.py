"""The roll call: process 0 hears from each process before JAX joins them, and tells all who has not come, who has come
twice, and who is not like it. JAX would wait, and then abort with a stack trace that names no process.

All connect to the address of process 0, where JAX's coordinator will be, and say in a line of JSON: number, host and
facts. While some are missing, process 0 answers who; then {"all": true}, or {"wrong": SENTENCE} to each of them. One
that has waited too long says {"waited": SECONDS}, which ends the roll call for all.
"""

import errno
import importlib.metadata
import json
import os
import platform
import selectors
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

from sdclr_jax.errors import Lost, UserError, first_ones
from sdclr_jax.joining.cluster import Place
from sdclr_jax.output import tell

_SAY = 10  # seconds of waiting, until it is said
_TELL = 1.0  # seconds between two answers to those that wait
_BIND = 10  # seconds for another program, such as an earlier start of this one, to leave the port
_LINGER = 10  # seconds in which those that come late hear what is wrong
_LAST = 15  # seconds for the last answer
_LINE = 4096  # bytes of what a process says; and of an answer, a hundred times as many
# As where one is started again alone.
_WITHOUT = "it has started without this one, and must end first, or another program answers"


def answer(place: Place, limit: int) -> None:
    """Answer the roll call, which process 0 holds: returns when all have come.

    Raises:
        Lost: in each process: one has not come within `limit` seconds, or nobody holds a roll call at the address, as
            where an earlier start of process 0 does not end. What starts them may try again.
        UserError: in each process: one has come twice, or is not like process 0; or, in process 0, the port cannot be
            had.
    """
    roll = None if place.number else _Roll.begun(place)
    try:
        _answer(place, limit)
    finally:
        if roll:
            roll.end()


def differs(number: int, name: str, there: object, here: object) -> str:
    """The sentence where a process has another fact than process 0."""
    return (
        f"process {number} has another {name} than process 0: {there}, not {here}; "
        "start all processes with the same command, code and data"
    )


def facts(place: Place) -> dict[str, str]:
    """What must be the same in all processes for JAX to join them; `processes.agree` compares the rest afterwards."""
    libraries = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib")}
    return {"number of processes": str(place.count), "python": platform.python_version()} | libraries


def _answer(place: Place, limit: int) -> None:
    started, said = time.monotonic(), False
    while True:
        why = "it has ended"
        try:
            with socket.create_connection(place.host_and_port, timeout=2) as line:
                line.sendall(_line(number=place.number, host=socket.gethostname(), facts=facts(place)))
                waits_for, asked = "process 0", False
                for heard in _heard(line):
                    if "all" in heard:
                        return
                    if "wrong" in heard:
                        raise (Lost if heard.get("late") else UserError)(str(heard["wrong"]))
                    waits_for = heard.get("missing", waits_for)
                    waited = time.monotonic() - started
                    said = said or _say_that_it_waits(place, limit, waited, waits_for)
                    if waited > limit and not asked:
                        line.sendall(_line(waited=limit))
                        asked = True
                    if waited > limit + _LAST:
                        why = "it stands still"
                        break
        except _NotARollCall:
            why = _WITHOUT if place.number else "another program answers"
        except OSError as error:
            why = error.strerror or str(error) or type(error).__name__
        waited = time.monotonic() - started
        said = said or _say_that_it_waits(place, limit, waited, f"process 0, which does not answer ({why})")
        if waited > limit and why == _WITHOUT:
            raise Lost(
                f"{place} is late or comes twice: process 0, at {place.address}, has already started with all the "
                f"others, and has not ended for {limit} s; end all, and start each once, with its own number; or see "
                "that no other program has that port"
            )
        if waited > limit:
            raise Lost(
                f"{place}: process 0, at {place.address}, has not answered for {limit} s ({why}): start it there, or "
                "set JAX_COORDINATOR_ADDRESS to where it is, and see that its port can be reached"
            )
        time.sleep(0.2)


def _say_that_it_waits(place: Place, limit: int, waited: float, for_whom: str) -> bool:
    if waited < _SAY:
        return False
    tell(f"{place}, at {place.address}, waits for {for_whom}; {limit} s at most")
    return True


class _NotARollCall(Exception):
    """What answers at the address is another program, or JAX's coordinator."""


def _heard(line: socket.socket) -> Iterator[dict[str, Any]]:
    """What process 0 says, line by line, until it says no more; nothing in a line where it is silent for a while."""
    buffer = b""
    while True:
        try:
            data = line.recv(2**16)
        except TimeoutError:
            yield {}
            continue
        if not data:
            return
        buffer += data
        if buffer[:1] != b"{" or len(buffer) > 100 * _LINE:
            raise _NotARollCall
        *whole, buffer = buffer.split(b"\n")
        try:
            yield from [dict(json.loads(text)) for text in whole]
        except (ValueError, TypeError):
            raise _NotARollCall from None


class _Roll(threading.Thread):
    """The roll call that process 0 holds, in a thread."""

    def __init__(self, place: Place, listener: socket.socket):
        super().__init__(daemon=True)
        self._count, self._facts, self._listener = place.count, facts(place), listener
        self._ways = selectors.DefaultSelector()
        self._ways.register(listener, selectors.EVENT_READ)
        self._came: dict[int, tuple[socket.socket, str]] = {}  # number -> its line, and its host
        self._buffers: dict[socket.socket, bytes] = {}
        self._heard_of: set[int] = set()  # numbers, also of those that have left or are wrong
        self._ended = threading.Event()

    @classmethod
    def begun(cls, place: Place) -> "_Roll | None":
        """A roll call at the address, or None where another process 0 holds it.

        Raises:
            UserError: the port cannot be had.
        """
        port, until = place.host_and_port[1], time.monotonic() + _BIND
        host = os.environ.get("JAX_COORDINATOR_BIND_ADDRESS", "").rpartition(":")[0].strip("[]")
        while True:
            try:
                roll = cls(place, _listening(host, port))
                roll.start()
                return roll
            except OSError as error:
                if error.errno == errno.EADDRINUSE and _is_held(place):
                    return None
                if error.errno != errno.EADDRINUSE or time.monotonic() > until:
                    raise UserError(
                        f"{place} cannot listen at port {port} ({error.strerror}): end the program that does, or "
                        "choose another port in JAX_COORDINATOR_ADDRESS"
                    ) from None
                time.sleep(0.2)

    def end(self) -> None:
        """Leave the port to JAX."""
        self._ended.set()
        self.join(_LAST)

    def run(self) -> None:
        told, verdict = 0.0, None
        while not (self._ended.is_set() or verdict):
            verdict = self._look()
            if len(self._came) == self._count:
                verdict = verdict or _line(all=True)
            if time.monotonic() - told > _TELL:
                told = time.monotonic()
                self._tell(_line(missing=self._missing()))
        until = time.monotonic() + _LINGER
        while verdict:
            self._tell(verdict)
            if len(self._heard_of) == self._count or time.monotonic() > until:
                break
            self._look()
        for line in self._buffers:
            line.close()
        self._listener.close()
        self._ways.close()

    def _look(self) -> bytes | None:
        """Hear who comes and what is said; what that leads to, if anything, for all."""
        verdicts = []
        for key, _ in self._ways.select(0.2):
            if key.fileobj is self._listener:
                self._accept()
            else:
                verdicts.append(self._read(key.fileobj))
        return next(filter(None, verdicts), None)

    def _accept(self) -> None:
        try:
            line, _ = self._listener.accept()
        except OSError:  # it has left again
            return
        line.settimeout(2)
        self._buffers[line] = b""
        self._ways.register(line, selectors.EVENT_READ)

    def _read(self, line: socket.socket) -> bytes | None:
        try:
            data = line.recv(_LINE)
        except OSError:
            data = b""
        buffer = self._buffers[line] = self._buffers[line] + data
        if not data or len(buffer) > _LINE:
            self._forget(line)
            return None
        *whole, self._buffers[line] = buffer.split(b"\n")
        for text in whole:
            try:
                wrong = self._wrong(line, json.loads(text))
            except (ValueError, KeyError, TypeError, AttributeError):  # not a process of this program
                self._forget(line)
                return None
            if wrong:
                return _line(wrong=wrong, late="waited" in json.loads(text))
        return None

    def _wrong(self, line: socket.socket, said: dict[str, Any]) -> str | None:
        if "waited" in said:
            return (
                f"{self._missing()} has not come in {int(said['waited'])} s: see that it was started, with its own "
                "number, and that it reaches the address of process 0"
            )
        number, host = int(said["number"]), _printable(said["host"])
        self._heard_of.add(number)
        for name, here in self._facts.items():
            if (there := _printable(said["facts"].get(name))) != here:
                return differs(number, name, there, here)
        if number in self._came:
            return (
                f"process {number} has come twice, from {self._came[number][1]} and from {host}: start each process "
                f"once, with its own number from 0 to {self._count - 1}"
            )
        if not 0 <= number < self._count:
            raise ValueError(number)
        self._came[number] = line, host
        return None

    def _missing(self) -> str:
        numbers = [i for i in range(self._count) if i not in self._came]
        return f"process {first_ones(numbers, 8)}"

    def _tell(self, text: bytes) -> None:
        for line in list(self._buffers):
            try:
                line.sendall(text)
            except OSError:
                self._forget(line)

    def _forget(self, line: socket.socket) -> None:
        """Of one that has left: it may come again."""
        self._ways.unregister(line)
        self._buffers.pop(line)
        self._came = {number: kept for number, kept in self._came.items() if kept[0] is not line}
        line.close()


def _is_held(place: Place) -> bool:
    """Whether a roll call is held at the address, by another process 0."""
    try:
        with socket.create_connection(place.host_and_port, timeout=2 * _TELL) as line:
            return bool(next(_heard(line), None))
    except (OSError, _NotARollCall):
        return False


def _listening(host: str, port: int) -> socket.socket:
    if host not in ("", "::") or not socket.has_dualstack_ipv6():
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)


def _printable(said: object) -> str:
    """What another process, or another program, says of itself."""
    return "".join(sign for sign in str(said) if sign.isprintable())[:100]


def _line(**said: object) -> bytes:
    return json.dumps(said).encode() + b"\n"
