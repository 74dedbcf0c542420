"""JSON Lines: an object for each line, all of the same keys."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from pipelines.errors import FormatError
from pipelines.formats.tables.table import (
    Coded,
    Coding,
    Value,
    name_number,
    require_columns,
    require_room,
)
from pipelines.formats.tables.text import check_text

#: Lines at once.
_ROWS = 512
_AS_FIRST = "the keys of the first line"


@dataclass(frozen=True, slots=True)
class JsonLines:
    """An open file of JSON Lines; see `table.Table`."""

    path: Path
    columns: tuple[str, ...]
    _file: BinaryIO
    _start: int

    def has_values(self, name: str) -> bool:
        """Whether a column can be read: always."""
        return True

    def read(self, text: str, coded: Sequence[str]) -> tuple[list[str], list[Coded]]:
        """Some columns of all rows; see `table.Table.read`.

        Raises:
            DataError: a line is no object, or of other keys or values than text, numbers and lists
                of them, or there are too many.
        """
        texts: list[str] = []
        codings = [Coding(name) for name in coded]
        keys, rows = set(self.columns), _rows(self.path, self._file, self._start)
        while some := list(islice(rows, _ROWS)):
            for row, line in some:
                if row.keys() != keys:
                    self._refuse(row, line)
                cell = row[text]
                if type(cell) is not str:
                    cell = self._value(text, cell, line)
                    if isinstance(cell, tuple):
                        where = f"{self.path}: line {line}"
                        raise FormatError(where, f"a list as {text!r}", "text")
                texts.append(cell)
            require_room(self.path, len(texts), len(coded))
            for name, coding in zip(coded, codings, strict=True):
                coding.add(
                    [
                        cell if type(cell := row[name]) is str else self._value(name, cell, line)
                        for row, line in some
                    ]
                )
        return texts, [coding.finish() for coding in codings]

    def place(self, row: int) -> str:
        """The line of a row, looked for in the file."""
        with suppress(FormatError, StopIteration):
            _, line = next(islice(_rows(self.path, self._file, self._start), row, None))
            return f"line {line}"
        return f"row {row + 1}"

    def _refuse(self, row: dict[str, Any], line: int) -> NoReturn:
        missing = [repr(name) for name in self.columns if name not in row]
        extra = [repr(name) for name in row if name not in self.columns]
        found = f"no {missing[0]}" if missing else f"the additional key {extra[0]}"
        remedy = "write null where nothing is known"
        raise FormatError(f"{self.path}: line {line}", found, _AS_FIRST, remedy)

    def _value(self, name: str, cell: object, line: int) -> Value:
        """A cell that is no text, as text.

        Raises:
            FormatError: it is an object, or a list of something else than text and numbers.
        """
        cells = cell if isinstance(cell, list) else [cell]
        texts = [_text(each) for each in cells]
        if None in texts:
            what = "an object" if not isinstance(cell, list) else "a list of lists or objects"
            where, expected = f"{self.path}: line {line}", "text, numbers or a list of them"
            raise FormatError(where, f"{what} as {name!r}", expected)
        known = tuple(each for each in texts if each is not None)
        return known if isinstance(cell, list) else known[0]


def _text(cell: object) -> str | None:
    """The text of a value, or None if it is a list or an object."""
    if cell is None:
        return ""
    if isinstance(cell, float):
        return name_number(cell)
    return str(cell) if isinstance(cell, (str, int)) else None


def open_json_lines(path: Path, file: BinaryIO) -> JsonLines:
    """A file of JSON Lines, once the first is read.

    Raises:
        DataError: it is no text, or the first line no object.
    """
    text = check_text(path, file)
    first, _ = next(_rows(path, file, text.start), ({}, 0))
    columns = tuple(first)
    require_columns(path, columns)
    return JsonLines(path, columns, file, text.start)


def _rows(path: Path, file: BinaryIO, start: int) -> Iterator[tuple[dict[str, Any], int]]:
    """The object of each line that is not empty, and the line's number.

    Raises:
        FormatError: it is none.
    """
    file.seek(start)
    # Not by `decode`, whose search for spaces takes as long as the rest.
    decode = json.JSONDecoder(parse_constant=_refuse_constant).raw_decode
    for line, content in enumerate(file, 1):
        text = content.strip().decode()
        if not text:
            continue
        try:
            row, end = decode(text)
            if end != len(text):
                raise ValueError(f"more after {end:,} characters")
        except (ValueError, RecursionError) as error:
            reason = "too deep" if isinstance(error, RecursionError) else str(error)
            where, found = f"{path}: line {line}", f"cannot be read as JSON ({reason[:200]})"
            raise FormatError(where, found, "an object for each line") from error
        if not isinstance(row, dict):
            found = f"JSON of {content[:60].decode(errors='replace').strip()!r}"
            raise FormatError(f"{path}: line {line}", found, "an object for each line")
        yield row, line


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")
