"""Files of this machine put into a store: what may be replaced there, and whether all arrived."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from pipelines.errors import DataError, UsageError
from pipelines.formats.layout import HEADER, METADATA_START, VERSION
from pipelines.remote.address import show
from pipelines.remote.checksums import check_file
from pipelines.remote.faults import Denied, Missing, StoreError
from pipelines.remote.fetching import OnBytes, say_nothing
from pipelines.remote.store import Found, Store

#: Bytes that are read back at once where a store tells no checksum.
_BLOCK_BYTES = 8 << 20
#: A file that does not arrive as it is is put again so often, beside what `Store` tries.
_MOST_UPLOADS = 2


def require_writable(store: Store, address: str) -> None:
    """Raise UsageError where nothing can be written."""
    if store.scheme.is_web:
        raise UsageError(
            show(address), "is on a web server", "s3://, gs://, hf:// or a local path", ""
        )


def require_replaceable(store: Store, address: str) -> None:
    """Raise UsageError if what is to be written would replace what is no `.beton`.

    Raises:
        UsageError: it would, or there is a folder.
        StoreError: there is no telling.
    """
    try:
        found = store.stat(address)
    except Missing:
        return
    if found.is_folder:
        raise UsageError(show(address), "is a folder", "a file to write", "name another output")
    if found.size and not _is_beton(store, found):
        said, remedy = "exists and is no whole .beton", "remove it or name another"
        raise UsageError(show(address), said, "a new name", remedy)


def upload_file(
    path: Path, address: str, on_bytes: OnBytes = say_nothing, *, store: Store | None = None
) -> None:
    """Put a file into a store, whole or not at all, and check what arrived.

    Args:
        path: the file.
        address: of what it is to be; what is there is replaced.
        on_bytes: told of the progress.
        store: the address's; None opens one.

    Raises:
        StoreError: it cannot be put there, or does not arrive as it is.
        OSError: the file cannot be read.
    """
    store = store or Store(address)
    size = path.stat().st_size
    for attempt in range(1, _MOST_UPLOADS + 1):
        store.put(path, address, lambda done: on_bytes("uploading", done, size))
        try:
            _check(store, path, address, on_bytes)
        except Denied:  # a login may write and not read; what was taken has been taken whole
            return
        except DataError as error:
            if attempt == _MOST_UPLOADS:
                store.remove(address)  # better nothing than other bytes
                remedy = "nothing was left there; try it again"
                raise StoreError(show(address), error.found, error.expected, remedy) from error
        else:
            return


def _check(store: Store, path: Path, address: str, on_bytes: OnBytes) -> None:
    """Raise DataError unless what is there is the file."""
    found, size = store.stat(address), path.stat().st_size
    if found.size != size:
        said = f"{found.size or 0:,} bytes arrived"
        raise DataError(show(address), said, f"{size:,}")
    tell = partial(on_bytes, "checking")
    if check_file(path, store.checksums(found), show(address), lambda done: tell(done, size)):
        return
    done = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            if store.read(address, done, done + len(block)) != block:
                raise DataError(show(address), "other bytes arrived", f"those of {path.name}")
            done += len(block)
            tell(done, size)


def _is_beton(store: Store, found: Found) -> bool:
    """Whether a file begins as a `.beton` does, and is long enough for what it says it holds."""
    if found.size is None or found.size < METADATA_START:
        return False
    (header,) = np.frombuffer(store.read(found.address, 0, HEADER.itemsize), HEADER)
    samples, table = int(header["samples"]), int(header["table"])
    fits = METADATA_START + samples <= table <= found.size
    return int(header["version"]) == VERSION and int(header["fields"]) == 2 and fits
