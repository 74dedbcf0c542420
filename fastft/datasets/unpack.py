"""Archives of others, unpacked without trusting them: zip, and tar as such or compressed.

Knows which members an archive may have and writes them into a folder that it makes. All names,
kinds and declared sizes are looked at before the first byte is written, and no file gets more
bytes than were declared for it. Links are never made, so no path can lead out of the folder.
A compressed tar is decompressed twice for that. Where the folder goes is `fetch`'s.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import IO, Any, cast

from fastft.datasets.part import CHUNK, Report, require_space
from pipelines.errors import FormatError

#: How what can hold a tar begins -> what opens it.
_COMPRESSED: tuple[tuple[bytes, Callable[[Path], Any]], ...] = (
    (rb"\x1f\x8b\x08", gzip.open),
    (rb"BZh[1-9]1AY&SY", bz2.open),
    (rb"\xfd7zXZ\x00", lambda path: io.BufferedReader(_Xz(path), CHUNK)),
)
_Open = Callable[[], "IO[bytes] | None"]
#: What a folder is marked with that was unpacked whole.
MARKER = ".fastft-fetch.json"
_BLOCK = tarfile.BLOCKSIZE
#: What file systems commonly give out at once: the least that a file takes up.
_CLUSTER = 4096
# ILSVRC 2012 has 1.3 million images; a list of very many members exhausts memory.
_MOST_MEMBERS = 4_000_000
#: Half of what Linux takes: the folder's own path comes before.
_MOST_NAME_BYTES = 2048
# The other methods of zip decompress a block to any length at once; nobody packs photos by them.
_ZIP_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ENCRYPTED = 0x41  # flag bits 0 and 6
#: What photos are not packed to. A small archive may be: it unpacks within seconds.
_MOST_TIMES, _SMALL_BYTES = 200, 1 << 30
#: Memory for unpacking an xz, which asks for what it likes: `xz -9` for 65 MB.
_MOST_XZ_BYTES = 256 << 20
#: More digits than any number or name in a tar's header has. Source of the fear: CVE-2024-6232,
#: an older Python's tarfile takes time with the square of their number.
_MANY_DIGITS = re.compile(rb"[0-9]{256}")
_REMEDY = "look for another source of this archive"
#: What the libraries raise at hostile or damaged input.
_DAMAGE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    OSError,
    ValueError,
    IndexError,
    OverflowError,
    RuntimeError,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """A file or folder of an archive; `open` gives its bytes."""

    name: str
    size_bytes: int
    is_folder: bool
    open: _Open


@dataclass(frozen=True, kw_only=True, slots=True)
class Archive:
    """An open archive, all of whose members may be written.

    Attributes:
        label: what messages call it.
        members: without what macOS adds of its own.
    """

    label: Path
    members: list[Member]

    @property
    def files(self) -> int:
        """The number of files in it."""
        return sum(not member.is_folder for member in self.members)

    @property
    def top(self) -> str | None:
        """The one visible folder that all members are in, or None."""
        tops = {member.name.partition("/")[0] for member in self.members}
        loose = any("/" not in member.name for member in self.members if not member.is_folder)
        top = min(tops)
        return None if loose or len(tops) > 1 or top.startswith(".") else top

    def write(self, root: Path, report: Report) -> None:
        """Make the folder `root`, and all members in it.

        Raises:
            DataError: the disk has no room.
            FormatError: a member is damaged, or cannot be named on this disk.
            OSError: as the system says.
        """
        clusters = sum(member.size_bytes // _CLUSTER + 1 for member in self.members)
        require_space(root.parent, clusters * _CLUSTER)
        root.mkdir()
        made, done = {root}, 0
        total = sum(member.size_bytes for member in self.members)
        for member in self.members:
            path = root / member.name
            folder = path if member.is_folder else path.parent
            try:
                if folder not in made:
                    folder.mkdir(parents=True, exist_ok=True)
                    made.add(folder)
                if member.is_folder:
                    continue
                file = path.open("xb")
            except (FileExistsError, ValueError) as error:  # on a disk that ignores case, say
                raise _refuse(self.label, member.name, f"cannot be named here ({error})") from error
            with file:
                for block in self._blocks(member):
                    file.write(block)
                    done += len(block)
                    report("unpacking", done, total)

    def _blocks(self, member: Member) -> Iterator[bytes]:
        """A file's bytes, not one more or less than declared."""
        left = member.size_bytes
        try:
            source = member.open()
            assert source is not None  # which tarfile says of folders and links
            with source:
                # One byte more than is left: zipfile compares checksums even of an empty file then.
                while block := source.read(min(CHUNK, left + 1)):
                    left -= len(block)
                    if left < 0:
                        break
                    yield block
        except _DAMAGE as error:
            raise _refuse(self.label, member.name, f"damaged ({_say(error)})") from error
        if left:
            raise _refuse(self.label, member.name, "not as long as declared")


@contextmanager
def open_archive(path: Path, label: Path) -> Iterator[Archive | None]:
    """Open what is an archive by its content; gives None for any other file.

    A zip or gzip that holds no data set but is one file to its readers (a model of torch, arrays
    of NumPy) is no archive here.

    Args:
        path: the file.
        label: what to call it in messages.

    Raises:
        FormatError: it is damaged, empty, or has a member that must not be written.
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(_BLOCK)
    with ExitStack() as stack:
        try:
            members = _list_members(path, head, stack, label)
        except _DAMAGE as error:
            raise FormatError(label, f"damaged archive ({_say(error)})", "", _REMEDY) from error
        if members is None:
            yield None
        elif all(member.is_folder for member in members):
            raise FormatError(label, "an archive without files", "images", _REMEDY)
        else:
            yield Archive(label=label, members=members)


def _list_members(path: Path, head: bytes, stack: ExitStack, label: Path) -> list[Member] | None:
    if head.startswith((b"PK\3\4", b"PK\5\6")):
        archive = stack.enter_context(zipfile.ZipFile(path))
        if _is_one_file(archive.namelist()):
            return None
        return _check_tree(label, _zip_members(archive, label))
    opened = next((o for begin, o in _COMPRESSED if re.match(begin, head)), None)
    stream = stack.enter_context(path.open("rb") if opened is None else opened(path))
    try:
        tarfile.TarInfo.frombuf(stream.read(_BLOCK), tarfile.ENCODING, "surrogateescape")
    except tarfile.HeaderError:
        return None
    stream.seek(0)
    most_bytes = max(_SMALL_BYTES, _MOST_TIMES * path.stat().st_size) if opened else None
    reader = _Bounded(stream, most_bytes)
    tar = stack.enter_context(tarfile.open(fileobj=cast(IO[bytes], reader), mode="r:"))
    members = _check_tree(label, _tar_members(tar, label))
    # tarfile takes a damaged header, or none, for the end; and a stream's checksum comes last.
    reader.seek(tar.offset)
    if reader.read(_BLOCK) != bytes(_BLOCK):
        raise tarfile.ReadError("cut short, or a broken header")
    reader.is_listing = False
    while reader.read(CHUNK):
        pass
    return members


def _zip_members(archive: zipfile.ZipFile, label: Path) -> Iterator[Member]:
    for info in archive.infolist():
        name = info.orig_filename  # `filename` ends at the first NUL
        if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise _refuse(label, name, "a link or device")
        if info.flag_bits & _ENCRYPTED:
            raise _refuse(label, name, "encrypted")
        if info.compress_type not in _ZIP_METHODS:
            raise _refuse(label, name, f"compressed by method {info.compress_type}")
        is_folder = name.endswith("/")
        size = 0 if is_folder else info.file_size
        opened = cast(_Open, partial(archive.open, info))
        yield Member(name=name, size_bytes=size, is_folder=is_folder, open=opened)


def _tar_members(tar: tarfile.TarFile, label: Path) -> Iterator[Member]:
    # Python's own rules on top of ours, where it has them; any folder will do, none being there.
    also_check = getattr(tarfile, "data_filter", lambda info, folder: info)
    for info in tar:
        if not (info.isreg() or info.isdir()):
            kind = "a link" if info.issym() or info.islnk() else "a device or the like"
            raise _refuse(label, info.name, kind)
        if info.size < 0:  # which leads tarfile back to where it was
            raise _refuse(label, info.name, "a size below zero")
        size, opened = 0 if info.isdir() else info.size, partial(tar.extractfile, info)
        yield Member(name=info.name, size_bytes=size, is_folder=info.isdir(), open=opened)
        also_check(info, f"{label}.unpacked")  # what has passed our own rules


def _check_tree(label: Path, members: Iterable[Member]) -> list[Member]:
    """Members to write; refuses any that could leave the folder or meet another."""
    seen: dict[str, Member] = {}
    for member in members:
        reason = _find_fault(member.name)
        if reason is not None:
            raise _refuse(label, member.name, reason)
        name = "/".join(part for part in member.name.split("/") if part not in ("", "."))
        if not name and member.is_folder:  # "./", the folder itself
            continue
        earlier = seen.get(name)
        if not name or (earlier is not None and not (earlier.is_folder and member.is_folder)):
            raise _refuse(label, member.name, "two of that name" if name else "no name")
        if len(seen) == _MOST_MEMBERS:
            raise _refuse(label, member.name, f"more than {_MOST_MEMBERS:,} members")
        seen[name] = replace(member, name=name)
    for name in seen:
        for i, character in enumerate(name):
            if character == "/" and name[:i] in seen and not seen[name[:i]].is_folder:
                raise _refuse(label, name[:i], "both a file and a folder")
    return [member for member in seen.values() if not _is_junk(member.name)]


def _find_fault(name: str) -> str | None:
    parts = name.split("/")
    if name.startswith("/"):
        return "an absolute name"
    if ".." in parts:
        return "leads out of the folder"
    if "\\" in name or "\0" in name or any(re.match("[A-Za-z]:", part) for part in parts):
        return "a backslash, a drive letter or a NUL in its name"
    if len(os.fsencode(name)) > _MOST_NAME_BYTES or max(map(len, map(os.fsencode, parts))) > 255:
        return "a name too long for the disk"
    return None


def _is_junk(name: str) -> bool:
    """Whether it is macOS's, or what a fetched folder was marked with before it was packed."""
    parts = name.split("/")
    return "__MACOSX" in parts or parts[-1].startswith("._") or parts[-1] in (".DS_Store", MARKER)


def _is_one_file(names: list[str]) -> bool:
    """Whether a zip is what torch.save, torch.jit.save or numpy.savez write."""
    inner = {name.partition("/")[2] for name in names}
    is_torch = "version" in inner and bool(inner & {"data.pkl", "constants.pkl"})
    is_numpy = all(re.fullmatch(r"[^/]+\.npy", name) for name in names)
    return is_torch or (is_numpy and bool(names))


class _Xz(io.RawIOBase):
    """The content of an xz file, in no more memory than is given; `lzma.open` gives 4 GiB."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._file = path.open("rb")
        self._decoder, self._position = _make_xz_decoder(), 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, target: Any) -> int:
        block = b""
        while not block:
            packed = b""
            if self._decoder.eof:  # others may follow it, and zeros that fill up
                packed = self._decoder.unused_data.lstrip(b"\0") or self._file.read(CHUNK)
                if not packed:
                    return 0
                if not packed.strip(b"\0"):
                    continue
                self._decoder = _make_xz_decoder()
            elif self._decoder.needs_input:
                packed = self._file.read(CHUNK)
                if not packed:
                    raise EOFError("cut short")
            block = self._decoder.decompress(packed, len(target))
        target[: len(block)] = block
        self._position += len(block)
        return len(block)

    def seek(self, position: int, whence: int = os.SEEK_SET) -> int:
        if whence == os.SEEK_SET and position < self._position:
            self._file.seek(0)
            self._decoder, self._position = _make_xz_decoder(), 0
        while whence == os.SEEK_SET and position > self._position:
            if not self.read(min(CHUNK, position - self._position)):
                break
        return self._position

    def close(self) -> None:
        self._file.close()
        super().close()


def _make_xz_decoder() -> lzma.LZMADecompressor:
    return lzma.LZMADecompressor(lzma.FORMAT_XZ, _MOST_XZ_BYTES)


class _Bounded:
    """A stream that is read in small pieces: a tar's headers declare their length themselves.

    Attributes:
        is_listing: whether it is headers that are read.
    """

    def __init__(self, stream: IO[bytes], most_bytes: int | None) -> None:
        """Read no further than `most_bytes`, if given: what is packed may be without end."""
        self._stream, self._most_bytes = stream, most_bytes
        self.is_listing = True

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= CHUNK + 1:
            raise tarfile.ReadError(f"a header of {size:,} bytes")
        block = self._stream.read(size)
        self._check(self._stream.tell())
        if self.is_listing and _MANY_DIGITS.search(block):
            raise tarfile.ReadError("a header full of digits")
        return block

    def seek(self, position: int) -> int:
        self._check(position)
        return self._stream.seek(position)

    def _check(self, position: int) -> None:
        if self._most_bytes is not None and position > self._most_bytes:
            raise tarfile.ReadError(f"unpacks to more than {self._most_bytes:,} bytes")

    def tell(self) -> int:
        return self._stream.tell()


def _refuse(label: Path, name: str, found: str) -> FormatError:
    return FormatError(
        label, f"{name[:200]}: {found}", "plain files and folders below one", _REMEDY
    )


def _say(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error)[:200] or type(error).__name__
