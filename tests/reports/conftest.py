"""Run folders made on the spot, as `pretrain` and `evaluate` write them."""

import json

import numpy as np
import pytest

CLASS_NAMES = ["zero", "one", "two", "three"]
TRAIN_COUNTS = [5, 110, 20, 40]
CLASS_GROUPS = ["few", "many", "medium", "many"]


def protocol(per_class, groups=tuple(CLASS_GROUPS)):
    """One protocol's record, scored as the evaluation scores it."""
    per_class = np.array(per_class, float)
    means = {name: per_class[[g == name for g in groups]] for name in ("many", "medium", "few")}
    means = {name: float(found.mean()) if found.size else None for name, found in means.items()}
    present = [mean for mean in means.values() if mean is not None]
    return {
        "settings": {"epochs": 30, "best_epoch": int(1000 * sum(per_class))},
        "per_class": per_class.tolist(),
        "all": float(per_class.mean()),
        **means,
        "std": float(np.std(present)) if len(present) > 1 else None,
        "validation_accuracy": None,
    }


@pytest.fixture
def make_run(tmp_path):
    """make_run(name, method, seed, ...) -> folder. `config` holds dotted fields, `edit` changes results.json."""

    def make(
        name,
        method="simclr",
        seed=0,
        split=0,
        accuracy=0.8,
        config=None,
        edit=None,
        steps=6,
        layers=("stem",),
        measured=False,
        warnings=(),
    ):
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        settings = {
            "method": method,
            "seed": seed,
            "epochs": 2,
            "pairs": [[["dense", 0], ["sparse" if "sdclr" in method else "dense", 1]]],
            "objective": {"name": "nt_xent", "temperature": 0.2},
            "prune": {"rate": 0.9},
            "projector": {"layers": 3},
            "data": {"name": "digits", "subset": "long_tail", "split": 0, "seed": split},
        }
        for field, value in (config or {}).items():
            *parents, last = field.split(".")
            section = settings
            for parent in parents:
                section = section[parent]
            section[last] = value
        per_class = accuracy if isinstance(accuracy, list) else [accuracy] * 4
        results = {
            "format": 1,
            "run": {"method": method, "seed": seed, "step": steps, "epoch": 2},
            "data": {
                "name": "digits",
                "subset": "long_tail",
                "split": 0,
                "seed": split,
                "class_names": list(CLASS_NAMES),
                "train_counts": list(TRAIN_COUNTS),
                "group_rule": "thirds",
                "groups": list(CLASS_GROUPS),
                "lists": {"train": f"{split}" * 64, "test": "f" * 64},
            },
            "encoder_checksum": 7,
            "protocols": {"linear_full": protocol(per_class), "knn": protocol(per_class)},
        }
        if edit:
            edit(results)
        lines = []
        for step in range(1, steps + 1):
            line = {"step": step, "epoch": step / 3, "loss": 5.0 / step, "images_per_second": 100.0}
            if "sdclr" in method:
                line |= {"density/all": 0.1} | {f"density/encoder/{layer}": 0.5 / step for layer in layers}
            if measured:
                branches = ("dense", "sparse") if "sdclr" in method else ("dense",)
                line |= {"alignment": 0.5 / step}
                for measure, last in (
                    ("projection_std", 0.1),
                    ("projection_rank", 9),
                    ("feature_rank", 9),
                    ("uniformity", -3),
                ):
                    line |= {f"{measure}/{branch}": last / (1 + step) for branch in branches}
            lines.append(json.dumps(line) + "\n")
        (folder / "config.json").write_text(json.dumps(settings))
        (folder / "versions.json").write_text(json.dumps({"sdclr_jax": "0.1.0", "commit": "abc", "jax": "0.10.2"}))
        (folder / "metrics.jsonl").write_text("".join(lines))
        if warnings:
            (folder / "warnings.jsonl").write_text("".join(json.dumps(warning) + "\n" for warning in warnings))
        (folder / "results.json").write_text(json.dumps(results))
        return folder

    return make


@pytest.fixture
def six_runs(make_run):
    """SimCLR and SDCLR over three seeds, with accuracies that a person can add up."""
    simclr = [[0.50, 0.90, 0.70, 0.80], [0.52, 0.92, 0.70, 0.80], [0.54, 0.88, 0.70, 0.80]]
    sdclr = [[0.60, 0.90, 0.71, 0.80], [0.64, 0.92, 0.69, 0.80], [0.68, 0.88, 0.70, 0.80]]
    return [
        make_run(f"{method}-{seed}", method, seed, accuracy=accuracy)
        for method, rows in (("simclr", simclr), ("sdclr", sdclr))
        for seed, accuracy in enumerate(rows)
    ]
