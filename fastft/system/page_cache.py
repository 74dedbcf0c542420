"""The system's page cache: which of a file's pages are in memory, and getting them out of it."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

#: Up to this share of the bytes may be left of what counts as cold: pages at a file's edge that
#: somebody else has mapped.
COLD = 0.02


def evict(files: Iterable[Path]) -> float:
    """Ask the system to forget the files' pages; it keeps those that anybody has mapped.

    What lies in memory alone (tmpfs) stays, too. Of a file that this process neither owns nor may
    write to, the system does not tell, and says that all of it is there.

    Returns:
        The share of their bytes that is in memory all the same, 0 to 1.

    Raises:
        OSError: a file cannot be opened.
    """
    total = left = 0
    for file in files:
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)  # pages that are yet to be written would stay
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            size = os.fstat(descriptor).st_size
            total += size
            left += _resident_bytes(descriptor, size)
        finally:
            os.close(descriptor)
    return left / total if total else 0.0


def resident_share(file: Path) -> float:
    """The share of a file's bytes that is in memory, 0 to 1.

    Raises:
        OSError: the file cannot be opened.
    """
    descriptor = os.open(file, os.O_RDONLY)
    try:
        size = os.fstat(descriptor).st_size
        return _resident_bytes(descriptor, size) / size if size else 0.0
    finally:
        os.close(descriptor)


def _resident_bytes(descriptor: int, size: int) -> int:
    """The bytes of an open file that are in memory, to the page.

    Source: the manual of mincore(2).
    """
    if not size:  # nothing can be mapped
        return 0
    pages = -(-size // mmap.PAGESIZE)
    there = np.empty(pages, np.uint8)
    with mmap.mmap(descriptor, size, access=mmap.ACCESS_READ) as mapped:
        view = np.frombuffer(mapped, np.uint8)
        library = ctypes.CDLL(None, use_errno=True)
        failed = library.mincore(
            ctypes.c_void_p(view.ctypes.data),
            ctypes.c_size_t(size),
            ctypes.c_void_p(there.ctypes.data),
        )
        del view  # or the map could not be closed
    if failed:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    resident = int((there & 1).sum()) * mmap.PAGESIZE
    return min(resident, size)
