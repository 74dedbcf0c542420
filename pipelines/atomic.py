"""Files that appear whole or not at all.

Until then they are temporary files, locked while their process lives: what can be locked was left
behind by one that was killed, and goes when the same file is written next.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import stat
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

Opened = TypeVar("Opened", bound="AtomicFile")
#: What tells temporary files that stand alone from those that a journal is of, which are kept.
_SUFFIX = ".tmp"
_TOKEN_BYTES = 16
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_OPEN = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class AtomicFile:
    """A temporary file beside `path` that takes its place when published.

    Use as a context manager; leaving the block unpublished removes the file. Until then it is
    private to its owner and bears a name that nobody can guess.

    Attributes:
        path: the final place.
        descriptor: the open file, for reading and writing.
    """

    def __init__(self, path: Path, temporary: Path | None = None) -> None:
        """Create the temporary file, and the folder if there is none; remove what was left behind.

        Args:
            path: the final place.
            temporary: the temporary file, one that nobody can guess; what an earlier process has
                left there is kept. None takes a new one.

        Raises:
            OSError: as the system says.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        _sweep(path)
        if temporary is None:
            self.descriptor, temporary = make_locked(path, _SUFFIX)
        else:
            self.descriptor = os.open(temporary, _OPEN | os.O_CREAT, 0o600)
        self._temporary: Path | None = temporary

    def write(self, content: bytes | memoryview) -> None:
        """Write all of `content`.

        Raises:
            OSError: as the system says.
        """
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(self.descriptor, rest) :]

    def publish(self) -> None:
        """Force the content to disk and rename the file into place.

        Raises:
            OSError: as the system says; then `path` is as it was.
        """
        assert self._temporary is not None
        os.fsync(self.descriptor)
        open_to_others(self.descriptor)
        os.replace(self._temporary, self.path)
        self._temporary = None
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # the new name, too, must survive a power cut
        finally:
            os.close(folder)

    def leave(self) -> None:
        """Leave the temporary file where it is."""
        self._temporary = None

    def __enter__(self: Opened) -> Opened:
        return self

    def __exit__(self, kind: object, error: object, *trace: object) -> None:
        # Of a disk that is full the system does not say which file did not fit.
        if isinstance(error, OSError) and error.errno in _FULL:
            error.filename, error.filename2 = str(self.path), None
        if self._temporary is not None:
            # Gone with its folder, perhaps; what cannot be removed now will be by the next writer.
            with suppress(OSError):
                os.unlink(self._temporary)
        os.close(self.descriptor)


def temporary_prefix(path: Path) -> str:
    """The prefix of the names of `path`'s temporary files."""
    return f".{path.name[:40]}."


def unguessable(prefix: str) -> str:
    """A prefix for `tempfile`, whose own names are 41 bits of what can be predicted."""
    return f"{prefix}{secrets.token_hex(_TOKEN_BYTES)}."


def make_locked(path: Path, suffix: str) -> tuple[int, Path]:
    """Make a temporary file of `path`, private to its owner and locked; its descriptor and name.

    Raises:
        OSError: as the system says.
    """
    while True:
        token = secrets.token_hex(_TOKEN_BYTES)
        name = path.with_name(f"{temporary_prefix(path)}{token}{suffix}")
        descriptor = os.open(name, _OPEN | os.O_CREAT | os.O_EXCL, 0o600)
        with suppress(OSError):  # some network disks have no locks; then nobody takes it for left
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:
            return descriptor, name
        os.close(descriptor)  # before it was locked, somebody took it for left behind


def open_left(path: Path) -> int | None:
    """Open and lock a temporary file that was left behind; None if it is in use, or none of ours.

    A file of ours is a plain one that this user owns; a link is not followed.
    """
    try:
        if not _is_ours(os.lstat(path)):
            return None
        descriptor = os.open(path, _OPEN)
    except OSError:  # gone by now, or not ours to open
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _is_ours(os.fstat(descriptor)):
            return descriptor
    except OSError:  # its process lives, or there are no locks
        pass
    os.close(descriptor)
    return None


def _is_ours(state: os.stat_result) -> bool:
    return stat.S_ISREG(state.st_mode) and state.st_uid == os.geteuid()


def _sweep(path: Path) -> None:
    """Remove the temporary files of `path` that processes have left that were killed."""
    token = f"[0-9a-f]{{{2 * _TOKEN_BYTES}}}"
    ours = re.compile(re.escape(temporary_prefix(path)) + token + re.escape(_SUFFIX))
    with suppress(OSError):  # a folder that may be written to, but not listed
        for name in filter(ours.fullmatch, os.listdir(path.parent)):
            left = path.with_name(name)
            if (descriptor := open_left(left)) is not None:
                with suppress(OSError):
                    os.unlink(left)
                os.close(descriptor)


def write_whole(path: Path, text: str) -> None:
    """Write a text file whole or not at all.

    Raises:
        OSError: as the system says.
    """
    with AtomicFile(path) as file:
        file.write(text.encode())
        file.publish()


def open_to_others(descriptor: int) -> None:
    """Give a file that was private the permissions of any other new one."""
    mask = os.umask(0)  # the system tells it only by setting it
    os.umask(mask)
    os.fchmod(descriptor, 0o666 & ~mask)
