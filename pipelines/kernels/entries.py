"""Entry points into a JPEG's data: found once by reading all codes, they let a crop begin anywhere.

To be decoded, a JPEG's data have to be read from their first bit, as each code's place depends on
all before it, and each DC coefficient on the one before. Who notes a few places, and the DC
coefficients there, may begin at any of them (`mcus`). Notes are taken only of data that are
sound to the last bit; so a crop of them needs no other look for damage.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipelines.kernels.bits import copy_bytes, find_byte, store_bits
from pipelines.kernels.compiled import entry, inner
from pipelines.kernels.huffman import (
    AC,
    BLOCKS,
    COMPONENT,
    DATA_AT,
    DC,
    FRAME_WORDS,
    HEIGHT,
    MCUS_HIGH,
    MCUS_WIDE,
    MOST_BLOCKS,
    READ_PAST,
    TABLE_WORDS,
    TABLES,
    WIDTH,
    WINDOW,
    fill_lookups,
    read_block,
    read_frame,
)

#: An entry point is one number: above these bits that of the file where an MCU begins, then the DC
#: coefficients of three components in the MCU before, in as many bits each, which is one more than
#: sound data have.
_PLACE, _DC_BITS = 36, 12
#: Bytes of a file at most: places are 28 bits.
MOST_BYTES = 1 << 25
#: MCUs between entry points at least.
_LEAST_STEP = 2
#: Words that tell libjpeg's MCUs from each other, see `mcus`.
SCAN_WORDS = 32


class Reading(NamedTuple):
    """The scratch of one thread that reads codes; `fit_reading` makes it.

    Attributes:
        tables, blocks, frame: see `huffman.read_frame`.
        lookups: int64[TABLES, 1 << WINDOW], see `huffman.fill_lookups`.
        singles: int32[1 << WINDOW], scratch for it.
        last: int32[TABLES, TABLE_WORDS], the tables that `lookups` are of.
        nothing: int16[64], a block that nobody looks at.
        scan: int64[SCAN_WORDS], see `mcus`.
        stuffed: int32[...], the bytes of `data` behind which a zero was left out.
        data: uint8[...], the data without those.
        header: uint8[...], that of a part of the image.
        points: int64[...].
    """

    tables: NDArray[np.int32]
    blocks: NDArray[np.int32]
    frame: NDArray[np.int64]
    lookups: NDArray[np.int64]
    singles: NDArray[np.int32]
    last: NDArray[np.int32]
    nothing: NDArray[np.int16]
    scan: NDArray[np.int64]
    stuffed: NDArray[np.int32]
    data: NDArray[np.uint8]
    header: NDArray[np.uint8]
    points: NDArray[np.int64]


def fit_reading(old: Reading | None, bytes_: int, points: int = 0) -> Reading:
    """Scratch for a file of so many bytes and at most so many points: `old` if that will do."""
    if old is None:
        nothing: NDArray[Any] = np.empty(0, np.uint8)
        old = Reading(
            np.zeros((TABLES, TABLE_WORDS), np.int32),
            np.zeros((MOST_BLOCKS, 3), np.int32),
            np.zeros(FRAME_WORDS, np.int64),
            np.zeros((TABLES, 1 << WINDOW), np.int64),
            np.zeros(1 << WINDOW, np.int32),
            np.full((TABLES, TABLE_WORDS), -2, np.int32),
            np.zeros(64, np.int16),
            np.zeros(SCAN_WORDS, np.int64),
            nothing.astype(np.int32),
            nothing,
            nothing,
            np.empty(0, np.int64),
        )
    if len(old.data) < bytes_ + READ_PAST:
        old = old._replace(
            stuffed=np.empty(bytes_ // 2 + 1, np.int32),
            data=np.zeros(bytes_ + READ_PAST, np.uint8),
            header=np.empty(bytes_, np.uint8),
        )
    if len(old.points) < points:
        old = old._replace(points=np.empty(points, np.int64))
    return old


@entry
def find_entries(data, sides, most, reading):  # type: ignore[no-untyped-def]
    """Read all codes of a JPEG, and note where MCUs begin: each n-th of a row.

    Args:
        data: uint8[...], the file.
        sides: height and width that it should have, px.
        most: how many points there may be at most, and `reading` has room for.
        reading: a Reading that fits.

    Returns:
        n, and how many points there are in `reading.points`: of each row of MCUs, then one for the
        end. 0 and 0 for a file that is not sound to the last bit, or of another kind than `huffman`
        knows, or of more rows than there may be points.
    """
    frame = reading.frame
    if not read_whole(data, sides, reading):
        return 0, 0
    high, wide = frame[MCUS_HIGH], frame[MCUS_WIDE]
    per_row = (most - 1) // high
    if per_row < 1:
        return 0, 0
    step = max(np.int64(_LEAST_STEP), -(-wide // per_row))
    size, zeros = unstuff(data, frame[DATA_AT], reading)
    count = _read_codes(reading, size, high, wide, step) if size else 0
    if count:
        _find_bytes(reading, count, zeros, frame[DATA_AT])
    return (step, count) if count else (0, 0)


@inner
def read_whole(data, sides, reading):  # type: ignore[no-untyped-def]
    """Read a file's header, and fill in lookups of its codes; whether it is of the common kind."""
    frame, tables, last = reading.frame, reading.tables, reading.last
    if len(data) >= MOST_BYTES or not read_frame(data, tables, reading.blocks, frame):
        return False
    if frame[HEIGHT] != sides[0] or frame[WIDTH] != sides[1]:
        return False
    for block in range(frame[BLOCKS]):
        for column in range(DC, AC + 1):
            which, same = reading.blocks[block, column], True
            for word in range(TABLE_WORDS):  # as of the image before, or the block before
                same = same and tables[which, word] == last[which, word]
                last[which, word] = tables[which, word]
            if not same:
                fill_lookups(tables, which, reading.singles, reading.lookups)
    return True


@inner
def unstuff(data, first, reading):  # type: ignore[no-untyped-def]
    """Copy the data without the zeros behind bytes of ones; gives their size, and how many zeros.

    The size is 0 where anything but the end of the image follows them.
    """
    source, target = data.ctypes.data, reading.data.ctypes.data
    at, end, size, zeros = first, len(data), 0, 0
    while True:
        found = find_byte(source + at, 0xFF, end - at)
        if not found or found - source + 1 >= end:
            return 0, 0
        count = found - source - at
        copy_bytes(target + size, source + at, count)
        at, size = at + count + 2, size + count
        behind = data[at - 1]
        if behind == 0xD9:
            for word in range(0, READ_PAST, 8):
                store_bits(target + size + word, 0)
            return size, zeros
        if behind:
            return 0, 0
        reading.data[size] = 0xFF
        reading.stuffed[zeros] = size
        size, zeros = size + 1, zeros + 1


@inner
def _read_codes(reading, size, high, wide, step):  # type: ignore[no-untyped-def]
    """Read all codes; note points, whose bytes are those of the data without zeros.

    Returns:
        How many points; 0 if the data are not sound.
    """
    source, points, blocks = reading.data.ctypes.data, reading.points, reading.blocks
    lookups, tables = reading.lookups.ctypes.data, reading.tables.ctypes.data
    nothing, count_of_blocks = reading.nothing.ctypes.data, reading.frame[BLOCKS]
    place, end, count = np.int64(0), np.int64(8 * size), 0
    first = second = third = np.int64(0)
    for _ in range(high):
        for column in range(wide):
            if column % step == 0:
                if not _note(points, count, place, first, second, third):
                    return 0
                count += 1
            for block in range(count_of_blocks):
                component, dc, ac = blocks[block, COMPONENT], blocks[block, DC], blocks[block, AC]
                place, difference = read_block(source, place, lookups, tables, dc, ac, nothing)
                if component == 0:
                    first += difference
                elif component == 1:
                    second += difference
                else:
                    third += difference
                if place < 0:
                    return 0
            if place > end:
                return 0
    is_noted = _note(points, count, place, first, second, third)
    return count + 1 if is_noted and end - place < 8 else 0


@inner
def _note(points, at, place, first, second, third):  # type: ignore[no-untyped-def]
    """Write a point; whether its numbers are those of sound data."""
    word = place
    for value in (first, second, third):
        if not -(1 << (_DC_BITS - 1)) <= value < 1 << (_DC_BITS - 1):
            return False
        word = word << _DC_BITS | (value & ((1 << _DC_BITS) - 1))
    points[at] = word
    return True


@inner
def place_of(point):  # type: ignore[no-untyped-def]
    """The bit of the file where an entry point's MCU begins."""
    return np.int64(np.uint64(point) >> np.uint64(_PLACE))


@inner
def dc_before(point, component):  # type: ignore[no-untyped-def]
    """The DC coefficient of a component in the MCU before an entry point."""
    return point << (64 - _PLACE + _DC_BITS * component) >> (64 - _DC_BITS)


@inner
def _find_bytes(reading, count, stuffed, first):  # type: ignore[no-untyped-def]
    """Turn places in the data without zeros into places in the file."""
    points, zeros = reading.points, 0
    for point in range(count):
        while zeros < stuffed and reading.stuffed[zeros] < place_of(points[point]) >> 3:
            zeros += 1
        points[point] += 8 * (zeros + first) << _PLACE
