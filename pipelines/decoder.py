"""A source's samples to pixels in memory that the caller brings: libjpeg-turbo without Pillow.

Bit-exact with the reference decoder: accurate DCT, smooth chroma upsampling. What libjpeg-turbo
refuses or is known to decode otherwise, the reference decoder decodes; so it does everything where
the library is not installed.
"""

from __future__ import annotations

import ctypes
from functools import cached_property
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import DataError
from pipelines.formats.encode import LEAVE_OUT, decode
from pipelines.formats.layout import MODE_RAW, Stored
from pipelines.formats.source import Source
from pipelines.images.damage import Checker, refused_by_pillow
from pipelines.images.jpeg import read_header
from pipelines.images.scans import TOO_MANY_SCANS, has_too_many_scans, is_incomplete
from pipelines.images.turbojpeg import (
    LIMIT_SCANS,
    RGB,
    complaint,
    decompressor,
    has_warned,
    load_turbojpeg,
)
from pipelines.memory import free_memory
from pipelines.workers import processes_here

_ACCURATE = LIMIT_SCANS  # no other TJFLAG: accurate DCT, fancy upsampling, as in Pillow
_GRAY = 3  # TJSAMP_GRAY
_HALVED = 2  # TJSAMP_420
_YCBCR, _GRAYSCALE = 1, 2  # TJCS_YCbCr, TJCS_GRAY
INCOMPLETE = "its last scans are missing, and decoders make up for them differently"
#: The share of the free memory that entry points may take.
_ENTRIES_SHARE = 1 / 16
#: The states of a sample in `Known`.
_UNKNOWN, _PLAIN, _SOUND, _HARMLESS, _BY_REFERENCE = range(5)


class Known:
    """Findings about a source's samples, made once for all threads of a loader.

    Bytes and dictionaries take single items whole, so no lock is needed; where two threads note
    something at once, the room may be a sample's more than it is.

    Attributes:
        entries: of a sample, MCUs between the places where its data may be begun at, and those, see
            `kernels.entries`.
    """

    def __init__(self, source: Source, sharers: int = 1) -> None:
        """Know nothing yet.

        Args:
            source: the samples.
            sharers: how many processes of this loader find out the same.
        """
        self._source = source
        self.entries: dict[int, tuple[int, NDArray[np.int64]]] = {}
        self._refused: set[int] = set()
        self._states = bytearray(len(source.widths))
        self._reasons: dict[int, str] = {}
        self._share, self._taken = _ENTRIES_SHARE / (sharers * processes_here()), 0

    def needs_reference(self, sample: int, stored: Stored) -> bool:
        """Whether no decoder but the reference's will do for a JPEG."""
        if self._states[sample] == _UNKNOWN:
            if is_incomplete(stored.data):
                self.give_to_reference(sample, INCOMPLETE)
            elif has_too_many_scans(stored.data):  # which the reference decoder refuses
                self.give_to_reference(sample, TOO_MANY_SCANS)
            else:
                self._states[sample] = _PLAIN
        return self.is_references(sample)

    def is_references(self, sample: int) -> bool:
        """Whether it has been found that no other decoder will do."""
        return self._states[sample] == _BY_REFERENCE

    def give_to_reference(self, sample: int, reason: str) -> None:
        """Take note that another decoder refuses a sample that the reference's takes."""
        self._reasons.setdefault(sample, reason)
        self._states[sample] = _BY_REFERENCE

    def has_been_read(self, sample: int) -> bool:
        """Whether a decoder has gone through all of a JPEG's data, and found it whole."""
        return self._states[sample] in (_SOUND, _HARMLESS)

    def note_sound(self, sample: int) -> None:
        """Take note that one has, and had nothing to say."""
        self._states[sample] = _SOUND

    def meet_once(self) -> None:
        """Take note that samples come once: nobody would begin at their entry points."""
        self._share = 0

    @cached_property
    def _room(self) -> int:
        """Bytes of entry points in all; found out when there are any, as it takes a millisecond."""
        return int(free_memory().bytes * self._share)

    def has_room(self, bytes_: int) -> bool:
        """Whether there is room for so many bytes of entry points."""
        return self._room - self._taken >= bytes_

    def note_entries(self, sample: int, step: int, points: NDArray[np.int64]) -> None:
        """Keep where a JPEG may be begun at, if there is room; who found that has read it whole."""
        if self.has_room(points.nbytes):
            self._taken += points.nbytes
            self.entries[sample] = (step, points)
        self.note_sound(sample)

    def refuse_entries(self, sample: int) -> None:
        """Never begin at a sample's entry points again, nor believe that it has been read."""
        self.entries.pop(sample, None)
        self._refused.add(sample)
        self._states[sample] = _UNKNOWN

    def may_have_entries(self, sample: int) -> bool:
        """Whether a sample's entry points have not been refused."""
        return sample not in self._refused

    def is_harmless(self, sample: int) -> bool:
        """Whether what a decoder warns of has been weighed and found harmless."""
        return self._states[sample] == _HARMLESS

    def note_harmless(self, sample: int) -> None:
        """Take note that it has."""
        self._states[sample] = _HARMLESS

    @property
    def remarks(self) -> tuple[str, ...]:
        """One sentence on what the reference decoder decodes, if it is anything."""
        if not self._reasons:
            return ()
        first, count = min(self._reasons), len(self._reasons)
        images = "1 image is" if count == 1 else f"{count:,} images are"
        name, why = self._source.name(first), self._reasons[first]
        return (f"{images} decoded by Pillow, with the same pixels; the first is {name}: {why}",)


class Decoder:
    """Decodes samples of one source; for one thread at a time.

    Calls cost some microseconds beside a photo's 0.7 ms, and nobody is locked out meanwhile.
    """

    def __init__(self, source: Source, known: Known | None = None) -> None:
        """Take the library, if it is there.

        Args:
            source: the samples.
            known: what all threads of a loader share.
        """
        self._source = source
        self._known = known or Known(source)
        self._library: Any = load_turbojpeg()
        # width, height, subsampling and colour space of the last header that was read
        self._header = (ctypes.c_int * 4)()
        self._fields = [ctypes.addressof(self._header) + 4 * at for at in range(4)]

    def to_rgb(
        self,
        sample: int,
        target: NDArray[np.uint8],
        shrink: int = 1,
        stored: Stored | None = None,
    ) -> None:
        """Write a sample's pixels.

        Args:
            sample: its number.
            target: uint8[height * width * 3 or more], contiguous.
            shrink: decodes a JPEG at 1 / 2, 4 or 8 of its size, by the reference decoder.
            stored: its bytes, if the caller has read them.

        Raises:
            DataError: the sample is broken, or of another size than stored.
        """
        if stored is None:
            stored = self._source.stored(sample)  # of the size that the source says
        if stored.mode == MODE_RAW:
            target[: len(stored.data)] = np.frombuffer(stored.data, np.uint8)
        elif self._needs_reference(sample, stored):
            self._by_reference(sample, stored, target, shrink)
        elif shrink > 1:
            self._require_sound(sample, stored)
            self._by_reference(sample, stored, target, shrink)
        else:
            with decompressor(self._library) as handle:
                if self._read_header(handle, sample, stored):
                    status = self._library.tjDecompress2(
                        handle,
                        stored.data,
                        len(stored.data),
                        target.ctypes.data,
                        stored.width,
                        stored.width * 3,
                        stored.height,
                        RGB,
                        _ACCURATE,
                    )
                    if status == 0 or self._accepts(handle, sample, stored):
                        return
            self._by_reference(sample, stored, target)

    def to_planes(self, sample: int, target: NDArray[np.uint8]) -> bool:
        """Write a sample's luma and chroma as its JPEG holds them, if they are 4:2:0 or gray.

        Args:
            sample: its number.
            target: uint8[...], contiguous: luma, lines of an even number of bytes, an even number
                of them; then Cb, then Cr, half as wide and half as high.

        Returns:
            Whether that is what the sample is; else nothing of use was written.

        Raises:
            DataError: the sample is broken, or of another size than stored.
        """
        stored = self._source.stored(sample)  # of the size that the source says
        if stored.mode == MODE_RAW or self._needs_reference(sample, stored):
            return False
        with decompressor(self._library) as handle:
            if not self._read_header(handle, sample, stored):
                return False
            _, _, subsampling, colours = self._header
            gray = (subsampling, colours) == (_GRAY, _GRAYSCALE)
            if not gray and (subsampling, colours) != (_HALVED, _YCBCR):
                return False
            pitch, lines = stored.width + stored.width % 2, stored.height + stored.height % 2
            luma, chroma = pitch * lines, pitch * lines // 4
            first = target.ctypes.data
            planes = (ctypes.c_void_p * 3)(first, first + luma, first + luma + chroma)
            strides = (ctypes.c_int * 3)(pitch, pitch // 2, pitch // 2)
            if gray:
                target[luma : luma + 2 * chroma] = 128
            status = self._library.tjDecompressToYUVPlanes(
                handle,
                stored.data,
                len(stored.data),
                planes,
                stored.width,
                strides,
                stored.height,
                _ACCURATE,
            )
            return status == 0 or self._accepts(handle, sample, stored)

    def _needs_reference(self, sample: int, stored: Stored) -> bool:
        """Whether there is no use in asking libjpeg-turbo."""
        return self._library is None or self._known.needs_reference(sample, stored)

    def _require_sound(self, sample: int, stored: Stored) -> None:
        """Check a JPEG once: Pillow keeps its decoder's warnings to itself.

        Raises:
            DataError: it is damaged.
        """
        if not self._known.has_been_read(sample):
            if broken := _find_damage(stored):
                raise DataError(self._name(sample), broken, "a whole JPEG", LEAVE_OUT)
            self._known.note_sound(sample)

    def _by_reference(
        self, sample: int, stored: Stored, target: NDArray[np.uint8], shrink: int = 1
    ) -> None:
        pixels = np.asarray(decode(stored, self._name(sample), shrink))
        target[: pixels.size] = pixels.reshape(-1)

    def _read_header(self, handle: Any, sample: int, stored: Stored) -> bool:
        """Check a JPEG's size against what is stored of it.

        Returns:
            Whether libjpeg-turbo takes it; else the reference decoder is to decide.
        """
        data = stored.data
        self._header[0] = self._header[1] = 0
        self._library.tjDecompressHeader3(handle, data, len(data), *self._fields)
        width, height = self._header[0], self._header[1]
        # A header that is only warned of gives its size, and the decoder warns again.
        if not width:
            return self._accepts(handle, sample, stored)
        if (width, height) != (stored.width, stored.height):
            self.refuse_size(sample, stored)
        return True

    def _accepts(self, handle: Any, sample: int, stored: Stored) -> bool:
        """Weigh what the library has just complained of, see `accepts`."""
        warned = has_warned(self._library, handle)
        return self.accepts(sample, stored, complaint(self._library, handle), warned=warned)

    def accepts(self, sample: int, stored: Stored, said: str, *, warned: bool) -> bool:
        """Weigh what a decoder has complained of.

        Args:
            sample: its number.
            stored: its bytes.
            said: the decoder's words.
            warned: whether it decoded the image all the same.

        Returns:
            Whether its pixels are right; else the reference decoder is to decode the sample.

        Raises:
            DataError: the sample is damaged.
        """
        if warned and self._known.is_harmless(sample):
            return True
        if broken := _find_damage(stored):
            raise DataError(self._name(sample), broken, "a whole JPEG", LEAVE_OUT)
        if warned:
            self._known.note_harmless(sample)
        else:
            self._known.give_to_reference(sample, said)
        return warned

    def refuse_size(self, sample: int, stored: Stored) -> NoReturn:
        """Refuse a JPEG of another size than the source says.

        Raises:
            DataError: always.
        """
        found, expected = "of another size than stored", f"{stored.width} x {stored.height} px"
        raise DataError(self._name(sample), found, expected, "rerun fastft convert")

    def _name(self, sample: int) -> str:
        return f"{self._source.path}: {self._source.name(sample)}"


def _find_damage(stored: Stored) -> str:
    """The reason why a JPEG is broken; '' if the reference decoder takes it."""
    header = read_header(stored.data)
    if header is None:
        return "no JPEG header"
    # A damaged header may tell of any size, for which the check would make room.
    if header.is_checkable and (header.width, header.height) == (stored.width, stored.height):
        return Checker().check(stored.data, header).broken
    return refused_by_pillow(stored.data)
