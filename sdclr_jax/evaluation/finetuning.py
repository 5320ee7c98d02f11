"""Fine-tuning a run's encoder: which images' labels it sees, and views of them, resident or decoded as needed."""

import contextlib
from collections.abc import Callable, Iterator

import jax
import numpy as np
from ml_collections import ConfigDict

from sdclr_jax import recipes
from sdclr_jax.data.examples import Examples
from sdclr_jax.data.images import Encoded
from sdclr_jax.data.subsets import longtail
from sdclr_jax.evaluation import finetune
from sdclr_jax.evaluation.finetune import FineTuned
from sdclr_jax.evaluation.frozen import FrozenEncoder, encoder_variables
from sdclr_jax.parallel import Shardings
from sdclr_jax.trees import Tree

RATES_ARE_FOR = 256  # images a batch: rates are in proportion to it (Chen et al., ICML 2020, appendix B.5)


def fine_tune(
    config: ConfigDict,
    variables: Tree,
    encoder: FrozenEncoder,
    shardings: Shardings,
    train: Examples,
    validation: Examples,
    settings: dict,
) -> tuple[FineTuned, dict]:
    """Fine-tune on the labels of a share of `train`; returns what came of it, and what it took for its settings.

    `settings` are share, epochs, batch_size, learning_rate and head_learning_rate; `variables` stay as they are.

    Raises:
        UserError: an image cannot be read, or the loss is no longer finite.
    """
    train = share(train, settings["share"], config.seed)
    batch_size = min(settings["batch_size"], len(train.labels))
    rates = {name: settings[name] * batch_size / RATES_ARE_FOR for name in ("learning_rate", "head_learning_rate")}
    with _views(config, train, batch_size, shardings) as views_of:
        fitted = finetune.fit(
            recipes.network(config),
            variables,
            views_of,
            train.labels,
            lambda tuned: encoder.features(encoder_variables(tuned), validation.images),
            validation.labels,
            num_classes=len(train.class_names),
            epochs=settings["epochs"],
            batch_size=batch_size,
            seed=config.seed,
            **rates,
        )
    taken = {"images": len(train.labels), "list": longtail.list_hash(train.ids), "batch_size": batch_size}
    about_views = recipes.about_probe_view(config, isinstance(train.images, Encoded))
    return fitted, taken | rates | about_views | {"best_epoch": fitted.best_epoch}


def share(examples: Examples, share: float, seed: int) -> Examples:
    """This share of each class's images, to the nearest whole number and one at least, as the seed draws them; a
    smaller share is part of a larger one."""
    present = np.bincount(examples.labels, minlength=len(examples.class_names))
    counts = np.where(present, np.maximum(1, np.rint(share * present)), 0).astype(np.int64)
    return examples.take(longtail.first_of_classes(examples.labels, None, counts, seed))


@contextlib.contextmanager
def _views(
    config: ConfigDict, examples: Examples, batch_size: int, shardings: Shardings
) -> Iterator[Callable[[int, np.ndarray], jax.Array]]:
    """(step, rows [B]) -> random crops and flips of those images, float [B, h, w, C], a function of seed and step."""
    key, augmented = jax.random.key(config.seed), recipes.probe_view(config, isinstance(examples.images, Encoded))
    split = batch_size % shardings.batch.mesh.size == 0  # else every device has all of the batch
    view = jax.jit(
        lambda step, images: augmented(jax.random.fold_in(key, step), images),
        out_shardings=shardings.batch if split else shardings.replicated,
    )
    with recipes.probe_images(config, examples.images, batch_size) as images_of:
        yield lambda step, rows: view(step, images_of(step, rows))
