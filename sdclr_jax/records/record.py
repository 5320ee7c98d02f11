"""JSON files as dataclasses: one writer, and one reader that says in a sentence what is damaged.

A record is a frozen dataclass. The types of its fields are what the reader accepts, and `about(kind)` gives their
descriptions; see `says`. Fields that the reader does not know are passed over, so files may gain fields.
"""

import dataclasses
import json
import math
import pathlib
from collections.abc import Callable, Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, ClassVar, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

from sdclr_jax import files
from sdclr_jax.errors import UserError

T = TypeVar("T", bound="Record")

Count = Annotated[int, lambda value: value >= 0]
Share = Annotated[float, lambda value: -1e-9 <= value <= 1 + 1e-9]  # sums of floats leave crumbs
Object = dict[str, Any]

_DEEPEST = 64  # levels of objects and lists; what a run writes has ten
_LARGEST = 1.7e308  # a whole number in JSON may be too large for a float


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested objects as one level of dotted names.

    >>> flat({"prune": {"rate": 0.9}, "seed": 0})
    {'prune.rate': 0.9, 'seed': 0}
    """
    named: dict[str, Any] = {}
    for name, value in values.items():
        is_group = hasattr(value, "items")  # a mapping, or a ConfigDict, which is none
        named |= flat(value, f"{prefix}{name}.") if is_group else {f"{prefix}{name}": value}
    return named


def says(text: str, **options: Any) -> Any:
    """A field of a record with its description; `options` as of `dataclasses.field`."""
    return dataclasses.field(metadata={"says": text}, **options)


class Record:
    """A JSON file, or an object in one.

    FORMAT: of a file that has a field `format`; the reader refuses another.
    REMEDY: the end of the sentence on a damaged file; {folder} is the run's.
    """

    FORMAT: ClassVar[int]
    REMEDY: ClassVar[str] = "put it back from a copy"

    @classmethod
    def read_fields(cls, value: dict[str, Any], where: str) -> dict[str, Any]:
        """The arguments of the record, from a JSON object that stands at `where`; raises ValueError."""
        hints = get_type_hints(cls, include_extras=True)
        found = {}
        for field in dataclasses.fields(cls):
            place = _below(where, field.name)
            if field.name in value:
                found[field.name] = _decoded(hints[field.name], value[field.name], place)
            elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
                raise ValueError(f"it lacks {place}")
        return found

    def check(self, where: str) -> None:
        """Raise ValueError where fields that are right for themselves contradict each other."""

    def to_json(self) -> dict[str, Any]:
        """The JSON object."""
        return {field.name: to_json(getattr(self, field.name)) for field in dataclasses.fields(self)}


def read(kind: type[T], path: pathlib.Path, *, folder: pathlib.Path | None = None) -> T:
    """The record in a file.

    Args:
        kind: a class of records.
        path: the file.
        folder: the run's, for the sentence on a damaged file; the file's own where it is None.

    Raises:
        FileNotFoundError: there is no such file.
        UserError: it is damaged, or of a newer format: names the first field that is missing or wrong, and the remedy;
            or the system does not let it be read.
    """
    remedy = kind.REMEDY.format(folder=path.parent if folder is None else folder)
    return load(path, remedy, lambda value: decode(kind, value))


def write(path: pathlib.Path, content: Any) -> None:
    """Write a record, or anything that JSON holds, whole or not at all.

    Raises:
        UserError: the file cannot be written.
        ValueError: a number is not finite.
    """
    files.write(path, (json.dumps(to_json(content), indent=1, allow_nan=False) + "\n").encode())


def load(path: pathlib.Path, remedy: str, made: Callable[[Any], Any] = lambda value: value) -> Any:
    """What a JSON file holds, without NaN and infinities.

    Args:
        path: the file.
        remedy: what to do with one that is damaged, the end of a sentence.
        made: what is given of its content; raises ValueError where that is not what it should be.

    Raises:
        FileNotFoundError: there is no such file.
        UserError: says in a few words why it cannot be used.
    """
    content = files.content(path)
    try:
        try:
            text = content.decode()
        except UnicodeDecodeError:
            raise ValueError("not text in UTF-8") from None
        return made(parse(text))
    except ValueError as error:
        raise UserError(f"{path} cannot be used ({str(error)[:200]}): {remedy}") from error


def load_object(path: pathlib.Path, remedy: str) -> dict[str, Any]:
    """`load`, of a file that holds one object of fields."""

    def made(value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise ValueError("not an object of fields")
        return value

    return load(path, remedy, made)


def parse(text: str) -> Any:
    """JSON, without NaN and infinities; raises ValueError."""
    try:
        value = json.loads(text, parse_constant=_refuse, parse_float=_finite)
    except _NotFinite as error:
        raise ValueError(f"{error} is no finite number") from None
    except (ValueError, RecursionError):
        raise ValueError("not complete JSON") from None
    level = [value]
    for _ in range(_DEEPEST):
        if not (level := [item for each in level for item in _items(each)]):
            return value
    raise ValueError(f"nested deeper than {_DEEPEST} levels")


def _items(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def decode(kind: type[T], value: Any, where: str = "") -> T:
    """The record that a JSON object holds.

    Args:
        kind: a class of records.
        value: what JSON gave.
        where: its place in the file, 'data.lists', for what is said of it.

    Raises:
        ValueError: names the first field that is missing or wrong.
    """
    if not isinstance(value, dict):
        raise ValueError(f"{where} is not what it should be" if where else "not an object of fields")
    if not where and (known := getattr(kind, "FORMAT", None)) is not None:
        if "format" not in value:
            raise ValueError("it lacks format")
        if not is_whole(value["format"]):
            _wrong("format")
        if value["format"] != known:
            raise ValueError(f"format {value['format']} is not the format {known} that this version reads")
    record = kind(**kind.read_fields(value, where))
    record.check(where)
    return record


def to_json(value: Any) -> Any:
    """What JSON holds of a record, or of anything that has records in it."""
    if isinstance(value, Record):
        return value.to_json()
    if isinstance(value, Mapping):
        return {key: to_json(item) for key, item in value.items()}
    return [to_json(item) for item in value] if isinstance(value, list | tuple) else value


def about(kind: type[Record], prefix: str = "") -> dict[str, str]:
    """Description of each field of a record and of the records in it, by its full name, such as
    `data.lists` and `protocols.NAME.all`."""
    found = {}
    hints = get_type_hints(kind, include_extras=True)
    for field in dataclasses.fields(kind):
        name = _below(prefix, field.name)
        found[name] = field.metadata.get("says", "")
        for inner, below in _inner(hints[field.name]):
            found |= about(inner, name + below)
    return found


def _inner(hint: Any) -> list[tuple[type[Record], str]]:
    """Records in a type, and what stands between the field's name and theirs."""
    if isinstance(hint, type) and issubclass(hint, Record):
        return [(hint, "")]
    below = {dict: ".NAME", tuple: "[]"}.get(get_origin(hint), "")
    return [(kind, below + deeper) for part in get_args(hint) for kind, deeper in _inner(part)]


def _decoded(hint: Any, value: Any, where: str) -> Any:
    origin, parts = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin is Annotated:
        kind, right = parts
        found = _decoded(kind, value, where)
        return found if right(found) else _wrong(where)
    if origin in (Union, UnionType):
        if value is None and NoneType in parts:
            return None
        (kind,) = (part for part in parts if part is not NoneType)
        return _decoded(kind, value, where)
    if origin is tuple:
        if not isinstance(value, list):
            _wrong(where)
        return tuple(_decoded(parts[0], item, where) for item in value)
    if origin is dict:
        if not isinstance(value, dict):
            _wrong(where)
        return {key: _decoded(parts[1], item, _below(where, key)) for key, item in value.items()}
    if issubclass(hint, Record):
        return decode(hint, value, where)
    right = {str: lambda x: isinstance(x, str), int: is_whole, float: is_number, bool: lambda x: isinstance(x, bool)}
    return value if right[hint](value) else _wrong(where)


class _NotFinite(ValueError):
    pass


def is_whole(value: Any) -> bool:
    """Whether what JSON gave is a whole number."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_count(value: Any) -> bool:
    """Whether it is a whole number from 0."""
    return is_whole(value) and value >= 0


def is_number(value: Any) -> bool:
    """Whether it is a number that a float can hold, and finite."""
    return (is_whole(value) or isinstance(value, float)) and -_LARGEST < value < _LARGEST


def _wrong(where: str) -> NoReturn:
    raise ValueError(f"{where} is not what it should be")


def _below(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def _refuse(constant: str) -> NoReturn:
    raise _NotFinite(constant)


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _refuse(text)
