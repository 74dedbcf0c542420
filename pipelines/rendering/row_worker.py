"""One rendering thread's memory, and the rows that it renders straight from their JPEGs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pipelines.changing.on_cpu import READ_PAST, Changer, take
from pipelines.decoder import Known
from pipelines.formats.source import Source
from pipelines.kernels import cpu, streaming
from pipelines.kernels.changes import Changes
from pipelines.preprocessing import IMAGENET, Preprocessing
from pipelines.regions import RegionDecoder
from pipelines.transfer import normalizing_factors

#: A decoded image larger than this (11 megapixels) gives its memory back: each thread may meet the
#: few large ones of a set, and none should hold on to their size.
_KEEP_BYTES = 32 << 20
#: Scale, bias and scratch of a size.
Fitting: TypeAlias = tuple[NDArray[np.float32], NDArray[np.float32], cpu.Scratch]


@dataclass(frozen=True, slots=True)
class Piece:
    """Some rows of a batch.

    Attributes:
        part: which.
        samples: int64[B].
        geometry: int32[B, 2, 4], see `cpu.START`.
        shrinks: int32[B], at what part of its size a JPEG is decoded, see `cpu.render_rows`.
        flips, down_first: bool[B].
        changes: what is done to the pixels beyond that, see `find_changes`; None: nothing.
    """

    part: slice
    samples: NDArray[np.int64]
    geometry: NDArray[np.int32]
    shrinks: NDArray[np.int32]
    flips: NDArray[np.bool_]
    down_first: NDArray[np.bool_]
    changes: Changes | None = None

    def cut(self, part: slice) -> Piece:
        """A part of it, as a piece of the same batch."""
        changes = None if self.changes is None else take(self.changes, part)
        return Piece(
            part,
            self.samples[part],
            self.geometry[part],
            self.shrinks[part],
            self.flips[part],
            self.down_first[part],
            changes,
        )


class Worker:
    """The scratch memory of one thread; it grows with the images that the thread meets."""

    def __init__(
        self, source: Source, known: Known | None = None, preprocessing: Preprocessing = IMAGENET
    ) -> None:
        self._source, self.regions = source, RegionDecoder(source, known)
        self.pixels = np.empty(0, np.uint8)
        self._mean_std = preprocessing.mean, preprocessing.std
        self._is_cubic = preprocessing.filter == "bicubic"
        self._size, self._factors = 0, normalizing_factors(0, *self._mean_std)
        self._scratch: cpu.Scratch | None = None
        self._images, self.changer = np.empty(0, np.uint8), Changer(preprocessing)

    def images(self, count: int, size: int) -> NDArray[np.uint8]:
        """uint8[B, S, S * 3] of anything, with what kernels touch behind it."""
        bytes_ = count * size * size * 3
        if self._images.size < bytes_ + READ_PAST:
            self._images = np.empty(bytes_ + READ_PAST, np.uint8)
        return self._images[:bytes_].reshape(count, size, size * 3)

    def room(self, bytes_: int) -> NDArray[np.uint8]:
        """uint8[...] for a frame of so many bytes, and for what the kernel reads behind it."""
        if self.pixels.size < bytes_ + cpu.READ_PAST:
            self.pixels = np.empty(bytes_ + cpu.READ_PAST, np.uint8)
        return self.pixels

    def fit(
        self,
        piece: Piece,
        size: int,
        planar: bool = False,
        streamed: bool = False,
    ) -> Fitting:
        """Scale, bias, and scratch that is large enough for a piece, see `cpu.fit_scratch`.

        The size is the batch's, whatever the renderer's is by now: one that nobody waits for any
        more may still be in the making.
        """
        if size != self._size:
            self._size, self._factors = size, normalizing_factors(size, *self._mean_std)
            self._scratch = None
        self._scratch = cpu.fit_scratch(
            self._scratch, piece.geometry, size, planar, streamed, piece.shrinks, self._is_cubic
        )
        return *self._factors, self._scratch

    def render_jpegs(self, piece: Piece, rows: list[int], out: NDArray[np.uint8]) -> list[int]:
        """Decode what rows show of their JPEGs, and render them.

        Args:
            piece: of it, those rows.
            rows: which.
            out: uint8[B, S, bytes of a line], see `cpu.render_rows`.

        Returns:
            The rows whose image has to be decoded whole.

        Raises:
            DataError: a sample is broken, or of another size than stored.
        """
        fitting = self.fit(piece, out.shape[1], streamed=True)
        left = []
        for row in rows:
            sample = int(piece.samples[row])
            render = partial(self._render, piece, row, fitting, out[row])
            shrink = int(piece.shrinks[row])
            part = _shown(piece.geometry[row], shrink, out.shape[1], self._is_cubic)
            stored = self._source.stored(sample)
            if not self.regions.run(sample, stored, render, part, shrink):
                left.append(row)
        return left

    def load(self) -> None:
        """Compile or load the kernel that decodes."""
        geometry = np.tile(np.array([0, 1, 1, 0], np.int32), (1, 2, 1))
        one, none = np.ones(1, np.int32), np.zeros(1, np.bool_)
        piece = Piece(slice(0, 1), np.zeros(1, np.int64), geometry, one, none, none)
        fitting = self.fit(piece, 1, streamed=True)
        self.regions.load(partial(self._render, piece, 0, fitting, np.empty((1, 3), np.uint8)))

    @staticmethod
    def _render(
        piece: Piece, row: int, fitting: Fitting, out: NDArray[np.uint8], *image: Any
    ) -> int:
        *image_of, origin, whole = image
        geometry = piece.geometry[row].copy()
        geometry[:, cpu.START] -= origin
        how = geometry, int(piece.shrinks[row]), piece.flips[row], piece.down_first[row]
        result: int = streaming.render_jpeg(*image_of, *how, whole, *fitting, out)
        return result

    def relax(self) -> None:
        """Give back what only a very large image needed."""
        if self.pixels.nbytes > _KEEP_BYTES:
            self.pixels = np.empty(0, np.uint8)


def _shown(
    geometry: NDArray[np.int32], shrink: int, size: int, is_cubic: bool
) -> tuple[int, int, int, int]:
    """Top, left, bottom and right of what the taps of a row touch, and a little more, px."""
    ends = []
    for start, length, resized, offset in geometry.tolist():
        scale = length / resized
        reach = (1 + (cpu.CUBIC_REACH if is_cubic else cpu.REACH)) * max(scale, shrink)
        first = max(0, int(offset * scale - reach))
        last = min(length, int((offset + size) * scale + reach) + 1)
        ends.append((start + first, start + last))
    (top, bottom), (left, right) = ends
    return top, left, bottom, right
