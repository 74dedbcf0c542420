"""The unfinished file of a download: locked, hashed while it grows, kept for the next attempt.

Knows the `.part`, the sidecar that tells what it is a part of, and room on the disk; nothing of
HTTP but the two fields that name a file's version.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pipelines.atomic import open_to_others, write_whole
from pipelines.errors import DataError

#: Called with what is being done, bytes done and, where known, bytes in all.
Report = Callable[[str, int, "int | None"], None]
#: Bytes per read and write: a few hundred system calls for a data set of 100 MB.
CHUNK = 1 << 18


@dataclass(frozen=True, kw_only=True, slots=True)
class Digests:
    """Hashes of a file, as hex digits."""

    sha1: str
    sha256: str


class Headers(Protocol):
    """The fields of an answer's header."""

    def get(self, name: str, /) -> Any:
        """The field of that name, or None."""


class Part:
    """`NAME.part`, locked, and `NAME.part.json`, which tells what it is a part of.

    Use as a context manager: an empty part is removed on leaving, any other stays for next time.

    Attributes:
        path: the unfinished file.
        size: how many of its bytes are of use.
        received: bytes appended since it was opened.
        total: bytes of the whole file, if the server told.
        validator: ETag or Last-Modified of the file on the server; without one, no resuming.
    """

    def __init__(self, target: Path, origin: str, report: Report) -> None:
        """Open what an earlier attempt left, or begin anew.

        Args:
            target: the name of the whole file.
            origin: what tells the file's address from others.
            report: called while hashing what is there.

        Raises:
            DataError: another process is at it, or the file is not of this command's making.
            OSError: as the system says.
        """
        self.path = target.with_name(f"{target.name}.part")
        self._target, self._origin = target, origin
        self._sidecar = target.with_name(f"{target.name}.part.json")
        self.received = 0
        self.forget()
        self._file = open(self.path, "a+b", buffering=0, opener=_open_no_link)
        try:
            self._lock()
            self._recall(report)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Part:
        return self

    def __exit__(self, *error: object) -> None:
        is_empty = not os.fstat(self._file.fileno()).st_size
        self._file.close()
        if is_empty:
            self.discard()

    @property
    def digests(self) -> Digests:
        """Hashes of what has come."""
        return self._hashes.digests

    def forget(self) -> None:
        """Ask for all of the file; what is there stays until the first byte of that comes."""
        self._hashes = _Hashes()
        self.size = 0
        self.total: int | None = None
        self.validator = ""

    def begin(self, headers: Headers, total: int | None) -> None:
        """Drop what is there for a file that is just coming, whole."""
        self.forget()
        self.total = total
        tags = (headers.get("ETag") or "", headers.get("Last-Modified") or "")
        self.validator = next(filter(_is_validator, tags), "")
        # Before the sidecar: never may it vouch for bytes of another file.
        self._file.truncate(0)
        text = {"origin": self._origin, "validator": self.validator, "total": total}
        write_whole(self._sidecar, json.dumps(text) + "\n")

    def write(self, block: bytes) -> None:
        """Append, and hash what was appended."""
        while block:
            written = self._file.write(block)
            self._count(block[:written])
            self.received += written
            block = block[written:]

    def agrees(self, headers: Headers, total: str) -> bool:
        """Whether an answer is about the file that this is a part of."""
        named = (headers.get("ETag"), headers.get("Last-Modified"))
        same = self.validator in named or not any(named)
        return same and (total == "*" or self.total is None or self.total == int(total))

    def publish(self) -> None:
        """Give the file its name."""
        os.fsync(self._file.fileno())
        open_to_others(self._file.fileno())
        os.replace(self.path, self._target)
        self._sidecar.unlink(missing_ok=True)

    def discard(self) -> None:
        """Remove the file and its sidecar."""
        self.path.unlink(missing_ok=True)
        self._sidecar.unlink(missing_ok=True)

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(self.path, "another fetch is writing it", "", "let it end") from None
        except OSError:  # a network's file system without locks
            pass

    def _recall(self, report: Report) -> None:
        """Take up what an earlier attempt left."""
        left_bytes = os.fstat(self._file.fileno()).st_size
        if not left_bytes:
            return
        try:
            known = json.loads(self._sidecar.read_text())
            origin, validator, total = (known[key] for key in ("origin", "validator", "total"))
        except (FileNotFoundError, ValueError, TypeError, KeyError, RecursionError):
            # Another program's, perhaps: browsers call theirs so, too.
            raise DataError(
                self.path, "not left by fastft fetch", "nothing of that name", "remove it"
            ) from None
        if origin != self._origin or not _is_validator(validator):
            return
        self.validator, self.total = validator, total if isinstance(total, int) else None
        self._file.seek(0)
        while block := self._file.read(CHUNK):
            self._count(block)
            report("checking", self.size, left_bytes)
        if self.total is not None and self.size > self.total:
            self.forget()

    def _count(self, block: bytes) -> None:
        self._hashes.update(block)
        self.size += len(block)


class _Hashes:
    """Both kinds at once: a later run that finds the data unpacked may be given either."""

    def __init__(self) -> None:
        self._sha1, self._sha256 = hashlib.sha1(usedforsecurity=False), hashlib.sha256()

    def update(self, block: bytes) -> None:
        self._sha1.update(block)
        self._sha256.update(block)

    @property
    def digests(self) -> Digests:
        return Digests(sha1=self._sha1.hexdigest(), sha256=self._sha256.hexdigest())


def hash_file(path: Path, report: Report) -> Digests:
    """Hashes of a whole file."""
    hashes, done, total = _Hashes(), 0, path.stat().st_size
    with path.open("rb") as file:
        while block := file.read(CHUNK):
            hashes.update(block)
            done += len(block)
            report("checking", done, total)
    return hashes.digests


def require_space(folder: Path, need_bytes: int) -> None:
    """Refuse what would not fit.

    Raises:
        DataError: the disk has fewer bytes free.
    """
    free_bytes = shutil.disk_usage(folder).free
    if need_bytes > free_bytes:
        raise DataError(
            folder,
            f"{free_bytes / 1e6:,.1f} MB free on the disk",
            f"{need_bytes / 1e6:,.1f} MB",
            "free some or name a folder on another disk",
        )


def _open_no_link(path: str, flags: int) -> int:
    """Open or make a file of this user's alone, until it is whole."""
    file = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
    state = os.fstat(file)
    if not stat.S_ISREG(state.st_mode) or state.st_uid != os.geteuid():
        os.close(file)
        raise DataError(path, "is no file of this user's", "nothing of that name", "remove it")
    return file


def _is_validator(text: object) -> bool:
    """Whether If-Range may carry it: weak tags do not promise the same bytes."""
    return (
        isinstance(text, str)
        and text != ""
        and text.isascii()
        and text.isprintable()
        and not text.startswith("W/")
    )
