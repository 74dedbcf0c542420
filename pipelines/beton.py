"""Reads `.beton` files, ours and stock FFCV's; every offset and size is checked here.

See `pipelines.layout` for the bytes.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import DataError, FormatError
from pipelines.layout import (
    ALLOCATION,
    DESCRIPTOR,
    EXTRA,
    EXTRA_VERSION,
    HEADER,
    MAGIC,
    MAX_PIXELS,
    MAX_SIDE_PX,
    METADATA,
    METADATA_START,
    MODE_JPG,
    MODE_RAW,
    TYPE_INT,
    TYPE_RGB,
    VERSION,
    Stored,
)
from pipelines.shards import Shard, read_shard


@dataclass(frozen=True, slots=True)
class Index:
    """What a `.beton` holds and where.

    Attributes:
        path: the file.
        classes: class names; plain numbers in files that stock FFCV wrote.
        labels: int64[N].
        widths, heights: int32[N], px.
        modes: uint8[N], MODE_JPG or MODE_RAW.
        pointers, sizes: int64[N], bytes.
        page_bytes: the page size.
        fields: names of the image and the label field: any, in files that stock FFCV wrote.
        checksums: uint32[N] CRC-32 of each sample's bytes, or None (stock FFCV).
        shard: which part of a conversion this is; None if it is all.
        data: uint8[...] the whole file, memory-mapped.
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
    _name_ends: NDArray[np.int64] | None = field(repr=False)
    _names: NDArray[np.uint8] | None = field(repr=False)
    _extra: NDArray[np.uint8] | None = field(repr=False)
    _extra_crc32: int | None = field(repr=False)
    data: NDArray[np.uint8] = field(repr=False)
    _map: mmap.mmap = field(repr=False)
    _checked: NDArray[np.bool_] = field(repr=False)

    def __len__(self) -> int:
        return len(self.labels)

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        """A process that is handed an index reads it anew; its memory map stays shared."""
        return read_index, (self.path,)

    @property
    def has_names(self) -> bool:
        """Whether the file says where its samples are from; stock FFCV's do not."""
        return self._names is not None

    def name(self, sample: int) -> str:
        """The source file of a sample, relative to the converted folder."""
        if self._names is None or self._name_ends is None:
            return f"sample {sample}"
        start = int(self._name_ends[sample - 1]) if sample else 0
        return os.fsdecode(self._names[start : int(self._name_ends[sample])].tobytes())

    def stored(self, sample: int) -> Stored:
        """A sample's bytes, as a view of the memory-mapped file.

        Raises:
            DataError: they are not those that were written; see `check`.
        """
        self.check(sample)
        return Stored(
            int(self.modes[sample]), int(self.widths[sample]), int(self.heights[sample]),
            self._bytes(sample),
        )  # fmt: skip

    def check(self, sample: int) -> None:
        """Check a sample's bytes against its checksum, once in this process.

        Many a changed bit still decodes, to other pixels. At 3 GB/s the first look at a photo
        costs 3 % of its decoding, every further one nothing. Safe to call from several threads.

        Raises:
            DataError: the bytes are not those that were written.
        """
        if self._checked[sample] or self.checksums is None:
            return
        if zlib.crc32(self._bytes(sample)) != int(self.checksums[sample]):
            name = f"{self.path}: {self.name(sample)}"
            raise DataError(name, "its bytes have changed", "those that were written", _REDO)
        self._checked[sample] = True

    def forget(self, sample: int) -> None:
        """Unmap a sample's pages, which come back when they are read; the system may keep them."""
        begin = int(self.pointers[sample]) // mmap.PAGESIZE * mmap.PAGESIZE
        length = int(self.pointers[sample]) + int(self.sizes[sample]) - begin
        self._map.madvise(mmap.MADV_DONTNEED, begin, length)

    def check_extra(self) -> None:
        """Check the class names, source names and what a shard says against their checksum.

        Raises:
            DataError: the file carries no checksums.
            FormatError: they are not those that were written.
        """
        if self._extra is None:
            raise DataError(
                self.path, "carries no checksums", "a file that fastft wrote", "convert it anew"
            )
        if zlib.crc32(self._extra) != self._extra_crc32:
            raise FormatError(self.path, "its class or source names have changed", "", _REDO)

    def fingerprint(self) -> bytes:
        """All samples' checksums; where there are none, the file's size and time."""
        if self.checksums is not None:
            return hashlib.sha256(self.checksums.tobytes()).digest()
        state = os.stat(self.path)
        return f"{state.st_size} {state.st_mtime_ns}".encode()

    def _bytes(self, sample: int) -> NDArray[np.uint8]:
        start = int(self.pointers[sample])
        return self.data[start : start + int(self.sizes[sample])]

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
            crc = zlib.crc32(self._bytes(sample))
            yield sample if crc != int(self.checksums[sample]) else None


_REDO = "rerun fastft convert"


def read_index(path: Path) -> Index:
    """Read the tables of a `.beton`, ours or stock FFCV's; the samples stay on disk.

    Every offset and size is checked against the file here, so that no later reader need be.

    Raises:
        FormatError: `path` is no `.beton`, is of another version, cut short or inconsistent.
        DataError: it does not exist, cannot be read or holds no samples.
    """
    size = _file_bytes(path)
    if size < METADATA_START:
        raise FormatError(path, f"{size:,} bytes long", "a .beton file", _REDO)
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    data: NDArray[np.uint8] = np.frombuffer(mapped, np.uint8)
    header = np.frombuffer(data, HEADER, 1)[0]
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
    descriptors = np.frombuffer(data, DESCRIPTOR, 2, HEADER.itemsize)
    types = [int(t) for t in descriptors["type"]]
    names = [bytes(name).split(b"\0")[0].decode("ascii", "replace") for name in descriptors["name"]]
    if int(header["fields"]) != 2 or types != [TYPE_RGB, TYPE_INT]:
        raise FormatError(
            path, f"{int(header['fields'])} fields of types {types}",
            "an RGBImageField and an IntField", "write it with fastft convert",
        )  # fmt: skip
    if samples == 0:
        raise DataError(path, "holds no samples", "at least one", _REDO)
    table, metadata_end = int(header["table"]), METADATA_START + samples * METADATA.itemsize
    if metadata_end > size or not metadata_end <= table <= size - samples * ALLOCATION.itemsize:
        raise FormatError(
            path, f"cut short at {size:,} bytes", f"{samples:,} samples and their tables", _REDO
        )
    metadata = np.frombuffer(data, METADATA, samples, METADATA_START)
    if (size - table) % ALLOCATION.itemsize:
        raise FormatError(path, "its allocation table ends in the middle", "whole entries", _REDO)
    allocation = np.frombuffer(data, ALLOCATION, offset=table)
    pointers = metadata["pointer"]
    sizes = _allocated_sizes(path, pointers, allocation)
    _check_bounds(path, metadata, sizes, metadata_end, table)
    extra = np.frombuffer(descriptors["arguments"][0].tobytes(), EXTRA, 1)[0]
    parts: dict[str, Any] = dict.fromkeys(
        ("checksums", "shard", "_name_ends", "_names", "_extra", "_extra_crc32")
    )
    classes: tuple[str, ...] = ()
    if extra["magic"] == MAGIC:
        if int(extra["version"]) != EXTRA_VERSION:
            found = f"extra data of version {int(extra['version'])}"
            raise FormatError(path, found, f"version {EXTRA_VERSION}", _REDO)
        if zlib.crc32(allocation, zlib.crc32(metadata)) != int(extra["tables_crc32"]):
            raise FormatError(path, "its tables have changed", "their checksum to hold", _REDO)
        classes, parts = _read_extra(path, data, extra, samples, metadata_end, table)
    labels = metadata["label"].astype(np.int64)
    known = len(classes) if classes else MAX_SIDE_PX
    if labels.min() < 0 or labels.max() >= known:
        found = f"labels from {labels.min()} to {labels.max()}"
        raise FormatError(path, found, f"0 to {known - 1}", _REDO)
    return Index(
        path=path,
        classes=classes or tuple(str(label) for label in range(int(labels.max()) + 1)),
        labels=labels,
        widths=metadata["width"].astype(np.int32),
        heights=metadata["height"].astype(np.int32),
        modes=metadata["mode"].copy(),
        pointers=pointers.astype(np.int64),
        sizes=sizes.astype(np.int64),
        page_bytes=page,
        fields=(names[0], names[1]),
        data=data,
        _map=mapped,
        _checked=np.zeros(samples, np.bool_),
        **parts,
    )


def _file_bytes(path: Path) -> int:
    try:
        if path.is_dir():
            raise DataError(path, "is a folder", "a .beton file", "name a file in it")
        return path.stat().st_size if os.access(path, os.R_OK) else _cannot_read(path)
    except FileNotFoundError:
        raise DataError(
            path, "no such file", "a .beton file", "make it by fastft convert"
        ) from None


def _cannot_read(path: Path) -> int:
    path.stat()  # a missing file is told apart from one that may not be read
    raise DataError(path, "cannot be read", "read permission", "see its owner and mode")


def _allocated_sizes(path: Path, pointers: NDArray[Any], allocation: NDArray[Any]) -> NDArray[Any]:
    """uint64[N]: how many bytes the allocation table gives each sample's pointer."""
    order = np.argsort(allocation["pointer"], kind="stable")
    starts = allocation["pointer"][order]
    at = np.minimum(np.searchsorted(starts, pointers), len(starts) - 1)
    lost = np.flatnonzero(starts[at] != pointers)
    if lost.size:
        raise FormatError(path, f"sample {lost[0]} is not in the allocation table", "", _REDO)
    return allocation["size"][order][at]


def _check_bounds(
    path: Path, metadata: NDArray[Any], sizes: NDArray[Any], start: int, end: int
) -> None:
    pointers, modes = metadata["pointer"], metadata["mode"]
    # Written without a sum of two file values, which could wrap around.
    outside = (pointers < start) | (pointers > end) | (sizes > np.uint64(end) - pointers)
    pixels = metadata["height"].astype(np.uint64) * metadata["width"] * np.uint64(3)
    checks = {
        "lies outside the file's pages": outside | (sizes == 0),
        "has no pixels": pixels == 0,
        # A few bytes of JPEG may stand for any number of pixels, for which room would be made.
        f"has more than {MAX_PIXELS:,} pixels": (modes == MODE_JPG) & (pixels > MAX_PIXELS * 3),
        f"has a mode other than {MODE_JPG} (jpg) and {MODE_RAW} (raw)": modes > MODE_RAW,
        "has a raw size that is not height x width x 3": (modes == MODE_RAW) & (sizes != pixels),
    }
    for what, wrong in checks.items():
        if wrong.any():
            raise FormatError(path, f"sample {int(np.argmax(wrong))} {what}", "", _REDO)


def _read_extra(
    path: Path, data: NDArray[np.uint8], extra: Any, samples: int, start: int, end: int
) -> tuple[tuple[str, ...], dict[str, Any]]:
    """The class names, and the fields of Index that our extra block holds."""
    pointer, names_bytes = int(extra["pointer"]), int(extra["names_bytes"])
    ends_at = pointer + 4 * samples
    names_at = ends_at + 8 * samples
    classes_at = names_at + names_bytes
    if not (start <= pointer and classes_at + int(extra["classes_bytes"]) <= end):
        raise FormatError(path, "its extra data lie outside the file", "", _REDO)
    name_ends = np.frombuffer(data, "<i8", samples, ends_at)
    # Compared, not subtracted: a difference could wrap around.
    if name_ends[0] < 0 or (name_ends[1:] < name_ends[:-1]).any() or name_ends[-1] != names_bytes:
        raise FormatError(path, "its source names are out of order", "", _REDO)
    block_end = classes_at + int(extra["classes_bytes"])
    try:
        values = json.loads(data[classes_at:block_end].tobytes())
        classes = values["classes"]
        is_list = isinstance(classes, list) and bool(classes)
        if not is_list or not all(isinstance(name, str) for name in classes):
            raise ValueError("no class names")
        shard = read_shard(values["shard"]) if "shard" in values else None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise FormatError(path, "its class names cannot be read", "", _REDO) from None
    return tuple(classes), {
        "shard": shard,
        "checksums": np.frombuffer(data, "<u4", samples, pointer),
        "_name_ends": name_ends,
        "_names": data[names_at:classes_at],
        "_extra": data[pointer:block_end],
        "_extra_crc32": int(extra["block_crc32"]),
    }
