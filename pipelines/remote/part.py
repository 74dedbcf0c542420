"""The unfinished file of a download: `NAME.part`, locked, beside it what it is a part of.

It stays when a download is interrupted, and the next one of the same version continues it.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import stat
from contextlib import suppress
from pathlib import Path

from pipelines.atomic import open_to_others, write_whole
from pipelines.errors import DataError
from pipelines.remote.store import Found


class Part:
    """The unfinished file of a target.

    Use as a context manager: an empty part is removed on leaving, any other stays for next time.

    Attributes:
        path: the file.
        size: how many of its bytes are of use.
    """

    def __init__(self, target: Path, found: Found) -> None:
        """Open what an earlier attempt left of this version, or begin anew.

        Args:
            target: the name of the whole file.
            found: what is being fetched.

        Raises:
            DataError: another process is at it, or the file is no such part.
            OSError: as the system says.
        """
        self.path = target.with_name(f"{target.name}.part")
        self._target = target
        self._sidecar = target.with_name(f"{target.name}.part.json")
        self._told = _tell(found)
        self.size = 0
        self._file = _open_no_link(self.path)
        try:
            with suppress(NoLocks):
                lock(self._file, self.path, waits=False)
            left = os.fstat(self._file).st_size
            can_go_on = found.version and found.size is not None and left <= found.size
            if left and can_go_on and _read(self._sidecar) == self._told:
                self.size = left
        except BaseException:
            os.close(self._file)
            raise

    def __enter__(self) -> Part:
        return self

    def __exit__(self, *error: object) -> None:
        is_empty = not os.fstat(self._file).st_size
        os.close(self._file)
        if is_empty:
            self.discard()

    def begin(self) -> None:
        """Drop what is there, unless it is of use."""
        if not self.size:
            # Before the sidecar: never may it vouch for bytes of another version.
            os.ftruncate(self._file, 0)
            write_whole(self._sidecar, json.dumps(self._told) + "\n")

    def restart(self) -> None:
        """Drop all that is there."""
        self.size = 0
        os.ftruncate(self._file, 0)

    def write(self, block: bytes) -> None:
        """Append."""
        rest = memoryview(block)
        while rest:
            written = os.pwrite(self._file, rest, self.size)
            self.size += written
            rest = rest[written:]

    def publish(self) -> None:
        """Give the file its name."""
        os.ftruncate(self._file, self.size)
        os.fsync(self._file)
        open_to_others(self._file)
        os.replace(self.path, self._target)
        self._sidecar.unlink(missing_ok=True)

    def discard(self) -> None:
        """Remove the file and what is told of it."""
        self.path.unlink(missing_ok=True)
        self._sidecar.unlink(missing_ok=True)


class NoLocks(Exception):
    """A network's file system without locks."""


def _tell(found: Found) -> dict[str, object]:
    """The identity of one version of one address; hashed, as an address may hold a password."""
    address = hashlib.sha256(found.address.encode("utf-8", "surrogateescape")).hexdigest()
    return {"address_sha256": address, "size": found.size, "version": found.version}


def _read(sidecar: Path) -> object:
    """The notes about a part; None where there are none."""
    try:
        return json.loads(sidecar.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def lock(descriptor: int, path: Path, *, waits: bool) -> None:
    """Hold the lock of a file or folder as long as it is open here.

    Raises:
        DataError: another process holds it, and this one is not to wait.
        NoLocks: there are none there.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if waits else fcntl.LOCK_NB))
    except BlockingIOError:
        raise DataError(path, "another process is at it", "", "let it end") from None
    except OSError as error:
        raise NoLocks from error


def _open_no_link(path: Path) -> int:
    """Open or make a file of this user's alone, until it is whole."""
    flags = os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC
    file = os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    state = os.fstat(file)
    if not stat.S_ISREG(state.st_mode) or state.st_uid != os.geteuid():
        os.close(file)
        raise DataError(path, "is no file of this user's", "nothing of that name", "remove it")
    return file
