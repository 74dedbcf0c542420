"""The resident store and the CPU: batches rendered from pixels in memory, or without any kept."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from itertools import groupby, islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipelines.compiling import compiling
from pipelines.formats.beton import Index
from pipelines.formats.layout import MODE_RAW
from pipelines.formats.source import Source
from pipelines.kernels import cpu
from pipelines.plan import Plan
from pipelines.regions import load_whole
from pipelines.rendering.crops import CropRenderer
from pipelines.rendering.renderer import Renderer, Rendering
from pipelines.rendering.row_worker import Piece, Worker
from pipelines.resident.filler import Filler, HostSink
from pipelines.resident.store import Layout
from pipelines.resident.store_memory import StoreMemory

#: Batches that are rendered ahead of the one that is asked for.
_AHEAD = 1
#: Batches that exist at once: the caller's, one that waits, one in the making.
BATCHES = _AHEAD + 2


class _InTurn(Renderer):
    """Renders batch after batch, one ahead."""

    def run(
        self, plan: Plan, shares: list[NDArray[np.int64]], labels: torch.Tensor
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Batches of these visits, in host memory."""
        waiting: deque[Rendering] = deque()
        coming = iter(shares)
        try:
            for visits in shares:
                for ahead in islice(coming, _AHEAD + 1 - len(waiting)):
                    waiting.append(self.submit(plan.rows(ahead), plan))
                images, samples = waiting.popleft().result(), plan.samples(visits)
                yield images.permute(0, 3, 1, 2), labels[torch.from_numpy(samples)]
        finally:
            for rendering in waiting:
                rendering.cancel()

    def render_into(self, tensors: Sequence[torch.Tensor]) -> None:
        """Nothing: batches in host memory are copied by nobody."""


class StorelessExecutor(_InTurn, CropRenderer):
    """Decodes what each row shows of a `.beton`, every time."""

    filler = None


class StoreExecutor(_InTurn):
    """Renders from the store, on the threads that fill it."""

    def __init__(
        self,
        source: Source,
        layout: Layout,
        memory: StoreMemory,
        *arguments: Any,
        keeps_again: bool,
        **options: Any,
    ) -> None:
        """Begin with an empty store.

        Args:
            source, layout, memory: the samples, and where they are kept.
            arguments, options: as `Renderer`.
            keeps_again: whether a JPEG of a `.beton` is kept when it is asked for the second time.
        """
        super().__init__(source, *arguments, **options)
        self._layout, self._memory = layout, memory
        self._decodes_parts: Future[None] | None = None
        is_busy = None
        if keeps_again:
            assert isinstance(source, Index)
            self._modes = source.modes
            self.known.meet_once()
            self._decodes_parts = self.threads.submit(self._load_parts)
            is_busy = self._is_busy
        sink = HostSink(source, layout, memory, self.known)
        self.filler = Filler(sink, len(source), self.threads, options["workers"], is_busy)
        if not (keeps_again or layout.format.planar):
            self.threads.submit(self._load_whole)

    def close(self) -> None:
        """End the threads and give the memory back."""
        super().close()
        self._memory.close()

    def _is_busy(self) -> bool:
        return self.has_waiting

    def _load_parts(self) -> None:
        wait((self._compiled,))  # which the first batch waits for, too
        with compiling():
            self.worker().load()
        # Behind what waits by now: two threads that compile in turn would leave none to render.
        with suppress(RuntimeError):  # the threads are being ended
            self.threads.submit(load_whole)

    def _load_whole(self) -> None:
        wait((self._compiled,))
        load_whole()

    def _draw(self, piece: Piece, worker: Worker, out: NDArray[np.uint8]) -> None:
        self._memory.require_whole()
        kept = self._draw_new(piece, worker, out)
        self.filler.ensure(piece.samples[kept])
        at = 0
        for is_kept, rows in groupby(kept.tolist()):
            begin, at = at, at + len(list(rows))
            if is_kept:
                part = slice(begin, at)
                self._draw_kept(piece.cut(part), worker, out[part])

    def _draw_new(self, piece: Piece, worker: Worker, out: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Draw the rows whose image need not be kept yet; gives the others, bool[B].

        As long as what decodes parts is being loaded, images are decoded whole, and kept.
        """
        loaded = self._decodes_parts
        if loaded is None or not loaded.done():
            return np.ones(len(piece.samples), np.bool_)
        kept = self.filler.are_due(piece.samples)
        kept |= self._modes[piece.samples] == MODE_RAW
        new = np.flatnonzero(~kept)
        if len(new):
            self._compiled.result()
            kept[worker.render_jpegs(piece, new.tolist(), out)] = True
        return kept

    def _draw_kept(self, piece: Piece, worker: Worker, out: NDArray[np.uint8]) -> None:
        layout, samples = self._layout, piece.samples
        sides = np.stack((layout.heights[samples], layout.widths[samples]), axis=1)
        frames = cpu.Frames(
            self._memory.pixels,
            layout.offsets[samples],
            layout.pitches[samples],
            sides.astype(np.int64),
        )
        self._render_rows(frames, piece, worker, out, layout.format.planar)
