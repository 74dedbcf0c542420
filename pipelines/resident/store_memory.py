"""The memory of a store's buffer: this process's own, or a file that processes share.

A file is the one copy on a machine: in `/dev/shm` for as long as a process has it, or where the
user asked for it, where the next run finds it filled. Whoever decodes a sample claims it, and says
so in the file, last of all; so it may be left half-filled at any time. Layout, little-endian:

    magic, key      what samples it is of (`store.fingerprint`)
    attached        a byte for each process of a group that has opened it
    ready           a byte per sample: its pixels are there
    checksums       uint32 per sample, CRC-32 of its pixels
    pixels          from a page on, as `store.Layout` says

How processes come to have the same file is `shared_file`'s.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import weakref
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import DataError
from pipelines.forks import here
from pipelines.formats.crc import crc32
from pipelines.resident import shared_file
from pipelines.resident.claims import claim
from pipelines.resident.pages import Pages
from pipelines.resident.shared_file import no_room, open_file, own_prefix, remove_unused, sweep
from pipelines.resident.store import Layout

_ATTACHED_AT, _READY_AT = 1024, 4096
#: Processes of a machine that can share a file and take its name away once all have it.
MAX_GROUP = _READY_AT - _ATTACHED_AT
_PAGE = 4096


class StoreMemory:
    """The buffer, and which samples are in it.

    Attributes:
        pixels: uint8[total].
        ready: uint8[N], 1 where a sample's pixels are there.
        checksums: uint32[N] of those, or None where nothing outlives the process.
        evictable: whether the system can write the pixels out where memory is short.
    """

    evictable = False

    def __init__(
        self,
        layout: Layout,
        pixels: NDArray[np.uint8],
        ready: NDArray[np.uint8],
        checksums: NDArray[np.uint32] | None = None,
    ) -> None:
        self._layout = layout
        self.pixels, self.ready, self.checksums = pixels, ready, checksums
        _living.add(self)

    def missing_bytes(self) -> int:
        """The bytes still to be filled: memory that is promised but not yet taken."""
        return int(self._layout.sizes[self.ready == 0].sum())

    def reserve(self, sample: int) -> None:
        """Make sure that a sample's pixels can be written.

        Raises:
            DataError: there is no room.
        """

    def claim(self, sample: int) -> AbstractContextManager[None]:
        """Be the only process that decodes a sample; whoever does is waited for."""
        return nullcontext()

    def require_whole(self) -> None:
        """Make sure that the pixels can be read.

        Raises:
            DataError: what they lie in has been cut short.
        """

    def commit(self, sample: int) -> None:
        """Say that a sample's pixels are there."""
        if self.checksums is not None:
            self.checksums[sample] = crc32(self.pixels[self._layout.place(sample)])
        self.ready[sample] = 1

    def holds(self, sample: int) -> bool:
        """Whether a sample's pixels are there, unharmed if they are from an earlier run."""
        if not self.ready[sample]:
            return False
        if self.checksums is None:
            return True
        place = self._layout.place(sample)
        return crc32(self.pixels[place]) == int(self.checksums[sample])

    def release(self) -> None:
        """Let go of the memory, if that frees any, where all pixels are kept elsewhere by now."""

    def close(self) -> None:
        """Let go of the memory; safe to call twice."""
        _living.discard(self)
        self.pixels = np.empty(0, np.uint8)  # a slice would hold on to all of it


#: All that this process has and has not closed.
_living: weakref.WeakSet[StoreMemory] = weakref.WeakSet()


def promised_bytes() -> int:
    """Memory that the stores of this process will still take."""
    return sum(memory.missing_bytes() for memory in list(_living) if not memory.evictable)


class PrivateMemory(StoreMemory):
    """Memory of this process, which the system gives as it is filled, in the cheaper pages."""

    def __init__(self, layout: Layout) -> None:
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        pixels = np.frombuffer(mmap.mmap(-1, layout.total, flags=flags), np.uint8)
        self._pages = Pages(pixels.ctypes.data, len(pixels))
        super().__init__(layout, pixels, np.zeros(len(layout.sizes), np.uint8))

    def reserve(self, sample: int) -> None:
        """Ask for a sample's pages at once; it may well fail."""
        place, begin = self._layout.place(sample), self.pixels.ctypes.data
        self._pages.touch(begin + place.start, begin + place.stop)


class FileMemory(StoreMemory):
    """A file that is mapped into every process that opens it, and locked as long as it is."""

    evictable = True
    #: Whether the file takes all of its room when it is made, or a sample's when it is written.
    _whole = True

    def __init__(self, path: Path, layout: Layout, key: bytes, *, is_shared: bool = False) -> None:
        """Open the file, or make it if there is none for these samples.

        Args:
            path, layout, key: of the file, of the store.
            is_shared: whether other processes of this machine fill it at the same time.

        Raises:
            DataError: it cannot be made, is something else, or is in use with other samples.
        """
        self._home = here()
        self._path, self._layout_start = path, _pixels_at(len(layout.sizes))
        self._bytes = self._layout_start + layout.total
        self._descriptor = open_file(path, key, self._bytes, self._whole)
        self._claims, self._claims_path = -1, Path()
        if is_shared:
            self._open_claims(key)
        count = len(layout.sizes)
        mapped = mmap.mmap(self._descriptor, self._bytes)
        content = np.frombuffer(mapped, np.uint8)
        checksums_at = _READY_AT + _padded(count, 64)
        self._attached = content[_ATTACHED_AT:_READY_AT]
        super().__init__(
            layout,
            content[self._layout_start :],
            content[_READY_AT : _READY_AT + count],
            content[checksums_at : checksums_at + 4 * count].view(np.uint32),
        )

    def claim(self, sample: int) -> AbstractContextManager[None]:
        """See StoreMemory."""
        return nullcontext() if self._claims < 0 else claim(self._claims, sample)

    def require_whole(self) -> None:
        """See StoreMemory.

        Who cuts the file off in the milliseconds between this and the last look at a batch's pixels
        still ends the process by SIGBUS; but the file is ours, and locked.
        """
        size, expected = os.fstat(self._descriptor).st_size, self._bytes
        if size < expected:
            raise DataError(
                self._path,
                f"is now {size:,} bytes long",
                f"the {expected:,} that it was made of",
                "leave it alone while it is used; start again",
            )

    def reserve(self, sample: int) -> None:
        """See StoreMemory; all of the file's room was taken when it was made."""
        self.require_whole()

    def holds(self, sample: int) -> bool:
        """See StoreMemory."""
        self.require_whole()
        return super().holds(sample)

    def close(self) -> None:
        """Let go of the file, too."""
        super().close()
        # Each of these would keep all of it mapped.
        self.ready, self.checksums = np.zeros(len(self.ready), np.uint8), None
        self._attached = np.empty(0, np.uint8)
        if self._descriptor >= 0:
            if self._home is here():  # a fork's lock is its parent's, too
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)  # the map has a descriptor of its own
            os.close(self._descriptor)
            self._descriptor = -1
        self._close_claims()

    def _open_claims(self, key: bytes) -> None:
        """Have a file to lock bytes of: on some disks locks of the store's own are one with its."""
        sweep(prefix := own_prefix())
        state = os.fstat(self._descriptor)
        self._claims_path = shared_file.SHM / f"{prefix}claims-{state.st_dev:x}-{state.st_ino:x}"
        with suppress(DataError):  # no place for it: a sample may then be decoded twice
            self._claims = open_file(self._claims_path, key, _PAGE, whole=False)

    def _close_claims(self) -> None:
        if self._claims >= 0:
            os.close(self._claims)
            self._claims = -1
            if self._home is here():
                remove_unused(self._claims_path)


class GroupMemory(FileMemory):
    """A file in memory, one for all processes of a group, which is gone when they are."""

    evictable = False
    _whole = False

    def __init__(self, layout: Layout, key: bytes, group: str, rank: int, count: int) -> None:
        """Open it, or make it.

        Args:
            layout, key: of the store.
            group: what the processes of one group know of each other and others do not.
            rank, count: this process's number in the group, and how many there are.

        Raises:
            DataError: as FileMemory.
        """
        sweep(prefix := own_prefix())
        path = shared_file.SHM / f"{prefix}{crc32(group.encode()):08x}-{key.hex()[:32]}"
        super().__init__(path, layout, key)
        # What lives no longer than its processes need not be held against harm.
        self.checksums = None
        state = os.statvfs(shared_file.SHM)
        free, missing = state.f_bavail * state.f_frsize, self.missing_bytes()
        if missing > free:
            self.close()
            raise DataError(
                shared_file.SHM,
                f"{free / 1e9:.2f} GB are free",
                f"room for {missing / 1e9:.2f} GB of pixels",
                "give the container more (--shm-size), or keep the pixels in a --store-file",
            )
        self._count = count
        self._attached[rank] = 1
        if self._all_have_it():
            path.unlink(missing_ok=True)

    def _all_have_it(self) -> bool:
        return bool(self._attached[: self._count].all())

    def claim(self, sample: int) -> AbstractContextManager[None]:
        """See StoreMemory."""
        return claim(self._descriptor, sample)

    def release(self) -> None:
        """See StoreMemory; with the last process that lets go the memory is free.

        One that has not come yet would find none: for that it stays until `close`.
        """
        if self._all_have_it():
            self.close()

    def close(self) -> None:
        """Let go of the memory; of its name, too, if no other process has it.

        Not all need come: a process with two loaders of the same samples may have taken both to the
        first file before another one came, whose second then opens a file that nobody else will.
        """
        is_open = self._descriptor >= 0
        super().close()
        if is_open and self._home is here():
            remove_unused(self._path)

    def reserve(self, sample: int) -> None:
        """Take memory for a sample; to run out of it while writing would end the process."""
        place = self._layout.place(sample)
        try:
            os.posix_fallocate(
                self._descriptor, self._layout_start + place.start, place.stop - place.start
            )
        except OSError as error:
            raise no_room(self._path, error, place.stop - place.start) from error


def _pixels_at(count: int) -> int:
    return _padded(_READY_AT + _padded(count, 64) + 4 * count, _PAGE)


def _padded(size: int, to: int) -> int:
    return -(-size // to) * to
