"""The bytes of an image file, whatever lies by its name: pipes and devices are refused."""

from __future__ import annotations

import errno
import os
import stat

from pipelines.images.limits import MAX_FILE_BYTES


def read_bytes(path: str) -> bytes:
    """A file's bytes by the fewest system calls: conversion is bound by them without validation.

    Raises:
        OSError: as the system says; or it is a pipe or a device, or larger than images are.
    """
    file, size = open_plain(path)
    try:
        data = os.read(file, size + 1)
        if len(data) == size:
            return data
        parts = [data]  # it is being written
        while len(parts[-1]) and sum(map(len, parts)) <= MAX_FILE_BYTES:
            parts.append(os.read(file, 1 << 24))
        return b"".join(parts)
    finally:
        os.close(file)


def open_plain(path: str) -> tuple[int, int]:
    """A descriptor of an image file, and its size in bytes.

    Raises:
        OSError: as the system says; or it is a pipe or a device, or larger than images are.
    """
    # A pipe that nobody writes to would block a usual open for ever.
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    state = os.fstat(file)
    if stat.S_ISREG(state.st_mode) and state.st_size <= MAX_FILE_BYTES:
        return file, state.st_size
    os.close(file)
    if not stat.S_ISREG(state.st_mode):
        raise OSError(errno.EINVAL, "is no plain file")
    found = f"is {state.st_size:,} bytes long, more than {MAX_FILE_BYTES:,}"
    raise OSError(errno.EFBIG, found)
