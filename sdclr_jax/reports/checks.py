"""What a report asks of the JSON that it reads: each check names the first field that is not what it should be."""

import json
import math
from pathlib import Path


def read_json(path: Path):
    """The content of a file; raises ValueError with the reason why there is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        raise ValueError("not text in UTF-8") from None
    except (ValueError, RecursionError):
        raise ValueError("not complete JSON") from None
    except OSError as error:
        raise ValueError(error.strerror) from None


def check(record, keys: tuple[str, ...], right) -> None:
    """Raise ValueError unless the field below these keys is there and `right`."""
    for depth, key in enumerate(keys, start=1):
        if not isinstance(record, dict) or key not in record:
            raise ValueError(f"it lacks {'.'.join(keys[:depth])}")
        record = record[key]
    if not right(record):
        raise ValueError(f"{'.'.join(keys)} is not what it should be")


def is_text(value) -> bool:
    return isinstance(value, str)


def is_mapping(value) -> bool:
    return isinstance(value, dict)


def is_integer(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def is_count(value) -> bool:
    return is_integer(value) and value >= 0


def is_number(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def is_share(value) -> bool:
    return is_number(value) and 0 <= value <= 1


def is_share_or_none(value) -> bool:
    return value is None or is_share(value)


def list_of(right, length: int | None = None):
    return lambda value: (
        isinstance(value, list) and value and length in (None, len(value)) and all(right(item) for item in value)
    )
