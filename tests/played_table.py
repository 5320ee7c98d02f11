"""A table of four tiny runs, whose `sdclr` is played by a script that writes a run's folder as the real one does: tests
look at who starts it, when, and what becomes of what it wrote."""

import json
import sys

import jobs
import lists
import tables

TABLE = """
title = "Two methods on a few digits"
about = "A line."
seeds = [0, 1]
draws = true
images = { train = 369 }
fields = { epochs = 4, "model.width" = 2 }
column = [{ title = "k-NN", score = "knn.all" }, { title = "warned of", score = "warnings" }]
row = [
    { name = "simclr", label = "SimCLR", config = "digits_lt:simclr" },
    { name = "sdclr", config = "digits_lt:sdclr", fields = { "prune.rate" = 0.7 } },
]
"""


# Trains an epoch at a time; the file `stop` lets it ask its caller for a stop after the second, as a scheduler would.
PLAYED = """
import json, os, pathlib, signal, sys, time
known = pathlib.Path(sys.argv[1]); command, *argv = sys.argv[2:]
given = [arg.partition("=")[2] for arg in argv if arg.startswith("--workdir=")] or argv
folder = pathlib.Path(given[0])
about = json.loads((known / f"{folder.name}.json").read_text())
with (known / "calls").open("a") as calls:
    print(command, folder.name, file=calls)
if command == "evaluate":
    (folder / "results.json").write_text(json.dumps(about["results"]))
    sys.exit()
folder.mkdir(exist_ok=True)
for name in ("config", "versions", "data"):
    (folder / f"{name}.json").write_text(json.dumps(about[name]))
lines = folder / "metrics.jsonl"
done = len(lines.read_text().splitlines()) if lines.exists() else 0
for epoch in range(done + 1, 5):
    with lines.open("a") as file:
        line = {"step": 5 * epoch, "epoch": epoch, "loss": 1.0, "images_per_second": 9.0, "seconds": epoch}
        print(json.dumps(line), file=file)
    (folder / "saved.json").write_text(json.dumps({"format": 1, "step": 5 * epoch}))
    if epoch == 2 and about["diverges"]:
        said = {"step": 11, "epoch": 2.2, "cause": "diverged", "message": "the loss is nan"}
        (folder / "warnings.jsonl").write_text(json.dumps(said) + "\\n")
        sys.exit(1)
    if epoch == 2 and (known / "stop").exists():
        (known / "stop").unlink()
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
        os.kill(os.getppid(), signal.SIGUSR1)
        time.sleep(60)
"""


def results_of(config, score: float, **provenance) -> dict:
    groups = ["many", "medium", "few"]
    found = {"settings": {}, "found": [], "per_class": [score] * 3, "validation_accuracy": None}
    found |= {"all": score, "many": score, "medium": score, "few": score, "std": 0.0}
    lists_ = {"train": "a" * 64}
    data = {"name": config.data.name, "subset": "long_tail", "split": 0, "seed": config.data.seed, "lists": lists_}
    data |= {"class_names": ["a", "b", "c"], "train_counts": [9, 5, 1], "group_rule": "thirds", "groups": groups}
    data |= {"provenance": provenance or None}
    run = {"method": config.method, "seed": config.seed, "step": 20, "epoch": 4.0}
    protocols = dict.fromkeys(config.evaluate.protocols, found)
    return {"format": 1, "run": run, "data": data, "encoder_checksum": 1, "protocols": protocols}


def small(tmp_path, monkeypatch):
    """A table of four tiny runs, `sdclr` played: calls() lists what it was asked; about(name, ...) changes a run."""
    path, known = tmp_path / "small.toml", tmp_path / "known"
    path.write_text(TABLE)
    known.mkdir()
    (tmp_path / "played.py").write_text(PLAYED)
    monkeypatch.setattr(jobs, "SDCLR", [sys.executable, str(tmp_path / "played.py"), str(known)])
    table = lists.load(str(path))
    for number, run in enumerate(table.runs()):
        config = jobs.config_of(run.job)
        about = {
            "config": json.loads(config.to_json()),
            "versions": {"commit": "1" * 40, "hardware": "a toaster", "devices": "1 x cpu", "jax": "0.0"},
            "data": {"images": 369, "sha256": "a" * 64},
            "results": results_of(config, 0.5 + number / 10),
            "diverges": False,
        }
        (known / f"{run.job.name}.json").write_text(json.dumps(about))

    class Small:
        out, stop, file = tmp_path / "runs", known / "stop", path
        folder = tmp_path / "runs" / "small"

        def main(self, *options):
            tables.main([str(path), f"--out={self.out}", *options])

        def calls(self):
            return (known / "calls").read_text().splitlines() if (known / "calls").exists() else []

        def about(self, name, **changes):
            file = known / f"{name}.json"
            file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return Small()
