"""A CSV that grows batch by batch and keeps what is in it, whatever ends the process.

    p.csv.part    rows of a command that has not ended; whole lines, but perhaps for the last
    p.csv         takes its place when the command has ended well; until then the old one stays

Continuing takes up `p.csv.part` if there is one, else `p.csv` itself, to which it appends: what was
half written is cut off, and the paths that have a row are known.
"""

from __future__ import annotations

import csv
import fcntl
import os
import stat
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from fastft.config.commands import STDOUT
from fastft.evaluate.outputs import csv_line, print_at_once, to_utf8, unwritten
from pipelines.atomic import AtomicFile
from pipelines.errors import DataError

#: Bytes of a row at most: 10,000 classes take 250,000.
_MOST_BYTES = 1 << 23
_CONTINUED = "a CSV by the same kind of model"
_ANEW = "name another file, or leave --skip-done out"


class CsvFile:
    """Rows of one command; use as a context manager, and publish in the end.

    Attributes:
        done: the paths, as a row has them, that were there before.
        part: where rows are kept until then; None where they go into the file at once.
    """

    def __init__(self, out: Path, head: Sequence[str], *, continues: bool = False) -> None:
        """Open what is continued; anything else is made with the first row.

        Args:
            out: the file, or `-`; a pipe or a device is written as it is.
            head: its columns, of which the first is a path.
            continues: keep the rows that are there.

        Raises:
            DataError: what is there is no CSV of these columns, or in use.
        """
        self._out, self._head, self._stack = out, head, ExitStack()
        self.done: set[str] = set()
        self._file: int | None = None
        self._target: AtomicFile | None = None
        self._size = 0
        self._is_stream = out == STDOUT or (out.exists() and not out.is_file())
        part = part_of(out)
        appends = continues and out.exists() and not part.exists()
        self.part = None if self._is_stream or appends else part
        if not continues or self._is_stream:
            return
        with self._stack:  # of what cannot be continued nothing stays open
            if appends or part.exists():
                self._open(continues=True)
            self._stack = self._stack.pop_all()

    def __enter__(self) -> CsvFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._target is not None and self._size:
            self._target.leave()
        self._stack.__exit__(kind, error, trace)

    def add(self, rows: Iterable[Sequence[object]]) -> None:
        """Write some rows, at once and whole.

        Raises:
            DataError: the file cannot be written; no row is there in part.
        """
        text = "".join(map(csv_line, rows))
        if not text:
            return
        if not self._size:
            text = csv_line(self._head) + text
        if self._out == STDOUT:
            print_at_once(text)
            self._size += len(text)
            return
        file = self._open(continues=False) if self._file is None else self._file
        content = rest = memoryview(to_utf8(text))
        try:
            while rest:
                rest = rest[os.write(file, rest) :]
        except OSError as error:
            with suppress(OSError):  # a pipe has nothing to cut
                os.ftruncate(file, self._size)
            raise unwritten(self._out, error) from error
        self._size += len(content)

    def publish(self) -> None:
        """Put the rows where they were asked for.

        Raises:
            DataError: that cannot be; they stay in `part`.
        """
        if self._file is None or self._is_stream:
            return
        try:
            if self._target is None:
                os.fsync(self._file)
            else:
                self._target.publish()
        except OSError as error:
            raise unwritten(self._out, error) from error

    def _open(self, *, continues: bool) -> int:
        """Open the file that rows go to, behind those that are kept."""
        try:
            if self.part is None:
                how = "r+b" if continues else "wb"
                file = self._stack.enter_context(open(self._out, how, buffering=0)).fileno()
            else:
                self._target = self._stack.enter_context(AtomicFile(self._out, self.part))
                file = self._target.descriptor
        except OSError as error:
            raise unwritten(self._out, error) from error
        self._file = file
        if self._is_stream:
            return file
        where = self.part or self._out
        try:
            _take(file, where, is_ours=self.part is not None)
            if continues:
                with open(file, "rb", closefd=False) as rows:
                    self.done, self._size = read_done(rows, self._head, where)
        except DataError:
            if self._target is not None:
                self._target.leave()
            raise
        os.ftruncate(file, self._size)
        os.lseek(file, self._size, os.SEEK_SET)
        return file


def _take(file: int, where: Path, *, is_ours: bool) -> None:
    """Take a file for this command alone.

    Raises:
        DataError: it is no plain file, somebody else's who made it, or another command's.
    """
    state = os.fstat(file)
    if not stat.S_ISREG(state.st_mode) or (is_ours and state.st_uid != os.geteuid()):
        raise DataError(where, "is no file of this user's", "nothing of that name", "remove it")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        found = "is being written by another command"
        raise DataError(where, found, "one at a time", "wait for it, or name another") from None
    except OSError:  # some network disks have no locks
        pass


def part_of(out: Path) -> Path:
    """The file that keeps rows of a command that has not ended."""
    return out.with_name(f"{out.name}.part")


def read_done(file: BinaryIO, head: Sequence[str], where: Path) -> tuple[set[str], int]:
    """The paths that have a row, and the bytes up to the end of the last whole row.

    Raises:
        DataError: it has other columns, or is no CSV.
    """
    done: set[str] = set()
    end, number, record, quotes = 0, 0, b"", 0
    while line := file.readline(_MOST_BYTES):
        record += line
        quotes += line.count(b'"')
        if len(record) >= _MOST_BYTES:
            raise DataError(where, f"a row from byte {end:,} on has no end", _CONTINUED, _ANEW)
        if quotes % 2 or not line.endswith(b"\n"):  # it goes on, or was cut off
            continue
        cells = _cells(record, where, end)
        if not number and cells != [*head]:
            _refuse(where, ",".join(cells), head)
        if len(cells) != len(head):
            found = f"{len(cells)} columns from byte {end:,} on"
            raise DataError(where, found, f"{len(head)}", _ANEW)
        if number:
            done.add(cells[0])
        end += len(record)
        number, record, quotes = number + 1, b"", 0
    if not number and record and not to_utf8(csv_line(head)).startswith(record):
        _refuse(where, record[:200].decode("utf-8", "replace"), head)
    return done, end


def _cells(record: bytes, where: Path, at: int) -> list[str]:
    try:
        (cells,) = csv.reader([record.decode("utf-8")], strict=True)
    except (csv.Error, ValueError) as error:
        found = f"is no CSV from byte {at:,} on"
        raise DataError(where, found, _CONTINUED, _ANEW) from error
    return cells


def _refuse(where: Path, found: str, head: Sequence[str]) -> None:
    raise DataError(where, f"begins with {found:.100}", f"{','.join(head):.100}", _ANEW)
