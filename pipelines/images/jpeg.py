"""Reads a JPEG's marker segments: which there are, and the frame header among them.

Nothing is decoded. `damage` says whether a JPEG is whole, `scans` what its
scans amount to, and `turbojpeg` decodes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from PIL import Image, UnidentifiedImageError

#: Start-of-frame markers of what libjpeg, nvJPEG and DALI all decode: baseline, extended Huffman,
#: progressive Huffman. Others (lossless, arithmetic) exist and are left to Pillow.
COMMON_FRAMES = frozenset((0xC0, 0xC1, 0xC2))
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
PROGRESSIVE_FRAMES = frozenset((0xC2, 0xC6, 0xCA, 0xCE))
HUFFMAN_TABLES, END_OF_IMAGE, START_OF_SCAN = 0xC4, 0xD9, 0xDA
#: Bytes behind 0xFF that begin no segment: TEM, RST0-7, SOI; a stuffed byte; another fill byte.
_NO_SEGMENT = frozenset((0x00, 0x01, *range(0xD0, 0xD9), 0xFF))
#: SOF0; what comes before is reserved.
_FIRST_COMMON = 0xC0
_BEGINS = b"\xff\xd8\xff"
#: The marker that ends the data of a scan.
_BEHIND_SCAN = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]")


@dataclass(frozen=True, slots=True)
class JpegHeader:
    """A frame header: `frame` is its marker (0xC0 baseline, 0xC2 progressive, ...)."""

    width: int
    height: int
    components: int
    bits: int
    frame: int

    @property
    def is_common(self) -> bool:
        """Whether every JPEG decoder that fastft feeds reads it: 8-bit grayscale or RGB."""
        return (
            self.frame in COMMON_FRAMES
            and self.bits == 8
            and self.components in (1, 3)
            and self.width > 0
            and self.height > 0
        )

    @property
    def is_checkable(self) -> bool:
        """Whether libjpeg-turbo can tell if it is whole: such a one, or CMYK."""
        return self.is_common or (replace(self, components=3).is_common and self.components == 4)


def segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """The marker segments of a JPEG in turn, up to the end of the image.

    Bytes between segments are passed over, as libjpeg does. Nothing is given of what is no JPEG; a
    segment may end behind the data.

    Yields:
        Marker, where the segment's content begins, where it ends. A scan's data follow it.

    Source: ITU-T T.81 annex B; jdmarker.c of libjpeg-turbo, next_marker.
    """
    if data[:3] != _BEGINS:
        return
    at, last = 2, len(data) - 4
    while 0 <= (at := data.find(b"\xff", at)) <= last:
        marker = data[at + 1]
        if marker in _NO_SEGMENT:
            at += 1 if marker == 0xFF else 2
            continue
        length = data[at + 2] << 8 | data[at + 3]
        if marker == END_OF_IMAGE or length < 2:
            return
        end = at + 2 + length
        yield marker, at + 4, end
        at = end
        if marker == START_OF_SCAN:
            at = find_scan_end(data, at)


def find_scan_end(data: bytes, at: int) -> int:
    """The end of the scan whose data begin at `at`: the next marker, or the end of the data."""
    behind = _BEHIND_SCAN.search(data, at)
    return len(data) if behind is None else behind.start()


def find_oddity(data: bytes) -> str:
    """Find what parsers do not agree on before the first scan of a JPEG; '' if there is nothing.

    libjpeg passes over bytes between segments and over markers that stand alone; DALI's parser
    refuses both, Pillow's some of them.
    """
    before = 2
    for marker, at, end in segments(data):
        if data[before : at - 3].strip(b"\xff"):
            return "bytes between its segments"
        if marker < _FIRST_COMMON:
            return f"marker 0x{marker:02x}"
        if marker == START_OF_SCAN:
            break
        before = end
    return ""


def read_header(data: bytes) -> JpegHeader | None:
    """The frame header of the JPEG in `data`, or None where there is no well-formed one.

    Source: ITU-T T.81, B.2.2.
    """
    for marker, at, end in segments(data):
        if marker == START_OF_SCAN:
            break
        if marker in FRAMES:
            if end - at < 6 or at + 6 > len(data):
                break
            height, width = data[at + 1] << 8 | data[at + 2], data[at + 3] << 8 | data[at + 4]
            return JpegHeader(width, height, data[at + 5], data[at], marker)
    return None


def describe(error: Exception) -> str:
    """An exception of an image library, in words fit for a report."""
    text = str(error).split("\n")[0]
    if isinstance(error, Image.DecompressionBombError):  # of a frame or a tile; see `pillow`
        return "has more pixels in one part than Pillow decodes"
    if isinstance(error, UnidentifiedImageError) and (
        not text or "cannot identify image file" in text
    ):
        return "is not an image that Pillow knows"
    return text or type(error).__name__
