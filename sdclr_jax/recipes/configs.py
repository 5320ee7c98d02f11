"""Where configs come from: those of this package by name, and files of a user's own."""

import contextlib
import difflib
import importlib
import importlib.machinery
import importlib.util
import os
import pathlib
import sys
import threading
import types
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from sdclr_jax import records
from sdclr_jax.errors import ArgumentError, UserError, first_line, shortened
from sdclr_jax.recipes.encoders import choose_encoder

_PACKAGE = pathlib.Path(__file__).parents[1]
# Within the package where it is installed (setup.py), beside it in a clone.
FOLDER = next(folder for folder in (_PACKAGE / "configs", _PACKAGE.parent / "configs") if folder.is_dir())
_PARTS = {"__init__", "base", "methods", "photos"}  # what the configs are made of
_IMPORTING = threading.RLock()  # a config may load another one
NAMES = tuple(sorted({path.stem for path in FOLDER.glob("*.py")} - _PARTS))


@contextlib.contextmanager
def importable(beside: pathlib.Path = FOLDER) -> Iterator[None]:
    """Inside, `configs` is that of this package, whatever else on the path or in memory has this name; after the files
    of the folder `beside`, where that is called configs too. One thread at a time is inside."""
    with _IMPORTING:
        before = _without_configs()
        package = sys.modules["configs"] = types.ModuleType("configs")
        package.__path__ = list(dict.fromkeys(str(folder) for folder in (beside, FOLDER) if folder.name == "configs"))
        try:
            yield
        finally:
            _without_configs()
            sys.modules.update(before)


def _without_configs() -> dict[str, types.ModuleType]:
    """Take the modules of any package `configs` out of memory, and return them."""
    return {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] == "configs"}


with importable():
    base = importlib.import_module("configs.base")
    methods = importlib.import_module("configs.methods")
METHODS: Mapping[str, tuple[str, bool]] = methods.METHODS


DECLARED: Mapping[str, base.Field] = records.flat(base.FIELDS)  # by full names, `prune.rate`
PER_VIEW = tuple(name for name, field in base.VIEWS["simclr"].items() if field.per_view)


def declared(config: ConfigDict) -> dict[str, base.Field]:
    """What base.py declares of the fields that a config of these kinds has, by their full names."""
    found = {name: field for name, field in DECLARED.items() if name.partition(".")[0] not in base.KINDS}
    for group, kinds in base.KINDS.items():
        kind = config[group].get("name") if isinstance(config.get(group), ConfigDict) else None
        found |= {f"{group}.name": DECLARED[f"{group}.name"]} if kind not in (None, "") else {}
        # Other encoders declare their fields themselves.
        other = base.COMMON if group == "model" else {}
        of_kind = kinds.get(kind, other) if isinstance(kind, str) else {}
        found |= {f"{group}.{name}": field for name, field in of_kind.items()}
    return found


def load(location: str | os.PathLike) -> ConfigDict:
    """The config of "NAME:METHOD", one of `NAMES`, or of "FILE.py:METHOD", whose `get_config(METHOD)` returns it.

    A file may say `from configs import base, methods`, wherever it lies.

    Raises:
        UserError: no such config or method; or the file raises something.
    """
    return load_with_sources(location)[0]


def load_with_sources(location: str | os.PathLike) -> tuple[ConfigDict, dict[str, str]]:
    """As `load`; and where the value of each field comes from: base, data set, method, recipe, the encoder's own
    default, or the file's own code, under the file's name."""
    if not isinstance(location, str | os.PathLike):
        raise UserError(f'the name of a config is a {type(location).__name__}: give text, "NAME:METHOD"')
    name, _, method = os.fspath(location).partition(":")
    path = _path(name)
    try:
        with importable(path.parent):
            file = _execute(path)
            config = file.get_config(*[method] if method else [])
            if not isinstance(config, ConfigDict):
                raise TypeError("get_config must return a ConfigDict")
            laid, sources = _laid(file, config)
            given = fields(config)
            choose_encoder(config, config.get("model", {}).get("name"))
    except Exception as error:  # a user's file may raise anything
        raise UserError(f"--config={location}: {first_line(error, 500)}") from error
    return config, {
        field: "encoder" if field not in given else sources[field] if laid.get(field, ...) == value else path.name
        for field, value in fields(config).items()
    }


def _laid(file: types.ModuleType, config: ConfigDict) -> tuple[dict[str, Any], dict[str, str]]:
    """The fields that the layers of a config file give, and which layer each value comes from."""
    laid, layers, sources = base.get_config(), {}, {}
    if hasattr(file, "DATA_SET") and hasattr(file, "RECIPE"):
        layers = importlib.import_module("configs.methods").layers(config.method, file.DATA_SET, file.RECIPE)
    for layer, values in layers.items():
        base.lay(laid, values)
        sources |= dict.fromkeys(records.flat(values), layer)
    return fields(laid), dict.fromkeys(fields(laid), "base") | sources


fields = records.flat  # of a config: by their full names, `prune.rate`


def override(config: ConfigDict, values: Mapping[str, Any]) -> None:
    """Set fields of a config, given by nested or dotted names.

    Raises:
        UserError: there is no such field; or a value of another type than the field's.
    """
    if not hasattr(values, "items"):
        raise UserError(f"the fields are {shortened(repr(values))}: give a mapping, such as {{'prune.rate': 0.7}}")
    flat = records.flat(values)
    encoder = flat.get("model.name", config.model.name)
    choose_encoder(config, encoder if isinstance(encoder, str) else "")  # first, since another one has other fields
    known = fields(config)
    for name, value in flat.items():
        if name == "method":
            raise UserError('method only names the method: choose another as "NAME:METHOD"')
        if name not in known:
            raise no_field(name, known)
        if value is None and isinstance(known[name], str):
            raise UserError(f"{name} is None, which is no text: give '' for none")
        try:
            plain = _plain(value)
            if plain is None or isinstance(plain, bool) != isinstance(known[name], bool):
                raise TypeError
            config.update_from_flattened_dict({name: plain})
        except (TypeError, ValueError, OverflowError, RecursionError):
            kind, shown = type(known[name]).__name__, shortened(repr(value) if isinstance(value, str) else value)
            raise UserError(f"{name} is {shown}, {type(value).__name__}: it must be {kind}") from None


def no_field(name: str, known: Iterable[str]) -> UserError:
    """What is said of a field that is not among those that there are."""
    near = difflib.get_close_matches(name[:100], known, n=1, cutoff=0)[0]
    return UserError(f"there is no field {shortened(name)}: the nearest is {near}")


def mapping(argument: str, given: Mapping[str, Any] | None) -> dict[str, Any]:
    """The fields that an argument of this name gives; none where it is None.

    Raises:
        ArgumentError: it is something else.

    >>> mapping("settings", {"knn_k": 5}), mapping("settings", None)
    ({'knn_k': 5}, {})
    """
    if given is not None and not hasattr(given, "items"):
        raise ArgumentError(argument, f"is {shortened(repr(given))}: give a mapping of fields, such as {{'name': 5}}")
    return dict(given or {})


def _plain(value: Any) -> Any:
    """A value as a config has it: numbers of NumPy and JAX as Python's, and several values as tuples."""
    value = value.tolist() if hasattr(value, "tolist") else value
    return tuple(map(_plain, value)) if isinstance(value, list | tuple) else value


def _path(name: str) -> pathlib.Path:
    path = pathlib.Path(os.path.expanduser(name))
    if path.suffix == ".py" or len(path.parts) > 1:
        if not path.is_file():
            also = f"; --config={path.stem} is the one of this package" if path.stem in NAMES else ""
            raise UserError(f"--config: there is no file {path}{also}")
        return path.absolute()
    if name not in NAMES:
        near = difflib.get_close_matches(name[:100], NAMES, n=1, cutoff=0)[0]
        raise UserError(
            f"--config: there is no config {shortened(repr(name))}: the nearest is {near!r}, "
            f"known are {', '.join(NAMES)}"
        )
    return FOLDER / f"{name}.py"


def _execute(path: pathlib.Path) -> types.ModuleType:
    """The module of a file, where `importable` cleans up after it."""
    name = "configs.__main__"
    loader = importlib.machinery.SourceFileLoader(name, str(path))
    module = sys.modules[name] = importlib.util.module_from_spec(importlib.util.spec_from_loader(name, loader))
    loader.exec_module(module)
    return module
