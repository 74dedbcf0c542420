"""The pages that new memory comes in: small or large ones, whichever have cost less of late.

The first touch of memory costs a tenth to a half of a photo's decoding. Large pages take 0.22
instead of 0.48 ms/MB on an Intel Xeon as long as there are some at hand. Under a hypervisor that
takes free memory back, they cost up to 1.8 ms/MB once those are used up, as it takes back just what
would make a large page, and small ones 0.3 to 0.5. What a trial beforehand finds holds for the
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
#: So many choices are by turns; of so many later ones one is for what seems to cost more; and how
#: much a new cost counts: costs of one kind differ by a half, now and then by three times.
_BY_TURNS, _EXPLORES, _WEIGHT = 8, 16, 0.25
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
        self._choices = 0

    def touch(self, begin: int, end: int) -> None:
        """Have the system give the pages between two addresses at once; it may well fail.

        That is a fifth cheaper than one by one, as they are written to.
        """
        begin = begin // mmap.PAGESIZE * mmap.PAGESIZE
        end = -(-end // mmap.PAGESIZE) * mmap.PAGESIZE
        pages = slice((begin - self._begin) // LARGE_PAGE, -(-(end - self._begin) // LARGE_PAGE))
        parts = range(pages.start // self._per_part, -(-pages.stop // self._per_part))
        self._choose(parts)
        kinds = {self._kinds[part] for part in parts}
        took = populate_s(begin, end)
        if len(kinds) == 1 and took:
            is_large = _LARGE in kinds
            new = int(np.count_nonzero(~self._touched[pages])) * LARGE_PAGE
            self._learn(is_large, took, new if is_large else end - begin)
        self._touched[pages] = True

    def _choose(self, parts: range) -> None:
        """Settle what parts are that nobody has touched, all of them alike."""
        new = [part for part in parts if self._kinds[part] == _UNKNOWN]
        if not new:
            return
        small, large = self.costs
        is_large = large < small
        if self._choices < _BY_TURNS:
            is_large = self._choices % 2 == 1
        elif self._choices % _EXPLORES == 0:
            is_large = not is_large
        self._choices += 1
        for part in new:
            self._kinds[part] = _LARGE if is_large else _SMALL
            begin = self._begin + part * self._per_part * LARGE_PAGE
            end = min(begin + self._per_part * LARGE_PAGE, self._end)
            if is_large or are_large_by_default():
                advise(max(begin, self._first), end, _HUGEPAGE if is_large else _NOHUGEPAGE)

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
