"""Measurements while a run trains: nearest neighbours and a light probe, scored on validation images.

Nothing random is drawn and the state is only read, so a run is the same with and without them. Test images are for
`sdclr evaluate` alone.
"""

from functools import cached_property

import numpy as np
from ml_collections import ConfigDict

from sdclr_jax import parallel, recipes, records
from sdclr_jax.data.images import Encoded
from sdclr_jax.data.subsets import longtail
from sdclr_jax.errors import UserError
from sdclr_jax.evaluation import knn, probe, scores
from sdclr_jax.evaluation.frozen import dense, encoder_variables
from sdclr_jax.parallel import Shardings
from sdclr_jax.train import State

L2 = 1e-2  # of the ridge regression, on standardised features: the curve shall show the encoder, not a search


class OnlineProbe:
    """What is measured of a run with `evaluate.every` above 0.

    Raises:
        UserError: the images have no labels.
    """

    def __init__(self, config: ConfigDict, data: recipes.Data, shardings: Shardings):
        c = config.evaluate
        if not data.train.class_names:
            raise UserError(
                f"evaluate.every is {c.every}, but {config.data.name} has no labels to measure by while pretraining: "
                "set it to 0"
            )
        train = data.part("probe_train")
        count = min(len(train.labels), c.live_images)
        # Evenly spaced over all of them, which may lie class by class.
        self._train = train.take(np.arange(count) * len(train.labels) // count)
        self._validation = data.part("validation")
        self._neighbours = {"k": min(c.knn_k, count), "temperature": c.knn_temperature}
        self._groups = longtail.groups(data.subsets.train_counts, config.data.groups)
        self._encoder = recipes.frozen_encoder(config, shardings)

    def measure(self, state: State) -> dict[str, float | None]:
        """Scores of the dense branch, `knn/all` and so on, for a line of metrics; of accuracy, or of attributes average
        precision.

        All processes take part; those that are not the main one get nothing.
        """
        variables = encoder_variables(dense(state))
        train, validation = (self._encoder.features(variables, part) for part in self._decoded)
        if not parallel.is_main():
            return {}
        labels, classes = self._train.labels, len(self._groups)
        kernel, bias = probe.ridge(train, labels, num_classes=classes, l2=L2)
        if labels.ndim == 2:
            found = {
                "knn": knn.share(train, labels, validation, **self._neighbours),
                "probe": probe.logits(validation, kernel, bias),
            }
        else:
            found = {
                "knn": knn.predict(train, labels, validation, num_classes=classes, **self._neighbours),
                "probe": probe.predict(validation, kernel, bias),
            }
        return {
            f"{name}/{group}": value
            for name, predictions in found.items()
            for group, value in records.summary(self._per_class(predictions), self._groups).items()
        }

    @cached_property
    def _decoded(self) -> list[np.ndarray | Encoded]:
        return [self._encoder.decoded(part.images) for part in (self._train, self._validation)]

    def _per_class(self, predictions: np.ndarray) -> np.ndarray:
        labels = self._validation.labels
        if labels.ndim == 2:
            return scores.average_precision(predictions, labels)
        # A class of a handful of images has none for validation.
        return scores.per_class_accuracy(predictions, labels, len(self._groups), all_classes=False)
