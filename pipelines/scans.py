"""How many scans a JPEG has: its decoders may go through all of the image for each.

A scan takes ten bytes, so a small file could take hours. libjpeg-turbo's own library gives up by
`jpeg.LIMIT_SCANS`; Pillow has no such limit, and DALI turns to a decoder that has none. They are
given nothing that libjpeg-turbo would refuse.
"""

from __future__ import annotations

import numpy as np

from pipelines.jpeg import ALONE, FRAMES

#: What TJFLAG_LIMITSCANS allows, which says it by these words of every JPEG.
MOST_SCANS = 500
TOO_MANY_SCANS = f"Progressive JPEG image has more than {MOST_SCANS} scans"
_START = b"\xff\xd8\xff"
_SCAN, _END = 0xDA, 0xD9
_PROGRESSIVE = frozenset((0xC2, 0xC6, 0xCA, 0xCE))
#: Behind 0xFF: markers without a length, a stuffed byte of a scan's data, another fill byte.
_NO_SEGMENT = ALONE | {0x00, 0xFF}


def has_too_many_scans(data: bytes) -> bool:
    """Whether the JPEG in `data`, if it is one, has more than MOST_SCANS scans.

    Most photos have one scan of all components, behind which no decoder reads: their headers are
    gone through in 4 us. Bytes that are no marker are skipped, as libjpeg does.

    Source: ITU-T T.81 annex B.
    """
    if data[:3] != _START:
        return False
    at, scans, components, is_progressive = 2, 0, 0, False
    while scans <= MOST_SCANS:
        at = data.find(b"\xff", at)
        if at < 0 or at + 10 > len(data) or data[at + 1] == _END:
            return False
        marker = data[at + 1]
        if marker in _NO_SEGMENT:
            at += 1 if marker == 0xFF else 2
            continue
        if marker in FRAMES:
            components, is_progressive = data[at + 9], marker in _PROGRESSIVE
        elif marker == _SCAN:
            if not scans:
                if not is_progressive and data[at + 4] == components:
                    return False
                if _count_pairs(data) <= MOST_SCANS:
                    return False
            scans += 1
        at += 2 + (data[at + 2] << 8 | data[at + 3])
    return True


def _count_pairs(data: bytes) -> int:
    """How often the two bytes of a scan's marker stand together, in profiles and thumbnails too."""
    bytes_ = np.frombuffer(data, np.uint8)
    return int(np.count_nonzero((bytes_[:-1] == 0xFF) & (bytes_[1:] == _SCAN)))
