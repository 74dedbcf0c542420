"""Compiling kernels: one thread of a process at a time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from pipelines.forks import hold_while_forking
from pipelines.memory import require_blas_room

_compiling = threading.RLock()
hold_while_forking(_compiling)  # numba's own locks are held with it


@contextmanager
def compiling() -> Iterator[None]:
    """Compile or load a kernel in this block, or change what numba then sees: one thread at a time.

    Raises:
        MemoryError: there is no room for what numba loads.
    """
    with _compiling:
        require_blas_room()
        yield
