"""Cuts a JPEG down to the MCUs that a crop shows, by its entry points, without decoding it.

What is written is a JPEG, for libjpeg to decode as any other: the header with another size, then
row by row the codes of some MCUs, as they are. Only the DC coefficients of a row's first MCU are
coded anew, as they are differences from an MCU before it, which is another one now.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipelines.kernels.bits import copy_bytes, find_byte, load_bits, store_bits
from pipelines.kernels.compiled import entry, inner
from pipelines.kernels.entries import DC0, PLACE
from pipelines.kernels.huffman import (
    AC,
    BLOCKS,
    COMPONENT,
    COUNTS,
    DATA_AT,
    DC,
    FRAME_AT,
    FRAME_WORDS,
    HEIGHT,
    MCU_HEIGHT,
    MCU_WIDTH,
    MCUS_HIGH,
    MCUS_WIDE,
    MOST_BLOCKS,
    READ_PAST,
    SCAN_AT,
    TABLE_WORDS,
    TABLES,
    VALUES,
    WIDTH,
    WINDOW,
    pass_block,
    read_dc,
    read_frame,
)

#: Bits that are copied at once: with up to 7 that wait, within a word.
_AT_ONCE = 48
#: DC coefficients differ by so many bits at most, and none.
CATEGORIES = 12
#: Places in `Cutting.written`.
WAITING, HELD, SIZE = 0, 1, 2
#: Bytes of four DC tables in a header.
_HEADER = 4 * (4 + 17 + 256)
#: Zeros behind the end: libjpeg reads fast as long as there are 512 bytes for each block of an MCU.
_PADDING = 512 * MOST_BLOCKS + 64
_TABLE_BYTES = 4 * TABLE_WORDS
_APP0, _APP14, _APP15, _COM = 0xE0, 0xEE, 0xEF, 0xFE


class Cutting(NamedTuple):
    """Entry points of one image, and the scratch of one thread that cuts by them.

    Attributes:
        step: MCUs between points; 0 for an image without.
        points: int32[..., POINT_WORDS], see `entries.find_entries`.
        tables, blocks, frame: see `huffman.read_frame`.
        dc: int64[4, 2, CATEGORIES], of the DC tables codes and their lengths, 0 for none.
        before: int64[3], the DC coefficients of the MCU that is written last.
        written: uint64[3], of `joined`: bits that wait for a whole byte, lowest last, how many
            they are, and the bytes before them.
        none: int32[1 << WINDOW], codes that are not looked up, as few are read here.
        codes: uint8[...], a row's codes without the zeros that follow bytes of ones.
        joined: uint8[...], all rows' codes.
        file: uint8[...], the JPEG.
    """

    step: int
    points: NDArray[np.int32]
    tables: NDArray[np.int32]
    blocks: NDArray[np.int32]
    frame: NDArray[np.int64]
    dc: NDArray[np.int64]
    before: NDArray[np.int64]
    written: NDArray[np.uint64]
    none: NDArray[np.int32]
    codes: NDArray[np.uint8]
    joined: NDArray[np.uint8]
    file: NDArray[np.uint8]


def fit_cutting(
    old: Cutting | None, bytes_: int, step: int = 0, points: NDArray[np.int32] | None = None
) -> Cutting:
    """Scratch for a file of so many bytes, and its points; `old`'s if that is large enough."""
    if old is None:
        nothing = np.empty(0, np.uint8)
        old = Cutting(
            0,
            np.empty((0, 4), np.int32),
            np.zeros((TABLES, TABLE_WORDS), np.int32),
            np.zeros((MOST_BLOCKS, 3), np.int32),
            np.zeros(FRAME_WORDS, np.int64),
            np.zeros((4, 2, CATEGORIES), np.int64),
            np.zeros(3, np.int64),
            np.zeros(3, np.uint64),
            np.zeros(1 << WINDOW, np.int32),
            nothing,
            nothing,
            nothing,
        )
    if step and len(old.codes) < bytes_ + READ_PAST:
        longer = bytes_ + READ_PAST
        old = old._replace(
            codes=np.zeros(longer, np.uint8),
            joined=np.empty(2 * longer, np.uint8),
            file=np.empty(5 * longer + _HEADER + _PADDING, np.uint8),
        )
    return old._replace(step=step, points=old.points[:0] if points is None else points)


@entry
def cut_jpeg(data, sides, region, cutting):  # type: ignore[no-untyped-def]
    """Cut a JPEG down to the MCUs of a region.

    Args:
        data: uint8[...], the file that the points are of.
        sides: its height and width, px.
        region: top, left, bottom and right of what is to be there, px, within the image.
        cutting: a Cutting that fits.

    Returns:
        How many bytes of `cutting.file` it takes, with zeros behind its end; its top, left, height
        and width in the image, px. 0 bytes if it cannot be had.
    """
    frame, step = cutting.frame, cutting.step
    nothing = 0, 0, 0, 0, 0
    if not read_frame(data, cutting.tables, cutting.blocks, frame):
        return nothing
    if frame[HEIGHT] != sides[0] or frame[WIDTH] != sides[1]:
        return nothing
    high, wide = frame[MCU_HEIGHT], frame[MCU_WIDTH]
    per_row = -(-frame[MCUS_WIDE] // step)
    if len(cutting.points) != per_row * frame[MCUS_HIGH] + 1:
        return nothing
    top, left, bottom, right = region
    first_row, last_row = top // high, min(-(-bottom // high), frame[MCUS_HIGH])
    first, last = left // (wide * step), min(-(-right // (wide * step)), per_row)
    size = _join_rows(data, cutting, per_row, first_row, last_row, first, last)
    if not size:
        return nothing
    top, left = first_row * high, first * step * wide
    height = min(last_row * high, frame[HEIGHT]) - top
    width = min(last * step * wide, frame[WIDTH]) - left
    begin = _write_header(data, cutting, height, width)
    return _stuff(cutting, size, begin), top, left, height, width


@inner
def _join_rows(data, cutting, per_row, first_row, last_row, first, last):  # type: ignore[no-untyped-def]
    """Write the codes of some MCUs; gives how many bytes, or 0 if they cannot be coded so.

    Args:
        data: the file.
        cutting: a Cutting; its `joined` is written.
        per_row: points of a row.
        first_row, last_row: rows of MCUs.
        first, last: points in each of them.
    """
    points, written, before = cutting.points, cutting.written, cutting.before
    for table in range(4):
        _fill_dc(cutting, table)
    for word in range(3):
        written[word], before[word] = 0, 0
    for row in range(first_row, last_row):
        begin, end = row * per_row + first, row * per_row + last
        place, last_place = np.int64(points[begin, PLACE]), np.int64(points[end, PLACE])
        if not 0 <= place <= last_place <= 8 * len(data):
            return 0
        start, behind = place >> 3, (last_place + 7) >> 3
        if np.int64(written[SIZE]) + 2 * (behind - start) + 64 > len(cutting.joined):
            return 0
        last_place -= 8 * (start + _unstuff(data, start, behind, cutting))
        copied = _join_first(cutting, begin, last_place)
        if copied < 0:
            return 0
        _copy(cutting, copied, last_place)
        for component in range(3):
            before[component] = points[end, DC0 + component]
    size, held = np.int64(written[SIZE]), np.int64(written[HELD])
    if held:
        _put(cutting, np.uint64((1 << (8 - held)) - 1), 8 - held)
        size += 1
    return size


@inner
def _join_first(cutting, begin, last_place):  # type: ignore[no-untyped-def]
    """Write a row's first MCU as far as the last DC coefficient that is coded anew.

    Args:
        cutting: its `codes` hold the row, its `before` the coefficients of the MCU before it now.
        begin: the row's point.
        last_place: the bit behind the row.

    Returns:
        The bit of the row behind what is written; -1 if it cannot be coded so.
    """
    source, dc = cutting.codes.ctypes.data, cutting.dc
    none, tables = cutting.none.ctypes.data, cutting.tables.ctypes.data
    points, before = cutting.points, cutting.before
    copied = place = np.int64(points[begin, PLACE] & 7)
    seen = 0
    for block in range(cutting.frame[BLOCKS]):
        component, which = cutting.blocks[block, COMPONENT], cutting.blocks[block, DC]
        here = place
        place, difference = read_dc(source, place, none, tables + which * _TABLE_BYTES)
        if place < 0:
            return np.int64(-1)
        if seen & (1 << component) == 0:
            seen |= 1 << component
            _copy(cutting, copied, here)
            copied = place
            difference += points[begin, DC0 + component] - before[component]
            category = _category(difference)
            if category >= CATEGORIES or dc[which, 1, category] == 0:
                return np.int64(-1)
            if difference < 0:
                difference += (1 << category) - 1
            bits = (dc[which, 0, category] << category) | difference
            _put(cutting, np.uint64(bits), dc[which, 1, category] + category)
        table = tables + cutting.blocks[block, AC] * _TABLE_BYTES
        place = pass_block(source, place, none, table)
        if place < 0 or place > last_place:
            return np.int64(-1)
    return copied


@inner
def _put(cutting, bits, count):  # type: ignore[no-untyped-def]
    """Write at most 48 bits behind what is joined."""
    written = cutting.written
    waiting = (written[WAITING] << np.uint64(count)) | bits
    held = np.int64(written[HELD]) + count
    store_bits(
        cutting.joined.ctypes.data + np.int64(written[SIZE]), waiting << np.uint64(64 - held)
    )
    written[WAITING] = waiting
    written[SIZE] += np.uint64(held >> 3)
    written[HELD] = np.uint64(held & 7)


@inner
def _copy(cutting, place, end):  # type: ignore[no-untyped-def]
    """Write a row's bits from `place` to `end` behind what is joined."""
    written, source = cutting.written, cutting.codes.ctypes.data
    target = cutting.joined.ctypes.data + np.int64(written[SIZE])
    waiting, held = written[WAITING], np.int64(written[HELD])
    size = np.int64(0)
    while place < end:
        count = min(end - place, _AT_ONCE)
        word = load_bits(source + (place >> 3)) << np.uint64(place & 7)
        waiting = (waiting << np.uint64(count)) | (word >> np.uint64(64 - count))
        held += count
        store_bits(target + size, waiting << np.uint64(64 - held))
        size, held, place = size + (held >> 3), held & 7, place + count
    written[WAITING], written[HELD] = waiting, np.uint64(held)
    written[SIZE] += np.uint64(size)


@inner
def _fill_dc(cutting, table):  # type: ignore[no-untyped-def]
    """Find each category's code in a DC table, and give one of 16 bits to those that have none.

    An optimized table lacks what an image does not need, but its crop may: a first coefficient.

    Args:
        cutting: its `dc` is written; new codes and their values are added to its `tables`.
        table: which.
    """
    tables, codes = cutting.tables, cutting.dc
    for value in range(CATEGORIES):
        codes[table, 0, value] = codes[table, 1, value] = 0
    code = known = 0
    for length in range(1, 17):
        code <<= 1
        for _ in range(tables[table, COUNTS + length]):
            value = tables[table, VALUES + known]
            if value < CATEGORIES:
                codes[table, 0, value], codes[table, 1, value] = code, length
            code, known = code + 1, known + 1
    for value in range(CATEGORIES):
        # The code of all ones is never used.
        if known and codes[table, 1, value] == 0 and code < 0xFFFF and known < 256:
            codes[table, 0, value], codes[table, 1, value] = code, 16
            tables[table, COUNTS + 16] += 1
            tables[table, VALUES + known] = value
            code, known = code + 1, known + 1
    tables[table, COUNTS] = known


@inner
def _category(difference):  # type: ignore[no-untyped-def]
    """How many bits a difference takes behind its code."""
    size, bits = abs(difference), 0
    while size:
        size, bits = size >> 1, bits + 1
    return bits


@inner
def _unstuff(data, begin, end, cutting):  # type: ignore[no-untyped-def]
    """Copy some of the data without the zeros behind bytes of ones; gives how many zeros."""
    source, target = data.ctypes.data, cutting.codes.ctypes.data
    at, size, zeros = begin, 0, 0
    while at < end:
        found = find_byte(source + at, 0xFF, end - at)
        count = found - source + 1 - at if found else end - at
        copy_bytes(target + size, source + at, count)
        at, size = at + count, size + count
        if found and at < end:  # else the zero is not of these
            at, zeros = at + 1, zeros + 1
    return zeros


@inner
def _stuff(cutting, size, begin):  # type: ignore[no-untyped-def]
    """Write the joined codes with those zeros, and the end; gives the bytes of the file."""
    source, target = cutting.joined.ctypes.data, cutting.file.ctypes.data
    at, to = 0, begin
    while at < size:
        found = find_byte(source + at, 0xFF, size - at)
        count = found - source + 1 - at if found else size - at
        copy_bytes(target + to, source + at, count)
        at, to = at + count, to + count
        if found:
            cutting.file[to] = 0
            to += 1
    cutting.file[to], cutting.file[to + 1] = 0xFF, 0xD9
    for word in range(0, _PADDING, 8):
        store_bits(target + to + 2 + word, 0)
    return to + 2 + _PADDING


@inner
def _write_tables(cutting, to):  # type: ignore[no-untyped-def]
    """Write the DC tables behind a part of the file, with the codes that were added to them."""
    file = cutting.file
    for table in range(4):
        known = cutting.tables[table, COUNTS]
        if known == 0:
            continue
        size = 2 + 1 + 16 + known
        file[to], file[to + 1] = 0xFF, 0xC4
        file[to + 2], file[to + 3], file[to + 4] = size >> 8, size & 0xFF, table
        for length in range(1, 17):
            file[to + 4 + length] = cutting.tables[table, COUNTS + length]
        for value in range(known):
            file[to + 21 + value] = cutting.tables[table, VALUES + value]
        to += 2 + size
    return to


@inner
def _write_header(data, cutting, height, width):  # type: ignore[no-untyped-def]
    """Write the header for an image of another size; gives its bytes.

    What only people and printers read is left out.
    """
    frame, source, target = cutting.frame, data.ctypes.data, cutting.file.ctypes.data
    copy_bytes(target, source, 2)
    at, to = 2, 2
    while at < frame[DATA_AT]:
        marker = data[at + 1]
        if at == frame[SCAN_AT]:
            to = _write_tables(cutting, to)
        count = 2 + (np.int64(data[at + 2]) << 8) + data[at + 3]
        is_spared = marker == _COM or (_APP0 < marker <= _APP15 and marker != _APP14)
        if not is_spared:
            copy_bytes(target + to, source + at, count)
            if at == frame[FRAME_AT]:
                cutting.file[to + 5], cutting.file[to + 6] = height >> 8, height & 0xFF
                cutting.file[to + 7], cutting.file[to + 8] = width >> 8, width & 0xFF
            to += count
        at += count
    return to
