"""A run in a bucket as a user calls the commands: trained, killed, resumed, evaluated, looked at, reported."""

import dataclasses
import json

import jax
import pytest

import sdclr_jax
from sdclr_jax import files, parallel
from sdclr_jax.buckets import copies
from sdclr_jax.commands import main
from sdclr_jax.data.batches import Resident
from sdclr_jax.evaluation import pruning_probe
from tests import bucket
from tests.commands.test_exemplars import QUICK
from tests.runs import arguments, assert_same_bits, config, lines, run

RUN, DATA = "gs://bucket/my runs/sdclr", "gs://bucket/data"

pytestmark = pytest.mark.usefixtures("one_trace")


@pytest.fixture(scope="module")
def cloud(tmp_path_factory):
    one = parallel.shardings(jax.devices()[:1])
    with bucket.served() as found, pytest.MonkeyPatch.context() as patch:
        patch.setattr(copies, "ROOT", tmp_path_factory.mktemp("copies"))
        patch.setattr(parallel, "shardings", lambda devices=None: one)
        patch.setattr(pruning_probe, "CALIBRATION", 2)
        yield found


@pytest.fixture(scope="module")
def resumed(cloud):
    """The last state and the metrics of a run, and of the same run killed after step 8 and resumed elsewhere."""
    seen, whole_batches = {}, Resident.from_step

    def watched(self, step):
        for number, batch in enumerate(whole_batches(self, step), step):
            if number == 8:
                with cloud.lock:  # a checkpoint may be half written at this moment
                    seen.update({name: dataclasses.replace(found) for name, found in cloud.objects.items()})
            yield batch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Resident, "from_step", watched)
        state, written = run(config(), files.expanded(RUN), DATA), lines(files.expanded(RUN))
    assert "my runs/sdclr/.lock" not in cloud.objects
    held = seen["my runs/sdclr/.lock"]
    held.content = json.dumps(json.loads(held.content) | {"began": "0"}).encode()  # its process is gone
    with cloud.lock:
        cloud.objects = seen
    return (state, written), (run(config(), files.expanded(RUN), DATA), lines(files.expanded(RUN)))


def test_a_killed_run_is_resumed_to_the_bit(resumed, cloud):
    (state, written), (again, continued) = resumed
    assert_same_bits(state, again)
    assert continued == written
    assert [line["step"] for line in continued] == [2, 4, 5, 6, 8, 10, 12, 14, 15]
    names = cloud.names("my runs/sdclr")
    assert {name.partition("/")[0] for name in names} == {
        "config.json", "data.json", "encoder.json", "saved.json", "versions.json", "metrics.jsonl", "tensorboard",
        "checkpoints",
    }  # fmt: skip
    assert {name.split("/")[1] for name in names if name.startswith("checkpoints")} == {"10", "15"}
    assert not cloud.names("data")  # the digits are made where they are needed


def test_another_config_is_refused_there(resumed, capsys):
    assert main.main(["pretrain", *arguments(RUN, DATA, "simclr")]) == 2
    assert f"sdclr: {RUN} holds a run of another config: " in capsys.readouterr().err


def test_it_is_loaded_evaluated_looked_at_and_reported(resumed, cloud, capsys):
    loaded = sdclr_jax.load(RUN)
    assert (str(loaded.path), loaded.step) == (RUN, 15)
    trained = {"/".join(map(str, path)): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(loaded.variables)}
    assert trained and all(leaf.size for leaf in trained.values())
    before = {name: found.generation for name, found in cloud.objects.items()}
    quick = ("--config.evaluate.protocols=('knn',)", "--config.evaluate.map_images=0")
    assert main.main(["evaluate", RUN, f"--data_dir={DATA}", *quick]) == 0
    assert main.main(["exemplars", RUN, f"--data_dir={DATA}", *QUICK, "--noprogress"]) == 0
    assert main.main(["report", "gs://bucket/my runs", "--output=gs://bucket/report.html"]) == 0
    said = capsys.readouterr().out
    assert f"{RUN}  knn " in said and f"Wrote {RUN}/exemplars: open gallery.html there" in said
    assert "Wrote gs://bucket/report.html, gs://bucket/report.md" in said
    results = json.loads(cloud.objects["my runs/sdclr/results.json"].content)
    assert results["run"] == {"method": "sdclr", "seed": 0, "step": 15, "epoch": 3.0}
    assert list(results["protocols"]) == ["knn"] and 0.2 < results["protocols"]["knn"]["all"] <= 1
    summary = json.loads(cloud.objects["my runs/sdclr/exemplars/summary.json"].content)
    assert [found["step"] for found in summary["checkpoints"]] == [10, 15]
    gallery = b"https://storage.cloud.google.com/bucket/my%20runs/sdclr/exemplars/gallery.html"
    assert gallery in cloud.objects["report.html"].content
    written = {name for name, found in cloud.objects.items() if before.get(name) != found.generation}
    places = {name.split("/")[2] for name in written if name.startswith("my runs")}
    assert places == {"results.json", "features", "exemplars"}


@pytest.mark.parametrize("command", ["pretrain", "evaluate", "exemplars", "report"])
@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("s3://bucket/run", "s3://bucket/run cannot be used: of addresses only gs://BUCKET/FOLDER is known"),
        ("gs://none/run", "gs://none"),
    ],
)
def test_a_bucket_that_cannot_be_used_is_a_sentence(cloud, command, address, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = set(cloud.objects)
    given = arguments(address, tmp_path / "data") if command == "pretrain" else [address]
    assert main.main([command, *given]) == 2
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error and len(error.strip().splitlines()) == 1
    assert set(cloud.objects) == before and not list(tmp_path.iterdir())
