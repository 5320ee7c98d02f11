import os
import subprocess
import sys

import pytest

from sdclr_jax.commands.report import main
from sdclr_jax.errors import UserError

TABLES = ["report_classes.csv", "report_curves.csv", "report_means.csv"]
WRITTEN = ["report.csv", "report.html", "report.md", "report.tex", *TABLES]


def _files(folder):
    return sorted(path.name for path in folder.iterdir() if path.is_file())


def test_writes_page_and_tables_and_prints(six_runs, tmp_path, capsys):
    main([str(six_runs[0].parent), f"--output={tmp_path}/report.html", "--note=A demonstration."])
    assert _files(tmp_path) == WRITTEN
    assert "A demonstration." in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert (tmp_path / "report.md").read_text(encoding="utf-8").count("**+12.0 [+7.0, +17.0]**") == 2
    assert (tmp_path / "report.csv").read_bytes().startswith(b"\xef\xbb\xbfrun,group,method")
    assert (tmp_path / "report.tex").read_text(encoding="utf-8").count("\\end{tabular}") == 2
    assert (tmp_path / "report_means.csv").read_text(encoding="utf-8").count("\ndifference,") == 10
    out = capsys.readouterr().out
    assert "64.0 ± 4.0 *" in out
    assert "sdclr is ahead on All" in out
    assert f"Wrote {tmp_path}/report.html" in out


def test_default_output_is_here(make_run, tmp_path, monkeypatch):
    folder = make_run("a")
    monkeypatch.chdir(tmp_path)
    main([str(folder)])
    assert _files(tmp_path) == WRITTEN


def test_bad_run_leaves_an_earlier_report_as_it_was(six_runs, tmp_path):
    main([*map(str, six_runs), f"--output={tmp_path}/report.html"])
    before = (tmp_path / "report.html").read_text()
    results = six_runs[3] / "results.json"
    results.write_text(results.read_text()[:-20])
    with pytest.raises(UserError, match=r"results\.json cannot be used \(not complete JSON\)"):
        main([*map(str, six_runs), f"--output={tmp_path}/report.html"])
    assert _files(tmp_path) == WRITTEN
    assert (tmp_path / "report.html").read_text() == before


OTHERS = {
    "paper.html": "my thesis",
    "paper.tex": "\\begin{tabular}{llrlllll}\n\\toprule\nmethod & data & n & a & b & c & d & e \\\\\n",
    "paper.md": "| protocol | runs of | n | All |\n|---|---|---|---|\n",
    "paper.csv": "run,group,method,seed,value\n",
    "paper_means.csv": "kind,data,protocol,mean\n",
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_no_report_has_written_is_not_replaced(make_run, tmp_path, name):
    """Though it begins as the table of a report does."""
    folder = str(make_run("a"))
    out = tmp_path / "out"
    out.mkdir()
    (out / name).write_text(OTHERS[name])
    with pytest.raises(UserError, match=rf"output is for .*{name}, too, which is there, and it is not known"):
        main([folder, f"--output={out}/paper.html"])
    assert _files(out) == [name] and (out / name).read_text() == OTHERS[name]


def test_what_a_report_has_written_is_replaced(make_run, tmp_path):
    """Tables of other runs too, whose columns are as wide as their names, and one of an older version."""
    main([str(make_run("a_run_of_a_long_name")), f"--output={tmp_path}/report.html"])
    table = tmp_path / "report.csv"
    table.write_text(table.read_text(encoding="utf-8-sig").replace(",data_seed,", ","))
    main([str(make_run("b")), f"--output={tmp_path}/report.html"])
    assert ",data_seed," in table.read_text()
    for name in WRITTEN:
        assert "a_run_of_a_long_name" not in (tmp_path / name).read_text(encoding="utf-8")


def test_runs_that_cannot_be_reported_together_write_nothing(make_run, tmp_path):
    with pytest.raises(UserError, match="leave one of them out"):
        main([str(make_run("a")), str(make_run("b")), f"--output={tmp_path}/report.html"])
    assert _files(tmp_path) == []


def test_output_must_be_a_page_that_can_be_written(make_run, tmp_path):
    folder = str(make_run("a"))
    with pytest.raises(UserError, match=r"must end in \.html"):
        main([folder, f"--output={tmp_path}/report.csv"])
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file/report\.html cannot be written \(Not a directory\): make room"):
        main([folder, f"--output={tmp_path}/file/report.html"])
    (tmp_path / "report.md").mkdir()
    with pytest.raises(UserError, match=r"report\.md cannot be written \(Is a directory\)"):
        main([folder, f"--output={tmp_path}/report.html"])
    assert _files(tmp_path) == ["file"]


def test_no_folder_is_an_error():
    with pytest.raises(UserError, match="^the following arguments are required: DIR: sdclr report --help says more$"):
        main([])


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_terminal_of_another_alphabet_shows_what_it_can(six_runs, tmp_path, encoding):
    """As on a cluster where LANG is C, or something of the nineties."""
    command = [sys.executable, "-m", "sdclr_jax.commands.main", "report", *map(str, six_runs)]
    environment = os.environ | {"PYTHONIOENCODING": encoding, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([*command, f"--output={tmp_path / 'r.html'}"], capture_output=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode(encoding).splitlines()[-1].startswith("Wrote ")
    assert ("\u2212" if encoding == "utf-8" else "?").encode() in done.stdout


def test_a_reader_that_has_seen_enough_is_no_error(six_runs, tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "sdclr_jax.commands.main", "report", *map(str, six_runs)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [*command, f"--output={tmp_path / 'r.html'}"], stdout=writer, stderr=subprocess.PIPE, env=environment
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, b"")
    assert _files(tmp_path)
