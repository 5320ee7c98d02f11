"""Every reader on damaged and hostile input, the short form of experiments/fuzz.py: only the project's own errors come
out, each in one line of bounded length."""

import io
import random
import tarfile

import pytest

from experiments import fuzz
from experiments.fuzz_mutations import mutated
from experiments.fuzz_targets import TARGETS

SLOWER = ("archive", "overrides", "summary.json")


@pytest.mark.parametrize("name", TARGETS)
def test_only_errors_of_the_project_come_out(name):
    found = fuzz.tried(name, 40 if name in SLOWER else 100)
    assert not found.found
    assert found.counts["read"] >= 1


@pytest.mark.parametrize("name", TARGETS)
def test_inputs_are_taken_as_they_are_and_refused_once_mutated(name, tmp_path):
    """Else the fuzzer sees only the first line of a reader."""
    target = TARGETS[name]
    target.prepare(tmp_path)
    (seed, *_) = seeds = target.seeds()
    target.read(tmp_path, seed)
    rng = random.Random(0)
    changed = {mutated(target.kind, seed, seeds, rng) for _ in range(30)}
    assert len(changed) > 15
    if target.kind == "tar":
        assert any(tarfile.is_tarfile(io.BytesIO(data)) for data in changed)


@pytest.mark.parametrize(
    ("raised", "what"),
    [
        (KeyError("x"), "KeyError: "),
        (fuzz.OWN[0]("one\ntwo"), "message of several lines: "),
        (fuzz.OWN[0]("x: what to do"), "refused"),
    ],
)
def test_what_counts_as_found(raised, what, tmp_path):
    def read(folder, data):
        raise raised

    target = TARGETS["list.txt"]._replace(read=read)
    assert fuzz.outcome(target, tmp_path, b"").startswith(what)


def test_a_reader_without_end_is_found(tmp_path, monkeypatch):
    def read(folder, data):
        while True:
            pass

    monkeypatch.setattr(fuzz, "SLOW", 0.05)
    assert fuzz.outcome(TARGETS["list.txt"]._replace(read=read), tmp_path, b"").startswith("Slow: ")


def test_the_same_place_counts_as_one_thing(tmp_path):
    found = fuzz.Found("x", tmp_path)
    for what in ("read", "KeyError: a.py:1 f (one)", "KeyError: a.py:1 f (two)", "KeyError: a.py:2 f (one)"):
        found.add(what, b"input")
    assert found.row()["inputs"] == 4
    assert found.found == {"KeyError: a.py:1 f (one)": 2, "KeyError: a.py:2 f (one)": 1}
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"input"] * 2
