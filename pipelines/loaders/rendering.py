"""Rows of the plan to pixels by the compiled kernel, on threads of our own.

Knows how much scratch a row needs, how work is shared out, and what a decoder's complaint means.
A batch is cut into pieces that any idle thread takes, also while an earlier batch is being
finished, so that no core waits at a batch's end.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import PIL
import torch
from numpy.typing import NDArray

from pipelines.beton import Index
from pipelines.errors import DataError, UsageError
from pipelines.jpeg import TURBOJPEG, Checker, last_complaint, load_turbojpeg, read_header
from pipelines.kernels import cpu
from pipelines.layout import MODE_RAW
from pipelines.plan import Plan, Rows, resized_geometry
from pipelines.reference import MEAN, STD
from pipelines.transfer import BatchPool, normalizing_factors

#: Rows of a piece at most, 8 ms of a core: long against handing it out, short against an epoch.
_PIECE_ROWS = 8
#: A decoded image larger than this (11 megapixels) gives its memory back: each thread may meet the
#: few large ones of a set, and none should hold on to their size.
_KEEP_BYTES = 32 << 20
#: Held while the kernel is compiled or loaded, and by who changes what numba then sees.
COMPILING = threading.Lock()
#: See `render_rows`; the reference is the Pillow that is installed.
_DOWN_FIRST = int(PIL.__version__.split(".")[0]) >= 13


class Renderer:
    """Renders rows of one source at one size."""

    def __init__(self, index: Index, size: int, *, batch: int, workers: int) -> None:
        """Prepare; threads and memory come with the first batch.

        Args:
            index: the samples.
            size: output side S, px.
            batch: rows of a batch at most.
            workers: threads.

        Raises:
            UsageError: libturbojpeg is not installed.
        """
        library = load_turbojpeg()
        if library is None:
            raise UsageError(
                "loader 'ffcv'", f"{TURBOJPEG} is not installed", "libjpeg-turbo's own library",
                "apt-get install libturbojpeg0, or take --loader torchvision",
            )  # fmt: skip
        cpu.load_library(TURBOJPEG)
        self._library, self._index, self._size = library, index, size
        self._store = cpu.Store(
            _as_writable(index.data), index.pointers, index.sizes, index.modes, index.heights,
            index.widths,
        )  # fmt: skip
        self._factors = normalizing_factors(size, MEAN, STD)
        self._pool = BatchPool((batch, size, size, 3), np.uint8)
        self._floats = BatchPool((batch, size, size, 3), np.float32)
        self._piece_rows = max(1, min(_PIECE_ROWS, batch // (4 * workers)))
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="fastft-render")
        self._local = threading.local()

    def submit(self, rows: Rows, plan: Plan) -> Rendering:
        """Start rendering `rows`; safe from any one thread at a time."""
        geometry = make_geometry(rows, plan)
        step = self._piece_rows
        pieces = [
            _Piece(slice(at, min(at + step, len(rows))), rows, geometry)
            for at in range(0, len(rows), step)
        ]
        return Rendering(self._pool, rows, self._threads, pieces, self._render)

    def normalize(self, pixels: torch.Tensor) -> torch.Tensor:
        """float32[B, S, S, 3] of uint8[B, S, S, 3], the caller's for good."""
        width = self._size * 3
        images = self._floats.take()[: len(pixels)]
        lines, out = (each.numpy().reshape(-1, width) for each in (pixels, images))
        cpu.normalize_lines(lines, *self._factors, out)
        return images

    def close(self) -> None:
        """End the threads; what has not been started never is."""
        self._threads.shutdown(cancel_futures=True)

    def _render(self, piece: _Piece, out: NDArray[Any]) -> None:
        samples = piece.rows.samples[piece.part]
        geometry, flips = piece.geometry[piece.part], piece.rows.flips[piece.part]
        for sample in samples:
            self._index.check(int(sample))
        try:
            worker: _Worker = self._local.worker
        except AttributeError:
            worker = self._local.worker = _Worker(self._library, self._size)
            _compile(self._store, worker.scratch)
        scratch = worker.fit(self._store, samples, geometry)
        lines = out[piece.part].reshape(-1, self._size, self._size * 3)
        done, tolerated = 0, -1
        while done < len(samples):
            rest = slice(done, None)
            count, status = cpu.render_rows(
                self._store, samples[rest], geometry[rest], flips[rest], _DOWN_FIRST, tolerated,
                scratch, lines[rest],
            )  # fmt: skip
            done += count
            if status != cpu.OK:
                self._judge(int(samples[done]), status, worker.handle)
                tolerated = 0  # the row that the next call begins with
        worker.relax()

    def _judge(self, sample: int, status: int, handle: int) -> None:
        """Raise unless the decoder's complaint was harmless."""
        name = f"{self._index.path}: {self._index.name(sample)}"
        if status == cpu.WRONG_SIZE:
            expected = f"{self._index.widths[sample]} x {self._index.heights[sample]} px"
            raise DataError(name, "of another size than stored", expected, "rerun fastft convert")
        verdict = last_complaint(self._library, handle)
        broken = verdict.broken
        if status == cpu.DECODE_FAILED:  # whatever was said last
            broken = broken or verdict.warning
        elif not broken:
            data = bytes(self._index.stored(sample).data)
            header = read_header(data)
            # There may be more to complain of than what was said last.
            broken = Checker().check(data, header).broken if header else "no JPEG header"
        if broken:
            raise DataError(name, broken, "a whole JPEG", "see fastft inspect --verify")


@dataclass(frozen=True, slots=True)
class _Piece:
    """A part of a batch's rows, and the geometry of all of them."""

    part: slice
    rows: Rows
    geometry: NDArray[np.int32]


class Rendering:
    """A batch in the making."""

    def __init__(
        self,
        pool: BatchPool,
        rows: Rows,
        threads: ThreadPoolExecutor,
        pieces: Sequence[_Piece],
        render: Callable[[_Piece, NDArray[Any]], None],
    ) -> None:
        """Hand all pieces to the threads; the batch's memory is taken when the first one starts."""
        self._pool, self._rows, self._render = pool, rows, render
        self._lock = threading.Lock()
        self._images: torch.Tensor | None = None
        self._futures: list[Future[None]] = [threads.submit(self._run, each) for each in pieces]

    def result(self) -> torch.Tensor:
        """Wait for uint8[B, S, S, 3], the caller's for good.

        Raises:
            DataError: a sample is broken.
        """
        try:
            for future in self._futures:
                future.result()
        finally:
            self.cancel()
        return self._memory()[: len(self._rows)]

    def cancel(self) -> None:
        """Forget what has not been started."""
        for future in self._futures:
            future.cancel()

    def _run(self, piece: _Piece) -> None:
        self._render(piece, self._memory().numpy())

    def _memory(self) -> torch.Tensor:
        with self._lock:
            if self._images is None:
                self._images = self._pool.take()
            return self._images


class _Worker:
    """One thread's decompressor and scratch, which grows to what the thread meets."""

    def __init__(self, library: Any, size: int) -> None:
        self._library, self._size = library, size
        self.handle = library.tjInitDecompress()
        if not self.handle:
            raise MemoryError("tjInitDecompress")
        nothing, square = (
            np.empty(0, np.uint8),
            np.empty(size * (size * 3 + cpu.LINE_PAD), np.uint8),
        )
        starts = np.empty((2, size), np.int32)
        self.scratch = cpu.Scratch(
            self.handle, nothing, nothing, square, np.empty(4, np.int32), starts,
            np.empty_like(starts), np.empty((2, 0), np.int32),
        )  # fmt: skip

    def __del__(self) -> None:
        if self.handle:
            self._library.tjDestroy(self.handle)

    def fit(
        self, store: cpu.Store, samples: NDArray[np.int64], geometry: NDArray[np.int32]
    ) -> cpu.Scratch:
        """Scratch that is large enough for these rows."""
        size = self._size
        areas = store.heights[samples].astype(np.int64) * store.widths[samples]
        decoded = int((areas * (store.modes[samples] != MODE_RAW)).max()) * 3
        support = np.maximum(geometry[..., cpu.LENGTH] / geometry[..., cpu.RESIZED], 1)
        # What one axis's taps touch: never more than there is.
        span = np.minimum(np.ceil((size + 2) * support) + 3, geometry[..., cpu.LENGTH]).astype(int)
        rows, columns = span.max(0).tolist()
        lines = max(rows * (size * 3 + cpu.LINE_PAD), size * (columns * 3 + cpu.LINE_PAD))
        taps = int(np.ceil(support.max())) * 2 + 1
        old = self.scratch
        self.scratch = old._replace(
            # A pixel is read as four bytes, the last one too.
            pixels=_grown(old.pixels, decoded + cpu.LINE_PAD),
            lines=_grown(old.lines, lines + cpu.LINE_PAD),
            sums=_grown(old.sums, max(size, columns) * 3 + 4),
            weights=_grown(old.weights, 2 * size * taps).reshape(2, -1),
        )
        return self.scratch

    def relax(self) -> None:
        """Give back what only a very large image needed."""
        if self.scratch.pixels.nbytes > _KEEP_BYTES:
            self.scratch = self.scratch._replace(pixels=np.empty(0, np.uint8))


def _compile(store: cpu.Store, scratch: cpu.Scratch) -> None:
    """Compile the kernels, or load them from numba's cache, once in a process.

    Two threads at once would trip over each other, and FFCV over both (see `ffcv_loader`).
    """
    size = scratch.first.shape[1]
    samples, flips = np.empty(0, np.int64), np.empty(0, np.bool_)
    geometry, out = np.empty((0, 2, 4), np.int32), np.empty((0, size, size * 3), np.uint8)
    factors = normalizing_factors(size, MEAN, STD)
    with COMPILING:
        cpu.render_rows(store, samples, geometry, flips, _DOWN_FIRST, -1, scratch, out)
        cpu.normalize_lines(out.reshape(0, size * 3), *factors, np.empty((0, size * 3), np.float32))


def make_geometry(rows: Rows, plan: Plan) -> NDArray[np.int32]:
    """int32[B, 2, 4]: each row's box as the kernel takes it, checked against its image.

    Raises:
        ValueError: a box reaches out of its image, which no plan's does.
    """
    sides = np.stack((plan.heights[rows.samples], plan.widths[rows.samples]), axis=1).astype(
        np.int64
    )
    geometry = np.empty((len(rows), 2, 4), np.int32)
    if plan.clips_at_box:
        geometry[..., cpu.START] = rows.boxes[:, :2]
        geometry[..., cpu.LENGTH] = rows.boxes[:, 2:]
        geometry[..., cpu.RESIZED], geometry[..., cpu.OFFSET] = plan.size, 0
    else:
        resized, corner = resized_geometry(rows.boxes, sides, plan.size)
        geometry[..., cpu.START], geometry[..., cpu.LENGTH] = 0, sides
        geometry[..., cpu.RESIZED], geometry[..., cpu.OFFSET] = resized, corner
    start, length, resized, offset = np.moveaxis(geometry.astype(np.int64), -1, 0)
    inside = (start >= 0) & (length > 0) & (start + length <= sides)
    inside &= (offset >= 0) & (offset + plan.size <= resized)
    if not inside.all():
        raise ValueError(f"box {rows.boxes[np.argmin(inside.all(1))]} reaches out of its image")
    return geometry


def _as_writable(data: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The same bytes as an array of the type that scratch has: one compiled kernel serves both.

    They are mapped for reading: who wrote to them would end the process.
    """
    return np.ctypeslib.as_array((ctypes.c_uint8 * len(data)).from_address(data.ctypes.data))


def _grown(array: NDArray[Any], length: int) -> NDArray[Any]:
    """`array`, or a longer one of anything."""
    return array if array.size >= length else np.empty(length, array.dtype)
