"""Who holds a lock in a bucket, and when it is followed."""

import json
import os
import re
import socket
import time

import pytest

from sdclr_jax import files
from sdclr_jax.buckets import lock
from sdclr_jax.buckets.lock import Lock
from sdclr_jax.errors import UserError

KEY = "run/.lock"


def path():
    return files.expanded(f"gs://bucket/{KEY}")


def elsewhere(cloud):
    """The lock of a process on another machine."""
    cloud.put(KEY, json.dumps({"owner": "b", "host": "other", "process": 7, "machine": "x", "began": "1"}).encode())


def owner(cloud):
    return json.loads(cloud.objects[KEY].content)["owner"]


def test_it_is_held_and_let_go_of(cloud):
    with files.locked(path()) as check:
        check()
        told = json.loads(cloud.objects[KEY].content)
        assert (told["host"], told["process"]) == (socket.gethostname(), os.getpid())
        said = f"another process is training in gs://bucket/run (process {os.getpid()} on {socket.gethostname()})"
        with pytest.raises(UserError, match=re.escape(said)), files.locked(path()):
            pass
    assert KEY not in cloud.objects


@pytest.mark.parametrize("change", [{"process": 2**22 + 1}, {"began": "0"}, {"process": "nonsense"}])
def test_a_dead_holder_on_this_machine_is_followed_at_once(cloud, change):
    """There is no such process, or another one has its number."""
    cloud.put(KEY, json.dumps(Lock(path())._me | {"owner": "b"} | change).encode())
    with Lock(path()) as held:
        assert owner(cloud) == held._me["owner"]


@pytest.mark.parametrize("ahead", [-86_400.0, 0.0, 86_400.0])
@pytest.mark.parametrize("content", [None, b"", b"[1]", b"\xff"])
def test_a_silent_holder_elsewhere_is_followed_by_the_servers_clock(cloud, ahead, content):
    cloud.ahead = ahead
    elsewhere(cloud)
    if content is not None:
        cloud.objects[KEY].content = content
    cloud.objects[KEY].updated -= lock.DEAD + 2
    with Lock(path()) as held:
        assert owner(cloud) == held._me["owner"]


def test_a_holder_elsewhere_is_watched_until_it_has_been_silent_for_long(cloud, monkeypatch, capsys):
    looks = []

    def pause(seconds):
        looks.append(seconds)
        cloud.ahead += 20

    elsewhere(cloud)
    monkeypatch.setattr(lock.time, "sleep", pause)
    with Lock(path()):
        assert len(looks) == 5
    assert "is held by process 7 on other: looking for up to 90 s whether that lives" in capsys.readouterr().err


def test_a_holder_elsewhere_that_gives_a_sign_is_not_followed(cloud, monkeypatch):
    def pause(seconds):
        cloud.ahead += 20
        cloud.objects[KEY].metageneration += 1
        cloud.objects[KEY].updated = cloud.now()

    elsewhere(cloud)
    monkeypatch.setattr(lock.time, "sleep", pause)
    with pytest.raises(UserError, match=r"another process is training in gs://bucket/run \(process 7 on other\)"):
        Lock(path()).__enter__()
    assert owner(cloud) == "b"


def test_of_two_that_find_it_silent_one_has_it(cloud, monkeypatch):
    """The other one writes between a look and the attempt to follow."""
    elsewhere(cloud)
    cloud.objects[KEY].updated -= lock.DEAD + 2
    silence = lock._silence

    def late(found):
        if owner(cloud) == "b" and not cloud.objects[KEY].metageneration > 1:
            cloud.put(KEY, json.dumps({"owner": "c", "host": "third", "process": 8}).encode())
            cloud.objects[KEY].metageneration = 2
        return silence(found)

    def pause(seconds):
        cloud.objects[KEY].metageneration += 1

    monkeypatch.setattr(lock, "_silence", late)
    monkeypatch.setattr(lock.time, "sleep", pause)
    with pytest.raises(UserError, match="process 8 on third"):
        Lock(path()).__enter__()
    assert owner(cloud) == "c"


def test_signs_of_life_are_given_and_a_holder_that_was_followed_notices(cloud, monkeypatch):
    monkeypatch.setattr(lock, "BEAT", 0.02)
    with Lock(path()) as held:
        until = time.monotonic() + 20
        while cloud.objects[KEY].metageneration < 3 and time.monotonic() < until:
            time.sleep(0.01)
        assert cloud.objects[KEY].metageneration >= 3
        held.check()
        elsewhere(cloud)
        held._thread.join(20)
        with pytest.raises(UserError, match=r"run/.lock is no longer held by this process, which gave no sign of life"):
            held.check()
    assert owner(cloud) == "b"  # and stays


def test_a_machine_that_has_slept_looks_before_it_writes(cloud, monkeypatch):
    with Lock(path()) as held:
        elsewhere(cloud)
        held.check()  # its last sign is young
        held._beaten -= 3 * lock.BEAT
        with pytest.raises(UserError, match="no longer held"):
            held.check()


def test_what_cannot_ask_for_long_does_not_write(cloud, monkeypatch):
    """Another process may have followed it meanwhile."""
    with Lock(path()) as held:
        cloud.fault = lambda method, address, name: 403 if method == "PATCH" else None
        held._beaten -= 3600
        monkeypatch.setattr(lock, "PATIENCE", 0.0)
        with pytest.raises(UserError, match=r"run/.lock has not answered for 36\d\d s, so another process may train"):
            held.check()
        monkeypatch.setattr(lock, "PATIENCE", 60.0)
        with pytest.raises(UserError, match="has not answered for"):  # at once, as it has given up
            held.check()
    cloud.fault = lambda *request: None
    with Lock(path()) as held:
        cloud.fault = lambda method, address, name: 403 if method == "PATCH" else None
        held._beaten -= 3600
        back = lambda seconds: setattr(cloud, "fault", lambda *request: None)  # noqa: E731
        monkeypatch.setattr(lock.time, "sleep", back)
        held.check()
        assert lock._clock() - held._beaten < lock.BEAT


def test_a_network_that_fails_for_a_while_is_borne(cloud):
    with Lock(path()) as held:
        cloud.fault = lambda method, address, name: 403 if method == "PATCH" else None
        held._beat()
        held.check()
        cloud.fault = lambda method, address, name: None


def test_an_answer_that_was_lost_is_no_other_process(cloud):
    lost = Lock(path())
    cloud.put(KEY, json.dumps(lost._me).encode())
    with lost:
        lost.check()
    assert KEY not in cloud.objects


def test_a_bucket_that_may_not_be_written_has_no_lock(cloud):
    cloud.fault = lambda method, address, name: 403
    with pytest.raises(UserError, match=r"gs://bucket/run cannot be written: the credentials do not allow it"):
        files.locked(path()).__enter__()
