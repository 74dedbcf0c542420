"""Reads `.beton` files, ours and stock FFCV's; every offset and size is checked here.

See `layout` for the bytes.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import DataError, FormatError
from pipelines.formats.beton_extra import Extra, read_extra, read_name, read_names, read_points
from pipelines.formats.beton_labels import TYPE_NDARRAY
from pipelines.formats.beton_tables import (
    allocated_sizes,
    check_bounds,
    read_classes,
    read_targets,
)
from pipelines.formats.columns import Columns
from pipelines.formats.crc import crc32
from pipelines.formats.held_file import HeldFile
from pipelines.formats.layout import (
    ALLOCATION,
    DESCRIPTOR,
    EXTRA,
    EXTRA_VERSION,
    FIELD_NAMES,
    HEADER,
    MAGIC,
    METADATA,
    METADATA_START,
    POINTS,
    TYPE_INT,
    TYPE_RGB,
    VERSION,
    About,
    Preparation,
    Stored,
)
from pipelines.formats.shards import Shard


@dataclass(frozen=True, slots=True)
class Index:
    """The index of a `.beton`: what it holds and where.

    Attributes:
        path: the file.
        classes: class names; plain numbers in files that stock FFCV wrote.
        labels: int64[N]; zeros where `columns.task` is another than `classes`.
        widths, heights: int32[N], px.
        modes: uint8[N], MODE_JPG or MODE_RAW.
        pointers, sizes: int64[N], bytes.
        page_bytes: the page size.
        fields: names of the image and the label field: any, in files that stock FFCV wrote.
        checksums: uint32[N] CRC-32 of each sample's bytes, or None (stock FFCV).
        shard: which part of a conversion this is; None if it is all.
        preparation: how the pixels were prepared.
        doubtful: sample -> why its pixels may be wrong.
        odd: sample -> what decoders say of it that costs no pixel.
        columns: what is known of the samples beside their labels.
        division: how the data were split in converting, in words; empty: they came so.
        numbers: int64[N], the samples' numbers in the file; None: these are all, in order.
        file: the file, held open.
    """

    path: Path
    classes: tuple[str, ...]
    labels: NDArray[np.int64]
    widths: NDArray[np.int32]
    heights: NDArray[np.int32]
    modes: NDArray[np.uint8]
    pointers: NDArray[np.int64]
    sizes: NDArray[np.int64]
    page_bytes: int
    fields: tuple[str, str]
    checksums: NDArray[np.uint32] | None
    shard: Shard | None
    preparation: Preparation
    doubtful: Mapping[int, str]
    odd: Mapping[int, str]
    columns: Columns
    division: str
    _extra: Extra | None = field(repr=False)
    file: HeldFile = field(repr=False)
    numbers: NDArray[np.int64] | None = field(repr=False)
    _checked: NDArray[np.bool_] = field(repr=False)

    def __len__(self) -> int:
        return len(self.labels)

    def __reduce__(self) -> tuple[object, tuple[Path, NDArray[np.int64] | None]]:
        """A process that is handed an index reads it anew."""
        return _read_some, (self.path, self.numbers)

    def take(self, samples: NDArray[np.int64]) -> Index:
        """An index of some of the samples, numbered anew in the order given."""
        numbers = samples if self.numbers is None else self.numbers[samples]
        places = {int(sample): place for place, sample in enumerate(samples)}

        def keep(remarks: Mapping[int, str]) -> dict[int, str]:
            return {places[at]: said for at, said in remarks.items() if at in places}

        return replace(
            self,
            labels=self.labels[samples],
            widths=self.widths[samples],
            heights=self.heights[samples],
            modes=self.modes[samples],
            pointers=self.pointers[samples],
            sizes=self.sizes[samples],
            checksums=None if self.checksums is None else self.checksums[samples],
            doubtful=keep(self.doubtful),
            odd=keep(self.odd),
            columns=self.columns.take(samples),
            numbers=numbers,
            _checked=self._checked[samples],
        )

    @property
    def points(self) -> NDArray[np.void] | None:
        """`layout.POINTS` of each sample in the file; None where it holds no entry points."""
        return None if self._extra is None else self._extra.points

    @property
    def has_names(self) -> bool:
        """Whether the file says where its samples are from; stock FFCV's do not."""
        return self._extra is not None

    def name(self, sample: int) -> str:
        """The source file of a sample, relative to the converted folder."""
        return read_name(self.file, self._extra, self._number(sample))

    def names(self) -> list[str]:
        """The source files of all samples; see `name`.

        Raises:
            DataError: the file has changed or cannot be read.
        """
        numbers = np.arange(len(self)) if self.numbers is None else self.numbers
        return read_names(self.file, self._extra, numbers.tolist())

    def stored(self, sample: int) -> Stored:
        """A sample's bytes.

        Raises:
            DataError: they are not those that were written; see `check`.
        """
        data = self._bytes(sample)
        self._check(sample, data)
        return Stored(
            int(self.modes[sample]), int(self.widths[sample]), int(self.heights[sample]), data
        )

    def entry_points(self, sample: int) -> tuple[int, NDArray[np.int64]] | None:
        """See Source; `convert` has found them in data that were whole.

        Raises:
            DataError: they are not those that were written.
        """
        with self._named(sample):
            return self._read_points(sample)

    def read_into(self, sample: int, start: int, target: NDArray[np.uint8]) -> None:
        """Fill memory with some of a sample's bytes.

        Args:
            sample: its number.
            start: the first of its bytes that is wanted.
            target: uint8[...], contiguous.

        Raises:
            DataError: as `stored`.
        """
        with self._named(sample):
            self.file.read_into(int(self.pointers[sample]) + start, target)
        self.check(sample)

    def check(self, sample: int) -> None:
        """Check a sample's bytes against its checksum, once in this process.

        Many a changed bit still decodes, to other pixels. The first look at a photo costs 0.2 % of
        its decoding, every further one nothing, unless somebody has written to the file: from then
        on no earlier look counts. Safe to call from several threads.

        Raises:
            DataError: the bytes are not those that were written.
        """
        if not self._checked[sample] or self.file.has_changed():
            self._check(sample, self._bytes(sample))

    def _check(self, sample: int, data: bytes) -> None:
        changed = self.file.has_changed()
        if self._checked[sample] and not changed:
            return
        if self.checksums is None:
            if changed:  # to what, nobody can tell
                found, remedy = "has been written to since it was opened", "start again"
                raise DataError(self.path, found, "the file as it was", remedy)
        elif crc32(data) != int(self.checksums[sample]):
            name = f"{self.path}: {self.name(sample)}"
            remedy = f"{_REDO}; fastft inspect --verify names all that have"
            raise DataError(name, "its bytes have changed", "those that were written", remedy)
        self._checked[sample] = True

    def check_extra(self) -> None:
        """Check the class names, source names and what a shard says against their checksum.

        Raises:
            DataError: the file carries no checksums.
            FormatError: they are not those that were written.
        """
        extra = self._extra
        if extra is None:
            raise DataError(
                self.path, "carries no checksums", "a file that fastft wrote", "convert it anew"
            )
        if crc32(self.file.read(extra.at, extra.end - extra.at)) != extra.crc32:
            raise FormatError(self.path, "its class or source names have changed", "", _REDO)

    def fingerprint(self) -> bytes:
        """All samples' checksums; where there are none, the file's size and time."""
        if self.checksums is not None:
            return hashlib.sha256(self.checksums.tobytes()).digest()
        state = os.stat(self.path)
        said = f"{state.st_size} {state.st_mtime_ns}".encode()
        return said if self.numbers is None else said + hashlib.sha256(self.numbers).digest()

    def _bytes(self, sample: int) -> bytes:
        with self._named(sample):
            return self.file.read(int(self.pointers[sample]), int(self.sizes[sample]))

    def _read_points(self, sample: int) -> tuple[int, NDArray[np.int64]] | None:
        row = None if self.points is None else self.points[self._number(sample)]
        if row is None or row == _NO_POINTS:
            return None
        size = int(self.sizes[sample])
        return read_points(self.file, row, int(self.pointers[sample]) + size, size)

    def _number(self, sample: int) -> int:
        """A sample's number in the file."""
        return sample if self.numbers is None else int(self.numbers[sample])

    @contextmanager
    def _named(self, sample: int) -> Iterator[None]:
        """Lets what goes wrong with the file be said of a sample."""
        try:
            yield
        except DataError as error:
            name = f"{self.path}: {self.name(sample)}"
            raise DataError(name, error.found, error.expected, error.remedy) from error

    def damaged(self) -> Iterator[int | None]:
        """Check every sample against its checksum.

        Yields:
            For each sample in turn: its number if its bytes have changed, else None.

        Raises:
            DataError: the file carries no checksums, or the class and source names have changed.
        """
        self.check_extra()
        assert self.checksums is not None
        for sample in range(len(self)):
            is_whole = crc32(self._bytes(sample)) == int(self.checksums[sample])
            try:
                self._read_points(sample)
            except FormatError:
                is_whole = False
            yield None if is_whole else sample


_REDO = "rerun fastft convert"
_NO_POINTS = np.zeros((), POINTS)[()]


def read_index(path: Path) -> Index:
    """Read the tables of a `.beton`, ours or stock FFCV's; the samples stay on disk.

    Every offset and size is checked against the file here, so that no later reader need be.

    Raises:
        FormatError: `path` is no `.beton`, is of another version, cut short or inconsistent.
        DataError: it does not exist, cannot be read or holds no samples.
    """
    file = _open(path)
    size = file.size
    if size < METADATA_START:
        raise FormatError(path, f"{size:,} bytes long", "a .beton file", _REDO)
    header = file.array(HEADER, 1, 0)[0]
    version, samples, page = (
        int(header["version"]),
        int(header["samples"]),
        int(header["page_size"]),
    )
    if version != VERSION:
        hint = "a .beton file" if version > 64 else f"format version {VERSION}"
        raise FormatError(path, f"format version {version}", hint, _REDO)
    if page < 1 or page & (page - 1):
        raise FormatError(path, f"page size {page}", "a power of two", _REDO)
    descriptors = file.array(DESCRIPTOR, 2, HEADER.itemsize)
    types = [int(t) for t in descriptors["type"]]
    names = [bytes(name).split(b"\0")[0] for name in descriptors["name"]]
    kinds = ([TYPE_RGB, TYPE_INT], [TYPE_RGB, TYPE_NDARRAY])
    if int(header["fields"]) != 2 or types not in kinds:
        raise FormatError(
            path,
            f"{int(header['fields'])} fields of types {types}",
            "an RGBImageField and an IntField or NDArrayField",
            "write it with fastft convert",
        )
    if not all(name.isascii() for name in names) or names[0] == names[1]:
        found = f"fields called {names[0]!r} and {names[1]!r}"  # FFCV finds them by these
        raise FormatError(path, found, "two names in ASCII", _REDO)
    if samples == 0:
        raise DataError(path, "holds no samples", "at least one", _REDO)
    table, metadata_end = int(header["table"]), METADATA_START + samples * METADATA.itemsize
    if metadata_end > size or not metadata_end <= table <= size - samples * ALLOCATION.itemsize:
        raise FormatError(
            path, f"cut short at {size:,} bytes", f"{samples:,} samples and their tables", _REDO
        )
    metadata = file.array(METADATA, samples, METADATA_START)
    if (size - table) % ALLOCATION.itemsize:
        raise FormatError(path, "its allocation table ends in the middle", "whole entries", _REDO)
    allocation = file.array(ALLOCATION, (size - table) // ALLOCATION.itemsize, table)
    pointers = metadata["pointer"]
    sizes = allocated_sizes(path, pointers, allocation)
    check_bounds(path, metadata, sizes, metadata_end, table)
    head = np.frombuffer(descriptors["arguments"][0].tobytes(), EXTRA, 1)[0]
    extra = None
    if head["magic"] == MAGIC:
        if int(head["version"]) != EXTRA_VERSION:
            found = f"extra data of version {int(head['version'])}"
            raise FormatError(path, found, f"version {EXTRA_VERSION}", _REDO)
        if crc32(allocation, crc32(metadata)) != int(head["tables_crc32"]):
            raise FormatError(path, "its tables have changed", "their checksum to hold", _REDO)
        if names != list(FIELD_NAMES):
            raise FormatError(path, "its fields' names have changed", "", _REDO)
        extra = read_extra(file, head, samples, metadata_end, table)
    elif head["magic"]:  # stock FFCV leaves zeros there
        raise FormatError(path, "its extra data are not marked as such", "", _REDO)
    about = About(classes=()) if extra is None else extra.about
    if types[1] == TYPE_INT:
        labels, classes, columns = *read_classes(path, metadata, about), about.columns
    else:
        description = descriptors["arguments"][1]
        classes, columns = read_targets(file, metadata, allocation, description, extra, table)
        labels = np.zeros(samples, np.int64)
    return Index(
        path=path,
        classes=classes,
        labels=labels,
        widths=metadata["width"].astype(np.int32),
        heights=metadata["height"].astype(np.int32),
        modes=metadata["mode"].copy(),
        pointers=pointers.astype(np.int64),
        sizes=sizes.astype(np.int64),
        page_bytes=page,
        fields=(names[0].decode(), names[1].decode()),
        checksums=None if extra is None else extra.checksums,
        shard=None if extra is None else extra.shard,
        preparation=about.preparation,
        doubtful=about.doubtful,
        odd=about.odd,
        columns=columns,
        division=about.division,
        file=file,
        numbers=None,
        _extra=extra,
        _checked=np.zeros(samples, np.bool_),
    )


def _read_some(path: Path, numbers: NDArray[np.int64] | None) -> Index:
    index = read_index(path)
    return index if numbers is None else index.take(numbers)


def _open(path: Path) -> HeldFile:
    remedy = "name another"
    try:
        if path.is_dir():
            found, expected, remedy = "is a folder", "a .beton file", "name a file in it"
        else:
            return HeldFile(path)
    except FileNotFoundError:
        found, expected, remedy = "no such file", "a .beton file", "make it by fastft convert"
    except PermissionError:
        found, expected, remedy = "cannot be read", "read permission", "see its owner and mode"
    except OSError as error:
        found, expected = (error.strerror or type(error).__name__).lower(), "a .beton file"
    raise DataError(path, found, expected, remedy)
