"""From a file of weights to the variables of a network."""

import pathlib
import re
import shlex
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from sdclr_jax.errors import UserError, first_ones, printable
from sdclr_jax.interop import names, weights
from sdclr_jax.interop.architecture import Architecture, described
from sdclr_jax.models import Encoder
from sdclr_jax.models.vit import interpolated, square

# Stands below an encoder's prefix and is no part of the encoder.
_BESIDE = re.compile(
    r"(fc|head|classifier|projection_head|prototypes|projector|predictor|queue)\w*\b.*|normalize\.(mean|std)"
    r"|.*\.num_batches_tracked"
)
_BRANCHES = ("dense", "sparse")  # in the order of the authors' lists of norms


class Taken(NamedTuple):
    """What a file gave.

    Attributes:
        architecture: what the file is of.
        branches: branch -> name -> array, in our layout: `params/encoder/stem/kernel`, `batch_stats/...`. Only a file
            with a norm per branch has another one than 'dense'.
        aside: names in the file of what was not taken.
        notes: what was done with the arrays, in sentences.
    """

    architecture: Architecture
    branches: dict[str, dict[str, np.ndarray]]
    aside: tuple[str, ...]
    notes: tuple[str, ...]

    def __str__(self) -> str:
        count = len(self.branches["dense"])
        parts = sorted({name.split("/")[1] for name in self.branches["dense"]})
        found = self.architecture
        lines = [f"{found.says}, from {found.source}: {count} tensors of the {' and the '.join(parts)}"]
        if len(self.branches) > 1:
            lines.append("norms: those of the dense and of the sparse branch, each from its own")
        counters = [name for name in self.aside if name.endswith(".num_batches_tracked")]
        aside = sorted({_group(name) for name in set(self.aside) - set(counters)})
        aside += ["*.num_batches_tracked"] if counters else []
        if aside:
            lines.append(f"not taken: {', '.join(aside[:12])}" + (" and others" if len(aside) > 12 else ""))
        return "\n".join(map(printable, [*lines, *self.notes]))  # names of tensors come from the file


def take(path: pathlib.Path, encoder: Encoder, name: str, shapes: Mapping[str, tuple[int, ...]]) -> Taken:
    """Read the weights of an encoder, of each branch where the file has both; and of its projector where it has one.

    Args:
        path: as `weights.opened` takes it.
        encoder: what is wanted.
        name: what it is called, for what is said.
        shapes: our names -> shapes, `params/encoder/...` and `batch_stats/encoder/...`; and `params/projector/...`,
            which are filled if the file has them all in these shapes.

    Raises:
        UserError: as `weights.opened` and `weights.read`; or the file is of another architecture, which is said by
            the first name or shape that differs.
    """
    with weights.opened(path) as tensors:
        found = described({key: tensor.shape for key, tensor in tensors.items()})
        if found is None:
            some = ", ".join(list(tensors)[:3])
            raise UserError(f"{path} holds no encoder of a kind that is known here (its first tensors are {some})")
        sides = names.SIDES.get(type(encoder), {})
        if found.side not in sides:
            raise UserError(f"{path} is of {found.says}, and not of {name}: {_remedy(found)}")
        heads = getattr(encoder, "heads", None)
        if heads != found.model.get("heads", heads):
            raise UserError(f"{path} is of {found.says}, and {name} has {heads}: {_remedy(found)}")
        own = {key.removeprefix(found.prefix): x for key, x in tensors.items() if key.startswith(found.prefix)}
        lists = found.side.endswith("per branch")
        count = 1 + max((int(m[1]) for key in own if (m := re.search(r"\.bn_list\.(\d+)\.", key))), default=0)
        wanted = {key: shape for key, shape in shapes.items() if key.split("/")[1] == "encoder"}
        branches: dict[str, dict[str, np.ndarray]] = {}
        used: set[str] = set()
        notes: list[str] = [tensors.note] if tensors.note else []
        if heads and "heads" not in found.model:
            notes.append(f"heads: the file does not say how many, and {heads} are taken (model.heads)")
        if found.model.get("stem") == "cifar" and found.prefix in ("backbone.", "encoder."):
            notes.append(
                "stem: taken to pad by 1, since the file does not say it; the stem of solo-learn pads by 2, which "
                "gives other features"
            )
        head = _head(found, own, shapes)
        if not head and found.side.startswith("authors"):
            notes.append("projector: that of the file has other shapes, so ours starts new")
        for number, branch in enumerate(_BRANCHES[: min(count, 2) if lists else 1]):
            there = {key: _theirs(sides[found.side].table, key, number) for key in wanted}
            table = names.HEAD_IN_LISTS if lists else names.HEAD
            there |= {key: _theirs(table, key, number) for key in head}
            expected = {there[key]: shape for key, shape in (wanted | head).items()}
            _check(path, found, name, expected, own, sides[found.side].first)
            branches[branch] = {
                key: _read(own[there[key]], there[key], shape, path, notes) for key, shape in (wanted | head).items()
            }
            used |= set(there.values())
        foreign = [key for key in own if key not in used and not _BESIDE.fullmatch(key)]
        if foreign:
            raise UserError(
                f"{path} is of another architecture than {name}, which has no {', '.join(foreign[:3])}: "
                f"{_remedy(found)}"
            )
        halves = sorted({own[key].dtype for key in used} - {"float32"})
        if halves:
            notes.append(f"types: {', '.join(halves)} in the file, float32 here")
        aside = tuple(key for key in tensors if key.removeprefix(found.prefix) not in used)
    return Taken(found, branches, aside, tuple(dict.fromkeys(notes)))


def _theirs(table: Mapping[str, str], key: str, number: int) -> str:
    """`params/encoder/stem/kernel` -> `conv1.weight`."""
    name = key.split("/", 2)[2]
    return names.theirs(table, [name], number)[name]


def _head(found: Architecture, own: Mapping[str, weights.Tensor], shapes: Mapping[str, tuple]) -> dict[str, tuple]:
    """The projector's leaves, where the file has just these."""
    wanted = {key: shape for key, shape in shapes.items() if key.split("/")[1] == "projector"}
    if not found.side.startswith("authors"):
        return {}
    table = names.HEAD_IN_LISTS if found.side.endswith("per branch") else names.HEAD
    try:
        there = {_theirs(table, key, 0): shape for key, shape in wanted.items()}
    except LookupError:
        return {}
    held = {
        key: x.shape
        for key, x in own.items()
        if key.startswith("fc.") and not re.search(r"\.bn_list\.[1-9]|num_batches_tracked", key)
    }
    fits = held == {key: names.their_shape(shape, key) for key, shape in there.items()}
    return wanted if fits else {}


def _check(
    path: pathlib.Path,
    found: Architecture,
    name: str,
    wanted: Mapping[str, tuple[int, ...]],
    own: Mapping[str, weights.Tensor],
    first: str,
) -> None:
    if missing := [key for key in wanted if key not in own]:
        raise UserError(
            f"{path} is of {found.says}, and not of {name}: it lacks {first_ones(missing, 3)}: {_remedy(found)}"
        )
    # The first layer differs most tellingly.
    for key, shape in sorted(wanted.items(), key=lambda item: not item[0].startswith(first)):
        expected, given = names.their_shape(shape, key), own[key].shape
        if expected != given and not (key == "pos_embed" and _grids(shape, given)):
            raise UserError(
                f"{path} is of {found.says}, and not of {name}: {key} has the shape {given}, and there it is "
                f"{expected}: {_remedy(found)}"
            )


def _read(tensor: weights.Tensor, key: str, shape: tuple, path: pathlib.Path, notes: list[str]) -> np.ndarray:
    x = names.to_ours(weights.read(tensor, key, path), key)
    if x.shape != shape:  # position embeddings, of images of another size
        before, after = _grids(shape, x.shape)
        x = np.asarray(interpolated(x, (after, after)))
        notes.append(f"{key}: interpolated (bicubic) from a grid of {before} x {before} to one of {after} x {after}")
    return np.ascontiguousarray(x, np.promote_types(x.dtype, np.float32))


def _grids(ours: tuple[int, ...], given: tuple[int, ...]) -> tuple[int, int] | None:
    """Sides of the square grids that position embeddings [1, 1 + side ** 2, width] are of: before and after."""
    before, after = square(given), square(ours)
    return (before, after) if before and after and given[::2] == ours[::2] else None


def _remedy(found: Architecture) -> str:
    if not found.model["name"]:
        return "no encoder of this version is like it"
    fields = " ".join(f"--config.model.{key}={shlex.quote(str(value))}" for key, value in found.fields.items())
    return f"for this file give {fields}, and images of {found.channels} channels"


def _group(name: str) -> str:
    """layer1.0.conv1.weight -> layer1.*, so that thousands of names are a few."""
    first, _, rest = name.removeprefix("module.").partition(".")
    return f"{first}.*" if rest else first
