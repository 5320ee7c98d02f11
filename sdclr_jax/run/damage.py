"""Whether what cannot be read of a checkpoint is damaged, or only cannot be read now; and the same in all processes."""

import contextlib
import errno
import os
import pathlib
from collections.abc import Iterator
from typing import Any

from sdclr_jax import processes, trees
from sdclr_jax.errors import Lost, UserError, causes, first_line, out_of_memory
from sdclr_jax.trees import Tree

OTHER_CONTENT = "its content is not what was written"
# What TensorStore says, as a ValueError, of a bucket or a disk that does not answer.
_AWAY = ("UNAVAILABLE", "DEADLINE_EXCEEDED", os.strerror(errno.ESTALE), os.strerror(errno.EIO))


@contextlib.contextmanager
def in_all(what: str) -> Iterator[None]:
    """A part of reading a checkpoint that fails in all processes, or in none: what follows is done by all."""
    failed: Exception | None = None
    try:
        yield
    except (UserError, Lost):  # which end all
        raise
    except Exception as error:  # orbax raises bare Exception for a damaged file
        failed = error
    if processes.is_shared():
        said = processes.exchange(f"{what} of a checkpoint", "" if failed is None else first_line(failed))
        others = [f"process {number} cannot read it: {text}" for number, text in enumerate(said) if text]
        if failed is None and others:
            raise ValueError(others[0])
    if failed is not None:
        raise failed


def verify(item: Tree, meta: dict[str, Any], name: str) -> None:
    """Raises ValueError where an item has not the checksum that `meta` has of it."""
    of_format_2 = meta["format"] == 2
    found = int(trees.checksum(item)) if of_format_2 else trees.digest(item)
    if found != meta["checksums" if of_format_2 else "sha256"][name]:
        raise ValueError(OTHER_CONTENT)


def verify_step(step: int, found: Any) -> None:
    """Raises ValueError where what was found in the checkpoint of a step is of another one."""
    if int(found) != step:
        raise ValueError(f"it is of step {int(found)}, as if it were a copy of that one")


def hindrance(checkpoint: pathlib.Path, error: BaseException) -> str:
    """Why the system does not let a checkpoint be read, which says nothing of its content; '' where it does.

    Args:
        checkpoint: its folder.
        error: what reading it has raised; that may be over by now.
    """

    def unwilling(found: BaseException) -> bool:
        about_content = FileNotFoundError | NotADirectoryError | IsADirectoryError | FileExistsError
        return isinstance(found, OSError) and not isinstance(found, about_content)

    def said_of(found: BaseException) -> str:
        whole = isinstance(found, OSError) and found.filename and found.strerror
        return f"{found.filename}: {found.strerror}" if whole else first_line(found)

    if said := out_of_memory(error):
        return f"there is not enough memory: {said}"
    for found in causes(error):
        if unwilling(found) or any(sign in str(found) for sign in _AWAY):
            return said_of(found)
    try:
        for path in [checkpoint, *checkpoint.rglob("*")]:
            if path.is_dir():
                next(iter(path.iterdir()), None)
            else:
                path.open("rb").close()
    except OSError as found:
        return said_of(found) if unwilling(found) else ""
    return ""
