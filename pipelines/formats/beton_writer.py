"""Writes `.beton` files: samples in order, tables at the end, into place by one rename.

See `layout` for the bytes.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipelines.atomic import AtomicFile
from pipelines.errors import DataError
from pipelines.formats.beton_labels import TYPE_NDARRAY, describe_rows, place_rows
from pipelines.formats.crc import crc32
from pipelines.formats.layout import (
    ALLOCATION,
    DESCRIPTOR,
    EXTRA,
    EXTRA_VERSION,
    HEADER,
    MAGIC,
    MAX_PAGE_BYTES,
    METADATA,
    METADATA_START,
    PAGE_BYTES,
    POINTS,
    TYPE_INT,
    TYPE_RGB,
    VERSION,
    About,
    Stored,
)

#: What is read at once of what was left.
_CHUNK_BYTES = 1 << 20


class BetonWriter(AtomicFile):
    """Writes one `.beton` beside its final place, then puts it there whole or not at all.

    Use as a context manager: `append` samples in order, `finish`, `publish`. What is written
    depends on the samples alone.
    """

    def __init__(self, path: Path, capacity: int, temporary: Path | None = None) -> None:
        """Open a temporary file in `path`'s folder with room for `capacity` samples' metadata.

        Args:
            path: the output.
            capacity: samples at most.
            temporary: where to write until then, and what another writer of the same samples may
                have left; see `adopt`.
        """
        super().__init__(path, temporary)
        self._metadata = np.zeros(capacity, METADATA)
        self._sizes = np.zeros(capacity, np.uint64)
        self._checksums = np.zeros(capacity, np.uint32)
        self._points = np.zeros(capacity, POINTS)
        self._names: list[bytes] = []
        self._end = METADATA_START + capacity * METADATA.itemsize
        self._page = PAGE_BYTES

    def __len__(self) -> int:
        return len(self._names)

    def append(
        self, stored: Stored, label: int, name: str, checksum: int, points: bytes = b""
    ) -> None:
        """Write one sample.

        Args:
            stored: its bytes.
            label: its class.
            name: its source.
            checksum: CRC-32 of its bytes.
            points: its entry points, see `beton_extra.pack_points`.

        Raises:
            DataError: the sample is larger than a page can be.
        """
        size = len(stored.data)
        if size > MAX_PAGE_BYTES:
            found = f"{size:,} bytes as stored"
            raise DataError(name, found, f"at most {MAX_PAGE_BYTES:,}", "see --max-side")
        pointer = self._place(size)
        _write_at(self.descriptor, stored.data, pointer)
        row = stored.mode, stored.width, stored.height, pointer, label
        self._note(row, size, checksum, name, (len(points), crc32(points) if points else 0))
        if points:
            _write_at(self.descriptor, points, pointer + size)

    def adopt(
        self,
        mode: int,
        sides: tuple[int, int],
        size: int,
        label: int,
        name: str,
        checksum: int,
        points: tuple[int, int] = (0, 0),
    ) -> bool:
        """Take over the next sample from the temporary file, if its bytes are there.

        Args:
            mode: how it is stored.
            sides: width and height, px.
            size: bytes.
            label, name: as for `append`.
            checksum: CRC-32 that the bytes must have.
            points: bytes of its entry points, and the CRC-32 that those must have.
        """
        before = self._end, self._page
        pointer = self._place(size)
        if (
            size > MAX_PAGE_BYTES
            or _crc_at(self.descriptor, pointer, size) != checksum
            or _crc_at(self.descriptor, pointer + size, points[0]) != points[1]
        ):
            self._end, self._page = before
            return False
        self._note((mode, *sides, pointer, label), size, checksum, name, points)
        return True

    def go_on(self) -> None:
        """Drop from the temporary file what was not taken over."""
        os.ftruncate(self.descriptor, self._end)

    def finish(self, about: About) -> int:
        """Write the tables and force everything to disk; returns the file's size in bytes.

        Args:
            about: the file's description; its columns are those of the samples that were written.
        """
        samples = len(self._names)
        metadata, names = self._metadata[:samples], b"".join(self._names)
        allocation = np.empty(samples, ALLOCATION)
        allocation["sample"] = np.arange(samples)
        allocation["pointer"], allocation["size"] = metadata["pointer"], self._sizes[:samples]
        descriptors = np.zeros(2, DESCRIPTOR)
        kind, targets = TYPE_INT, about.columns.targets
        if targets is not None:
            kind, rows = TYPE_NDARRAY, self._write_rows(targets.astype("<f4"), descriptors[1])
            about = replace(about, targets_crc32=crc32(targets.astype("<f4")))
            allocation = np.concatenate((allocation, rows))
        if (points := self._points[:samples])["bytes"].any():
            _write_at(self.descriptor, points.tobytes(), self._end)
            about, self._end = replace(about, points_at=self._end), self._end + points.nbytes
        ends = np.cumsum([len(name) for name in self._names], dtype="<i8")
        words = about.encode()
        block = b"".join((self._checksums[:samples].tobytes(), ends.tobytes(), names, words))
        extra = np.zeros(1, EXTRA)
        extra[0] = (
            MAGIC,
            EXTRA_VERSION,
            crc32(allocation, crc32(metadata)),
            crc32(block),
            len(words),
            self._end,
            len(names),
        )
        for descriptor, type_, name in zip(
            descriptors, (TYPE_RGB, kind), (b"image", b"label"), strict=True
        ):
            descriptor["type"] = type_
            descriptor["name"][: len(name)] = np.frombuffer(name, np.uint8)
        descriptors["arguments"][0, : EXTRA.itemsize] = extra.view(np.uint8)
        header = np.zeros(1, HEADER)
        header[0] = (VERSION, 2, self._page, samples, self._end + len(block))
        _write_at(self.descriptor, block, self._end)
        _write_at(self.descriptor, allocation.tobytes(), self._end + len(block))
        _write_at(self.descriptor, header.tobytes() + descriptors.tobytes() + metadata.tobytes(), 0)
        os.fsync(self.descriptor)
        return self._end + len(block) + allocation.nbytes

    def _write_rows(
        self, targets: NDArray[np.float32], descriptor: NDArray[np.void]
    ) -> NDArray[np.void]:
        """Write the labels behind the images; returns their part of the allocation table."""
        samples, values = targets.shape
        if samples != len(self._names):
            raise ValueError(f"{samples} rows of labels for {len(self._names)} samples")
        arguments = describe_rows(values)
        descriptor["arguments"][: len(arguments)] = arguments
        places = place_rows(self._end, samples, values, self._page)
        self._metadata["label"][:samples] = places.astype(np.int64)
        gaps = np.flatnonzero(np.diff(places.astype(np.int64)) != 4 * values) + 1
        for rows, place in zip(np.split(targets, gaps), places[np.r_[0, gaps]], strict=True):
            _write_at(self.descriptor, rows.tobytes(), int(place))
        self._end = int(places[-1]) + 4 * values
        allocation = np.empty(samples, ALLOCATION)
        allocation["sample"], allocation["pointer"] = np.arange(samples), places
        allocation["size"] = 4 * values
        return allocation

    def _note(
        self,
        row: tuple[int, ...],
        size: int,
        checksum: int,
        name: str,
        points: tuple[int, int],
    ) -> None:
        sample = len(self._names)
        self._metadata[sample] = row
        self._sizes[sample], self._checksums[sample] = size, checksum
        self._points[sample] = points
        self._end += points[0]
        self._names.append(os.fsencode(name))

    def _place(self, size: int) -> int:
        """The place of the next `size` bytes, such that they cross no multiple of the page size.

        The final page size is known only when the last sample is. A sample larger than the first
        page size therefore starts at a multiple of the power of two that holds it: then it lies
        within one page of any size from that power on.
        """
        page = max(PAGE_BYTES, 1 << (size - 1).bit_length()) if size > 1 else PAGE_BYTES
        self._page = max(self._page, page)
        start = self._end
        if start // page != (start + size - 1) // page:
            start = -(-start // page) * page
        self._end = start + size
        return start


def _write_at(file: int, data: bytes | NDArray[np.uint8], offset: int) -> None:
    view = memoryview(data).cast("B")
    while view:
        written = os.pwrite(file, view, offset)
        view, offset = view[written:], offset + written


def _crc_at(file: int, offset: int, size: int) -> int | None:
    """CRC-32 of some bytes of a file; None where it ends before."""
    crc, end = 0, offset + size
    while offset < end:
        chunk = os.pread(file, min(_CHUNK_BYTES, end - offset), offset)
        if not chunk:
            return None
        crc = crc32(chunk, crc)
        offset += len(chunk)
    return crc
