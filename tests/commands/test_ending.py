"""A command ends with its status, soon after its last word, wherever its output goes."""

import io
import json
import os
import pathlib
import subprocess
import sys
import textwrap
import threading
import time
import types

import jax
import pytest

from sdclr_jax import files
from sdclr_jax.commands import ending, main
from sdclr_jax.errors import UserError
from sdclr_jax.output import Output

START = """
import sys, threading, time
from sdclr_jax.commands import ending
ending.PATIENCE = 0.5

def main():
    threading.Thread(target=time.sleep, args=(60,)).start()  # as one of a library that waits for a disk
"""


def ended(body, *before_it, **options):
    """Status, output and errors of a program, after words before it, that a thread would keep alive for a minute."""
    code = START + textwrap.indent(body, "    ") + "\nsys.exit(ending.run(main))\n"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONUNBUFFERED": ""}
    before = time.monotonic()
    done = subprocess.run([*before_it, sys.executable, "-c", code], env=environment, timeout=50, **options)
    assert time.monotonic() - before < 30
    return done


@pytest.mark.parametrize(
    ("end", "status", "said"),
    [
        ("return 0", 0, b""),
        ("return 75", 75, b""),
        ("sys.exit(2)", 2, b""),
        ("raise RuntimeError('a fault of this program')", 1, b"RuntimeError: a fault of this program"),
    ],
)
def test_a_process_ends_whatever_threads_libraries_hold(end, status, said):
    done = ended(f"print('the last word')\n{end}", capture_output=True)
    assert (done.returncode, done.stdout) == (status, b"the last word\n")
    assert said in done.stderr and (said or not done.stderr)


def test_closed_streams_stop_no_work_and_take_no_files_place(tmp_path):
    """`>&- 2>&- <&-`: what is opened first would get the number of the standard output, and what is printed."""
    body = f"""
with open({str(tmp_path / "file")!r}, "w") as file:
    print("printed", flush=True)
    print("an error", file=sys.stderr, flush=True)
    file.write("content")
return 0
"""
    assert ended(body, "sh", "-c", 'exec "$0" "$@" <&- >&- 2>&-').returncode == 0
    assert (tmp_path / "file").read_text() == "content"


def test_a_full_disk_behind_the_output_stops_no_work(tmp_path):
    body = f"""
for word in ("one", "two"):
    print(word, flush=True)
open({str(tmp_path / "file")!r}, "w").close()
return 0
"""
    with open("/dev/full", "w") as full:
        done = ended(body, stdout=full, stderr=subprocess.PIPE)
        assert done.stderr == b"sdclr: what was printed could not be written (No space left on device)\n"
        assert done.returncode == 1
        assert (tmp_path / "file").exists()
        assert ended("print('an error', file=sys.stderr)\nreturn 2", stderr=full).returncode == 2


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ("print('an error', file=sys.stderr, flush=True)\nreturn 75", 75),
        ("print('printed')\nreturn 75", 75),  # and not flushed
    ],
)
def test_readers_that_have_gone_change_no_status(body, status):
    """As at Ctrl-C under `2>&1 | tee log`, which ends `tee` too."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        assert ended(body, stdout=writer, stderr=writer).returncode == status
    finally:
        os.close(writer)


def test_a_stream_that_is_missing_closed_or_of_ones_own_stops_no_work():
    closed = io.StringIO()
    closed.close()
    own = types.SimpleNamespace(write=lambda text: said.append(text), flush=lambda: None)
    said = []
    for stream in (None, closed, own):
        output = Output(stream)
        assert output.write("text") == 4 and not output.isatty() and output.error is None
        output.flush()
    assert said == ["text"]


def test_the_console_script_is_run_that_way(monkeypatch):
    monkeypatch.setattr(ending, "run", lambda function: (function, "ended"))
    assert main.console() == (main.main, "ended")


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (PermissionError(13, "Permission denied", "/a/b"), "sdclr: /a/b cannot be used (Permission denied): mend that"),
        (MemoryError(), "sdclr: there is not enough memory (the system gives no more): free some"),
        (
            jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.\nMore."),
            "sdclr: there is not enough memory (RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.): free",
        ),
        (MemoryError("Unable to allocate 9 TiB"), "sdclr: there is not enough memory (Unable to allocate 9 TiB): free"),
    ],
)
def test_what_the_system_refuses_is_one_sentence(error, says, monkeypatch, capsys):
    def refused(argv):
        raise error

    monkeypatch.setattr("sdclr_jax.commands.report.main", refused)
    assert main.main(["report", "x"]) == 1
    said = capsys.readouterr().err
    assert said.startswith(says) and said.count("\n") == 1


PARTS = ("x" * 256, "ü" * 128, "/".join(["x" * 200] * 20), "a\0b")


@pytest.mark.parametrize("path", PARTS)
@pytest.mark.parametrize(
    "argv",
    [
        ["pretrain", "--config=digits_lt:sdclr", "--workdir={}"],
        ["evaluate", "{}"],
        ["exemplars", "{}"],
        ["exemplars", "a", "--overlap={}"],
        ["report", "{}"],
        ["report", "a", "--output={}.html"],
    ],
)
def test_paths_that_no_file_system_has_are_refused_in_a_sentence(argv, path, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    try:
        status = main.main([arg.format(path) for arg in argv])
    except SystemExit as end:
        status = end.code
    assert status == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said and len(said) < 3000
    assert any(word in said for word in ("it may have 255 at most", "it may have 3900 at most", "number 0", "invalid"))
    assert list(tmp_path.iterdir()) == []


def test_a_sentence_that_quotes_a_page_is_cut(monkeypatch, capsys):
    def refused(argv):
        raise UserError(f"it is {'x' * 6000}: the remedy")

    monkeypatch.setattr("sdclr_jax.commands.report.main", refused)
    assert main.main(["report", "x"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("sdclr: it is xxx") and said.endswith("xxx: the remedy\n") and len(said) < 2100


CONFIG = pathlib.Path(__file__).parents[1] / "golden" / "run_f1e7a00" / "config.json"
WRONG = {
    "data.name": [5, None, ["folder"], {"a": 1}],
    "objective.name": [[], 5, {}],
    "views": [1.5, [], "simclr"],
    "evaluate": [3],
    "evaluate.logistic_l2": [{"a": 1}, "x", 5],
    "optimizer.learning_rate": ["0.5", True, {"__class__": 1}],
    "a.b": [1],
    "epochs": [["x"] * 9, {"": 1}],
    "__class__": [1],
}


@pytest.mark.parametrize(("field", "value"), [(field, value) for field, values in WRONG.items() for value in values])
def test_any_config_json_is_refused_in_a_sentence(field, value, tmp_path, capsys):
    written = json.loads(CONFIG.read_text())
    *groups, name = field.split(".") if field != "a.b" else [field]
    inner = written
    for group in groups:
        inner = inner[group]
    inner[name] = value
    (tmp_path / "config.json").write_text(json.dumps(written))
    for argv in (["evaluate", str(tmp_path)], ["pretrain", "--config=digits_lt:sdclr", f"--workdir={tmp_path}"]):
        assert main.main(argv) == 2
        said = capsys.readouterr().err
        assert said.startswith("sdclr: ") and said.count("\n") == 1 and len(said) < 2100
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_threads_of_libraries_are_silent_and_our_own_are_not(monkeypatch, capsys):
    """A library raises the same error in the main thread, where it becomes a sentence."""
    monkeypatch.setattr(threading, "excepthook", ending.of_thread)

    def fail(work, *given):
        thread = threading.Thread(target=work, args=given)
        thread.start()
        thread.join()
        return capsys.readouterr().err

    assert fail(json.loads, "{") == ""
    assert "UserError: a path has a character" in fail(files.expanded, "\0")
    ending.unraised(types.SimpleNamespace(exc_value=RuntimeError("Event loop is closed")))
    assert capsys.readouterr().err == ""
