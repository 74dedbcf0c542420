"""Claims to samples: no two processes of a machine decode the same one.

A claim is a lock on one byte of a file that all of them have open. It ends with the process that
holds it, however that ends: whoever waits then decodes the sample instead.
"""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress

#: struct flock of 64-bit Linux: type, whence, start, length, process (0: the lock is the file's).
_LOCK = "hhqqi4x"


@contextmanager
def claim(descriptor: int, sample: int) -> Iterator[None]:
    """Keep out of this block all who have opened the same file and claim the same sample.

    Threads and forks that use one descriptor do not keep each other out. Where the system has no
    such locks, nobody is kept out: a sample may be decoded twice then, to the same bytes.

    Args:
        descriptor: of the file, which may be shorter than there are samples.
        sample: which; whoever has claimed it is waited for.
    """
    with suppress(OSError):
        _lock(descriptor, fcntl.F_OFD_SETLKW, fcntl.F_WRLCK, sample)
    try:
        yield
    finally:
        with suppress(OSError):
            _lock(descriptor, fcntl.F_OFD_SETLK, fcntl.F_UNLCK, sample)


def _lock(descriptor: int, how: int, kind: int, sample: int) -> None:
    fcntl.fcntl(descriptor, how, struct.pack(_LOCK, kind, os.SEEK_SET, sample, 1, 0))
