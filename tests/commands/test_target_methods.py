"""A method with a target branch, as a user calls it: pretrain, evaluate, exemplars.

The other tests of the commands take SDCLR, whose state has no target, and whose network has no predictor.
"""

import csv
import json

import jax
import numpy as np
import pytest

from sdclr_jax import branches, parallel, recipes, records
from sdclr_jax.commands import main
from sdclr_jax.evaluation import pruning_probe
from sdclr_jax.run import folder
from sdclr_jax.run.checkpoints import Checkpoints
from tests.runs import arguments

OPTIONS = (
    "--noprogress",
    "--config.epochs=2",
    "--config.keep_every=1",
    "--config.collapse_every=4",
    "--config.predictor.hidden=4",
    "--config.evaluate.protocols=('knn',)",
)


def state(directory, data_dir):
    c = folder.read_config(directory)
    shape = recipes.image_shape(c, recipes.data(c, str(data_dir)).train.images)
    with Checkpoints(directory / "checkpoints", read_only=True) as checkpoints:
        return checkpoints.restore(like=recipes.abstract_state(c, shape, parallel.shardings()))


@pytest.mark.usefixtures("one_trace")
def test_damaged_byol_from_the_command_line(tmp_path, monkeypatch, capsys):
    one = parallel.shardings(jax.devices()[:1])  # eight pretended ones on two cores are slow
    monkeypatch.setattr(parallel, "shardings", lambda devices=None: one)
    monkeypatch.setattr(pruning_probe, "CALIBRATION", 2)
    data_dir, run = tmp_path / "data", tmp_path / "run"
    assert main.main(["pretrain", *arguments(run, data_dir, "sd_byol", *OPTIONS)]) == 0
    found = state(run, data_dir)
    assert set(found.stats) == {"dense", "sparse", "target"}
    dense = branches.dense(found.params)["encoder"]
    moved = jax.tree.map(lambda a, b: float(abs(a - b).max()), found.target["encoder"], dense)
    assert 0 < max(jax.tree.leaves(moved)) < 1  # the target follows, and is not the dense branch

    written = records.read_metrics(run / "metrics.jsonl")
    assert written[-1]["step"] == 10
    assert all(np.isfinite(value) for line in written for value in line.values())

    assert main.main(["evaluate", str(run), f"--data_dir={data_dir}"]) == 0
    results = json.loads((run / "results.json").read_text())
    assert results["run"] == {"method": "sd_byol", "seed": 0, "step": 10, "epoch": 2.0}
    assert results["protocols"].keys() == {"knn"}
    assert results["protocols"]["knn"]["all"] > 0.2  # chance is 0.1

    quick = ["--rates=0.5", "--views=1", "--gallery=20", "--neighbours=2", f"--data_dir={data_dir}"]
    assert main.main(["exemplars", str(run), *quick]) == 0
    with (run / "exemplars" / "exemplars.csv").open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 369
    summary = json.loads((run / "exemplars" / "summary.json").read_text())
    assert [checkpoint["step"] for checkpoint in summary["checkpoints"]] == [5, 10]
    column = next(name for name in rows[0] if name.startswith("features"))
    values = np.array([float(row[column]) for row in rows])
    assert np.isfinite(values).all()
    assert values.std() > 0
    assert {p.name for p in (run / "exemplars").iterdir()} == {
        "exemplars.csv", "exemplars.parquet", "gallery.html", "summary.json",
    }  # fmt: skip
    assert "warning" not in capsys.readouterr().err
