"""Files of weights: safetensors, NumPy's .npz, and PyTorch's own. Nothing in a file is executed.

Names, shapes and types are known before a tensor is read, so that a file which does not fit takes no memory.
"""

import contextlib
import hashlib
import math
import os
import pathlib
import pickle
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import ml_dtypes  # noqa: F401  # with it, NumPy knows bfloat16
import numpy as np
import safetensors
import safetensors.numpy

from sdclr_jax import files
from sdclr_jax.errors import UserError, first_line, is_missing, shortened
from sdclr_jax.files import on_disk

_TORCH = (".pt", ".pth", ".tar", ".ckpt", ".bin")  # what torch.save writes is called
SUFFIXES = (".safetensors", ".npz", *_TORCH)
# Where programs put the state of their model in a checkpoint; of a teacher and its student, the former is evaluated.
_STATES = ("state_dict", "model_state_dict", "model_state", "model", "teacher", "student", "net")
# Types of safetensors, by their NumPy names; weights have no others.
_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


class Tensor(NamedTuple):
    """A tensor of a file, not read yet."""

    shape: tuple[int, ...]
    dtype: str  # 'float32', 'bfloat16', ...
    read: Callable[[], np.ndarray]


class Tensors(dict[str, Tensor]):
    """The tensors of a file by name; `note` says which of several models in the file they are, '' where it has one."""

    note: str = ""


@contextlib.contextmanager
def opened(path: str | os.PathLike) -> Iterator[Tensors]:
    """The tensors of a file by name; what is not a tensor in it is passed over. They are read inside only.

    Raises:
        UserError: there is no such file, it is damaged, of a kind that is not known, or holds more than weights; or it
            is a file of PyTorch's, and that is not installed.
    """
    path = on_disk(path, "weights are read from")
    if not path.is_file():
        raise UserError(f"there is no file {path}: give one of {', '.join(SUFFIXES)}")
    kind = path.suffix.lower()
    if kind not in SUFFIXES:
        raise UserError(f"{path} is no file of weights by its name: those end in {', '.join(SUFFIXES)}")
    open_one = {".safetensors": _safetensors, ".npz": _npz}.get(kind, _torch)
    with contextlib.ExitStack() as stack:
        try:
            tensors = open_one(path, stack)
        except (UserError, MemoryError):
            raise
        except Exception as error:  # archives, what compressed them, and NumPy's headers have types of their own
            raise UserError(f"{path} is no whole {kind} file ({first_line(error)}): copy it again") from error
        if not tensors:
            raise UserError(f"{path} holds no tensors: give a file with the weights of a model")
        yield tensors


def read(tensor: Tensor, name: str, path: pathlib.Path) -> np.ndarray:
    """A tensor as floats.

    Raises:
        UserError: it is damaged, no float, or not finite.
    """
    if tensor.dtype not in _DTYPES.values():
        raise UserError(f"{path}: {name} has the type {tensor.dtype}, and weights are {', '.join(_DTYPES.values())}")
    try:
        x = tensor.read()
    except MemoryError:
        raise
    except Exception as error:  # as above
        raise UserError(f"{path} is damaged at {name} ({first_line(error)}): copy it again") from error
    if x.itemsize < 4:
        x = x.astype(np.float32)
    # A sum is not finite if one of its terms is not, and takes no memory.
    if not np.isfinite(x.sum(dtype=np.float64)):
        raise UserError(
            f"{path}: {name} holds NaN or infinity, as after a run that diverged: give an earlier checkpoint"
        )
    return x


def sha256(path: pathlib.Path) -> str:
    """Of a file's content.

    Raises:
        UserError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): give the file of the weights") from error


def write(path: pathlib.Path, tensors: Mapping[str, np.ndarray], about: Mapping[str, str]) -> None:
    """Write a safetensors file that PyTorch's tools take, whole or not at all; `about` goes into its header."""
    whole = {name: np.ascontiguousarray(x) for name, x in tensors.items()}
    with files.replacing(path) as part:
        try:
            safetensors.numpy.save_file(whole, part, metadata={"format": "pt", **about})
        except safetensors.SafetensorError as error:  # of a full disk, too
            raise OSError(first_line(error)) from error


def _safetensors(path: pathlib.Path, stack: contextlib.ExitStack) -> Tensors:
    file = stack.enter_context(safetensors.safe_open(path, framework="numpy"))
    found = Tensors()
    for name in file.keys():  # noqa: SIM118  # it is no mapping
        piece = file.get_slice(name)
        kind = piece.get_dtype()
        found[name] = Tensor(tuple(piece.get_shape()), _DTYPES.get(kind, kind), lambda name=name: file.get_tensor(name))
    return found


def _npz(path: pathlib.Path, stack: contextlib.ExitStack) -> Tensors:
    archive = stack.enter_context(zipfile.ZipFile(path))
    found = Tensors()
    for entry in archive.infolist():
        if entry.flag_bits & 1:
            raise UserError(f"{path}: {entry.filename} is encrypted: save it without a password")
        with archive.open(entry) as file:
            version = np.lib.format.read_magic(file)
            header = {(1, 0): np.lib.format.read_array_header_1_0}.get(version, np.lib.format.read_array_header_2_0)
            shape, _, dtype = header(file)
        if dtype.hasobject:
            raise UserError(
                f"{path}: {entry.filename} is a pickled object, which could run anything: save plain arrays"
            )
        if entry.file_size < math.prod(shape) * dtype.itemsize:
            raise ValueError(f"{entry.filename} is too short")
        name = "bfloat16" if dtype.str == "|V2" else dtype.name  # NumPy writes bfloat16 as two bytes of no type
        read = lambda entry=entry: _array(archive, entry)  # noqa: E731
        found[entry.filename.removesuffix(".npy")] = Tensor(shape, name, read)
    return found


def _array(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(entry) as file:
        x = np.lib.format.read_array(file, allow_pickle=False)
    return x.view("bfloat16") if x.dtype.str == "|V2" else x


def _torch(path: pathlib.Path, stack: contextlib.ExitStack) -> Tensors:
    try:
        import torch
    except Exception as error:  # where its own libraries are missing, or of other versions
        missing = is_missing(error)
        said = "reading it takes PyTorch" if missing else f"PyTorch cannot be imported here ({first_line(error)})"
        raise UserError(
            f"{path} is a file of PyTorch's, and {said}: pip install torch, or save its state dict with "
            "safetensors.torch.save_file"
        ) from (None if missing else error)
    try:
        # Tensors and plain containers only: anything else in the file is refused, and nothing of it runs.
        held = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} holds more than weights, or is no file of PyTorch's, so it is not opened ({_cause(error)}): save "
            "the state dict of the model alone"
        ) from error
    except RuntimeError as error:
        raise ValueError(first_line(error)) from error
    if not isinstance(held, dict):
        raise UserError(
            f"{path} holds one {type(held).__name__} and no state dict: save the state dict of the model, as of "
            "torch.save(model.state_dict(), FILE)"
        )
    state, note = _state(held)
    found = Tensors(
        (name, Tensor(tuple(x.shape), str(x.dtype).removeprefix("torch."), lambda x=x: _numpy(x)))
        for name, x in state.items()
        if isinstance(x, torch.Tensor) and isinstance(name, str)
    )
    found.note = note
    return found


def _state(held: dict[Any, Any]) -> tuple[dict[Any, Any], str]:
    """The state of the model in a checkpoint, and what is said where others stand beside it."""
    note = ""
    for key, level in _levels(held):
        beside = [name for name, x in level.items() if key not in ("", name) and isinstance(x, dict) and _is_model(x)]
        if beside:
            others = shortened(", ".join(map(repr, beside)))
            note = f"models: {key} is taken, and not {others}: to take another, save that alone"
    return level, note


def _levels(held: dict[Any, Any]) -> Iterator[tuple[str, dict[Any, Any]]]:
    """A checkpoint and what is in it down to the state of the model, each with the key of the next, '' for the last."""
    for _ in range(4):
        key = next((key for key in _STATES if isinstance(held.get(key), dict)), "")
        yield key, held
        if not key:
            return
        held = held[key]
    yield "", held


def _is_model(held: dict[Any, Any]) -> bool:
    """Whether a part of a checkpoint is the state of a model with an encoder: each begins with a convolution."""
    *_, (_, state) = _levels(held)
    return any(getattr(x, "ndim", 0) == 4 for x in state.values())


def _numpy(x: Any) -> np.ndarray:
    x = x.detach()
    return (x.float() if x.element_size() < 4 else x).numpy()


def _cause(error: Exception) -> str:
    """Why torch refuses a file, without its advice to open it anyway."""
    why = re.search(r"(unsupported GLOBAL \S+|Unsupported \w+ \S+|GLOBAL \S+)", str(error), re.IGNORECASE)
    return why[0] if why else "unknown content"
