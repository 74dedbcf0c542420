"""How many scans a progressive JPEG has: its decoders may read all of the image for each.

A scan takes ten bytes, so a small file could take minutes. libjpeg-turbo's own library gives up by
`jpeg.LIMIT_SCANS`; Pillow has no such limit, and DALI turns to a decoder that has none. They are
given nothing that libjpeg-turbo would refuse.
"""

from __future__ import annotations

import numpy as np

from pipelines.jpeg import read_header

#: What TJFLAG_LIMITSCANS allows, which says it by these words.
MOST_SCANS = 500
TOO_MANY_SCANS = f"Progressive JPEG image has more than {MOST_SCANS} scans"
_PROGRESSIVE = 0xC2
_SCAN, _END = 0xDA, 0xD9
#: Behind 0xFF in a scan's data: no marker, RST0-7, another fill byte.
_WITHIN = frozenset((0x00, *range(0xD0, 0xD8), 0xFF))


def has_too_many_scans(data: bytes) -> bool:
    """Whether a JPEG is progressive and has more than MOST_SCANS scans; 3 us if it is neither."""
    header = read_header(data)
    if header is None or header.frame != _PROGRESSIVE:
        return False
    # In a scan's data the two bytes never stand together; in a profile or thumbnail they may.
    bytes_ = np.frombuffer(data, np.uint8)
    if np.count_nonzero((bytes_[:-1] == 0xFF) & (bytes_[1:] == _SCAN)) <= MOST_SCANS:
        return False
    return _count_scans(data) > MOST_SCANS


def _count_scans(data: bytes) -> int:
    """Count scans, segment by segment; stops behind what is too many.

    Source: ITU-T T.81 annex B.
    """
    scans, at = 0, 2
    while scans <= MOST_SCANS:
        at = data.find(b"\xff", at)
        if at < 0 or at + 4 > len(data) or data[at + 1] == _END:
            break
        marker = data[at + 1]
        if marker in _WITHIN:
            at += 1 if marker == 0xFF else 2
            continue
        scans += marker == _SCAN
        at += 2 + (data[at + 2] << 8 | data[at + 3])
    return scans
