"""The journal of a conversion, from which one that was killed is resumed.

Beside a conversion's temporary file lies its journal: what is converted, then an entry for each
sample in order. Both stay when the process is killed. Of a power cut either may have lost its end,
so no entry is believed before the bytes it speaks of have been held against its CRC-32.

A journal is there before the temporary file and as long as that is, and locked while its process
lives: what can be locked was left behind.

An error and Ctrl-C leave neither. What ends a process otherwise leaves both: `kill -9`, the SIGTERM
by which schedulers take a machine away, the SIGHUP of a lost terminal.
"""

from __future__ import annotations

import glob
import hashlib
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pipelines.atomic import make_locked, open_left, temporary_prefix
from pipelines.conversion.outputs import open_writer, opening
from pipelines.errors import UsageError
from pipelines.formats.beton_writer import BetonWriter
from pipelines.formats.crc import crc32
from pipelines.formats.layout import Note

_SUFFIX = ".journal"
#: Magic, SHA-256 of the output's name, which the file's own may hold in part, and of what is
#: converted and how.
_HEAD = struct.Struct("<8s32s32s")
_IDENTITY_AT = 40
_MAGIC = b"fastft-2"
#: Mode, note, width, height, bytes of the reason, of the source, stored; CRC-32; bytes of entry
#: points, and their CRC-32.
_ENTRY = struct.Struct("<BBHHHQQIII")
_CRC = struct.Struct("<I")
#: The mode of an image that was left out.
_LEFT_OUT = 255
#: What is read of a journal at once.
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Entry:
    """The outcome of one sample.

    Attributes:
        mode: how it is stored, a mode of `formats.layout`; None if it is left out.
        width, height: px.
        size_bytes, checksum: of what is stored.
        source_bytes: of the image file.
        note: what else is worth telling of it.
        reason: why it is left out, doubtful or odd; may be empty.
        points: bytes of its entry points, and their CRC-32.
    """

    mode: int | None
    width: int
    height: int
    size_bytes: int
    checksum: int
    source_bytes: int
    note: Note
    reason: str
    points: tuple[int, int] = (0, 0)

    def pack(self) -> bytes:
        """As a journal holds it."""
        reason = self.reason.encode("utf-8", "surrogatepass")
        mode = _LEFT_OUT if self.mode is None else self.mode
        content = (
            _ENTRY.pack(
                mode,
                int(self.note),
                self.width,
                self.height,
                len(reason),
                self.source_bytes,
                self.size_bytes,
                self.checksum,
                *self.points,
            )
            + reason
        )
        return content + _CRC.pack(crc32(content))


class Journal:
    """The journal of one output that is being written.

    Attributes:
        path: the file.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        """Take over an open and locked journal, which stands behind its head."""
        self.path, self._descriptor = path, descriptor
        self._end = _HEAD.size
        self._waiting = bytearray()

    def earlier(self) -> Iterator[Entry]:
        """Entries of an earlier process; an entry stays if the next one is asked for."""
        for entry, end in _read_entries(self._descriptor):
            yield entry
            self._end = end

    def go_on(self) -> None:
        """Forget what did not stay; what is added comes behind what did."""
        os.ftruncate(self._descriptor, self._end)
        os.lseek(self._descriptor, 0, os.SEEK_END)

    def add(self, entry: Entry) -> None:
        """Note what became of the next sample."""
        self._waiting += entry.pack()

    def flush(self) -> None:
        """Write what has been added; the samples' bytes must have been written before."""
        while self._waiting:
            del self._waiting[: os.write(self._descriptor, self._waiting)]

    def close(self, *, remove: bool) -> None:
        """Give up the lock; before that remove the file, unless it is to be resumed from."""
        if remove:
            with suppress(OSError):  # gone with its folder, or the next conversion's to remove
                os.unlink(self.path)
        os.close(self._descriptor)


@contextmanager
def open_journaled(
    out: Path, capacity: int, identity: bytes, *, resume: bool = False
) -> Iterator[tuple[BetonWriter, Journal]]:
    """A writer of `out` and its journal; both files are gone when the block ends unpublished.

    They stay if neither an error nor Ctrl-C ends it. Leftovers of killed processes of the same
    output are removed, or resumed from.

    Args:
        out: the output.
        capacity: its samples at most.
        identity: 32 bytes that tell this conversion from others.
        resume: continue from what was left, if anything was.

    Raises:
        DataError: there is no place to write it.
        UsageError: what was left is of another conversion.
    """
    kept: tuple[Path, int] | None = None
    for path, descriptor in _find_left(out):
        if not resume:
            _remove(path, descriptor)
        elif os.pread(descriptor, _HEAD.size, 0) != _head(out, identity):
            os.close(descriptor)
            if kept is not None:
                os.close(kept[1])
            raise UsageError(
                "--resume",
                f"what was left of {out} is of other images or options",
                "the same command",
                "convert without --resume to begin anew",
            )
        elif kept is None:
            kept = path, descriptor
        else:
            _remove(path, descriptor)
    path, descriptor = _begin(out, identity) if kept is None else kept
    journal, stays = Journal(path, descriptor), False
    try:
        with open_writer(out, capacity, _data_of(path)) as writer:
            try:
                yield writer, journal
            except BaseException as error:
                stays = not isinstance(error, (Exception, KeyboardInterrupt, GeneratorExit))
                if stays:
                    writer.leave()
                raise
    finally:
        journal.close(remove=not stays)


def left_bytes(out: Path) -> int:
    """The bytes on disk of temporary files that killed conversions to `out` left."""
    found = 0
    for path, descriptor in _find_left(out):
        found += _data_of(path).stat().st_blocks * 512
        os.close(descriptor)
    return found


def _begin(out: Path, identity: bytes) -> tuple[Path, int]:
    """Make a journal of `out`, and lock it."""
    with opening(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        descriptor, path = make_locked(out, _SUFFIX)
        try:
            os.write(descriptor, _head(out, identity))
        except BaseException:
            _remove(path, descriptor)
            raise
    return path, descriptor


def _head(out: Path, identity: bytes) -> bytes:
    return _HEAD.pack(_MAGIC, hashlib.sha256(os.fsencode(out.name)).digest(), identity)


def _find_left(out: Path) -> Iterator[tuple[Path, int]]:
    """Journals of `out` that nobody holds, each open and locked; the caller closes them."""
    pattern = glob.escape(temporary_prefix(out)) + f"*{_SUFFIX}"
    begins = _head(out, b"")[:_IDENTITY_AT]
    for path in sorted(out.parent.glob(pattern)):
        descriptor = open_left(path)
        if descriptor is None:
            continue
        head, data = os.pread(descriptor, _HEAD.size, 0), _data_of(path)
        if len(head) < _HEAD.size:
            _remove(path, descriptor)  # killed when it had just begun
        elif not head.startswith(begins):
            os.close(descriptor)
        elif data.is_symlink() or not data.is_file():
            _remove(path, descriptor)  # killed when its output had just been published
        else:
            yield path, descriptor


def _data_of(journal: Path) -> Path:
    """The temporary file that a journal is of."""
    return journal.with_name(journal.name.removesuffix(_SUFFIX))


def _remove(journal: Path, descriptor: int) -> None:
    for path in (_data_of(journal), journal):
        with suppress(FileNotFoundError):
            os.unlink(path)
    os.close(descriptor)


def _read_entries(descriptor: int) -> Iterator[tuple[Entry, int]]:
    """A journal's whole entries, and where each ends."""
    position, buffer = _HEAD.size, bytearray()
    while chunk := os.pread(descriptor, _CHUNK_BYTES, position + len(buffer)):
        buffer += chunk
        start = 0
        while (found := _unpack(buffer, start)) is not None:
            entry, start = found
            yield entry, position + start
        del buffer[:start]
        position += start
        if len(buffer) > _CHUNK_BYTES:
            return  # no entry is as long: it is damaged


def _unpack(buffer: bytearray, start: int) -> tuple[Entry, int] | None:
    """The entry at `start` and where it ends; None if it is not whole."""
    if len(buffer) - start < _ENTRY.size + _CRC.size:
        return None
    mode, note, width, height, reason_bytes, source_bytes, size, checksum, *points = (
        _ENTRY.unpack_from(buffer, start)
    )
    end = start + _ENTRY.size + reason_bytes
    if len(buffer) < end + _CRC.size:
        return None
    if _CRC.unpack_from(buffer, end)[0] != crc32(memoryview(buffer)[start:end]):
        return None
    reason = bytes(buffer[end - reason_bytes : end]).decode("utf-8", "surrogatepass")
    entry = Entry(
        None if mode == _LEFT_OUT else mode,
        width,
        height,
        size,
        checksum,
        source_bytes,
        Note(note),
        reason,
        (points[0], points[1]),
    )
    return entry, end + _CRC.size
