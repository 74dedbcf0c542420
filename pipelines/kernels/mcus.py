"""libjpeg's MCUs, read by `huffman` in its stead: those that a crop shows, or all in a row.

libjpeg asks a function of its own for each MCU's coefficients (`decode_mcu` in jpegint.h). For
common files it is given this one, and does all the rest as ever: the inverse DCT, upsampling, and
colours are the same. By entry points it is told of an image that is no larger than the part that a
crop shows: of the file it is given the header alone, with another size.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numba.extending import intrinsic

from pipelines.kernels.bits import (
    copy_bytes,
    find_byte,
    load_int,
    load_word,
    store_short,
    store_word,
)
from pipelines.kernels.compiled import entry, inner
from pipelines.kernels.entries import dc_before, place_of, read_whole, unstuff
from pipelines.kernels.huffman import (
    AC,
    BLOCKS,
    COMPONENT,
    DATA_AT,
    DC,
    FRAME_AT,
    HEIGHT,
    MCU_HEIGHT,
    MCU_WIDTH,
    MCUS_HIGH,
    MCUS_WIDE,
    WIDTH,
    read_block,
)
from pipelines.kernels.libjpeg import CLIENT_DATA_64, SCAN, define_called

#: Words of a scan. Addresses: of the data of a row or of all, without stuffed zeros; of the blocks,
#: lookups and tables of a Reading, and of its block that nobody looks at. Then the bit where the
#: next MCU begins, and the one behind the data; whether all were sound; MCUs of a row that have
#: been passed, and how many it has; the first and last of a row that libjpeg needs; how many are
#: left of all; blocks of an MCU; its width, px.
(
    SOURCE,
    BLOCKS_AT,
    LOOKUPS,
    TABLES_AT,
    NOTHING,
    BIT,
    END,
    SOUND,
    COLUMN,
    COLUMNS,
    FIRST_NEEDED,
    LAST_NEEDED,
    LEFT,
    COUNT,
    MCU_PX,
) = range(15)
#: Where it is begun by entry points: addresses of the file and of the points (0 for all in a row);
#: the file's bytes; the point where the next row begins, how many a row has, and how many of them
#: are read. Then the DC coefficients of three components in the MCU before.
FILE, POINTS, BYTES, POINT, PER_ROW, IN_ROW, BEFORE = range(15, 22)
#: A sum of DC coefficients, which libjpeg gives up beyond 32 bits.
_MOST_DC = 1 << 30
#: A row has no more MCUs.
_MOST_MCUS = 1 << 13
_APP0, _APP14, _APP15, _COM = 0xE0, 0xEE, 0xEF, 0xFE
_compiled: Any = intrinsic  # whose annotations hide what numba adds to the arguments


@entry
def begin_part(data, sides, region, step, points, reading):  # type: ignore[no-untyped-def]
    """Prepare to read the MCUs of a region by entry points.

    Args:
        data: uint8[...], the file that the points are of.
        sides: its height and width, px.
        region: top, left, bottom and right of what is to be there, px, within the image.
        step: MCUs between points.
        points: int64[...], see `entries.find_entries`.
        reading: a Reading that fits the file.

    Returns:
        How many bytes of `reading.header` libjpeg is to be given; the top, left, height and width
        of what it then decodes, px of the image. 0 bytes if it cannot be had.
    """
    frame, scan = reading.frame, reading.scan
    nothing = 0, 0, 0, 0, 0
    if not 1 <= step <= _MOST_MCUS or not read_whole(data, sides, reading):
        return nothing
    high, wide = frame[MCU_HEIGHT], frame[MCU_WIDTH]
    per_row = -(-frame[MCUS_WIDE] // step)
    if len(points) != per_row * frame[MCUS_HIGH] + 1:
        return nothing
    top, left, bottom, right = region
    first_row, last_row = top // high, min(-(-bottom // high), frame[MCUS_HIGH])
    first, last = left // (wide * step), min(-(-right // (wide * step)), per_row)
    top, left = first_row * high, first * step * wide
    height = min(last_row * high, frame[HEIGHT]) - top
    width = min(last * step * wide, frame[WIDTH]) - left
    if height < 1 or width < 1:
        return nothing
    _begin(reading, last_row - first_row, -(-width // wide))
    scan[FILE], scan[POINTS], scan[BYTES] = data.ctypes.data, points.ctypes.data, len(data)
    scan[POINT], scan[PER_ROW], scan[IN_ROW] = first_row * per_row + first, per_row, last - first
    return _write_header(data, reading, height, width), top, left, height, width


@entry
def begin_whole(data, sides, reading):  # type: ignore[no-untyped-def]
    """Prepare to read all MCUs.

    Args:
        data: uint8[...], the file.
        sides: its height and width, px.
        reading: a Reading that fits the file.

    Returns:
        How many bytes of the file libjpeg is to be given, its header; 0 if it is of another kind
        than `huffman` knows.
    """
    frame, scan = reading.frame, reading.scan
    if not read_whole(data, sides, reading):
        return 0
    size, _ = unstuff(data, frame[DATA_AT], reading)
    if not size:
        return 0
    _begin(reading, frame[MCUS_HIGH], frame[MCUS_WIDE])
    scan[SOURCE], scan[END] = reading.data.ctypes.data, 8 * size
    return frame[DATA_AT]


@inner
def _begin(reading, high, wide):  # type: ignore[no-untyped-def]
    """Fill in a scan of so many MCUs."""
    scan = reading.scan
    for word in range(len(scan)):
        scan[word] = 0
    scan[SOURCE] = reading.data.ctypes.data
    scan[BLOCKS_AT], scan[LOOKUPS] = reading.blocks.ctypes.data, reading.lookups.ctypes.data
    scan[TABLES_AT], scan[NOTHING] = reading.tables.ctypes.data, reading.nothing.ctypes.data
    scan[SOUND], scan[COLUMN], scan[COLUMNS] = 1, wide, wide
    scan[LAST_NEEDED], scan[LEFT] = wide - 1, high * wide
    scan[COUNT], scan[MCU_PX] = reading.frame[BLOCKS], reading.frame[MCU_WIDTH]


@inner
def need(scan, first, last):  # type: ignore[no-untyped-def]
    """Take note of the columns of pixels, of the whole size, that libjpeg makes of each row.

    Args:
        scan: address of a scan.
        first, last: the first one, and the one behind the last.
    """
    wide = load_word(scan, MCU_PX)
    store_word(scan, FIRST_NEEDED, first // wide)
    store_word(scan, LAST_NEEDED, (last - 1) // wide)


@inner
def is_sound(scan, whole):  # type: ignore[no-untyped-def]
    """Whether all that was read is sound; if `whole`, all that is left as well.

    Args:
        scan: address of a scan.
        whole: read MCUs in a row to the last.
    """
    if whole and not load_word(scan, POINTS):
        while load_word(scan, SOUND) and load_word(scan, LEFT) > 0:
            store_word(scan, LEFT, load_word(scan, LEFT) - 1)
            _read(scan, 0)
        if load_word(scan, END) - load_word(scan, BIT) >= 8:
            return False
    return load_word(scan, SOUND) != 0


@inner
def _decode(image, target):  # type: ignore[no-untyped-def]
    """Write an MCU's coefficients.

    Args:
        image: address of libjpeg's decompressor, whose client data are a thread's state.
        target: address of the addresses of an MCU's blocks, int16[64] of zeros each; 0 where
            libjpeg passes it over.
    """
    scan = load_word(load_word(image, CLIENT_DATA_64), SCAN)
    column, by_points = load_word(scan, COLUMN), load_word(scan, POINTS) != 0
    left = load_word(scan, LEFT) - 1
    store_word(scan, LEFT, left)
    if left < 0:  # another libjpeg than the known ones
        store_word(scan, SOUND, 0)
        return 1
    if column == load_word(scan, COLUMNS):
        column = 0
        _begin_row(scan, by_points, target != 0)
    store_word(scan, COLUMN, column + 1)
    needed = column <= load_word(scan, LAST_NEEDED) and target != 0
    if load_word(scan, SOUND) and (needed or not by_points):
        _read(scan, target if needed and column >= load_word(scan, FIRST_NEEDED) else 0)
    return 1


@inner
def _read(scan, target):  # type: ignore[no-untyped-def]
    """Read an MCU to its blocks, see `_decode`."""
    place, blocks = load_word(scan, BIT), load_word(scan, BLOCKS_AT)
    source, end = load_word(scan, SOURCE), load_word(scan, END)
    lookups, tables = load_word(scan, LOOKUPS), load_word(scan, TABLES_AT)
    for number in range(load_word(scan, COUNT) if place <= end else 0):
        block = load_word(target, number) if target else load_word(scan, NOTHING)
        before = BEFORE + load_int(blocks, 3 * number + COMPONENT)
        dc, ac = load_int(blocks, 3 * number + DC), load_int(blocks, 3 * number + AC)
        place, difference = read_block(source, place, lookups, tables, dc, ac, block)
        if place < 0:
            break
        value = load_word(scan, before) + difference
        store_word(scan, before, value)
        store_short(block, 0, value)
    store_word(scan, BIT, place)
    if not 0 <= place <= end:
        store_word(scan, SOUND, 0)


@inner
def _begin_row(scan, by_points, is_read):  # type: ignore[no-untyped-def]
    """Go to the next row of MCUs; by entry points to its data, if it is read."""
    for component in range(3):
        if abs(load_word(scan, BEFORE + component)) > _MOST_DC:
            store_word(scan, SOUND, 0)
    if not by_points:
        return
    begin = load_word(scan, POINT)
    end = begin + load_word(scan, IN_ROW)
    store_word(scan, POINT, begin + load_word(scan, PER_ROW))
    points, file = load_word(scan, POINTS), load_word(scan, FILE)
    point = load_word(points, begin)
    place, last = place_of(point), place_of(load_word(points, end))
    if not 0 <= place <= last <= 8 * load_word(scan, BYTES):
        store_word(scan, SOUND, 0)
    elif is_read:
        start = place >> 3
        zeros = _copy(file, start, (last + 7) >> 3, load_word(scan, SOURCE))
        store_word(scan, BIT, place & 7)
        store_word(scan, END, last - 8 * (start + zeros))
        for component in range(3):
            store_word(scan, BEFORE + component, dc_before(point, component))


@inner
def _copy(file, begin, end, target):  # type: ignore[no-untyped-def]
    """Copy some of the data without the zeros behind bytes of ones; gives how many zeros."""
    at, size, zeros = begin, 0, 0
    while at < end:
        found = find_byte(file + at, 0xFF, end - at)
        count = found - file + 1 - at if found else end - at
        copy_bytes(target + size, file + at, count)
        at, size = at + count, size + count
        if found and at < end:  # else the zero is not of these
            at, zeros = at + 1, zeros + 1
    return zeros


@inner
def _write_header(data, reading, height, width):  # type: ignore[no-untyped-def]
    """Write the header for an image of another size; gives its bytes.

    What only people and printers read is left out.
    """
    frame, header = reading.frame, reading.header
    source, target = data.ctypes.data, header.ctypes.data
    copy_bytes(target, source, 2)
    at, to = 2, 2
    while at < frame[DATA_AT]:
        marker = data[at + 1]
        count = 2 + (np.int64(data[at + 2]) << 8) + data[at + 3]
        is_spared = marker == _COM or (_APP0 < marker <= _APP15 and marker != _APP14)
        if not is_spared:
            copy_bytes(target + to, source + at, count)
            if at == frame[FRAME_AT]:
                header[to + 5], header[to + 6] = height >> 8, height & 0xFF
                header[to + 7], header[to + 8] = width >> 8, width & 0xFF
            to += count
        at += count
    return to


@_compiled
def mcu_decoder(typing_context):  # type: ignore[no-untyped-def]
    """Address of what libjpeg is to call for an MCU."""

    def instructions(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return define_called(context, builder, "fastft_decode_mcu", _decode)

    return types.int64(), instructions
