import contextlib
import itertools
import logging
import os
import pathlib
import signal
import threading
import time
from functools import partial
from multiprocessing.connection import Connection
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from sdclr_jax import parallel, stops
from sdclr_jax.api import loop
from sdclr_jax.data import batches, threads, workers
from sdclr_jax.data.batches import Resident, Sent, Streamed, in_order, on_demand, processes
from sdclr_jax.data.crops import CentreCrop, RandomCrops, cut
from sdclr_jax.data.images import Files
from sdclr_jax.data.order import rows
from sdclr_jax.errors import ArgumentError, UserError
from tests.photos import jpeg, photo

IMAGES = np.arange(50, dtype=np.uint8).reshape(50, 1, 1, 1)


def test_an_epoch_is_a_permutation_cut_into_whole_batches():
    for epoch in range(3):
        seen = np.concatenate([rows(50, 8, seed=0, step=epoch * 6 + i) for i in range(6)])
        assert len(set(seen)) == 48
    assert (rows(50, 8, 0, 0) != rows(50, 8, 0, 6)).any()
    assert (rows(50, 8, 0, 0) != rows(50, 8, 1, 0)).any()


def test_what_one_epoch_leaves_over_comes_up_in_others():
    seen = {int(i) for step in range(6 * 4) for i in rows(50, 8, seed=0, step=step)}
    assert seen == set(range(50))


@pytest.mark.parametrize("kind", [Resident, partial(Sent, prefetch=2)])
@pytest.mark.parametrize("devices", [1, 8])
def test_an_array_gives_those_rows_from_any_step(kind, devices):
    shardings = parallel.shardings(jax.devices()[:devices])
    source = kind(IMAGES, 8, seed=3, shardings=shardings)
    assert source.steps_per_epoch == 6
    with contextlib.closing(source.from_step(0)) as stream:
        batches = list(itertools.islice(stream, 14))
    for step, batch in enumerate(batches):
        assert batch.sharding.is_equivalent_to(shardings.batch, 4)
        assert batch.dtype == np.uint8
        np.testing.assert_array_equal(np.asarray(batch).ravel(), rows(50, 8, 3, step))
    with contextlib.closing(source.from_step(13)) as stream:
        np.testing.assert_array_equal(next(stream), batches[13])


@pytest.mark.parametrize("kind", [Resident, partial(Sent, prefetch=2)])
@pytest.mark.parametrize(("devices", "batch_size", "part"), [(1, 8, 2), (8, 8, 2), (2, 8, 2), (8, 16, 2), (8, 50, 0)])
def test_the_last_batch_of_an_epoch_can_be_kept(kind, devices, batch_size, part):
    """Then an epoch is a whole permutation, the same one; a part batch that the devices cannot share comes whole."""
    if batch_size % devices:
        devices = 2
    shardings = parallel.shardings(jax.devices()[:devices])
    source = kind(IMAGES, batch_size, seed=3, shardings=shardings, last_batch="kept")
    assert source.steps_per_epoch == -(-50 // batch_size)
    with contextlib.closing(source.from_step(0)) as stream:
        epoch = list(itertools.islice(stream, source.steps_per_epoch))
        np.testing.assert_array_equal(np.asarray(next(stream)).ravel(), rows(50, batch_size, 3, len(epoch), "kept"))
    whole = np.concatenate([np.asarray(batch).ravel() for batch in epoch])
    np.testing.assert_array_equal(whole, np.random.default_rng((3, 0)).permutation(50))
    first = np.concatenate([rows(50, batch_size, 3, step) for step in range(50 // batch_size)])
    np.testing.assert_array_equal(whole[: len(first)], first)
    assert len(epoch[-1]) == (part or batch_size)
    assert [source.is_part(step) for step in range(len(epoch))] == [False] * (len(epoch) - 1) + [part > 0]
    split = shardings.batch if len(epoch[-1]) % devices == 0 else shardings.replicated
    assert epoch[-1].sharding.is_equivalent_to(split, 4)
    assert [source.images_before(step) for step in (0, 1, len(epoch), len(epoch) + 1)] == [
        0, min(batch_size, 50), 50, 50 + min(batch_size, 50),
    ]  # fmt: skip


def test_a_last_batch_of_one_image_is_refused():
    with pytest.raises(ArgumentError, match="^last_batch is 'kept', and of 50 images in batches of 7 one alone"):
        Resident(IMAGES, 7, 0, parallel.shardings(jax.devices()[:1]), last_batch="kept")
    with pytest.raises(ArgumentError, match="^last_batch is 'gone': known are dropped, kept"):
        Resident(IMAGES, 8, 0, parallel.shardings(), last_batch="gone")


@pytest.mark.parametrize("kind", [Resident, partial(Sent, prefetch=2)])
def test_bad_batch_sizes(kind):
    shardings = parallel.shardings()
    with pytest.raises(ArgumentError, match="batch_size is 64, but there are 50 images"):
        kind(IMAGES, 64, 0, shardings)
    with pytest.raises(ArgumentError, match="8 devices cannot share"):
        kind(IMAGES, 12, 0, shardings)


# Encoded images.

CROPS = RandomCrops(count=2, size=12, scale=(0.2, 1.0), ratio=(3 / 4, 4 / 3), seed=5)


@pytest.fixture
def files(tmp_path):
    for i in range(20):
        (tmp_path / f"{i:02}.jpg").write_bytes(jpeg(photo(30 + i, 30, seed=i)))
    return Files(tmp_path, np.array([f"{i:02}.jpg" for i in range(20)]))


def streamed(files, workers=0, devices=8, prefetch=2, batch_size=8):
    shardings = parallel.shardings(jax.devices()[:devices])
    return Streamed(files, batch_size, 3, shardings, crops=[CROPS], workers=workers, prefetch=prefetch)


def first(source, count, step=0) -> list[jax.Array]:
    with contextlib.closing(source.from_step(step)) as stream:
        return [batch.crops[0] for batch in itertools.islice(stream, count)]


@pytest.mark.parametrize(("workers", "devices", "prefetch"), [(0, 8, 1), (1, 1, 2), (2, 8, 3)])
def test_streamed_gives_crops_of_those_rows_from_any_step(files, workers, devices, prefetch):
    source = streamed(files, workers, devices, prefetch)
    assert source.steps_per_epoch == 2
    batches = first(source, 5)
    for step, batch in enumerate(batches):
        assert batch.sharding.is_equivalent_to(parallel.shardings(jax.devices()[:devices]).batch, 5)
        picked = rows(20, 8, 3, step)
        expected = [cut(files.read(r), [CROPS], step, i)[0] for i, r in enumerate(picked)]
        np.testing.assert_array_equal(batch, expected)
    np.testing.assert_array_equal(first(source, 1, step=3)[0], batches[3])
    assert source.counts() == {"unreadable_images": 0}
    assert not [t for t in threading.enumerate() if t.name.startswith("batches")]


@pytest.mark.parametrize("workers", [0, 1])
def test_streamed_crops_of_a_last_batch_that_is_kept(files, workers):
    shardings = parallel.shardings(jax.devices()[:4])
    settings = {"crops": [CROPS], "workers": workers, "prefetch": 2, "last_batch": "kept"}
    batches = first(Streamed(files, 12, 3, shardings, **settings), 3)
    assert [batch.shape[0] for batch in batches] == [12, 8, 12]
    batches = first(Streamed(files, 8, 3, parallel.shardings(), **settings), 4)
    assert [batch.shape[0] for batch in batches] == [8, 8, 4, 8]
    assert batches[2].sharding.is_fully_replicated
    expected = [cut(files.read(r), [CROPS], 2, i)[0] for i, r in enumerate(rows(20, 8, 3, 2, "kept"))]
    np.testing.assert_array_equal(batches[2], expected)


def test_batches_handed_out_stay_what_they_are(files):
    """The memory that workers write to is used again; what lies on the devices must be no view of it."""
    batches = first(streamed(files, workers=1, devices=1), 8)
    again = [np.asarray(b) for b in first(streamed(files, workers=0, devices=1), 8)]
    for batch, expected in zip(batches, again, strict=True):
        np.testing.assert_array_equal(batch, expected)


@pytest.mark.parametrize("held", [(0, 1, 2, 3), (4, 5, 6, 7), (1, 2, 6)])
def test_each_host_makes_its_own_share_of_one_batch(files, monkeypatch, held):
    """As if only the devices `held` belonged to this process."""
    whole = [np.asarray(batch) for batch in first(streamed(files), 3)]
    made = []
    monkeypatch.setattr(parallel, "places", lambda size, sharding: np.array(held))
    monkeypatch.setattr(parallel, "split", lambda share, places, *_: made.append((places, share.copy())))
    first(streamed(files), 3)
    for (places, share), batch in zip(made, whole, strict=False):
        np.testing.assert_array_equal(places, held)
        np.testing.assert_array_equal(share, batch[list(held)])


def test_places_are_those_of_this_processes_devices():
    class Sharding:
        mesh = SimpleNamespace(size=4)

        def addressable_devices_indices_map(self, shape):
            assert shape == (8,)
            return {"a": (slice(4, 6),), "b": (slice(0, 2),)}

    np.testing.assert_array_equal(parallel.places(8, Sharding()), [0, 1, 4, 5])
    np.testing.assert_array_equal(parallel.places(5, Sharding()), [0, 1, 4])  # the rest of its share means nothing
    np.testing.assert_array_equal(parallel.places(16, parallel.shardings().batch), np.arange(16))


@pytest.mark.parametrize("count", [1, 5, 8, 11, 16])
def test_a_batch_that_devices_cannot_share_is_made_in_shares_and_whole_on_each(count):
    sharding = parallel.shardings().batch
    places = parallel.places(count, sharding)
    rows = np.arange(3 * count, dtype=np.uint8).reshape(count, 3)
    shared = parallel.split(rows[places], places, count, sharding)
    assert shared.sharding.is_equivalent_to(sharding, 2) and len(shared) == -(-count // 8) * 8
    batch = parallel.cut({"x": shared}, count)["x"]
    assert batch.sharding.is_fully_replicated == (count % 8 != 0)
    for shard in batch.addressable_shards:
        np.testing.assert_array_equal(shard.data, rows[shard.index])


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_lost_in_mid_run_is_replaced_counted_and_told_once(files, workers, caplog):
    whole = [np.asarray(batch) for batch in first(streamed(files, workers), 6)]
    lost = int(rows(20, 8, 3, 0)[5])
    pathlib.Path(files.name(lost)).unlink()
    source = streamed(files, workers)
    uses = [step for step in range(6) if lost in rows(20, 8, 3, step)]
    assert len(uses) > 1
    with caplog.at_level(logging.WARNING), contextlib.closing(source.from_step(0)) as stream:
        counts = []
        for step, batch in zip(range(6), stream, strict=False):
            counts.append(source.counts()["unreadable_images"])
            same = (np.asarray(batch.crops[0]) == whole[step]).all(axis=(1, 2, 3, 4))
            np.testing.assert_array_equal(same, rows(20, 8, 3, step) != lost)
    assert counts == [int(step in uses) for step in range(6)], "counted with the batch that has it, not ahead of it"
    assert [r.getMessage() for r in caplog.records] == [
        f"{files.name(lost)} cannot be read (No such file or directory): another image is taken instead"
    ]
    again = first(streamed(files, 0), 6)
    assert all((a == b).all() for a, b in zip(first(streamed(files, workers), 6), again, strict=True))


def test_a_run_that_is_resumed_at_a_part_batch_gets_the_whole_one_before_it_and_counts_nothing_twice(files):
    pathlib.Path(files.name(int(rows(20, 8, 3, 1, "kept")[5]))).unlink()
    settings = {"crops": [CROPS], "workers": 0, "prefetch": 1, "last_batch": "kept"}
    source = Streamed(files, 8, 3, parallel.shardings(), **settings)
    batches = first(source, 4)
    assert source.counts() == {"unreadable_images": 1}
    for start, given in {0: None, 1: None, 2: batches[1], 3: None}.items():
        with loop._opened(source, start) as (stream, whole):
            assert source.counts() == {"unreadable_images": 0}
            np.testing.assert_array_equal(next(stream).crops[0], batches[start])
            assert (whole is None) == (given is None)
            if whole is not None:
                np.testing.assert_array_equal(whole.crops[0], given)


@pytest.mark.parametrize("action", ["send", "recv"])
def test_pipes_are_closed_when_no_thread_is_at_them(files, monkeypatch, action):
    """A closed pipe's number is soon another file's, a checkpoint's say, and that would be written into or read."""
    at_pipes, found = [], []
    act, close = getattr(Connection, action), Connection.close

    def slow(self, *message):
        at_pipes.append(self)
        time.sleep(0.2)
        try:
            return act(self, *message)
        finally:
            at_pipes.remove(self)

    def watched(self):
        found.append(list(at_pipes))
        close(self)

    with contextlib.closing(streamed(files, workers=2).from_step(0)) as stream:
        next(stream)
        monkeypatch.setattr(Connection, action, slow)
        monkeypatch.setattr(Connection, "close", watched)
        next(stream)
        while not at_pipes:
            time.sleep(0.001)
    assert found == [[], []]


def test_a_worker_that_a_disk_lets_wait_is_told_of_and_does_not_hinder_a_stop(files, monkeypatch, caplog):
    """The worker stands still, as at a network disk that is gone. The third look finds a second Ctrl-C."""
    started, looks = [], []
    popen = workers.subprocess.Popen
    monkeypatch.setattr(workers.subprocess, "Popen", lambda *a, **k: started.append(popen(*a, **k)) or started[-1])
    with contextlib.closing(streamed(files, workers=1).from_step(0)) as stream:
        next(stream)
        os.kill(started[0].pid, signal.SIGSTOP)
        monkeypatch.setattr(batches, "_LOOK", 0.05)
        monkeypatch.setattr(batches, "_LONG", -1)
        monkeypatch.setattr(stops, "look", lambda: looks.append(1) or looks == [1, 1, 1] and signal.raise_signal(2))
        with pytest.raises(KeyboardInterrupt):
            for _ in range(10):
                next(stream)
    assert started[0].poll() == -signal.SIGKILL
    assert not [t for t in threading.enumerate() if t.name.startswith("batches")]
    assert [r.getMessage() for r in caplog.records] == [
        "no batch of images has come for -1 seconds: see whether their disk answers"
    ]


def test_a_thread_that_a_disk_lets_wait_is_left_to_wait(monkeypatch):
    hangs = threading.Event()
    monkeypatch.setattr(threads, "LEFT", 0)
    with contextlib.closing(batches._ahead(iter(lambda: hangs.wait(60), None), 2)) as made:
        hangs.set()
        assert next(made)
        hangs.clear()
    assert not hangs.is_set()
    hangs.set()


def test_a_killed_worker_ends_the_run_with_a_sentence(files, monkeypatch):
    started = []
    popen = workers.subprocess.Popen
    monkeypatch.setattr(workers.subprocess, "Popen", lambda *a, **k: started.append(popen(*a, **k)) or started[-1])
    with contextlib.closing(streamed(files, workers=2).from_step(0)) as stream:
        next(stream)
        os.kill(started[1].pid, signal.SIGKILL)
        with pytest.raises(UserError, match="was killed by SIGKILL"):
            for _ in range(10):
                next(stream)
    assert all(process.poll() is not None for process in started)
    assert not [t for t in threading.enumerate() if t.name.startswith("batches")]


@pytest.mark.parametrize("workers", [0, 2])
def test_what_is_evaluated_comes_in_order_and_whole(files, workers):
    crop = CentreCrop(size=10, resize=12)
    batches = list(in_order(files, crop, 8, workers))
    assert [len(batch) for batch in batches] == [8, 8, 4]
    expected = np.concatenate([cut(files.read(row), [crop], 0, 0)[0] for row in range(20)])
    np.testing.assert_array_equal(np.concatenate(batches), expected)
    with on_demand(files, CROPS._replace(count=1), 8, workers) as crops_of:
        a, b, again = (crops_of(step, np.array([7, 3, 7])) for step in (0, 1, 0))
    np.testing.assert_array_equal(a, again)
    assert (a != b).any(axis=(1, 2, 3)).all()
    assert (a[0] != a[2]).any(), "two places of a batch have boxes of their own"


def test_nothing_is_evaluated_in_place_of_what_is_lost(files):
    pathlib.Path(files.name(13)).write_bytes(b"GIF8")
    with pytest.raises(UserError, match=r"13\.jpg cannot be read .*: put it back"):
        list(in_order(files, CentreCrop(10, 12), 8, 0))
    with (
        on_demand(files, CROPS._replace(count=1), 8, 0) as crops_of,
        pytest.raises(UserError, match=r"13\.jpg cannot be read"),
    ):
        crops_of(0, np.array([12, 13]))


def test_bad_batch_sizes_of_streams(files):
    with pytest.raises(ArgumentError, match="batch_size is 24, but there are 20 images"):
        streamed(files, batch_size=24)
    with pytest.raises(ArgumentError, match="8 devices cannot share"):
        streamed(files, batch_size=12)


def test_workers_by_default_are_one_a_core():
    assert processes(-1) == len(os.sched_getaffinity(0))
    assert [processes(n) for n in (0, 1, 5)] == [0, 1, 5]
