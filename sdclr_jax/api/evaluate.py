"""Probe the frozen dense encoder of a run, and write results.json."""

import json
import pathlib
import sys

import jax
import numpy as np
from ml_collections import ConfigDict

from sdclr_jax import parallel, recipes, trees
from sdclr_jax.data.subsets import longtail
from sdclr_jax.errors import UserError
from sdclr_jax.evaluation import collapse, embedding, frozen, protocols
from sdclr_jax.evaluation.frozen_features import FrozenFeatures
from sdclr_jax.run import folder
from sdclr_jax.run.checkpoints import Checkpoints
from sdclr_jax.train import State
from sdclr_jax.trees import checksum


def evaluate(config: ConfigDict, directory: pathlib.Path, data_dir: str | None = None) -> dict:
    """Run `evaluate.protocols` on a run's newest checkpoint; writes and returns what results.json holds.

    Raises:
        UserError: no run or no checkpoint there, images without labels, or the encoder is not what it was before the
            evaluation.
    """
    shardings = parallel.shardings()
    data = recipes.data(config, data_dir)
    if not data.train.class_names:
        raise UserError(
            f"{config.data.name} has no labels, so there is nothing to probe: {directory / 'metrics.jsonl'} tells "
            "whether the features have collapsed, and scores take a run on images with labels, which pretraining "
            "does not read"
        )
    wanted = protocols.chosen(config, data)
    now = data.about(config.data.subset)
    if changed := folder.about_other_data(directory, now):
        print(f"{directory}  warning: {changed}: what is measured is measured on the data of now", file=sys.stderr)
    like = recipes.abstract_state(config, recipes.image_shape(config, data.train.images), shardings)
    step, variables = _dense(directory, like)
    before = int(checksum(variables))
    probed = FrozenFeatures(config, variables, data, shardings, directory / "features")
    measured = {name: protocols.measure(name, protocol, probed) for name, protocol in wanted.items()}
    # Both what was used and what lies on disk must be the encoder that was there before.
    with Checkpoints(directory / "checkpoints", read_only=True) as checkpoints:
        dropped = step not in checkpoints.steps  # by the run, which goes on
        again = variables if dropped else frozen.dense(checkpoints.restore(like=like, step=step))
    if not int(checksum(variables)) == int(checksum(again)) == before:
        raise UserError(f"the encoder of {directory} changed during its evaluation: the results are void, run it again")
    epoch = (folder.trained_on(directory) or now)["images"] // config.batch_size
    results = {
        "format": 1,
        "run": {"method": config.method, "seed": config.seed, "step": step, "epoch": step / epoch},
        "data": about(config, data),
        "features": _about_features(probed.test.features),
        "encoder_checksum": before,
        "protocols": measured,
    }
    measured |= _others(directory / "results.json", results)
    results["protocols"] = {name: measured[name] for name in protocols.PROTOCOLS if name in measured}
    folder.write_json(directory / "results.json", results)
    _write_map(config, probed, directory)
    return results


def _write_map(config: ConfigDict, probed: FrozenFeatures, directory: pathlib.Path) -> None:
    """The map of the test images, in place of that of an earlier evaluation; none where an image has no one class."""
    path, limit = directory / "embedding.json", config.evaluate.map_images
    if not limit or probed.has_attributes:
        path.unlink(missing_ok=True)
        return
    test, kept = probed.test, directory / "features"
    folder.write_json(path, embedding.about(test.features, test.labels, config.seed, limit, kept))


def _others(path: pathlib.Path, results: dict) -> dict[str, dict]:
    """What results.json says already of other protocols; nothing where it is of another encoder or other data."""
    try:
        before = json.loads(path.read_text())
        same = all(before.get(field) == results[field] for field in results if field not in ("protocols", "features"))
        others = {name: p for name, p in before["protocols"].items() if name not in results["protocols"]}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):  # none there, or not one of ours
        return {}
    if others and not same:
        print(f"{path}  note: {', '.join(others)} went, being of another encoder or other data", file=sys.stderr)
    return others if same else {}


def _dense(directory: pathlib.Path, like: State) -> tuple[int, trees.Tree]:
    """Step and dense variables of a run's newest checkpoint."""
    with Checkpoints(directory / "checkpoints", read_only=True) as checkpoints:
        state = checkpoints.restore(like=like)
    if state is None:
        raise UserError(f"{directory} has no checkpoint yet: let sdclr pretrain reach its first one")
    return int(state.step), frozen.dense(state)


def about(config: ConfigDict, data: recipes.Data) -> dict:
    """What results.json says of the data: classes, groups, and what names the archive and every list."""
    counts = data.subsets.train_counts
    parts = {"train": config.data.subset} | {part: part for part in ("probe_train", "few_shot", "validation")}
    return {
        "name": config.data.name,
        "subset": config.data.subset,
        "split": config.data.split,
        "provenance": data.provenance,
        "class_names": list(data.train.class_names),
        "train_counts": [int(n) for n in counts],
        "group_rule": config.data.groups,
        "groups": list(longtail.groups(counts, config.data.groups)),
        "lists": {name: longtail.list_hash(data.part(part).ids) for name, part in parts.items()}
        | {"test": longtail.list_hash(data.test.ids)},
    }


def _about_features(found: np.ndarray) -> dict:
    """What results.json says of features [N, D] of test images: how many directions they use (RankMe)."""
    # As many as the paper takes (Garrido et al., ICML 2023), spread over all of them, which may lie class by class.
    some = found[:: -(-len(found) // 25_600)]
    rank = float(jax.jit(collapse.effective_rank)(some))
    return {"images": len(some), "dimensions": found.shape[1], "effective_rank": rank}
