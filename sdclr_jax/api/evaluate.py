"""Probe the frozen dense encoder of a run, and write results.json."""

import dataclasses
import functools
import json
import os
import pathlib
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from sdclr_jax import files, numerics, parallel, processes, recipes, records, trees
from sdclr_jax.api import agreement
from sdclr_jax.data.examples import Examples
from sdclr_jax.data.subsets import longtail
from sdclr_jax.errors import Unreadable, UserError, renamed
from sdclr_jax.evaluation import collapse, embedding, frozen
from sdclr_jax.evaluation.frozen_features import FrozenFeatures
from sdclr_jax.evaluation.protocols import PROTOCOLS, measure
from sdclr_jax.files import expanded
from sdclr_jax.records import Results, Score, names, results
from sdclr_jax.run import folder
from sdclr_jax.run.checkpoints import Checkpoints
from sdclr_jax.train import State


def evaluate(
    run: Any,
    *,
    protocols: Sequence[str] | None = None,
    data: Mapping[str, Any] | None = None,
    data_dir: str | os.PathLike | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Results:
    """Score the frozen dense encoder of a run, and write the run's results.json.

    Args:
        run: the run's folder, or an object whose `path` it is, which is scored at the checkpoint that it is open at.
        protocols: names from `sdclr_jax.evaluation.protocols.PROTOCOLS`; None takes `evaluate.protocols` of the run.
        data: fields of `config.data` that say where the images are now, such as {"name": "folder:/new/photos"}. That
            they are the same images is checked, and the place is kept for the next call.
        data_dir: folder of prepared data sets; None is $SDCLR_DATA or ~/.cache/sdclr_jax/data.
        settings: fields of `config.evaluate` to change, such as {"knn_k": 50}.

    Returns:
        What results.json holds.

    Raises:
        UserError: no run there, an unknown protocol or field, one that would make it another run, and as
            `evaluate_run`.

    >>> results = sdclr_jax.evaluate("runs/sdclr", protocols=["knn"], settings={"knn_k": 20})
    >>> knn = results.protocols["knn"]
    >>> knn.settings["k"], 0 <= knn.all <= 1, len(knn.per_class)
    (20, True, 10)
    """
    if isinstance(protocols, str):
        raise UserError(f"protocols is {protocols!r}: give a list of names, [{protocols!r}]")
    directory = expanded(getattr(run, "path", run))
    changed = {"evaluate": recipes.mapping("settings", settings), "data": recipes.mapping("data", data)}
    changed["evaluate"] |= {} if protocols is None else {"protocols": tuple(protocols)}
    config = recipes.read(directory)
    recipes.override_free(config, changed)
    folder.check_writable(directory)
    return evaluate_run(config, directory, data_dir, step=getattr(run, "step", None))


@numerics.fixed()
def evaluate_run(
    config: ConfigDict,
    directory: pathlib.Path,
    data_dir: str | os.PathLike | None = None,
    *,
    step: int | None = None,
) -> Results:
    """Run `evaluate.protocols` on a checkpoint of a run, the newest one where `step` is None; writes
    results.json after each of them and returns what it holds.

    Raises:
        UserError: no run or no checkpoint there, images without labels, or the encoder is not what it was before the
            evaluation.
    """
    with processes.together(stop=True):
        agreement.on_run(config, {"step of the run": step})
        return _evaluate(config, directory, data_dir, step)


def _evaluate(
    config: ConfigDict, directory: pathlib.Path, data_dir: str | os.PathLike | None, at: int | None
) -> Results:
    shardings = parallel.shardings()
    data = recipes.data(config, data_dir)
    if not data.train.class_names:
        raise UserError(
            f"{config.data.name} has no labels, so there is nothing to probe: {directory / names.METRICS} tells "
            "whether the features have collapsed, and scores take a run on images with labels, which pretraining "
            "does not read"
        )
    wanted = recipes.protocols(config, data)
    now = data.about(config.data.subset)
    agreement.on_data(config, directory, data)
    like = recipes.abstract_state(config, recipes.image_shape(config, data.train.images), shardings)
    step, variables = _dense(directory, like, at)
    before, weak = trees.digest(variables), int(trees.checksum(variables))  # in all processes
    of_encoder = frozen.encoder_variables(variables)
    features = recipes.frozen_features(config, of_encoder, data, shardings, directory / names.FEATURES)
    measured: dict[str, Score] = {}
    path = directory / names.RESULTS
    earlier = files.content(path) if path.exists() else None
    rank = functools.cache(lambda: _about_features(features.test.features))

    def found() -> Results:
        epoch = recipes.epoch(config, (folder.trained_on(directory) or now).images, step)
        return Results(
            run=results.Measured(method=config.method, seed=config.seed, step=step, epoch=epoch),
            data=about(config, data),
            features=rank(),
            encoder_checksum=weak,
            encoder_sha256=before,
            seen=features.seen,
            protocols={name: measured[name] for name in wanted if name in measured},
        )

    def score(*, shared: bool) -> None:
        for name, protocol in wanted.items():
            if protocol.shared == shared:
                splits = features.splits(protocol.train)
                with renamed(recipes.protocol_arguments(name)):
                    measured[name] = measure(name, protocol, splits, recipes.groups(config, data))
                if processes.is_main():  # at once: what follows may take hours, and be stopped
                    records.write(path, _with_others(found(), path))

    score(shared=True)
    with processes.first("what is fitted") as alone:
        if alone:
            score(shared=False)
    # Both what was used and what lies on disk must be the encoder that was there before.
    with Checkpoints(directory / names.CHECKPOINTS, read_only=True) as checkpoints:
        here = step in checkpoints.steps
        dropped = not all(processes.exchange("checkpoint again", "here" if here else ""))  # by the run, which goes on
        again = variables if dropped else frozen.dense(checkpoints.restore(like=like, step=step))
    if not trees.digest(variables) == trees.digest(again) == before:
        if processes.is_main():
            path.unlink() if earlier is None else files.write(path, earlier)
        raise UserError(f"the encoder of {directory} changed during its evaluation: the results are void, run it again")

    def written() -> str:
        _write_map(config, features, directory)
        return json.dumps(records.read(Results, path).to_json())

    return records.decode(Results, json.loads(processes.of_first("results", written)))


def _write_map(config: ConfigDict, features: FrozenFeatures, directory: pathlib.Path) -> None:
    """The map of the test images, in place of that of an earlier evaluation; none where an image has no one class."""
    path, limit, test = directory / names.EMBEDDING, config.evaluate.map_images, features.test
    if not limit or test.targets.has_attributes or len(test.features) < embedding.LEAST:
        path.unlink(missing_ok=True)
        if limit and not test.targets.has_attributes:
            print(f"{path}  note: no map is made of fewer than {embedding.LEAST} test images", file=sys.stderr)
        return
    with renamed({"features": "the features of the test images"}):
        found = embedding.about(test.features, test.labels, config.seed, limit, directory / names.FEATURES)
    records.write(path, found)


def _with_others(found: Results, path: pathlib.Path) -> Results:
    """What is found, with what results.json says already of other protocols, where it is of this encoder and data."""
    try:
        before = records.read(Results, path)
    except FileNotFoundError:
        return found
    except Unreadable:
        raise
    except UserError as error:  # kept aside: it may hold scores of hours
        aside = _at_this_time(path, "damaged")
        path.rename(aside)
        print(f"{error}; it is kept as {aside.name}", file=sys.stderr)
        return found
    if before.run.step != found.run.step:  # nothing of it can stand beside these, and it may hold scores of hours, too
        _keep_aside(before, path)
        earlier = _read_aside(path, found.run.step)
        return _joined(found, earlier) if earlier and _are_alike(found, earlier) else found
    if _are_alike(found, before):
        return _joined(found, before)
    if others := [name for name in before.protocols if name not in found.protocols]:
        why = "of another encoder, other data, or images that were cropped or resized otherwise"
        print(f"{path}  note: {', '.join(others)} went, being {why}", file=sys.stderr)
    return found


def _keep_aside(scores: Results, path: pathlib.Path) -> None:
    """Keep scores beside the file of another step's, together with those of their own step that are there."""
    aside, earlier = _aside(path, scores.run.step), _read_aside(path, scores.run.step)
    if earlier and _are_alike(scores, earlier):
        scores = _joined(scores, earlier)
    elif aside.exists():
        other = _at_this_time(aside, "other")
        aside.rename(other)
        print(
            f"{aside}  note: it is of another encoder or other data, or damaged: it is kept as {other.name}",
            file=sys.stderr,
        )
    records.write(aside, scores)
    print(f"{path}  note: the scores of step {scores.run.step} are kept as {aside.name}", file=sys.stderr)


def _aside(path: pathlib.Path, step: int) -> pathlib.Path:
    return path.with_name(f"{path.stem}.step{step}{path.suffix}")


def _at_this_time(path: pathlib.Path, kind: str) -> pathlib.Path:
    """A name that no file has yet."""
    return path.with_name(f"{path.stem}.{kind}.{time.time_ns()}{path.suffix}")


def _read_aside(path: pathlib.Path, step: int) -> Results | None:
    """What was kept aside of a step; None where there is nothing, or it is damaged."""
    try:
        return records.read(Results, _aside(path, step))
    except Unreadable:
        raise
    except (FileNotFoundError, UserError):
        return None


def _are_alike(found: Results, before: Results) -> bool:
    """Whether scores can stand in one file: they are of one encoder, and of the same images, seen alike."""
    # A folder of images is the same data wherever it lies: the hashes of the lists say so. Older versions wrote none of
    # the labels, nor what is seen.
    labels = found.data.labels if before.data.labels else {}
    here = dataclasses.replace(found.data, name=before.data.name, provenance=before.data.provenance, labels=labels)
    same = before.run == found.run and found.same_encoder(before) and before.data == here
    return same and before.seen in (None, found.seen)


def _joined(found: Results, before: Results) -> Results:
    """What is found, with what was there of other protocols; what an older version did not say, both do not."""
    others = {name: score for name, score in before.protocols.items() if name not in found.protocols}
    if others and before.seen is None:
        found = dataclasses.replace(found, seen=None)
    if others and before.encoder_sha256 is None:
        found = dataclasses.replace(found, encoder_sha256=None)
    if others and not before.data.labels:
        found = dataclasses.replace(found, data=dataclasses.replace(found.data, labels={}))
    every = found.protocols | others
    in_order = {name: every[name] for name in PROTOCOLS if name in every}
    return dataclasses.replace(found, protocols=in_order | every)  # those that this process does not know come last


def _dense(directory: pathlib.Path, like: State, step: int | None) -> tuple[int, trees.Tree]:
    """Step and dense variables of a run's checkpoint, the newest one where `step` is None."""
    with Checkpoints(directory / names.CHECKPOINTS, read_only=True) as checkpoints:
        state = checkpoints.restore(like=like, step=step)
    if state is None:
        raise folder.no_checkpoint(directory)
    return int(state.step), frozen.dense(state)


def about(config: ConfigDict, data: recipes.Data) -> results.Data:
    """What results.json says of the data: classes, groups, and what names the archive and every list."""
    counts = data.subsets.train_counts
    parts = {"train": data.part(config.data.subset), "test": data.test}
    parts |= {part: data.part(part) for part in ("probe_train", "few_shot", "validation")}
    return results.Data(
        name=config.data.name,
        subset=config.data.subset,
        split=config.data.split,
        seed=config.data.seed,
        provenance=data.provenance,
        class_names=tuple(data.train.class_names),
        train_counts=tuple(int(n) for n in counts),
        group_rule=config.data.groups,
        groups=recipes.groups(config, data),
        lists={name: longtail.list_hash(part.ids) for name, part in parts.items()},
        labels={name: longtail.list_hash(_labelled(part)) for name, part in parts.items()},
    )


def _labelled(images: Examples) -> Iterator[str]:
    """The name of each image with its label, or with its attributes."""
    for name, label in zip(images.ids.tolist(), images.labels.tolist(), strict=True):
        yield f"{name} {label}"


def _about_features(found: np.ndarray) -> results.Features:
    """What results.json says of features [N, D] of test images: how many directions they use (RankMe)."""
    # As many as the paper takes (Garrido et al., ICML 2023), spread over all of them, which may lie class by class.
    some = found[:: -(-len(found) // 25_600)]
    rank = float(jax.jit(collapse.effective_rank)(some))
    return results.Features(images=len(some), dimensions=found.shape[1], effective_rank=rank)
