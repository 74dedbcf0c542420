"""The pages that new memory comes in: small or large ones, whichever have cost less of late.

The first touch of memory costs a tenth to a half of a photo's decoding. Large pages take 0.22
instead of 0.48 ms/MB on an Intel Xeon as long as there are some at hand. Under a hypervisor that
takes free memory back, they cost 1.8 to 4.5 ms/MB once those are used up, as it takes back just
what would make a large page, and small ones 0.3 to 0.9. What a trial beforehand finds holds for the
memory that it is given, which is what was freed last; so costs are measured all the while.
"""

from __future__ import annotations

import ctypes
import mmap
import time
from functools import cache
from pathlib import Path

import numpy as np

_C = ctypes.CDLL(None)
_C.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_HUGEPAGE, _NOHUGEPAGE, _POPULATE_WRITE = 14, 15, 23  # madvise; the last since Linux 5.14
LARGE_PAGE = 2 << 20
#: Parts of the memory that are of one kind: each may be a mapping of its own to the system, which
#: allows for 65,530.
_MOST_PARTS = 4096
#: So many parts are by turns; what seems to cost more is tried later for so much of the time; how
#: much a new cost counts: costs of one kind differ by a half, now and then by three times.
_BY_TURNS, _EXPLORED, _WEIGHT = 8, 1 / 16, 0.25
_SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_UNKNOWN, _SMALL, _LARGE = range(3)


class Pages:
    """The pages of one mapping; safe to use from several threads.

    Attributes:
        costs: seconds that a byte's first touch has taken of late, in small and in large pages; 0
            as long as nobody knows.
    """

    def __init__(self, begin: int, bytes_: int) -> None:
        """Touch nothing yet.

        Args:
            begin: its address.
            bytes_: how many there are.
        """
        # Large pages lie where the address is a multiple of their size.
        self._begin = begin // LARGE_PAGE * LARGE_PAGE
        count = -(-(begin + bytes_ - self._begin) // LARGE_PAGE)
        self._per_part = -(-count // _MOST_PARTS)
        self._kinds = bytearray(-(-count // self._per_part))
        self._touched = np.zeros(count, np.bool_)
        self._first, self._end = begin, begin + bytes_
        self.costs = [0.0, 0.0]
        self._by_turns, self._unexplored_s = _BY_TURNS, 0.0

    def touch(self, begin: int, end: int) -> None:
        """Have the system give the pages between two addresses at once; it may well fail.

        That is a fifth cheaper than one by one, as they are written to.
        """
        begin = begin // mmap.PAGESIZE * mmap.PAGESIZE
        end = -(-end // mmap.PAGESIZE) * mmap.PAGESIZE
        step = self._per_part * LARGE_PAGE
        for part in range((begin - self._begin) // step, -(-(end - self._begin) // step)):
            first = self._begin + part * step
            if self._kinds[part] == _UNKNOWN:
                self._choose(part, max(first, self._first), min(first + step, self._end))
            self._populate(max(first, begin), min(first + step, end), self._kinds[part] == _LARGE)

    def _choose(self, part: int, begin: int, end: int) -> None:
        """Settle what a part is, which nobody has touched and which lies there.

        A part is tried, not a photo: one of 12 megapixels in the wrong pages takes 0.2 s.
        """
        small, large = self.costs
        is_large = large < small
        if self._by_turns:
            self._by_turns -= 1
            is_large = self._by_turns % 2 == 0
        elif self._unexplored_s * _EXPLORED > (end - begin) * max(small, large):
            is_large, self._unexplored_s = not is_large, 0.0
        self._kinds[part] = _LARGE if is_large else _SMALL
        if is_large or are_large_by_default():
            advise(begin, end, _HUGEPAGE if is_large else _NOHUGEPAGE)

    def _populate(self, begin: int, end: int, is_large: bool) -> None:
        """Have the system give pages of one part, and take note of what that costs."""
        pages = slice((begin - self._begin) // LARGE_PAGE, -(-(end - self._begin) // LARGE_PAGE))
        took = populate_s(begin, end)
        self._unexplored_s += took
        if took:
            new = int(np.count_nonzero(~self._touched[pages])) * LARGE_PAGE
            self._learn(is_large, took, new if is_large else end - begin)
        self._touched[pages] = True

    def _learn(self, is_large: bool, took: float, bytes_: int) -> None:
        """Take note of what the first touch of so many bytes has taken."""
        if bytes_:
            old, new = self.costs[is_large], took / bytes_
            self.costs[is_large] = new if old == 0 else old + _WEIGHT * (new - old)


def advise(begin: int, end: int, advice: int) -> bool:
    """Call madvise; whether the system takes it."""
    return end > begin and _C.madvise(begin, end - begin, advice) == 0


def populate_s(begin: int, end: int) -> float:
    """Have the system give pages; gives the seconds that it took, 0 where it does not do that."""
    started = time.perf_counter()
    was_done = advise(begin, end, _POPULATE_WRITE)
    return time.perf_counter() - started if was_done else 0.0


@cache
def are_large_by_default() -> bool:
    """Whether this system gives large pages without being asked for them."""
    return _SETTING.exists() and "[always]" in _SETTING.read_text()
