"""A file that is held open, and read by position.

Not through a memory map, but for pixels that nobody decodes: where a mapped file is cut short, or
its disk fails, reading it kills the process by SIGBUS, without a word. A read that comes short is
an error like any other, and costs little: 5 us for a photo of 44 KB, 0.7 % of its decoding.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from pipelines.errors import DataError


class HeldFile:
    """One file, whatever becomes of its name; safe to share between threads and forks.

    Attributes:
        path: as it was called.
        size: bytes, when it was opened.
    """

    def __init__(self, path: Path) -> None:
        """Open it.

        Raises:
            OSError: as the system says.
            DataError: it is no plain file.
        """
        self.path, self._descriptor = path, -1
        # Of a pipe that nobody writes to, opening alone would wait for ever.
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        state = os.fstat(self._descriptor)
        if not stat.S_ISREG(state.st_mode):
            raise DataError(path, "is no plain file", "one", "name another")
        self.size, self._written_ns = state.st_size, state.st_mtime_ns

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        if self._descriptor >= 0:
            close(self._descriptor)  # when the interpreter ends, `os` may have been taken apart

    @property
    def link(self) -> str:
        """A path that leads to this very file, also when another one has taken its name."""
        return f"/proc/self/fd/{self._descriptor}"

    def has_changed(self) -> bool:
        """Whether anybody has written to the file, or cut it, since it was opened."""
        state = os.fstat(self._descriptor)  # under 1 us
        return (state.st_size, state.st_mtime_ns) != (self.size, self._written_ns)

    def read(self, at: int, bytes_: int) -> bytes:
        """Bytes from a place on.

        Raises:
            DataError: the file ends before, or its disk fails.
        """
        try:
            data = os.pread(self._descriptor, bytes_, at)
            while len(data) < bytes_:  # one call gives at most 2 GB
                more = os.pread(self._descriptor, bytes_ - len(data), at + len(data))
                if not more:
                    raise self._short()
                data += more
        except OSError as error:
            reason = (error.strerror or type(error).__name__).lower()
            raise DataError(self.path, f"cannot be read: {reason}", "", "see its disk") from error
        return data

    def array(self, type_: DTypeLike, count: int, at: int) -> NDArray[Any]:
        """An array of so many values from a place on, in memory of its own.

        Raises:
            DataError: see `read`.
        """
        return np.frombuffer(self.read(at, count * np.dtype(type_).itemsize), type_)

    def map(self) -> NDArray[np.uint8]:
        """uint8[...] all of the file, mapped, of an array's usual type; nobody may write to it.

        What is read of it after the file was cut ends the process: ask `has_changed` before.
        """
        mapped = mmap.mmap(self._descriptor, 0, access=mmap.ACCESS_READ)
        address = np.frombuffer(mapped, np.uint8).ctypes.data
        # One compiled kernel serves this and scratch, which is written to.
        bytes_: Any = (ctypes.c_uint8 * len(mapped)).from_address(address)
        bytes_.mapped = mapped  # lives as long as what looks at it
        return np.ctypeslib.as_array(bytes_)

    def read_into(self, at: int, target: NDArray[np.uint8]) -> None:
        """Fill memory with the bytes from a place on.

        Raises:
            DataError: see `read`.
        """
        try:
            count = os.preadv(self._descriptor, [target], at)
        except OSError:
            count = 0
        if count < target.nbytes:  # which `read` says better
            target[:] = np.frombuffer(self.read(at, target.nbytes), np.uint8)

    def _short(self) -> DataError:
        size = os.fstat(self._descriptor).st_size
        return DataError(
            self.path,
            f"is now {size:,} bytes long",
            f"{self.size:,} as when it was opened",
            "leave it alone while it is read",
        )
