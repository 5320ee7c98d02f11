"""Measurements while a run trains, by a few cheap protocols, scored on validation images.

Nothing random is drawn and the state is only read, so a run is the same with and without them. Test images are for
`sdclr evaluate` alone.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from sdclr_jax import parallel, processes, records
from sdclr_jax.data.examples import Examples
from sdclr_jax.data.images import Encoded
from sdclr_jax.evaluation.frozen import FrozenEncoder, dense, encoder_variables
from sdclr_jax.evaluation.frozen_features import Labelled, Splits
from sdclr_jax.evaluation.protocols import Protocol


class OnlineProbe:
    """Scores of the dense branch's features, for one state after another.

    Args:
        encoder: the encoder.
        train: labelled images to learn from.
        validation: labelled images to score on.
        groups: 'many', 'medium' or 'few' for each class.
        protocols: by the names that the scores have.
    """

    def __init__(
        self,
        encoder: FrozenEncoder,
        train: Examples,
        validation: Examples,
        *,
        groups: Sequence[str],
        protocols: Mapping[str, Protocol],
    ):
        self._encoder, self._train, self._validation = encoder, train, validation
        self._groups, self._protocols = groups, protocols

    def measure(self, state: Any) -> dict[str, float | None]:
        """Scores of the dense branch of a training state, `knn/all` and so on, for a line of metrics.

        All processes take part; those that are not the main one get nothing.
        """
        variables = parallel.whole(encoder_variables(dense(state)), self._encoder.shardings)
        train, validation = (self._encoder.features(variables, images) for images in self._decoded)
        if not processes.is_main():
            return {}
        validation = Labelled(validation, self._validation.targets)
        return dict(self._scores(Splits(Labelled(train, self._train.targets), validation, test=validation)))

    def _scores(self, splits: Splits) -> Iterator[tuple[str, float | None]]:
        for name, protocol in self._protocols.items():
            for group, value in records.summary(protocol.measure(splits).per_class, self._groups).items():
                yield f"{name}/{group}", value

    @cached_property
    def _decoded(self) -> list[np.ndarray | Encoded]:
        return [self._encoder.decoded(part.images) for part in (self._train, self._validation)]
