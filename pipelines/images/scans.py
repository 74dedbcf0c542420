"""Judges a JPEG's scans: too many to be decoded, or not all of the image.

A scan takes ten bytes, and a decoder may go through all of the image for each, so a small file
could take hours. libjpeg-turbo's own library gives up by `turbojpeg.LIMIT_SCANS`; Pillow has no
such limit, and DALI turns to a decoder that has none. They are given nothing that libjpeg-turbo
would refuse.

Where the last scans of a progressive image are missing, libjpeg makes the blocks up from what their
neighbours say, and its versions do that differently. Such images go to the reference decoder alone.
"""

from __future__ import annotations

import numpy as np

from pipelines.images.jpeg import (
    COMMON_FRAMES,
    FRAMES,
    PROGRESSIVE_FRAMES,
    START_OF_SCAN,
    segments,
)

#: What TJFLAG_LIMITSCANS allows, which says it by these words of every JPEG.
MOST_SCANS = 500
TOO_MANY_SCANS = f"Progressive JPEG image has more than {MOST_SCANS} scans"
_COEFFICIENTS = 64


def has_too_many_scans(data: bytes) -> bool:
    """Whether the JPEG in `data`, if it is one, has more than MOST_SCANS scans.

    Most photos have one scan of all components, behind which no decoder reads: their headers are
    gone through in some microseconds.
    """
    scans, components, is_progressive = 0, 0, False
    for marker, at, _ in segments(data):
        if marker in FRAMES and at + 6 <= len(data):
            components, is_progressive = data[at + 5], marker in PROGRESSIVE_FRAMES
        elif marker == START_OF_SCAN and at < len(data):
            if not scans:
                if not is_progressive and data[at] == components:
                    return False
                if _count_pairs(data) <= MOST_SCANS:
                    return False
            scans += 1
            if scans > MOST_SCANS:
                return True
    return False


def is_incomplete(data: bytes) -> bool:
    """Whether a progressive JPEG does not give every coefficient to its last bit.

    Of other JPEGs nothing behind the frame header is read.

    Source: ITU-T T.81, G.1.1.1 and B.2.3 (scan header: Ss, Se, Ah, Al).
    """
    #: component -> the lowest bit of each coefficient that has come, -1 before any has
    known: dict[int, list[int]] = {}
    for marker, at, end in segments(data):
        if marker in FRAMES:
            if marker not in PROGRESSIVE_FRAMES or marker not in COMMON_FRAMES:
                return False
            count = data[at + 5] if at + 6 <= len(data) else 0
            identities = data[at + 6 : at + 6 + 3 * count : 3]
            known = {identity: [-1] * _COEFFICIENTS for identity in identities}
        elif marker == START_OF_SCAN:
            if end > len(data) or end - at < 4 + 2 * data[at]:
                break
            first, last, approximation = data[end - 3 : end]
            for identity in data[at + 1 : at + 1 + 2 * data[at] : 2]:
                if identity in known and last < _COEFFICIENTS:
                    bits = [approximation & 15] * (last + 1 - first)
                    known[identity][first : last + 1] = bits
    return any(bit != 0 for bits in known.values() for bit in bits)


def _count_pairs(data: bytes) -> int:
    """The number of scan markers' two bytes, in profiles and thumbnails too."""
    bytes_ = np.frombuffer(data, np.uint8)
    return int(np.count_nonzero((bytes_[:-1] == 0xFF) & (bytes_[1:] == START_OF_SCAN)))
