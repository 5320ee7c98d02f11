"""Fields that a run never reads. One that a person has set is worth a word: a sweep over it gives equal runs."""

import logging
from collections.abc import Callable, Iterable

from ml_collections import ConfigDict

from sdclr_jax import records
from sdclr_jax.recipes.configs import methods

LOG = logging.getLogger(__name__)


def _without(head: str) -> Callable[[ConfigDict], bool]:
    """Whether the objective is one of this package's and does not read what a head makes, since its method has none."""
    rows = [fields for _, fields in methods.ROWS.values()]
    reads = {fields["objective"]["name"]: head in fields for fields in rows}
    return lambda config: not reads.get(config.objective.name, True)


# Heads, and whether an objective reads none of what they make.
_HEADS = {
    "predictor": (_without("predictor"), "the objective reads no predictions"),
    "prototypes": (_without("prototypes"), "the objective reads no prototypes"),
}


def unread(config: ConfigDict, given: Iterable[str]) -> dict[str, str]:
    """Of the fields `given`, by their full names, those that a run with this config never reads, each with the reason.

    >>> unread(recipes.load("digits_lt:simclr"), ["prune.rate", "epochs"])
    {'prune.rate': 'no pair has the sparse branch'}
    """
    found = records.config.unread(records.flat(config))
    for head, (is_unread, why) in _HEADS.items():
        if is_unread(config):
            found = {name: why for name in given if name.partition(".")[0] == head} | found
    return {name: found[name] for name in given if name in found}


def warn_of_unread(config: ConfigDict, given: Iterable[str]) -> None:
    """Log a warning for each field of `given` that changes nothing."""
    try:
        found = unread(config, given)
    except (AttributeError, TypeError, ValueError, LookupError):  # a wrong value, or none, which `check` refuses
        return
    for name, why in found.items():
        LOG.warning("%s changes nothing of %s: %s", name, config.get("method", "this run"), why)
