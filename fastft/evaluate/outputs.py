"""What is written for others to read: files whole or not at all, and standard output."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from fastft.config.commands import STDOUT
from pipelines.atomic import AtomicFile
from pipelines.errors import DataError


def write_text(out: Path, parts: Iterable[str]) -> None:
    """Write a text file whole or not at all.

    Raises:
        DataError: `out` cannot be written.
    """
    write_bytes(out, map(to_utf8, parts))


def write_bytes(out: Path, parts: Iterable[bytes]) -> None:
    """Write a file whole or not at all.

    Raises:
        DataError: `out` cannot be written.
    """
    try:
        with AtomicFile(out) as target:
            with open(target.descriptor, "wb", closefd=False) as file:
                file.writelines(parts)
            target.publish()
    except OSError as error:
        raise unwritten(out, error) from error


def unwritten(out: Path, error: OSError) -> DataError:
    """The error for a file that cannot be written."""
    return DataError(out, (error.strerror or "cannot be written").lower(), "a file to write")


def to_utf8(text: str) -> bytes:
    """Bytes for a file: a file name that is no UTF-8 arrives as surrogates, which none can hold."""
    return text.encode("utf-8", "backslashreplace")


def csv_lines(rows: Iterable[Sequence[object]]) -> Iterator[str]:
    """The lines of a CSV file."""
    return map(csv_line, rows)


def csv_line(row: Sequence[object]) -> str:
    """A line of a CSV file; of several where a name holds line breaks."""
    content = io.StringIO()
    csv.writer(content).writerow(row)  # quotes what its own line end is of, and no other
    return content.getvalue().removesuffix("\r\n") + "\n"


def print_at_once(text: str) -> None:
    """Write to standard output, for whoever reads along.

    Raises:
        DataError: it cannot be written.
        BrokenPipeError: nobody reads any more.
    """
    try:
        sys.stdout.write(to_utf8(text).decode())
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise DataError("standard output", error.strerror or "cannot be written") from error


class JsonFile:
    """A JSON list that is written item by item, and appears whole or not at all.

    On standard output, `-`, items come as they are made, each batch at once.
    """

    def __init__(self, out: Path) -> None:
        self._out, self._stack = out, ExitStack()
        self._target: AtomicFile | None = None
        self._begun = False

    def __enter__(self) -> JsonFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def add(self, items: Iterable[Any]) -> None:
        """Write some more.

        Raises:
            DataError: the file cannot be written.
        """
        for item in items:
            self._write((",\n" if self._begun else "[\n") + json.dumps(item))
            self._begun = True
        if self._out == STDOUT:
            sys.stdout.flush()

    def publish(self) -> None:
        """End the list; without items there is none.

        Raises:
            DataError: the file cannot be written.
        """
        if not self._begun:
            return
        self._write("\n]\n")
        if self._target is not None:
            try:
                self._target.publish()
            except OSError as error:
                raise unwritten(self._out, error) from error

    def _write(self, text: str) -> None:
        if self._out == STDOUT:
            print_at_once(text)
            return
        try:
            if self._target is None:
                self._target = self._stack.enter_context(AtomicFile(self._out))
            self._target.write(to_utf8(text))
        except OSError as error:
            raise unwritten(self._out, error) from error
