"""What the numbers say, in plain words: no direction is named that the runs do not show."""

from collections.abc import Iterator

from sdclr_jax.errors import first_ones
from sdclr_jax.records import SUMMARY
from sdclr_jax.reports import published
from sdclr_jax.reports.groups import MANY, Group, by_data, confounds, group, shown, unmatched
from sdclr_jax.reports.runs import Run, plain
from sdclr_jax.reports.tables import Cell, difference, leads, level, protocols, title


def summary(runs: list[Run]) -> list[str]:
    """Sentences on the first protocol: each group against the nearest one before it on the same data."""
    parts = by_data(group(runs))
    sentences = []
    for part in parts:
        protocol = protocols(part)[0]
        on = f"{title(protocol)}{', ' + part[0].data_name if len(parts) > 1 else ''}: "
        measured = [member for member in part if any(protocol in run.protocols for run in member.runs)]
        if len(measured) == 1:
            sentences.append(on + _alone(measured[0], protocol))
        said = [_against(member, other, protocol) for member, other in _neighbours(measured[: MANY + 1])]
        sentences += [on + sentence for sentence in said]
        if len(measured) > MANY + 1:
            rest = len(measured) - MANY - 1
            are = "group is" if rest == 1 else "groups are"
            sentences.append(f"{on}{rest} more {are} in the table of differences.")
        if lacking := [member.label for member in part if member not in measured]:
            was = "was" if len(lacking) == 1 else "were"
            sentences.append(f"{on}{_some(lacking)} {was} not evaluated by it.")
    return sentences


def notes(runs: list[Run]) -> list[str]:
    """What a reader must know before comparing: data, settings and software that are not the same."""
    groups = group(runs)
    found = []
    parts = by_data(groups)
    if len(parts) > 1:
        lists = ", ".join(f"{_some([member.label for member in part])} on {part[0].data_name}" for part in parts)
        found.append(
            f"The runs are of different data, or of other subsets or labels of it, and stand side by side only: "
            f"nothing is averaged or compared across {lists}."
        )
    found += [
        f"One split of {name} has two sets of lists or labels, and nothing says to which of them its other splits "
        "belong, so splits are not averaged: report the runs of each set by themselves."
        for name in unmatched(groups)
    ]
    for part in parts:
        for field, values in confounds(part).items():
            listed = ", ".join(f"{label} {shown(value)}" for label, value in values.items())
            found.append(f"Not only the method, {plain(field)} differs ({listed}): compare groups where it is equal.")
        if len(part) > MANY:
            found.append(
                f"There are {len(part)} groups{part[0].on}: each is compared with {part[0].label} only, and pictures "
                f"show the first {MANY}."
            )
        for member, other in _neighbours(part[: MANY + 1]):
            shared = len(_samples(member) & _samples(other))
            if shared < max(len(member.runs), len(other.runs)):
                found.append(
                    f"{member.label} and {other.label} share {shared} of their seeds and splits; "
                    f"differences use only those."
                    if shared
                    else f"{member.label} and {other.label} share no seed and split, so they have no differences."
                )
    for part in parts:
        found += published.notes(part)
    for data in (run.results.data for run in runs):
        if warning := (data.provenance or {}).get("warning"):
            found.append(f"{plain(data.name)} was {plain(warning)}.")
    for run in runs:
        if run.trained_on not in (None, run.results.data.lists.get("train")):
            found.append(
                f"The images that {run.name} was trained on are not those that {plain(run.results.data.name)} "
                "had when it was evaluated."
            )
    for run in runs:
        for warning in run.warnings:
            found.append(f"{run.name} gave a warning at epoch {warning['epoch']:.4g}: {warning['message']}.")
    for run in runs:
        epoch, last = run.results.run.epoch, run.config.get("epochs")
        if isinstance(last, int | float) and 0 < epoch < last:  # at 0 are imported weights, which nothing trains
            found.append(f"{run.name} was evaluated at epoch {epoch:g} of {last:g}.")
    for part in parts:
        found += _unequal_evaluations(part)
    names = sorted({name for run in runs for name in run.versions})
    unequal = [name for name in names if len({shown(run.versions.get(name)) for run in runs}) > 1]
    if unequal:
        found.append(f"The runs do not share one environment; see the details for: {plain(', '.join(unequal))}.")
    return list(dict.fromkeys(found))


def _some(labels: list[str]) -> str:
    return first_ones(labels, MANY, "; ")


def _unequal_evaluations(part: list[Group]) -> Iterator[str]:
    """A sentence for each protocol that runs on one data set were evaluated by with different settings."""
    runs = [run for member in part for run in member.runs]
    seen = [run.results.seen for run in runs if run.results.seen]
    if unequal := [field for field in ("resize", "crop", "interpolation") if _varies(field, seen)]:
        yield (
            f"The encoders were given the images{part[0].on} in different ways ({plain(', '.join(unequal))}): run "
            f"`sdclr evaluate` on all runs with the same ones before you compare them."
        )
    for name in protocols(part):
        kept = [run.protocols[name].settings for run in runs if name in run.protocols]
        fields = sorted({field for one in kept for field in one})
        if unequal := [field for field in fields if _varies(field, kept)]:
            yield (
                f"{title(name)}{part[0].on} was run with different settings ({plain(', '.join(unequal))}): "
                f"run `sdclr evaluate` on all runs with the same ones before you trust its averages."
            )


def _varies(field: str, among: list[dict]) -> bool:
    return len({shown(one.get(field)) for one in among}) > 1


def _neighbours(part: list[Group]) -> list[tuple[Group, Group]]:
    """Each group but the first, with the one it is held against: the nearest before it; of many groups, the first."""
    if len(part) > MANY:
        return [(member, part[0]) for member in part[1:]]
    return [(member, _nearest(member, part[:place])) for place, member in enumerate(part[1:], start=1)]


def _nearest(member: Group, earlier: list[Group]) -> Group:
    """The group before it that differs in the fewest settings; of these, one without a sparse branch."""

    def distance(other: Group) -> tuple[bool, int]:
        shared = member.settings.keys() & other.settings.keys()
        return other.has_sparse_branch, sum(member.settings[name] != other.settings[name] for name in shared)

    return min(earlier, key=distance)


def _samples(member: Group) -> set[tuple]:
    return {(run.seed, run.split, run.lists) for run in member.runs}


def _alone(member: Group, protocol: str) -> str:
    cell = level(member, protocol, "all")
    n = f"n = {cell.n}{' splits' * cell.of_splits}"
    return f"{member.label} reaches {cell.text()} % on All ({n}); there is nothing to compare it with."


def _against(member: Group, other: Group, protocol: str) -> str:
    cells = {score: difference(member, other, protocol, score) for score in SUMMARY}
    overall, n = f"{cells['all'].text(sign=True)} points on All", cells["all"].n
    of = "splits" if cells["all"].of_splits else "pairs of runs"
    if n == 0:
        return f"{member.label} and {other.label} have no two runs of one seed and split, so they are not compared."
    if n == 1:
        return (
            f"{member.label} against {other.label}, {overall}, n = 1. "
            f"One pair of runs cannot distinguish an effect from chance, so no direction is claimed."
        )
    clear = {score: cell for score, cell in cells.items() if cell.stands_out}
    if not clear:
        n = f"n = {n}{' splits' * cells['all'].of_splits}"
        return f"the runs show no difference of {member.label} and {other.label} in any score ({overall}, {n})."
    shares = [score for score in clear if score != "std"]
    ahead = [score for score in shares if leads(cells[score], score)]
    behind = [score for score in shares if score not in ahead]
    said = [f"{word} on {_named(scores, cells)}" for word, scores in (("ahead", ahead), ("behind", behind)) if scores]
    if "std" in clear:
        even = "more" if leads(cells["std"], "std") else "less"
        said.append(f"{even} even over the classes, by {_named(['std'], cells)}")
    sentence = f"against {other.label}, {member.label} is {listed(said)}, in points over {n} {of}"
    sentence += ", with 95 % confidence intervals"
    if unclear := [score.capitalize() for score, cell in cells.items() if cell.n and score not in clear]:
        sentence += f"; on {listed(unclear)} the runs do not separate them"
    return f"{sentence}."


def _named(scores: list[str], cells: dict[str, Cell]) -> str:
    return listed([f"{score.capitalize()} ({cells[score].text(sign=True)})" for score in scores])


def listed(items: list[str]) -> str:
    """`one, two and three`."""
    return " and ".join(filter(None, (", ".join(items[:-1]), items[-1])))
