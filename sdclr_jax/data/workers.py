"""Worker processes that read and crop encoded images, into memory that they share with this process.

Workers are programs of their own that import neither JAX nor the main script, and memory has no name that could be
left behind: it goes when the last process that has it goes. What stands in `multiprocessing` for either of the two
would import the user's script again in every worker, and fill the small /dev/shm of a container.
"""

import contextlib
import math
import mmap
import os
import pickle
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import NamedTuple

import numpy as np

from sdclr_jax.data import crops, decoding, threads
from sdclr_jax.data.crops import Crops, Unreadable
from sdclr_jax.data.images import Encoded
from sdclr_jax.errors import UserError, first_line

_REMEDY = "put it into a module of its own, which a new Python can import, or set data.workers=0"
# glibc would give an image's memory back to the system and ask for it again for the next, a tenth of a worker's time.
_KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(64 << 20)}


class Task(NamedTuple):
    """Images to crop together: `rows` int [M] of the set for the `places` int [M] in the batch of `step`."""

    step: int
    rows: np.ndarray
    places: np.ndarray


class Croppers(contextlib.AbstractContextManager):
    """Makes crops in `workers` processes, or in this one where that is 0; `with` it, so that the processes end.

    Args:
        images: where the encoded images are.
        crops: what is cut out of each, the crops of one size together.
        largest: images in a task, at most.
        workers: processes.
        ahead: tasks worked on while the caller is busy with the one before.

    Raises:
        UserError: the images are of a class that processes cannot import.
    """

    def __init__(self, images: Encoded, crops: Sequence[Crops], *, largest: int, workers: int, ahead: int = 0):
        self._images, self._crops = images, crops
        self._slots = 1 + ahead if workers else 1
        shapes = [(self._slots, largest, c.count, c.size, c.size, 3) for c in crops]
        self._workers = []
        if not workers:
            self._memory = [np.empty(shape, np.uint8) for shape in shapes]
            return
        # What there is to know of the images, a million paths, say, lies once in the memory of all.
        arrays: list[pickle.PickleBuffer] = []
        name = type(images).__qualname__
        if type(images).__module__ == "__main__":
            raise UserError(
                f"the class {name} is defined in the script or notebook that runs, and processes that decode images do "
                f"not import that: {_REMEDY}"
            )
        try:
            described = pickle.dumps(images, protocol=5, buffer_callback=arrays.append)
        except (pickle.PicklingError, AttributeError, TypeError) as error:  # as of a class inside of a function
            raise UserError(
                f"the class {name} cannot be sent to processes that decode images ({first_line(error)}): {_REMEDY}"
            ) from error
        sizes = [array.raw().nbytes for array in arrays]
        with _anonymous_file(sum(map(math.prod, shapes))) as file, _anonymous_file(sum(sizes)) as known:
            self._memory = _shared(file, shapes)
            for part, array in zip(_shared(known, [(size,) for size in sizes]), arrays, strict=True):
                part[:] = np.frombuffer(array.raw(), np.uint8)
            try:
                for _ in range(workers):
                    self._workers.append(_Worker(file, known))
                for worker in self._workers:
                    worker.send((described, sizes, crops, shapes))
            except BaseException:
                self.close()
                raise

    def crops(self, tasks: Iterable[Task]) -> Iterator[tuple[list[np.ndarray], list[Unreadable]]]:
        """For each task in turn its crops, uint8 [M, count, size, size, 3] for each size, valid until the next is asked
        for; and the images that could not be read: the next one of the set that can was taken in their place.

        Raises:
            UserError: a hundred images in a row cannot be read, or a worker has been killed.
        """
        running = deque()  # oldest first: (slot, images)
        for number, task in enumerate(tasks):
            slot = number % self._slots
            running.append((slot, len(task.rows), self._begin(slot, task)))
            if len(running) == self._slots:
                yield self._finish(*running.popleft())
        while running:
            yield self._finish(*running.popleft())

    def _begin(self, slot: int, task: Task) -> list[Unreadable] | None:
        if not self._workers:
            return _fill(self._memory, slot, self._images, self._crops, task, range(len(task.rows)))
        for share, worker in enumerate(self._workers):
            # Every worker has its share of every task, in a pipe that is filled ahead: none waits for another.
            worker.send((slot, task, range(share, len(task.rows), len(self._workers))))
        return None

    def _finish(self, slot: int, count: int, unreadable: list[Unreadable] | None):
        if unreadable is None:
            unreadable = [image for worker in self._workers for image in worker.receive()]
        return [memory[slot, :count] for memory in self._memory], unreadable

    def stop(self) -> None:
        """End the workers at once; they hold nothing that could be lost. A thread that waits for one has an error. One
        that the system does not let end, as it waits for a disk, is not waited for."""
        for worker in self._workers:
            worker.kill()
        until = time.monotonic() + threads.LEFT
        for worker in self._workers:
            worker.wait(max(0.0, until - time.monotonic()))

    def close(self) -> None:
        """End the workers and close the pipes to them. Threads that use `crops` must have ended before: while one is
        at a pipe, the number of a closed one may be given to another file, a checkpoint's say, and written into."""
        self.stop()
        for worker in self._workers:
            worker.close()

    def __exit__(self, *error):
        self.close()


class _Worker:
    """One process, as seen from this one."""

    def __init__(self, memory: int, known: int):
        ours, theirs = Pipe()
        program = "import sys; from sdclr_jax.data.workers import work; work(*map(int, sys.argv[1:]))"
        environment = {
            **_KEEP_MEMORY,
            **os.environ,
            "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
            "OPENBLAS_NUM_THREADS": "1",  # NumPy would start a thread a core, for nothing
        }
        # A signal to all, from a terminal or from Slurm, is for this process to answer; a worker ends with its pipe. It
        # inherits that signals are held back from it.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        given = map(str, (theirs.fileno(), memory, known, *decoding.limits()))
        try:
            with theirs:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-c", program, *given],  # -P: modules are those of this process
                    stdin=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(), memory, known),
                    env=environment,
                )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        self._pipe = ours

    def send(self, message) -> None:
        try:
            self._pipe.send(message)
        except OSError as error:
            raise self._gone() from error

    def receive(self) -> list[Unreadable]:
        try:
            unreadable, error = self._pipe.recv()
        except (EOFError, OSError) as error:
            raise self._gone() from error
        if error:
            raise error
        return unreadable

    def _gone(self) -> UserError:
        status = self._process.wait()
        memory = "if memory ran out, take fewer workers, less prefetch or a smaller batch"
        if status < 0:
            killed_by = signal.Signals(-status).name
            return UserError(f"a process that decodes images was killed by {killed_by}: {memory}")
        return UserError(f"a process that decodes images ended with status {status}: see what it has printed; {memory}")

    def kill(self) -> None:
        self._process.kill()

    def wait(self, seconds: float) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)

    def close(self) -> None:
        if self._process.poll() is not None:  # else a thread may be at the pipe for good
            self._pipe.close()


def work(pipe: int, memory: int, known: int, *limits: int) -> None:
    """What a worker does, until the other end of the pipe is closed. Arguments are open file descriptors, and the
    limits of decoding in the process that has started it."""
    pipe = Connection(pipe)
    decoding.set_limits(*limits)
    try:
        described, sizes, crops, shapes = pipe.recv()
        images, unknown = None, None
        try:
            images = pickle.loads(described, buffers=_shared(known, [(size,) for size in sizes], mmap.ACCESS_READ))
        except Exception as error:  # of a module of the user's
            said = f"{type(error).__name__}: {first_line(error)}"
            unknown = UserError(f"a process that decodes images cannot import their class ({said}): {_REMEDY}")
        slots, tasks = _shared(memory, shapes), queue.SimpleQueue()
        # Tasks are taken out of the pipe at any time: this process and the other one, each with a full pipe before it,
        # would wait for each other. An answer is long where many images cannot be read.
        threading.Thread(target=_receive, args=(pipe, tasks), daemon=True).start()
        while (received := tasks.get()) is not None:
            slot, task, share = received
            try:
                if unknown:
                    raise unknown
                answer = _fill(slots, slot, images, crops, task, share), None
            except UserError as error:
                answer = [], error
            except Exception:
                answer = [], RuntimeError(f"in a process that decodes images:\n{traceback.format_exc()}")
            pipe.send(answer)
    except (EOFError, ConnectionError):
        return


def _receive(pipe: Connection, tasks: queue.SimpleQueue) -> None:
    try:
        while True:
            tasks.put(pipe.recv())
    except (EOFError, OSError):
        return
    finally:
        tasks.put(None)


def _fill(
    memory: list[np.ndarray], slot: int, images: Encoded, what: Sequence[Crops], task: Task, share: Iterable[int]
) -> list[Unreadable]:
    unreadable = []
    for i in share:
        out = [m[slot, i] for m in memory]
        unreadable += crops.fill(out, images, int(task.rows[i]), what, task.step, int(task.places[i]))
    return unreadable


@contextlib.contextmanager
def _anonymous_file(size: int) -> Iterator[int]:
    """Descriptor of a file in memory that has no name."""
    if hasattr(os, "memfd_create"):
        file = os.memfd_create("sdclr_jax")
    else:
        with tempfile.TemporaryFile() as named:
            file = os.dup(named.fileno())
    try:
        os.ftruncate(file, size)
        yield file
    finally:
        os.close(file)


def _shared(file: int, shapes: Sequence[tuple[int, ...]], access: int = mmap.ACCESS_WRITE) -> list[np.ndarray]:
    """Arrays uint8 of these shapes, one after the other in the file."""
    sizes = [math.prod(shape) for shape in shapes]
    if not sum(sizes):  # which cannot be mapped
        return [np.empty(shape, np.uint8) for shape in shapes]
    memory = np.frombuffer(mmap.mmap(file, sum(sizes), access=access), np.uint8)
    return [part.reshape(shape) for part, shape in zip(np.split(memory, np.cumsum(sizes)[:-1]), shapes, strict=True)]
