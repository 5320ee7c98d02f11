"""`sdclr evaluate`: probe the frozen dense encoder of a run, and write results.json."""

import contextlib
import pathlib
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from sdclr_jax import branches, build, parallel, trees, workdir
from sdclr_jax.checkpoint import Checkpoints
from sdclr_jax.commands import flags
from sdclr_jax.data import batches
from sdclr_jax.data.examples import Examples
from sdclr_jax.data.images import Encoded
from sdclr_jax.data.subsets import longtail
from sdclr_jax.errors import UserError
from sdclr_jax.evaluation import collapse, features, knn, probe, scores
from sdclr_jax.parallel import Shardings
from sdclr_jax.train import State
from sdclr_jax.trees import checksum

USAGE = """sdclr evaluate DIR [DIR ...] [--config.evaluate.FIELD=VALUE ...]

Probes the frozen dense encoder of each run on the test images and writes DIR/results.json: the published SGD probe on
all labelled images (linear_full) and on a few (linear_few_shot), logistic regression on fixed features (logistic), and
k-nearest neighbours (knn); per class, All, Many / Medium / Few, and Std between those. Of images with attributes it
writes the average precision of each by logistic and knn.

  --config.evaluate.FIELD=VALUE   overrides a setting of the evaluation, such as --config.evaluate.knn_k=50
  --data_dir=DIR                  prepared data sets; default $SDCLR_DATA or ~/.cache/sdclr_jax/data"""


def main(argv: list[str]) -> None:
    directories = [pathlib.Path(arg).expanduser() for arg in argv if not arg.startswith("-")]
    options = [arg for arg in argv if arg.startswith("-")]
    if not directories:
        flags.show_help(options, USAGE)
        raise UserError("give the folder of a run, as in: sdclr evaluate runs/sdclr")
    jobs = []
    for directory in directories:
        args = flags.evaluate(options, USAGE, workdir.read_config(directory))
        build.check(args.config)
        jobs.append((directory, args.config, args.data_dir))
    for directory, config, data_dir in jobs:
        results = evaluate(config, directory, data_dir)
        if warning := (results["data"]["provenance"] or {}).get("warning"):
            print(f"{directory}  warning: {config.data.name} was {warning}", file=sys.stderr)
        for name, protocol in results["protocols"].items():
            groups = "  ".join(f"{k} {_percent(protocol[k])}" for k in ("all", "many", "medium", "few", "std"))
            print(f"{directory}  {name:16s} {groups}", flush=True)


def _percent(share: float | None) -> str:
    return "    -" if share is None else f"{100 * share:5.2f}"


def evaluate(config: ConfigDict, directory: pathlib.Path, data_dir: str | None = None) -> dict:
    """Run every protocol on the newest checkpoint of a run; writes and returns what results.json holds.

    Raises:
        UserError: no run or no checkpoint there, images without labels, or the encoder is not what it was before the
            evaluation.
    """
    shardings = parallel.shardings()
    data = build.data(config, data_dir)
    if not data.train.class_names:
        raise UserError(
            f"{config.data.name} has no labels, so there is nothing to probe: {directory / 'metrics.jsonl'} tells "
            "whether the features have collapsed, and scores take a run on images with labels, which pretraining "
            "does not read"
        )
    like = build.abstract_state(config, build.image_shape(config, data.train.images), shardings)
    step, variables = _dense(directory, like)
    before = int(checksum(variables))
    probed = _Probed(config, variables, data, shardings)
    protocols = _protocols(config, probed)
    # Both what was used and what lies on disk must be the encoder that was there before.
    _, again = _dense(directory, like, step)
    if not int(checksum(variables)) == int(checksum(again)) == before:
        raise UserError(f"the encoder of {directory} changed during its evaluation: the results are void, run it again")
    epoch = len(data.part(config.data.subset).labels) // config.batch_size
    results = {
        "format": 1,
        "run": {"method": config.method, "seed": config.seed, "step": step, "epoch": step / epoch},
        "data": about(config, data),
        "features": _about_features(probed.test.features),
        "encoder_checksum": before,
        "protocols": protocols,
    }
    workdir.write_json(directory / "results.json", results)
    return results


def _dense(directory: pathlib.Path, like: State, step: int | None = None) -> tuple[int, trees.Tree]:
    """Step and dense variables of a run's newest checkpoint, or of the one of a step."""
    with Checkpoints(directory / "checkpoints", read_only=True) as checkpoints:
        state = checkpoints.restore(like=like, step=step)
    if state is None:
        raise UserError(f"{directory} has no checkpoint yet: let sdclr pretrain reach its first one")
    dense = branches.BRANCHES["dense"]
    return int(state.step), branches.variables(dense, state.params, state.stats, mask=None)


def about(config: ConfigDict, data: build.Data) -> dict:
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


class _Labelled(NamedTuple):
    """Images with their labels and the frozen encoder's features of them."""

    examples: Examples
    features: np.ndarray  # float32 [N, D]

    @property
    def labels(self) -> np.ndarray:
        return self.examples.labels


class _Probed:
    """A frozen encoder as the protocols see it: features of the labelled images, plain or of augmented views."""

    def __init__(self, config: ConfigDict, variables: trees.Tree, data: build.Data, shardings: Shardings):
        encoded = isinstance(data.train.images, Encoded)
        network, plain, augmented = build.network(config), build.plain_view(config), build.probe_view(config, encoded)

        # The variables are arguments and not constants, so that all runs of one shape share what is compiled.
        def encode(variables: trees.Tree, images: jax.Array) -> jax.Array:
            return network.apply(variables, plain(images), method="encode")

        def encode_view(variables: trees.Tree, key: jax.Array, images: jax.Array) -> jax.Array:
            return network.apply(variables, augmented(key, images), method="encode")

        to_features = jax.jit(encode, in_shardings=(None, shardings.batch), out_shardings=shardings.replicated)
        self._config, self._variables, self._encode_view = config, variables, jax.jit(encode_view)
        devices = shardings.batch.mesh.size
        batch_size = -(-config.evaluate.batch_size // devices) * devices

        def labelled(examples: Examples) -> _Labelled:
            images = examples.images
            if encoded:
                images = batches.in_order(images, build.centre_crop(config), batch_size, config.data.workers)
            return _Labelled(examples, features.extract(partial(to_features, variables), images, batch_size))

        self.groups = longtail.groups(data.subsets.train_counts, config.data.groups)
        self.num_classes = len(data.train.class_names)
        self.full, self.few_shot = labelled(data.part("probe_train")), labelled(data.part("few_shot"))
        self.validation, self.test = labelled(data.part("validation")), labelled(data.test)

    @contextlib.contextmanager
    def features_of(self, train: _Labelled) -> Iterator[Callable[[int, np.ndarray], jax.Array]]:
        """(step, indices) -> features of those images: of views made afresh with a key of that step, or fixed ones."""
        c, images, key = self._config.evaluate, train.examples.images, jax.random.key(self._config.seed)

        def of_views(images_of: Callable[[int, np.ndarray], jax.Array]) -> Callable[[int, np.ndarray], jax.Array]:
            return lambda step, rows: self._encode_view(
                self._variables, jax.random.fold_in(key, step), images_of(step, rows)
            )

        if not c.augment or not (c.padding or c.flip or isinstance(images, Encoded)):
            yield probe.cached(train.features)
        elif isinstance(images, Encoded):
            workers = self._config.data.workers
            with batches.on_demand(images, build.probe_crops(self._config), c.sgd_batch_size, workers) as crops_of:
                yield of_views(crops_of)
        else:
            images = jax.numpy.asarray(images)
            yield of_views(lambda step, rows: images[rows])

    @property
    def has_attributes(self) -> bool:
        """Whether an image has any number of attributes, instead of one class."""
        return self.test.labels.ndim == 2

    def score(self, settings: dict, predictions: np.ndarray, validation_score: float | None) -> dict:
        """What results.json says of a protocol, from its predictions of the test images: classes int [N], or how
        likely each attribute is, [N, A]."""
        if self.has_attributes:
            metric, per_class = "average_precision", scores.average_precision(predictions, self.test.labels)
        else:
            metric = "accuracy"
            per_class = scores.per_class_accuracy(predictions, self.test.labels, self.num_classes)
        return {
            "metric": metric,
            "settings": settings,
            "per_class": [None if np.isnan(x) else float(x) for x in per_class],
            **scores.summary(per_class, self.groups),
            f"validation_{metric}": validation_score,
        }


def _protocols(config: ConfigDict, probed: _Probed) -> dict[str, dict]:
    """Every protocol's settings and scores, by name."""
    c = config.evaluate
    on_fixed_features = {"logistic": _logistic(config, probed), "knn": _neighbours(config, probed)}
    if probed.has_attributes:  # the published probes are of classes, as is their learning rate
        return on_fixed_features
    return {
        "linear_full": _linear(config, probed, "probe_train", probed.full, c.full_epochs, c.full_drops),
        "linear_few_shot": _linear(config, probed, "few_shot", probed.few_shot, c.few_shot_epochs, c.few_shot_drops),
        **on_fixed_features,
    }


def _linear(
    config: ConfigDict, probed: _Probed, part: str, train: _Labelled, epochs: int, drops: tuple[int, ...]
) -> dict:
    """The published probe (Jiang et al., ICML 2021, supplement)."""
    c = config.evaluate
    with probed.features_of(train) as features_of:
        fitted = probe.sgd(
            features_of,
            train.labels,
            probed.validation.features,
            probed.validation.labels,
            num_classes=probed.num_classes,
            epochs=epochs,
            drops=drops,
            learning_rate=c.sgd_learning_rate,
            batch_size=c.sgd_batch_size,
            seed=config.seed,
        )
    settings = {
        "train": part,
        "images": len(train.labels),
        "epochs": epochs,
        "drops": list(drops),
        "learning_rate": c.sgd_learning_rate,
        "momentum": probe.MOMENTUM,
        "weight_decay": 0.0,
        "batch_size": c.sgd_batch_size,
        **_augmentation(config, train.examples.images),
        "best_epoch": fitted.best_epoch,
    }
    predictions = probe.predict(probed.test.features, fitted.kernel, fitted.bias)
    return probed.score(settings, predictions, fitted.validation_accuracy)


def _augmentation(config: ConfigDict, images: np.ndarray | Encoded) -> dict:
    """What the SGD probes did to their training images, for their settings."""
    c = config.evaluate
    if not c.augment:
        return {"augment": False}
    crop = {"crop_scale": list(c.crop_scale)} if isinstance(images, Encoded) else {"padding": c.padding}
    return crop | {"flip": c.flip}


def _logistic(config: ConfigDict, probed: _Probed) -> dict:
    fitted = probe.logistic(
        probed.full.features,
        probed.full.labels,
        probed.validation.features,
        probed.validation.labels,
        num_classes=probed.num_classes,
        l2=config.evaluate.logistic_l2,
    )
    settings = {
        "train": "probe_train",
        "images": len(probed.full.labels),
        "l2_tried": list(config.evaluate.logistic_l2),
        "l2": fitted.best.l2,
        "loss": fitted.best.loss,
        "gradient_norm": fitted.best.gradient_norm,
        "iterations": fitted.best.iterations,
    }
    predict = probe.logits if probed.has_attributes else probe.predict
    predictions = predict(probed.test.features, fitted.kernel, fitted.bias)
    return probed.score(settings, predictions, fitted.best.validation_score)


def _neighbours(config: ConfigDict, probed: _Probed) -> dict:
    settings = {"k": config.evaluate.knn_k, "temperature": config.evaluate.knn_temperature}
    given = probed.full.features, probed.full.labels, probed.test.features
    if probed.has_attributes:
        predictions = knn.share(*given, **settings)
    else:
        predictions = knn.predict(*given, num_classes=probed.num_classes, **settings)
    return probed.score({"train": "probe_train", "images": len(probed.full.labels), **settings}, predictions, None)
