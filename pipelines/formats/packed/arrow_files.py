"""Arrow streams, as `datasets` saves them: rows read in place from a memory map.

What pyarrow takes on trust is checked before a value is looked at: offsets (by its own full
validation of each column that is read), and that no buffer is compressed, as a few bytes of one may
declare any length. What is read of a mapped file after it was cut would end the process; so each
read asks first whether it has changed.

Source: the Arrow columnar format, `format/Message.fbs` (fields) and the FlatBuffers binary format.
"""

from __future__ import annotations

import mmap
import struct
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import (
    FastftError,
    FormatError,
    UsageError,
    is_no_files,
    is_no_memory,
    no_files,
)
from pipelines.formats.packed.shard_files import ShardFile

_REDO = "write it anew by datasets' save_to_disk"
#: Types of messages (`Message.fbs`, union MessageHeader), and where what is looked for is in them.
_DICTIONARY, _BATCH = 2, 3
_HEADER_TYPE, _HEADER, _DATA_OF_DICTIONARY, _COMPRESSION = 1, 2, 1, 3


class RowFile(Protocol):
    """The rows of one file, of Arrow or Parquet."""

    @property
    def file(self) -> ShardFile:
        """The file."""
        ...

    @property
    def kinds(self) -> dict[str, Any]:
        """Column -> its type, pyarrow's."""
        ...

    @property
    def said(self) -> bytes | None:
        """The columns' description by `datasets`: JSON; None if there is none."""
        ...

    @property
    def count(self) -> int:
        """The number of its rows."""
        ...

    def cells(self, name: str, part: str = "") -> Iterator[list[object]]:
        """A column's values, or those of a part of its structs, some rows at a time.

        Raises:
            DataError: the file is damaged.
        """
        ...

    def sizes(self, name: str) -> NDArray[np.int64]:
        """int64[N]: the bytes of images, as far as they are known without reading them."""
        ...

    def close(self) -> None:
        """Let go of what is open."""
        ...

    def read(self, name: str, row: int) -> object:
        """One value; safe to call from several threads.

        Raises:
            DataError: the file is damaged, or has changed.
        """
        ...


def load_pyarrow(path: Path, module: str = "pyarrow") -> Any:
    """pyarrow, or a module of it.

    Raises:
        UsageError: it is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        remedy = "pip install 'fastft[data]'"
        raise UsageError(path, "pyarrow is not installed", "it to read this", remedy) from error


@contextmanager
def refusing(path: Path, kind: str, remedy: str = _REDO) -> Iterator[None]:
    """Turns what pyarrow raises of a damaged file into an error that names it."""
    try:
        yield
    except FastftError:
        raise
    except Exception as error:  # whatever a hostile file makes the parser raise
        if is_no_memory(error):
            raise
        if is_no_files(error):
            raise no_files(path) from error
        found = f"cannot be read as {kind} ({str(error)[:200]})"
        raise FormatError(path, found, f"whole {kind}", remedy) from error


class ArrowFile:
    """The rows of one Arrow stream; see `RowFile`."""

    def __init__(self, file: ShardFile) -> None:
        """Map it and read its messages' heads; the images stay on disk.

        Raises:
            FormatError: it is no Arrow stream, compressed, cut short or damaged.
            UsageError: pyarrow is not installed.
        """
        arrow = load_pyarrow(file.path)
        load_pyarrow(file.path, "pyarrow.ipc")
        self._compute = load_pyarrow(file.path, "pyarrow.compute")
        self.file = file
        with refusing(file.path, "an Arrow stream"):
            with file.opened() as descriptor:
                mapped = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
            buffer = arrow.py_buffer(mapped)
            _require_uncompressed(file.path, arrow, buffer)
            with arrow.ipc.open_stream(arrow.BufferReader(buffer)) as reader:
                self.kinds, self.said = read_schema(file.path, reader.schema)
                self._batches = list(reader)
        self._starts = [0]
        for batch in self._batches:
            self._starts.append(self._starts[-1] + batch.num_rows)
        self.count = self._starts[-1]
        require_rows(file, self.count)
        self._checked: dict[str, list[Any]] = {}

    def cells(self, name: str, part: str = "") -> Iterator[list[object]]:
        """Values of a column, batch by batch; see `RowFile`."""
        for column in self._column(name):
            with refusing(self.file.path, "an Arrow stream"):
                found: list[object] = (column.field(part) if part else column).to_pylist()
            yield found

    def sizes(self, name: str) -> NDArray[np.int64]:
        """int64[N]: the bytes of each image."""
        pieces = [np.zeros(0, np.int64)]
        for column in self._column(name):
            with refusing(self.file.path, "an Arrow stream"):
                octets = column.field("bytes") if hasattr(column, "field") else column
                lengths = self._compute.binary_length(octets).fill_null(0)
                pieces.append(lengths.to_numpy(zero_copy_only=False).astype(np.int64))
        return np.concatenate(pieces)

    def close(self) -> None:
        """Let go of the map, which holds a file open, once nobody reads of it."""
        self._batches.clear()
        self._checked.clear()

    def read(self, name: str, row: int) -> object:
        """One value; see `RowFile`."""
        self.file.require_unchanged()
        batch = bisect_right(self._starts, row) - 1
        return self._column(name)[batch][row - self._starts[batch]].as_py()

    def _column(self, name: str) -> list[Any]:
        """A column of all batches, once its offsets are known to be right."""
        if name not in self._checked:
            self.file.require_unchanged()
            with refusing(self.file.path, "an Arrow stream"):
                columns = [batch.column(name) for batch in self._batches]
                for column in columns:
                    column.validate(full=True)
            self._checked[name] = columns
        return self._checked[name]


def read_schema(path: Path, schema: Any) -> tuple[dict[str, Any], bytes | None]:
    """The columns of a pyarrow schema, and what `datasets` says of them.

    Raises:
        FormatError: two columns have one name.
        UnicodeDecodeError: a name is no Unicode.
    """
    kinds = {each.name: each.type for each in schema}
    for kind in kinds.values():
        for place in range(kind.num_fields):
            _ = kind.field(place).name  # read once here, where it is expected to fail
    if len(kinds) < len(schema):
        raise FormatError(path, "two columns have one name", "each name once", _REDO)
    return kinds, (schema.metadata or {}).get(b"huggingface")


def require_rows(file: ShardFile, count: int) -> None:
    """Raise FormatError if a file says that it has more rows than could be in it."""
    if count > file.size:
        found = f"says that it has {count:,} rows in {file.size:,} bytes"
        raise FormatError(file.path, found, "no more than are there", _REDO)


def _require_uncompressed(path: Path, arrow: Any, buffer: Any) -> None:
    for message in arrow.ipc.MessageReader.open_stream(arrow.BufferReader(buffer)):
        if _is_compressed(message.metadata.to_pybytes()):
            raise FormatError(path, "its buffers are compressed", "an Arrow stream as it is", _REDO)


def _is_compressed(message: bytes) -> bool:
    """Whether a message's batch says how its buffers are compressed.

    Args:
        message: a FlatBuffer that pyarrow has verified.
    """
    (table,) = struct.unpack_from("<I", message, 0)
    kind = _field(message, table, _HEADER_TYPE)
    header = _field(message, table, _HEADER)
    if not kind or not header or message[kind] not in (_DICTIONARY, _BATCH):
        return False
    batch = _follow(message, header)
    if message[kind] == _DICTIONARY:
        data = _field(message, batch, _DATA_OF_DICTIONARY)
        if not data:
            return False
        batch = _follow(message, data)
    return bool(_field(message, batch, _COMPRESSION))


def _field(message: bytes, table: int, number: int) -> int:
    """The place of a table's field; 0 if it is not there."""
    (back,) = struct.unpack_from("<i", message, table)
    (size,) = struct.unpack_from("<H", message, table - back)
    at = 4 + 2 * number
    if at + 2 > size:
        return 0
    (offset,) = struct.unpack_from("<H", message, table - back + at)
    return table + int(offset) if offset else 0


def _follow(message: bytes, at: int) -> int:
    (offset,) = struct.unpack_from("<I", message, at)
    return at + int(offset)
