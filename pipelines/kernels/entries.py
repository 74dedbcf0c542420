"""Entry points into a JPEG's data: found once by reading all codes, they let a crop begin anywhere.

To be decoded, a JPEG's data have to be read from their first bit, as each code's place depends on
all before it, and each DC coefficient on the one before. Who notes a few places, and the DC
coefficients there, may begin at any of them (`cutting`). Notes are taken only of data that are
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
    ENDED,
    FRAME_WORDS,
    HEIGHT,
    MCUS_HIGH,
    MCUS_WIDE,
    MOST_BLOCKS,
    PASSED,
    READ_PAST,
    TABLE_WORDS,
    TABLES,
    WIDTH,
    WINDOW,
    pass_block,
    read_code,
    read_dc,
    read_frame,
)

#: Columns of an entry point: the bit of the file where an MCU begins, and the DC coefficients of
#: three components in the MCU before.
PLACE, DC0, POINT_WORDS = 0, 1, 4
#: Bytes of a table of codes, and of the one that it is made of.
_CODES_BYTES, _TABLE_BYTES = 4 << WINDOW, 4 * TABLE_WORDS
#: Bytes of a file at most: places are 32 bits.
MOST_BYTES = 1 << 28


class Notes(NamedTuple):
    """The scratch of one thread that finds entry points; `fit_notes` makes it.

    Attributes:
        tables, blocks, frame: see `huffman.read_frame`.
        codes: int32[TABLES, 1 << WINDOW], one DC code, or AC codes.
        last: int32[TABLES, TABLE_WORDS], the tables that `codes` are of.
        stuffed: int32[...], the bytes of `data` behind which a zero was left out.
        data: uint8[...], the data without those.
        points: int32[..., POINT_WORDS].
    """

    tables: NDArray[np.int32]
    blocks: NDArray[np.int32]
    frame: NDArray[np.int64]
    codes: NDArray[np.int32]
    last: NDArray[np.int32]
    stuffed: NDArray[np.int32]
    data: NDArray[np.uint8]
    points: NDArray[np.int32]


def fit_notes(old: Notes | None, bytes_: int, points: int) -> Notes:
    """Scratch for a file of so many bytes and at most so many points: `old` if that will do."""
    if old is None:
        nothing: NDArray[Any] = np.empty(0, np.int32)
        old = Notes(
            np.zeros((TABLES, TABLE_WORDS), np.int32),
            np.zeros((MOST_BLOCKS, 3), np.int32),
            np.zeros(FRAME_WORDS, np.int64),
            np.zeros((TABLES, 1 << WINDOW), np.int32),
            np.full((TABLES, TABLE_WORDS), -2, np.int32),
            nothing,
            np.empty(0, np.uint8),
            nothing.reshape(0, POINT_WORDS),
        )
    if len(old.data) < bytes_ + READ_PAST:
        old = old._replace(
            data=np.zeros(bytes_ + READ_PAST, np.uint8),
            stuffed=np.empty(bytes_ // 2 + 1, np.int32),
        )
    if len(old.points) < points:
        old = old._replace(points=np.empty((points, POINT_WORDS), np.int32))
    return old


@entry
def find_entries(data, sides, most, notes):  # type: ignore[no-untyped-def]
    """Read all codes of a JPEG, and note where MCUs begin: each n-th of a row.

    Args:
        data: uint8[...], the file.
        sides: height and width that it should have, px.
        most: how many points there may be at most, and `notes` has room for.
        notes: a Notes that fits.

    Returns:
        n, a power of two, and how many points there are in `notes.points`: of each row of MCUs,
        then one for the end. 0 and 0 for a file that is not sound to the last bit, or of another
        kind than `huffman` knows, or of more rows than there may be points.
    """
    frame = notes.frame
    if len(data) >= MOST_BYTES or not read_frame(data, notes.tables, notes.blocks, frame):
        return 0, 0
    if frame[HEIGHT] != sides[0] or frame[WIDTH] != sides[1]:
        return 0, 0
    high, wide = frame[MCUS_HIGH], frame[MCUS_WIDE]
    step = 4
    while high * -(-wide // step) + 1 > most and step < wide:
        step *= 2
    if high * -(-wide // step) + 1 > most:
        return 0, 0
    size, zeros = _unstuff(data, frame[DATA_AT], notes)
    if not size:
        return 0, 0
    for block in range(frame[BLOCKS]):
        _fill_codes(notes, notes.blocks[block, DC], False)
        _fill_codes(notes, notes.blocks[block, AC], True)
    count = _read_codes(notes, size, high, wide, step)
    if count:
        _find_bytes(notes, count, zeros, frame[DATA_AT])
    return (step, count) if count else (0, 0)


@inner
def _unstuff(data, first, notes):  # type: ignore[no-untyped-def]
    """Copy the data without the zeros behind bytes of ones; gives their size, and how many zeros.

    The size is 0 where anything but the end of the image follows them.
    """
    source, target = data.ctypes.data, notes.data.ctypes.data
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
        notes.data[size] = 0xFF
        notes.stuffed[zeros] = size
        size, zeros = size + 1, zeros + 1


@inner
def _fill_codes(notes, which, is_ac):  # type: ignore[no-untyped-def]
    """Find what each window of bits stands for, unless it is known from the image before."""
    tables, last, same = notes.tables, notes.last, True
    for word in range(TABLE_WORDS):
        same = same and tables[which, word] == last[which, word]
        last[which, word] = tables[which, word]
    if same:
        return
    table = tables.ctypes.data + which * _TABLE_BYTES
    for window in range(1 << WINDOW):
        taken = passed = ended = 0
        while taken < WINDOW and not ended:
            rest = (window << taken & ((1 << WINDOW) - 1)) << (16 - WINDOW)
            length, value = read_code(rest, table)
            if taken + length > WINDOW:
                break
            size = value & 15
            if not is_ac:
                taken, passed, ended = length, value, 1
            elif size:  # whose bits may lie beyond the window
                taken, passed = taken + length + size, passed + (value >> 4) + 1
            elif value == 0xF0:
                taken, passed = taken + length, passed + 16
            elif value == 0:
                taken, ended = taken + length, 1
            else:
                break  # a code of progressive files
        notes.codes[which, window] = taken | passed << PASSED | (ENDED if ended else 0)


@inner
def _read_codes(notes, size, high, wide, step):  # type: ignore[no-untyped-def]
    """Read all codes; note points, whose bytes are those of the data without zeros.

    Returns:
        How many points; 0 if the data are not sound.
    """
    source, points, blocks = notes.data.ctypes.data, notes.points, notes.blocks
    codes, tables = notes.codes.ctypes.data, notes.tables.ctypes.data
    count_of_blocks = notes.frame[BLOCKS]
    place, end, count = np.int64(0), np.int64(8 * size), 0
    first = second = third = np.int64(0)
    for _ in range(high):
        for column in range(wide):
            if column % step == 0:
                _note(points, count, place, first, second, third)
                count += 1
            for block in range(count_of_blocks):
                component, dc, ac = blocks[block, COMPONENT], blocks[block, DC], blocks[block, AC]
                looked_up, table = codes + dc * _CODES_BYTES, tables + dc * _TABLE_BYTES
                place, difference = read_dc(source, place, looked_up, table)
                if component == 0:
                    first += difference
                elif component == 1:
                    second += difference
                else:
                    third += difference
                looked_up, table = codes + ac * _CODES_BYTES, tables + ac * _TABLE_BYTES
                place = pass_block(source, place, looked_up, table)
                if place < 0:
                    return 0
            if place > end:
                return 0
    _note(points, count, place, first, second, third)
    return count + 1 if end - place < 8 else 0


@inner
def _note(points, at, place, first, second, third):  # type: ignore[no-untyped-def]
    points[at, PLACE], points[at, DC0] = place, first
    points[at, DC0 + 1], points[at, DC0 + 2] = second, third


@inner
def _find_bytes(notes, count, stuffed, first):  # type: ignore[no-untyped-def]
    """Turn places in the data without zeros into places in the file."""
    points, zeros = notes.points, 0
    for point in range(count):
        while zeros < stuffed and notes.stuffed[zeros] < points[point, PLACE] >> 3:
            zeros += 1
        points[point, PLACE] += 8 * (zeros + first)
