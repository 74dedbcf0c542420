"""Finds entry points into JPEGs that are converted: no loader has to read their codes for them.

Reading all codes is also the check for damage that conversion makes of each JPEG. What libjpeg says
of a header is heard by having it decode the first few pixels.
"""

from __future__ import annotations

import threading

import numpy as np
from numpy.typing import NDArray

from pipelines.formats.beton_extra import pack_points
from pipelines.formats.layout import Stored, most_points
from pipelines.kernels import libjpeg, streaming
from pipelines.kernels.entries import find_entries, fit_reading
from pipelines.kernels.mcus import begin_part
from pipelines.regions import are_decoded, load_parts

#: Columns that libjpeg is asked for, px: the fewest that it decodes.
_COLUMNS = streaming.NARROWEST


class EntryFinder:
    """A PointFinder; what it needs is loaded when it is first asked, or compiled."""

    def __init__(self) -> None:
        self._local = threading.local()

    @staticmethod
    def is_served() -> bool:
        """Whether this machine's Pillow has a libjpeg that can be asked."""
        return are_decoded()

    def find(self, stored: Stored) -> bytes:
        """See PointFinder."""
        scratch = self._scratch()
        data, sides = np.frombuffer(stored.data, np.uint8), (stored.height, stored.width)
        most = most_points(len(data))
        reading = scratch.reading = fit_reading(scratch.reading, len(data), most)
        step, count = find_entries(data, sides, most, reading)
        if not count or not scratch.begins(data, sides, step, points := reading.points[:count]):
            return b""
        return pack_points(step, points)

    def _scratch(self) -> _Scratch:
        """The calling thread's."""
        try:
            scratch: _Scratch = self._local.scratch
        except AttributeError:
            load_parts()
            scratch = self._local.scratch = _Scratch()
        return scratch


class _Scratch:
    """One thread's memory."""

    def __init__(self) -> None:
        self.reading = fit_reading(None, 0)
        self._libjpeg, self._state = libjpeg.find_libjpeg(), libjpeg.make_state()
        self._line, self._pixels = np.empty((2, streaming.line_bytes(_COLUMNS)), np.uint8)

    def begins(
        self,
        data: NDArray[np.uint8],
        sides: tuple[int, int],
        step: int,
        points: NDArray[np.int64],
    ) -> bool:
        """Whether libjpeg decodes the first pixels by the entry points, and has nothing to say."""
        reading, state = self.reading, self._state
        region = (0, 0, 1, min(sides[1], _COLUMNS))
        size, _, _, *part = begin_part(data, sides, region, step, points, reading)
        if not size:
            return False
        header = reading.header[:size]
        header.flags.writeable = False  # as the bytes of a sample are, to the kernels
        state[libjpeg.SCAN] = reading.scan.ctypes.data
        try:
            room = self._line, self._pixels, 3 * region[3]
            result = streaming.decode_region(
                self._libjpeg, state, header, tuple(part), 1, region, False, *room
            )
        finally:
            state[libjpeg.SCAN] = 0
        return bool(result == streaming.DONE)
