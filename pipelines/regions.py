"""Regions of a source's JPEGs, decoded by Pillow's own libjpeg: what a crop shows, or all of it.

Knows when a JPEG's codes may be read in libjpeg's stead, when it may be decoded in part, and what
to make of all that libjpeg says of it. Where it may not, or Pillow has another libjpeg, images are
decoded whole by `decoder`, or the reference.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.compiling import compiling
from pipelines.decoder import Decoder, Known
from pipelines.formats.layout import MODE_RAW, POINT, Stored, most_points
from pipelines.formats.source import Source
from pipelines.kernels import libjpeg, streaming
from pipelines.kernels.entries import find_entries, fit_reading
from pipelines.kernels.mcus import begin_part, begin_whole

#: Lines and columns around a part that are cut out of a JPEG with it: the ends of what is left are
#: upsampled as those of an image are, one of chroma, twice as wide; and one more.
_SPARE = 3
_whole_is_loaded = threading.Event()


class RegionDecoder:
    """Decodes parts of one source's samples; for one thread at a time.

    Attributes:
        known: what all threads of a loader share.
    """

    def __init__(self, source: Source, known: Known | None = None) -> None:
        """Take Pillow's libjpeg, if it is one that is known here.

        Args:
            source: the samples.
            known: what all threads of a loader share.
        """
        self._source, self.known = source, known or Known(source)
        self._libjpeg, self._state = libjpeg.find_libjpeg(), libjpeg.make_state()
        self._pixels = self._line = np.empty(0, np.uint8)
        self._reading = fit_reading(None, 0)
        #: Entry points that are read by their address: another thread may let go of them.
        self._points = self._reading.points

    @cached_property
    def decoder(self) -> Decoder:
        """Decodes images whole, and weighs what libjpeg complains of."""
        return Decoder(self._source, self.known)

    def crop(
        self,
        sample: int,
        stored: Stored,
        box: Sequence[int],
        shrink: int = 1,
    ) -> NDArray[np.uint8] | None:
        """Decode a part of a sample.

        Args:
            sample: its number.
            stored: its bytes.
            box: top, left, height, width, px, within the image as it is decoded.
            shrink: decodes the image at 1 / 2, 4 or 8 of its size.

        Returns:
            uint8[height, width, 3] RGB, until the next call; None if it has to be decoded whole.

        Raises:
            DataError: the sample is broken, or of another size than stored.
        """
        _, _, height, width = box
        bytes_ = height * width * 3
        if self._pixels.size < bytes_:
            self._pixels = np.empty(bytes_, np.uint8)
        pixels = self._pixels[:bytes_]
        done = self.crop_into(sample, stored, box, pixels, 3 * width, shrink)
        return pixels.reshape(height, width, 3) if done else None

    def crop_into(
        self,
        sample: int,
        stored: Stored,
        box: Sequence[int],
        target: NDArray[np.uint8],
        pitch: int,
        shrink: int = 1,
    ) -> bool:
        """Decode a part of a sample to where the caller wants its lines.

        Args:
            sample, stored, box, shrink: as in `crop`.
            target: uint8[...], contiguous: the part's lines, and what lies between them.
            pitch: bytes from one line to the next.

        Returns:
            Whether it is done; else the image has to be decoded whole.

        Raises:
            DataError: the sample is broken, or of another size than stored.
            ValueError: the target is too small.
        """
        top, left, height, width = box
        if (height - 1) * pitch + width * 3 > target.size:  # the kernel would write anywhere
            raise ValueError(f"{target.size:,} bytes for {height} x {width} px")
        line = self._scratch(width)

        def decode(*arguments: Any) -> int:
            *image, origin, whole = arguments
            own = (top - origin[0] // shrink, left - origin[1] // shrink, height, width)
            return int(streaming.decode_region(*image, shrink, own, whole, line, target, pitch))

        part = (top * shrink, left * shrink, (top + height) * shrink, (left + width) * shrink)
        return self.run(sample, stored, decode, part, shrink)

    def _scratch(self, width: int) -> NDArray[np.uint8]:
        """Memory for a line of so many pixels, and what libjpeg decodes beside them."""
        bytes_ = streaming.line_bytes(width)
        if self._line.size < bytes_:
            self._line = np.empty(bytes_, np.uint8)
        return self._line

    def to_rgb(self, sample: int, target: NDArray[np.uint8], shrink: int = 1) -> None:
        """Write a sample's pixels, all of them: by `decoder` until `load_whole` is done.

        Args:
            sample: its number.
            target: uint8[height * width * 3 or more], contiguous, of the sides that it shrinks to.
            shrink: decodes a JPEG at 1 / 2, 4 or 8 of its size.

        Raises:
            DataError: the sample is broken, or of another size than stored.
            ValueError: the target is too small.
        """
        stored = self._source.stored(sample)  # of the size that the source says
        height, width = (-(-side // shrink) for side in (stored.height, stored.width))
        line, box = self._scratch(width), (0, 0, height, width)
        if target.size < height * width * 3:  # the kernel would write anywhere
            raise ValueError(f"{target.size:,} bytes for {height} x {width} px")

        def decode(*arguments: Any) -> int:
            *image, _, whole = arguments
            given = shrink, box, whole, line, target, 3 * width
            return int(streaming.decode_region(*image, *given))

        if not _whole_is_loaded.is_set() or not self.run(sample, stored, decode, None, shrink):
            self.decoder.to_rgb(sample, target, shrink, stored)

    def run(
        self,
        sample: int,
        stored: Stored,
        decode: Callable[..., int],
        part: Sequence[int] | None,
        shrink: int = 1,
    ) -> bool:
        """Decode a part of a sample by a kernel, and weigh what libjpeg says.

        The first time that a sample is met, its codes are read to their end all the same, so that
        damage is named whatever the part is; and where they are sound and common, places are
        noted to begin at. Of a sample with entry points that has been done in converting.

        Args:
            sample: its number.
            stored: its bytes.
            decode: calls a kernel of `streaming`; is given its first arguments, `functions` to
                `sides`, then top and left of that in the image, px, and `whole`.
            part: top, left, bottom and right of what has to be there, px of the whole size; None
                for all of an image that is met once.
            shrink: at what part of its size it is decoded.

        Returns:
            Whether it is done; else the image has to be decoded whole.

        Raises:
            DataError: the sample is broken, or of another size than stored.
        """
        known = self.known
        if self._libjpeg is None or stored.mode == MODE_RAW or known.is_references(sample):
            return False
        data, sides = np.frombuffer(stored.data, np.uint8), (stored.height, stored.width)
        given = None if part is None else self._begin_part(sample, data, sides, part, shrink)
        if given is not None:
            if self._straight(decode, *given, False) == streaming.DONE:
                return True
            known.refuse_entries(sample)  # nobody knows how; it is decoded as any other
        whole = not known.has_been_read(sample)
        if not known.is_harmless(sample):
            self._reading = fit_reading(self._reading, len(data))
            size = begin_whole(data, sides, self._reading)
            head = data[:size], sides, (0, 0), whole
            if size and self._straight(decode, *head) == streaming.DONE:
                if whole:
                    known.note_sound(sample)
                return True
        # A common file needs no such look, which takes 30 us.
        if known.needs_reference(sample, stored):
            return False
        result = decode(self._libjpeg, self._state, data, sides, (0, 0), whole)
        if result == streaming.DONE:
            if whole:
                known.note_sound(sample)
            return True
        if result == streaming.OTHER_SIZE:
            self.decoder.refuse_size(sample, stored)
        warned = result == streaming.WARNED
        said = "" if warned else libjpeg.words_of(self._state)
        return self.decoder.accepts(sample, stored, said, warned=warned)

    def _straight(self, decode: Callable[..., int], *image: Any) -> int:
        """Decode a common file, whose codes are read by `mcus` in libjpeg's stead."""
        self._state[libjpeg.SCAN] = self._reading.scan.ctypes.data
        try:
            return decode(self._libjpeg, self._state, *image)
        finally:
            self._state[libjpeg.SCAN] = 0

    def _begin_part(
        self,
        sample: int,
        data: NDArray[np.uint8],
        sides: tuple[int, int],
        part: Sequence[int],
        shrink: int,
    ) -> tuple[NDArray[np.uint8], tuple[int, int], tuple[int, int]] | None:
        """Leave what lies around a part to nobody, where it is known where to begin.

        Returns:
            A JPEG's header, its height and width, its top and left in the image, px; None if there
            is none.
        """
        entries = self._find_entries(sample, data, sides)
        if entries is None:
            return None
        self._reading = fit_reading(self._reading, len(data))
        spare = _SPARE * shrink
        top, left, bottom, right = part
        left = max(0, min(left, right - streaming.NARROWEST * shrink) - spare)
        right = max(right, left + streaming.NARROWEST * shrink) + spare
        region = (max(0, top - spare), left, min(bottom + spare, sides[0]), min(right, sides[1]))
        step, self._points = entries
        given = begin_part(data, sides, region, step, self._points, self._reading)
        size, *place, height, width = given
        if not size:
            self.known.refuse_entries(sample)
            return None
        header = self._reading.header[:size]
        header.flags.writeable = False  # as the bytes of a sample are, to the kernels
        return header, (height, width), (place[0], place[1])

    def _find_entries(
        self, sample: int, data: NDArray[np.uint8], sides: tuple[int, int]
    ) -> tuple[int, NDArray[np.int64]] | None:
        """Places to begin at: known by now, the source's, or found in data that are new."""
        known = self.known
        entries = known.entries.get(sample)
        if entries is not None or not known.may_have_entries(sample):
            return entries
        entries = self._source.entry_points(sample)
        if entries is not None:
            known.note_entries(sample, *entries)
            return entries
        most = most_points(len(data))
        if known.has_been_read(sample) or not known.has_room(most * POINT.itemsize):
            return None
        self._reading = fit_reading(self._reading, len(data), most)
        step, count = find_entries(data, sides, most, self._reading)
        if not count:
            return None
        known.note_entries(sample, step, points := self._reading.points[:count].copy())
        return step, points

    def load(self, decode: Callable[..., int]) -> None:
        """Compile or load the kernel that `decode` calls, by giving it nothing."""
        if self._libjpeg is not None:
            nothing = np.frombuffer(b"", np.uint8)
            find_entries(nothing, (1, 1), 0, self._reading)
            begin_part(nothing, (1, 1), (0, 0, 1, 1), 0, self._reading.points, self._reading)
            begin_whole(nothing, (1, 1), self._reading)
            decode(self._libjpeg, self._state, nothing, (1, 1), (0, 0), False)


def load_whole() -> None:
    """Compile or load what decodes whole images, once in a process.

    Raises:
        MemoryError: there is no room for what numba loads.
    """
    functions = libjpeg.find_libjpeg()
    if functions is None or _whole_is_loaded.is_set():
        return
    nothing, line = np.frombuffer(b"", np.uint8), np.empty(3, np.uint8)
    with compiling():
        begin_whole(nothing, (1, 1), fit_reading(None, 0))
        streaming.decode_region(
            functions, libjpeg.make_state(), nothing, (1, 1), 1, (0, 0, 1, 1), False, line, line, 3
        )
    _whole_is_loaded.set()


def load_parts() -> None:
    """Compile or load what decodes parts of images, once in a process.

    Raises:
        MemoryError: there is no room for what numba loads.
    """
    load_whole()
    reading, nothing = fit_reading(None, 0), np.frombuffer(b"", np.uint8)
    with compiling():
        find_entries(nothing, (1, 1), 0, reading)
        begin_part(nothing, (1, 1), (0, 0, 1, 1), 0, reading.points, reading)


def are_decoded() -> bool:
    """Whether this machine's Pillow has a libjpeg by which regions are decoded."""
    return libjpeg.find_libjpeg() is not None
