"""JPEGs as cameras, browsers and broken disks leave them: changes to the bytes of a whole one."""

import re

from pipelines.images.jpeg import START_OF_SCAN, find_scan_end, segments

HUFFMAN, QUANTIZATION, FRAME = 0xC4, 0xDB, 0xC0


def without(data: bytes, marker: int, keep: int = 0) -> bytes:
    """A JPEG without its segments of a marker, but for the first `keep` of them."""
    parts, last = [], 0
    for found, at, end in segments(data):
        if found == START_OF_SCAN:
            break
        if found == marker:
            keep -= 1
            if keep < 0:
                parts.append(data[last : at - 4])
                last = end
    return b"".join((*parts, data[last:]))


def with_bytes_before(data: bytes, marker: int, piece: bytes = b"\x12\x34") -> bytes:
    """A JPEG with something before the first segment of a marker, where nothing should be."""
    at = next(at for found, at, _ in segments(data) if found == marker) - 4
    return data[:at] + piece + data[at:]


def scan_of(data: bytes) -> tuple[int, int]:
    """Where the data of the last scan begin and end."""
    starts = [end for found, _, end in segments(data) if found == START_OF_SCAN]
    return starts[-1], find_scan_end(data, starts[-1])


def padded(data: bytes, piece: bytes) -> bytes:
    """A JPEG with something between its last scan and the end of the image."""
    _, end = scan_of(data)
    return data[:end] + piece + data[end:]


def scans_kept(data: bytes, count: int) -> bytes:
    """A progressive JPEG that ends in order, but after so many scans."""
    scans = [match.start() for match in re.finditer(b"\xff\xda", data)]
    # A scan's tables stand before it.
    ends = [max(find_scan_end(data, at + 4) for at in scans[: count + 1] if at < scans[count])]
    return data[: ends[0]] + b"\xff\xd9"


def doubled(data: bytes, at: int, size: int = 512) -> bytes:
    """A JPEG with a block of its scan twice: byte `at` of the scan begins what comes after both."""
    at += scan_of(data)[0]
    return data[:at] + data[at - size : at] + data[at:]


def overwritten(data: bytes, at: int, piece: bytes) -> bytes:
    """A JPEG with other bytes from byte `at` of its scan on."""
    at += scan_of(data)[0]
    return data[:at] + piece + data[at + len(piece) :]
