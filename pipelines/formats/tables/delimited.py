"""CSV and TSV: a line of column names, then one row a line, by comma, semicolon or tab.

Python's csv module defines what a file says. Where no cell is quoted, which is the usual table of
paths, splitting says the same in half the time. A million rows of path, label and split took 0.65 s
on one core of AMD EPYC, by csv 1.1 s; pyarrow's reader took 0.35 s, of listings that take 1.1 s in
all: not worth a second meaning of CSV, and CSV must be read without pyarrow.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO, NoReturn

import numpy as np

from pipelines.errors import DataError, FormatError
from pipelines.formats.folder import IMAGE_SUFFIXES, suffix
from pipelines.formats.tables.table import Coded, Coding, require_columns, require_room
from pipelines.formats.tables.text import Text, check_text

#: Separators of cells; the first of those that give most columns is taken.
_SEPARATORS = (",", ";", "\t")
#: Rows at once by csv: more become so many lists that the garbage collector looks through them.
_ROWS = 512
#: Bytes at once by splitting, which fit into a core's cache with what is made of them.
_BLOCK_BYTES = 1 << 18
_CHECK = "check its quotes and separators"


@dataclass(frozen=True, slots=True)
class Delimited:
    """An open CSV or TSV; see `table.Table`."""

    path: Path
    columns: tuple[str, ...]
    _file: BinaryIO
    _separator: str
    _text: Text

    def has_values(self, name: str) -> bool:
        """Whether a column can be read: always."""
        return True

    def read(self, text: str, coded: Sequence[str]) -> tuple[list[str], list[Coded]]:
        """Some columns of all rows; see `table.Table.read`.

        Raises:
            DataError: a row has more or fewer cells than there are columns, a quote is not closed,
                or there are too many rows.
        """
        at, places = self.columns.index(text), [self.columns.index(name) for name in coded]
        texts: list[str] = []
        codings = [Coding(name) for name in coded]
        is_plain = not self._text.has_quotes and not self._text.has_bare_returns
        for columns in self._split() if is_plain else self._parse():
            texts += columns[at]
            require_room(self.path, len(texts), len(coded))
            for place, coding in zip(places, codings, strict=True):
                coding.add(columns[place])
        return texts, [coding.finish() for coding in codings]

    def place(self, row: int) -> str:
        """The line that a row begins in, looked for in the file."""
        with suppress(FormatError, StopIteration):
            _, line = next(islice(self._rows(), row + 1, None))
            return f"line {line}"
        return f"row {row + 1}"

    def _parse(self) -> Iterator[Sequence[Sequence[str]]]:
        """The columns of some rows after the others, by csv.

        Raises:
            FormatError: a row is not as it should be.
        """
        width = len(self.columns)
        with _decoding(self._file, self._text.start) as lines:
            reader = csv.reader(lines, delimiter=self._separator, strict=True)
            try:
                next(filter(None, reader))
                while rows := list(islice(reader, _ROWS)):
                    if set(map(len, rows)) != {width}:
                        rows = [row for row in rows if row]
                    if any(len(row) != width for row in rows):
                        break
                    if rows:
                        yield list(zip(*rows, strict=True))
                else:
                    return
            except (csv.Error, UnicodeDecodeError, StopIteration):
                pass
        self._refuse()

    def _refuse(self) -> NoReturn:
        """Look for the row that is not as it should be, and raise a FormatError about it."""
        for row, line in self._rows():
            if len(row) != len(self.columns):
                found = f"{len(row)} cells" if len(row) > 1 else "1 cell"
                expected = f"{len(self.columns)}, one for each column"
                raise FormatError(f"{self.path}: line {line}", found, expected, _CHECK)
        raise FormatError(self.path, "has changed while it was read")

    def _rows(self) -> Iterator[tuple[list[str], int]]:
        """All rows but empty ones, the column names first, and the line that each begins in."""
        return _rows(self.path, self._file, self._text.start, self._separator)

    def _split(self) -> Iterator[Sequence[Sequence[str]]]:
        """The columns of some rows after the others, of a file without quotes."""
        width, is_first, rest = len(self.columns), True, b""
        separator, newline = ord(self._separator), ord("\n")
        pattern = np.full(width, separator, np.uint8)
        pattern[-1] = newline
        self._file.seek(self._text.start)
        is_last = False
        while not is_last:
            read = self._file.read(_BLOCK_BYTES)
            is_last = not read
            block = rest + (read or b"\n")
            cut = block.rfind(b"\n") + 1
            block, rest = block[:cut], block[cut:]
            if b"\r" in block:
                block = block.replace(b"\r\n", b"\n")
            while b"\n\n" in block:
                block = block.replace(b"\n\n", b"\n")
            block = block.removeprefix(b"\n")
            if is_first and block:
                is_first, block = False, block.partition(b"\n")[2]
            if not block:
                continue
            octets = np.frombuffer(block, np.uint8)
            marks = octets[(octets == separator) | (octets == newline)]
            if len(marks) % width or (marks.reshape(-1, width) != pattern).any():
                self._refuse()
            try:
                text = block[:-1].decode()
            except UnicodeDecodeError:
                self._refuse()
            cells = text.replace("\n", self._separator).split(self._separator)
            yield [cells[place::width] for place in range(width)]


def open_delimited(path: Path, file: BinaryIO) -> Delimited:
    """A CSV or TSV, once its column names are read.

    Raises:
        DataError: it is no text, or has no line of column names.
    """
    text = check_text(path, file)
    separators = ("\t",) if path.suffix.lower() == ".tsv" else _SEPARATORS
    first, separator = [""], separators[0]
    failure: FormatError | None = None
    for each in separators:
        try:
            found, _ = next(_rows(path, file, text.start, each), ([], 0))
        except FormatError as error:
            failure = failure or error
            continue
        if len(found) > len(first) or not any(first):
            first, separator = found, each
    if not any(first) and failure is not None:
        raise failure
    columns = tuple(name.strip() for name in first)
    for name in columns:
        if suffix(name) in IMAGE_SUFFIXES:
            expected = "the names of its columns in the first line"
            raise DataError(path, f"begins with {name!r}", expected, "add a line: path,label")
    require_columns(path, columns)
    return Delimited(path, columns, file, separator, text)


def _rows(
    path: Path, file: BinaryIO, start: int, separator: str
) -> Iterator[tuple[list[str], int]]:
    """Each row that is not empty, and the line that it begins in.

    Raises:
        FormatError: a quote is not closed or misplaced, or a cell is too long.
    """
    with _decoding(file, start) as lines:
        reader = csv.reader(lines, delimiter=separator, strict=True)
        line = 1
        try:
            for row in reader:
                if row:
                    yield row, line
                line = reader.line_num + 1
        except (csv.Error, UnicodeDecodeError) as error:
            raise FormatError(f"{path}: line {line}", str(error), "CSV", _CHECK) from error


@contextmanager
def _decoding(file: BinaryIO, start: int) -> Iterator[io.TextIOWrapper]:
    """The text of a file from a byte on, which stays open behind the block."""
    file.seek(start)
    lines = io.TextIOWrapper(file, "utf-8", newline="")
    try:
        yield lines
    finally:
        with suppress(ValueError):  # the file may be closed already
            lines.detach()
