"""Command lines: `--config=NAME:METHOD` and `--config.FIELD=VALUE` by ml_collections, errors as one sentence."""

import contextlib
import difflib
import re
import sys
import textwrap
from collections.abc import Iterator

from absl import flags
from ml_collections import ConfigDict, config_flags

from sdclr_jax import processes, recipes
from sdclr_jax.commands.parser import asks_for_help
from sdclr_jax.errors import UserError, first_line, shortened

# The last lines of a help text that names NAME:METHOD.
KNOWN = "\n".join(
    textwrap.fill(f"{word} is one of {', '.join(names)}{rest}.", 120)
    for word, names, rest in (("NAME", recipes.NAMES, ""), ("METHOD", recipes.METHODS, "; without it, it is sdclr"))
)


def pretrain(argv: list[str], usage: str) -> flags.FlagValues:
    """The flags of `sdclr pretrain`: config, workdir, data_dir, distributed, progress, profile, check-determinism."""
    show_help(argv, usage)
    # ml_collections wants the file before the fields that override it.
    argv = sorted(argv, key=lambda arg: not arg.startswith("--config="))
    if not argv or not argv[0].startswith("--config="):
        raise UserError("--config is missing: give it as --config=NAME:METHOD, such as digits_lt:sdclr")
    values = flags.FlagValues()
    flags.DEFINE_string("workdir", None, "", flag_values=values)
    flags.DEFINE_bool("progress", True, "", flag_values=values)
    flags.DEFINE_integer("profile", 0, "", lower_bound=0, flag_values=values)
    flags.DEFINE_integer("check-determinism", None, "", flag_values=values)
    config = recipes.load(argv[0].removeprefix("--config="))
    _parse(values, config, argv[1:])
    recipes.warn_of_unread(values.config, fields(argv))
    if not values.workdir and values["check-determinism"].value is None:
        raise UserError("--workdir is missing: give the run's folder, such as --workdir=runs/sdclr")
    return values


@contextlib.contextmanager
def joined(argv: list[str]) -> Iterator[None]:
    """Inside, a command line is read. Where it says `--distributed`, and does not only ask for help, this process has
    joined the others before, and tells those that wait for it what is wrong with its own command line."""
    values = flags.FlagValues()
    flags.DEFINE_bool("distributed", False, "", flag_values=values)
    with contextlib.suppress(flags.Error):  # which is said when all of it is read
        values(["sdclr", *(arg for arg in argv if arg.partition("=")[0] in ("--distributed", "--nodistributed"))])
    if values["distributed"].value and not asks_for_help(argv):
        processes.join()
    with processes.telling():
        yield


def overridden(config: ConfigDict, argv: list[str]) -> ConfigDict:
    """The config, with fields overridden by `--config.FIELD=VALUE` in place."""
    values = flags.FlagValues()
    _parse(values, config, argv)
    return values.config


def fields(argv: list[str]) -> list[str]:
    """The fields that `--config.FIELD=VALUE` and `--noconfig.FIELD` name."""
    names = (arg.partition("=")[0].removeprefix("--").removeprefix("no") for arg in argv)
    return [name.removeprefix("config.") for name in names if name.startswith("config.")]


def evaluate(argv: list[str], config: ConfigDict) -> flags.FlagValues:
    """The flags of `sdclr evaluate` for a run with this config, whose fields may be overridden as far as they change
    nothing of what was learnt."""
    values, before = flags.FlagValues(), recipes.identity(config)
    _parse(values, config, argv)
    recipes.check_same_run(before, values.config)
    return values


def show_help(argv: list[str], usage: str) -> None:
    if asks_for_help(argv):
        print(usage)
        sys.exit(0)


def _parse(values: flags.FlagValues, config: ConfigDict, argv: list[str]) -> None:
    """Parse into `values`, with `config` as the flag of that name, a `data_dir`, and `distributed`."""
    flags.DEFINE_string("data_dir", None, "", flag_values=values)
    flags.DEFINE_bool("distributed", False, "", flag_values=values)
    if "method" in fields(argv):
        raise UserError("--config.method only names the method: choose another as --config=NAME:METHOD")
    for arg in argv:  # first, since another encoder has other fields
        if arg.startswith("--config.model.name="):
            recipes.choose_encoder(config, arg.partition("=")[2])
    held = {f"config.{field}": value for field, value in recipes.fields(config).items()}
    known = [*held, *values]
    for arg in argv:
        name = arg.partition("=")[0].removeprefix("--")
        plain = name.removeprefix("no")
        if not arg.startswith("--"):
            raise UserError(f"{shortened(repr(arg))} is not a flag: flags are written --name=value")
        if name not in known and plain not in known:
            near = difflib.get_close_matches(name[:100], known, n=1, cutoff=0)[0]
            raise UserError(f"there is no field or flag --{shortened(name)}: the nearest is --{near}")
    # The last value counts: of a tuple that is given twice, ml_collections would make one of both.
    argv = {arg.partition("=")[0].removeprefix("--").removeprefix("no"): arg for arg in argv}
    argv = [_as_written(arg, held.get(name)) for name, arg in argv.items()]
    config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=["sdclr", *argv])
    try:
        values(["sdclr", *argv])
    except (flags.Error, ValueError, TypeError, LookupError, AttributeError) as error:
        raise UserError(first_line(error, 500)) from error


def _as_written(arg: str, held: object) -> str:
    """An argument as ml_collections reads it: of a field of several names, `a,b` is a tuple.

    Raises:
        UserError: None is given for text, which would be these four letters.
    """
    name, _, value = arg.partition("=")
    if isinstance(held, str) and value == "None":
        raise UserError(f"{name} is None, which is no text: give {name}= for none")
    parts = [part.strip() for part in value.strip("()[]").split(",") if part.strip()]
    of_names = isinstance(held, tuple) and all(isinstance(x, str) for x in held)
    if of_names and parts and all(re.fullmatch(r"[\w-]+", part) for part in parts):
        return f"{name}={tuple(parts)!r}"
    return arg
