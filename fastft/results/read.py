"""JSON of our own commands, read back into the dataclass that it was written from.

The file may have been edited or cut, or be somebody else's: its size is bounded, pydantic checks
each field's type, a text becomes one printable line, and a number that is none (NaN, infinity) is
null. Knows nothing of what the fields mean.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from pipelines.errors import DataError, FormatError, one_line

T = TypeVar("T")
#: A run of a million steps writes 200 MB of metrics, of which nobody sees more in a page than of
#: a tenth of it; every other file is below a megabyte.
MOST_BYTES = 64 * 2**20
#: Characters of a text that a page can still show.
MOST_LETTERS = 300
#: Fields of an object that are shown as a whole.
_MOST_FIELDS = 500
_MOST_INTEGER = 2**63
_REMEDY = "take the file as fastft wrote it"


def read_bytes(path: Path, most: int = MOST_BYTES) -> bytes:
    """The content of a file.

    Raises:
        DataError: it cannot be read, or is larger than `most`.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(most + 1)
    except OSError as error:
        reason = (error.strerror or "cannot be read").lower()
        raise DataError(path, reason, "a file to read") from error
    if len(content) > most:
        raise DataError(path, f"more than {most:,} bytes", "a smaller file", "leave it out")
    return content


def parse_object(content: bytes, where: str) -> dict[str, Any]:
    """One JSON object, its texts printable and its numbers finite.

    Raises:
        FormatError: it is none.
    """
    try:
        found = _clean(json.loads(content))
    # A number of 5,000 digits is a ValueError, ten thousand brackets are a RecursionError.
    except (ValueError, RecursionError) as error:
        raise FormatError(where, "not JSON", "a JSON object", _REMEDY) from error
    if not isinstance(found, dict):
        raise FormatError(where, f"{_name(found)} in JSON", "an object", _REMEDY)
    return found


def check(kind: type[T], found: Mapping[str, Any], where: str) -> T:
    """The dataclass of an object of JSON; fields that it does not know are passed over.

    Raises:
        DataError: a field is missing or of another type.
    """
    return check_line(kind, json.dumps(found), where)


def check_line(kind: type[T], line: str | bytes, where: str) -> T:
    """The dataclass of a line of JSON as it stands; NaN is a number in it.

    Raises:
        DataError: a field is missing or of another type.
        FormatError: it is not JSON.
    """
    try:
        return _adapter(kind).validate_json(line, strict=True)  # type: ignore[no-any-return,arg-type]
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        if first["type"] == "json_invalid":
            raise FormatError(where, "not JSON", "a JSON object", _REMEDY) from error
        steps = (f"[{each}]" if isinstance(each, int) else f": {each}" for each in first["loc"])
        place = where + "".join(steps)
        if first["type"] == "missing":
            raise DataError(place, "missing", "", _REMEDY) from error
        expected = first["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
        raise DataError(place, _name(first["input"]), expected, _REMEDY) from error


def flatten(found: Mapping[str, Any]) -> dict[str, str]:
    """All values as texts; those of objects within under `outer.inner`."""
    texts: dict[str, str] = {}
    for name, value in list(found.items())[:_MOST_FIELDS]:
        if isinstance(value, dict):
            texts |= {f"{name}.{inner}": _show(each) for inner, each in value.items()}
        else:
            texts[name] = _show(value)
    return texts


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        lines = value[: MOST_LETTERS + 1].split("\n")
        text = "\n".join(map(one_line, lines))
        return (
            text
            if len(value) <= MOST_LETTERS
            else text[: MOST_LETTERS - 1] + "\N{HORIZONTAL ELLIPSIS}"
        )
    if isinstance(value, dict):
        return {_clean(name): _clean(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_clean(each) for each in value]
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    is_number = abs(value) < _MOST_INTEGER if isinstance(value, int) else math.isfinite(value)
    return value if is_number else None


def _show(value: object) -> str:
    """A value in a cell: nothing for null, no quotes around a text."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) else json.dumps(value)[:MOST_LETTERS]


def _name(value: object) -> str:
    if isinstance(value, str):
        return f"the text {value[:40]!r}"
    if isinstance(value, bool | int | float):
        return f"the value {_show(value)}"
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    return "null"
