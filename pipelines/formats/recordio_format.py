"""RecordIO's container format: where records are in a file, and what their data are.

Nothing that the file says is trusted: every length is checked against the file, every part's flag
against the one before. What the data mean is `recordio`'s business, but for their first
bytes, which are kept: they hold the label.

A record is `magic, flag and length, data, zeros up to a multiple of 4`. Data that hold the magic
at a multiple of 4 are written as several parts, split there, the magic left out.

Source: dmlc-core, include/dmlc/recordio.h and src/recordio.cc.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import FormatError

MAGIC = 0xCED7230A
_MAGIC_BYTES = struct.pack("<I", MAGIC)
#: A part's header: magic; 3 bits of flag above 29 bits of length.
_PART = struct.Struct("<2I")
_LENGTH_BITS = 29
_WHOLE, _FIRST, _MIDDLE, _LAST = range(4)
#: What a record's data begin with: MXNet's header, then the image or, after flag 1, its label.
HEAD = np.dtype(
    [("flag", "<u4"), ("label", "<f4"), ("id", "<u8"), ("id2", "<u8"), ("next", "<u4", 2)]
)
#: How much of the file is read at once: of photos little more than the headers, of small records
#: many. CPU seconds on a 2-core VM, 200,000 records of 100 bytes and 10,000 of 44 KB: 0.11 and
#: 0.014 with 1 KiB, 0.10 and 0.020 with 4 KiB, 0.09 and 0.051 with 64 KiB.
_WINDOW_BYTES = 4096
_REDO = "fetch it or write it anew"


@dataclass(frozen=True, slots=True)
class Table:
    """Positions of N records, in sample order.

    Attributes:
        numbers: int64[N], which record of the file each one is.
        starts, ends: int64[N], bytes; from the first part's magic to behind the padding.
        sizes: int64[N], bytes of data, parts joined.
        parted: bool[N], whether there are several parts.
        heads: HEAD[N], what the data begin with; of shorter data anything may follow.
    """

    numbers: NDArray[np.int64]
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    sizes: NDArray[np.int64]
    parted: NDArray[np.bool_]
    heads: NDArray[np.void]

    def __len__(self) -> int:
        return len(self.numbers)

    def take(self, samples: NDArray[np.int64]) -> Table:
        """The records of these numbers, in this order."""
        return Table(*(getattr(self, name)[samples] for name in self.__slots__))

    def read(self, file: int, sample: int, skip: int) -> bytes:
        """A record's data from byte `skip` on; fewer if the file is no longer as it was listed.

        Raises:
            OSError: as the system says.
        """
        start = int(self.starts[sample])
        if self.parted[sample]:
            return _join(os.pread(file, int(self.ends[sample]) - start, start))[skip:]
        return os.pread(file, int(self.sizes[sample]) - skip, start + _PART.size + skip)

    def where(self, path: Path, sample: int) -> str:
        """The name of a record in an error."""
        return _where(path, int(self.numbers[sample]), int(self.starts[sample]))


def read_table(path: Path, file: int) -> Table:
    """Walk the file from header to header.

    Raises:
        FormatError: there is no header where one should be, or data reach beyond the file.
    """
    size = os.fstat(file).st_size
    starts: list[int] = []
    ends: list[int] = []
    sizes: list[int] = []
    heads: list[bytes] = []
    parted: list[int] = []
    window, base, at = b"", 0, 0
    wanted = _PART.size + HEAD.itemsize
    while at < size:
        begin = at - base
        if begin + wanted > len(window):
            base, begin = at, 0
            # Zeros behind the file's end, so that a record may end before what is looked at.
            window = os.pread(file, _WINDOW_BYTES, at).ljust(wanted, b"\0")
        magic, record = _PART.unpack_from(window, begin)
        end = at + _PART.size + (record + 3 & ~3)
        # One comparison for the common case: a record of one part is its length and no flag.
        if magic == MAGIC and record >> _LENGTH_BITS == _WHOLE and end <= size:
            length = record
            heads.append(window[begin + _PART.size : begin + wanted])
        else:
            end, length, head = _read_parts(path, file, len(starts), at, size)
            heads.append(head)
            parted.append(len(starts))
        starts.append(at)
        ends.append(end)
        sizes.append(length)
        at = end
    is_parted = np.zeros(len(starts), np.bool_)
    is_parted[parted] = True
    return Table(
        np.arange(len(starts)),
        np.array(starts, np.int64),
        np.array(ends, np.int64),
        np.array(sizes, np.int64),
        is_parted,
        np.frombuffer(b"".join(heads), HEAD),
    )


def _join(record: bytes) -> bytes:
    """A record's data: its parts with the magic between them that the writer left out."""
    parts, at = [], 0
    while at + _PART.size <= len(record):
        _, word = _PART.unpack_from(record, at)
        at, length = at + _PART.size, word & (1 << _LENGTH_BITS) - 1
        parts.append(record[at : at + length])
        at += length + 3 & ~3
    return _MAGIC_BYTES.join(parts)


def _read_parts(
    path: Path, file: int, number: int, start: int, size: int
) -> tuple[int, int, bytes]:
    """Walk one record part by part, and say what is wrong with it if anything is.

    Args:
        path: for errors.
        file: the descriptor.
        number: which record it is.
        start: where it starts, bytes.
        size: the file's, bytes.

    Returns:
        Where the next record starts, the bytes of data, and what they begin with, filled up with
        zeros to the size of HEAD.

    Raises:
        FormatError: it is not as records are.
    """
    where = _where(path, number, start)
    at, length, head = start, 0, b""
    while True:
        part = os.pread(file, _PART.size + HEAD.itemsize, at)
        if len(part) < _PART.size:
            raise FormatError(where, f"cut short by the file's end at {size:,}", "8 bytes", _REDO)
        magic, record = _PART.unpack_from(part)
        if magic != MAGIC:
            found = f"0x{magic:08x} at byte {at}"
            raise FormatError(where, found, f"RecordIO's magic, 0x{MAGIC:08x}", _REDO)
        flag, part_bytes = record >> _LENGTH_BITS, record & (1 << _LENGTH_BITS) - 1
        if flag not in ((_WHOLE, _FIRST) if at == start else (_MIDDLE, _LAST)):
            expected = "0 (whole) or 1 (first)" if at == start else "2 (middle) or 3 (last)"
            raise FormatError(where, f"part flag {flag} at byte {at}", expected, _REDO)
        end = at + _PART.size + (part_bytes + 3 & ~3)
        if end > size:
            found = f"cut short by the file's end at {size:,}"
            raise FormatError(where, found, f"{end - size:,} bytes more", _REDO)
        length += part_bytes
        if len(head) < HEAD.itemsize:
            head += part[_PART.size : _PART.size + part_bytes]
        if flag in (_WHOLE, _LAST):
            return end, length, head[: HEAD.itemsize].ljust(HEAD.itemsize, b"\0")
        length += len(_MAGIC_BYTES)
        head += _MAGIC_BYTES if len(head) < HEAD.itemsize else b""
        at = end


def _where(path: Path, number: int, start: int) -> str:
    return f"{path}: record {number} at byte {start}"
