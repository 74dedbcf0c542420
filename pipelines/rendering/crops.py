"""Crops straight from a source: each sample is decoded, cut and forgotten."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.formats.beton import Index
from pipelines.formats.layout import MODE_RAW
from pipelines.kernels import cpu
from pipelines.plan import Rows
from pipelines.rendering.renderer import Renderer
from pipelines.rendering.row_worker import Piece, Worker

#: Bytes of decoded pixels that a core's own cache holds until they are rendered.
_TOGETHER_BYTES = 1 << 20


class CropRenderer(Renderer):
    """Takes a row's pixels from a `.beton`: each sample is decoded, cut and forgotten."""

    _decodes = True

    def __init__(self, index: Index, *arguments: Any, **options: Any) -> None:
        super().__init__(index, *arguments, **options)
        self._index = index
        # Pixels are used where they lie: copied they would cost half as much again as the kernel.
        self._mapped = index.file.map() if (index.modes == MODE_RAW).any() else None

    def _as_decoded(self, rows: Rows) -> Rows:
        is_raw = self._index.modes[rows.samples] == MODE_RAW
        return replace(rows, shrinks=np.where(is_raw, np.int32(1), rows.shrinks))

    def _draw(self, piece: Piece, worker: Worker, out: NDArray[np.uint8]) -> None:
        index, samples = self._index, piece.samples
        sides = np.stack((index.heights[samples], index.widths[samples]), axis=1).astype(np.int64)
        sides = -(-sides // piece.shrinks[:, None])
        pitches = np.stack((sides[:, 1] * 3, sides[:, 1]), axis=1)
        raw = index.modes[samples] == MODE_RAW
        if self._mapped is not None and raw.all() and self._may_use_map(samples):
            offsets = np.repeat(index.pointers[samples, None], 3, axis=1)
            frames = cpu.Frames(self._mapped, offsets, pitches, sides)
            self._render_rows(frames, piece, worker, out)
            if not index.file.has_changed():
                return  # else the kernel may have met halves of what was there before
        # JPEGs give no more than their row shows; the rest is got whole, of raw pixels the lines
        # of a box.
        self._compiled.result()
        jpegs = np.flatnonzero(~raw).tolist()
        left = worker.render_jpegs(piece, jpegs, out) if jpegs else []
        rows = sorted([*np.flatnonzero(raw).tolist(), *left])
        lines = piece.geometry[:, 0].astype(np.int64)
        starts = np.where(raw, lines[:, cpu.START], 0) * pitches[:, 0]
        sizes = np.where(raw, lines[:, cpu.LENGTH], sides[:, 0]) * pitches[:, 0]
        for part in _together(rows, sizes):
            begins = np.cumsum(sizes[part]) - sizes[part]
            room = worker.room(int(sizes[part].sum()))
            for row, begin in zip(range(part.start, part.stop), begins.tolist(), strict=True):
                sample = int(samples[row])
                if raw[row]:
                    index.read_into(sample, int(starts[row]), room[begin : begin + int(sizes[row])])
                else:
                    shrink = int(piece.shrinks[row])
                    worker.regions.decoder.to_rgb(sample, room[begin:], shrink)
            offsets = np.repeat((begins - starts[part])[:, None], 3, axis=1)
            frames = cpu.Frames(room, offsets, pitches[part], sides[part])
            self._render_rows(frames, piece.cut(part), worker, out[part])

    def _may_use_map(self, samples: NDArray[np.int64]) -> bool:
        """Whether raw samples may be read where they are mapped.

        A file that was cut is noticed here. One that is cut while the kernel runs on it, within a
        millisecond or two, still ends the process; so does a disk that fails.

        Raises:
            DataError: a sample's bytes have changed.
        """
        index = self._index
        for sample in samples.tolist():
            index.check(sample)
        ends = index.pointers[samples] + index.sizes[samples] + cpu.READ_PAST
        return not index.file.has_changed() and bool((ends <= index.file.size).all())


def _together(rows: list[int], sizes: NDArray[np.int64]) -> Iterator[slice]:
    """Parts of some rows whose pixels are got before any is rendered: one row, or neighbours."""
    start, held = 0, 0
    for at, row in enumerate(rows):
        apart = at > start and (row > rows[at - 1] + 1 or held + sizes[row] > _TOGETHER_BYTES)
        if apart:
            yield slice(rows[start], rows[at - 1] + 1)
            start, held = at, 0
        held += int(sizes[row])
    if rows:
        yield slice(rows[start], rows[-1] + 1)
