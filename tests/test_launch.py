"""The launch recipes, with the commands of a cluster played by scripts: they go on after status 75 and nowhere else."""

import os
import pathlib
import re
import subprocess

import pytest
import yaml

from sdclr_jax.commands import flags

LAUNCH = pathlib.Path(__file__).parents[1] / "experiments" / "launch"


@pytest.fixture
def played(tmp_path):
    """Give commands as Bash texts by their names; run a recipe with them; get its status, what was called, and said."""
    (tmp_path / "bin").mkdir()

    def run(recipe, *options, commands, **environment):
        for name, text in commands.items():
            path = tmp_path / "bin" / name
            path.write_text(f'#!/usr/bin/env bash\ncd {tmp_path}\necho "{name} $*" >> calls\n{text}\n')
            path.chmod(0o755)
        found = os.environ | environment | {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
        ended = subprocess.run(["bash", LAUNCH / recipe, *options], env=found, capture_output=True, text=True)
        return ended.returncode, (tmp_path / "calls").read_text().splitlines(), ended.stderr

    return run


def test_srun_is_told_the_cores_that_sbatch_was_asked_for(played, tmp_path, monkeypatch):
    for name in ("SLURM_CPUS_PER_TASK", "SRUN_CPUS_PER_TASK"):
        monkeypatch.delenv(name, raising=False)
    for recipe in ("slurm.sh", "slurm_array.sh"):
        for cores in ("", "7"):
            commands = {"srun": 'echo "${SRUN_CPUS_PER_TASK-none}" >> cores', "scontrol": ""}
            given = {"SLURM_CPUS_PER_TASK": cores} if cores else {}
            assert played(recipe, "small", commands=commands, SLURM_ARRAY_TASK_ID="0", **given)[0] == 0
    assert (tmp_path / "cores").read_text().split() == ["none", "7"] * 2


@pytest.mark.parametrize(("status", "queued_again"), [(0, False), (1, False), (2, False), (75, True)])
def test_a_slurm_job_that_stopped_and_saved_is_queued_again(played, status, queued_again):
    commands = {"srun": f"exit {status}", "scontrol": ""}
    ended, calls, _ = played("slurm.sh", "--config=digits_lt:sdclr", commands=commands, SLURM_JOB_ID="7")
    assert ended == status
    assert calls[0].endswith("sdclr pretrain --config=digits_lt:sdclr --distributed --noprogress")
    assert calls[1:] == (["scontrol requeue 7"] if queued_again else [])


GCLOUD = """
case "$*" in
  *queued-resources\\ describe*)
    if [[ -e unreachable ]]; then rm unreachable; echo "cannot connect" >&2; exit 1; fi
    cat state 2> /dev/null || { echo "ERROR: NOT_FOUND: no such resource" >&2; exit 1; }
    if grep -q WAITING state; then echo ACTIVE > state; fi ;;
  *queued-resources\\ create*) echo ACTIVE > state ;;
  *queued-resources\\ delete*) rm state ;;
  *pip\\ install*) [[ ! -e no_network ]] ;;
  *pkill*) touch stopped ;;
  *tpu-vm\\ ssh*)
    read -r status others < statuses; echo "$others" > statuses
    if [[ $status == taken ]]; then echo SUSPENDED > state; exit 1; fi
    if [[ $status == broken ]]; then touch unreachable; echo "Connection reset"; exit 255; fi
    echo "sdclr: status 0"; echo "sdclr: status $status" ;;
esac
"""

SLICE = {"TPU": "t", "ZONE": "z", "TYPE": "v4-16", "SOURCE": "git+https://example.org/x"}
DELETE = "until it is deleted: gcloud compute tpus queued-resources delete t --zone=z --force"


@pytest.mark.parametrize(
    ("statuses", "expected", "starts", "slices"),
    [("0", 0, 1, 1), ("2", 2, 1, 1), ("75 taken 75 0", 0, 4, 2), ("75 1", 1, 2, 1), ("broken 0", 0, 2, 1)],
)
@pytest.mark.parametrize("before", ["", "ACTIVE", "SUSPENDED", "FAILED", "WAITING_FOR_RESOURCES"])
def test_a_run_on_a_tpu_slice_resumes_until_it_has_ended(played, tmp_path, before, statuses, expected, starts, slices):
    """Also where an earlier start of the script has left a slice, or the wish for one."""
    (tmp_path / "statuses").write_text(statuses + "\n")
    if before:
        (tmp_path / "state").write_text(before + "\n")
    workdir = "--workdir=gs://bucket/a run"
    status, calls, said = played("tpu_pod.sh", workdir, commands={"gcloud": GCLOUD, "sleep": ""}, **SLICE)
    assert status == expected
    assert said.splitlines()[-1].endswith(DELETE)
    trained = [call for call in calls if "sdclr pretrain" in call]
    assert len(trained) == starts
    assert all(r"--workdir=gs://bucket/a\ run" in call and "--worker=all" in call for call in trained)
    there = before in ("ACTIVE", "WAITING_FOR_RESOURCES")
    assert sum("queued-resources create" in call for call in calls) == slices - there
    assert sum("queued-resources delete" in call for call in calls) == slices - 1 + (before in ("SUSPENDED", "FAILED"))
    assert (tmp_path / "stopped").exists() == ("broken" in statuses)


def test_a_tpu_slice_gets_a_python_that_is_tested_and_says_what_deletes_it(played, tmp_path):
    (tmp_path / "no_network").touch()
    status, calls, said = played("tpu_pod.sh", commands={"gcloud": GCLOUD, "sleep": ""}, **SLICE)
    assert status == 1
    assert said.splitlines()[-1].endswith(DELETE)
    assert not any("sdclr pretrain" in call for call in calls)
    python = re.search(r"uv venv .*--python (\S+) ~/sdclr", "\n".join(calls))[1]
    assert f"Python :: {python}\n" in (LAUNCH.parents[1] / "setup.cfg").read_text()


def test_the_flags_of_the_yaml_recipes_are_flags():
    _, job = yaml.safe_load_all((LAUNCH / "kubernetes.yaml").read_text())
    (container,) = job["spec"]["template"]["spec"]["containers"]
    pods = [variable["value"] for variable in container["env"] if variable["name"] == "JAX_NUM_PROCESSES"]
    assert pods == [str(job["spec"]["completions"])] == [str(job["spec"]["parallelism"])]
    task = yaml.safe_load((LAUNCH / "skypilot.yaml").read_text())
    assert task["resources"]["job_recovery"] == {"recover_on_exit_codes": [75]}
    (command,) = [line for line in task["run"].splitlines() if line.startswith("sdclr pretrain ")]
    for arguments in (container["command"][2:] + container["args"], command.split()[2:]):
        assert flags.pretrain(arguments, "").distributed


def test_commands_of_the_recipes_work_in_a_clone_and_install_no_package_of_a_stranger():
    """Nobody has put the package into an index."""
    page = (LAUNCH / "README.md").read_text()
    for recipe in (path for path in LAUNCH.iterdir() if path.suffix != ".md"):
        commands = [code for code in re.findall("`([^`]+)`", page) if recipe.name in code.removeprefix(recipe.name)]
        assert commands and all(f"experiments/launch/{recipe.name}" in command for command in commands)
        assert not re.search(r"install [^@\n]*sdclr_jax(?!\S* @)", recipe.read_text())
