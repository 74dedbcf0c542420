"""JSON that somebody else wrote: read with bounds, and field by field with its type checked.

Knows nothing of what the fields mean. A number that is null, NaN or infinite is None: it is shown
as not known. Texts are made printable and cut, so that none can break a page.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.errors import DataError, FormatError, one_line

#: A run of a million steps writes 200 MB of metrics, of which nobody sees more in a page than of
#: a tenth of it; every other file is below a megabyte.
MOST_BYTES = 64 * 2**20
#: Characters of a text, and fields of an object shown as a whole, that a page can still show.
MOST_LETTERS, _MOST_FIELDS = 300, 500

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


def parse_object(content: bytes, where: str) -> Fields:
    """One JSON object.

    Raises:
        FormatError: it is none.
    """
    try:
        found = json.loads(content)
    # A number of 5,000 digits is a ValueError, ten thousand brackets are a RecursionError.
    except (ValueError, RecursionError) as error:
        raise FormatError(where, "not JSON", "a JSON object", _REMEDY) from error
    if not isinstance(found, dict):
        raise FormatError(where, f"{_name_type(found)} in JSON", "an object", _REMEDY)
    return Fields(found, where)


class Fields:
    """The fields of a JSON object, by name.

    Every method raises DataError, naming file and field, for one that is missing or of another
    type; where `optional` is given, a missing one is None or empty.

    Attributes:
        where: the file, and the way to this object in it.
        names: of its fields.
    """

    def __init__(self, content: Mapping[str, Any], where: str) -> None:
        self._content, self.where = content, where
        self.names = frozenset(content)

    def text(self, name: str, *, optional: bool = False) -> str:
        """A string, printable and at most `MOST_LETTERS` long."""
        value = self._get(name, optional)
        if value is None and optional:
            return ""
        if not isinstance(value, str):
            raise self._wrong(name, "a text")
        return clean(value)

    def number(
        self, name: str, *, least: float = -math.inf, optional: bool = False
    ) -> float | None:
        """A number, or None where it is null or not finite."""
        value = self._get(name, optional)
        if value is None:
            return None
        number = _finite(value)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self._wrong(name, "a number")
        if number is not None and number < least:
            raise self._wrong(name, f"a number of {least:g} at least")
        return number

    def count(self, name: str) -> int:
        """A whole number, not negative."""
        value = self._get(name, optional=False)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
            raise self._wrong(name, "a whole number, not negative")
        return value

    def flag(self, name: str) -> bool:
        """True or false."""
        value = self._get(name, optional=False)
        if not isinstance(value, bool):
            raise self._wrong(name, "true or false")
        return value

    def child(self, name: str, *, optional: bool = False) -> Fields:
        """An object."""
        value = self._get(name, optional)
        if value is None and optional:
            value = {}
        if not isinstance(value, dict):
            raise self._wrong(name, "an object")
        return Fields(value, f"{self.where}: {clean(name)}")

    def rows(self, name: str, *, optional: bool = False) -> tuple[Fields, ...]:
        """A list of objects."""
        found = []
        for index, value in enumerate(self._list(name, optional)):
            where = f"{self.where}: {clean(name)}[{index}]"
            if not isinstance(value, dict):
                raise DataError(where, _name_type(value), "an object", _REMEDY)
            found.append(Fields(value, where))
        return tuple(found)

    def numbers(self, name: str, *, optional: bool = False) -> tuple[float | None, ...]:
        """A list of numbers."""
        values = self._list(name, optional)
        for value in values:
            if isinstance(value, bool) or not isinstance(value, int | float | None):
                raise self._wrong(name, "a list of numbers")
        return tuple(_finite(value) for value in values)

    def counts(self, name: str) -> tuple[tuple[int, ...], ...]:
        """A list of lists of whole numbers, none negative."""
        rows = self._list(name, optional=False)
        for row in rows:
            # A boolean is an int, too, but not of this type.
            if type(row) is not list or any(type(each) is not int or each < 0 for each in row):
                raise self._wrong(name, "a list of lists of whole numbers")
        return tuple(map(tuple, rows))

    def lines(self, name: str) -> tuple[str, ...]:
        """The lines of a text, each as `text` gives it."""
        self.text(name)
        return tuple(clean(line) for line in self._content[name].split("\n"))

    def plain(self, prefix: str = "") -> dict[str, str]:
        """All that are no objects, as texts; those of objects under `outer.inner`."""
        found: dict[str, str] = {}
        for name, value in list(self._content.items())[:_MOST_FIELDS]:
            if isinstance(value, dict) and not prefix:
                found |= Fields(value, self.where).plain(f"{clean(name)}.")
            else:
                found[prefix + clean(name)] = show_value(value)
        return found

    def _list(self, name: str, optional: bool) -> list[Any]:
        value = self._get(name, optional)
        if value is None and optional:
            return []
        if not isinstance(value, list):
            raise self._wrong(name, "a list")
        return value

    def _get(self, name: str, optional: bool) -> Any:
        if name not in self._content and not optional:
            raise DataError(f"{self.where}: {clean(name)}", "missing", "", _REMEDY)
        return self._content.get(name)

    def _wrong(self, name: str, expected: str) -> DataError:
        found = _name_type(self._content.get(name))
        return DataError(f"{self.where}: {clean(name)}", found, expected, _REMEDY)


def clean(text: str, most: int = MOST_LETTERS) -> str:
    """`text` in one printable line, cut to `most` characters."""
    text = one_line(text[: most + 1])
    return text if len(text) <= most else text[: most - 1] + "\N{HORIZONTAL ELLIPSIS}"


def show_value(value: object) -> str:
    """A JSON value in a cell: nothing for null, no quotes around a text."""
    if value is None:
        return ""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, float):
        return f"{value:g}"
    try:
        return clean(json.dumps(value))
    except (ValueError, RecursionError):  # a number of 5,000 digits
        return "?"


def _finite(value: Any) -> float | None:
    try:
        number = float(value)
    except (OverflowError, TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _name_type(value: object) -> str:
    if isinstance(value, str):
        return f"the text {clean(value, 40)!r}"
    if isinstance(value, bool | int | float):
        return f"the value {show_value(value)[:40]}"
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    return "null"
