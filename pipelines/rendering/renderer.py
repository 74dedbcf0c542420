"""Rows of the plan to batches by the compiled kernel, on threads of our own.

Knows how work is shared out and when the kernel is compiled; a subclass knows where a row's pixels
come from. A batch is cut into pieces that any idle thread takes, also while an earlier batch is
being finished, so that no core waits at a batch's end.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipelines.changing.on_cpu import as_asked, find_changes, written_for
from pipelines.compiling import compiling
from pipelines.decoder import Known
from pipelines.formats.source import Source
from pipelines.kernels import cpu
from pipelines.plan import Plan, Rows
from pipelines.preprocessing import IMAGENET, Preprocessing
from pipelines.rendering.geometry import make_geometry
from pipelines.rendering.row_worker import Piece, Worker
from pipelines.transfer import BatchPool
from pipelines.workers import wait_for

#: Rows of a piece at most: 8 ms of a core where they are decoded, long against handing it out and
#: short against an epoch.
_PIECE_ROWS = 8
#: Bytes of a piece of images that are changed, at most.
_PIECE_BYTES = 2 << 20


class Renderer(ABC):
    """Renders rows of one source at one size at a time, on threads.

    Attributes:
        pool: of batches [B, S, S, 3].
        threads: that render.
        known: what they have found out about samples.
    """

    #: Whether a subclass renders rows straight from JPEGs.
    _decodes = False

    def __init__(
        self,
        source: Source,
        size: int,
        dtype: torch.dtype | None,
        *,
        batch: int,
        workers: int,
        changes: bool = False,
        preprocessing: Preprocessing = IMAGENET,
    ) -> None:
        """Prepare, and begin to load the kernel; memory comes with the first batch.

        Args:
            source: the samples.
            size: output side S, px.
            dtype: of normalized batches: float32, bfloat16 or float16; None for uint8.
            batch: rows of a batch at most.
            workers: threads.
            changes: whether rows' operations are executed, too.
            preprocessing: the form of the model's images, which plans have, too.
        """
        self._source, self._dtype, self._batch, self._changes = source, dtype, batch, changes
        self.known, self._preprocessing = Known(source), preprocessing
        self._written = written_for(dtype)
        self._last: Future[None] | None = None
        self.set_size(size)
        self._piece_rows = max(1, min(_PIECE_ROWS, batch // (4 * workers)))
        if changes:  # what is rendered stays in a core's cache until it is changed
            self._piece_rows = max(1, min(self._piece_rows, _PIECE_BYTES // (3 * size * size)))
        self._local = threading.local()
        self.threads = ThreadPoolExecutor(workers, thread_name_prefix="fastft-render")
        # Takes 0.3 s when it is on disk already, while the caller is still building his model.
        self._compiled = self.threads.submit(self._compile)

    def set_size(self, size: int) -> None:
        """Render at another size from the next `submit` on.

        What has been submitted keeps to the old one; its memory goes with the last batch on it.
        """
        self.pool = BatchPool((self._batch, size, size, 3), self._written)

    def submit(self, rows: Rows, plan: Plan) -> Rendering:
        """Start rendering `rows`; safe from any one thread at a time.

        Raises:
            ValueError: the plan is of another size or form, or a box reaches out of its image.
        """
        if plan.size != self.pool.shape[1]:  # the kernel would read and write anywhere
            raise ValueError(f"a plan of {plan.size} px, batches of {self.pool.shape[1]}")
        if rows.filter != self._preprocessing.filter:
            raise ValueError(f"rows by {rows.filter}, scratch for {self._preprocessing.filter}")
        rows = self._as_decoded(rows)
        geometry, down_first = make_geometry(rows, plan)
        changes = None
        if self._changes and rows.operations is not None:
            changes = find_changes(rows.operations, len(rows), plan.size)
        whole = Piece(
            slice(None),
            rows.samples,
            geometry,
            rows.shrinks,
            rows.flips,
            down_first,
            changes,
        )
        step = self._piece_rows
        pieces = [
            whole.cut(slice(at, min(at + step, len(rows)))) for at in range(0, len(rows), step)
        ]
        rendering = Rendering(self, pieces, len(rows))
        self._last = rendering.last  # alone: it holds on to no memory
        return rendering

    @property
    def has_waiting(self) -> bool:
        """Whether rows that were submitted wait for a thread: they are taken in their order."""
        last = self._last
        return last is not None and not (last.running() or last.done())

    def close(self) -> None:
        """End the threads; what has not been started never is."""
        self.threads.shutdown(cancel_futures=True)

    def worker(self) -> Worker:
        """The calling thread's own."""
        try:
            worker: Worker = self._local.worker
        except AttributeError:
            made = Worker(self._source, self.known, self._preprocessing)
            worker = self._local.worker = made
        return worker

    def as_tensor(self, images: torch.Tensor) -> torch.Tensor:
        """The kernel's output in the dtype that was asked for."""
        return as_asked(images, self._dtype)

    def render(self, piece: Piece, out: NDArray[Any]) -> None:
        """Render a piece into the batch's memory [B, S, S, 3]."""
        worker, size = self.worker(), out.shape[1]
        target = out[piece.part].reshape(-1, size, size * 3).view(np.uint8)
        if piece.changes is None:
            self._draw(piece, worker, target)
        else:
            pixels = worker.images(len(target), size)
            self._draw(piece, worker, pixels)
            worker.changer.change(piece.changes, pixels, target)
        worker.relax()

    def _as_decoded(self, rows: Rows) -> Rows:
        """The rows of samples of which some cannot be decoded at a part of their size."""
        return rows

    @abstractmethod
    def _draw(self, piece: Piece, worker: Worker, out: NDArray[np.uint8]) -> None:
        """Render a piece.

        Args:
            piece: the rows.
            worker: of the calling thread.
            out: uint8[B, S, bytes of a line], see `cpu.render_rows`.

        Raises:
            DataError: a sample is broken.
        """

    def _render_rows(
        self,
        frames: cpu.Frames,
        piece: Piece,
        worker: Worker,
        out: NDArray[np.uint8],
        planar: bool = False,
    ) -> None:
        """Call the kernel on decoded pixels."""
        self._compiled.result()
        self._call(frames, piece, worker, out, planar)

    def _call(
        self,
        frames: cpu.Frames,
        piece: Piece,
        worker: Worker,
        out: NDArray[np.uint8],
        planar: bool,
    ) -> None:
        cpu.render_rows(
            frames,
            planar,
            piece.geometry,
            piece.shrinks,
            piece.flips,
            piece.down_first,
            *worker.fit(piece, out.shape[1], planar),
            out,
        )

    def _compile(self) -> None:
        """Compile the kernel, or load it from numba's cache, once in a process.

        Two threads at once would trip over each other, and FFCV over both (see `ffcv_loader`).
        """
        nothing, flags = np.empty(0, np.int64), np.empty(0, np.bool_)
        geometry, shrinks = np.empty((0, 2, 4), np.int32), np.empty(0, np.int32)
        piece = Piece(slice(0), nothing, geometry, shrinks, flags, flags)
        worker = self.worker()
        frames = cpu.Frames(worker.room(0), *(np.empty((0, n), np.int64) for n in (3, 2, 2)))
        out = np.empty((0, 1, 3), np.uint8)
        with compiling():
            self._call(frames, piece, worker, out, planar=False)
            if self._decodes:
                worker.load()
            if self._changes:
                worker.changer.load()


class Rendering:
    """A batch in the making."""

    def __init__(self, renderer: Renderer, pieces: Sequence[Piece], rows: int) -> None:
        """Hand all pieces to the threads; the batch's memory is taken when the first one starts."""
        self._renderer, self._pool, self._rows = renderer, renderer.pool, rows
        self._lock = threading.Lock()
        self._images: torch.Tensor | None = None
        self._futures = [renderer.threads.submit(self._run, each) for each in pieces]

    def result(self) -> torch.Tensor:
        """Wait for [B, S, S, 3], the caller's for good.

        Raises:
            DataError: a sample is broken.
        """
        wait_for(self._futures)
        return self._renderer.as_tensor(self._memory()[: self._rows])

    @property
    def last(self) -> Future[None] | None:
        """The piece that a thread takes last."""
        return self._futures[-1] if self._futures else None

    def cancel(self) -> None:
        """Forget what has not been started."""
        for future in self._futures:
            future.cancel()

    def _run(self, piece: Piece) -> None:
        try:
            self._renderer.render(piece, self._memory().numpy())
        except BaseException as error:
            if not isinstance(error, Exception):
                raise surfacing(error) from error
            raise

    def _memory(self) -> torch.Tensor:
        with self._lock:
            if self._images is None:
                self._images = self._pool.take()
            return self._images


def surfacing(error: BaseException) -> Exception:
    """The error that the caller is told of: what would end a thread must not end the caller."""
    if isinstance(error, Exception):
        return error
    return RuntimeError(f"{type(error).__name__} in a thread of the loader: {error}")
