"""Tables that are text: whether the bytes are, before anything is made of them."""

from __future__ import annotations

import codecs
import os
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pipelines.errors import DataError, FormatError
from pipelines.formats.tables.table import MOST_TEXT_BYTES, SPLIT_UP

#: A line that fills a block is refused, so that none is longer than two.
_BLOCK_BYTES = 1 << 20
#: Byte order marks of Excel's `Unicode text`, and of other UTF-16 and UTF-32.
_OTHER_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, b"\0\0\xfe\xff")
_SAVE = "save it as UTF-8"


@dataclass(frozen=True, slots=True)
class Text:
    """Features of a text that its readers must know.

    Attributes:
        start: bytes before the first letter: those of a byte order mark.
        has_quotes: whether there is a double quote in it.
        has_bare_returns: whether a carriage return stands without a newline behind it.
    """

    start: int
    has_quotes: bool
    has_bare_returns: bool


def check_text(path: Path, file: BinaryIO) -> Text:
    """Read a file once, and see that it is text.

    Raises:
        DataError: it is empty, too large, or no UTF-8, or has a NUL or a line without end.
    """
    size = os.fstat(file.fileno()).st_size
    if size > MOST_TEXT_BYTES:
        expected = f"at most {MOST_TEXT_BYTES:,}"
        raise DataError(path, f"{size:,} bytes long", expected, SPLIT_UP)
    decoder = codecs.getincrementaldecoder("utf-8")()
    before, returns, ends, has_quotes, last, start = 0, 0, 0, False, b"", -1
    file.seek(0)
    while block := file.read(_BLOCK_BYTES):
        if start < 0:
            if block.startswith(_OTHER_MARKS):
                raise FormatError(path, "is UTF-16 or UTF-32", "UTF-8", _SAVE)
            start = len(codecs.BOM_UTF8) if block.startswith(codecs.BOM_UTF8) else 0
        if b"\0" in block:
            line = _line_at(file, before + block.index(b"\0"))
            raise FormatError(f"{path}: line {line}", "a NUL byte", "text", _SAVE)
        try:
            decoder.decode(block)
        except UnicodeDecodeError as error:
            line = _line_at(file, before + len(block) - len(error.object) + error.start)
            found = f"no UTF-8 ({bytes(error.object[error.start : error.start + 4])!r})"
            raise FormatError(f"{path}: line {line}", found, "UTF-8", _SAVE) from error
        if len(block) == _BLOCK_BYTES and b"\n" not in block and b"\r" not in block:
            line, expected = _line_at(file, before), f"lines of at most {_BLOCK_BYTES:,} bytes"
            raise FormatError(f"{path}: line {line}", "does not end", expected, "check the file")
        before += len(block)
        has_quotes = has_quotes or b'"' in block
        if b"\r" in block or last == b"\r":
            returns += block.count(b"\r")
            ends += block.count(b"\r\n") + (last == b"\r" and block.startswith(b"\n"))
        last = block[-1:]
    if decoder.getstate()[0]:
        line = _line_at(file, before)
        raise FormatError(f"{path}: line {line}", "ends within a letter", "UTF-8", "fetch it anew")
    if size <= max(start, 0):
        raise DataError(path, "is empty", "a table", "fetch or write it anew")
    return Text(start, has_quotes, returns > ends)


def _line_at(file: BinaryIO, position: int) -> int:
    """The line in which a byte lies; counted where it is asked for, as that takes a while."""
    file.seek(0)
    line = 1
    while position > 0 and (block := file.read(min(_BLOCK_BYTES, position))):
        line += block.count(b"\n")
        position -= len(block)
    return line
