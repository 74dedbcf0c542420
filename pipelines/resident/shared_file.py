"""Files that processes of a machine share: one under a name, whoever makes it; locked while in use.

A file begins with a mark and a key, which says what it is of. Where several processes make one at
once they come to agree on it; one that nobody has locked, in `/dev/shm`, is a killed process's.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from pipelines.atomic import temporary_prefix, unguessable
from pipelines.errors import DataError

_MAGIC, _KEY_AT = b"fastftp1", 64
#: Where files lie in memory.
SHM = Path("/dev/shm")
#: How long to wait for another process that is replacing an old file, and how often to look.
_PATIENCE_S, _LOOK_S = 10.0, 0.05


def open_file(path: Path, key: bytes, size: int, whole: bool) -> int:
    """A descriptor of the file with that key, made if need be, with a shared lock on it.

    Args:
        path: the file; its folder is made, too.
        key: what it is of.
        size: bytes of it.
        whole: whether it takes all of its room when it is made; else it is this user's alone.

    Raises:
        DataError: it cannot be made, is something else, or is in use with another key.
    """
    give_up_s = time.monotonic() + _PATIENCE_S
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            _make_file(path, key, size, whole)
            continue
        except OSError as error:
            reason = (error.strerror or "cannot be opened").lower()
            raise DataError(path, reason, "a store file to read and write") from error
        try:
            state = os.fstat(descriptor)
            # Nobody else has a say in what our processes share.
            is_file = stat.S_ISREG(state.st_mode) and (whole or state.st_uid == os.getuid())
            head = os.pread(descriptor, _KEY_AT + len(key), 0) if is_file else b""
            if not head.startswith(_MAGIC):
                raise DataError(path, "is no store file", "one, or nothing", "name another")
            if head[_KEY_AT:] == key and state.st_size == size:
                fcntl.flock(descriptor, fcntl.LOCK_SH)
                if _is_still(path, state):
                    kept, descriptor = descriptor, -1
                    return kept
            else:
                _remove_old(path, descriptor, state, give_up_s)
        finally:
            if descriptor >= 0:
                os.close(descriptor)


def _remove_old(path: Path, descriptor: int, state: os.stat_result, give_up_s: float) -> None:
    """Remove a store of other samples, unless a process is using it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        if time.monotonic() > give_up_s:
            raise DataError(
                path, "is in use with other data or settings", "a store of these", "name another"
            ) from None
        time.sleep(_LOOK_S)
        return
    if _is_still(path, state):
        path.unlink()


def _is_still(path: Path, state: os.stat_result) -> bool:
    """Whether the path leads to the file that was opened."""
    try:
        now = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return (now.st_ino, now.st_dev) == (state.st_ino, state.st_dev)


def _make_file(path: Path, key: bytes, size: int, whole: bool) -> None:
    """Make an empty store, whole or not at all; another process may be faster."""
    temporary, prefix = None, unguessable(temporary_prefix(path))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=prefix)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH)  # nobody's leavings
            os.pwrite(descriptor, _MAGIC.ljust(_KEY_AT, b"\0") + key, 0)
            os.ftruncate(descriptor, size)
            if whole:
                os.posix_fallocate(descriptor, 0, size)
            with suppress(FileExistsError, FileNotFoundError):  # look again
                os.link(temporary, path)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise no_room(path, error, size) from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


def no_room(path: Path, error: OSError, size: int) -> DataError:
    """The error to raise where `size` bytes could not be had for a file."""
    if error.errno != errno.ENOSPC:
        reason = (error.strerror or "cannot be made").lower()
        return DataError(path, reason, "a file to make")
    state = os.statvfs(path.parent)
    free = state.f_bavail * state.f_frsize
    return DataError(
        path,
        f"{free / 1e9:.2f} GB are free",
        f"room for {size / 1e9:.2f} GB",
        "free some, name another place, or take --store yuv420",
    )


def own_prefix() -> str:
    """The prefix of this user's files in memory."""
    return f"fastft-{os.getuid()}-"


def sweep(prefix: str) -> None:
    """Remove what processes of ours that were killed have left behind."""
    for path in [*SHM.glob(f"{prefix}*"), *SHM.glob(f".{prefix}*")]:
        remove_unused(path)


def remove_unused(path: Path) -> None:
    """Remove a file of ours that no process has."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:  # another one was faster, or it is not ours
        return
    try:
        state = os.fstat(descriptor)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if state.st_uid == os.getuid() and _is_still(path, state):
            path.unlink(missing_ok=True)
    except BlockingIOError:  # somebody has it
        pass
    finally:
        os.close(descriptor)
