"""A table in memory: the text of its cells, whatever the file that it was read from.

Cells are text. A number is the text that names it, an empty cell, a null and what is not there are
empty text, and a list is a tuple of texts. So a label is the same label in every format. A column
of few distinct values is kept as these and a number for each row (`Coded`): what they mean is found
out once for each value, not once for each row.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import DataError

#: The text of a cell, or the texts of a list in it.
Value: TypeAlias = "str | tuple[str, ...]"
#: Rows of a table at most: names of more would take 15 GB of memory.
MOST_ROWS = 1 << 27
#: Columns of a table at most, and cells of what is read of it beside the paths: 4 bytes each.
MOST_COLUMNS, MOST_CELLS = 1 << 16, 1 << 30
#: Text of paths at most, or of a whole table that is text: in memory it becomes twice that.
MOST_TEXT_BYTES = 4 << 30
#: The remedy for a table that is too large.
SPLIT_UP = "cut it into several tables"


@dataclass(frozen=True, slots=True)
class Coded:
    """A column by its distinct values.

    Attributes:
        name: of the column.
        values: each once, in the order of their first rows.
        codes: int32[N], each row's value as an index into `values`.
    """

    name: str
    values: tuple[Value, ...]
    codes: NDArray[np.int32]

    def row(self, code: int) -> int:
        """The first row that has a value."""
        return int(np.argmax(self.codes == code))


class Table(Protocol):
    """An open table."""

    @property
    def path(self) -> Path:
        """The file."""
        ...

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of its columns; an empty one cannot be asked for."""
        ...

    def has_values(self, name: str) -> bool:
        """Whether a column is of a type that can be read."""
        ...

    def read(self, text: str, coded: Sequence[str]) -> tuple[list[str], list[Coded]]:
        """Some columns of all rows.

        Args:
            text: the column whose values are mostly distinct, none of them a list.
            coded: columns whose values recur.

        Raises:
            DataError: the file is not as its format says, or too large.
        """
        ...

    def place(self, row: int) -> str:
        """The place of a row in the file, as an editor counts: `line 7`."""
        ...


class _Numbers(dict[Value, int]):
    """Numbers what it is asked for in the order of asking."""

    def __missing__(self, value: Value) -> int:
        number = self[value] = len(self)
        return number


class Coding:
    """Reads a coded column, piece by piece."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._numbers = _Numbers()
        self._pieces: list[NDArray[np.int32]] = []

    def add(self, cells: Sequence[Value]) -> None:
        """Append the cells of some rows."""
        self._pieces.append(self._number(cells, len(cells)))

    def add_coded(self, values: Iterable[Value], codes: NDArray[np.int32]) -> None:
        """Append rows whose values are given once each."""
        self._pieces.append(self._number(values, -1)[codes])

    def finish(self) -> Coded:
        """The column."""
        codes = np.concatenate(self._pieces) if self._pieces else np.zeros(0, np.int32)
        return Coded(self._name, tuple(self._numbers), codes)

    def _number(self, values: Iterable[Value], count: int) -> NDArray[np.int32]:
        return np.fromiter(map(self._numbers.__getitem__, values), np.int32, count)


def open_file(path: Path) -> BinaryIO:
    """A table's file, opened to be read.

    Raises:
        DataError: there is none, it cannot be read, or is a pipe or a device.
    """
    try:
        # A pipe that nobody writes to would block a usual open for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        found = (error.strerror or type(error).__name__).lower()
        raise DataError(path, found, "a table", "check the path") from error
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        found = "is a folder" if stat.S_ISDIR(mode) else "is no plain file"
        raise DataError(path, found, "a table", "name another")
    return os.fdopen(descriptor, "rb")


def require_room(path: Path, rows: int, coded: int) -> None:
    """Raise DataError if so many rows with so many coded columns are too many."""
    if rows > MOST_ROWS:
        raise DataError(path, f"{rows:,} rows and more", f"at most {MOST_ROWS:,}", SPLIT_UP)
    if rows * coded > MOST_CELLS:
        found = f"{rows:,} rows and more of {coded:,} columns"
        raise DataError(path, found, f"at most {MOST_CELLS:,} cells", SPLIT_UP)


def require_columns(path: Path, columns: Sequence[str]) -> None:
    """Raise DataError unless the names of columns can be told apart, and are not too many."""
    named = [name for name in columns if name]
    if not named:
        raise DataError(path, "names no columns", "a table with column names", "add them")
    if len(columns) > MOST_COLUMNS:
        raise DataError(path, f"{len(columns):,} columns", f"at most {MOST_COLUMNS:,}")
    if len(set(named)) < len(named):
        twice = next(name for i, name in enumerate(named) if name in named[:i])
        raise DataError(path, f"two columns are named {twice!r}", "each name once", "rename one")


def name_number(value: float) -> str:
    """The text of a number: `3` of 3.0, so that it is the same text as of an integer."""
    # Whole numbers have gaps from 2^53 on, and would say more digits than they hold.
    return str(int(value)) if abs(value) < 2**53 and value == int(value) else repr(value)
