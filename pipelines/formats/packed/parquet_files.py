"""Parquet with images in it: rows decoded a few at a time, the last of them kept.

Within a row group, pages are decoded one after the other. So rows are cheap in their order, as
threads that share a conversion ask for them, and one that is asked for out of order costs decoding
its row group from the start. In memory are, of all files together, at most `most_bytes()` of
decoded rows, four open row groups (1 MB and a page each), and what pages turn out to hold, which
the format limits to 2 GB each.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import FormatError
from pipelines.formats.packed.arrow_files import load_pyarrow, read_schema, refusing, require_rows
from pipelines.formats.packed.shard_files import ShardFile
from pipelines.workers import cpu_count

_KIND, _REDO = "a Parquet file", "fetch it, or write it anew"
#: Rows of labels at once.
_ROWS = 1 << 13
#: Images at once: as many as a thread of a conversion takes, or fewer if they are large.
_MOST_IMAGES, _IMAGES_BYTES = 64, 4 << 20
#: Row groups that are open at once: threads are at the end of one and the start of the next.
_MOST_STREAMS = 4
#: Bytes of a column read at once; without a limit pyarrow would read all of a row group's.
_BUFFER_BYTES = 1 << 20


def most_bytes() -> int:
    """Bytes of decoded rows that are kept: what each thread may be at, and a thread per CPU."""
    return (64 << 20) + (16 << 20) * cpu_count()


@dataclass(slots=True)
class _Stream:
    """A row group that is being decoded; `next_row` is the first of its rows that is not yet."""

    batches: Iterator[Any]
    next_row: int = 0


class Window:
    """The rows of all files that were decoded last; shared by threads, which decode in turn."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._most_bytes, self._bytes = most_bytes(), 0
        self._kept: OrderedDict[tuple[ParquetFile, int, int], Any] = OrderedDict()
        self._starts: dict[tuple[ParquetFile, int], list[int]] = {}
        self._streams: OrderedDict[tuple[ParquetFile, int], _Stream] = OrderedDict()

    def value(self, file: ParquetFile, name: str, group: int, row: int) -> object:
        """The value of a row of a row group.

        Raises:
            DataError: the file is damaged, or has changed.
        """
        with self._lock:
            start = self._find(file, group, row)
            if start is None:
                start = self._decode(file, name, group, row)
            self._kept.move_to_end((file, group, start))
            cells = self._kept[file, group, start]
        value: object = cells[row - start].as_py()
        return value

    def close(self) -> None:
        """Let go of all rows, and of the files."""
        with self._lock:
            self._streams.clear()
            self._kept.clear()
            self._bytes = 0

    def _find(self, file: ParquetFile, group: int, row: int) -> int | None:
        """The start of the block of kept rows that has a row; None if none has it."""
        starts = self._starts.get((file, group), [])
        at = bisect_right(starts, row) - 1
        kept = self._kept.get((file, group, starts[at])) if at >= 0 else None
        return starts[at] if kept is not None and row < starts[at] + len(kept) else None

    def _decode(self, file: ParquetFile, name: str, group: int, row: int) -> int:
        """Decode a row group up to a row; gives where the rows begin that hold it."""
        key = (file, group)
        stream = self._streams.pop(key, None)
        if stream is None or stream.next_row > row:
            stream = _Stream(file.images(name, group))
        while stream.next_row <= row:
            start = stream.next_row
            with refusing(file.file.path, _KIND, _REDO):
                file.file.require_unchanged()
                cells = next(stream.batches, None)
                if cells is None or not len(cells):
                    raise FormatError(file.file.path, "ends before its last row", "all", _REDO)
            stream.next_row += len(cells)
            self._keep((file, group, start), cells)
        self._streams[key] = stream
        if len(self._streams) > _MOST_STREAMS:
            self._streams.popitem(last=False)
        return start

    def _keep(self, key: tuple[ParquetFile, int, int], cells: Any) -> None:
        file, group, start = key
        starts = self._starts.setdefault((file, group), [])
        if not starts or start > starts[-1]:
            starts.append(start)
        if key not in self._kept:
            self._bytes += cells.nbytes
        self._kept[key] = cells
        self._kept.move_to_end(key)
        while self._bytes > self._most_bytes and len(self._kept) > 1:
            _, oldest = self._kept.popitem(last=False)
            self._bytes -= oldest.nbytes


class ParquetFile:
    """The rows of one Parquet file; see `arrow_files.RowFile`."""

    def __init__(self, file: ShardFile, window: Window) -> None:
        """Read its description.

        Args:
            file: the file.
            window: shared by all files.

        Raises:
            FormatError: it is no Parquet, cut short or damaged.
            UsageError: pyarrow is not installed.
        """
        self.file, self._window = file, window
        self._arrow = load_pyarrow(file.path)
        self._parquet = load_pyarrow(file.path, "pyarrow.parquet")
        with refusing(file.path, _KIND, _REDO), ExitStack() as stack:
            opened = self._open(stack)
            self.kinds, self.said = read_schema(file.path, opened.schema_arrow)
            meta = opened.metadata
            groups = [meta.row_group(group) for group in range(meta.num_row_groups)]
            rows = [group.num_rows for group in groups]
            # Not of single columns: of a damaged description pyarrow's accessor ends the process.
            self._bytes = [group.total_byte_size for group in groups]
            self.count = meta.num_rows
        if min(rows, default=0) < 0 or sum(rows) != self.count:
            raise FormatError(file.path, "its row groups have other rows than it", "", _REDO)
        require_rows(file, self.count)
        self._starts = np.cumsum([0, *rows]).tolist()

    def cells(self, name: str, part: str = "") -> Iterator[list[object]]:
        """Values of a column, some rows at a time; see `RowFile`."""
        leaf, left = f"{name}.{part}" if part else name, self.count
        with refusing(self.file.path, _KIND, _REDO), ExitStack() as stack:
            opened = self._open(stack)
            for batch in opened.iter_batches(_ROWS, columns=[leaf], use_threads=False):
                column = batch.column(name)
                column.validate(full=True)
                left -= len(column)
                if left < 0:
                    break
                yield (column.field(part) if part else column).to_pylist()
        if left:
            raise FormatError(self.file.path, "has other rows than it says", "", _REDO)

    def sizes(self, name: str) -> NDArray[np.int64]:
        """int64[N]: of each row group the mean of its images; single ones are not known."""
        sizes = np.zeros(self.count, np.int64)
        for group, (start, stop) in enumerate(zip(self._starts, self._starts[1:], strict=False)):
            sizes[start:stop] = self._mean_bytes(group)
        return sizes

    def read(self, name: str, row: int) -> object:
        """One value; see `RowFile`."""
        self.file.require_unchanged()
        group = bisect_right(self._starts, row) - 1
        return self._window.value(self, name, group, row - self._starts[group])

    def close(self) -> None:
        """Let go of decoded rows: those of all files, which are read together."""
        self._window.close()

    def images(self, name: str, group: int) -> Iterator[Any]:
        """A row group's column, some rows at a time."""
        rows = max(1, min(_MOST_IMAGES, _IMAGES_BYTES // max(1, self._mean_bytes(group))))
        with ExitStack() as stack:
            opened = self._open(stack)
            for batch in opened.iter_batches(
                rows, row_groups=[group], columns=[name], use_threads=False
            ):
                column = batch.column(0)
                column.validate(full=True)
                yield column

    def _open(self, stack: ExitStack) -> Any:
        with self.file.opened() as descriptor:
            # The very file that is listed, whatever has its name by now.
            source = stack.enter_context(self._arrow.OSFile(f"/proc/self/fd/{descriptor}"))
        return self._parquet.ParquetFile(source, buffer_size=_BUFFER_BYTES, pre_buffer=False)

    def _mean_bytes(self, group: int) -> int:
        """The mean bytes of a row group's rows, as the file says; images are most of them."""
        said = max(0, min(int(self._bytes[group]), self.file.size))
        return said // max(1, int(self._starts[group + 1] - self._starts[group]))
