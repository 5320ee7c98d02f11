"""A run's folder: what is in it, whose it is, and who trains there. The files' names stand in `records.names`."""

import contextlib
import datetime
import json
import os
import pathlib
import secrets
import time
from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from sdclr_jax import files, processes, records
from sdclr_jax.errors import UserError, first_ones
from sdclr_jax.records import EncoderRecord, Saved, TrainedOn, names
from sdclr_jax.run import versions

_SIGNS = "*?[\\"  # of patterns
_SAID = 10  # fields that one sentence names
_SHARED_AFTER = 15  # seconds until a network disk shows a new file everywhere


def read_config(workdir: pathlib.Path) -> ConfigDict:
    """The config of the run in a folder.

    Raises:
        UserError: no run there, or a damaged config.json.
    """
    path = workdir / names.CONFIG

    def made(fields: Any) -> ConfigDict:
        if not isinstance(fields, dict):
            raise ValueError("not an object of fields")
        try:
            return ConfigDict(_tuples(records.config.of_today(fields)))
        except (AttributeError, KeyError, TypeError) as error:  # a name that no config may have
            raise ValueError(str(error)) from error

    try:
        return records.load(path, "put it back from a copy", made)
    except FileNotFoundError:
        raise UserError(f"{workdir} holds no run (no config.json): give the --workdir of an sdclr pretrain") from None


def _tuples(value: Any) -> Any:
    """JSON knows lists only; configs hold tuples."""
    if isinstance(value, dict):
        return {k: _tuples(v) for k, v in value.items()}
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value


def _fields(config: ConfigDict) -> dict[str, Any]:
    """As they come back from config.json, by their full names."""
    return records.flat(_tuples(json.loads(config.to_json())))


def check(workdir: pathlib.Path, config: ConfigDict, identity: Callable[[ConfigDict], dict[str, Any]]) -> None:
    """See that a run of this config may start or go on in a folder; nothing is written.

    Args:
        identity: the fields of a config that make a run this run; the others may be what they like.

    Raises:
        UserError: the folder belongs to another run or to something else, has lost its checkpoints, or cannot be
            written.
    """
    if (workdir / names.CONFIG).exists():
        here, given = identity(read_config(workdir)), identity(ConfigDict(_tuples(json.loads(config.to_json()))))
        differing = [name for name in sorted(here.keys() | given.keys()) if here.get(name) != given.get(name)]
        if differing:
            said = [f"{_shown(x)} ({_shown(here.get(x))} there, {_shown(given.get(x))} given)" for x in differing]
            raise UserError(
                f"{workdir} holds a run of another config: {first_ones(said, _SAID, '; ')}: give another --workdir, "
                "or the fields of that run to go on with it"
            )
        if not steps_in(workdir / names.CHECKPOINTS) and _had_checkpoint(workdir):
            raise no_checkpoint(workdir)
    elif workdir.is_dir() and any(not path.name.startswith(".") for path in workdir.iterdir()):
        raise UserError(f"{workdir} is not empty and holds no run: give a new or empty folder as --workdir")
    check_path(workdir)
    check_writable(workdir)


def check_path(workdir: pathlib.Path) -> None:
    """Refuse a path under which no checkpoint could be written and read again.

    Raises:
        UserError: it has signs that Orbax does not take, or is not UTF-8.
    """
    # Orbax looks for the parts of a checkpoint by a pattern that begins with this path, and would not find them; what
    # follows # in an address is lost to it.
    signs, path = _SIGNS + "#" * files.in_bucket(workdir), str(workdir.absolute())
    if any(sign in path for sign in signs):
        raise UserError(f"{path} has one of {signs} in it, so no checkpoint could be read: rename it")
    if files.as_text(path) != path:
        raise UserError(f"{files.as_text(path)} is not UTF-8, so no checkpoint could be written: rename it")


def fit_name(name: str) -> str:
    """A name that `check_path` takes, like another one.

    >>> fit_name("Rome [2024]")
    'Rome _2024]'
    """
    text = os.fsencode(name).decode(errors="replace")
    return "".join("_" if sign in f"{_SIGNS}\N{REPLACEMENT CHARACTER}" else sign for sign in text)


def _shown(value: Any) -> str:
    text = "absent" if value is None else str(value)
    return text if len(text) <= 100 else f"{text[:100]}…"


def check_writable(workdir: pathlib.Path) -> None:
    """Refuse a folder in which nothing could be written, before hours of work; it need not exist yet.

    Raises:
        UserError: it is read-only, or a file; its bucket is not there, or may not be written; or what it holds of an
            evaluation cannot be read.
    """
    files.check_writable(workdir)
    with contextlib.suppress(FileNotFoundError):
        files.content(workdir / names.RESULTS)  # which an evaluation adds to


def check_shared(workdir: pathlib.Path) -> None:
    """See that all processes of a run see one folder, not each the one of its own machine; nothing stays written.

    Raises:
        UserError: in every process; names the first that does not.
    """
    if processes.count() == 1:
        return
    folder = files.nearest(workdir)
    (mark, *_) = processes.exchange("the folder", f".sdclr_jax_{secrets.token_hex(8)}")
    try:
        if processes.is_main():
            (folder / mark).touch()
        processes.exchange("the folder is marked")
        until = time.monotonic() + _SHARED_AFTER
        while not (seen := any(path.name == mark for path in folder.iterdir())) and time.monotonic() < until:
            time.sleep(0.2)
        answers = processes.exchange("the folder is looked for", str(folder) if seen else "")
    finally:
        if processes.is_main():
            (folder / mark).unlink(missing_ok=True)
    if "" in answers:
        raise UserError(
            f"process {answers.index('')} does not see what process 0 writes to {answers[0]}: give a folder on a "
            "disk that all of them share"
        )


def steps_in(directory: pathlib.Path) -> list[int]:
    """The steps that have a folder below a folder of checkpoints, ascending; none where it is missing. In a bucket,
    where a folder takes its name before all of it is there, only those that are whole.

    Raises:
        UserError: it cannot be read, or is a file.
    """

    def is_there(path: pathlib.Path) -> bool:
        return (path / names.COMMITTED).exists() if files.in_bucket(path) else path.is_dir()

    try:
        return sorted(int(path.name) for path in directory.iterdir() if path.name.isdecimal() and is_there(path))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"{directory} cannot be read ({error.strerror}): make it a folder, and readable") from error


def no_checkpoint(workdir: pathlib.Path) -> UserError:
    """What to say of a run without a checkpoint to those that need one."""
    if had := _had_checkpoint(workdir):
        return UserError(
            f"{workdir} has no checkpoint, but {had}: put {workdir / names.CHECKPOINTS} back as it was, with a folder "
            "for each step, or give another --workdir to train from the start"
        )
    return UserError(f"{workdir} has no checkpoint yet: let sdclr pretrain reach its first one")


def saved_step(workdir: pathlib.Path) -> int:
    """The step of the newest checkpoint that a run has had; 0 where there was none, or an older version did not write
    it down.

    Raises:
        UserError: a damaged saved.json.
    """
    try:
        return records.read(Saved, workdir / names.SAVED).step
    except FileNotFoundError:
        return 0


def _had_checkpoint(workdir: pathlib.Path) -> str:
    """How it is known that a run has had a checkpoint; '' where it has had none yet."""
    if step := saved_step(workdir):
        return f"{names.SAVED} says that it had one of step {step}"
    if (workdir / names.SAVED).exists():
        return ""
    for found in (names.RESULTS, names.SUMMARY, names.EMBEDDING):
        if (workdir / found).exists():
            return f"{found} was made from one"
    config = read_config(workdir)
    lines = records.read_metrics(workdir / names.METRICS)
    epoch = max((line.get("epoch") or 0 for line in lines), default=0)
    # The first one is whole when the second one is begun; a run that was killed in the first has none.
    certain = min(2 * config.get("checkpoint_every", 1), config.get("epochs", 1))
    return f"{names.METRICS} goes to epoch {epoch:g}" if epoch >= certain else ""


def trained_on(workdir: pathlib.Path) -> TrainedOn | None:
    """What a run was trained on; None where that is not known.

    Raises:
        UserError: a damaged data.json.
    """
    try:
        return records.read(TrainedOn, workdir / names.DATA)
    except FileNotFoundError:
        return None


def about_other_data(workdir: pathlib.Path, data: TrainedOn) -> str:
    """In words how what a run was trained on differs from `data`, and nothing where it does not or is not known."""
    trained = trained_on(workdir) or data
    if trained == data:
        return ""
    then, now = (f"{found.images} images (SHA-256 of their list {found.sha256[:8]}…)" for found in (trained, data))
    return f"{workdir} was trained on {then}, where its data set now has {now}"


def check_seen(workdir: pathlib.Path, shape: tuple[int, ...] | None) -> None:
    """See that images are seen as they were when a run began: whole, or cropped. The names of images do not tell it.

    Args:
        shape: [H, W, C] of each image, where all are seen whole; None where they are cropped.

    Raises:
        UserError: they were seen in the other way, or have another size. Nothing, where it is not known.
    """
    if trained_on(workdir) is None or not (workdir / names.ENCODER).exists():
        return
    then = records.read(EncoderRecord, workdir / names.ENCODER)
    before = None if then.crop else (then.view.height, then.view.width, then.view.channels)
    if before != shape:

        def seen(one: tuple[int, ...] | None) -> str:
            return f"of one size, {' x '.join(map(str, one))}" if one else "cropped, being of several sizes or too many"

        raise UserError(
            f"{workdir}: the images were {seen(before)}, when this run began, and are {seen(shape)}, now: "
            "put back what has changed of those for training, validation and testing, or train a new run elsewhere"
        )


def write_config(workdir: pathlib.Path, config: ConfigDict) -> None:
    """Write config.json; where there is one, what it said before goes to changes.jsonl."""
    path = workdir / names.CONFIG
    if path.exists():
        before, now = _fields(read_config(workdir)), _fields(config)
        changed = [name for name in before.keys() | now.keys() if before.get(name) != now.get(name)]
        time = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        lines = [
            {"time": time, "field": name, "from": before.get(name), "to": now.get(name)} for name in sorted(changed)
        ]
        if not lines:
            return
        record = workdir / names.CHANGES
        said = record.read_bytes() if record.exists() else b""
        files.write(record, said + "".join(json.dumps(line) + "\n" for line in lines).encode())
    records.write(path, json.loads(config.to_json()))


def claim(
    workdir: pathlib.Path,
    config: ConfigDict,
    data: TrainedOn | None,
    encoder: EncoderRecord,
    identity: Callable[[ConfigDict], dict[str, Any]],
) -> None:
    """Write config.json, data.json, encoder.json, saved.json and versions.json to a folder that is held by `lock`; no
    data.json where it is not known what the weights were trained on.

    Raises:
        UserError: as in `check`, which another process may have passed at the same time; or versions.json is damaged.
    """
    check(workdir, config, identity)
    write_config(workdir, config)
    saved = Saved(step=max(steps_in(workdir / names.CHECKPOINTS), default=0))
    for name, content in {names.DATA: data, names.ENCODER: encoder, names.SAVED: saved}.items():
        if content is not None and not (workdir / name).exists():
            records.write(workdir / name, content)
    if records.read(EncoderRecord, workdir / names.ENCODER) != encoder:  # evaluate.crop has changed, say
        records.write(workdir / names.ENCODER, encoder)
    now, path = versions.current(), workdir / names.VERSIONS
    # What a run was started with stays; what a later start has otherwise stands beside it.
    first = records.load_object(path, "put it back from a copy, or delete it") if path.exists() else now
    records.write(path, first | {f"resumed_{k}": v for k, v in now.items() if first.get(k) != v})


def lock(workdir: pathlib.Path) -> contextlib.AbstractContextManager[Callable[[], None]]:
    """Make a run's folder and hold it, as `files.locked` says.

    Raises:
        UserError: another process trains there, or the folder cannot be written.
    """
    return files.locked(workdir / names.LOCK)
