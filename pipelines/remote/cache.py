"""Copies of remote files on this machine, made once and used again while they are up to date.

Beside a folder of copies lies `FOLDER.json`: which version of what each of them is. Processes take
turns by a lock on the folder: the first fetches, the others find all there.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from pipelines.atomic import write_whole
from pipelines.errors import DataError
from pipelines.remote.address import join, name_of, remote_address, show
from pipelines.remote.faults import Missing
from pipelines.remote.fetching import OnBytes, fetch_file, say_nothing
from pipelines.remote.part import NoLocks, lock
from pipelines.remote.store import Found, Store

#: The folder of copies, beside what is made of them.
FOLDER = "fastft-data"
#: The splits that a web server may have, which lists nothing.
_SPLITS = ("train.beton", "val.beton", "test.beton")
_DIGITS = 12


def localize(
    path: Path, beside: Path, on_bytes: OnBytes = say_nothing, *, store: Store | None = None
) -> Path:
    """The path of data on this machine; `.beton` files on an address are copied, once.

    Args:
        path: a local path, which is given back; or the address of a `.beton` or a folder of such.
        beside: the folder in which copies are kept, in `fastft-data`.
        on_bytes: told of the progress.
        store: the address's; None opens one.

    Returns:
        `path`, or the copy: a `.beton` or a folder of such.

    Raises:
        DataError: there is no `.beton`, or it cannot be had.
        UsageError: the address is none, or a library is missing.
        OSError: as the system says.
    """
    address = remote_address(path)
    if address is None:
        return path
    store = store or Store(address)
    is_one = name_of(address).lower().endswith(".beton")
    folder = beside / FOLDER / copy_name(address)
    # Looked for first: where there is nothing, no folder is left.
    files = [store.stat(address)] if is_one else _find_betons(store, address)
    if is_one and files[0].is_folder:
        raise DataError(show(address), "is a folder", "a .beton or a folder of such", "")
    with held(folder, waits=True):
        copies = copy_files(store, files, folder, on_bytes)
        wanted = {copy.name for copy in copies}
        for stale in folder.glob("*.beton"):
            if stale.name not in wanted:
                stale.unlink()
    return copies[0] if is_one else folder


def copy_name(address: str) -> str:
    """The name of a folder of copies: what people call the data, and a hash of the address."""
    digest = hashlib.sha256(address.encode("utf-8", "surrogateescape")).hexdigest()[:_DIGITS]
    return f"{name_of(address)[:60] or 'data'}-{digest}"


@contextmanager
def held(folder: Path, *, waits: bool) -> Iterator[None]:
    """Make a folder and hold its lock in this block.

    Args:
        folder: to hold.
        waits: for who holds it, or raise.

    Raises:
        DataError: another process holds it.
        OSError: as the system says.
    """
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with suppress(NoLocks):
                lock(descriptor, folder, waits=waits)
            if not _is_at(descriptor, folder):  # who held it has removed it
                continue
            yield
            return
        finally:
            os.close(descriptor)


def copy_files(
    store: Store,
    files: Sequence[Found],
    folder: Path,
    on_bytes: OnBytes = say_nothing,
    names: Sequence[str] = (),
) -> list[Path]:
    """Copies of files, fetched as far as they are not there already; the folder is held.

    Args:
        store: of the files.
        files: what lies there.
        folder: of the copies.
        on_bytes: told of the progress.
        names: of the copies in it, which may lie in folders; empty: the files' own.

    Raises:
        DataError: one cannot be had.
        OSError: as the system says.
    """
    noted = folder.with_name(f"{folder.name}.json")
    known, copies = _read_notes(noted), []
    for found, name in zip(files, names or [name_of(each.address) for each in files], strict=True):
        copy, version = folder / name, _version(found)
        if not (version and known.get(name) == version and _size(copy) == found.size):
            # Forgotten first: what is noted holds for the file that is there, whatever happens.
            if known.pop(name, None) is not None:
                write_whole(noted, json.dumps(known, indent=1) + "\n")
            fetch_file(found.address, copy, on_bytes, store=store, found=found)
            known[name] = version
            write_whole(noted, json.dumps(known, indent=1) + "\n")
        copies.append(copy)
    return copies


def _find_betons(store: Store, address: str) -> list[Found]:
    """The `.beton` files of a folder.

    Raises:
        DataError: there are none.
    """
    files: list[Found] = []
    if store.scheme.is_web:
        for name in _SPLITS:
            with suppress(Missing):
                files.append(store.stat(join(address, name)))
    else:
        listed = store.children(address)
        files = [each for each in listed if name_of(each.address).lower().endswith(".beton")]
        files = sorted((each for each in files if not each.is_folder), key=lambda f: f.address)
    if not files:
        remedy = f"run fastft convert {show(address)} data first, then name data"
        raise DataError(show(address), "holds no .beton", "train.beton and val.beton", remedy)
    return files


def _version(found: Found) -> str:
    """The noted version of a copy; empty where a store has nothing that tells versions apart."""
    return f"{found.size} {found.version}" if found.version and found.size is not None else ""


def _is_at(descriptor: int, folder: Path) -> bool:
    here = os.fstat(descriptor)
    try:
        there = folder.stat()
    except FileNotFoundError:
        return False
    return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def _read_notes(noted: Path) -> dict[str, str]:
    try:
        known = json.loads(noted.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(known, dict):
        return {}
    return {name: text for name, text in known.items() if isinstance(text, str)}
