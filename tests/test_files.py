"""A file is replaced whole or not at all, whatever breaks and whoever else is writing."""

import contextlib
import errno
import io
import os
import pathlib
import stat
import subprocess
import sys
import time

import pytest

from sdclr_jax import files
from sdclr_jax.commands import main
from sdclr_jax.errors import Unreadable, UserError


def test_a_file_is_replaced_and_its_folder_made(tmp_path):
    path = tmp_path / "new" / "with spaces" / "a.json"
    for content in (b"one", b"two"):
        files.write(path, content)
        assert path.read_bytes() == content
    assert [p.name for p in path.parent.iterdir()] == ["a.json"]
    umask = os.umask(0)
    os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask


def test_two_processes_of_one_number_do_not_mix_their_content(tmp_path, monkeypatch):
    """As two containers with one shared disk, in each of which the program is process 1."""
    monkeypatch.setattr(os, "getpid", lambda: 1)
    path = tmp_path / "a"
    with files.replacing(path) as one:
        one.write_bytes(b"one")
        with files.replacing(path) as other:
            other.write_bytes(b"the other")
        assert path.read_bytes() == b"the other"
    assert path.read_bytes() == b"one"


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch, call):
    files.write(tmp_path / "a", b"before")

    def full(*given):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, full)
    with pytest.raises(UserError, match=r"a cannot be written \(No space left on device\): make room"):
        files.write(tmp_path / "a", b"after")
    assert (tmp_path / "a").read_bytes() == b"before"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_folder_in_the_way_is_told_before_anything_is_written(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(UserError, match=r"a cannot be written \(Is a directory\)"), files.replacing(tmp_path / "a"):
        pytest.fail("written")


def test_the_content_is_on_the_disk_before_the_name(tmp_path, monkeypatch):
    done, replace, fsync = [], os.replace, os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: done.append("content") or fsync(file))
    monkeypatch.setattr(os, "replace", lambda *given: done.append("name") or replace(*given))
    files.write(tmp_path / "a", b"x")
    assert done == ["content", "name"]


def _left(folder, name, age):
    made = folder / name
    made.mkdir()
    (made / "part").write_text("half")
    os.utime(made, (time.time() - age,) * 2)
    return made


def test_what_killed_processes_left_is_removed_and_what_lives_is_not(tmp_path):
    """Another process holds one of three old folders; a new one may be of a process that is about to hold it."""
    dead, new = _left(tmp_path, ".sdclr_jax-writing-dead", 7200), _left(tmp_path, ".sdclr_jax-writing-new", 60)
    other = _left(tmp_path, ".other", 7200)
    code = "import pathlib, sys; from sdclr_jax import files\n"
    code += "with files.scratch(pathlib.Path(sys.argv[1]), 'writing') as held: print(held, flush=True); input()"
    command = [sys.executable, "-c", code, tmp_path]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        living = pathlib.Path(process.stdout.readline().strip())
        assert not dead.exists() and new.exists()  # it has removed what it found
        os.utime(living, (time.time() - 7200,) * 2)
        files.write(tmp_path / "a", b"x")
        assert living.exists() and new.exists() and other.exists()
        process.kill()
    assert living.exists()
    files._tidied.clear()
    files.write(tmp_path / "a", b"y")
    assert {path.name for path in tmp_path.iterdir()} == {"a", ".sdclr_jax-writing-new", ".other"}


def test_what_is_no_file_is_not_read(tmp_path):
    (tmp_path / "a").write_bytes(b"1234")
    assert files.content(tmp_path / "a") == b"1234"
    with pytest.raises(FileNotFoundError):
        files.content(tmp_path / "a" / "b")
    with pytest.raises(Unreadable, match=r"a cannot be read \(larger than 3 bytes\)"):
        files.content(tmp_path / "a", most=3)
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", pathlib.Path("/dev/zero")):
        with pytest.raises(Unreadable, match=r"cannot be read \(not a file of data\)"):
            files.content(path)
    with pytest.raises(Unreadable, match=r"cannot be read \(Is a directory\)"):
        files.content(tmp_path)


def test_room_is_made_for_the_file_and_not_for_the_most_that_it_may_have(tmp_path, monkeypatch):
    """The file may also grow while it is read, or be of a file system that does not tell its size."""
    asked = []

    class Recorded(io.BytesIO):
        def __init__(self, number, mode):
            os.close(number)
            super().__init__(b"12345678")

        def fileno(self):
            return self

        def read(self, count):
            asked.append(count)
            return super().read(count)

    path = tmp_path / "a"
    path.touch()
    about = list(path.stat())
    monkeypatch.setattr(os, "fdopen", Recorded)
    for told, room in ((8, [9]), (3, [4, 4, 8]), (0, [1, 1, 2, 4, 8])):
        asked.clear()
        about[stat.ST_SIZE] = told
        monkeypatch.setattr(os, "fstat", lambda file: os.stat_result(about))
        assert files.read(path, 2**40) == files.read(path, 8) == b"12345678" and asked == room + room
        with pytest.raises(OSError, match="larger than 7 bytes"):
            files.read(path, 7)


def test_a_home_folder_that_is_not_known_is_told_of(monkeypatch):
    with pytest.raises(UserError, match="~nobody-of-that-name/x begins with a home folder that is not known"):
        files.expanded("~nobody-of-that-name/x")
    monkeypatch.setenv("HOME", "/home/me")
    assert str(files.expanded("~/a b")) == "/home/me/a b"


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["report"], "the following arguments are required: DIR: sdclr report --help says more"),  # needs no home
        (["prepare", "digits"], "~/.cache/sdclr_jax/data begins with a home folder that is not known"),
        (["evaluate", "~/run"], "~/run begins with"),
        (["exemplars", "~/run"], "~/run begins with"),
    ],
)
def test_commands_without_a_home_folder(argv, sentence, monkeypatch, capsys):
    """As in a container whose user is a number that /etc/passwd does not have."""
    for name in ("HOME", "SDCLR_DATA", "JAX_COMPILATION_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 2**31 - 2)
    with contextlib.suppress(SystemExit):
        assert main.main(argv) == 2
    assert sentence in capsys.readouterr().err


def test_what_is_not_of_this_program_is_never_removed(tmp_path, monkeypatch):
    """A clone or an archive of the project that lies where scratch folders are made."""
    monkeypatch.setattr(files.tempfile, "tempdir", str(tmp_path))
    names = ("sdclr_jax-main", "sdclr_jax-0.1.0", ".writing-notes")
    for name in names:
        _left(tmp_path, name, 7200)
    killed = _left(tmp_path, ".sdclr_jax-sending-abc", 7200)
    with files.on_this_machine() as made:
        assert made.parent == tmp_path and made.name.startswith(".sdclr_jax-sending-")
    files.write(tmp_path / "a", b"x")
    assert all((tmp_path / name / "part").exists() for name in names) and not killed.exists()
    older = [_left(tmp_path, name, 7200) for name in (".preparing-cifar10-x", ".downloading-x")]
    for purpose in ("preparing-cifar10", "downloading"):
        with files.scratch(tmp_path, purpose):
            pass
    assert not any(path.exists() for path in older)  # as they were called once
    other = _left(tmp_path, ".sdclr_jax-sending-of-another", 7200)
    monkeypatch.setattr(os, "getuid", lambda: other.stat().st_uid + 1)
    files._tidied.clear()
    with files.on_this_machine():
        assert other.exists()


def test_a_disk_that_knows_no_locks_is_told_of(tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(files.fcntl, "flock", flock)
    said = r"run is on a disk that knows no locks \(No locks available\): mount it"
    with pytest.raises(UserError, match=said), files.locked(tmp_path / "run" / ".lock"):
        pass
    files.write(tmp_path / "a", b"x")  # what needs none goes on
