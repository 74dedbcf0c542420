"""Parquet, by pyarrow: columns of text, numbers, categories or lists of them.

Only the columns that are asked for are read, a few thousand rows at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from pipelines.errors import DataError, FormatError, UsageError, is_no_memory
from pipelines.formats.tables.table import (
    MOST_TEXT_BYTES,
    SPLIT_UP,
    Coded,
    Coding,
    Value,
    name_number,
    require_columns,
    require_room,
)

#: Rows at once: a dictionary's one long text can stand in each of them.
_ROWS = 1 << 13
_REDO = "fetch or write it anew"


@dataclass(frozen=True, slots=True)
class Parquet:
    """An open Parquet file; see `table.Table`."""

    path: Path
    columns: tuple[str, ...]
    _arrow: Any
    _file: Any

    def read(self, text: str, coded: Sequence[str]) -> tuple[list[str], list[Coded]]:
        """Some columns of all rows; see `table.Table.read`.

        Raises:
            DataError: the file is damaged or too large, or a column of another type.
        """
        for name in (text, *coded):
            is_list = self._arrow.types.is_nested(self._type(name))
            if not self.has_values(name) or (name == text and is_list):
                found = f"column {name!r} is {str(self._type(name))[:200]}"
                expected = "text" if name == text else "text or numbers, or lists of them"
                raise FormatError(self.path, found, expected, "name another column")
        require_room(self.path, self._file.metadata.num_rows, len(coded))
        texts: list[str] = []
        codings = [Coding(name) for name in coded]
        size = 0
        with _refusing(self.path):
            for batch in self._file.iter_batches(
                _ROWS, columns=list(dict.fromkeys((text, *coded))), use_threads=False
            ):
                cells = batch.column(text)
                size += cells.nbytes
                if size > MOST_TEXT_BYTES:
                    expected = f"at most {MOST_TEXT_BYTES:,} bytes"
                    raise DataError(self.path, f"more text in {text!r}", expected, SPLIT_UP)
                texts += self._texts(cells)
                require_room(self.path, len(texts), len(coded))
                for name, coding in zip(coded, codings, strict=True):
                    self._add(coding, batch.column(name))
        return texts, [coding.finish() for coding in codings]

    def place(self, row: int) -> str:
        """The number of a row, from 1 on."""
        return f"row {row + 1}"

    def has_values(self, name: str) -> bool:
        """Whether a column is text, numbers, or lists of them."""
        types, kind = self._arrow.types, self._type(name)
        if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
            kind = kind.value_type
        if types.is_dictionary(kind):
            kind = kind.value_type
        known = (types.is_string, types.is_large_string, types.is_integer, types.is_floating)
        return any(is_(kind) for is_ in (*known, types.is_boolean, types.is_null))

    def _type(self, name: str) -> Any:
        return self._file.schema_arrow.field(name).type

    def _add(self, coding: Coding, cells: Any) -> None:
        if self._arrow.types.is_nested(cells.type):
            coding.add([_list(value) for value in cells.to_pylist()])
            return
        if self._arrow.types.is_dictionary(cells.type):
            cells = cells.dictionary_decode()
        if self._arrow.types.is_null(cells.type):
            coding.add([""] * len(cells))
            return
        found = cells.dictionary_encode("encode")  # a null is a value like others
        values = [_text(value) for value in found.dictionary.to_pylist()]
        coding.add_coded(values, found.indices.to_numpy().astype(np.int32))

    def _texts(self, cells: Any) -> list[str]:
        kind = cells.type
        if self._arrow.types.is_dictionary(kind):
            cells, kind = cells.dictionary_decode(), kind.value_type
        if not (self._arrow.types.is_string(kind) or self._arrow.types.is_large_string(kind)):
            return [_text(value) for value in cells.to_pylist()]
        if cells.null_count:
            cells = cells.fill_null("")
        found: list[str] = cells.to_numpy(zero_copy_only=False).tolist()
        return found


def open_parquet(path: Path, file: BinaryIO) -> Parquet:
    """A Parquet file, once its columns are read.

    Raises:
        DataError: it is none, or damaged.
        UsageError: pyarrow is not installed.
    """
    try:
        arrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError as error:
        remedy = "pip install 'fastft[data]', or save the table as CSV"
        raise UsageError(path, "pyarrow is not installed", "it to read Parquet", remedy) from error
    with _refusing(path):
        opened = parquet.ParquetFile(file)
        columns = tuple(opened.schema_arrow.names)
    require_columns(path, columns)
    return Parquet(path, columns, arrow, opened)


@contextmanager
def _refusing(path: Path) -> Iterator[None]:
    """Turns what pyarrow raises of a damaged file into an error that names it."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:  # whatever a hostile file makes the parser raise
        if is_no_memory(error):
            raise
        found = f"cannot be read as Parquet ({str(error)[:200]})"
        raise FormatError(path, found, "a whole Parquet file", _REDO) from error


def _text(value: object) -> str:
    if value is None:
        return ""
    return name_number(value) if isinstance(value, float) else str(value)


def _list(value: object) -> Value:
    return tuple(map(_text, value)) if isinstance(value, list) else ""
