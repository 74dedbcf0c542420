"""The members of an uncompressed tar: what they are called, and where their bytes are.

`tarfile` reads the headers, through a window that bounds what a header may ask for. No name leaves
the folder that the tar is unpacked to, no size reaches beyond the file, and what is neither a file
nor a folder is kept with the reason why it cannot be read.

Source: POSIX pax and ustar interchange formats; for the fears, CVE-2019-20907, CVE-2024-6232 and
CVE-2025-8194.
"""

from __future__ import annotations

import os
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from pipelines.errors import FormatError
from pipelines.formats.folder import MAX_DEPTH

_BLOCK = tarfile.BLOCKSIZE
#: First bytes of a compressed tar -> the compression's name, and the command that undoes it.
_COMPRESSED = {
    b"\x1f\x8b": ("gzip", "gunzip"),
    b"BZh": ("bzip2", "bunzip2"),
    b"\xfd7zXZ": ("xz", "unxz"),
    b"\x28\xb5\x2f\xfd": ("Zstandard", "unzstd"),
}
#: Bytes of the file read at once: of photos little more than the headers. CPU seconds to list
#: 100,000 members of 100 bytes and 20,000 of 44 KB, on a busy 2-core VM: 5.2 and 1.0 with 4 KiB,
#: 4.7 and 1.0 with 16 KiB, 4.4 and 1.1 with 64 KiB. All but a tenth of it is tarfile's.
_WINDOW_BYTES = 1 << 14
#: Headers that name a member or say more of it (pax, GNU) are at most so long.
_MOST_HEADER_BYTES = 1 << 18
#: Global pax fields of a tar at most: each member's header is given a copy.
_MOST_GLOBALS = 100
#: More digits than any number has; an older tarfile takes time with the square of them.
_MANY_DIGITS = re.compile(rb"[0-9]{256}")
#: Behind the end tar writes zeros, 10 KiB as it comes, up to 1 MiB where it is told to.
_MOST_PADDING_BYTES = 1 << 20
_REDO = "make the tar anew"
_DAMAGE = (tarfile.TarError, OSError, ValueError, IndexError, OverflowError, RecursionError)


@dataclass(frozen=True, slots=True)
class Member:
    """A file in a tar.

    Attributes:
        name: relative and plain, `/`-separated.
        at: where its bytes begin.
        size: bytes.
        unreadable: why its bytes cannot be had; empty: they can.
    """

    name: str
    at: int
    size: int
    unreadable: str = ""


def read_members(path: Path, file: int, size: int) -> Iterator[Member]:
    """The files in a tar, in order; folders are left out.

    Args:
        path: the tar, as errors name it.
        file: its descriptor.
        size: bytes.

    Raises:
        FormatError: it is no tar, compressed, cut short or damaged, or a member's name is no plain
            relative path.
    """
    _require_plain(path, os.pread(file, _BLOCK, 0))
    window = _Window(file)
    place = 0
    try:
        tar = tarfile.open(  # nothing of it is to be closed
            fileobj=cast(IO[bytes], window),
            mode="r:",
            encoding="utf-8",
            errors="surrogateescape",
            tarinfo=_Header,
        )
        while (info := tar.next()) is not None:
            cast(Any, tar).members = []  # a tar of millions would fill the memory with them
            if info.size < 0 or tar.offset <= place or len(tar.pax_headers) > _MOST_GLOBALS:
                raise tarfile.ReadError(f"an impossible header at byte {place}")
            beyond = info.isreg() and not info.issparse() and info.offset_data + info.size > size
            if beyond:
                raise tarfile.ReadError(f"{info.name[:200]!r} reaches beyond its end at {size:,}")
            place = tar.offset
            if not info.isdir() and (name := _plain(path, info.name)):
                yield Member(name, info.offset_data, info.size, _why_unreadable(info))
    except _DAMAGE as error:
        found = f"cannot be read as a tar ({_say(error)})"
        raise FormatError(path, found, "a whole tar", f"fetch it, or {_REDO}") from error
    _require_end(path, file, tar.offset, size)


def _require_plain(path: Path, head: bytes) -> None:
    for magic, (name, command) in _COMPRESSED.items():
        if head.startswith(magic):
            remedy = f"run {command} on it"
            raise FormatError(path, f"is compressed by {name}", "a tar that is not", remedy)


def _require_end(path: Path, file: int, at: int, size: int) -> None:
    """Raise FormatError unless zeros stand where members end, and nothing behind them.

    tarfile takes a damaged header for the end, as it does a file's; and of tars put one behind the
    other it sees the first.
    """
    end = os.pread(file, min(size - at, _MOST_PADDING_BYTES), at)
    if len(end) < _BLOCK or end[:_BLOCK].strip(b"\0"):
        found = f"cut short, or a damaged header, at byte {at:,}"
    elif end.strip(b"\0") or size - at > _MOST_PADDING_BYTES:
        found = f"goes on behind its end at byte {at:,}"
    else:
        return
    raise FormatError(path, found, "one whole tar", f"fetch it, or {_REDO}")


def _plain(path: Path, name: str) -> str:
    """A member's name, without what `tar` puts before names; empty for the folder itself."""
    parts = name.split("/")
    while parts and parts[0] == ".":
        parts = parts[1:]
    odd = "\\" in name or "\0" in name or len(parts) > MAX_DEPTH
    if odd or any(part in ("", ".", "..") for part in parts):
        found = f"has a member named {name[:200]!r}"
        raise FormatError(path, found, "plain relative names", _REDO)
    return "/".join(parts)


def _why_unreadable(info: tarfile.TarInfo) -> str:
    if info.issym() or info.islnk():
        return "is a link, which is not followed in a tar"
    if not info.isreg():
        return "is no plain file but a device, a pipe or the like"
    return "is stored with holes (sparse)" if info.issparse() else ""


class _Header(tarfile.TarInfo):
    """A member's header, which is refused where tarfile would pass over it.

    Since the mending of CVE-2025-8194 a size below zero, in pax as well, is an invalid header to
    tarfile; behind another it takes that for the end of the tar, or goes on with the next member.
    """

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> _Header:
        """The header that comes next; see tarfile."""
        start = tar.offset
        try:
            return super().fromtarfile(tar)
        except tarfile.HeaderError as error:
            if tar.offset != start or str(error) == "invalid offset":
                raise tarfile.ReadError(f"an impossible header at byte {start}") from error
            raise


class _Window:
    """A file as tarfile reads one: by small pieces, from a descriptor that others share."""

    def __init__(self, file: int) -> None:
        self._file, self._at, self._start, self._bytes = file, 0, 0, b""

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _MOST_HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {size:,} bytes")
        begin = self._at - self._start
        if begin < 0 or begin + size > len(self._bytes):
            self._bytes = os.pread(self._file, max(size, _WINDOW_BYTES), self._at)
            self._start, begin = self._at, 0
        block = self._bytes[begin : begin + size]
        if _MANY_DIGITS.search(block):
            raise tarfile.ReadError("a header full of digits")
        self._at += len(block)
        return block

    def seek(self, at: int) -> int:
        if at < 0:
            raise tarfile.ReadError("a header that leads out of the file")
        self._at = at
        return at

    def tell(self) -> int:
        return self._at


def _say(error: BaseException) -> str:
    return str(error)[:300] or type(error).__name__
