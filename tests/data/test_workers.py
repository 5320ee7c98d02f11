"""Workers make what this process makes, die with a sentence, and leave nothing behind."""

import gc
import mmap
import os
import pathlib
import pickle
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import types
from collections import deque
from multiprocessing import Pipe

import numpy as np
import pytest

from sdclr_jax import stops
from sdclr_jax.data import workers
from sdclr_jax.data.crops import RandomCrops
from sdclr_jax.data.images import Encoded, Files
from sdclr_jax.data.workers import Croppers, Task
from sdclr_jax.errors import UserError
from tests.photos import jpeg, photo

ROOT = pathlib.Path(__file__).parents[2]
CROPS = RandomCrops(count=2, size=12, scale=(0.2, 1.0), ratio=(3 / 4, 4 / 3), seed=5)
SMALL = RandomCrops(count=1, size=5, scale=(0.1, 0.2), ratio=(3 / 4, 4 / 3), seed=5, first=2)
TASKS = [Task(step, np.arange(5) * 3 % 7 + step, np.arange(5)) for step in range(4)] + [
    Task(9, np.array([2, 1]), np.array([3, 4]))
]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for i in range(10):
        (folder / f"{i}.jpg").write_bytes(jpeg(photo(40 + i, 30, seed=i)))
    return Files(folder, np.array([f"{i}.jpg" for i in range(10)]))


def test_what_is_sent_to_a_worker_does_not_grow_with_the_number_of_images(monkeypatch):
    """The paths lie in memory that all share, under a descriptor, and are those of the images."""
    sent = []

    class Worker:
        def __init__(self, memory, known):
            self._known = os.dup(known)

        def send(self, message):
            sent.append((len(pickle.dumps(message)), message, self._known))

        def kill(self): ...

        def wait(self, seconds): ...

        def close(self):
            os.close(self._known)

    monkeypatch.setattr(workers, "_Worker", Worker)
    for count in (10, 100_000):
        paths = np.array([f"{i:08}.jpg" for i in range(count)])
        with Croppers(Files("/photos", paths), (SMALL,), largest=2, workers=1):
            length, (described, sizes, *_), known = sent[-1]
            buffers = workers._shared(known, [(size,) for size in sizes], mmap.ACCESS_READ)
            assert pickle.loads(described, buffers=buffers).paths.tolist() == paths.tolist()
    assert sent[0][0] < 2000 and abs(sent[1][0] - sent[0][0]) < 20


def crops_of(files, workers, ahead, tasks=TASKS):
    """The crops of both sizes, flat, of each task."""
    with Croppers(files, (CROPS, SMALL), largest=5, workers=workers, ahead=ahead) as croppers:
        return [
            (np.concatenate([x.reshape(len(x), -1) for x in made], axis=1), unreadable)
            for made, unreadable in croppers.crops(tasks)
        ]


@pytest.fixture(scope="module")
def expected(files):
    return crops_of(files, workers=0, ahead=0)


@pytest.mark.parametrize(("workers", "ahead"), [(1, 0), (2, 1), (7, 3)])
def test_any_number_of_workers_makes_the_same(files, expected, workers, ahead):
    found = crops_of(files, workers, ahead)
    assert [made.shape for made, _ in found] == [(n, 2 * 12 * 12 * 3 + 5 * 5 * 3) for n in (5, 5, 5, 5, 2)]
    for (made, unreadable), (alone, _) in zip(found, expected, strict=True):
        np.testing.assert_array_equal(made, alone)
        assert unreadable == []


def test_no_module_is_taken_from_the_folder_in_which_a_worker_starts(files, expected, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    (tmp_path / "queue.py").write_text("raise SystemExit(9)")
    monkeypatch.chdir(tmp_path)
    ((made, _),) = crops_of(files, 1, 0, TASKS[:1])
    np.testing.assert_array_equal(made, expected[0][0])


def test_a_crop_depends_on_the_step_and_the_place_but_not_on_the_rest_of_the_task(files, expected):
    part = Task(2, TASKS[2].rows[3:], TASKS[2].places[3:])
    ((made, _),) = crops_of(files, 0, 0, [part])
    np.testing.assert_array_equal(made, expected[2][0][3:])
    elsewhere = [Task(2, part.rows, part.places - 1), Task(3, part.rows, part.places)]
    for other, _ in crops_of(files, 0, 0, elsewhere):
        assert (other != made).any(axis=1).all()


class Damaged(Encoded):
    """The images `files`, one of which makes the reader fail in a way that nobody has thought of."""

    def __init__(self, files, broken):
        self.files, self.broken = files, broken

    def __len__(self):
        return len(self.files)

    def __getitem__(self, rows):
        raise NotImplementedError

    def read(self, row):
        return self.broken(row) or self.files.read(row)

    def name(self, row):
        return self.files.name(row)

    def digest(self):
        raise NotImplementedError


def missing(row):
    if row == 3:
        raise FileNotFoundError(2, "No such file or directory")


def a_mistake(row):
    raise KeyError("the code is wrong")


def nothing_left(row):
    raise FileNotFoundError(2, "No such file or directory")


@pytest.mark.parametrize("workers", [0, 2])
def test_damage_is_told_and_passed_over(files, expected, workers):
    found = crops_of(Damaged(files, missing), workers, 1)
    told = [[image.name for image in unreadable] for _, unreadable in found]
    assert told == [[files.name(3)] * list(task.rows).count(3) for task in TASKS]
    assert sum(map(len, told)) > 1
    for task, (made, _), (whole, _) in zip(TASKS, found, expected, strict=True):
        same = (made == whole).all(axis=1)
        np.testing.assert_array_equal(same, task.rows != 3)


def test_long_answers_and_many_tasks_ahead_do_not_wait_for_each_other(files, monkeypatch):
    """Of 40 images each third is missing; pipes are as small as a system makes them, so that few tasks fill them."""

    def small_pipe():
        ends = Pipe()
        for end in ends:
            with socket.socket(fileno=os.dup(end.fileno())) as same:
                same.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        return ends

    monkeypatch.setattr("sdclr_jax.data.workers.Pipe", small_pipe)
    tasks = [Task(step, np.arange(40) % 3 + 2, np.arange(40)) for step in range(30)]
    with Croppers(Damaged(files, missing), (SMALL,), largest=40, workers=1, ahead=20) as croppers:
        watch = threading.Timer(300, croppers.stop)  # they would wait for good
        watch.start()
        told = [len(unreadable) for _, unreadable in croppers.crops(tasks)]
        watch.cancel()
    assert told == [13] * 30


@pytest.mark.parametrize("workers", [0, 2])
def test_a_set_that_is_gone_is_an_error(files, workers):
    with pytest.raises(UserError, match="10 images in a row cannot be read"):
        crops_of(Damaged(files, nothing_left), workers, 1)


def test_a_mistake_in_the_code_is_shown_whole(files):
    with pytest.raises(RuntimeError, match=r"(?s)Traceback.*the code is wrong"):
        crops_of(Damaged(files, a_mistake), 2, 1)


def test_images_of_a_class_that_a_worker_cannot_import_are_refused(files, monkeypatch):
    class Inside(Damaged):
        pass

    elsewhere = types.ModuleType("of_this_process")
    elsewhere.Gone = type("Gone", (Damaged,), {"__module__": "of_this_process"})
    monkeypatch.setitem(sys.modules, "of_this_process", elsewhere)
    remedy = ": put it into a module of its own, which a new Python can import, or set data.workers=0$"
    with pytest.raises(UserError, match=rf"^the class \S+Inside cannot be sent to processes .*\(.*local.*\){remedy}"):
        crops_of(Inside(files, missing), 1, 0)
    gone = "cannot import their class (ModuleNotFoundError: No module named 'of_this_process')"
    with pytest.raises(UserError, match=f"^a process that decodes images {re.escape(gone)}{remedy}"):
        crops_of(elsewhere.Gone(files, missing), 1, 0)
    monkeypatch.setattr(Damaged, "__module__", "__main__")
    with pytest.raises(UserError, match=f"^the class Damaged is defined in the script or notebook .*{remedy}"):
        crops_of(Damaged(files, missing), 1, 0)


def processes() -> set[int]:
    """Processes that this one has started."""
    return {int(pid) for path in pathlib.Path("/proc/self/task").glob("*/children") for pid in path.read_text().split()}


linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


@linux
def test_a_killed_worker_is_one_sentence_and_nothing_is_left(files):
    gc.collect()  # the memory of tests before this one
    before, descriptors = processes(), len(os.listdir("/proc/self/fd"))
    endless = (Task(step, np.arange(5), np.arange(5)) for step in range(10**9))
    with Croppers(files, [CROPS], largest=5, workers=2, ahead=2) as croppers:
        made = croppers.crops(endless)
        next(made)
        os.kill(max(processes() - before), signal.SIGKILL)
        with pytest.raises(UserError, match=r"was killed by SIGKILL: if memory ran out, take fewer workers"):
            deque(made, maxlen=0)
    assert processes() == before
    del made, croppers
    gc.collect()  # and with them the memory
    assert len(os.listdir("/proc/self/fd")) == descriptors


@linux
def test_workers_leave_signals_that_ask_for_a_stop_to_their_process(files):
    """Which saves first, and needs batches up to there. Slurm and a terminal that is closed signal all of a group."""
    before = processes()
    endless = (Task(step, np.arange(5), np.arange(5)) for step in range(10**9))
    with Croppers(files, [CROPS], largest=5, workers=2, ahead=1) as croppers:
        made = croppers.crops(endless)
        next(made)
        for number in stops.SIGNALS:
            for worker in processes() - before:
                os.kill(worker, number)
            for _ in range(5):
                next(made)


def test_a_worker_starts_without_jax():
    program = "import sys, sdclr_jax.data.workers; print({'jax', 'tensorflow_datasets'} & set(sys.modules))"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    assert subprocess.check_output([sys.executable, "-c", program], env=environment, text=True) == "set()\n"


# No `if __name__ == "__main__"`, which the workers of multiprocessing would need.
SCRIPT = """
import sys, time
import numpy as np
from sdclr_jax.data.crops import RandomCrops
from sdclr_jax.data.images import Files
from sdclr_jax.data.workers import Croppers, Task
files = Files(sys.argv[1], np.array([f"{i}.jpg" for i in range(10)]))
crops = RandomCrops(count=2, size=12, scale=(0.2, 1.0), ratio=(0.75, 4 / 3), seed=5)
endless = (Task(step, np.arange(5), np.arange(5)) for step in range(10**9))
with Croppers(files, [crops], largest=5, workers=2, ahead=2) as croppers:
    for made, unreadable in croppers.crops(endless):
        print("made", flush=True)
"""


@linux
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_workers_end_with_their_process_and_say_nothing(files, tmp_path, number):
    (tmp_path / "script.py").write_text(SCRIPT)
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "script.py"), str(files.root)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "always"},
    )  # fmt: skip
    assert process.stdout.readline() == "made\n"
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as a terminal does: to all
    else:
        os.kill(process.pid, number)
    _, errors = process.communicate(timeout=300)  # which waits for all that hold the pipe
    assert process.returncode == -number
    assert errors.count("Traceback") == (number == signal.SIGINT)  # this process's own
    assert "resource_tracker" not in errors
    for _ in range(2000):
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            break
        time.sleep(0.05)
    else:
        pytest.fail("a worker outlived its process")
