"""One rendering thread's memory, and the rows that it renders straight from their JPEGs.

Knows which of the two decoders serves a row: the kernel that decodes only what a crop shows, or,
where libjpeg gives up or Pillow has another one, `decoder`, which decodes images whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.decoder import Decoder, Known
from pipelines.formats.layout import MODE_RAW
from pipelines.formats.source import Source
from pipelines.kernels import cpu, libjpeg, streaming
from pipelines.reference import MEAN, STD
from pipelines.transfer import normalizing_factors

#: A decoded image larger than this (11 megapixels) gives its memory back: each thread may meet the
#: few large ones of a set, and none should hold on to their size.
_KEEP_BYTES = 32 << 20


@dataclass(frozen=True, slots=True)
class Piece:
    """Some rows of a batch.

    Attributes:
        part: which.
        samples: int64[B].
        geometry: int32[B, 2, 4], see `cpu.START`.
        flips, down_first: bool[B].
    """

    part: slice
    samples: NDArray[np.int64]
    geometry: NDArray[np.int32]
    flips: NDArray[np.bool_]
    down_first: NDArray[np.bool_]

    def cut(self, part: slice) -> Piece:
        """A part of it, as a piece of the same batch."""
        arrays = (self.samples, self.geometry, self.flips, self.down_first)
        return Piece(part, *(each[part] for each in arrays))  # type: ignore[arg-type]


class Worker:
    """The scratch memory of one thread; it grows with the images that the thread meets."""

    def __init__(self, source: Source, known: Known | None = None) -> None:
        self._source, self.known = source, known or Known(source)
        self.pixels = np.empty(0, np.uint8)
        self._size, self._factors = 0, normalizing_factors(0, MEAN, STD)
        self._scratch: cpu.Scratch | None = None
        self._libjpeg, self._state = libjpeg.find_libjpeg(), libjpeg.make_state()

    @cached_property
    def decoder(self) -> Decoder:
        """Made when it is first needed: not all sources of pixels decode here."""
        return Decoder(self._source, self.known)

    def room(self, bytes_: int) -> NDArray[np.uint8]:
        """uint8[...] for a frame of so many bytes, and for what the kernel reads behind it."""
        if self.pixels.size < bytes_ + cpu.READ_PAST:
            self.pixels = np.empty(bytes_ + cpu.READ_PAST, np.uint8)
        return self.pixels

    def fit(
        self,
        geometry: NDArray[np.int32],
        size: int,
        planar: bool = False,
        streamed: bool = False,
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], cpu.Scratch]:
        """Scale, bias, and scratch that is large enough for these rows, see `cpu.fit_scratch`.

        The size is the batch's, whatever the renderer's is by now: one that nobody waits for any
        more may still be in the making.
        """
        if size != self._size:
            self._size, self._factors = size, normalizing_factors(size, MEAN, STD)
            self._scratch = None
        self._scratch = cpu.fit_scratch(self._scratch, geometry, size, planar, streamed)
        return *self._factors, self._scratch

    def render_jpeg(self, piece: Piece, row: int, out: NDArray[Any]) -> bool:
        """Decode what a row shows of its JPEG, and render it.

        The first time that a loader meets a sample, the data are read to their end all the same, so
        that damage is named whatever the crop shows.

        Args:
            piece: the rows.
            row: which.
            out: [S, S * 3], see `cpu.render_rows`.

        Returns:
            Whether it is done; else the image has to be decoded whole.

        Raises:
            DataError: the sample is broken, or of another size than stored.
        """
        sample, known, decoder = int(piece.samples[row]), self.known, self.decoder
        stored = self._source.stored(sample)
        if (
            self._libjpeg is None
            or stored.mode == MODE_RAW
            or known.needs_reference(sample, stored)
        ):
            return False
        whole = not known.has_been_read(sample)
        result = streaming.render_jpeg(
            self._libjpeg,
            self._state,
            np.frombuffer(stored.data, np.uint8),
            stored.height,
            stored.width,
            piece.geometry[row],
            piece.flips[row],
            piece.down_first[row],
            whole,
            *self.fit(piece.geometry[row : row + 1], len(out), streamed=True),
            out,
        )
        if result == streaming.DONE:
            if whole:
                known.note_sound(sample)
            return True
        if result == streaming.OTHER_SIZE:
            decoder.refuse_size(sample, stored)
        warned = result == streaming.WARNED
        said = "" if warned else libjpeg.words_of(self._state)
        return decoder.accepts(sample, stored, said, warned=warned)

    def load(self, dtype: type[np.generic]) -> None:
        """Compile or load the kernel that decodes, for batches of a dtype."""
        if self._libjpeg is not None:
            geometry = np.tile(np.array([0, 1, 1, 0], np.int32), (1, 2, 1))
            streaming.render_jpeg(
                self._libjpeg,
                self._state,
                np.frombuffer(b"", np.uint8),  # which libjpeg refuses
                1,
                1,
                geometry[0],
                np.False_,
                np.False_,
                False,
                *self.fit(geometry, 1, streamed=True),
                np.empty((1, 3), dtype),
            )

    def relax(self) -> None:
        """Give back what only a very large image needed."""
        if self.pixels.nbytes > _KEEP_BYTES:
            self.pixels = np.empty(0, np.uint8)
