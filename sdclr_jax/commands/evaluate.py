"""`sdclr evaluate`: probe the frozen dense encoder of a run, and write results.json."""

import pathlib
import sys
import time
from functools import partial

import jax
import numpy as np
from ml_collections import ConfigDict

from sdclr_jax import branches, build, parallel, trees, workdir
from sdclr_jax.checkpoint import Checkpoints
from sdclr_jax.commands import flags
from sdclr_jax.data import longtail
from sdclr_jax.errors import UserError
from sdclr_jax.evaluation import features, knn, probe, scores

USAGE = """sdclr evaluate DIR [DIR ...] [--config.evaluate.FIELD=VALUE ...]

Probes the frozen dense encoder of each run on the test images and writes DIR/results.json: the published SGD probe on
all labelled images (linear_full) and on a few (linear_few_shot), logistic regression on fixed features (logistic), and
k-nearest neighbours (knn); per class, All, Many / Medium / Few, and Std between those.

  --config.evaluate.FIELD=VALUE   overrides a setting of the evaluation, such as --config.evaluate.knn_k=50
  --data_dir=DIR                  prepared data sets; default $SDCLR_DATA or ~/.cache/sdclr_jax/data"""

_checksum = jax.jit(trees.checksum)


def main(argv: list[str]) -> None:
    directories = [pathlib.Path(arg) for arg in argv if not arg.startswith("-")]
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
        UserError: no run or no checkpoint there, or the evaluation has changed the encoder.
    """
    shardings = parallel.shardings()
    data = build.data(config, data_dir)
    run = build.run(config, data.part(config.data.subset).images, shardings)
    with Checkpoints(directory / "checkpoints") as checkpoints:
        state = checkpoints.restore(like=run.abstract_state(shardings))
    if state is None:
        raise UserError(f"{directory} has no checkpoint yet: let sdclr pretrain reach its first one")
    # All that an encoder's features depend on, and nothing else, goes into the evaluation.
    variables = branches.variables(branches.BRANCHES["dense"], state.params, state.stats, mask=None)
    encoder = {name: tree["encoder"] for name, tree in variables.items()}
    checksum = int(_checksum(encoder))

    protocols = _protocols(config, run.method.network, variables, data, shardings)

    if int(_checksum(encoder)) != checksum:
        raise UserError(f"the evaluation of {directory} changed the encoder's variables: its results are void")
    results = {
        "format": 1,
        "run": {
            "method": config.method,
            "seed": config.seed,
            "step": int(state.step),
            "epoch": int(state.step) / run.batches.steps_per_epoch,
        },
        "data": about(config, data),
        "encoder_checksum": checksum,
        "protocols": protocols,
    }
    workdir.write_json(directory / "results.json", results)
    return results


def about(config: ConfigDict, data: build.Data) -> dict:
    """What results.json says of the data: classes, groups, and what names the archive and every list."""
    counts, names = data.subsets.train_counts, data.train.class_names
    return {
        "name": config.data.name,
        "subset": config.data.subset,
        "split": config.data.split,
        "provenance": data.provenance,
        "class_names": list(names),
        "train_counts": [int(n) for n in counts],
        "group_rule": config.data.groups,
        "groups": list(longtail.groups(counts, config.data.groups)),
        "lists": {
            "train": longtail.list_hash(data.part(config.data.subset).ids),
            **{part: longtail.list_hash(data.part(part).ids) for part in ("probe_train", "few_shot", "validation")},
            "test": longtail.list_hash(data.test.ids),
        },
    }


def _protocols(config: ConfigDict, network, variables, data: build.Data, shardings: parallel.Shardings) -> dict:
    """Every protocol's settings and scores, by name."""
    c, num_classes = config.evaluate, len(data.train.class_names)
    groups = longtail.groups(data.subsets.train_counts, config.data.groups)
    plain, augmented = build.plain_view(config), build.probe_view(config)

    # The variables are arguments and not constants, so all runs of one shape share the compiled function.
    def encode_plain(variables, images):
        return network.apply(variables, plain(images), method="encode")

    def encode_augmented(variables, key, images):
        return network.apply(variables, augmented(key, images), method="encode")

    to_features = jax.jit(encode_plain, in_shardings=(None, shardings.batch), out_shardings=shardings.replicated)
    to_augmented = jax.jit(encode_augmented)
    devices = shardings.batch.mesh.size
    batch_size = -(-c.batch_size // devices) * devices

    def extract(images):
        return features.extract(partial(to_features, variables), images, batch_size)

    validation = data.part("validation")
    full = data.part("probe_train")
    test_features, validation_features, full_features = (extract(part.images) for part in (data.test, validation, full))

    def scored(settings: dict, predictions: np.ndarray, validation_accuracy: float | None) -> dict:
        per_class = scores.per_class_accuracy(predictions, data.test.labels, num_classes)
        return {
            "settings": settings,
            "per_class": [float(x) for x in per_class],
            **scores.summary(per_class, groups),
            "validation_accuracy": validation_accuracy,
        }

    def published_probe(part: str, epochs: int, drops: tuple[int, ...]) -> dict:
        before = time.perf_counter()
        examples = data.part(part)
        images, key = jax.numpy.asarray(examples.images), jax.random.key(config.seed)

        def views_of(step: int, indices: np.ndarray) -> jax.Array:
            return to_augmented(variables, jax.random.fold_in(key, step), images[indices])

        fitted = probe.sgd(
            views_of,
            examples.labels,
            validation_features,
            validation.labels,
            num_classes=num_classes,
            epochs=epochs,
            drops=drops,
            learning_rate=c.sgd_learning_rate,
            batch_size=c.sgd_batch_size,
            seed=config.seed,
        )
        settings = {
            "train": part,
            "images": len(examples.labels),
            "epochs": epochs,
            "drops": list(drops),
            "learning_rate": c.sgd_learning_rate,
            "momentum": 0.9,
            "weight_decay": 0.0,
            "batch_size": c.sgd_batch_size,
            "padding": c.padding,
            "flip": c.flip,
            "best_epoch": fitted.best_epoch,
            "seconds": time.perf_counter() - before,
        }
        predictions = probe.predict(test_features, fitted.kernel, fitted.bias)
        return scored(settings, predictions, fitted.validation_accuracy)

    def logistic() -> dict:
        fitted = probe.logistic(
            full_features,
            full.labels,
            validation_features,
            validation.labels,
            num_classes=num_classes,
            l2=c.logistic_l2,
        )
        settings = {
            "train": "probe_train",
            "images": len(full.labels),
            "l2_tried": list(c.logistic_l2),
            "l2": fitted.best.l2,
            "loss": fitted.best.loss,
            "gradient_norm": fitted.best.gradient_norm,
            "iterations": fitted.best.iterations,
        }
        predictions = probe.predict(test_features, fitted.kernel, fitted.bias)
        return scored(settings, predictions, fitted.best.validation_accuracy)

    def neighbours() -> dict:
        settings = {"k": c.knn_k, "temperature": c.knn_temperature}
        predictions = knn.predict(full_features, full.labels, test_features, num_classes=num_classes, **settings)
        return scored({"train": "probe_train", "images": len(full.labels), **settings}, predictions, None)

    return {
        "linear_full": published_probe("probe_train", c.full_epochs, c.full_drops),
        "linear_few_shot": published_probe("few_shot", c.few_shot_epochs, c.few_shot_drops),
        "logistic": logistic(),
        "knn": neighbours(),
    }
