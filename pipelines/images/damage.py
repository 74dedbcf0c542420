"""Says whether a JPEG is whole: every warning of the decoder counts, in order.

`Checker` runs libjpeg-turbo over the entropy-coded data at 1/8 scale, which reads every code word
(so it reports the same damage as a full decode, message for message) at 1.5 to 2 times the speed.
Only where that complains, all that libjpeg has to say is listened to. Without the library Pillow
does it by its draft mode, and hears no warnings.

What no decoder complains of may be wrong all the same. A scan that is out of step (a block twice,
another file's bytes in the middle) decodes to other pixels, and the only sign is what is left of
its data when all pixels are there. Bytes behind a scan that are no padding therefore make an image
doubtful, and so do zeros within a scan that no encoder writes.
"""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass

import numpy as np

from pipelines.images.jpeg import (
    HUFFMAN_TABLES,
    PROGRESSIVE_FRAMES,
    START_OF_SCAN,
    JpegHeader,
    describe,
    find_oddity,
    find_scan_end,
    segments,
)
from pipelines.images.pillow import open_image
from pipelines.images.scans import TOO_MANY_SCANS
from pipelines.images.turbojpeg import (
    Heard,
    Warned,
    complaint,
    decode_eighth,
    decompressor,
    eighth_bytes,
    has_warned,
    hear,
    load_turbojpeg,
)

#: How many bytes libjpeg passed over.
_EXTRANEOUS = re.compile(r"(\d+) extraneous bytes before marker")
#: Other warnings that no pixel depends on: libjpeg goes on as Pillow does.
_HARMLESS = re.compile("unknown JFIF revision|Unknown Adobe color transform")
#: So many bytes between segments are a sloppy program's; more may be what was a table.
_FEW_BETWEEN_SEGMENTS = 16
#: So many bytes behind a scan are padding, whatever they are; more have to be one value throughout.
#: 394 photos had 512 bytes twice: 4 left fewer than 15 bytes, none fewer than 8. 391 had 4 KB
#: overwritten by another photo's: 2 left fewer than 11. Of 418 JPEGs of public test suites
#: (Pillow's, exif-samples, metadata-extractor's) no whole one left any.
_FEW_BEHIND_SCAN = 2
#: A disk's smallest block is 512 bytes; codes of so many zeros in a row are no chance.
_ZEROS = bytes(64)


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome of a check; each part is a reason in words, or empty.

    Attributes:
        broken: why the image must not be used.
        doubtful: why its pixels may be wrong, although it decodes.
        odd: what is unusual and costs no pixel.
    """

    broken: str = ""
    doubtful: str = ""
    odd: str = ""


class Checker:
    """Finds damage in JPEGs; safe to share between threads, each gets memory of its own."""

    def __init__(self) -> None:
        self._library = load_turbojpeg()
        self._local = threading.local()

    def check(self, data: bytes, header: JpegHeader, *, is_sound: bool = False) -> Verdict:
        """Decode `data` far enough to meet all of its damage.

        Args:
            data: a JPEG.
            header: of it.
            is_sound: whether all of it has been read, and libjpeg has nothing to say.
        """
        if is_sound:
            return _find_more(data, header)
        library = self._library
        if library is None:
            return Verdict(broken=refused_by_pillow(data))
        with decompressor(library) as handle:
            room = self._room(header)
            status = decode_eighth(library, handle, data, header, room)
            said = complaint(library, handle) if status else ""
            warned = bool(status) and has_warned(library, handle)
        if not said:
            return _find_more(data, header)
        heard = hear(library, data, header)
        if heard is None:
            # It was most likely at the end.
            ends = [end for marker, _, end in segments(data) if marker == START_OF_SCAN]
            at = find_scan_end(data, ends[-1]) if ends else len(data)
            heard = Heard((Warned(said, at),), "") if warned else Heard((), said)
        return judge(data, header, heard)

    def _room(self, header: JpegHeader) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
        """Memory for the image at 1/8, which grows to the largest one."""
        size = eighth_bytes(header)
        room: np.ndarray[tuple[int], np.dtype[np.uint8]] | None = getattr(self._local, "room", None)
        if room is None or room.size < size:
            room = self._local.room = np.empty(max(size, 1 << 16), np.uint8)
        return room


def _find_more(data: bytes, header: JpegHeader) -> Verdict:
    """Weigh what libjpeg has nothing to say of."""
    oddity = find_oddity(data)
    if oddity and (refused := refused_by_pillow(data)):
        return Verdict(broken=refused)
    return Verdict(doubtful=_find_zeros(data, header, 0), odd=oddity)


def judge(data: bytes, header: JpegHeader, heard: Heard) -> Verdict:
    """Weigh all that libjpeg said of an image.

    Of what is out of the ordinary the reference decoder must be able to make something, too; and
    what it alone decodes is whole.
    """
    kinds = [_weigh(data, warned) for warned in heard.warnings]
    broken = next((kind.broken for kind in kinds if kind.broken), "")
    if TOO_MANY_SCANS in heard.error:  # which Pillow would go through
        broken = TOO_MANY_SCANS
    elif not broken and (refused := refused_by_pillow(data)):
        broken = heard.error or refused
    elif heard.error:
        kinds.append(Verdict(odd=f"Pillow alone decodes it; libjpeg-turbo: {heard.error}"))
    if broken:
        return Verdict(broken=broken)
    doubtful = next((kind.doubtful for kind in kinds if kind.doubtful), "")
    padding = max((_count_passed_over(warned) for warned in heard.warnings), default=0)
    if doubtful := doubtful or _find_zeros(data, header, padding):
        return Verdict(doubtful=doubtful)
    return Verdict(odd=next((kind.odd for kind in kinds if kind.odd), ""))


def find_stray_bytes(data: bytes, header: JpegHeader) -> tuple[slice, ...] | None:
    """The bytes of a JPEG that libjpeg passes over with a warning, without which it has none.

    Returns:
        Them, in order; None if that is not all that it has to say, or cannot be known here.
    """
    library = load_turbojpeg()
    heard = library and hear(library, data, header)
    if not heard or heard.error:
        return None
    counts = [_count_passed_over(warned) for warned in heard.warnings]
    if not all(counts) or any(warned.at > len(data) for warned in heard.warnings):
        return None
    return tuple(
        slice(max(0, warned.at - count), warned.at)
        for warned, count in zip(heard.warnings, counts, strict=True)
    )


def refused_by_pillow(data: bytes) -> str:
    """The reason why Pillow does not decode a JPEG; '' if it does."""
    try:
        with open_image(data, ("JPEG",)) as image:
            image.draft(None, (max(1, image.width // 8), max(1, image.height // 8)))
            image.load()
    except MemoryError:
        raise
    except Exception as error:  # whatever a hostile file makes a third-party parser raise
        return describe(error)
    return ""


def _weigh(data: bytes, warned: Warned) -> Verdict:
    """Weigh one warning."""
    count, end = _count_passed_over(warned), min(warned.at, len(data))
    if not count:
        harmless = _HARMLESS.search(warned.text)
        return Verdict(odd=warned.text) if harmless else Verdict(broken=warned.text)
    passed_over = data[max(0, end - count) : end]
    scan = next((at for marker, _, at in segments(data) if marker == START_OF_SCAN), len(data))
    few = _FEW_BETWEEN_SEGMENTS if end < scan else _FEW_BEHIND_SCAN
    if count <= few or len(set(passed_over)) == 1:
        return Verdict(odd=warned.text)
    where = "between its segments" if end < scan else "behind a scan"
    return Verdict(doubtful=f"{count:,} bytes {where} that are no padding: may be out of step")


def _count_passed_over(warned: Warned) -> int:
    """The number of bytes before a marker that libjpeg warns of; 0 for another warning."""
    extraneous = _EXTRANEOUS.search(warned.text)
    return int(extraneous[1]) if extraneous else 0


def _find_zeros(data: bytes, header: JpegHeader, padding: int) -> str:
    """Find a run of zeros in a scan where no encoder writes one; '' if there is none.

    In codes, zeros alone are blank blocks if the shortest code of every AC table is that of an end
    of block, as in tables made for a picture with much of one colour. In others, those of the
    standard among them, they are patterns that no photo has. Scans of progressive images may hold
    plain zero bits. The last `padding` bytes of a scan are no codes.

    Source: ITU-T T.81, B.2.4.2 (Huffman tables: codes grow from zero), F.1.2.2, K.3.3.2.
    """
    if header.frame in PROGRESSIVE_FRAMES or _ZEROS not in data:
        return ""
    first_symbols: set[int] = set()
    for marker, at, end in segments(data):
        if marker == HUFFMAN_TABLES:
            first_symbols |= _first_ac_symbols(data[at:end])
        elif marker == START_OF_SCAN:
            # Many photos have zeros in a thumbnail or a profile alone.
            if data.find(_ZEROS, end) < 0:
                break
            found = data.find(_ZEROS, end, max(end, find_scan_end(data, end) - padding))
            if found >= 0 and first_symbols != {0}:  # none of its own: the standard's
                return f"zeros in its data from byte {found:,} on: a part of it is lost"
    return ""


def _first_ac_symbols(tables: bytes) -> set[int]:
    """The symbol with the code of zeros alone in each AC table of a DHT segment."""
    found, at = set(), 0
    while at + 17 < len(tables):
        if tables[at] >> 4 == 1:
            found.add(tables[at + 17])
        at += 17 + sum(tables[at + 1 : at + 17])
    return found
