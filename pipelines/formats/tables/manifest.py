"""A table as a listing: each row names an image file and says what is in it.

A path is relative to the table's folder, or to `root`. The files are the user's own, so a table may
name any of them: absolute paths and `..` are followed. A URL is refused: nothing is fetched here.
Whether a file is there is not asked, which would take a system call for each; what cannot be read
later counts as broken, as in class folders. A path of any suffix is a sample: its row says so.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import DataError, UsageError
from pipelines.formats.columns import ColumnNames, Columns, Task, hash_words
from pipelines.formats.plain_file import read_bytes
from pipelines.formats.splits import SPLITS, split_of
from pipelines.formats.tables.choice import NO_COLUMN, choose_columns
from pipelines.formats.tables.labelling import Labelling, find_flags, read_labelling
from pipelines.formats.tables.opening import open_table
from pipelines.formats.tables.table import Coded, Table
from pipelines.formats.tables.values import (
    Context,
    is_unicode,
    read_numbers,
    read_text,
    unfold_flags,
)

#: Paths that are checked at once.
_PATHS = 1 << 14
_SLASH, _NEWLINE, _DOT = b"/\n."
_URL = re.compile("[A-Za-z][A-Za-z0-9+.-]+://")


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """The samples of one split of a table; see `conversion.inputs.Listing`.

    Attributes:
        path: the table.
        root: the folder that names are relative to.
        classes: class names; a label is an index into them.
        names: each sample's path as in the table, normalized, in the table's order.
        labels: int64[N].
        columns: what else the table says.
        ignored: each row is a sample.
        passed_over: no folders.
    """

    path: Path
    root: Path
    classes: tuple[str, ...]
    names: tuple[str, ...]
    labels: NDArray[np.int64]
    columns: Columns
    ignored: dict[str, int] = field(default_factory=dict)
    passed_over: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    def where(self, name: str) -> str:
        """The name of a sample or a class in an error."""
        return f"{self.path}: {name}"

    def size_bytes(self, sample: int) -> int:
        """A sample's file size; 0 where there is no telling, which `read` then reports."""
        try:
            return os.stat(self._file(sample)).st_size
        except OSError:
            return 0

    def read(self, sample: int) -> bytes:
        """A sample's bytes; safe to call from several threads.

        Raises:
            DataError: the file cannot be read.
        """
        path = self._file(sample)
        try:
            return read_bytes(path)
        except OSError as error:
            raise DataError(path, error.strerror or type(error).__name__) from error

    def _file(self, sample: int) -> str:
        return os.path.join(self.root, self.names[sample])


@contextmanager
def open_manifest(
    path: Path, names: ColumnNames, classes: tuple[str, ...] = (), root: Path | None = None
) -> Iterator[dict[str, Manifest]]:
    """The listings of a table: split -> listing, or '' -> the only one, if it says no splits.

    Args:
        path: a CSV, TSV, JSON Lines or Parquet file.
        names: of its columns; by default guessed.
        classes: what labels that are numbers mean; default: their numbers.
        root: the folder that paths are relative to; default: the table's.

    Raises:
        DataError: the file is not as its format says, a row lacks something or does not fit, an
            image is named twice, or a split has not the training split's classes.
        UsageError: it is not clear which column is which, `classes` are given for names, `root` is
            no folder, or pyarrow is missing.
    """
    if root is not None and not root.is_dir():
        raise UsageError("--image-root", str(root), "a folder", "check the path")
    with open_table(path) as table:
        listings = _list(table, names, classes, path.parent if root is None else root)
    yield listings


def _list(
    table: Table, names: ColumnNames, classes: tuple[str, ...], root: Path
) -> dict[str, Manifest]:
    choice = choose_columns(table.path, table.columns, names)
    chosen = [name for name in (choice.split, choice.weight, choice.group) if name]
    labels = choice.labels or tuple(filter(table.has_values, choice.others))
    paths, coded = table.read(choice.image, (*chosen, *labels))
    if not paths:
        raise DataError(table.path, "has no rows", "one for each image", "fetch or write it anew")
    found = {column.name: column for column in coded}
    _normalize(paths, table, choice.image)
    splits = _read_splits(found.get(choice.split), len(paths), table)
    context = Context(path=table.path, place=table.place, splits=splits)
    _require_unique(paths, context)
    label_columns = [found[name] for name in labels]
    if choice.labels:
        labelling = _label(label_columns, names.task, classes, context)
    else:
        flags = find_flags(label_columns, context)
        labelling = read_labelling(flags, "labels", classes, context, by_flags=True)
    weights = groups = None
    if choice.weight:
        weights = read_numbers(found[choice.weight], context, positive=True)
    if choice.group:
        column = found[choice.group]
        groups = hash_words(read_text(column, context))[column.codes]
    columns = Columns(
        task=labelling.task, targets=labelling.targets, groups=groups, weights=weights
    )
    return {
        split: Manifest(
            path=table.path,
            root=root,
            classes=labelling.classes,
            names=tuple(paths) if not split else tuple(map(paths.__getitem__, rows.tolist())),
            labels=labelling.labels[rows],
            columns=columns.take(rows),
        )
        for split, rows in splits.items()
    }


def _label(
    columns: list[Coded], task: Task | Literal[""], classes: tuple[str, ...], context: Context
) -> Labelling:
    """The labels or targets in label columns, lists of 0 and 1 among them."""
    if len(columns) == 1 and task in ("", "labels"):
        columns[0], width = unfold_flags(columns[0])
        if width and len(classes) not in (0, width):
            found = f"lists of {width} in {columns[0].name!r}"
            raise DataError(context.path, found, f"{len(classes)}, as --classes says")
        classes = classes or tuple(map(str, range(width)))
    return read_labelling(columns, task, classes, context)


def _normalize(paths: list[str], table: Table, column: str) -> None:
    """Put paths into the form of names, in place.

    Raises:
        DataError: one is empty, a URL, or no path.
    """
    for start in range(0, len(paths), _PATHS):
        some = paths[start : start + _PATHS]
        text = "\n".join(("", *some, ""))
        if is_unicode(text) and not _may_be_odd(text):
            continue
        for row, path in enumerate(some, start):
            paths[row] = _normalize_path(path, row, table, column)


def _may_be_odd(text: str) -> bool:
    """Whether any of some paths, with a newline before and behind each, may have to be changed."""
    octets = np.frombuffer(text.encode(), np.uint8)
    here, behind = octets[:-1], octets[1:]
    # Slashes and newlines are looked for first, then the characters behind them: they are few.
    breaks = np.flatnonzero((here == _SLASH) | (here == _NEWLINE))
    follow = behind[breaks]
    odd = (follow == _DOT) | (follow == _NEWLINE) | ((follow == _SLASH) & (here[breaks] == _SLASH))
    return bool(odd.any()) or "\\" in text or "\0" in text


def _normalize_path(path: str, row: int, table: Table, column: str) -> str:
    is_url = _URL.match(path) is not None
    if not path or is_url or "\0" in path or not is_unicode(path):
        found = f"{column!r} is {path[:80]!r}" if path else f"no {column!r}"
        remedy = "download the images first" if is_url else "" if path else "remove the row"
        where = f"{table.path}: {table.place(row)}"
        raise DataError(where, found, "the path of a file", remedy)
    normal = posixpath.normpath(path.replace("\\", "/"))
    return normal[1:] if normal.startswith("//") else normal


def _read_splits(column: Coded | None, rows: int, table: Table) -> dict[str, NDArray[np.int64]]:
    """Split -> int64[...], its rows, in the order of `SPLITS`; '' alone without a column.

    Raises:
        DataError: a cell names no split, or no row is of the training split.
    """
    if column is None:
        return {"": np.arange(rows)}
    context = Context(path=table.path, place=table.place, splits={})
    found = []
    for code, word in enumerate(read_text(column, context)):
        split = split_of(word)
        if split is None:
            said, expected = f"{column.name!r} is {word[:60]!r}", "train, val or test"
            remedy = f"rename it, or take no column as splits: --split-column {NO_COLUMN}"
            context.refuse(column.row(code), said, expected, remedy)
        found.append(SPLITS.index(split))
    if 0 not in found:
        said = f"has {', '.join(SPLITS[each] for each in sorted(set(found)))} but no train rows"
        remedy = f"take all as one: --split-column {NO_COLUMN}"
        raise DataError(table.path, said, "train beside test or val", remedy)
    numbers = np.array(found)[column.codes]
    return {
        split: np.flatnonzero(numbers == number)
        for number, split in enumerate(SPLITS)
        if number in found
    }


def _require_unique(names: list[str], context: Context) -> None:
    """Raise DataError if two rows name the same image: in two splits it is a leak."""
    # Hashes first: a set of a million names takes 0.33 s, sorting their hashes 0.15 s (2 GHz Xeon).
    hashes = np.fromiter(map(hash, names), np.int64, len(names))
    hashes.sort()
    if (hashes[1:] != hashes[:-1]).all() or len(set(names)) == len(names):
        return
    seen: dict[str, int] = {}
    for row, name in enumerate(names):
        first = seen.setdefault(name, row)
        if first == row:
            continue
        split, other = (
            next(split for split, rows in context.splits.items() if each in rows)
            for each in (row, first)
        )
        again = f"{name!r} again, as in {context.place(first)}"
        if split != other:
            again += f", there in {other} and here in {split}"
        context.refuse(row, again, "each image once", "remove one of the rows")
