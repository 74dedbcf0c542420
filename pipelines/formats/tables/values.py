"""The meaning of single cells: numbers, yes or no, several labels in one text."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import DataError
from pipelines.formats.tables.table import Coded

_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,4})?", re.ASCII)
#: Separators of several labels in a text; the first that occurs in any cell of a column is taken.
_SEPARATORS = (";", "|", ",")
_FLAGS = {"0": 0.0, "1": 1.0, "0.0": 0.0, "1.0": 1.0, "false": 0.0, "true": 1.0}


@dataclass(frozen=True, kw_only=True, slots=True)
class Context:
    """The table that columns are of.

    Attributes:
        path: the table.
        place: names a row, as `table.Table.place`.
        splits: split -> int64[...], its rows; the training split, or the only one, first.
    """

    path: Path
    place: Callable[[int], str]
    splits: Mapping[str, NDArray[np.int64]]

    def refuse(self, row: int, found: str, expected: str, remedy: str = "") -> NoReturn:
        """Raise a DataError about one row."""
        raise DataError(f"{self.path}: {self.place(row)}", found, expected, remedy)

    def where(self, split: str) -> str:
        """The name of a split in an error."""
        return f"{self.path}: split {split}" if split else str(self.path)


def parse_number(text: str) -> float | None:
    """The number that a text is, or None; NaN and infinity are none."""
    return float(text) if _NUMBER.fullmatch(text) else None


def read_text(column: Coded, context: Context) -> list[str]:
    """The text of each value.

    Raises:
        DataError: it is empty, a list, or no Unicode.
    """
    texts = []
    for code, value in enumerate(column.values):
        if not isinstance(value, str):
            context.refuse(column.row(code), f"a list as {column.name!r}", "one value")
        text = value.strip()
        if not text:
            context.refuse(column.row(code), f"no {column.name!r}", "one for each image")
        if not is_unicode(text):
            context.refuse(column.row(code), f"{column.name!r} is {text!r}", "Unicode text")
        texts.append(text)
    return texts


def is_unicode(text: str) -> bool:
    """Whether a text can be written as UTF-8: JSON can say what cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def read_numbers(column: Coded, context: Context, *, positive: bool = False) -> NDArray[np.float32]:
    """float32[N]: a column of finite numbers.

    Args:
        column: the column.
        context: its table.
        positive: each has to be above 0.

    Raises:
        DataError: a cell is none.
    """
    expected = "a number above 0" if positive else "a finite number"
    numbers = np.zeros(len(column.values), np.float32)
    for code, text in enumerate(read_text(column, context)):
        number = parse_number(text)
        if number is not None:
            with np.errstate(over="ignore"):
                numbers[code] = number
        if number is None or not np.isfinite(numbers[code]) or (positive and not numbers[code] > 0):
            found = f"{column.name!r} is {text[:60]!r}"
            remedy = "write it with a point" if parse_number(text.replace(",", ".", 1)) else ""
            context.refuse(column.row(code), found, expected, remedy if "," in text else "")
    return numbers[column.codes]


def are_flags(column: Coded) -> bool:
    """Whether a column holds only 0 and 1."""
    return all(isinstance(each, str) and each.strip().lower() in _FLAGS for each in column.values)


def read_flags(columns: Sequence[Coded], context: Context) -> NDArray[np.float32]:
    """float32[N, C]: columns of 0 and 1.

    Raises:
        DataError: a cell is neither.
    """
    flags = np.zeros((len(columns[0].codes), len(columns)), np.float32)
    for place, column in enumerate(columns):
        texts = read_text(column, context)
        for code, text in enumerate(texts):
            if text.lower() not in _FLAGS:
                found = f"{column.name!r} is {text[:60]!r}"
                context.refuse(column.row(code), found, "0 or 1, as of several --label-column")
        meanings = np.array([_FLAGS[text.lower()] for text in texts], np.float32)
        flags[:, place] = meanings[column.codes]
    return flags


def holds_lists(column: Coded) -> bool:
    """Whether a cell of a column is a list, or a JSON list as text."""
    return any(isinstance(each, tuple) or _parse_list(each) is not None for each in column.values)


def unfold_flags(column: Coded) -> tuple[Coded, int]:
    """A column of lists of 0 and 1 as the numbers of those that are 1, and how long each list is.

    All cells have to be such lists of one length, 2 or more. Any other column is given back as it
    is, with 0.
    """
    cells = [each if isinstance(each, tuple) else _parse_list(each) for each in column.values]
    width = len(cells[0]) if cells and cells[0] is not None else 0
    lists = [cell for cell in cells if cell is not None and len(cell) == width]
    if width < 2 or len(lists) < len(cells) or not all(set(cell) <= {"0", "1"} for cell in lists):
        return column, 0
    texts = [str(number) for number in range(width)]
    numbers = (tuple(compress(texts, (flag == "1" for flag in cell))) for cell in lists)
    return Coded(column.name, tuple(numbers), column.codes), width


def read_several(column: Coded, context: Context) -> list[tuple[str, ...]]:
    """The labels in each value, each once.

    Raises:
        DataError: a text looks like a list and is no JSON, or a label is no Unicode.
    """
    texts = [each for each in column.values if isinstance(each, str) and not _is_listed(each)]
    separator = next((each for each in _SEPARATORS if any(each in text for text in texts)), None)
    found = []
    for code, value in enumerate(column.values):
        parts: Sequence[str]
        if isinstance(value, tuple):
            parts = value
        elif _is_listed(value):
            listed = _parse_list(value)
            if listed is None:
                what = f"{column.name!r} is {value[:60]!r}"
                remedy = "write a list as JSON, or its labels with ; between them"
                context.refuse(column.row(code), what, "a list of labels in JSON", remedy)
            parts = listed
        else:
            parts = value.split(separator)  # by None at spaces
        stripped = [part.strip() for part in parts]
        if any(stripped.count(flag) > 1 for flag in "01"):
            what, expected = f"{column.name!r} is {value!r}"[:80], "the numbers of its labels"
            remedy = "write as many of 0 and 1 in each row, as JSON, or a column for each label"
            context.refuse(column.row(code), what, expected, remedy)
        words = tuple(dict.fromkeys(filter(None, stripped)))
        if not all(map(is_unicode, words)):
            what = f"{column.name!r} is {value!r}"[:80]
            context.refuse(column.row(code), what, "Unicode text")
        found.append(words)
    return found


def _is_listed(text: str) -> bool:
    return text.lstrip().startswith("[") and text.rstrip().endswith("]")


def _parse_list(text: str) -> tuple[str, ...] | None:
    """The labels of a JSON list of text and whole numbers; None if it is none."""
    if not _is_listed(text):
        return None
    try:
        found: Any = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, list) or not all(type(each) in (str, int) for each in found):
        return None
    return tuple(map(str, found))
