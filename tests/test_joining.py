"""The roll call before JAX joins processes, and the line to process 0: over real sockets, without JAX. What processes
of a run do when one ends is in test_processes.py."""

import contextlib
import json
import os
import socket
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from sdclr_jax import joining
from sdclr_jax.errors import Lost, UserError
from sdclr_jax.joining import cluster, rollcall
from sdclr_jax.joining.cluster import Place
from sdclr_jax.joining.line import Line


@pytest.fixture
def address(monkeypatch):
    monkeypatch.setattr(rollcall, "_TELL", 0.05)
    monkeypatch.setattr(rollcall, "_LINGER", 2)
    with socket.socket() as s:
        s.bind(("localhost", 0))
        return f"localhost:{s.getsockname()[1]}"


def called(address, *numbers, count=2, limit=60):
    """What each process of these numbers is told: None is that all have come."""

    def one(number):
        try:
            return rollcall.answer(Place(address, number, count), limit)
        except (UserError, Lost) as error:
            late = any(said in str(error) for said in ("has not come in", "has not answered", "has not ended"))
            assert isinstance(error, Lost) == late  # what starts the processes may try that again
            return str(error)

    with ThreadPoolExecutor(len(numbers)) as threads:
        return list(threads.map(one, numbers))


def test_all_come_whatever_else_knocks_and_the_port_is_free_again(address):
    strangers = []

    def knock():
        until = time.monotonic() + 30
        for text in (b"GET / HTTP/1.1\r\n\r\n", b'{"number": "x"}\n', b'[{"number": 1}]\n', b"x" * 9000, b""):
            while time.monotonic() < until:
                with contextlib.suppress(OSError):
                    strangers.append(socket.create_connection(Place(address, 0, 3).host_and_port, timeout=5))
                    strangers[-1].sendall(text)
                    break
                time.sleep(0.01)

    with ThreadPoolExecutor(2) as threads:
        others = threads.submit(called, address, 0, 1, count=3)
        threads.submit(knock).result()
        assert not others.done()  # nobody of these was process 2
        assert called(address, 2, count=3) == [None]
        assert others.result() == [None, None]
    for stranger in strangers:
        stranger.close()
    socket.create_server(("", int(address.rpartition(":")[2]))).close()


def test_who_has_not_come_is_named_in_each_process(address, monkeypatch, capsys):
    monkeypatch.setattr(rollcall, "_SAY", 0)
    told = called(address, 0, 2, count=5, limit=1)
    assert set(told) == {
        "process 1, 3, 4 has not come in 1 s: see that it was started, with its own number, and that it reaches the "
        "address of process 0"
    }
    assert f"process 2 of 0 to 4, at {address}, waits for process " in capsys.readouterr().err


@pytest.mark.parametrize(("twice", "numbers"), [(1, (0, 1, 1)), (0, (0, 0, 1))])
def test_a_number_that_comes_twice_ends_all(address, twice, numbers):
    here = socket.gethostname()
    for said in called(address, *numbers, count=3):
        assert said == (
            f"process {twice} has come twice, from {here} and from {here}: start each process once, with its own "
            "number from 0 to 2"
        )


@pytest.mark.parametrize(
    ("name", "there"), [("number of processes", "3"), ("python", "3.10.1"), ("jax", "0.9\x1b[31m.9"), ("jaxlib", None)]
)
def test_a_process_that_jax_could_not_join_is_named_in_all(address, monkeypatch, name, there):
    facts = rollcall.facts

    def of(place):
        found = facts(place)
        return found | {name: there} if place.number else found

    monkeypatch.setattr(rollcall, "facts", of)
    here = facts(Place(address, 0, 2))[name]
    said = str(there).replace("\x1b", "")  # nothing of another process commands a terminal
    assert set(called(address, 0, 1)) == {
        f"process 1 has another {name} than process 0: {said}, not {here}; start all processes with the same command, "
        "code and data"
    }


def test_an_address_where_nobody_answers_is_a_sentence(address):
    (said,) = called(address, 1, limit=1)
    assert said.startswith(f"process 1 of 0 to 1: process 0, at {address}, has not answered for 1 s (Connection refus")


def test_a_process_that_comes_again_waits_for_the_others_and_is_told_so_where_they_do_not_end(address):
    """As where a cluster starts one again whose others have still to hear that it was lost."""
    with socket.create_server(Place(address, 0, 2).host_and_port) as coordinator:  # as JAX's, which has begun

        def greet():
            came, _ = coordinator.accept()
            came.sendall(b"\x00\x00\x12\x04\x00\x00\x00\x00\x00")
            return came

        with ThreadPoolExecutor(2) as threads:
            came = threads.submit(greet)
            (said,) = called(address, 1, limit=0)
            came.result().close()
            again = threads.submit(called, address, 1)
            greet().close()
            coordinator.close()  # the others end, and all are started again
            assert called(address, 0) == again.result() == [None]
        assert said.startswith(f"process 1 of 0 to 1 is late or comes twice: process 0, at {address}, has already")


def test_one_that_is_gone_before_jax_has_joined_all_is_no_bad_input(monkeypatch):
    """What starts the processes may try again."""

    def initialize(*given, **how):
        raise RuntimeError("DEADLINE_EXCEEDED: process 1")

    ends = []
    monkeypatch.setattr(cluster, "find", lambda limit: Place("localhost:1", 0, 2))
    monkeypatch.setattr(rollcall, "answer", lambda place, limit: None)
    monkeypatch.setattr("jax.distributed.initialize", initialize)
    with pytest.raises(Lost, match=r"^process 0 of 0 to 1: JAX cannot join the processes \(RuntimeError: DEADLINE"):
        joining.join()
    monkeypatch.setattr(joining, "end_at_once", lambda sentence, status: ends.append(status))
    joining._jax_waits(Place("localhost:1", 0, 2))
    assert ends == [Lost.status]


def test_a_port_that_another_program_has_is_refused(address, monkeypatch):
    monkeypatch.setattr(rollcall, "_BIND", 0)
    with socket.create_server(("", Place(address, 0, 2).host_and_port[1])):
        (said,) = called(address, 0)
    assert said.startswith("process 0 of 0 to 1 cannot listen at port ") and "choose another port" in said


@pytest.fixture
def line(monkeypatch):
    """A line, what process 0 and JAX hold of it, and with which statuses this process would have ended."""
    statuses, ended = [], threading.Event()

    def end(status):
        statuses.append(status)
        ended.set()
        threading.Event().wait()

    monkeypatch.setattr(os, "_exit", end)
    monkeypatch.setattr("sdclr_jax.joining.line._POLL", 0.02)
    with socket.create_server(("localhost", 0)) as listener:
        made = Line(f"localhost:{listener.getsockname()[1]}")
        near = socket.create_connection(Place(made.address, 0, 2).host_and_port, timeout=30)
        far, _ = listener.accept()
        with near, far:
            far.settimeout(30)
            yield made, near, far, statuses, ended
        made.release()


def test_a_line_carries_both_ways_and_ends_this_process_where_process_0_is_gone(line, capsys):
    made, near, far, statuses, ended = line
    for giver, taker in ((near, far), (far, near)):
        giver.sendall(b"x" * 100_000)
        heard = b""
        while len(heard) < 100_000:
            heard += taker.recv(2**20)
        assert heard == b"x" * 100_000
    made.watch()
    far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # as where a process is killed
    far.close()
    near.settimeout(0.01)
    while not ended.is_set():
        near.sendall(b"x")
        with pytest.raises(TimeoutError):  # JAX does not hear of it, whatever it says
            near.recv(1)
    assert statuses == [1]
    said = capsys.readouterr().err
    assert said.startswith("sdclr: process 0, at localhost:") and said.count("\n") == 1
    assert "is gone: it was killed, or its machine is gone; start all again, and a run goes on from its last" in said


def test_process_0_that_does_not_answer_in_time_stands_still(line, capsys):
    made, near, far, statuses, ended = line
    made.watch()
    assert not ended.wait(0.3)  # nothing is asked
    with made.asking(0.1):
        assert ended.wait(30) and statuses == [1]
    assert "stands still: it has said nothing for 0 s;" in capsys.readouterr().err


def test_a_process_that_ends_itself_lets_process_0_end_first(line, capsys):
    made, near, far, statuses, ended = line
    made.watch()
    made.release()
    far.close()
    near.settimeout(0.2)
    with pytest.raises(TimeoutError):  # JAX does not hear of it
        near.recv(1)
    assert not statuses and not capsys.readouterr().err


def test_where_the_processes_are_is_asked_of_the_cluster(monkeypatch, capsys):
    found = {}
    detect = lambda *given: found["is"]  # noqa: E731
    monkeypatch.setattr(cluster.ClusterEnv, "auto_detect_unset_distributed_params", detect)
    for name in (*cluster.NAMES, *cluster._STARTED):
        monkeypatch.delenv(name, raising=False)
    found["is"] = "host:8476", 4, 2, [0]
    place = cluster.find(1)
    assert place == Place("host:8476", 2, 4) and str(place) == "process 2 of 0 to 3"
    assert place._replace(address="[fd00::1]:80").host_and_port == ("fd00::1", 80)
    for alone in ((None, None, None, None), ("host:8476", 1, 0, [0])):
        found["is"] = alone
        assert cluster.find(1) is None
        joining.join()  # and nothing happens
    assert capsys.readouterr().err == 2 * "--distributed: no cluster is found, so this process works alone\n"
    for name in ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "WORLD_SIZE", "SLURM_NTASKS"):
        with monkeypatch.context() as patch:
            patch.setenv(name, "2")
            assert cluster.find(1) is None  # one that is found
            found["is"] = None, None, None, None
            with pytest.raises(
                UserError, match=rf"cannot be joined \({name} is 2, and JAX finds no cluster\): see that"
            ):
                cluster.find(1)
            patch.setenv(name, "1")
            assert cluster.find(1) is None
            found["is"] = alone
    for wrong in ("host", "host:", ":80", "host:port", "host:65536"):
        found["is"] = wrong, 2, 0, None
        with pytest.raises(UserError, match=r"^--distributed: the address of process 0 is .*: it must be host:port$"):
            cluster.find(1)
    for partly, said in ((("h:1", None, 0, None), "how many there are"), (("h:1", 2, None, None), "which of them")):
        found["is"] = partly
        with pytest.raises(UserError, match=rf"cannot be joined \(nothing says {said}"):
            cluster.find(1)


STARTED_BY = {
    "Slurm": {
        "SLURM_JOB_ID": "1", "SLURM_STEP_NODELIST": "node[1-2]", "SLURM_NTASKS": "2", "SLURM_PROCID": "1",
        "SLURM_NODEID": "1",
    },
    "MPI": {
        "OMPI_MCA_orte_hnp_uri": "4096.0;tcp://10.0.0.1:1", "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1",
    },
    "hand": dict(zip(cluster.NAMES, ("node1:61440", "2", "1"), strict=True)),
}  # fmt: skip


@pytest.mark.parametrize(
    ("started_by", "variables", "devices"),
    [
        (["Slurm"], {"SLURM_STEP_TASKS_PER_NODE": "1(x2)", "SLURM_LOCALID": "0"}, None),  # slurm.sh
        (["Slurm"], {"SLURM_STEP_TASKS_PER_NODE": "8(x2)", "SLURM_LOCALID": "3"}, [3]),  # all see eight
        (["Slurm"], {"SLURM_STEP_TASKS_PER_NODE": "2,1", "SLURM_LOCALID": "0"}, None),
        (["Slurm"], {"SLURM_STEP_TASKS_PER_NODE": "8(x2)", "SLURM_LOCALID": "3", "SLURM_GPUS_PER_TASK": "1"}, None),
        (["Slurm"], {"SLURM_STEP_TASKS_PER_NODE": "8(x2)", "SLURM_LOCALID": "3", "CUDA_VISIBLE_DEVICES": "3"}, None),
        (
            ["Slurm"],
            {"SLURM_STEP_TASKS_PER_NODE": "1(x2)", "SLURM_LOCALID": "0", "JAX_LOCAL_DEVICE_IDS": "4,5"},
            [4, 5],
        ),
        (["Slurm", "hand"], {"SLURM_STEP_TASKS_PER_NODE": "8(x2)", "SLURM_LOCALID": "3"}, [3]),
        (["MPI"], {"OMPI_COMM_WORLD_LOCAL_SIZE": "1", "OMPI_COMM_WORLD_LOCAL_RANK": "0"}, None),
        (["MPI"], {"OMPI_COMM_WORLD_LOCAL_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_RANK": "1"}, [1]),
        (["hand"], {}, None),
    ],
)
def test_a_process_has_all_devices_that_it_sees_unless_others_see_the_same(monkeypatch, started_by, variables, devices):
    for name in [*cluster.NAMES, *os.environ]:
        if name.startswith(("SLURM_", "OMPI_", "JAX_LOCAL", "CUDA_VIS")) or name in cluster.NAMES:
            monkeypatch.delenv(name, raising=False)
    for of in [*(STARTED_BY[name] for name in started_by), variables]:
        for name, value in of.items():
            monkeypatch.setenv(name, value)
    if "hand" in started_by:  # nothing is left to ask a cluster for, which may answer late or wrong
        monkeypatch.setattr(cluster.ClusterEnv, "auto_detect_unset_distributed_params", None)
    place = cluster.find(1)
    assert (place.number, place.count, place.devices) == (1, 2, devices)


def test_what_processes_say_in_the_roll_call_is_one_line_of_json():
    said = rollcall._line(number=1, host="ä\n", facts={"python": "3"})
    assert said.count(b"\n") == 1 and json.loads(said)["host"] == "ä\n"
