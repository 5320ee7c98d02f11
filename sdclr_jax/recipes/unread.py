"""Fields that a run never reads. One that a person has set is worth a word: a sweep over it gives equal runs."""

import logging
from collections.abc import Callable, Iterable

from ml_collections import ConfigDict

from sdclr_jax.recipes.checks import names_branch
from sdclr_jax.recipes.configs import methods
from sdclr_jax.recipes.images import view_count

LOG = logging.getLogger(__name__)


def _without(head: str) -> Callable[[ConfigDict], bool]:
    """Whether the objective is one of this package's and does not read what a head makes, since its method has none."""
    rows = [fields for _, fields in methods.ROWS.values()]
    reads = {fields["objective"]["name"]: head in fields for fields in rows}
    return lambda config: not reads.get(config.objective.name, True)


def _is_empty(head: str, size: str) -> Callable[[ConfigDict], bool]:
    return lambda config: not config[head][size]


# (fields, or a group of them, when they are not read, why)
_RULES: tuple[tuple[tuple[str, ...], Callable[[ConfigDict], bool], str], ...] = (
    (("prune",), lambda c: not names_branch(c, "masked"), "no pair has the sparse branch"),
    (("target",), lambda c: not names_branch(c, "averaged"), "no pair has the target branch"),
    (("predictor.hidden", "predictor.last"), _is_empty("predictor", "layers"), "predictor.layers is 0"),
    (("predictor",), _without("predictor"), "the objective reads no predictions"),
    (("prototypes.frozen_epochs",), _is_empty("prototypes", "count"), "prototypes.count is 0"),
    (("prototypes",), _without("prototypes"), "the objective reads no prototypes"),
    (("data.pareto",), lambda c: c.data.profile != "pareto", "data.profile is not pareto"),
    (("data.n_max", "data.imbalance"), lambda c: c.data.profile == "as_is", "data.profile is as_is"),
    (("optimizer.trust_coefficient",), lambda c: c.optimizer.name != "lars", "optimizer.name is not lars"),
    (("views.small_size", "views.small_crop_scale"), lambda c: view_count(c) < 3, "the pairs have two views"),
    (("views.small_crop_scale",), lambda c: not c.views.get("small_size"), "views.small_size is 0"),
)


def unread(config: ConfigDict, given: Iterable[str]) -> dict[str, str]:
    """Of the fields `given`, by their full names, those that a run with this config never reads, each with the reason.

    >>> unread(recipes.load("digits_lt:simclr"), ["prune.rate", "epochs"])
    {'prune.rate': 'no pair has the sparse branch'}
    """
    found: dict[str, str] = {}
    for name in given:
        for names, is_unread, why in _RULES:
            if (name in names or name.partition(".")[0] in names) and is_unread(config):
                found.setdefault(name, why)
    return found


def warn_of_unread(config: ConfigDict, given: Iterable[str]) -> None:
    """Log a warning for each field of `given` that changes nothing."""
    try:
        found = unread(config, given)
    except (TypeError, ValueError, LookupError):  # a wrong value, which `check` refuses
        return
    for name, why in found.items():
        LOG.warning("%s changes nothing of %s: %s", name, config.get("method", "this run"), why)
