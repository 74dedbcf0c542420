"""Opening a table, whatever its format; the file's suffix says which."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from pipelines.errors import UsageError
from pipelines.formats.tables.delimited import open_delimited
from pipelines.formats.tables.json_lines import open_json_lines
from pipelines.formats.tables.parquet import open_parquet
from pipelines.formats.tables.table import Table, open_file

_OPENERS: dict[str, Callable[[Path, BinaryIO], Table]] = {
    ".csv": open_delimited,
    ".tsv": open_delimited,
    ".jsonl": open_json_lines,
    ".ndjson": open_json_lines,
    ".parquet": open_parquet,
}
#: Suffixes of tables, in lower case.
TABLE_SUFFIXES = tuple(_OPENERS)


@contextmanager
def open_table(path: Path) -> Iterator[Table]:
    """A table, which can be read until the block is left.

    Raises:
        DataError: the file is missing, no table of its suffix, or has no column names.
        UsageError: its suffix is none of a table, or pyarrow is missing.
    """
    opener = _OPENERS.get(path.suffix.lower())
    if opener is None:
        raise UsageError(path, "is no table by its name", f"one of {' '.join(TABLE_SUFFIXES)}")
    with open_file(path) as file:
        yield opener(path, file)
