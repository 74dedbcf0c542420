"""A baseline JPEG's header, as far as its entropy-coded data need it: tables, blocks, places.

Taken are common files alone: Huffman codes of 8-bit samples in a single scan of all components,
without restart markers. Anything else says so, and is decoded without this.
Source: ITU-T T.81, annexes B, C and F.
"""

from __future__ import annotations

import numpy as np

from pipelines.kernels.bits import load_bits, load_int
from pipelines.kernels.compiled import inner

#: Words of a Huffman table: for each length of codes, from 1 to 16 bits, how many there are (before
#: them, how many in all), the largest one (-1: none), and what to add to one for the place of its
#: value; then the values. Here and beside loops stand for slices, which take seconds to compile.
COUNTS, LARGEST, BEHIND, VALUES, TABLE_WORDS = 0, 17, 34, 51, 51 + 256
#: Tables of a file: DC 0 to 3, AC 0 to 3.
TABLES = 8
#: Blocks of an MCU at most, and words of each: component, DC table, AC table.
MOST_BLOCKS, COMPONENT, DC, AC = 10, 0, 1, 2
#: Words of a frame: height and width of the image, px; MCUs in each direction, and their height and
#: width, px; blocks of an MCU; the byte of the frame header, of the scan header, and the first of
#: the data.
(
    HEIGHT,
    WIDTH,
    MCUS_HIGH,
    MCUS_WIDE,
    MCU_HEIGHT,
    MCU_WIDTH,
    BLOCKS,
    FRAME_AT,
    SCAN_AT,
    DATA_AT,
    FRAME_WORDS,
) = range(11)
#: Bits that a table of codes is looked up by, and its words: the bits that codes take, the
#: coefficients that they pass (of a DC code, its value), whether a block ends; 0: look further.
WINDOW, TAKEN, PASSED, ENDED = 11, 0xFF, 8, 1 << 16
#: Bytes that may be read, and are ignored, behind the data: an MCU of the longest codes.
READ_PAST = MOST_BLOCKS * 64 * 4 + 8
_SOF0, _SOF1, _DHT, _SOS, _DQT, _DRI, _COM = 0xC0, 0xC1, 0xC4, 0xDA, 0xDB, 0xDD, 0xFE
_APP0, _APP15 = 0xE0, 0xEF


@inner
def read_frame(data, tables, blocks, frame):  # type: ignore[no-untyped-def]
    """Read a JPEG's header.

    Args:
        data: uint8[...], the file.
        tables: int32[TABLES, TABLE_WORDS], to be written.
        blocks: int32[MOST_BLOCKS, 3], to be written.
        frame: int64[FRAME_WORDS], to be written.

    Returns:
        Whether it is of the common kind.
    """
    size, at = len(data), 2
    for word in range(FRAME_WORDS):
        frame[word] = 0
    for table in range(TABLES):
        for length in range(17):
            tables[table, COUNTS + length], tables[table, LARGEST + length] = 0, -1
    if size < 4 or data[0] != 0xFF or data[1] != 0xD8:
        return False
    while at + 4 <= size and data[at] == 0xFF:
        marker = data[at + 1]
        length = (np.int64(data[at + 2]) << 8) + data[at + 3]
        if length < 2 or at + 2 + length > size:
            return False
        if marker == _DHT:
            if not _read_tables(data, at + 4, at + 2 + length, tables):
                return False
        elif marker == _SOF0 or marker == _SOF1:
            if frame[FRAME_AT]:
                return False
            frame[FRAME_AT] = at
        elif marker == _DRI:
            if length != 4 or data[at + 4] or data[at + 5]:
                return False
        elif marker == _SOS:
            frame[SCAN_AT], frame[DATA_AT] = at, at + 2 + length
            return frame[FRAME_AT] > 0 and _read_scan(data, tables, blocks, frame)
        elif not (marker == _DQT or marker == _COM or _APP0 <= marker <= _APP15):
            return False
        at += 2 + length
    return False


@inner
def _read_tables(data, at, end, tables):  # type: ignore[no-untyped-def]
    """Read the Huffman tables of a segment; whether they are sound."""
    while at < end:
        which = data[at]
        if at + 17 > end or which & 0xEF > 3:
            return False
        table, at = (which >> 4) * 4 + (which & 3), at + 1
        code = known = np.int64(0)
        for length in range(1, 17):
            count = np.int64(data[at + length - 1])
            tables[table, COUNTS + length], tables[table, BEHIND + length] = count, known - code
            code += count
            known += count
            if code > 1 << length or known > 256:
                return False
            tables[table, LARGEST + length] = code - 1 if count else -1
            code <<= 1
        at += 16
        if at + known > end:
            return False
        for value in range(known):
            tables[table, VALUES + value] = data[at + value]
        tables[table, COUNTS] = known
        at += known
    return True


@inner
def _read_scan(data, tables, blocks, frame):  # type: ignore[no-untyped-def]
    """Fit the frame header and the scan header together; whether both are of the common kind."""
    at, scan = frame[FRAME_AT] + 4, frame[SCAN_AT] + 4
    lengths = data[at - 1], data[scan - 1]
    if data[at - 2] or data[scan - 2] or not (lengths == (11, 8) or lengths == (17, 12)):
        return False
    count = np.int64(1 if lengths[0] == 11 else 3)
    if data[at] != 8 or data[at + 5] != count or data[scan] != count:
        return False
    frame[HEIGHT] = (np.int64(data[at + 1]) << 8) + data[at + 2]
    frame[WIDTH] = (np.int64(data[at + 3]) << 8) + data[at + 4]
    high = wide = np.int64(1)
    written = 0
    for component in range(count):
        own, chosen = at + 6 + 3 * component, scan + 1 + 2 * component
        across, down = data[own + 1] >> 4, data[own + 1] & 15
        dc, ac = data[chosen + 1] >> 4, data[chosen + 1] & 15
        if data[own] != data[chosen] or not (1 <= across <= 4 and 1 <= down <= 4):
            return False
        if dc > 3 or ac > 3 or (count == 1 and across * down > 1):
            return False
        if written + across * down > MOST_BLOCKS:
            return False
        if tables[dc, COUNTS] == 0 or tables[4 + ac, COUNTS] == 0:
            return False
        for _ in range(across * down):
            blocks[written, COMPONENT] = component
            blocks[written, DC], blocks[written, AC] = dc, 4 + ac
            written += 1
        high, wide = max(high, np.int64(down)), max(wide, np.int64(across))
    last = scan + 1 + 2 * count
    if data[last] != 0 or data[last + 1] != 63 or data[last + 2] != 0:
        return False
    if not (frame[HEIGHT] and frame[WIDTH]):
        return False
    frame[BLOCKS] = written
    frame[MCU_HEIGHT], frame[MCU_WIDTH] = 8 * high, 8 * wide
    frame[MCUS_HIGH] = -(-frame[HEIGHT] // (8 * high))
    frame[MCUS_WIDE] = -(-frame[WIDTH] // (8 * wide))
    return True


@inner
def read_code(window, table):  # type: ignore[no-untyped-def]
    """Read the code that 16 bits begin with.

    Args:
        window: the bits.
        table: address of an int32[TABLE_WORDS].

    Returns:
        Its length and value, or 17 and 0 for none.
    """
    length = 1
    while length <= 16 and (window >> (16 - length)) > load_int(table, LARGEST + length):
        length += 1
    if length > 16:
        return np.int64(17), np.int64(0)
    at = (window >> (16 - length)) + load_int(table, BEHIND + length)
    return np.int64(length), load_int(table, VALUES + at)


@inner
def read_dc(source, place, codes, table):  # type: ignore[no-untyped-def]
    """Read a block's DC coefficient.

    Args:
        source: address of the data, without zeros behind bytes of ones.
        place: bit where the block begins.
        codes: address of an int32[1 << WINDOW], what windows of bits stand for, see `WINDOW`.
        table: address of an int32[TABLE_WORDS], which tells of all others.

    Returns:
        The bit behind it, negative where there is no such code; what is added to the coefficient.
    """
    word = load_bits(source + (place >> 3)) << np.uint64(place & 7)
    found = load_int(codes, np.int64(word >> np.uint64(64 - WINDOW)))
    length, bits = found & TAKEN, (found >> PASSED) & 0xFF
    if not found:
        length, bits = read_code(np.int64(word >> np.uint64(48)), table)
    if length > 16 or bits > 11:
        return np.int64(-1), np.int64(0)
    if bits == 0:
        return place + length, np.int64(0)
    difference = np.int64((word << np.uint64(length)) >> np.uint64(64 - bits))
    if difference < 1 << (bits - 1):
        difference += 1 - (1 << bits)
    return place + length + bits, difference


@inner
def pass_block(source, place, codes, table):  # type: ignore[no-untyped-def]
    """Pass the AC coefficients of a block; gives the bit behind them, or -1 if they are unsound.

    Args:
        source, codes, table: as in `read_dc`.
        place: the bit behind the DC coefficient, or a negative number.
    """
    if place < 0:
        return np.int64(-1)
    at, size = np.int64(1), np.int64(0)
    while at < 64:
        word = load_bits(source + (place >> 3)) << np.uint64(place & 7)
        found = load_int(codes, np.int64(word >> np.uint64(64 - WINDOW)))
        passed = (found >> PASSED) & 0xFF
        if found and at + passed < 64:
            place += found & TAKEN
            if found >= ENDED:
                return place
            at += passed
            continue
        length, value = read_code(np.int64(word >> np.uint64(48)), table)
        size = value & 15
        if length > 16:
            return np.int64(-1)
        place += length + size
        if size:
            at += (value >> 4) + 1
        elif value == 0xF0:
            at += 16
        elif value:
            return np.int64(-1)
        else:
            return place
    return place if at == 64 and size else np.int64(-1)
