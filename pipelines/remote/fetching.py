"""One file from an address to this machine: resumed where it stopped, checked, whole or not at all.

Large files come in ranges, several at once, and are written in order, so that the length of the
unfinished file says how far it has come. What they are checked against: their size, the checksums
that the store tells, and `ADDRESS.sha256` where there is one.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from pipelines.errors import DataError
from pipelines.remote.address import beside, show
from pipelines.remote.checksums import Kind, check_file, read_sha256
from pipelines.remote.faults import Denied, Missing, StoreError
from pipelines.remote.part import Part
from pipelines.remote.store import Found, NoRanges, Store
from pipelines.workers import in_order

#: Called with what is being done, bytes done, and bytes in all where they are known.
OnBytes = Callable[[str, int, "int | None"], None]
#: Bytes of a range and how many are on their way at once: 4 connections fill most links, and
#: 5 ranges take 40 MiB of memory.
_RANGE_BYTES, _AT_ONCE = 8 << 20, 4
#: A file that changes while it is fetched is fetched anew so often.
_MOST_CHANGES = 3
#: More than any file of one checksum.
_SHA256_FILE_BYTES = 4096


def say_nothing(what: str, done: int, total: int | None) -> None:
    """Takes the place of who wants to know how far a transfer has come."""


def fetch_file(
    address: str,
    target: Path,
    on_bytes: OnBytes = say_nothing,
    *,
    store: Store | None = None,
    found: Found | None = None,
) -> Path:
    """Fetch a file.

    Args:
        address: of it.
        target: its name here; a file of that name is replaced. Its folder is made.
        on_bytes: told of the progress.
        store: the address's; None opens one.
        found: what lies there, where that has been asked; None asks.

    Returns:
        The target.

    Raises:
        Missing: there is no such file.
        StoreError: it cannot be fetched; what has come stays as `target.part` for next time.
        DataError: what came is not what the store or `ADDRESS.sha256` tell; or it does not fit.
        UsageError: a library is missing.
        OSError: as the system says.
    """
    store = store or Store(address)
    target.parent.mkdir(parents=True, exist_ok=True)
    for _ in range(_MOST_CHANGES):
        found = found or store.stat(address)
        if found.is_folder:
            raise DataError(show(address), "is a folder", "a file", "name a file in it")
        with Part(target, found) as part:
            _require_space(target, found, part.size)
            part.begin()
            _receive(store, found, part, on_bytes)
            now = store.stat(address)
            if (now.size, now.version) == (found.size, found.version):
                _check(store, found, part, on_bytes)
                part.publish()
                return target
            part.restart()
        found = None
    raise StoreError(show(address), "changes while it is fetched", "", "try it when it is done")


def _receive(store: Store, found: Found, part: Part, on_bytes: OnBytes) -> None:
    """Fill a part up."""
    tell = partial(on_bytes, "fetching")
    tell(part.size, found.size)
    if found.size is not None:
        try:
            for block in _ranges(store, found.address, part.size, found.size):
                part.write(block)
                tell(part.size, found.size)
            return
        except NoRanges:
            part.restart()
    for block in store.stream(found.address):
        part.write(block)
        tell(part.size, found.size)
    if found.size is not None and part.size != found.size:
        said = f"{part.size:,} bytes came of {found.size:,}"
        raise StoreError(show(found.address), said, "", "try it again")


def _ranges(store: Store, address: str, start: int, stop: int) -> Iterator[bytes]:
    """A file's bytes from `start` on, in order."""
    starts = range(start, stop, _RANGE_BYTES)
    reads = (partial(store.read, address, at, min(at + _RANGE_BYTES, stop)) for at in starts)
    if len(starts) < 2:
        yield from (read() for read in reads)
        return
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="fetch") as executor:
        yield from in_order(executor, reads, ahead=_AT_ONCE)


def _check(store: Store, found: Found, part: Part, on_bytes: OnBytes) -> None:
    """Hold a whole part against all that is told of it; it is dropped if it is not so.

    Raises:
        DataError: it is not so.
    """
    told: dict[Kind, str] = dict(store.checksums(found))
    beside_it = _told_beside(store, found.address)
    if beside_it is not None and told.setdefault("sha256", beside_it) != beside_it:
        where = show(beside(found.address, ".sha256"))
        raise DataError(where, beside_it, f"{told['sha256']}, as the store tells", "mend it")
    tell = partial(on_bytes, "checking")
    try:
        check_file(part.path, told, show(found.address), lambda done: tell(done, found.size))
    except DataError:
        part.restart()
        raise


def _told_beside(store: Store, address: str) -> str | None:
    """The SHA-256 that a file beside another tells of it, if there is one."""
    try:
        text = store.read_start(beside(address, ".sha256"), _SHA256_FILE_BYTES)
    except (
        Missing,
        Denied,
    ):  # of what is not there, a store that may not be listed says that it denies
        return None
    return read_sha256(text)


def _require_space(target: Path, found: Found, there: int) -> None:
    """Raise DataError unless a file fits on the disk."""
    free, needed = shutil.disk_usage(target.parent).free, (found.size or 0) - there
    if needed > free:
        said, expected = f"{free:,} bytes free on its disk", f"{needed:,} for {show(found.address)}"
        raise DataError(target, said, expected, "free some or name another disk")
