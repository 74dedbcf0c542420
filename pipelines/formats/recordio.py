"""MXNet's RecordIO: labelled images in one `.rec`, with or without the `.idx` beside it.

One pass over the file lists its records (`recordio_format`); images are read later, by
offset from one descriptor, by any number of threads.

The data of an image record are a header (flag, label, id) and the image file; a `flag` above 0
says how many labels follow the header in place of the one in it. The `.idx` is text, a line of
`key<TAB>position` per record.

Source: MXNet, src/io/image_recordio.h (header) and python/mxnet/recordio.py (header, `.idx`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import DataError, FormatError
from pipelines.formats.columns import NONE, Columns
from pipelines.formats.recordio_format import Table, read_table
from pipelines.images.limits import MAX_FILE_BYTES

_HEADER_BYTES, _LABEL_BYTES = 24, 4
#: The first bytes of an image file -> its suffix.
_SUFFIXES = {b"\xff\xd8\xff": ".jpg", b"\x89PNG": ".png", b"GIF8": ".gif", b"RIFF": ".webp"}
_REDO = "fetch it or write it anew"
#: A `.idx` is at most so long, and so much longer for each record: two numbers and what is between.
_INDEX_BYTES, _MOST_LINE_BYTES = 4096, 64
#: Labels are float32, whose whole numbers have gaps from here on.
_MAX_LABELS = 1 << 24


@dataclass(frozen=True, slots=True)
class Records:
    """The samples of one `.rec`; see `conversion.inputs.Listing`.

    Attributes:
        path: the file.
        classes: class names; a label is an index into them.
        names: each sample's class and key (or id, or record number), in sample order.
        labels: int64[N].
        ignored: what was passed over -> how many.
        passed_over: no folders.
        columns: nothing is known beside the labels.
    """

    path: Path
    classes: tuple[str, ...]
    names: tuple[str, ...]
    labels: NDArray[np.int64]
    ignored: dict[str, int]
    _table: Table = field(repr=False)
    _skips: NDArray[np.int64] = field(repr=False)
    _file: int = field(repr=False)
    passed_over: tuple[str, ...] = ()
    columns: Columns = NONE

    def __len__(self) -> int:
        return len(self.names)

    def where(self, name: str) -> str:
        """The name of a sample or a class in an error."""
        return f"{self.path}: {name}"

    def size_bytes(self, sample: int) -> int:
        """The size of a sample's image file."""
        return int(self._table.sizes[sample]) - int(self._skips[sample])

    def read(self, sample: int) -> bytes:
        """The bytes of a sample's image file; safe to call from several threads.

        Raises:
            DataError: it is larger than images are, or the file no longer as it was listed.
        """
        name = self.names[sample]
        if self.size_bytes(sample) > MAX_FILE_BYTES:
            found = f"{self.size_bytes(sample):,} bytes, more than {MAX_FILE_BYTES:,}"
            raise DataError(self.where(name), found)
        try:
            data = self._table.read(self._file, sample, int(self._skips[sample]))
        except OSError as error:
            raise DataError(self.where(name), error.strerror or "cannot be read") from error
        if len(data) != self.size_bytes(sample):
            raise DataError(self.where(name), "the file has changed since it was listed")
        return data


@contextmanager
def open_records(path: Path, classes: tuple[str, ...] = ()) -> Iterator[Records]:
    """List the samples of a `.rec`, which can be read until the block is left.

    Args:
        path: the file. A `.idx` beside it says which records are samples, in which order, and
            their keys; else all are, in the file's order.
        classes: what the labels 0, 1, ... mean; default: their numbers.

    Raises:
        FormatError: `path` is no RecordIO of images, cut short or inconsistent.
        DataError: it cannot be read, does not agree with its `.idx`, or has labels that are no
            class numbers, several per image, or a class without a sample.
    """
    try:
        file = path.open("rb", buffering=0)
    except OSError as error:
        found = (error.strerror or type(error).__name__).lower()
        raise DataError(path, found, "a RecordIO file", "check the path") from error
    with file:
        table = read_table(path, file.fileno())
        if not len(table):
            raise DataError(path, "holds no records", "at least one", _REDO)
        keys, ignored = None, {}
        index = path.with_suffix(".idx")
        if index.exists():
            if not index.is_file():
                raise DataError(index, "is no plain file", "text, a line for each record")
            keys, samples = _read_index(index, path, table)
            if left := len(table) - len(samples):
                ignored[f"records that {index.name} leaves out"] = left
            table = table.take(samples)
        skips = _read_skips(path, table)
        labels = _read_labels(path, table)
        classes = _name_classes(path, table, labels, classes)
        if keys is None:
            ids = table.heads["id"]
            keys = ids if np.unique(ids).size == len(ids) else table.numbers.astype(np.uint64)
        names = _name_samples(table, labels, classes, keys)
        yield Records(path, classes, names, labels, ignored, table, skips, file.fileno())


def _read_index(
    index: Path, path: Path, table: Table
) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """The keys that a `.idx` lists, and the numbers of their records.

    Raises:
        DataError: it cannot be read, or does not agree with the file.
    """
    remedy = f"fetch or write both anew, or remove it to take the order of {path.name}"
    try:
        if (size := index.stat().st_size) > _INDEX_BYTES + _MOST_LINE_BYTES * len(table):
            found = f"{size:,} bytes for {len(table):,} records"
            raise DataError(index, found, "a line for each", remedy)
        content = index.read_bytes().split(b"\n")
    except OSError as error:
        raise DataError(index, (error.strerror or "cannot be read").lower()) from error
    keys, positions, lines = [], [], []
    for number, line in enumerate(content, 1):
        fields = line.split()
        # 18 digits fit into 64 bits.
        if len(fields) == 2 and all(part.isdigit() and len(part) <= 18 for part in fields):
            keys.append(int(fields[0]))
            positions.append(int(fields[1]))
            lines.append(number)
        elif fields:
            found = repr(line[:60].decode(errors="replace"))
            raise DataError(f"{index}: line {number}", found, "key, tab, position", remedy)
    if not lines:
        raise DataError(index, "lists no records", "at least one", remedy)
    at = np.array(positions, np.int64)
    samples = np.minimum(np.searchsorted(table.starts, at), len(table) - 1)
    lost = np.flatnonzero(table.starts[samples] != at)
    if lost.size:
        found = f"position {at[lost[0]]}"
        expected = f"where one of the {len(table):,} records of {path.name} starts"
        raise DataError(f"{index}: line {lines[lost[0]]}", found, expected, remedy)
    for what, values in (("key", np.array(keys, np.uint64)), ("position", at)):
        _, firsts = np.unique(values, return_index=True)
        if len(firsts) < len(values):
            again = int(np.setdiff1d(np.arange(len(values)), firsts)[0])
            found = f"{what} {values[again]} again"
            raise DataError(f"{index}: line {lines[again]}", found, f"each {what} once", remedy)
    return np.array(keys, np.uint64), samples


def _read_skips(path: Path, table: Table) -> NDArray[np.int64]:
    """int64[N]: how many bytes of each record's data come before the image.

    Raises:
        FormatError: a record has no room for them.
        DataError: an image has several labels.
    """
    flags = table.heads["flag"].astype(np.int64)
    for sample in _first(table.sizes < _HEADER_BYTES):
        found, expected = f"{table.sizes[sample]} bytes of data", f"at least {_HEADER_BYTES}"
        remedy = "only records of images can be converted"
        raise FormatError(table.where(path, sample), found, expected, remedy)
    for sample in _first(flags > 1):
        found, remedy = f"flag {flags[sample]}, so many labels", "fastft trains single-label models"
        raise DataError(table.where(path, sample), found, "one label per image", remedy)
    skips = _HEADER_BYTES + _LABEL_BYTES * flags
    for sample in _first(table.sizes < skips):
        found = f"{table.sizes[sample]} bytes of data"
        raise FormatError(table.where(path, sample), found, f"at least {skips[sample]}", _REDO)
    return skips


def _read_labels(path: Path, table: Table) -> NDArray[np.int64]:
    """int64[N].

    Raises:
        DataError: a label is no class number.
    """
    heads = table.heads
    behind = np.ascontiguousarray(heads["next"][:, 0]).view("<f4")
    labels = np.where(heads["flag"] == 1, behind, heads["label"])
    with np.errstate(invalid="ignore"):  # a label may be any NaN
        right = (labels >= 0) & (labels < _MAX_LABELS) & (labels == np.floor(labels))
    for sample in _first(~right):
        expected, remedy = "a class number: 0, 1, ...", "renumber the labels"
        raise DataError(table.where(path, sample), f"label {labels[sample]}", expected, remedy)
    return labels.astype(np.int64)


def _name_classes(
    path: Path, table: Table, labels: NDArray[np.int64], classes: tuple[str, ...]
) -> tuple[str, ...]:
    """`classes`, or the labels' numbers.

    Raises:
        DataError: a label has no class, or a class no sample.
    """
    for sample in _first(labels >= len(classes)) if classes else ():
        found = f"label {labels[sample]}"
        expected = f"0 to {len(classes) - 1}, for {len(classes)} classes"
        remedy = "name every class of every split by --classes, in the order of their labels"
        raise DataError(table.where(path, sample), found, expected, remedy)
    present = np.unique(labels)
    wanted = len(classes) or int(present[-1]) + 1
    if len(present) < wanted:
        absent = int(np.setdiff1d(np.arange(len(present) + 1), present)[0])
        name = f"class {classes[absent]} (label {absent})" if classes else f"label {absent}"
        remedy = "add images, or renumber the labels and adapt --classes"
        raise DataError(path, f"{name} has no records", f"each of {wanted} to have some", remedy)
    return classes or tuple(str(label) for label in range(wanted))


def _name_samples(
    table: Table, labels: NDArray[np.int64], classes: tuple[str, ...], keys: NDArray[np.uint64]
) -> tuple[str, ...]:
    """Names as of files in class folders: `class/key.jpg`, keys filled up with zeros."""
    behind = table.heads["next"][np.arange(len(table)), (table.heads["flag"] == 1).astype(int)]
    firsts, which = np.unique(behind, return_inverse=True)
    suffixes = [_suffix(first.tobytes()) for first in firsts]
    width = len(str(int(keys.max())))
    rows = zip(labels.tolist(), keys.tolist(), which.tolist(), strict=True)
    return tuple(f"{classes[label]}/{key:0{width}d}{suffixes[kind]}" for label, key, kind in rows)


def _suffix(first: bytes) -> str:
    return next((suffix for magic, suffix in _SUFFIXES.items() if first.startswith(magic)), "")


def _first(wrong: NDArray[np.bool_]) -> list[int]:
    """The first place where `wrong` is true; empty if there is none."""
    return [int(np.argmax(wrong))] if wrong.any() else []
