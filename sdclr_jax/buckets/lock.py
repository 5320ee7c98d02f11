"""A lock that is an object: it says who holds it, and while that process lives, it says so every few seconds.

Whether it lives is judged by the clock of the server alone, so the clocks of machines may differ.
"""

import contextlib
import email.utils
import json
import os
import pathlib
import secrets
import socket
import sys
import threading
import time
from datetime import datetime
from typing import Any

from sdclr_jax.buckets.paths import Answer, BucketPath
from sdclr_jax.errors import UserError

# Seconds: from one sign of life to the next; without one, until a holder counts as dead; between two looks at it.
BEAT, DEAD, LOOK = 15.0, 90.0, 1.0
# And until what cannot ask whether it still holds it gives up, as what writes a checkpoint does.
PATIENCE = 900.0


class Lock(contextlib.AbstractContextManager):
    """Holds an object while the context lasts.

    A holder that died on this machine is followed at once, one of another machine once it has given no sign for `DEAD`
    seconds.

    Raises:
        UserError: on entry, another process holds it, and lives.
        OSError: on entry, the bucket cannot be written.
    """

    def __init__(self, path: BucketPath):
        self._path, self._ended, self._lost = path, threading.Event(), ""  # why it is no longer held
        self._me = {"owner": secrets.token_hex(8), "host": socket.gethostname(), "process": os.getpid()} | _process()

    def __enter__(self) -> "Lock":
        self._generation = self._taken()
        self._beaten = _clock()
        self._thread = threading.Thread(target=self._live, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self._ended.set()
        self._thread.join(BEAT)
        with contextlib.suppress(OSError):  # then it dies of silence
            self._path.remove_of(self._generation)

    def check(self) -> None:
        """Before something is written: see that this process still holds it.

        Raises:
            UserError: it was silent for too long, and another process has followed it; or the bucket does not answer,
                so that another one may have. From then on always, at once.
        """
        until = time.monotonic() + PATIENCE
        if _clock() - self._beaten > 2 * BEAT:  # this machine may have slept
            self._beat()
        while not self._lost and _clock() - self._beaten > DEAD - BEAT:
            if time.monotonic() > until:
                self._lost = (
                    f"has not answered for {_clock() - self._beaten:.0f} s, so another process may train there now: "
                    "see to the network, and run the same command again"
                )
                break
            time.sleep(LOOK)
            self._beat()
        if self._lost:
            raise UserError(f"{self._path} {self._lost}")

    def _taken(self) -> str:
        """The generation of the object that this process has written."""
        content, waiting, first = json.dumps(self._me).encode(), False, None
        until = time.monotonic() + 2 * DEAD
        while time.monotonic() < until:
            with contextlib.suppress(FileExistsError):
                return self._path.write_over(content, "0").about["generation"]
            with contextlib.suppress(FileNotFoundError, FileExistsError):  # it has changed meanwhile
                found = self._path.about()
                holder = _holder(self._path.read_of(found.about["generation"]))
                sign = found.about["generation"], found.about["metageneration"]
                if holder.get("owner") == self._me["owner"]:  # an answer was lost
                    return sign[0]
                if _is_dead(holder) or _silence(found) > DEAD:
                    return self._path.write_over(content, sign[0]).about["generation"]
                first = first or sign
                if _is_alive(holder) or sign != first:
                    raise UserError(
                        f"another process is training in {self._path.parent} ({_name(holder)}): wait for it or give "
                        "another --workdir"
                    )
                if not waiting:
                    print(
                        f"{self._path} is held by {_name(holder)}: looking for up to {DEAD:.0f} s whether that lives",
                        file=sys.stderr,
                    )
                waiting = True
            time.sleep(LOOK)
        raise UserError(f"{self._path} changes all the time, so it cannot be held: see who else starts there")

    def _live(self) -> None:
        while not self._lost and not self._ended.wait(BEAT):
            self._beat()

    def _beat(self) -> None:
        try:
            self._path.mark(secrets.token_hex(4), self._generation)
            self._beaten = _clock()
        except (FileExistsError, FileNotFoundError):
            self._lost = (
                f"is no longer held by this process, which gave no sign of life for {DEAD:.0f} s, so another one may "
                "train there now: see that it does, or run the same command again"
            )
        except OSError:
            pass  # the network may come back


def _holder(content: bytes) -> dict[str, Any]:
    with contextlib.suppress(ValueError):
        if isinstance(found := json.loads(content), dict):
            return found
    return {}


def _name(holder: dict[str, Any]) -> str:
    return f"process {holder.get('process', '?')} on {holder.get('host', '?')}"


def _silence(found: Answer) -> float:
    """Seconds since the last sign of life, by the clock of the server."""
    now = email.utils.parsedate_to_datetime(found.date)
    return (now - datetime.fromisoformat(found.about["updated"])).total_seconds()


def _process() -> dict[str, str]:
    """Where this process can be seen, and when it began there; empty where the system does not say."""
    try:
        machine = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return {"machine": f"{machine} {os.readlink('/proc/self/ns/pid')}", "began": _began(os.getpid())}
    except (OSError, IndexError):
        return {}


def _began(process: int) -> str:
    """In ticks since the machine's start: another process of the same number began at another time."""
    return pathlib.Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]


def _seen(holder: dict[str, Any]) -> bool | None:
    """Whether a holder on this machine lives; None where it cannot be seen from here."""
    here = _process()
    if not here or holder.get("machine") != here["machine"] or holder.get("host") != socket.gethostname():
        return None
    try:
        return _began(int(holder["process"])) == holder["began"]
    except (OSError, ValueError, KeyError, IndexError):
        return False


def _is_dead(holder: dict[str, Any]) -> bool:
    return _seen(holder) is False


def _is_alive(holder: dict[str, Any]) -> bool:
    return _seen(holder) is True


def _clock() -> float:
    """Seconds, also while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()
